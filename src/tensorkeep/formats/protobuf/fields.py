"""The numbers of `tensorkeep.proto`, and single fields read where they stand.

A field is a varint, its number and wire type, and then a varint, 4 or 8 bytes, or a length and so
many bytes. Facts: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NoReturn

from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.source import MemorySource, Source

MAGIC: Final = b"\x09tnsrkeep"
VERSION: Final = 1

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; proto3 has no groups
_WIDTHS = {FIXED64: 8, FIXED32: 4}

# An enum of the schema: a new type goes to the end, and none ever changes its number.
_NAMES = (
    "bool", "uint2", "uint4", "uint8", "uint16", "uint32", "uint64", "int2", "int4", "int8",
    "int16", "int32", "int64", "float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn", "float8_e4m3fn",
    "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "bfloat16", "float16",
    "float32", "float64", "complex64", "complex128", "string",
)  # fmt: skip
KINDS: dict[int, DType] = {code: DTYPES[name] for code, name in enumerate(_NAMES, 1)}
CODES: dict[DType, int] = {kind: code for code, kind in KINDS.items()}


class InState(IntEnum):
    """Fields of a State."""

    MAGIC = 1
    DIGEST = 2
    HEADER = 3
    CHUNK = 4


class InHeader(IntEnum):
    """Fields of a Header."""

    VERSION = 1
    CHECKSUMS = 2
    METADATA = 3
    SKELETON = 4
    TENSOR = 5


class InTensor(IntEnum):
    """Fields of a Tensor."""

    NAME = 1
    DTYPE = 2
    SHAPE = 3
    NBYTES = 4
    DIGEST = 5


class InChunk(IntEnum):
    """Fields of a Chunk."""

    TENSOR = 1
    OFFSET = 2
    PADDING = 3
    DATA = 4


_LOOK, _MOST_LOOK = 128, 64 << 10  # bytes read at once; more where little lies between fields
_LONGEST = 20  # bytes of a tag and a length, or of a tag and a number
_LONGEST_VARINT = 10

Found = tuple[int, int, int, int]  # number, wire type, and where the value starts and stops


class Fields:
    """Fields of a source, looked at one by one; no more than `most` of them.

    >>> fields = Fields(MemorySource(bytes.fromhex("08 96 01 12 02 68 69")), "example", most=9)
    >>> fields.at(0, 7), fields.at(3, 7)
    ((1, 0, 1, 3), (2, 2, 5, 7))
    """

    __slots__ = ("_base", "_data", "_left", "_look", "_source", "_where")

    def __init__(self, source: Source, where: str, most: int) -> None:
        # Of a map thousands of heads are looked at through one view, which costs least.
        mapped = source.mapped and source.size
        self._source = MemorySource(source.read(0, source.size), where) if mapped else source
        self._where = where
        self._left = most
        self._look = _LOOK
        self._base = 0
        self._data = b""

    def at(self, at: int, stop: int) -> Found:
        """Read the tag and the length of the field at `at`, which has to end at `stop` at most.

        Raises:
            CorruptError: it does not, or is no field.
            UnsafeError: too many were read.
        """
        self._left -= 1
        if self._left < 0:
            raise UnsafeError("it is made of far too many fields", where=self._where)
        local = at - self._base
        if not 0 <= local <= len(self._data) - _LONGEST:
            near = 0 <= at - self._base <= len(self._data) + self._look
            self._look = min(2 * self._look, _MOST_LOOK) if near else _LOOK
            self._base, local = at, 0
            self._data = bytes(self._source.read(at, min(at + self._look, self._source.size)))
        data, base = self._data, self._base
        try:
            tag, first = data[local], local + 1
            if tag > 127:  # a function is called only for what is longer than a byte
                tag, first = read_varint(data, local)
            wire = tag & 7
            if wire == BYTES:
                length, last = data[first], first + 1
                if length > 127:
                    length, last = read_varint(data, first)
                first, last = last, last + length
            elif wire == VARINT:
                _, last = read_varint(data, first)
            else:
                last = first + _WIDTHS[wire]
            if tag > 7 and base + last <= stop:
                return tag >> 3, wire, base + first, base + last
        except (IndexError, KeyError, OverflowError):
            pass
        raise CorruptError(
            f"there is no whole field at byte {at:,}",
            where=self._where,
            cure="The file is damaged, or cut short.",
        )

    def number(self, at: int) -> int:
        """Give the varint that the field read last has at `at`."""
        return read_varint(self._data, at - self._base)[0]


def read_varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Decode a varint of 64 bits: its value and where it ends.

    Raises:
        IndexError: the data end within it.
        OverflowError: it is longer than any should be.

    >>> read_varint(bytes.fromhex("ac 02"), 0)
    (300, 2)
    """
    value = data[at]
    at += 1
    if value < 128:
        return value, at
    value &= 127
    for shift in range(7, 7 * _LONGEST_VARINT, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise OverflowError


def expect(found: int, wanted: int, name: str, where: str) -> None:
    """Refuse a known field of an unknown wire type.

    Raises:
        CorruptError: it is one.
    """
    if found != wanted:
        refuse(f"{name} has wire type {found}, not {wanted}", where)


def refuse(problem: str, where: str) -> NoReturn:
    """Say that the file contradicts itself or the schema.

    Raises:
        CorruptError: always.
    """
    raise CorruptError(problem, where=where, cure="Use another copy of the file.")
