"""From what the pickle of a PyTorch file holds to a State, whatever the layout of the file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from tensorkeep.formats.pytorch.noted import Noted, renamed
from tensorkeep.formats.pytorch.tensors import Tensors
from tensorkeep.notes import Notes
from tensorkeep.state import Json, State
from tensorkeep.tensor import Tensor
from tensorkeep.tree.pickled import nest_pickled
from tensorkeep.wire.pickle.machine import Unpickled

VERSIONS = "state_dict_metadata"
_FIRST = {"version": 1}  # what torch takes a module without a version for
_MAX_VERSIONS = 100_000


def state_of(
    unpickled: Unpickled,
    size: int,
    where: str,
    *,
    close: Callable[[], None],
    noted: Noted | None = None,
    check: Callable[[], None] | None = None,
    told: tuple[str, ...] = (),
) -> State:
    """Make the state of a file.

    Args:
        unpickled: what its pickle holds.
        size: the bytes of the file.
        where: names it in messages.
        close: closes it.
        noted: what tensorkeep noted beside the pickle.
        check: checks what lies in the pickle itself, where that has a checksum.
        told: further sentences on what is left out.

    Raises:
        CorruptError: a tensor does not fit its storage.
        UnsafeError: written out, it would be far larger than the file.
    """
    maker = Tensors(where, size)
    nested = nest_pickled(unpickled.value, maker.look, where, unpickled.end)
    versions, unread = _versions(nested.attributes)
    refused = [*nested.refused, *unread, *told]
    refused += _unplaced(unpickled.refused, refused)
    metadata: dict[str, Json] = {VERSIONS: versions} if versions else {}
    tensors, skeleton = nested.tensors, nested.skeleton
    checks = {name: maker.checks.get(id(t), check) for name, t in tensors.items()}
    if noted is not None:
        metadata |= noted.notes.metadata
        skeleton = {**(skeleton or {}), **(noted.notes.skeleton or {})} or None
        tensors = _restored(renamed(tensors, noted.names, where), noted.notes)
        checks = renamed(checks, noted.names, where)
    return State(
        tensors,
        metadata=metadata,
        skeleton=skeleton,
        checks={name: check for name, check in checks.items() if check is not None},
        remarks={name: text for name, text in maker.remarks.items() if name in tensors},
        refused=tuple(refused),
        format="pytorch",
        where=where,
        close=close,
    )


def _versions(attributes: Mapping[str, Any]) -> tuple[dict[str, Json], list[str]]:
    """Give the versions of modules that state_dicts carry, and say what else they carry."""
    kept: dict[str, Json] = {}
    unread: list[str] = []
    for place, found in attributes.items():
        known = isinstance(found, dict) and set(found) == {"_metadata"}
        modules = found["_metadata"] if known else None
        if not isinstance(modules, dict) or len(modules) > _MAX_VERSIONS:
            unread.append(f"{place or 'the whole'!r} carries attributes, which are not kept")
            continue
        rows: dict[str, Json] = {}
        for module, row in modules.items():
            if type(module) is not str or not _is_versions(row):
                unread.append(f"{place or 'the whole'!r} carries metadata, which is not kept")
                break
            if row != _FIRST:
                rows[module] = dict(row)
        if rows:
            kept[place] = rows
    return kept, unread


def _is_versions(row: Any) -> bool:
    return isinstance(row, dict) and all(
        type(key) is str
        and (type(value) in (bool, str, type(None)) or (type(value) is int and abs(value) < 2**63))
        for key, value in row.items()
    )


def _unplaced(names: tuple[str, ...], told: list[str]) -> list[str]:
    """Say which names a pickle would need that hang nowhere in what it holds."""
    text = "\n".join(told)
    words = set(re.findall(r"[^\s']+", text))
    return [f"reading it would need {name}" for name in names if name not in words]


def _restored(tensors: Mapping[str, Tensor], notes: Notes) -> dict[str, Tensor]:
    """Give tensors the element type that they were kept instead of."""
    found = dict(tensors)
    for name, (kind, shape) in notes.stored.items():
        if name in found:
            kept = found[name]
            found[name] = Tensor(kind, shape, kept.source, kept.offset, kept.nbytes)
    return found
