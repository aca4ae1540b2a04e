"""Elements as containers lay them out, and as a Tensor has them.

Containers that know nothing of types below a byte keep each element in a byte of its own, as
ml_dtypes holds them in memory; a Tensor packs them.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor

Shape = tuple[int, ...]

_PIECE = 8 << 20


def wide_nbytes(kind: DType, count: int) -> int:
    """Give the bytes that `count` elements take where each has whole bytes of its own."""
    return count * kind.numpy.itemsize


def wide_pieces(tensor: Tensor) -> Iterator[memoryview]:
    """Give the bytes of a tensor in order, each element in whole bytes of its own."""
    if not tensor.dtype.packed:
        yield from tensor.pieces(_PIECE)
        return
    flat = Tensor(tensor.dtype, (tensor.size,), tensor.source, tensor.offset)
    for start in range(0, tensor.size, _PIECE):
        yield np.ascontiguousarray(flat[start : start + _PIECE]).view(np.uint8).data


class Packed(Source):
    """The canonical bytes of elements below a byte, which another source keeps in a byte each."""

    __slots__ = ("_at", "_count", "_inner", "_kind")

    def __init__(self, inner: Source, at: int, kind: DType, count: int) -> None:
        super().__init__(kind.nbytes(count), inner.where)
        inner._check(at, at + count)
        self._inner, self._at, self._kind, self._count = inner, at, kind, count

    def reach(self, start: int, stop: int) -> None:
        self._inner.reach(self._at, self._at + self._count)

    def _read(self, start: int, stop: int) -> memoryview:
        group = math.lcm(self._kind.bits, 8) // self._kind.bits
        width = group * self._kind.bits // 8
        first = start // width * group
        last = min(-(-stop // width) * group, self._count)
        codes = np.frombuffer(self._inner.read(self._at + first, self._at + last), np.uint8)
        skip = start - first // group * width
        packed = dtypes.pack(codes, self._kind)
        return packed.data[skip : skip + stop - start].toreadonly()


class Swapped(Source):
    r"""Numbers of `unit` bytes that are big endian in another source.

    >>> from tensorkeep.source import MemorySource
    >>> bytes(Swapped(MemorySource(bytes([0, 1, 0, 2])), 0, 4, 2).read(1, 4))
    b'\x00\x02\x00'
    """

    __slots__ = ("_inner", "_offset", "_unit")

    def __init__(self, inner: Source, offset: int, size: int, unit: int) -> None:
        super().__init__(size, inner.where)
        inner._check(offset, offset + size)
        self._inner, self._offset, self._unit = inner, offset, unit

    def reach(self, start: int, stop: int) -> None:
        self._inner.reach(self._offset + start, self._offset + stop)

    def _read(self, start: int, stop: int) -> memoryview:
        first = start // self._unit * self._unit
        last = -(-stop // self._unit) * self._unit
        data = self._inner.read(self._offset + first, self._offset + last)
        if first == last:
            return data
        swapped = np.frombuffer(data, f"u{self._unit}").byteswap().view(np.uint8).data
        return swapped[start - first : stop - first].toreadonly()


class Joined(Source):
    """The parts of other sources, one behind the other; a read within one of them copies nothing.

    Args:
        parts: the sources, and where in each a part starts and stops.
        where: how messages name it.

    >>> from tensorkeep.source import MemorySource
    >>> one = MemorySource(b"ab--cde-f")
    >>> joined = Joined([(one, 0, 2), (one, 4, 7), (one, 8, 9)], "example")
    >>> bytes(joined.read(1, 6)), bytes(joined.read(2, 4))
    (b'bcdef', b'cd')
    """

    __slots__ = ("_parts", "_starts")

    def __init__(self, parts: Sequence[tuple[Source, int, int]], where: str) -> None:
        sizes = [stop - start for _, start, stop in parts]
        self._starts = [0, *accumulate(sizes)]
        super().__init__(self._starts[-1], where)
        self._parts = parts

    def _read(self, start: int, stop: int) -> memoryview:
        pieces = list(self._pieces(start, stop))
        if len(pieces) == 1:
            source, first, last = pieces[0]
            return source.read(first, last)
        fresh = memoryview(bytearray(stop - start))
        self._fill(pieces, fresh)
        return fresh.toreadonly()

    def _readinto(self, start: int, buffer: memoryview) -> None:
        self._fill(self._pieces(start, start + buffer.nbytes), buffer)

    def _fill(self, pieces: Iterable[tuple[Source, int, int]], buffer: memoryview) -> None:
        done = 0
        for source, first, last in pieces:
            source.readinto(first, buffer[done : done + last - first])
            done += last - first

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[Source, int, int]]:
        at = bisect_right(self._starts, start) - 1
        while start < stop:
            source, first, last = self._parts[at]
            skip = start - self._starts[at]
            take = min(last - first - skip, stop - start)
            if take:
                yield source, first + skip, first + skip + take
            start += take
            at += 1


def boxes(shape: Shape, start: int, stop: int) -> Iterator[tuple[Shape, Shape]]:
    """Split a range of a flattened array into boxes, each by its origin and its extent.

    >>> list(boxes((3, 4), 2, 9))
    [((0, 2), (1, 2)), ((1, 0), (1, 4)), ((2, 0), (1, 1))]
    """
    if start >= stop:
        return
    if not shape:
        yield (), ()
        return
    row = math.prod(shape[1:])
    first, last = start // row, (stop - 1) // row
    if first == last and (start % row or stop % row):
        inner = boxes(shape[1:], start - first * row, stop - first * row)
        yield from (((first, *origin), (1, *extent)) for origin, extent in inner)
        return
    if start % row:
        yield from boxes(shape, start, (first + 1) * row)
        first += 1
    full = stop // row
    if full > first:
        yield (first, *(0 for _ in shape[1:])), (full - first, *shape[1:])
    if stop % row:
        yield from boxes(shape, full * row, stop)
