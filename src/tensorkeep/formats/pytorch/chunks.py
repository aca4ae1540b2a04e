"""A tensor in boxes: one Source that gathers what is read of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep.dtypes import DType, count_of
from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor

_MAX_CELLS = 1 << 22

Axes = tuple[int, ...]


class Box(NamedTuple):
    """A part of a tensor: where it starts, its sizes, and its elements."""

    offsets: Axes
    sizes: Axes
    tensor: Tensor


def check_cover(shape: Axes, boxes: list[tuple[Axes, Axes]], name: str, where: str) -> None:
    """Check that boxes of offsets and sizes fill a shape, and no two overlap.

    Raises:
        CorruptError: some overlap, or something is left out.
        UnsafeError: they are so many that this takes too long to tell.
    """
    boxes = [box for box in boxes if count_of(box[1])]
    total = count_of(shape)
    filled = sum(count_of(sizes) for _, sizes in boxes)
    if filled < total:
        missing = total - filled
        raise CorruptError(f"{missing:,} elements of {name!r:.60} are in no chunk", where=where)
    # Along each axis, the places where a box starts or ends; between them is a grid of cells.
    cuts = [
        np.unique(
            [0, shape[axis], *(o[axis] for o, _ in boxes), *(o[axis] + s[axis] for o, s in boxes)]
        )
        for axis in range(len(shape))
    ]
    cells = tuple(len(cut) - 1 for cut in cuts)
    if count_of(cells) > _MAX_CELLS:
        raise UnsafeError(f"{name!r:.60} is in chunks that form no regular grid", where=where)
    taken = np.zeros(cells, bool)
    for offsets, sizes in boxes:
        part = tuple(
            slice(*np.searchsorted(cut, (start, start + size)).tolist())
            for cut, start, size in zip(cuts, offsets, sizes, strict=True)
        )
        if taken[part].any():
            raise CorruptError(f"chunks of {name!r:.60} overlap at {offsets}", where=where)
        taken[part] = True


class Gathered(Source):
    """The canonical bytes of a tensor whose boxes lie in different places."""

    __slots__ = ("_boxes", "_kind", "_shape")

    def __init__(self, kind: DType, shape: Axes, boxes: list[Box], where: str) -> None:
        super().__init__(kind.nbytes(count_of(shape)), where)
        self._kind = kind
        self._shape = shape
        self._boxes = boxes

    def _read(self, start: int, stop: int) -> memoryview:
        width = self._kind.numpy.itemsize
        first, last = start // width, -(-stop // width)
        if first == last:
            return memoryview(b"")
        found = self._elements((), self._boxes, first, last)
        data = found.view(np.uint8).data
        return data[start - first * width : stop - first * width].toreadonly()

    def _elements(self, outer: Axes, boxes: list[Box], first: int, last: int) -> npt.NDArray[Any]:
        """Give elements `first` to `last` of what `outer` leads to, flattened.

        Only the rows that hold them are put together, on the first axis on which they are several.
        """
        axis = len(outer)
        shape = self._shape[axis:]
        row = count_of(shape[1:])
        top, bottom = first // row, -(-last // row)
        if len(shape) > 1 and bottom - top == 1:
            inside = [box for box in boxes if 0 <= top - box.offsets[axis] < box.sizes[axis]]
            skipped = top * row
            return self._elements((*outer, top), inside, first - skipped, last - skipped)
        rows = np.empty((bottom - top, *shape[1:]), self._kind.numpy)
        for box in boxes:
            begin, end = box.offsets[axis], box.offsets[axis] + box.sizes[axis]
            begin, end = max(begin, top), min(end, bottom)
            if begin >= end:
                continue
            index = tuple(n - o for n, o in zip(outer, box.offsets, strict=False))
            into = tuple(
                slice(o, o + s)
                for o, s in zip(box.offsets[axis + 1 :], box.sizes[axis + 1 :], strict=True)
            )
            own = slice(begin - box.offsets[axis], end - box.offsets[axis])
            rows[(slice(begin - top, end - top), *into)] = box.tensor[(*index, own)]
        return rows.reshape(-1)[first - top * row : last - top * row]
