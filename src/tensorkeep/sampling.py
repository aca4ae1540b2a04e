"""Parts of tensors as flat arrays: runs of elements, samples, and everything a piece at a time.

A sample is made of few runs that are spread over the tensor, one in each of as many equal parts of
it and at another place in each, so that no column of a matrix is met again and again. It is the
same whenever it is drawn. Texts are read by their offsets: see `tensorkeep.dtypes`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor
from tensorkeep.threads import at_once

Array = npt.NDArray[Any]

RUNS = 64
RUN = 1024  # elements
_EVERY = 8  # of the runs, that many-th are read first
_FAR_RUNS = 8  # over a network, each of them is a request
_TEXT = 8 << 20  # bytes of text that a sample reads at most
_GLANCED = 1 << 18  # elements, and
_GLANCED_BYTES = 1 << 20  # bytes that are read and measured within milliseconds
_PIECE = 8 << 20
_CACHED = 1 << 20  # bytes that a processor's cache holds while they are measured


class _Unmapped(Source):
    """What another source holds, copied as it is read: no memory but ours is looked at later."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Source) -> None:
        super().__init__(inner.size, inner.where)
        self._inner = inner

    def _read(self, start: int, stop: int) -> memoryview:
        return self._private(start, stop).toreadonly()

    def _readinto(self, start: int, buffer: memoryview) -> None:
        self._inner.readinto(start, buffer)


def unmapped(tensor: Tensor) -> Tensor:
    """Give a tensor that is read, not mapped: the same one unless its file is mapped.

    To look at a map of a file that another program cuts short ends this one. So what works for long
    on files that may be written to meanwhile reads them; then it is an error like others.

    >>> whole = Tensor.of(np.zeros(3))
    >>> unmapped(whole) is whole
    True
    """
    if not tensor.source.mapped:
        return tensor
    source = _Unmapped(tensor.source)
    return Tensor(tensor.dtype, tensor.shape, source, tensor.offset, tensor.nbytes)


def sample(tensor: Tensor, runs: int = RUNS, run: int = RUN, *, until: float = math.inf) -> Array:
    """Give some of a tensor's values, 1-D: `runs` runs of `run` elements; all where it is small.

    Where all of a large chunk has to be unpacked for a few of its elements, that may take minutes:
    from the time `until` on, of `time.monotonic`, no further run is read.

    Raises:
        TensorKeepError: it cannot be read.

    >>> sample(Tensor.of(np.arange(100)), runs=3, run=2).tolist()
    [0, 1, 52, 53, 73, 74]
    """
    tensor, size = unmapped(tensor), tensor.size
    if size <= runs * run:
        if tensor.dtype is dtypes.STRING:
            return texts(tensor, 0, size, _TEXT)
        return tensor.elements(0, size)
    if tensor.source.remote:
        runs, run = min(runs, _FAR_RUNS), runs * run // min(runs, _FAR_RUNS)
    places = spread(size, runs, run)
    if tensor.source.remote and tensor.dtype is not dtypes.STRING:
        parts: list[Array] = []
        at_once([partial(tensor.elements, at, at + run) for at in places], parts.append)
        return np.concatenate(parts)
    found: dict[int, Array] = {}
    first = places[::_EVERY]
    for at in (*first, *(place for place in places if place not in first)):
        if found and time.monotonic() > until:
            break
        if tensor.dtype is dtypes.STRING:
            found[at] = texts(tensor, at, at + run, _TEXT // runs)
        else:
            found[at] = tensor.elements(at, at + run)
    return np.concatenate([found[at] for at in places if at in found])


def glance(tensor: Tensor, *, until: float = math.inf) -> Array:
    """Give all of a tensor's values where that is quick, else a sample: 1-D; see `sample`.

    Raises:
        TensorKeepError: it cannot be read.

    >>> glance(Tensor.of(np.ones((256, 512)))).size, glance(Tensor.of(np.ones((2048, 512)))).size
    (131072, 65536)
    """
    quick = not tensor.dtype.packed and tensor.nbytes <= _GLANCED_BYTES
    if tensor.source.remote or not (quick or tensor.size <= _GLANCED):
        return sample(tensor, until=until)
    if tensor.dtype is dtypes.STRING:
        return texts(unmapped(tensor), 0, tensor.size, _TEXT)
    return unmapped(tensor).elements(0, tensor.size)


def spread(size: int, runs: int, run: int) -> list[int]:
    """Say where runs of `run` elements start, one in each of `runs` equal parts of `size` elements.

    >>> spread(100, 3, 2)
    [0, 52, 73]
    """
    golden = 0.6180339887498949  # its multiples are spread evenly between whole numbers
    places = []
    for i in range(runs):
        low, high = i * size // runs, (i + 1) * size // runs
        places.append(low + int((high - low - run) * (i * golden % 1)))
    return places


def pieces(tensor: Tensor, size: int = _PIECE) -> Iterator[tuple[Array, int]]:
    """Give all values in order, 1-D, and the bytes each piece takes in the tensor.

    A piece is of `size` bytes at most, but for a single text that is longer. It may be overwritten
    when the next is asked for. Files are read, not mapped, so that memory stays flat.

    Raises:
        TensorKeepError: it cannot be read.

    >>> [(part.tolist(), count) for part, count in pieces(Tensor.of(np.arange(3, dtype="u1")), 2)]
    [([0, 1], 2), ([2], 1)]
    """
    if tensor.dtype is dtypes.STRING:
        yield from _text_pieces(unmapped(tensor), size)
        return
    group, width = tensor.dtype.group
    held = max(width, group * tensor.dtype.numpy.itemsize)  # what a group takes once it is read
    mapped = tensor.source.mapped and not tensor.dtype.packed
    tensor = tensor if mapped else unmapped(tensor)
    count = max(1, (min(size, _CACHED) if mapped else size) // held) * group
    room = bytearray(min(count * width, tensor.nbytes)) if mapped else bytearray()
    for start in range(0, tensor.size, count):
        stop = min(start + count, tensor.size)
        nbytes = tensor.dtype.nbytes(stop - start)
        if mapped:
            data = memoryview(room)[:nbytes]
            tensor.source.readinto(tensor.offset + start * width, data)
            yield tensor.decode(data, (stop - start,)), nbytes
        else:
            yield tensor.elements(start, stop), nbytes


def texts(tensor: Tensor, start: int, stop: int, most: int) -> Array:
    """Read texts `start` to `stop` of the flattened tensor: as many as fit `most` bytes.

    Raises:
        CorruptError: their offsets contradict one another.
        UnsupportedError: the first alone is longer than `most` bytes.

    >>> texts(Tensor.of(["a", "bc", "def"]), 1, 3, 100).tolist()
    ['bc', 'def']
    """
    bounds = _bounds(tensor, start, stop)
    count = int(np.searchsorted(bounds, bounds[0] + np.uint64(most), "right")) - 1
    if count == 0 and stop > start:
        raise UnsupportedError(
            f"one of its texts is {int(bounds[1] - bounds[0]):,} bytes long",
            where=tensor.source.where,
            cure="Read it in Python: tensorkeep.open(path)[name].numpy().",
        )
    return _split(tensor, bounds[: count + 1])


def _text_pieces(tensor: Tensor, size: int) -> Iterator[tuple[Array, int]]:
    at = 0
    while at < tensor.size:
        stop = min(at + max(1, size // 16), tensor.size)
        bounds = _bounds(tensor, at, stop)
        fit = int(np.searchsorted(bounds, bounds[0] + np.uint64(size // 2), "right")) - 1
        bounds = bounds[: max(fit, 1) + 1]
        yield _split(tensor, bounds), 8 * (len(bounds) - 1) + int(bounds[-1] - bounds[0])
        at += len(bounds) - 1


def _bounds(tensor: Tensor, start: int, stop: int) -> npt.NDArray[np.uint64]:
    """Read where texts start and end, in bytes after the offsets."""
    at = tensor.offset + 8 * start
    bounds = np.frombuffer(tensor.source.read(at, at + 8 * (stop - start + 1)), "<u8")
    text = tensor.nbytes - 8 * (tensor.size + 1)
    if np.any(bounds[1:] < bounds[:-1]) or int(bounds[-1]) > text:
        raise CorruptError("string offsets do not cover the text", where=tensor.source.where)
    return bounds


def _split(tensor: Tensor, bounds: npt.NDArray[np.uint64]) -> Array:
    first = tensor.offset + 8 * (tensor.size + 1)
    low = int(bounds[0])
    data = bytes(tensor.source.read(first + low, first + int(bounds[-1])))
    ends = [end - low for end in bounds.tolist()]
    out = np.empty(len(ends) - 1, object)
    for i in range(len(out)):
        out[i] = data[ends[i] : ends[i + 1]].decode("utf-8", "surrogateescape")
    return out
