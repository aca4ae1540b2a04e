"""Parts of tensors as a page draws them: windows of 2-D slices, exact values, filters as tiles.

A window shows every how many-th row and column is needed, nothing in between is averaged. Complex
numbers are drawn by their magnitude, texts by their length in characters. Of a tensor of one axis
that axis goes right; a scalar is one row of one column.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.sampling import texts, unmapped
from tensorkeep.selection import neighbours, select
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor
from tensorkeep.viewer.answers import Tiles, Values, Window

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Range = tuple[int, int]

MOST_VALUES = 64  # on each axis
_MOST = 4096  # on each axis of a window
_CELLS = 1 << 20  # of a window
_BYTES = 128 << 20  # that one request reads at most
_READS = 1 << 16
_AT_ONCE = 16 << 20  # bytes that are read together with what lies between what is needed
_FAR_READS = 256  # over a network, and
_FAR_BYTES = 64 << 20
_PATIENCE = 10.0  # seconds of reading from this machine
_NEAR = 128 << 10  # bytes between two reads that are cheaper to fetch than another request
_KERNEL = 11  # elements on an axis of a kernel at most
_TEXT = 1 << 20  # bytes of the texts in a row
_CELL = 1000  # characters of a text
_TILES = 4 << 20  # elements of all tiles together

Index = tuple[int | slice, ...]


@dataclass(frozen=True, slots=True)
class _Slice:
    """A 2-D slice: the axes that go down and right (None: 1 long), and the place on each axis."""

    shape: tuple[int, ...]
    down: int | None
    right: int | None
    at: list[int]

    @property
    def axes(self) -> list[int]:
        return [axis for axis in (self.down, self.right) if axis is not None]

    @property
    def empty(self) -> bool:
        """Whether nothing is there for the lack of a place on an axis that is not shown."""
        return any(not n and axis not in self.axes for axis, n in enumerate(self.shape))

    def length(self, axis: int | None) -> int:
        return 1 if axis is None else self.shape[axis]

    def index(self, rows: range, cols: range) -> Index:
        parts: list[int | slice] = list(self.at)
        for axis, chosen in ((self.down, rows), (self.right, cols)):
            if axis is not None:
                parts[axis] = slice(chosen.start, chosen.stop, chosen.step)
        return tuple(parts)

    def upright(self, array: Array, rows: range, cols: range) -> Array:
        """Turn what the index gives so that rows come first."""
        turned = self.down is not None and self.right is not None and self.down > self.right
        return (array.T if turned else array).reshape(len(rows), len(cols))


def window(
    tensor: Tensor,
    axes: Sequence[int] | None = None,
    at: Sequence[int] | None = None,
    rows: Range | None = None,
    cols: Range | None = None,
    most: int = 256,
) -> tuple[Window, Floats]:
    """Give a part of a 2-D slice, every how many-th row and column is needed for `most` of each.

    Fewer are given where those are over a million, or would take more than 128 MiB to read. What
    float32 cannot hold comes as infinity.

    Args:
        tensor: what to look at.
        axes: which goes down and which right; without it the last two, or of a convolution's
            kernel those of its channels.
        at: the place on each axis; those of `axes` do not count.
        rows: from and to on the axis that goes down; all of it without.
        cols: the same of the one that goes right.
        most: how many rows, and columns, to give at most.

    Raises:
        ArgumentError: an argument makes no sense for the tensor.
        TensorKeepError: it cannot be read.

    >>> head, data = window(Tensor.of(np.arange(12.0).reshape(3, 4)), most=2)
    >>> head.steps, head.shape, data.tolist(), (head.low, head.high)
    ([2, 2], [2, 2], [[0.0, 2.0], [8.0, 10.0]], (0.0, 10.0))
    """
    tensor = _in_time(tensor)
    if not 0 < most <= _MOST:
        raise ArgumentError(f"most has to be 1 to {_MOST}, not {most}")
    part = _slice(tensor.shape, axes, at)
    down = _range(rows, part.length(part.down), "rows")
    right = _range(cols, part.length(part.right), "cols")
    if part.empty:
        down = right = range(0)
    down, right = _every(down, -(-len(down) // most)), _every(right, -(-len(right) // most))
    while len(down) > 1 or len(right) > 1:
        if len(down) * len(right) <= _CELLS and _affordable(tensor, part.index(down, right)):
            break
        if len(down) >= len(right):
            down = _every(down, 2)
        else:
            right = _every(right, 2)
    data = _floats(part.upright(_read(tensor, part.index(down, right), len), down, right))
    low, high = _extremes(data)
    head = Window(
        axes=part.axes,
        at=part.at,
        rows=[down.start, down.stop],
        cols=[right.start, right.stop],
        steps=[down.step, right.step],
        shape=[len(down), len(right)],
        low=low,
        high=high,
    )
    return head, data


def values(
    tensor: Tensor,
    axes: Sequence[int] | None = None,
    at: Sequence[int] | None = None,
    rows: Range | None = None,
    cols: Range | None = None,
) -> Values:
    """Give a small part of a 2-D slice in full precision: the first 64 rows and columns without.

    Texts are cut after 1,000 characters.

    Raises:
        ArgumentError: an argument makes no sense for the tensor, or asks for more than 64 x 64.
        TensorKeepError: it cannot be read.

    >>> values(Tensor.of(np.array([[0.1, 2]], "float32"))).values
    [['0.1', '2.0']]
    """
    tensor = _in_time(tensor)
    part = _slice(tensor.shape, axes, at)
    chosen = []
    for given, axis, called in ((rows, part.down, "rows"), (cols, part.right, "cols")):
        length = part.length(axis)
        found = _range(given or (0, min(length, MOST_VALUES)), length, called)
        if len(found) > MOST_VALUES:
            raise ArgumentError(
                f"{called} asks for {len(found):,} values",
                cure=f"Ask for {MOST_VALUES} at a time at most.",
            )
        chosen.append(found)
    down, right = (range(0), range(0)) if part.empty else chosen
    array = part.upright(_read(tensor, part.index(down, right), _cut), down, right)
    return Values(
        rows=[down.start, down.stop],
        cols=[right.start, right.stop],
        values=[[str(value) for value in row] for row in array],
    )


def tiles(tensor: Tensor, layout: str = "", first: int = 0, count: int = 64) -> tuple[Tiles, Any]:
    """Give the filters of a convolution as images, float32 of (count, rows, cols, channels).

    Filters of three input channels are a coloured image each. Of others each input channel is a
    grey one: those of the first filter come first.

    Args:
        tensor: of four axes.
        layout: "oihw" or "hwio": which axes are output and input channels, height and width;
            without it a guess by which axes are short.
        first: the first image to give.
        count: how many to give at most.

    Raises:
        ArgumentError: an argument makes no sense for the tensor.
        TensorKeepError: it cannot be read.

    >>> head, data = tiles(Tensor.of(np.zeros((8, 3, 5, 5), "float32")), count=2)
    >>> head.layout, head.of, head.channels, data.shape
    ('oihw', 8, 3, (2, 5, 5, 3))
    """
    tensor = _in_time(tensor)
    if layout not in ("", "oihw", "hwio"):
        raise ArgumentError(f"there is no layout {layout!r}", cure='Say "oihw" or "hwio".')
    shape = tensor.shape
    if not (layout := layout or layout_of(shape)) or len(shape) != 4:
        raise ArgumentError(
            f"shape {list(shape)} is not that of filters",
            cure="They have four axes: channels out and in, height and width.",
        )
    outputs, inputs, height, width = (shape[layout.index(axis)] for axis in "oihw")
    channels = 3 if inputs == 3 else 1
    of = outputs if channels == 3 else outputs * inputs
    if not 0 <= first <= of or count < 1:
        raise ArgumentError(f"there are {of:,} images; {count} from {first} on cannot be given")
    count = min(count, of - first)
    if count * height * width * channels > _TILES:
        raise ArgumentError(
            f"{count} images of {height} x {width} are too many", cure="Ask for fewer at a time."
        )
    every = slice(None)
    images: list[Array] = []
    at, each = first, 1 if channels == 3 else inputs
    while len(images) < count:
        output, start = divmod(at, each)
        stop = inputs if channels == 3 else min(inputs, start + count - len(images))
        start = 0 if channels == 3 else start
        if layout == "oihw":
            found = _read(tensor, (output, slice(start, stop), every, every))
        else:
            found = np.moveaxis(_read(tensor, (every, every, slice(start, stop), output)), 2, 0)
        images += [np.moveaxis(found, 0, 2)] if channels == 3 else [one[..., None] for one in found]
        at += 1 if channels == 3 else stop - start
    data = _floats(np.array(images) if images else np.zeros((0, height, width, channels)))
    low, high = _extremes(data)
    return Tiles(layout, first, count, of, height, width, channels, low, high), data


class _InTime(Source):
    """What another source holds, until time is up."""

    __slots__ = ("_inner", "_until")

    def __init__(self, inner: Source) -> None:
        super().__init__(inner.size, inner.where)
        self._inner = inner
        self._until = time.monotonic() + _PATIENCE

    def _read(self, start: int, stop: int) -> memoryview:
        if time.monotonic() > self._until:
            raise UnsupportedError(
                "this part takes too long to read: too much has to be unpacked for it",
                where=self.where,
                cure="Look at other axes, or convert the file to one that is not compressed.",
            )
        return self._inner.read(start, stop)


def _in_time(tensor: Tensor) -> Tensor:
    """Have reads end at some time, and no map of a file looked at."""
    tensor = unmapped(tensor)
    if tensor.source.remote:
        return tensor
    source = _InTime(tensor.source)
    return Tensor(tensor.dtype, tensor.shape, source, tensor.offset, tensor.nbytes)


def layout_of(shape: Sequence[int]) -> str:
    """Guess how a kernel of four axes lies: "oihw" or "hwio"; "" where it seems to be none.

    >>> layout_of((64, 32, 3, 3)), layout_of((3, 3, 32, 64)), layout_of((8, 128, 64, 64))
    ('oihw', 'hwio', '')
    """
    return {"last": "oihw", "first": "hwio", "": ""}[_small(shape)] if len(shape) == 4 else ""


def _small(shape: Sequence[int]) -> str:
    """Say where the short axes of a kernel are: "last" or "first"; "" where it seems to be none."""
    if not 3 <= len(shape) <= 5 or 0 in shape:
        return ""
    last, first = shape[2:], shape[:-2]
    fits_last = max(last) <= _KERNEL
    fits_first = max(first) <= _KERNEL and len(shape) > 3  # a stack of matrices is no kernel
    if fits_last and fits_first:
        # Kernels are square, most of them, and have fewer elements than channels.
        return (
            "first"
            if (_unlike(first), math.prod(first))
            < (
                _unlike(last),
                math.prod(last),
            )
            else "last"
        )
    return "last" if fits_last else "first" if fits_first else ""


def _unlike(lengths: Sequence[int]) -> int:
    return max(lengths) - min(lengths)


def _slice(shape: tuple[int, ...], axes: Sequence[int] | None, at: Sequence[int] | None) -> _Slice:
    ndim = len(shape)
    small = _small(shape)
    if axes is None:
        chosen = list(range(ndim))[-2:]
        if small == "last" and sum(length > _KERNEL for length in shape[:2]) == 2:
            chosen = [0, 1]
    else:
        chosen = list(axes)
        if len(chosen) > 2 or len(set(chosen)) < len(chosen) or (ndim and not chosen):
            raise ArgumentError(
                f"axes are {chosen}",
                cure="Give the one that goes down and the one that goes right.",
            )
        if any(not 0 <= axis < ndim for axis in chosen):
            raise ArgumentError(f"axes are {chosen}, but the tensor has {ndim} of them")
    if at is None:
        kernel = range(2, ndim) if small == "last" else range(ndim - 2) if small else ()
        place = [length // 2 if axis in kernel else 0 for axis, length in enumerate(shape)]
    else:
        place = list(at)
        if len(place) != ndim:
            raise ArgumentError(f"at names {len(place)} places, but the tensor has {ndim} axes")
    for axis, (where, length) in enumerate(zip(place, shape, strict=True)):
        if axis in chosen:
            place[axis] = 0
        elif length == 0:
            place[axis] = 0  # nothing is there to be read, whatever the place
        elif not 0 <= where < length:
            raise ArgumentError(f"at is {where} on axis {axis}, which is {length} long")
    down, right = (None, *chosen)[-2:] if chosen else (None, None)
    return _Slice(shape, down, right, place)


def _range(given: Range | None, length: int, called: str) -> range:
    start, stop = (0, length) if given is None else given
    if not 0 <= start <= stop <= length or (start == stop and length):
        raise ArgumentError(
            f"{called} are {start} to {stop}", cure=f"They lie between 0 and {length}."
        )
    return range(start, stop)


def _every(places: range, step: int) -> range:
    return range(places.start, places.stop, places.step * max(step, 1))


def _affordable(tensor: Tensor, index: Index) -> bool:
    """Whether what an index needs can be read at once."""
    if tensor.dtype is dtypes.STRING or 0 in tensor.shape:
        return True
    chosen = select(index, tensor.shape)
    assert chosen is not None
    size = tensor.dtype.numpy.itemsize
    if sum(stop - start for start, stop in chosen.runs) * size > _BYTES:
        return False
    if not tensor.source.remote:
        return len(chosen.runs) <= _READS
    requests = list(neighbours(chosen.runs, _NEAR // size, 4 * _FAR_BYTES))
    fetched = sum(runs[-1][1] - runs[0][0] for runs in requests) * size
    return len(requests) <= _FAR_READS and fetched <= _FAR_BYTES


def _read(tensor: Tensor, index: Index, told: Callable[[str], Any] = len) -> Array:
    """Read what an index chooses; of texts, what is told of each."""
    if 0 in tensor.shape:
        kept = zip(index, tensor.shape, strict=True)
        shape = [len(range(*part.indices(n))) for part, n in kept if isinstance(part, slice)]
        return np.zeros(shape, tensor.dtype.numpy)
    if tensor.dtype is dtypes.STRING:
        return _read_texts(tensor, index, told)
    if not _affordable(tensor, index):
        raise ArgumentError(
            "this part takes too much to read at once", cure="Ask for a smaller one."
        )
    chosen = select(index, tensor.shape)
    assert chosen is not None
    first, last = chosen.runs[0][0], chosen.runs[-1][1]
    if len(chosen.runs) == 1 or tensor.dtype.nbytes(last - first) > _AT_ONCE:
        return tensor[index]
    # Each read of its own might unpack the same chunk again.
    found = tensor.elements(first, last)
    parts = [found[start - first : stop - first] for start, stop in chosen.runs]
    return chosen.finish(np.concatenate(parts).reshape(chosen.box))


def _read_texts(tensor: Tensor, index: Index, told: Callable[[str], Any]) -> Array:
    wanted: Array = np.zeros((), np.int64)
    for part, length in zip(index, tensor.shape, strict=True):
        places = np.arange(length)[part] if isinstance(part, slice) else np.int64(part)
        wanted = np.add.outer(wanted * length, places)
    flat = wanted.reshape(-1)
    found: list[Any] = []
    for run in np.split(flat, np.flatnonzero(np.diff(flat) != 1) + 1):
        at, stop = int(run[0]), int(run[-1]) + 1
        while at < stop:
            read = texts(tensor, at, stop, _TEXT)
            found += map(told, read)
            at += len(read)
    out = np.empty(len(found), object)
    out[:] = found
    return out.reshape(wanted.shape)


def _floats(array: Array) -> Floats:
    with np.errstate(all="ignore"):
        if array.dtype.kind == "c":
            array = np.abs(array.astype(np.complex128))
        return np.ascontiguousarray(array.astype(np.float32))


def _extremes(data: Floats) -> tuple[float | None, float | None]:
    finite = data[np.isfinite(data)]
    return (float(finite.min()), float(finite.max())) if finite.size else (None, None)


def _cut(text: str) -> str:
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"
