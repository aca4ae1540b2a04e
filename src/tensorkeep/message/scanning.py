"""Where the fields of a message lie, found without reading what they hold.

Facts: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass

import numpy as np

from tensorkeep.errors import CorruptError
from tensorkeep.message.schema import (
    BYTES,
    END_GROUP,
    FIXED32,
    FIXED64,
    GROUP,
    VARINT,
    encode_varint,
)
from tensorkeep.source import MemorySource, Source

MAX_DEPTH = 100  # messages within one another; what protobuf's own readers allow

_PIECE = 64 << 10  # bytes that are looked at together
_FIRST = 1 << 10  # fewer at first and behind large values, which the structure is read between
_AT_HAND = 256  # bytes of an outer piece that are worth a look before more is read
_RUN = 16  # numbers in a row under one tag from which on they are looked at together
_BLOCK, _MOST_BLOCK = 4 << 10, 4 << 20
_LONGEST_TAG, _LONGEST_VARINT = 5, 10
_WIDTHS = {FIXED32: 4, FIXED64: 8}

Token = tuple[int, int, int, int]  # tag; where the tag, the value and what follows start


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a source that were read, `base` being where the first of them lies."""

    source: Source
    where: str
    data: bytes = b""
    base: int = 0

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Give the bytes of the source from `start` up to `stop`."""
        first, last = start - self.base, stop - self.base
        if first >= 0 and last <= len(self.data):
            return self.data[first:last]
        return self.source.read(start, stop)


def open_bytes(source: Source | bytes | bytearray | memoryview) -> Source:
    """Give the source itself, or one over bytes in memory."""
    return source if isinstance(source, Source) else MemorySource(source)


def scan(
    source: Source | bytes | memoryview, start: int = 0, stop: int | None = None, where: str = ""
) -> Iterator[tuple[int, int, int, int]]:
    """Give number, wire type, start and stop of each field of one level; nothing else is read.

    The range is that of the value: behind the tag, and for lengths behind the length. That of a
    group ends with its end tag.

    Raises:
        CorruptError: a field does not end before `stop`, or is none.

    >>> list(scan(bytes.fromhex("08 96 01 12 02 68 69")))
    [(1, 0, 1, 3), (2, 2, 5, 7)]
    """
    source = open_bytes(source)
    whole = Piece(source, where or source.where)
    for piece, tokens, _ in scan_pieces(
        whole, start, source.size if stop is None else stop, "the message"
    ):
        base = piece.base
        for tag, _, first, last in tokens:
            yield tag >> 3, tag & 7, first + base, last + base


def scan_pieces(
    piece: Piece, start: int, stop: int, what: str, runs: Container[int] = ()
) -> Iterator[tuple[Piece, list[Token], bool]]:
    """Give the fields of one level, by pieces of its bytes; positions are those in the piece.

    Many numbers in a row under one of the tags in `runs` come as a single token on its own, marked
    True, whose range holds them with their tags.
    """
    at, size, least = start, _FIRST, _AT_HAND
    whole = piece
    while at < stop:
        if at < piece.base or min(stop, at + least) > piece.base + len(piece.data):
            data = bytes(whole.source.read(at, min(at + size, stop)))
            piece = Piece(whole.source, whole.where, data, at)
        local = at - piece.base
        large = min(size, _PIECE) // 2
        tokens, behind, run = _split(piece, local, stop - piece.base, large, what, runs)
        if behind == local:
            size = least = 4 * size
        elif behind > len(piece.data):
            size, least = _FIRST, _AT_HAND
        else:
            size, least = min(4 * size, _PIECE), _AT_HAND
        if tokens:
            yield piece, tokens, False
        at = behind + piece.base
        if run:
            end = _run_end(piece.source, run, at, stop)
            if end > at:
                here = at - piece.base
                yield piece, [(run, here, here, end - piece.base)], True
            at = end


def _split(
    piece: Piece, at: int, room: int, large: int, what: str, runs: Container[int]
) -> tuple[list[Token], int, int]:
    """Take fields until the level, the piece or, where a run starts, patience ends.

    Of a value from `large` bytes on, only the head has to be in the piece. Gives them, where to go
    on, and the tag of the run.
    """
    data = piece.data
    end = min(len(data), room)
    found: list[Token] = []
    head, before, same = at, 0, 0
    try:
        while at < end:
            head = at
            tag = data[at]
            at += 1
            if tag > 127:
                tag, at = read_varint(data, head, _LONGEST_TAG)
            wire = tag & 7
            if tag < 8:
                raise BrokenError("field number 0")
            if wire == BYTES:
                size = data[at]
                at += 1
                if size > 127:
                    size, at = read_varint(data, at - 1)
                start = at
                at += size
                if at > end:
                    if at > room:
                        raise BrokenError(f"a field of {size:,} bytes, {room - start:,} are left")
                    if size < large:
                        return found, head, 0
            else:
                start = at
                if wire == VARINT:
                    while data[at] > 127:
                        at += 1
                    at += 1
                    if at - start > _LONGEST_VARINT:
                        raise BrokenError("a varint of more than ten bytes")
                elif wire == FIXED32:
                    at += 4
                elif wire == FIXED64:
                    at += 8
                elif wire == GROUP:
                    at = _skip_group(data, at, tag >> 3)
                elif wire == END_GROUP:
                    raise BrokenError("the end of a group that never started")
                else:
                    raise BrokenError(f"wire type {wire}")
                if at > end:
                    raise IndexError
                if tag != before:
                    before, same = tag, 0
                elif tag in runs:
                    same += 1
                    if same == _RUN:
                        found.append((tag, head, start, at))
                        return found, at, tag
            found.append((tag, head, start, at))
    except IndexError:
        if end == room:
            problem = f"{what} is cut short in the field at byte {head + piece.base:,}"
            raise CorruptError(problem, where=piece.where) from None
        return found, head, 0
    except BrokenError as error:
        problem = f"{what} has {error} at byte {head + piece.base:,}"
        raise CorruptError(
            problem, where=piece.where, cure="It is damaged, or of another kind."
        ) from None
    return found, at, 0


class BrokenError(Exception):
    """What stands here is no field."""


def read_varint(
    data: bytes | memoryview, at: int, longest: int = _LONGEST_VARINT
) -> tuple[int, int]:
    """Read a varint: its value and where it ends.

    Raises:
        BrokenError: it is too long.
        IndexError: the data ends within it.
    """
    value = shift = 0
    for place in range(at, at + longest):
        byte = data[place]
        value |= (byte & 127) << shift
        if byte < 128:
            if longest == _LONGEST_TAG and value >> 32:
                break
            return value & 0xFFFFFFFFFFFFFFFF, place + 1
        shift += 7
    kind = "a tag" if longest == _LONGEST_TAG else "a varint"
    raise BrokenError(f"{kind} of more than {longest} bytes")


def _skip_group(data: bytes, at: int, number: int) -> int:
    """Find the end of a group, behind its end tag."""
    within = [number]
    while within:
        tag, at = read_varint(data, at, _LONGEST_TAG)
        wire = tag & 7
        if tag < 8:
            raise BrokenError("field number 0")
        if wire == VARINT:
            _, at = read_varint(data, at)
        elif wire == BYTES:
            size, at = read_varint(data, at)
            at += size
        elif wire in _WIDTHS:
            at += _WIDTHS[wire]
        elif wire == GROUP:
            within.append(tag >> 3)
            if len(within) > MAX_DEPTH:
                raise BrokenError(f"more than {MAX_DEPTH} groups within one another")
        elif wire != END_GROUP:
            raise BrokenError(f"wire type {wire}")
        elif within.pop() != tag >> 3:
            raise BrokenError("a group that another one's end tag ends")
    return at


def _run_end(source: Source, tag: int, at: int, stop: int) -> int:
    """Find where numbers under the same tag stop following one another."""
    head = np.frombuffer(encode_varint(tag), np.uint8)
    size = _BLOCK
    while True:
        last = min(at + size, stop)
        data = np.frombuffer(source.read(at, last), np.uint8)
        wire = tag & 7
        if wire == VARINT:
            taken, whole = _count_varint_run(data, head)
        else:
            taken, whole = _count_fixed_run(data, head, _WIDTHS[wire])
        at += taken
        if not whole or last == stop:
            return at
        size = min(4 * size, _MOST_BLOCK)


def _count_fixed_run(
    data: np.ndarray[tuple[int], np.dtype[np.uint8]],
    head: np.ndarray[tuple[int], np.dtype[np.uint8]],
    width: int,
) -> tuple[int, bool]:
    """Give the bytes of a run, and whether it may go on behind the data."""
    stride = head.size + width
    rows = data[: data.size // stride * stride].reshape(-1, stride)
    same = (rows[:, : head.size] == head).all(axis=1)
    count = int(same.argmin()) if not same.all() else len(same)
    return count * stride, count == len(same) and count > 0


def _count_varint_run(
    data: np.ndarray[tuple[int], np.dtype[np.uint8]],
    head: np.ndarray[tuple[int], np.dtype[np.uint8]],
) -> tuple[int, bool]:
    """Give the bytes of a run, and whether it may go on behind the data.

    A tag is a varint too: tags and values take turns.
    """
    ends = np.flatnonzero(data < 128) + 1
    ends = ends[: ends.size // 2 * 2]
    starts = np.concatenate([[0], ends[:-1]]) if ends.size else ends
    tags, values = starts[::2], ends[1::2] - starts[1::2]
    same = (ends[::2] - tags == head.size) & (values <= _LONGEST_VARINT)
    for place, byte in enumerate(head):
        same &= data[np.minimum(tags + place, data.size - 1)] == byte
    count = int(same.argmin()) if not same.all() else len(same)
    return int(ends[2 * count - 1]) if count else 0, count == len(same) and count > 0
