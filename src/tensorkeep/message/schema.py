"""Field tables: what the messages of a protobuf file hold, as text that is parsed once.

    TensorProto
      1 dims repeated int64
      2 data_type DataType = FLOAT
      3 float_data packed float
      11 segment Segment
    enum DataType: UNDEFINED 0, FLOAT 1, INT32 2

A row is a number, a name, perhaps one of `optional`, `required`, `repeated` and `packed`, a type,
perhaps `= DEFAULT`, and then any of `alias NAME` (what an older file calls it in text) and
`oneof NAME`. A message headed `Name proto3` follows proto3: its scalars are written only where they
differ from their default, and its repeated numbers are packed. A map is a repeated message of the
two fields `key` and `value`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from tensorkeep.errors import ArgumentError

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)  # wire types

_MOST_NUMBER = (1 << 29) - 1
_LABELS = ("optional", "required", "repeated", "packed")


_NO_NUMBERS = np.dtype(object)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar type: its wire type, and for numbers the NumPy type and the range of values."""

    name: str
    wire: int
    dtype: np.dtype[Any] = _NO_NUMBERS
    low: int = 0
    high: int = 0
    zigzag: bool = False
    zero: Any = 0


def _integer(name: str, wire: int, code: str, zigzag: bool = False) -> Scalar:
    dtype = np.dtype(code)
    limits = np.iinfo(dtype)
    return Scalar(name, wire, dtype, int(limits.min), int(limits.max), zigzag)


_SCALARS = {
    row.name: row
    for row in (
        _integer("int32", VARINT, "<i4"),
        _integer("int64", VARINT, "<i8"),
        _integer("uint32", VARINT, "<u4"),
        _integer("uint64", VARINT, "<u8"),
        _integer("sint32", VARINT, "<i4", zigzag=True),
        _integer("sint64", VARINT, "<i8", zigzag=True),
        _integer("enum", VARINT, "<i4"),
        _integer("fixed32", FIXED32, "<u4"),
        _integer("sfixed32", FIXED32, "<i4"),
        _integer("fixed64", FIXED64, "<u8"),
        _integer("sfixed64", FIXED64, "<i8"),
        Scalar("bool", VARINT, np.dtype(np.bool_), 0, 1, zero=False),
        Scalar("float", FIXED32, np.dtype("<f4"), zero=0.0),
        Scalar("double", FIXED64, np.dtype("<f8"), zero=0.0),
        Scalar("string", BYTES, zero=""),
        Scalar("bytes", BYTES, zero=b""),
    )
}
_MESSAGE = Scalar("message", BYTES, zero=None)


@dataclass(frozen=True)
class Enum:
    """Names for integers.

    >>> enums("enum Phase: TRAIN 0, TEST 1")["Phase"]["TEST"]
    1
    """

    name: str
    numbers: Mapping[str, int]

    @cached_property
    def names(self) -> Mapping[int, str]:
        """The name of each number; of several, the first."""
        return {number: name for name, number in reversed(list(self.numbers.items()))}

    def __getitem__(self, name: str) -> int:
        try:
            return self.numbers[name]
        except KeyError:
            raise ArgumentError(
                f"{name!r} is no value of {self.name}", cure=f"There are {', '.join(self.numbers)}."
            ) from None


@dataclass(frozen=True, eq=False, repr=False)
class Field:
    """One field of a message."""

    number: int
    name: str
    label: str  # one of _LABELS
    scalar: Scalar
    default: Any = None
    enum: Enum | None = None
    message: Schema | None = None
    alias: str = ""
    oneof: str = ""
    implicit: bool = False  # written only where it differs from its default

    @cached_property
    def repeated(self) -> bool:
        """Whether it can stand many times."""
        return self.label in ("repeated", "packed")

    @cached_property
    def packed(self) -> bool:
        """Whether its numbers are written as one run of bytes."""
        return self.label == "packed"

    @cached_property
    def numeric(self) -> bool:
        """Whether its values are numbers, bools or enums."""
        return self.scalar.dtype is not _NO_NUMBERS

    @cached_property
    def head(self) -> bytes:
        """The tag that stands before each value."""
        return encode_varint(self.number << 3 | self.scalar.wire)

    @cached_property
    def packed_head(self) -> bytes:
        """The tag that stands before a packed run of values, or before a length."""
        return encode_varint(self.number << 3 | BYTES)

    def __repr__(self) -> str:
        return f"Field({self.number} {self.name})"


@dataclass(frozen=True, eq=False, repr=False)
class Schema:
    """The fields of one kind of message."""

    name: str
    fields: tuple[Field, ...]  # by ascending number

    @cached_property
    def by_name(self) -> Mapping[str, Field]:
        """The fields by name."""
        return {row.name: row for row in self.fields}

    @cached_property
    def by_text(self) -> Mapping[str, Field]:
        """The fields by name and by alias, as text may call them."""
        aliases = {row.alias: row for row in self.fields if row.alias}
        return {**aliases, **self.by_name}

    @cached_property
    def by_tag(self) -> Mapping[int, Field]:
        """The fields by the tags under which they may stand."""
        tags = {row.number << 3 | row.scalar.wire: row for row in self.fields}
        packs = {row.number << 3 | BYTES: row for row in self.fields if row.repeated}
        return tags | packs

    @cached_property
    def runs(self) -> frozenset[int]:
        """The tags of which many may follow one another."""
        rows = (row for row in self.fields if row.repeated and row.numeric)
        return frozenset(row.number << 3 | row.scalar.wire for row in rows)

    @cached_property
    def oneofs(self) -> Mapping[str, tuple[str, ...]]:
        """The other fields that a field displaces."""
        return {
            row.name: tuple(
                other.name
                for other in self.fields
                if other is not row and row.oneof and other.oneof == row.oneof
            )
            for row in self.fields
        }

    @cached_property
    def backwards(self) -> tuple[Field, ...]:
        """The fields by descending number."""
        return self.fields[::-1]

    def __getitem__(self, name: str) -> Field:
        try:
            return self.by_name[name]
        except KeyError:
            raise ArgumentError(
                f"{self.name} has no field {name!r}", cure=f"It has {', '.join(self.by_name)}."
            ) from None

    def __repr__(self) -> str:
        return f"Schema({self.name})"


def schemas(text: str) -> dict[str, Schema]:
    r"""Parse a field table.

    Raises:
        ArgumentError: a row is not one, or names a type that the table does not have.

    >>> schemas("Point\n  1 x float\n  2 y float = 1.5")["Point"]["y"].default
    1.5
    """
    known_enums = enums(text)
    rows: dict[str, list[str]] = {}
    heads: dict[str, bool] = {}
    for line in _lines(text):
        if line.startswith("enum "):
            continue
        if line[0] == " ":
            if not rows:
                raise _bad_row(line)
            rows[next(reversed(rows))].append(line)
            continue
        name, *flags = line.split()
        if flags not in ([], ["proto3"]) or name in rows:
            raise _bad_row(line)
        rows[name] = []
        heads[name] = bool(flags)
    found = {name: Schema(name, ()) for name in rows}
    for name, lines in rows.items():
        fields = [_parse_row(line, found, known_enums, heads[name]) for line in lines]
        if (
            not len({row.number for row in fields})
            == len({row.name for row in fields})
            == len(lines)
        ):
            raise ArgumentError(f"two fields of {name} have the same number or name")
        # Messages refer to one another, so they are made first and filled here.
        object.__setattr__(found[name], "fields", tuple(sorted(fields, key=lambda f: f.number)))
    return found


def enums(text: str) -> dict[str, Enum]:
    """Parse the enums of a field table."""
    found: dict[str, Enum] = {}
    for line in _lines(text):
        if line.startswith("enum "):
            name, _, values = line[5:].partition(":")
            pairs = [value.split() for value in values.split(",")]
            try:
                numbers = {key: int(number) for key, number in pairs}
            except ValueError:
                raise _bad_row(line) from None
            found[name.strip()] = Enum(name.strip(), MappingProxyType(numbers))
    return found


def _lines(text: str) -> Iterator[str]:
    """Give the lines that say something; an enum's go on over more deeply indented ones."""
    whole = ""
    for line in text.splitlines():
        if not line.strip():
            continue
        if whole.startswith("enum ") and line[0] == " ":
            whole = f"{whole} {line.strip()}"
            continue
        if whole:
            yield whole
        whole = line.rstrip()
    if whole:
        yield whole


def _parse_row(
    line: str, messages: Mapping[str, Schema], known: Mapping[str, Enum], proto3: bool
) -> Field:
    words = line.split()
    try:
        number, name = int(words[0]), words[1]
        label = words[2] if words[2] in _LABELS else ""
        kind, *rest = words[3:] if label else words[2:]
    except (IndexError, ValueError):
        raise _bad_row(line) from None
    if not 1 <= number <= _MOST_NUMBER:
        raise _bad_row(line)
    options = dict(zip(rest[::2], rest[1::2], strict=False))
    if len(rest) % 2 or not options.keys() <= {"=", "alias", "oneof"}:
        raise _bad_row(line)
    enum = known.get(kind)
    message = messages.get(kind)
    scalar = _SCALARS["enum"] if enum else _MESSAGE if message else _SCALARS.get(kind)
    if scalar is None or kind == "enum":
        raise ArgumentError(f"there is no type {kind!r} for the row {line.strip()!r}")
    implicit = proto3 and not label and message is None and "oneof" not in options
    if proto3 and label == "repeated" and scalar.dtype is not _NO_NUMBERS:
        label = "packed"
    if label == "packed" and scalar.dtype is _NO_NUMBERS:
        raise _bad_row(line)
    try:
        default = _parse_default(options.get("="), scalar, enum)
    except ValueError:
        raise _bad_row(line) from None
    return Field(
        number,
        name,
        label or "optional",
        scalar,
        default,
        enum,
        message,
        options.get("alias", ""),
        options.get("oneof", ""),
        implicit,
    )


def _parse_default(text: str | None, scalar: Scalar, enum: Enum | None) -> Any:
    if enum:
        return enum[text] if text else next(iter(enum.numbers.values()), 0)
    if text is None:
        return scalar.zero
    if scalar.name == "string":
        return json.loads(text)
    if scalar.name == "bool":
        return text == "true"
    return float(text) if isinstance(scalar.zero, float) else int(text)


def _bad_row(line: str) -> ArgumentError:
    return ArgumentError(f"{line.strip()!r} is no row of a field table")


def encode_varint(value: int) -> bytes:
    """Write a varint; a negative one as its 64-bit two's complement.

    >>> encode_varint(300).hex(), len(encode_varint(-1))
    ('ac02', 10)
    """
    if 0 <= value < 128:
        return _SHORT[value]
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


_SHORT = [bytes([value]) for value in range(128)]
