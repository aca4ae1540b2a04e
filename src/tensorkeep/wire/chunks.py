"""A tensor in boxes that lie in different places: one lazy tensor that gathers what is read of it.

Of each box only the range that is needed is read, and of those that are not touched nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep.dtypes import STRING, DType, count_of, pack
from tensorkeep.errors import ArgumentError, CorruptError, UnsafeError
from tensorkeep.selection import expand
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor
from tensorkeep.threads import at_once

_MAX_COMPARED = 1 << 28  # pairs of boxes

Axes = tuple[int, ...]


class Box(NamedTuple):
    """A part of a tensor: where it starts, its sizes, and its elements."""

    offsets: Axes
    sizes: Axes
    tensor: Tensor


Boxes = Sequence[Box]


def check_cover(shape: Axes, boxes: Sequence[tuple[Axes, Axes]], name: str, where: str) -> None:
    """Check that boxes of offsets and sizes, all of them inside, fill a shape, and none overlap.

    Raises:
        CorruptError: some overlap, or something is left out.
        UnsafeError: they are so many that this takes too long to tell.
    """
    boxes = [box for box in boxes if count_of(box[1])]
    missing = count_of(shape) - sum(count_of(sizes) for _, sizes in boxes)
    if missing > 0:
        raise CorruptError(f"{missing:,} elements of {name!r:.60} are in no chunk", where=where)
    if len(boxes) < 2:
        return
    starts = np.array([offsets for offsets, _ in boxes], np.int64).reshape(len(boxes), -1)
    stops = starts + np.array([sizes for _, sizes in boxes], np.int64).reshape(len(boxes), -1)
    second = overlap(starts, stops, name, where)
    if second is not None:
        raise CorruptError(f"chunks of {name!r:.60} overlap at {boxes[second][0]}", where=where)


def overlap(
    starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64], name: str, where: str
) -> int | None:
    """Find a box that overlaps with one before it; None where no two do.

    Args:
        starts: where each box starts on each axis.
        stops: and where it ends; no box is empty.
        name: of the tensor, in messages.
        where: names the file in messages.

    Raises:
        UnsafeError: they are so many, and lie so irregularly, that it takes too long to tell.

    >>> rows = np.array([[0], [4], [6]])
    >>> overlap(rows, rows + 3, "w", "it")
    2
    """
    count, axes = starts.shape
    if not axes:
        return 1 if count > 1 else None
    # Only boxes that meet on one axis can overlap: on that on which the fewest do, all in order.
    best, reach, rank = count * count, np.zeros(0, np.int64), np.zeros(0, np.int64)
    for axis in range(axes):
        order = np.argsort(starts[:, axis], kind="stable")
        ends = np.searchsorted(starts[order, axis], stops[order, axis])
        pairs = int((ends - np.arange(1, count + 1)).sum())
        if pairs < best or not rank.size:
            best, reach, rank = pairs, ends, order
    if best > _MAX_COMPARED:
        raise UnsafeError(f"{name!r:.60} is in chunks that form no regular grid", where=where)
    low, high = starts[rank], stops[rank]
    for place in np.flatnonzero(reach > np.arange(1, count + 1)).tolist():
        others = slice(place + 1, int(reach[place]))
        met = ((low[others] < high[place]) & (high[others] > low[place])).all(axis=1)
        if met.any():
            other = place + 1 + int(np.argmax(met))
            return max(int(rank[place]), int(rank[other]))
    return None


class Gathered(Source):
    """The canonical bytes of a tensor whose boxes lie in different places.

    Args:
        kind: the element type; no strings.
        shape: of the tensor.
        boxes: all of it, none of them empty; or what gives them when they are first needed.
        where: names the file in messages.
    """

    __slots__ = ("_boxes", "_kind", "_shape")

    def __init__(
        self, kind: DType, shape: Axes, boxes: Boxes | Callable[[], Boxes], where: str
    ) -> None:
        super().__init__(kind.nbytes(count_of(shape)), where)
        self._kind = kind
        self._shape = shape
        self._boxes = boxes

    @property
    def boxes(self) -> Boxes:
        """The boxes."""
        if callable(self._boxes):
            self._boxes = self._boxes()
        return self._boxes

    @property
    def remote(self) -> bool:
        return any(box.tensor.source.remote for box in self.boxes[:1])

    def _read(self, start: int, stop: int) -> memoryview:
        if start == stop:
            return memoryview(b"")
        group, width = self._kind.group
        first = start // width * group
        last = min(-(-stop // width) * group, count_of(self._shape))
        found = self._elements((), self.boxes, first, last)
        data = pack(found, self._kind) if self._kind.packed else found.view(np.uint8)
        skip = start - first // group * width
        return data.data[skip : skip + stop - start].toreadonly()

    def _readinto(self, start: int, buffer: memoryview) -> None:
        row = self._kind.nbytes(count_of(self._shape[1:])) if self._shape else 0
        if self._kind.packed or not row or start % row or buffer.nbytes % row or not buffer.nbytes:
            super()._readinto(start, buffer)
            return
        rows = np.frombuffer(buffer, self._kind.numpy).reshape(-1, *self._shape[1:])
        self._fill(rows, (), self.boxes, start // row)

    def _elements(self, outer: Axes, boxes: Boxes, first: int, last: int) -> npt.NDArray[Any]:
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
        self._fill(rows, outer, boxes, top)
        return rows.reshape(-1)[first - top * row : last - top * row]

    def _fill(self, rows: npt.NDArray[Any], outer: Axes, boxes: Boxes, top: int) -> None:
        """Fill rows of what `outer` leads to, from row `top` on."""
        axis = len(outer)
        bottom = top + len(rows)
        fills: list[Callable[[], None]] = []
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
            place = (slice(begin - top, end - top), *into)
            fills.append(partial(_copy, box.tensor, (*index, own), rows, place))
        _run(fills, apart=len(fills) > 1 and self.remote)


def _copy(tensor: Tensor, index: Any, rows: npt.NDArray[Any], place: Any) -> None:
    rows[place] = tensor[index]


def _run(fills: list[Callable[[], None]], *, apart: bool) -> None:
    """Do all, several at a time where each of them waits for a network."""
    if not apart:
        for fill in fills:
            fill()
        return
    at_once(fills)


class GatheredTensor(Tensor):
    """A tensor in boxes, of which an index reads those alone that it touches.

    >>> halves = [Box((i,), (2,), Tensor.of(np.arange(2) + i)) for i in (0, 2)]
    >>> gathered(halves[0].tensor.dtype, (4,), halves, "it")[1:3].tolist()
    [1, 2]
    """

    __slots__ = ()

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        source = self.source
        try:
            parts = expand(index, self.ndim)
            if parts is None or not isinstance(source, Gathered) or self.dtype is STRING:
                return super().__getitem__(index)
            chosen = [_positions(part, size) for part, size in zip(parts, self.shape, strict=True)]
        except ArgumentError as error:
            raise ArgumentError(error.problem, where=f"{self.source.where}: {self!r}") from None
        found = np.empty([len(positions) for positions in chosen], self.dtype.numpy)
        touched = list(_touched(source.boxes, chosen)) if found.size else []
        _run(
            [partial(_copy, box.tensor, own, found, into) for box, own, into in touched],
            apart=len(touched) > 1 and touched[0][0].tensor.source.remote,
        )
        picks = (
            slice(None, None, -1 if (part.step or 1) < 0 else 1) if isinstance(part, slice) else 0
            for part in parts
        )
        return np.asarray(found[tuple(picks)])


def gathered(
    kind: DType, shape: Axes, boxes: Boxes | Callable[[], Boxes], where: str
) -> GatheredTensor:
    """Make the one tensor of boxes."""
    return GatheredTensor(kind, shape, Gathered(kind, shape, boxes, where))


def _positions(part: int | slice, length: int) -> range:
    """Give the places on an axis that an index chooses, in rising order."""
    if isinstance(part, slice):
        chosen = range(*part.indices(length))
        return chosen if chosen.step > 0 else chosen[::-1]
    at = part + length if part < 0 else part
    if not 0 <= at < length:
        raise ArgumentError(f"index {part} is out of range for an axis of length {length}")
    return range(at, at + 1)


def _touched(
    boxes: Boxes, chosen: list[range]
) -> Iterator[tuple[Box, tuple[slice, ...], tuple[slice, ...]]]:
    """Give each box of which something is chosen: what of it, and where that goes."""
    for box in boxes:
        own: list[slice] = []
        into: list[slice] = []
        for offset, size, places in zip(box.offsets, box.sizes, chosen, strict=True):
            step = places.step
            first = max(0, -(-(offset - places.start) // step))
            last = min(len(places), -(-(offset + size - places.start) // step))
            if first >= last:
                break
            start = places[first] - offset
            own.append(slice(start, places[last - 1] - offset + 1, step))
            into.append(slice(first, last))
        else:
            yield box, tuple(own), tuple(into)
