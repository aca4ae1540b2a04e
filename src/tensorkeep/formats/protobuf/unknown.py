"""Fields that a later schema, or somebody else, added: kept as metadata, and put back on saving.

They stand under one key as base64 of whole fields, by the message that they are in. Those in a
Chunk, and what goes over a limit, are not kept; that is told.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field

from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.formats.protobuf.fields import Fields, InHeader, InState, InTensor
from tensorkeep.source import MemorySource
from tensorkeep.state import Json, State

KEY = "protobuf_fields"
_KEPT = 1 << 20  # bytes of all that is kept
_MOST = 100_000


@dataclass(slots=True)
class Unknown:
    """Fields of a State, of its Header and of its Tensors that the schema does not have."""

    state: bytearray = field(default_factory=bytearray)
    header: bytearray = field(default_factory=bytearray)
    tensors: dict[str, bytes | bytearray] = field(default_factory=dict)
    left_out: int = 0  # bytes
    _size: int = 0

    def fits(self, size: int) -> bool:
        """Take account of a field of so many bytes; False where it is to be left out."""
        if self._size + size > _KEPT:
            self.left_out += size
            return False
        self._size += size
        return True

    def describe(self) -> dict[str, Json]:
        """Give them as metadata; nothing where there are none."""
        rows: dict[str, Json] = {}
        if self.state:
            rows["state"] = _text(self.state)
        if self.header:
            rows["header"] = _text(self.header)
        if self.tensors:
            rows["tensors"] = {name: _text(data) for name, data in self.tensors.items()}
        if self.left_out:
            rows["left_out"] = self.left_out
        return {KEY: rows} if rows else {}


def take_unknown(state: State) -> tuple[Unknown, dict[str, Json]]:
    """Take the fields out of a state's metadata; gives them and the rest of it.

    Raises:
        ArgumentError: they are no fields, or such as the schema has.
    """
    metadata = dict(state.metadata)
    rows = metadata.get(KEY)
    if not isinstance(rows, dict) or not rows.keys() <= {"state", "header", "tensors", "left_out"}:
        return Unknown(), metadata
    del metadata[KEY]
    tensors = rows.get("tensors", {})
    if not isinstance(tensors, dict):
        raise _wrong("of the tensors are not by name")
    return Unknown(
        _fields(rows.get("state", ""), len(InState)),
        _fields(rows.get("header", ""), len(InHeader)),
        {name: _fields(text, len(InTensor)) for name, text in tensors.items() if name in state},
    ), metadata


def losses(state: State) -> list[str]:
    """Say what was left out when the state was read."""
    rows: Mapping[str, Json] | Json = state.metadata.get(KEY)
    left = rows.get("left_out") if isinstance(rows, dict) else None
    return [f"{left:,} bytes of fields that are not known here"] if isinstance(left, int) else []


def _text(data: bytes | bytearray) -> str:
    return b64encode(data).decode()


def _fields(text: Json, known: int) -> bytearray:
    try:
        data = b64decode(str(text), validate=True)
        fields, at = Fields(MemorySource(data), "", _MOST), 0
        while at < len(data):
            number, _, _, at = fields.at(at, len(data))
            if number <= known:
                raise _wrong(f"have number {number}, which the schema uses")
    except (binascii.Error, UnicodeEncodeError, ValueError) as error:
        problem = error if isinstance(error, ArgumentError) else _wrong("are not whole fields")
        raise problem from None
    return bytearray(data)


def _wrong(problem: str) -> TensorKeepError:
    cure = "Drop it from the metadata."
    return ArgumentError(f"the fields in the metadata {KEY!r} {problem}", cure=cure)
