"""Sorted tables, as LevelDB and TensorFlow write them: keys in ascending order, in blocks.

    data blocks, metaindex block, index block, footer

A block is entries, the offsets of its restart points (uint32 each) and their number (uint32),
followed by its kind (one byte: 0 plain, 1 packed with Snappy) and a masked CRC-32C of both. An
entry is three varints (how many bytes it has in common with the key before, how many more its key
has, how many its value has), the rest of the key, and the value. At a restart point no bytes are in
common.

An entry of the index block has a key no smaller than the last one of a data block, and as its value
where that block lies: its offset and its size, two varints. The footer is 48 bytes: where the
metaindex and the index lie, zeros up to 40 bytes, and a magic number. Facts: LevelDB's table format
document. There are no filters in TensorFlow's, so that every byte of the file belongs to a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
from tensorkeep.source import Source
from tensorkeep.wire import snappy
from tensorkeep.wire.crc32c import crc32c, unmask

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
FOOTER = 48
MAX_BLOCK = 16 << 20  # bytes, unpacked
MAX_KEY = 64 << 10  # bytes
MAX_KEYS = 256 << 20  # bytes of all keys, which share their beginnings in the file alone

_TRAILER = 5
_LEAST = 3  # bytes of an entry
_PLAIN, _SNAPPY = 0, 1
_CURE = "Use another copy of the file."


class Handle(NamedTuple):
    """Where a block lies, without its trailer."""

    offset: int
    size: int


def is_table(source: Source) -> bool:
    """Say whether bytes end as a sorted table does."""
    size = source.size
    return size >= FOOTER and bytes(source.read(size - len(MAGIC), size)) == MAGIC


def read_table(source: Source) -> Iterator[tuple[bytes, memoryview]]:
    """Give the keys and values in ascending order of keys, having checked every block's CRC.

    Raises:
        CorruptError: the table is damaged.
        UnsafeError: a block or the keys take more memory than any real table's.
        UnsupportedError: a block is packed in a way that is not known here.
    """
    where = source.where
    if not is_table(source):
        raise CorruptError("does not end as a sorted table does", where=where, cure=_CURE)
    footer = bytes(source.read(source.size - FOOTER, source.size))
    metaindex, at = _handle(footer, 0, where)
    index, at = _handle(footer, at, where)
    if at > 40 or any(footer[at:40]):
        raise CorruptError("the footer of the table is damaged", where=where, cure=_CURE)
    end = source.size - FOOTER
    blocks = [_handle_of(value, where) for _, value in _entries(_read(source, index, end), where)]
    extra = list(_entries(_read(source, metaindex, end), where))
    if extra:
        named = bytes(extra[0][0][:60])
        raise UnsupportedError(f"the table has a block for {named!r} beside its data", where=where)
    _check_tiling([*blocks, metaindex, index], end, where)
    last: bytes | None = None
    room = MAX_KEYS
    for block in blocks:
        for key, value in _entries(_read(source, block, end), where):
            if last is not None and key <= last:
                raise CorruptError("the table's keys are out of order", where=where, cure=_CURE)
            room -= len(key)
            if room < 0:
                raise UnsafeError(f"the table's keys are over {MAX_KEYS:,} bytes", where=where)
            last = key
            yield key, value


def _check_tiling(blocks: list[Handle], end: int, where: str) -> None:
    at = 0
    for block in blocks:
        if block.offset != at:
            raise CorruptError(
                f"a block of the table begins at byte {block.offset}, not at {at}",
                where=where,
                cure=_CURE,
            )
        at += block.size + _TRAILER
    if at != end:
        raise CorruptError(
            f"the blocks of the table end at byte {at}, not at {end}", where=where, cure=_CURE
        )


def _read(source: Source, block: Handle, end: int) -> memoryview:
    """Read a block, check it and unpack it."""
    where = source.where
    stop = block.offset + block.size
    if stop + _TRAILER > end:
        raise CorruptError(
            f"a block of the table is said to end at byte {stop + _TRAILER}, but there are {end}",
            where=where,
            cure=_CURE,
        )
    if block.size > MAX_BLOCK:
        raise UnsafeError(f"a block of {block.size:,} bytes is over the limit", where=where)
    data = source.read(block.offset, stop + _TRAILER)
    kept = unmask(int.from_bytes(data[-4:], "little"))
    found = crc32c(data[:-4])
    if found != kept:
        raise CorruptError(
            f"the block at byte {block.offset} has CRC-32C {found:08x}, {kept:08x} was saved",
            where=where,
            cure=_CURE,
        )
    kind = data[block.size]
    if kind == _PLAIN:
        return data[: block.size]
    if kind == _SNAPPY:
        return memoryview(snappy.unpack(data[: block.size], MAX_BLOCK, where))
    raise UnsupportedError(f"a block of the table is packed as kind {kind}", where=where)


def _entries(block: memoryview, where: str) -> Iterator[tuple[bytes, memoryview]]:
    """Give the entries of a block, the restart points compared with where they say they are."""
    size = block.nbytes
    count = int.from_bytes(block[-4:], "little") if size >= 4 else 0
    stop = size - 4 - 4 * count
    if stop < 0 or size < 4 or count > stop // _LEAST + 1:
        raise CorruptError(
            f"a block of {size:,} bytes cannot have {count:,} restart points",
            where=where,
            cure=_CURE,
        )
    restarts = np.frombuffer(block[stop : size - 4], "<u4")
    key, at, met = b"", 0, 0
    while at < stop:
        start = at
        shared, at = read_varint(block, at, stop, where)
        fresh, at = read_varint(block, at, stop, where)
        length, at = read_varint(block, at, stop, where)
        if shared > len(key) or at + fresh + length > stop or shared + fresh > MAX_KEY:
            raise CorruptError("an entry of the table leads outside its block", where=where)
        if met < count and start == restarts[met]:
            met += 1
            if shared:
                raise CorruptError("a restart point of the table shares a key", where=where)
        key = key[:shared] + bytes(block[at : at + fresh])
        yield key, block[at + fresh : at + fresh + length]
        at += fresh + length
    if met != count and (stop or count > 1 or restarts[0]):  # an empty block may have one, at 0
        raise CorruptError("a restart point of the table is inside an entry", where=where)


def _handle(data: bytes | memoryview, at: int, where: str) -> tuple[Handle, int]:
    offset, at = read_varint(data, at, len(data), where)
    size, at = read_varint(data, at, len(data), where)
    return Handle(offset, size), at


def _handle_of(value: memoryview, where: str) -> Handle:
    handle, at = _handle(value, 0, where)
    if at != len(value):
        raise CorruptError("the index of the table is damaged", where=where, cure=_CURE)
    return handle


def read_varint(data: bytes | memoryview, at: int, stop: int, where: str) -> tuple[int, int]:
    r"""Read a varint of up to 64 bits, in as few bytes as it takes; gives it and where it ends.

    Raises:
        CorruptError: it does not end before `stop`, or has more bits.

    >>> read_varint(b"\xac\x02", 0, 2, "example")
    (300, 2)
    """
    value = shift = 0
    while at < stop and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128 and value < 1 << 64 and (byte or not shift):
            return value, at
        shift += 7
    raise CorruptError("a varint does not end where it should", where=where, cure=_CURE)
