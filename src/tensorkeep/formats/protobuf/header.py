"""The Header of a State: what the tensors are, their nesting and the metadata; and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tensorkeep.dtypes import DType
from tensorkeep.errors import UnsafeError, UnsupportedError
from tensorkeep.formats.protobuf.fields import (
    BYTES,
    CODES,
    FIXED32,
    FIXED64,
    KINDS,
    VARINT,
    VERSION,
    Fields,
    InHeader,
    InTensor,
    expect,
    read_varint,
    refuse,
)
from tensorkeep.formats.protobuf.unknown import Unknown
from tensorkeep.message.schema import encode_varint
from tensorkeep.source import MemorySource
from tensorkeep.state import MAX_TENSORS, Json, State
from tensorkeep.tensor import Tensor
from tensorkeep.wire.text import dump_json, parse_json

MAX_HEADER = 128 << 20
DIGEST = 16  # bytes of an XXH3-128
_MAX_AXES = 64
_MAX_FIELDS = 200  # of a Tensor; one whose shape is not packed has as many as axes
_MAX_VALUES = 4 * MAX_TENSORS
_WIRES = (VARINT, FIXED64, BYTES, FIXED32)


class Row(NamedTuple):
    """A Tensor of the header."""

    name: str
    kind: DType
    shape: tuple[int, ...]
    nbytes: int
    digest: bytes


@dataclass(slots=True)
class Header:
    """The message, parsed."""

    rows: list[Row] = field(default_factory=list)
    version: int = 0
    checksums: bool = False
    metadata: dict[str, Json] = field(default_factory=dict)
    skeleton: dict[str, Json] | None = None


def parse_header(data: bytes, where: str, unknown: Unknown) -> Header:
    """Read a Header; fields that are not known here are added to `unknown`.

    Raises:
        CorruptError: it is not one.
        UnsafeError: it holds more than any should.
        UnsupportedError: it is of a later version of the schema.
    """
    header = Header()
    texts: dict[int, bytes] = {}
    tensors: list[bytes] = []
    fields, at = Fields(MemorySource(data), where, 2 * MAX_TENSORS), 0
    while at < len(data):
        begin = at
        number, wire, start, at = fields.at(at, len(data))
        if number == InHeader.TENSOR:
            expect(wire, BYTES, "a tensor", where)
            if len(tensors) == MAX_TENSORS:
                raise UnsafeError(f"holds more than {MAX_TENSORS:,} tensors", where=where)
            tensors.append(data[start:at])
        elif number in (InHeader.METADATA, InHeader.SKELETON):
            expect(wire, BYTES, InHeader(number).name.lower(), where)
            texts[number] = data[start:at]
        elif number in (InHeader.VERSION, InHeader.CHECKSUMS):
            expect(wire, VARINT, InHeader(number).name.lower(), where)
            value, _ = read_varint(data, start)
            if number == InHeader.VERSION:
                header.version = value
            else:
                header.checksums = bool(value)
        elif unknown.fits(at - begin):
            unknown.header += data[begin:at]
    if header.version != VERSION:
        raise UnsupportedError(
            f"is of version {header.version} of the schema, not {VERSION}",
            where=where,
            cure="Update tensorkeep." if header.version else "Its header has no version.",
        )
    seen: set[str] = set()
    for message in tensors:
        row = _parse_tensor(message, where, unknown)
        if row.name in seen:
            refuse(f"holds the tensor {row.name!r} twice", where)
        seen.add(row.name)
        header.rows.append(row)
    if text := texts.get(InHeader.METADATA):
        header.metadata = _object(text, "metadata", where)
    if text := texts.get(InHeader.SKELETON):
        found = _object(text, "skeleton", where)
        header.skeleton = {key: found[key] for key in ("framework", "tree") if key in found} or None
    return header


def _object(text: bytes, what: str, where: str) -> dict[str, Json]:
    found = parse_json(text, where, what, most=_MAX_VALUES)
    if not isinstance(found, dict):
        refuse(f"the {what} is not a JSON object", where)
    return found


def _parse_tensor(data: bytes, where: str, unknown: Unknown) -> Row:
    """Read a Tensor. Files hold many thousands, so the fields are taken apart right here."""
    name, digest, others = b"", b"", b""
    code = nbytes = at = count = start = value = 0
    shape: list[int] = []
    size = len(data)
    try:
        while at < size:
            begin = at
            count += 1
            tag = data[at]
            at += 1
            if tag > 127:  # a function is called only for what is longer than a byte
                tag, at = read_varint(data, begin)
            wire = tag & 7
            if wire == BYTES:
                length = data[at]
                at += 1
                if length > 127:
                    length, at = read_varint(data, at - 1)
                start, at = at, at + length
            elif wire == VARINT:
                value = data[at]
                at += 1
                if value > 127:
                    value, at = read_varint(data, at - 1)
            else:
                at += 8 if wire == FIXED64 else 4
            if at > size or tag < 8 or wire not in _WIRES or count > _MAX_FIELDS:
                raise IndexError
            match tag:
                case 0x0A:
                    name = data[start:at]
                case 0x10:
                    code = value
                case 0x18:
                    shape.append(value)
                case 0x1A:
                    shape += _numbers(data[start:at])
                case 0x20:
                    nbytes = value
                case 0x2A:
                    digest = data[start:at]
                case _ if tag >> 3 <= len(InTensor):
                    refuse(f"field {tag >> 3} of a tensor has wire type {wire}", where)
                case _ if unknown.fits(at - begin):
                    others += data[begin:at]
    except (IndexError, OverflowError):
        refuse(f"the tensor {_text(name)!r} in the header is not made of whole fields", where)
    text = _text(name)
    if code not in KINDS:
        raise UnsupportedError(
            f"the tensor {text!r} has element type {code}, which is not known here",
            where=where,
            cure="Update tensorkeep." if code else "Its writer left out the type.",
        )
    if len(shape) > _MAX_AXES or any(axis >> 63 for axis in shape):
        refuse(f"the tensor {text!r} has {len(shape)} axes, or a negative one", where)
    if len(digest) not in (0, DIGEST):
        refuse(f"the tensor {text!r} has a digest of {len(digest)} bytes, not {DIGEST}", where)
    if others:
        unknown.tensors[text] = others
    return Row(text, KINDS[code], tuple(shape), nbytes, digest)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _numbers(data: bytes) -> list[int]:
    found: list[int] = []
    at = 0
    while at < len(data):
        value, at = read_varint(data, at)
        found.append(value)
        if len(found) > _MAX_AXES:
            raise OverflowError
    return found


def head_of(number: int, wire: int = BYTES) -> bytes:
    """Give the tag of a field.

    >>> head_of(4).hex()
    '22'
    """
    return encode_varint(number << 3 | wire)


def sized(number: int, data: bytes) -> bytes:
    """Give a field of bytes.

    >>> sized(1, b"w").hex(" ")
    '0a 01 77'
    """
    return head_of(number) + encode_varint(len(data)) + data


class Draft:
    """A Header to be, of which only the digests are not known yet.

    Args:
        state: whose tensors, nesting and metadata it is to hold.
        metadata: what to keep of the state's.
        unknown: fields to put back.
        checksums: whether there are to be digests.
    """

    def __init__(
        self, state: State, metadata: dict[str, Json], unknown: Unknown, *, checksums: bool
    ) -> None:
        self._checksums = checksums
        self._rows = [_tensor_fields(name, tensor) for name, tensor in state.items()]
        self._others = [unknown.tensors.get(name, b"") for name in state]
        self._head = bytes((InHeader.VERSION << 3, VERSION))
        if checksums:
            self._head += bytes((InHeader.CHECKSUMS << 3, 1))
        if metadata:
            self._head += sized(InHeader.METADATA, dump_json(metadata).encode())
        if state.skeleton is not None:
            self._head += sized(InHeader.SKELETON, dump_json(state.skeleton).encode())
        self._tail = unknown.header

    def encode(self, digests: Iterable[bytes]) -> bytes:
        """Give the message, with a digest for each tensor in their order."""
        return b"".join((self._head, *self._tensors(digests), self._tail))

    def _tensors(self, digests: Iterable[bytes]) -> Iterator[bytes]:
        for row, digest, others in zip(self._rows, digests, self._others, strict=True):
            sealed = sized(InTensor.DIGEST, digest) if self._checksums else b""
            yield sized(InHeader.TENSOR, row + sealed + others)


def _tensor_fields(name: str, tensor: Tensor) -> bytes:
    out = sized(InTensor.NAME, name.encode()) if name else b""
    if tensor.dtype not in CODES:
        raise UnsupportedError(
            f"the tensor {name!r} is of type {tensor.dtype}, which the schema has no number for",
            where=tensor.source.where,
            cure="Convert it to a plain type first.",
        )
    out += head_of(InTensor.DTYPE, VARINT) + encode_varint(CODES[tensor.dtype])
    if tensor.shape:
        out += sized(InTensor.SHAPE, b"".join(map(encode_varint, tensor.shape)))
    if tensor.nbytes:
        out += head_of(InTensor.NBYTES, VARINT) + encode_varint(tensor.nbytes)
    return out
