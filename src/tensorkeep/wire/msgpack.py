"""MessagePack: the grammar, walked over a Source, so that large values are passed over unread.

A value is one byte that tells its kind, behind which stand its length (big endian, as short as it
can be) and its bytes or items:

    00-7f, e0-ff   a small integer     cc-cf, d0-d3  an integer of 8 to 64 bits
    80-8f, de, df  a map               90-9f, dc, dd  an array
    a0-bf, d9-db   text                c4-c6          bytes
    c0 nil, c2 false, c3 true          ca, cb         a float of 32 or 64 bits
    d4-d8, c7-c9   an extension: a signed byte that tells its type, and bytes

Facts from the MessagePack specification.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.source import Source

MAX_DEPTH = 110  # of maps and arrays: a state's 101, and those that a leaf is made of
MAX_VALUES = 4_000_000
MAX_TEXT = 64 << 20  # bytes of all texts together
_LEAST, _MOST = 256, 64 << 10  # bytes read at a time: more and more while nothing is passed over


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes that were passed over: where they start and stop in the source."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension that was passed over: its type, and where its bytes start and stop."""

    code: int
    start: int
    stop: int


class Walk:
    """One pass over a part of a source.

    Args:
        source: what holds it.
        start: where it starts.
        stop: where it ends; the end of the source by default.
        most: how many values there may be.

    >>> from tensorkeep.source import MemorySource
    >>> Walk(MemorySource(bytes.fromhex("82a17701a1629203c40161"))).whole()
    {'w': 1, 'b': [3, Span(start=10, stop=11)]}
    """

    def __init__(
        self, source: Source, start: int = 0, stop: int | None = None, most: int = MAX_VALUES
    ) -> None:
        self.source = source
        self.at = start
        self.stop = source.size if stop is None else stop
        self._most = most
        self._text = 0
        self._base = start
        self._block = _LEAST
        self._view = source.read(start, self.stop) if source.mapped else memoryview(b"")

    def whole(self) -> Any:
        """Read one value, which has to be all there is.

        Raises:
            CorruptError: it contradicts itself, is cut short, or more follows.
            UnsafeError: it holds more values, or text, than any state does.
        """
        value = self.value()
        if self.at != self.stop:
            raise self._wrong(f"{self.stop - self.at:,} bytes follow the end of the msgpack value")
        return value

    def value(self, depth: int = 0) -> Any:
        """Read one value: maps as dicts; bytes and extensions as the places where they are.

        Raises:
            CorruptError: it contradicts itself or is cut short.
            UnsafeError: it holds more values, or text, than any state does.
        """
        self._most -= 1
        if self._most < 0:
            raise UnsafeError("holds more msgpack values than any state", where=self.source.where)
        kind = self._take(1)[0]
        if kind <= 0x7F:
            return kind
        if kind >= 0xE0:
            return kind - 256
        if kind <= 0x8F:
            return self._map(kind & 15, depth)
        if kind <= 0x9F:
            return self._array(kind & 15, depth)
        if kind <= 0xBF:
            return self._string(kind & 31)
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind in _NUMBERS:
            layout = _NUMBERS[kind]
            return layout.unpack(self._take(layout.size))[0]
        if kind in _FIXED:
            return self._extension(_FIXED[kind])
        if kind not in _LENGTHS:
            raise self._wrong("the byte 0xc1 starts no msgpack value")
        length = int.from_bytes(self._take(_LENGTHS[kind]), "big")
        if kind <= 0xC6:
            return Span(*self._pass(length))
        if kind <= 0xC9:
            return self._extension(length)
        if kind <= 0xDB:
            return self._string(length)
        return self._array(length, depth) if kind <= 0xDD else self._map(length, depth)

    def _map(self, count: int, depth: int) -> dict[Any, Any]:
        self._check_items(2 * count, "map", depth)
        found: dict[Any, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if isinstance(key, dict | list | Span | Extension):
                raise self._wrong("a msgpack map has a key that is no text or number")
            if key in found:
                raise self._wrong(f"a msgpack map has the key {key!r:.60} twice")
            found[key] = self.value(depth + 1)
        return found

    def _array(self, count: int, depth: int) -> list[Any]:
        self._check_items(count, "array", depth)
        return [self.value(depth + 1) for _ in range(count)]

    def _check_items(self, count: int, what: str, depth: int) -> None:
        if count > self.stop - self.at:
            raise self._wrong(
                f"a msgpack {what} claims {count:,} items, but {self.stop - self.at:,} bytes follow"
            )
        if depth >= MAX_DEPTH:
            raise self._wrong(f"msgpack values nest deeper than {MAX_DEPTH} levels")

    def _string(self, length: int) -> str:
        self._check(length)
        self._text += length
        if self._text > MAX_TEXT:
            raise UnsafeError(f"holds over {MAX_TEXT:,} bytes of text", where=self.source.where)
        try:
            return str(self._take(length), "utf-8")
        except UnicodeDecodeError:
            raise self._wrong("a msgpack text is not UTF-8") from None

    def _extension(self, length: int) -> Extension:
        code = int.from_bytes(self._take(1), "big", signed=True)
        return Extension(code, *self._pass(length))

    def _pass(self, length: int) -> tuple[int, int]:
        start = self.at
        self._check(length)
        self.at += length
        self._block = _LEAST
        return start, self.at

    def _take(self, length: int) -> memoryview:
        self._check(length)
        first = self.at - self._base
        if first < 0 or first + length > len(self._view):
            self._base, first = self.at, 0
            self._block = min(2 * self._block, _MOST)
            self._view = self.source.read(
                self.at, min(self.stop, self.at + max(length, self._block))
            )
        self.at += length
        return self._view[first : first + length]

    def _check(self, length: int) -> None:
        if length > self.stop - self.at:
            raise CorruptError(
                f"a msgpack value of {length:,} bytes starts at byte {self.at}, "
                f"but {self.stop - self.at:,} follow",
                where=self.source.where,
                cure="The file is cut short, or its lengths lie.",
            )

    def _wrong(self, problem: str) -> CorruptError:
        return CorruptError(f"{problem} (before byte {self.at})", where=self.source.where)


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    kind: struct.Struct(f">{letter}")
    for kind, letter in zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True)
}
_FIXED = {0xD4 + power: 1 << power for power in range(5)}
_LENGTHS = {  # how many bytes tell the length
    0xC4: 1,
    0xC5: 2,
    0xC6: 4,
    0xC7: 1,
    0xC8: 2,
    0xC9: 4,
    0xD9: 1,
    0xDA: 2,
    0xDB: 4,
    0xDC: 2,
    0xDD: 4,
    0xDE: 2,
    0xDF: 4,
}


def pack(value: Any) -> bytes:
    """Write a value of plain types, as short as it can be written.

    Raises:
        TypeError: it is, or holds, something else.
        OverflowError: an integer of more than 64 bits.

    >>> pack({"w": [1, -1, None]}).hex()
    '81a1779301ffc0'
    """
    if type(value) is dict:
        items = b"".join(pack(key) + pack(child) for key, child in value.items())
        return map_head(len(value)) + items
    if type(value) is list:
        return array_head(len(value)) + b"".join(map(pack, value))
    if type(value) is str:
        data = value.encode()
        return _head(len(data), 0xA0, 31, {1: 0xD9, 2: 0xDA, 4: 0xDB}) + data
    if type(value) is float:
        return struct.pack(">Bd", 0xCB, value)
    if type(value) is int:
        return _integer(value)
    for kind, constant in _CONSTANTS.items():
        if value is constant:
            return bytes([kind])
    raise TypeError(f"msgpack has no {type(value).__name__}")


def _integer(value: int) -> bytes:
    if -32 <= value < 128:
        return struct.pack("b", value) if value < 0 else bytes([value])
    for size in (0, 1, 2, 3):
        bits = 8 << size
        if 0 <= value < 1 << bits:
            return bytes([0xCC + size]) + value.to_bytes(bits // 8, "big")
        if -(1 << bits - 1) <= value < 0:
            return bytes([0xD0 + size]) + value.to_bytes(bits // 8, "big", signed=True)
    raise OverflowError("msgpack has no integer of more than 64 bits")


def map_head(count: int) -> bytes:
    """Write what stands in front of the keys and values of a map."""
    return _head(count, 0x80, 15, {2: 0xDE, 4: 0xDF})


def array_head(count: int) -> bytes:
    """Write what stands in front of the items of an array."""
    return _head(count, 0x90, 15, {2: 0xDC, 4: 0xDD})


def bytes_head(length: int) -> bytes:
    """Write what stands in front of bytes."""
    return _head(length, 0, -1, {1: 0xC4, 2: 0xC5, 4: 0xC6})


def extension_head(code: int, length: int) -> bytes:
    """Write what stands in front of the bytes of an extension."""
    for kind, fixed in _FIXED.items():
        if length == fixed:
            return struct.pack("Bb", kind, code)
    return _head(length, 0, -1, {1: 0xC7, 2: 0xC8, 4: 0xC9}) + struct.pack("b", code)


def _head(length: int, short: int, most: int, kinds: dict[int, int]) -> bytes:
    if length <= most:
        return bytes([short | length])
    for size, kind in kinds.items():
        if length < 1 << 8 * size:
            return bytes([kind]) + length.to_bytes(size, "big")
    raise OverflowError(f"msgpack has no length of {length:,}")
