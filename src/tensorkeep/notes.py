"""Notes: what a foreign container has no place for, as one small JSON document beside the tensors.

    {"version": 1,
     "metadata": {...},                    values that the container's own metadata cannot hold
     "framework": ..., "tree": ...,        the skeleton of the nesting (see tree.py)
     "stored": {NAME: [DTYPE, SHAPE]},     tensors kept under another type, and what they are
     "xxh3_128": {NAME: HEX}}              digests of the tensors' canonical bytes

Readers that do not know it lose nothing that they could have used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.state import MAX_TENSORS, Json
from tensorkeep.wire.text import dump_json, parse_json

KEY = "tensorkeep"
VERSION = 1
MAX_AXES = 64  # what NumPy can hold


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
            document["xxh3_128"] = dict(self.digests)
        return dump_json({"version": VERSION, **document}) if document else ""


def parse_notes(text: str | bytes, where: str) -> Notes:
    """Read the document.

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
        digests=_digests(document, where) if "xxh3_128" in document else None,
    )


def _mapping(document: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = document.get(key, {})
    if not isinstance(found, dict):
        raise CorruptError(f"{key!r} in the tensorkeep metadata is not an object", where=where)
    return found


def _stored(value: Any, where: str) -> tuple[DType, tuple[int, ...]]:
    match value:
        case [str(name), list(shape)] if name in DTYPES and is_shape(shape):
            return DTYPES[name], tuple(shape)
    raise CorruptError(f"{value!r} is not an element type and a shape", where=where)


_HEX = re.compile("[0-9a-f]*")


def _digests(document: Mapping[str, Any], where: str) -> dict[str, str]:
    found = _mapping(document, "xxh3_128", where)
    values = list(found.values())
    # All at once: there can be many thousands.
    if set(map(type, values)) - {str} or set(map(len, values)) - {32}:
        raise CorruptError("the digests are not 32 hex digits each", where=where)
    if not _HEX.fullmatch("".join(values)):
        raise CorruptError("the digests are not hexadecimal", where=where)
    return found


def is_shape(value: Any) -> bool:
    """Say whether a parsed JSON value is a shape: a short list of sizes."""
    return (
        isinstance(value, list)
        and len(value) <= MAX_AXES
        and all(type(axis) is int and 0 <= axis < 2**63 for axis in value)
    )
