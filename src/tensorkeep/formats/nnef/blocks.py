"""Gzip whose blocks are packed side by side and unpacked one by one; to others it is plain gzip.

    1f 8b 08 04 ...  gzip's header, with an extra field "TK": the size of all as 8 bytes, and for
                     each block its packed size and the CRC-32 of what it unpacks to, 4 bytes each
    blocks           deflate that refers to nothing before it, each ending with 00 00 ff ff
    03 00 ...        deflate's end, and gzip's CRC-32 and size of all

Every block but the last unpacks to the same size, which follows from that of all.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import accumulate

from tensorkeep.checksum import THREADS
from tensorkeep.errors import CorruptError
from tensorkeep.formats.nnef.gunzipped import check_ratio
from tensorkeep.source import Source
from tensorkeep.store import Chunk, Late
from tensorkeep.threads import working_ahead

_LEVEL = 1  # floats become little smaller by more
_BLOCK, _MOST_BLOCKS = 1 << 20, 2048
_SAMPLE = 16 << 10
_FEW = 4  # blocks that are not worth a thread
_BARE = zlib.Z_HUFFMAN_ONLY

_HEAD = struct.Struct("<4s6sH2sHQ")  # gzip's header, the lengths of its field and of ours, the size
_ENTRY = struct.Struct("<II")
_TAIL = struct.Struct("<2sII")
_MAGIC, _PLAIN, _KEY = b"\x1f\x8b\x08\x04", b"\0\0\0\0\0\xff", b"TK"
_FLUSHED, _END = b"\0\0\xff\xff", b"\x03\0"

_Entries = Sequence[tuple[int, int]]


def gzipped(chunks: Iterable[Chunk], size: int) -> Iterator[Chunk | Late]:
    """Pack bytes, on several threads.

    Args:
        chunks: the bytes.
        size: how many they are in all.

    >>> import gzip
    >>> head, *rest = gzipped([b"weights"], 7)
    >>> gzip.decompress(head.make() + b"".join(rest))
    b'weights'
    """
    entries: list[tuple[int, int]] = []
    count = -(-size // _block_size(size))
    yield Late(_HEAD.size + count * _ENTRY.size, lambda: _head(size, entries))
    check = 0
    for block, future in _ahead(_blocks(chunks, _block_size(size))):
        packed = future.result()
        entries.append((len(packed), zlib.crc32(block)))
        check = zlib.crc32(block, check)
        yield packed
    yield _TAIL.pack(_END, check, size & 0xFFFFFFFF)


def _block_size(size: int) -> int:
    return _BLOCK * max(1, -(-size // (_BLOCK * _MOST_BLOCKS)))


def _head(size: int, entries: _Entries) -> bytes:
    length = 8 + len(entries) * _ENTRY.size
    head = _HEAD.pack(_MAGIC, _PLAIN, 4 + length, _KEY, length, size)
    return head + b"".join(_ENTRY.pack(*entry) for entry in entries)


def _blocks(chunks: Iterable[Chunk], size: int) -> Iterator[bytearray]:
    block = bytearray()
    for chunk in chunks:
        left = memoryview(chunk)
        while left.nbytes:
            taken = left[: size - len(block)]
            block += taken
            left = left[taken.nbytes :]
            if len(block) == size:
                yield block
                block = bytearray()
    if block:
        yield block


def _ahead(blocks: Iterator[bytearray]) -> Iterator[tuple[bytearray, Future[bytes]]]:
    """Have blocks packed, a few ahead of the one that is given."""
    with working_ahead(THREADS) as pool:
        waiting: deque[tuple[bytearray, Future[bytes]]] = deque()
        for block in blocks:
            waiting.append((block, pool.submit(_pack, block)))
            if len(waiting) > THREADS:
                yield waiting.popleft()
        yield from waiting


def _pack(block: bytearray) -> bytes:
    """Pack a block: without looking for repetitions where a sample of it has none worth it.

    That takes a third of the time, and suits weights.
    """
    middle = max(0, len(block) - _SAMPLE) // 2
    sample = block[middle : middle + _SAMPLE]
    plain, bare = (len(_deflate(sample, how)) for how in (zlib.Z_DEFAULT_STRATEGY, _BARE))
    return _deflate(block, _BARE if bare <= plain else zlib.Z_DEFAULT_STRATEGY)


def _deflate(data: bytearray, strategy: int) -> bytes:
    deflater = zlib.compressobj(_LEVEL, wbits=-zlib.MAX_WBITS, strategy=strategy)
    return deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)


def open_blocks(packed: Source) -> Blocks | None:
    """Give what a gzip file of ours unpacks to; None where it is another, or was changed since.

    Raises:
        UnsafeError: it becomes far more than it is.

    >>> from tensorkeep.source import MemorySource
    >>> head, *rest = gzipped([b"weights"], 7)
    >>> bytes(open_blocks(MemorySource(head.make() + b"".join(rest))).read(1, 4))
    b'eig'
    """
    if packed.size < _HEAD.size:
        return None
    magic, plain, length, key, inner, size = _HEAD.unpack(packed.read(0, _HEAD.size))
    ours = (magic, plain, key, inner) == (_MAGIC, _PLAIN, _KEY, length - 4)
    count = -(-size // _block_size(size))
    start = _HEAD.size + count * _ENTRY.size
    if not ours or inner != 8 + count * _ENTRY.size or start + _TAIL.size > packed.size:
        return None
    entries = list(_ENTRY.iter_unpack(packed.read(_HEAD.size, start)))
    starts = list(accumulate((entry[0] for entry in entries), initial=start))
    if starts[-1] + _TAIL.size != packed.size:
        return None
    end, _, low = _TAIL.unpack(packed.read(starts[-1], packed.size))
    if (end, low) != (_END, size & 0xFFFFFFFF):
        return None
    check_ratio(size, packed.size, packed.where)
    return Blocks(packed, size, starts, [entry[1] for entry in entries])


class Blocks(Source):
    """The unpacked bytes of a gzip file, of which a read unpacks the blocks that it touches.

    Args:
        packed: the file.
        size: of what it unpacks to.
        starts: where its blocks are, and the end of the last.
        checks: the CRC-32 of each when it is unpacked.
    """

    __slots__ = ("_block", "_checks", "_last", "_packed", "_starts")

    def __init__(
        self, packed: Source, size: int, starts: Sequence[int], checks: Sequence[int]
    ) -> None:
        super().__init__(size, packed.where)
        self._packed = packed
        self._starts, self._checks = starts, checks
        self._block = _block_size(size)
        self._last = -1, b""  # the block that was read last, for what lies close to it

    def _read(self, start: int, stop: int) -> memoryview:
        number = start // self._block
        if start == stop or stop <= (number + 1) * self._block:
            begin = number * self._block
            return memoryview(self._near(number) if stop > start else b"")[
                start - begin : stop - begin
            ]
        out = bytearray(stop - start)
        self._readinto(start, memoryview(out))
        return memoryview(out).toreadonly()

    def _readinto(self, start: int, buffer: memoryview) -> None:
        stop = start + buffer.nbytes

        def fill(number: int) -> None:
            begin = number * self._block
            first, last = max(start, begin), min(stop, begin + self._block)
            data = memoryview(self._unpack(number))
            buffer[first - start : last - start] = data[first - begin : last - begin]

        numbers = range(start // self._block, -(-stop // self._block)) if stop > start else range(0)
        if len(numbers) < _FEW:
            for number in numbers:
                fill(number)
            return
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(fill, numbers):
                pass

    def _near(self, number: int) -> bytes:
        known = self._last
        if known[0] != number:
            known = self._last = number, self._unpack(number)
        return known[1]

    def _unpack(self, number: int) -> bytes:
        data = self._packed.read(self._starts[number], self._starts[number + 1])
        size = min(self._block, self.size - number * self._block)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            out = inflater.decompress(data, size + 1)
        except zlib.error as error:
            raise self._damaged(number, str(error)) from None
        whole = not inflater.eof and not inflater.unconsumed_tail and data[-4:] == _FLUSHED
        if not whole or len(out) != size:
            raise self._damaged(number, f"it does not unpack to {size:,} bytes")
        if zlib.crc32(out) != self._checks[number]:
            raise self._damaged(number, "its CRC-32 differs")
        return out

    def _damaged(self, number: int, how: str) -> CorruptError:
        return CorruptError(
            f"block {number} of its gzip data is damaged: {how}",
            where=self.where,
            cure="Use another copy of the file.",
        )
