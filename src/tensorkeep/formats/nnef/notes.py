"""What a model notes of ours: one JSON document in a comment, the first line of its text.

Beside what all notes hold (see tensorkeep.notes) these are `names` and `types`, by the identifiers
of tensors, and a seal: a digest of the text with zeros in its place, of graph.quant, and of the
headers of all tensors, the elements of which have digests of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import xxhash

from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import CorruptError
from tensorkeep.notes import KEY, VERSION, Notes, parse_notes
from tensorkeep.state import MAX_TENSORS
from tensorkeep.wire.seal import NO_DIGEST, SEAL
from tensorkeep.wire.text import dump_json, parse_json

STATE = f"{KEY}_state"  # the name of the graph of a state that is no model
START = f"# {KEY} {{"

_PLACE = re.compile(rf'"{re.escape(SEAL)}":"([0-9a-f]{{32}})"}}\n')


class Noted(NamedTuple):
    """The document, and what it says of a graph's tensors."""

    notes: Notes
    names: dict[str, str]
    types: dict[str, str]
    sealed: bool


def note_of(text: str) -> str:
    """Give the document at the start of a model's text; empty where there is none."""
    if not text.startswith(START):
        return ""
    return text.partition("\n")[0][len(START) - 1 :]


def read_note(document: str, names: Iterable[str], where: str) -> Noted:
    """Read a model's notes.

    Raises:
        CorruptError: they are damaged.
        UnsupportedError: they were written by a later version.
    """
    notes = parse_notes(document, where, names)
    sealed = f'"{SEAL}":"' in document
    if notes.digests is not None and not sealed:
        raise CorruptError("the model's own digest is gone", where=where)
    return Noted(notes, *read_names(document, where), sealed)


def read_names(document: str, where: str) -> tuple[dict[str, str], dict[str, str]]:
    """Read what identifiers were called, and the element types of tensors."""
    whole = parse_json(document, where, "tensorkeep metadata", most=4 * MAX_TENSORS)
    found = []
    for key in ("names", "types"):
        texts = whole.get(key, {}) if isinstance(whole, dict) else {}
        if not isinstance(texts, dict) or not all(isinstance(t, str) for t in texts.values()):
            raise CorruptError(f"{key!r} in the tensorkeep metadata are no texts", where=where)
        found.append(texts)
    if unknown := set(found[1].values()) - DTYPES.keys():
        raise CorruptError(
            f"the tensorkeep metadata has the element type {min(unknown)!r:.60}", where=where
        )
    return found[0], found[1]


def with_note(
    text: str, notes: Notes, names: Mapping[str, str], types: Mapping[str, str], *, needed: bool
) -> str:
    """Put the notes before a model's text, if there is anything to note or they are needed."""
    document: dict[str, Any] = json.loads(notes.dump() or "{}")
    document |= {"names": dict(names)} if names else {}
    document |= {"types": dict(types)} if types else {}
    if not document and not needed:
        return text
    document = {"version": VERSION, **document}
    if notes.digests is not None:
        document[SEAL] = NO_DIGEST
    return f"# {KEY} {dump_json(document)}\n{text}"


def seal_model(text: str, quantization: str, headers: Iterable[bytes]) -> str:
    """Put the digest of a model into the place that its notes keep for it."""
    place = _PLACE.search(text)
    if place is None or place[1] != NO_DIGEST:
        return text
    found = _digest(text, quantization, headers)
    return f"{text[: place.start(1)]}{found}{text[place.end(1) :]}"


def check_sealed(text: str, quantization: str, headers: Iterable[bytes], where: str) -> None:
    """Check the digest of a model that has one.

    Raises:
        CorruptError: a bit of it has changed.
    """
    place = _PLACE.search(text)
    if place is None:
        raise CorruptError("the model's own digest is damaged", where=where)
    bare = f"{text[: place.start(1)]}{NO_DIGEST}{text[place.end(1) :]}"
    found = _digest(bare, quantization, headers)
    if found != place[1]:
        raise CorruptError(
            f"the model is damaged: its XXH3-128 is {found}, {place[1]} was saved",
            where=where,
            cure="Use another copy; if it was changed on purpose, take the digests out by "
            "removing the first line of the text.",
        )


def _digest(text: str, quantization: str, headers: Iterable[bytes]) -> str:
    hasher = xxhash.xxh3_128()
    for part in (text.encode(), quantization.encode(), *headers):
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()
