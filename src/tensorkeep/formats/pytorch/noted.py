"""What a PyTorch file has no place for: one JSON document in a member that torch passes over.

It is tensorkeep's notes (see tensorkeep.notes) with one field more, `"names": {FOUND: NAME}`, for
tensors that are called otherwise than the nesting would call them. What a reader finds by itself is
not noted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from tensorkeep.dtypes import UINT8, DType
from tensorkeep.errors import CorruptError
from tensorkeep.formats.pytorch.nesting import picklable
from tensorkeep.formats.pytorch.rebuilding import ALLOWED
from tensorkeep.formats.pytorch.tensors import Tensors
from tensorkeep.notes import KEY, VERSION, Notes, parse_notes
from tensorkeep.source import MemorySource
from tensorkeep.state import MAX_TENSORS, Json, State
from tensorkeep.tensor import Tensor
from tensorkeep.tree.pickled import nest_pickled
from tensorkeep.wire.pickle.machine import read_pickle
from tensorkeep.wire.pickle.writing import Persistent, dump
from tensorkeep.wire.text import dump_json, parse_json

NOTES = f".data/{KEY}.json"
_NAMES = "names"

Value = TypeVar("Value")


def note(state: State, stored: dict[str, tuple[DType, tuple[int, ...]]]) -> bytes:
    """Write the document; empty where there is nothing to note."""
    skeleton, names = dict(state.skeleton or {}), {}
    if "tree" in skeleton:
        found, tree = _read_back(state)
        names = {place: name for place, name in found.items() if place != name}
        if tree == {"tree": skeleton["tree"]}:
            del skeleton["tree"]
    text = Notes(state.metadata, skeleton or None, stored).dump()
    if names:
        text = dump_json({"version": VERSION, **json.loads(text or "{}"), _NAMES: names})
    return text.encode()


def _read_back(state: State) -> tuple[dict[str, str], dict[str, Json] | None]:
    """Give the names of tensors by what a reader would call them, and the nesting it would find."""
    stubs = {name: Tensor(UINT8, (0,), MemorySource(b"")) for name in state}
    data = dump(picklable(state, Persistent))
    value = read_pickle(data, "", allowed=ALLOWED, persistent=stubs.__getitem__).value
    nested = nest_pickled(value, Tensors("", 0).look, "")
    names = {id(stub): name for name, stub in stubs.items()}
    return {place: names[id(stub)] for place, stub in nested.tensors.items()}, nested.skeleton


class Noted(NamedTuple):
    """The document, parsed: notes, and the names of tensors by what the nesting calls them."""

    notes: Notes
    names: dict[str, str]


def read_note(document: bytes, where: str) -> Noted:
    """Read the document.

    Raises:
        CorruptError: it is damaged.
        UnsupportedError: it was written by a later version with a meaning not known here.
    """
    notes = parse_notes(document, where)
    parsed: Any = parse_json(document, where, "tensorkeep metadata", most=4 * MAX_TENSORS)
    names = parsed.get(_NAMES, {}) if isinstance(parsed, dict) else None
    if not isinstance(names, dict) or not all(type(name) is str for name in names.values()):
        raise CorruptError("the names in its tensorkeep metadata are none", where=where)
    return Noted(notes, names)


def renamed(values: Mapping[str, Value], names: Mapping[str, str], where: str) -> dict[str, Value]:
    """Give values under the names that are noted for those that they go by.

    Raises:
        CorruptError: two would have the same name.
    """
    found = {names.get(name, name): value for name, value in values.items()}
    if len(found) != len(values):
        raise CorruptError("its tensorkeep metadata give two tensors one name", where=where)
    return found
