"""Protobuf fields found one by one in a range of a source, read in blocks as they are met.

`tensorkeep.message` reads any message by its schema; this is for the heads of tensor records, of
which a file may hold ten thousands, and steps over the values without reading them.

Facts: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NoReturn

from tensorkeep.errors import CorruptError
from tensorkeep.source import Source

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

# number, wire type, where the value starts and ends, and the value where it is a varint
Field = tuple[int, int, int, int, int]

_FIRST_BLOCK, _LARGEST_BLOCK = 512, 64 << 10
_LONGEST_HEAD = 20  # bytes of a tag and a length, or of a tag and a number
_SIGN = 1 << 63


class Record:
    """A range of a source, parts of which are held while its fields are walked."""

    __slots__ = ("base", "block", "kind", "source", "start", "stop", "where")

    def __init__(
        self,
        source: Source,
        start: int,
        stop: int,
        where: str,
        block: bytes | None = None,
        kind: str = "BlobProto",
    ) -> None:
        self.source = source
        self.start = start
        self.stop = stop
        self.where = where
        self.kind = kind
        self.base = start
        if block is None:
            held = stop if stop - start <= _LARGEST_BLOCK else start + _FIRST_BLOCK
            block = bytes(source.read(start, held))
        self.block = block

    def load(self, at: int) -> None:
        """Hold a block from `at` on; blocks grow while they follow one another."""
        follows = at <= self.base + len(self.block)
        size = min(2 * len(self.block), _LARGEST_BLOCK) if follows else _FIRST_BLOCK
        self.block = bytes(self.source.read(at, min(at + max(size, _FIRST_BLOCK), self.stop)))
        self.base = at

    def walk(self, start: int, stop: int) -> Iterator[Field]:
        """Give the fields from `start` up to `stop`.

        Raises:
            CorruptError: the bytes are not whole fields.
        """
        at = start
        while at < stop:
            i = at - self.base
            if i < 0 or (i + _LONGEST_HEAD > len(self.block) and self.held < self.stop):
                self.load(at)
                i = 0
            block = self.block
            tag = block[i]
            i += 1
            if tag > 0x7F:
                tag, i = self._varint(i - 1)
            number, wire = tag >> 3, tag & 7
            value = 0
            if wire == BYTES:
                size = block[i] if i < len(block) else 0x80
                i += 1
                if size > 0x7F:
                    size, i = self._varint(i - 1)
                begin = self.base + i
                end = begin + size
            elif wire == VARINT:
                begin = self.base + i
                value, i = self._varint(i)
                end = self.base + i
            elif wire in (FIXED32, FIXED64):
                begin = self.base + i
                end = begin + (4 if wire == FIXED32 else 8)
            else:
                self.refuse(at, f"has wire type {wire}")
            if end > stop:
                self.refuse(at, f"ends at {end - self.start}, past the end")
            if number == 0:
                self.refuse(at, "has the number 0")
            yield number, wire, begin, end, value
            at = end

    def find(self, number: int, start: int, stop: int) -> list[tuple[int, int]]:
        """Give where the values of a field of bytes lie; a million short ones take no second.

        Raises:
            CorruptError: the bytes are not whole fields.
        """
        spans = []
        tag = number << 3 | BYTES
        data = bytes(self.source.read(start, stop))
        at, last = 0, len(data) - 1
        while at < last:
            if data[at] == tag and data[at + 1] < 0x80:
                begin = at + 2
                at = begin + data[at + 1]
                spans.append((start + begin, start + at))
            else:
                found, wire, first, after, _ = next(self.walk(start + at, stop))
                at = after - start
                if found == number and wire == BYTES:
                    spans.append((first, after))
        if at != last + 1:
            self.refuse(start + at, "runs past the end")
        return spans

    def read(self, start: int, stop: int) -> bytes:
        """Give the bytes of the source from `start` up to `stop`."""
        if start >= self.base and stop <= self.held:
            return self.block[start - self.base : stop - self.base]
        return bytes(self.source.read(start, stop))

    @property
    def held(self) -> int:
        """Where the block ends."""
        return self.base + len(self.block)

    def refuse(self, at: int, problem: str) -> NoReturn:
        """Raise the error of a field that starts at `at`."""
        raise CorruptError(
            f"is not a {self.kind}: the field at byte {at - self.start} {problem}",
            where=self.where,
            cure="The record is damaged, or another program's.",
        )

    def _varint(self, i: int) -> tuple[int, int]:
        value = shift = 0
        first, block = i, self.block
        while i < len(block):
            byte = block[i]
            i += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & (2 * _SIGN - 1), i
            shift += 7
            if shift > 63:
                break
        return self.refuse(self.base + first, "has a number that is cut short or too long")


def signed(value: int) -> int:
    """Read 64 bits as a proto int64.

    >>> signed(2**64 - 3)
    -3
    """
    return value - 2 * _SIGN if value >= _SIGN else value


def int32(value: int) -> int:
    """Read 64 bits as a proto int32, whose upper bits do not count.

    >>> int32(2**64 - 3)
    -3
    """
    return ((value & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
