"""The header: counts, metadata and where each tensor is; read in pieces, checked before use."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
from tensorkeep.formats.gguf.values import (
    ARRAY,
    CODES,
    MAX_DEPTH,
    NAMES,
    PLAIN,
    STRING,
    Spelt,
    implied,
)
from tensorkeep.source import Source
from tensorkeep.state import MAX_TENSORS, Json
from tensorkeep.wire.seal import NO_DIGEST, SEAL

MAGIC = b"GGUF"
ALIGNMENT = "general.alignment"
USUAL_ALIGNMENT = 32
MAX_HEADER = 128 << 20
MAX_AXES = 4
_MAX_VALUES = 8 * MAX_TENSORS
_MAX_KEYS = 100_000
_MAX_KEY = 65_535
_FIRST = 64 << 10

_CUT = "The file is cut short, or its header lies about sizes."


@dataclass(frozen=True, slots=True)
class Info:
    """One tensor as the header has it: the number of its type, its shape, its place in the data."""

    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int


@dataclass(slots=True)
class Header:
    """What a header says."""

    version: int
    swapped: bool  # big-endian
    metadata: dict[str, Json] = field(default_factory=dict)
    types: dict[str, Spelt] = field(default_factory=dict)  # those that the values do not tell
    infos: list[Info] = field(default_factory=list)
    sealed: bool = False  # the header's own digest was there, and right
    alignment: int = USUAL_ALIGNMENT
    data: int = 0  # where the data starts


def read_header(source: Source) -> Header:
    """Read the header of a file.

    Raises:
        CorruptError: it is cut short, or contradicts itself or the file's size.
        UnsafeError: it is larger than any that is known.
        UnsupportedError: its version is not one that is known.
    """
    where = source.where
    start = bytes(source.read(0, min(8, source.size)))
    if start[:4] != MAGIC or len(start) < 8:
        raise CorruptError("does not start as a GGUF file does", where=where)
    version = int.from_bytes(start[4:], "little")
    swapped = not version & 0xFFFF  # version 3 of a big-endian file reads as 3 << 24
    if swapped:
        version = int.from_bytes(start[4:], "big")
    if not 1 <= version <= 3:
        raise UnsupportedError(
            f"is GGUF of version {version}, not 1, 2 or 3",
            where=where,
            cure="Update tensorkeep, or fetch the file again.",
        )
    header = Header(version, swapped)
    cursor = _Cursor(source, swapped, "I" if version == 1 else "Q")
    cursor.at = 8
    tensors, keys = cursor.word(), cursor.word()
    for count, least, most, what in (
        (keys, cursor.wide + 5, _MAX_KEYS, "keys"),
        (tensors, cursor.wide + 16, MAX_TENSORS, "tensors"),
    ):
        if count * least > source.size:
            raise CorruptError(
                f"cannot hold {count:,} {what} in {source.size:,} bytes", where=where, cure=_CUT
            )
        if count > most:
            raise UnsafeError(f"lists {count:,} {what}; the limit is {most:,}", where=where)
    if not keys and not tensors:  # every writer names the architecture at least
        raise CorruptError("has neither keys nor tensors", where=where)
    seal_at = _read_metadata(cursor, keys, header)
    header.infos = [_read_info(cursor) for _ in range(tensors)]
    if len({info.name for info in header.infos}) < tensors:
        raise CorruptError("lists a tensor twice", where=where)
    if SEAL in header.metadata:
        _check_seal(cursor.data[: cursor.at], seal_at, header.metadata.pop(SEAL), where)
        header.sealed = True
    header.alignment = _alignment(header.metadata.get(ALIGNMENT, USUAL_ALIGNMENT), where)
    header.data = -(-cursor.at // header.alignment) * header.alignment
    return header


def _check_seal(head: bytes, at: int, sealed: Json, where: str) -> None:
    found = xxhash.xxh3_128_hexdigest(head[:at] + NO_DIGEST.encode() + head[at + 32 :])
    if found != sealed:
        raise CorruptError(
            f"the header is damaged: its XXH3-128 is {found}, {sealed} was saved",
            where=where,
            cure="Use another copy of the file.",
        )


def _alignment(value: Json, where: str) -> int:
    if type(value) is not int or value <= 0 or value & (value - 1):
        raise CorruptError(
            f"{ALIGNMENT} is {str(value)[:40]}, which is no power of two", where=where
        )
    return value


def _read_metadata(cursor: _Cursor, count: int, header: Header) -> int:
    """Read all keys and values; gives where the seal's value stands."""
    seal_at = 0
    for _ in range(count):
        key = cursor.text("key", _MAX_KEY)
        if key in header.metadata:
            raise CorruptError(f"gives the key {key[:60]!r} twice", where=cursor.where)
        value, spelt = cursor.value(cursor.number("I"), 0)
        if key == SEAL:
            seal_at = cursor.at - len(NO_DIGEST)
        header.metadata[key] = value
        if spelt not in PLAIN and spelt != implied(value):
            header.types[key] = spelt
    return seal_at


def _read_info(cursor: _Cursor) -> Info:
    name = cursor.text("tensor's name", _MAX_KEY)
    axes = cursor.number("I")
    if axes > MAX_AXES:
        raise CorruptError(
            f"the tensor {name[:60]!r} has {axes:,} axes; GGUF has {MAX_AXES} at most",
            where=cursor.where,
        )
    shape = tuple(cursor.word() for _ in range(axes))[::-1]  # the fastest axis stands first
    return Info(name, cursor.number("I"), shape, cursor.number("Q"))


class _Cursor:
    """Reads a header from its start, a growing part of the file at a time."""

    def __init__(self, source: Source, swapped: bool, wide: str) -> None:
        self.where = source.where
        self.at = 0
        self.data = bytes(source.read(0, min(source.size, _FIRST)))
        self.wide = struct.calcsize(f"<{wide}")
        self._source = source
        self._order = ">" if swapped else "<"
        self._structs = {c: struct.Struct(self._order + c) for c in "BbHhIif?Qqd"}
        self._word = self._structs[wide]
        self._values = 0

    def need(self, stop: int, what: str) -> None:
        """Have the bytes up to `stop` at hand."""
        if stop <= len(self.data):
            return
        if stop > self._source.size:
            raise CorruptError(
                f"ends in the middle of its header: a {what} should reach to byte {stop:,} of "
                f"{self._source.size:,}",
                where=self.where,
                cure=_CUT,
            )
        if stop > MAX_HEADER:
            raise UnsafeError(f"its header is over the limit of {MAX_HEADER:,}", where=self.where)
        size = min(max(stop, 2 * len(self.data)), self._source.size, MAX_HEADER)
        self.data += self._source.read(len(self.data), size)

    def number(self, code: str) -> Any:
        """Read a number of a `struct` code."""
        form = self._structs[code]
        stop = self.at + form.size
        if stop > len(self.data):
            self.need(stop, "number")
        (value,) = form.unpack_from(self.data, self.at)
        self.at = stop
        return value

    def word(self) -> int:
        """Read a count or length."""
        return int(self.number("I" if self.wide == 4 else "Q"))

    def text(self, what: str, most: int) -> str:
        """Read a name, which has to be UTF-8."""
        length = self.word()
        self.need(self.at + length, what)
        if length > most:
            raise UnsafeError(
                f"a {what} of {length:,} bytes is over the limit of {most:,}", where=self.where
            )
        data = self.data[self.at : self.at + length]
        self.at += length
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise CorruptError(f"a {what} is not UTF-8: {data[:40]!r}", where=self.where) from None

    def value(self, kind: int, depth: int) -> tuple[Json, Spelt]:
        """Read a value, and spell its type."""
        if kind in CODES:
            if CODES[kind] == "?":
                return self._bools(1)[0], "bool"
            return self.number(CODES[kind]), NAMES[kind]
        if kind == STRING:
            return self._texts(1)[0], "string"
        if kind != ARRAY:
            raise CorruptError(f"there is no value type {kind}", where=self.where)
        if depth >= MAX_DEPTH:
            raise UnsafeError(f"nests arrays over {MAX_DEPTH} deep", where=self.where)
        inner, count = self.number("I"), self.word()
        self._count(inner, count)
        if inner == ARRAY:
            pairs = [self.value(ARRAY, depth + 1) for _ in range(count)]
            kinds = [spelt for _, spelt in pairs]
            same = all(spelt == kinds[0] for spelt in kinds)
            return [value for value, _ in pairs], (kinds[:1] or [[]]) if same else kinds
        if inner == STRING:
            return list(self._texts(count)), ["string"]
        if CODES[inner] == "?":
            return list(self._bools(count)), ["bool"]
        dtype = np.dtype(self._order + CODES[inner])
        return self._array(dtype, count).tolist(), [NAMES[inner]]

    def _count(self, inner: int, count: int) -> None:
        """Refuse more elements than the rest of the file could hold, or memory should."""
        if inner in CODES:
            least = self._structs[CODES[inner]].size
        elif inner in (STRING, ARRAY):
            least = self.wide if inner == STRING else 4 + self.wide
        else:
            raise CorruptError(f"there is no value type {inner}", where=self.where)
        if count * least > self._source.size - self.at:
            raise CorruptError(
                f"an array of {count:,} elements does not fit into the file",
                where=self.where,
                cure=_CUT,
            )
        self._values += count
        if self._values > _MAX_VALUES:
            raise UnsafeError(f"its metadata has over {_MAX_VALUES:,} values", where=self.where)

    def _array(self, dtype: np.dtype[Any], count: int) -> np.ndarray[Any, np.dtype[Any]]:
        stop = self.at + count * dtype.itemsize
        self.need(stop, "number")
        found = np.frombuffer(self.data, dtype, count, self.at)
        self.at = stop
        return found

    def _bools(self, count: int) -> list[bool]:
        found = self._array(np.dtype(np.uint8), count)
        if count and found.max() > 1:
            raise CorruptError("a bool is neither 0 nor 1", where=self.where)
        bools: list[bool] = found.astype(np.bool_).tolist()
        return bools

    def _texts(self, count: int) -> list[str]:
        """Read texts that follow one another; a vocabulary has some 100,000."""
        found = []
        data, at, wide, unpack = self.data, self.at, self.wide, self._word.unpack_from
        for _ in range(count):
            start = at + wide
            if start > len(data):
                self.need(start, "text")
                data = self.data
            at = start + unpack(data, at)[0]
            if at > len(data):
                self.need(at, "text")
                data = self.data
            found.append(data[start:at])
        self.at = at
        try:
            return [text.decode() for text in found]
        except UnicodeDecodeError:  # kept as surrogates, which are written as the same bytes
            return [text.decode("utf-8", "surrogateescape") for text in found]
