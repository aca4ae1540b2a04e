"""Notes: what a foreign container has no place for, as one small JSON document beside the tensors.

    {"version": 1,
     "metadata": {...},                    values that the container's own metadata cannot hold
     "framework": ..., "tree": ...,        the skeleton of the nesting (see tensorkeep.tree)
     "stored": {NAME: [DTYPE, SHAPE]},     tensors kept under another type, and what they are
     "xxh3_128": HEX,                      the digests of the tensors' canonical bytes, joined in
                                           the order of their names
     "order": [INDEX, ...]}                the order in which they were saved, where it differs

Readers that do not know it lose nothing that they could have used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorkeep.dtypes import BLOCKS, DTYPES, DType
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.state import KEY as KEY
from tensorkeep.state import MAX_TENSORS, Json
from tensorkeep.wire.text import dump_json, parse_json

VERSION = 1
MAX_AXES = 64  # what NumPy can hold
_STORED = DTYPES | BLOCKS


@dataclass(frozen=True, slots=True)
class Notes:
    """The document, parsed."""

    metadata: dict[str, Json] = field(default_factory=dict)
    skeleton: dict[str, Json] | None = None
    stored: dict[str, tuple[DType, tuple[int, ...]]] = field(default_factory=dict)
    digests: dict[str, str] | None = None

    def dump(self) -> str:
        """Write the document; empty where there is nothing to note."""
        document: dict[str, Any] = {}
        if self.metadata:
            document["metadata"] = self.metadata
        document.update(self.skeleton or {})
        if self.stored:
            document["stored"] = {
                name: [kind.name, list(shape)] for name, (kind, shape) in self.stored.items()
            }
        if self.digests is not None:
            names = sorted(self.digests)
            document["xxh3_128"] = "".join(map(self.digests.__getitem__, names))
            if names != list(self.digests):
                places = {name: place for place, name in enumerate(names)}
                document["order"] = [places[name] for name in self.digests]
        return dump_json({"version": VERSION, **document}) if document else ""


def parse_notes(text: str | bytes, where: str, names: Iterable[str] = ()) -> Notes:
    """Read the document.

    Args:
        text: the document.
        where: names the file in messages.
        names: of the tensors that it belongs to, which digests are joined in the order of.

    Raises:
        CorruptError: it is not one.
        UnsupportedError: it was written by a later version with a meaning not known here.

    >>> parse_notes('{"version": 1, "metadata": {"epoch": 3}}', "example").metadata
    {'epoch': 3}
    """
    document = parse_json(text, where, "tensorkeep metadata", most=4 * MAX_TENSORS)
    if not isinstance(document, dict):
        raise CorruptError("the tensorkeep metadata is not a JSON object", where=where)
    version = document.get("version")
    if version != VERSION:
        raise UnsupportedError(
            f"its tensorkeep metadata has version {version!r}, not {VERSION}",
            where=where,
            cure="Update tensorkeep.",
        )
    skeleton = {key: document[key] for key in ("framework", "tree") if key in document}
    return Notes(
        metadata=_mapping(document, "metadata", where),
        skeleton=skeleton or None,
        stored={
            name: _stored(value, where)
            for name, value in _mapping(document, "stored", where).items()
        },
        digests=_digests(document, names, where) if "xxh3_128" in document else None,
    )


def _mapping(document: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = document.get(key, {})
    if not isinstance(found, dict):
        raise CorruptError(f"{key!r} in the tensorkeep metadata is not an object", where=where)
    return found


def _stored(value: Any, where: str) -> tuple[DType, tuple[int, ...]]:
    match value:
        case [str(name), list(shape)] if name in _STORED and is_shape(shape):
            return _STORED[name], tuple(shape)
    raise CorruptError(f"{value!r} is not an element type and a shape", where=where)


_HEX = re.compile("[0-9a-f]*")
_WIDTH = 32  # hex digits of a digest


def _digests(document: Mapping[str, Any], names: Iterable[str], where: str) -> dict[str, str]:
    """Take the digests apart: one text for all, since there can be many thousands."""
    joined, ordered = document["xxh3_128"], sorted(names)
    if (
        not isinstance(joined, str)
        or len(joined) != _WIDTH * len(ordered)
        or not _HEX.fullmatch(joined)
    ):
        raise CorruptError(f"there are not {_WIDTH} hex digits for each tensor", where=where)
    parts = [joined[at : at + _WIDTH] for at in range(0, len(joined), _WIDTH)]
    if "order" not in document:
        return dict(zip(ordered, parts, strict=True))
    order = document["order"]
    plain = isinstance(order, list) and all(type(place) is int for place in order)
    if not plain or sorted(order) != list(range(len(ordered))):
        raise CorruptError("the order noted is not one of the tensors", where=where)
    return {ordered[place]: parts[place] for place in order}


def is_shape(value: Any) -> bool:
    """Say whether a parsed JSON value is a shape: a short list of sizes."""
    return (
        isinstance(value, list)
        and len(value) <= MAX_AXES
        and all(type(axis) is int and 0 <= axis < 2**63 for axis in value)
    )
