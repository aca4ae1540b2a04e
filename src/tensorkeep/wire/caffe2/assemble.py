"""Parts of a tensor joined to one Tensor, whose values stay in the file until they are read."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import CorruptError
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.decode import Part
from tensorkeep.wire.caffe2.sections import Section

_PARALLEL = 4 << 20  # bytes from which on threads are worth starting


def join_parts(
    parts: Sequence[Part], dtype: DType, shape: tuple[int, ...], where: str, *, zeros: bool = False
) -> Tensor:
    """Join the parts of a tensor, later ones over earlier ones.

    What no part holds raises CorruptError when it is read, or is zero with `zeros`.
    """
    if len(parts) == 1 and (offset := parts[0].head.offset) >= 0:
        return Tensor(dtype, shape, parts[0].source, parts[0].start + offset)
    layout = Layout(parts, dtypes.count_of(shape), where, zeros=zeros)
    if dtype is dtypes.STRING:
        strings = StringSource(layout)
        return Tensor(dtype, shape, strings, 0, strings.size)
    return Tensor(dtype, shape, ChunkedSource(layout, dtype))


class Layout:
    """Which part gives which elements of a tensor, and which elements none gives."""

    def __init__(self, parts: Sequence[Part], count: int, where: str, *, zeros: bool) -> None:
        self.sections = _cover(parts)
        self.begins = [section.begin for section in self.sections]
        self.count = count
        self.where = where
        ends = [0, *(section.end for section in self.sections)]
        holes = zip(ends, [*self.begins, count], strict=True)
        self.gaps = [] if zeros else [(end, begin) for end, begin in holes if end < begin]

    def check(self, begin: int, end: int) -> None:
        """Refuse elements `begin` to `end` if some of them are missing.

        Raises:
            CorruptError: some are.
        """
        for first, last in self.gaps:
            if first < end and begin < last:
                raise CorruptError(
                    f"elements {first} to {last} are missing",
                    where=self.where,
                    cure="The file is cut short or lost a record; other elements can be read.",
                )

    def between(self, begin: int, end: int) -> Iterator[tuple[Section, int, int]]:
        """Give the sections that hold elements `begin` to `end`, and from where to where each.

        Raises:
            CorruptError: some of these elements are missing.
        """
        self.check(begin, end)
        for i in range(max(bisect_right(self.begins, begin) - 1, 0), len(self.sections)):
            section = self.sections[i]
            if section.begin >= end:
                return
            if section.end > begin:
                yield section, max(begin, section.begin), min(end, section.end)


def _cover(parts: Sequence[Part]) -> list[Section]:
    """Say which part gives which elements: the last of those that hold them."""
    full = [part for part in parts if part.head.begin < part.head.end]
    ordered = sorted(full, key=lambda part: part.head.begin)
    if all(one.head.end <= two.head.begin for one, two in pairwise(ordered)):
        return [Section(part.head.begin, part.head.end, part) for part in ordered]
    bounds = sorted({bound for part in full for bound in (part.head.begin, part.head.end)})
    place = {bound: i for i, bound in enumerate(bounds)}
    givers: list[Part | None] = [None] * len(bounds)
    free = list(range(len(bounds)))  # from a stretch to where the next without a giver may be
    for part in reversed(full):
        i, stop = place[part.head.begin], place[part.head.end]
        while (i := _next_free(free, i)) < stop:
            givers[i], free[i] = part, i + 1
    stretches = zip(pairwise(bounds), givers, strict=False)
    return [Section(begin, end, part) for (begin, end), part in stretches if part is not None]


def _next_free(free: list[int], i: int) -> int:
    while free[i] != i:
        free[i] = i = free[free[i]]
    return i


class ChunkedSource(Source):
    """The canonical bytes of numbers in several records, or in varints; decoded as they are read.

    A read touches only the records that hold what it asks for; a large one decodes in threads.
    """

    __slots__ = ("_layout", "_numpy")

    def __init__(self, layout: Layout, dtype: DType) -> None:
        self._layout = layout
        self._numpy = dtype.numpy
        super().__init__(dtype.nbytes(layout.count), layout.where)

    def reach(self, start: int, stop: int) -> None:
        width = self._numpy.itemsize
        self._layout.check(start // width, -(-stop // width))

    def _read(self, start: int, stop: int) -> memoryview:
        return self._private(start, stop).toreadonly()

    def _private(self, start: int, stop: int) -> memoryview:
        if start == stop:
            return memoryview(bytearray())
        width = self._numpy.itemsize
        begin, end = start // width, -(-stop // width)
        values = self._decode(begin, end, None)
        skip = start - begin * width
        return values.view(np.uint8).data[skip : skip + stop - start]

    def _readinto(self, start: int, buffer: memoryview) -> None:
        width = self._numpy.itemsize
        if start % width or buffer.nbytes % width or not buffer.nbytes:
            buffer[:] = self._read(start, start + buffer.nbytes)
            return
        begin = start // width
        out = np.frombuffer(buffer, self._numpy)
        self._decode(begin, begin + out.size, out)

    def _decode(self, begin: int, end: int, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
        sections = list(self._layout.between(begin, end))
        filled = sum(last - first for _, first, last in sections) == end - begin
        if out is None:
            make = np.empty if filled else np.zeros
            out = make(end - begin, self._numpy)
        elif not filled:
            out[...] = 0
        values = out

        together = len(sections) > 1 and values.nbytes >= _PARALLEL

        def fill(one: tuple[Section, int, int]) -> None:
            section, first, last = one
            section.fill(values[first - begin : last - begin], first, parallel=not together)

        if together:
            with ThreadPoolExecutor(min(os.cpu_count() or 1, len(sections))) as pool:
                deque(pool.map(fill, sections), maxlen=0)
        else:
            deque(map(fill, sections), maxlen=0)
        return values


class StringSource(Source):
    """The canonical bytes of a string tensor, made when they are first read."""

    __slots__ = ("_data", "_layout")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._data: bytes | None = None
        text = sum(
            section.part.head.values.nbytes if section.whole else sum(map(len, section.strings()))
            for section in layout.sections
        )
        super().__init__(dtypes.STRING.nbytes(layout.count) + text, layout.where)

    def _read(self, start: int, stop: int) -> memoryview:
        if self._data is None:
            self._data = self._join()
        return memoryview(self._data)[start:stop]

    def _join(self) -> bytes:
        layout = self._layout
        sections = list(layout.between(0, layout.count))
        lengths = np.zeros(layout.count, "<u8")
        texts: list[bytes] = []
        for section, begin, end in sections:
            strings = section.strings()
            lengths[begin:end] = [len(text) for text in strings]
            texts += strings
        offsets = np.concatenate((np.zeros(1, "<u8"), np.cumsum(lengths, dtype="<u8")))
        return offsets.tobytes() + b"".join(texts)
