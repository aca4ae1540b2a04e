"""Byte ranges gathered out of a map: what the batches of every kind of file are made by.

The positions are looked at as one array whose elements lie a byte apart and are as wide as a range,
so that NumPy's indexing copies all of them in one step, without the interpreter lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.data.memory import empty
from tensorkeep.source import Source

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

_WIDEST = (1 << 31) - 1  # bytes of an element of an array
_SMALL = 96 << 10  # bytes that the allocator hands out warm
_COARSE = 256  # bytes that are copied at once without their number counting


def view_of(source: Source) -> Bytes:
    """Look at all bytes of a source: a map where it is mapped, which costs nothing."""
    return np.frombuffer(source.read(0, source.size), np.uint8)


def gather(view: Bytes, starts: Numbers, size: int) -> Bytes:
    """Copy ranges of equal size; gives uint8 of shape (ranges, size).

    Args:
        view: where they lie, a contiguous array.
        starts: where each begins; all of them end inside.
        size: of each, in bytes.

    >>> gather(np.arange(9, dtype=np.uint8), np.array([6, 0]), 3).tolist()
    [[6, 7, 8], [0, 1, 2]]
    """
    count = len(starts)
    if size == 0 or count == 0:
        return np.empty((count, size), np.uint8)
    if size > _WIDEST:
        return np.stack(pieces(view, starts, np.full(count, size)))
    step = int(np.gcd.reduce(starts - starts[0], initial=size))
    if step >= _COARSE:
        return _by_steps(view, starts, size, step)
    windows: npt.NDArray[Any] = np.ndarray(
        (view.size - size + 1,), f"V{size}", view.data, strides=(1,)
    )
    if count * size <= _SMALL:
        return windows[starts].view(np.uint8).reshape(count, size)
    # NumPy gathers into memory of its own. A little at a time that is warm, and what is made of
    # it lies in memory used before: threads that ask for fresh pages wait for one another.
    out: Bytes = empty((count, size), np.uint8)
    ranges = out.reshape(-1).view(f"V{size}")
    few = max(1, _SMALL // size)
    for first in range(0, count, few):
        ranges[first : first + few] = windows[starts[first : first + few]]
    return out


def _by_steps(view: Bytes, starts: Numbers, size: int, step: int) -> Bytes:
    """Copy ranges that lie whole steps apart, as those on pages do: into memory used before."""
    out: Bytes = empty((len(starts), size), np.uint8)
    first = int(starts[0]) % step
    steps = view[first : first + (view.size - first) // step * step].view(f"V{step}")
    places = (starts // step)[:, None] + np.arange(size // step)
    steps.take(places, out=out.reshape(-1).view(f"V{step}").reshape(places.shape), mode="clip")
    return out


class _Memory:
    """All memory from the first to the last of several arrays, as NumPy is told of it."""

    def __init__(self, views: Sequence[Bytes]) -> None:
        self.views = views  # which are to stay as long as this is looked at
        starts = [view.ctypes.data for view in views]
        ends = [start + view.nbytes for start, view in zip(starts, views, strict=True)]
        self.__array_interface__ = {
            "data": (min(starts), True),
            "shape": (max(ends) - min(starts),),
            "typestr": "|u1",
            "version": 3,
        }


def span(views: Sequence[Bytes]) -> tuple[Bytes, list[int]]:
    """Look at several arrays as parts of one, so that ranges of all of them are copied at once.

    What lies between them is none of ours, and nobody may look at it. Also gives where in it each
    of the arrays begins.

    >>> one, other = np.arange(4, dtype=np.uint8), np.arange(9, dtype=np.uint8)
    >>> whole, begins = span([one, other])
    >>> gather(whole, np.array([begins[1] + 6, begins[0]]), 3).tolist()
    [[6, 7, 8], [0, 1, 2]]
    """
    whole: Bytes = np.asarray(_Memory(views))
    return whole, [view.ctypes.data - whole.ctypes.data for view in views]


def pieces(view: Bytes, starts: Numbers, sizes: Numbers) -> list[Bytes]:
    """Copy ranges of any sizes, each an array of its own; all of them end inside.

    >>> starts, sizes = np.array([6, 0]), np.array([1, 3])
    >>> [piece.tolist() for piece in pieces(np.arange(9, dtype=np.uint8), starts, sizes)]
    [[6], [0, 1, 2]]
    """
    ends = starts + sizes
    return [view[i:j].copy() for i, j in zip(starts.tolist(), ends.tolist(), strict=True)]


def joined(source: Source, starts: Numbers, sizes: Numbers) -> tuple[Bytes, Numbers]:
    """Read ranges one by one into one array; give it, and where in it each begins.

    For a source that is not mapped.

    Raises:
        CorruptError: a range is not inside the source.

    >>> from tensorkeep.source import MemorySource
    >>> view, starts = joined(MemorySource(b"abcdef"), np.array([4, 0]), np.array([2, 3]))
    >>> view.tobytes(), starts.tolist()
    (b'efabc', [0, 2])
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    places = ends - sizes
    view = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    for start, first, last in zip(starts.tolist(), places.tolist(), ends.tolist(), strict=True):
        source.readinto(start, view[first:last].data)
    return view, places


def inside(starts: npt.NDArray[Any], sizes: npt.NDArray[Any], size: int) -> bool:
    """Say whether all ranges lie within so many bytes, whatever the numbers are.

    >>> inside(np.array([0, 4]), np.array([4, 4]), 8), inside(np.array([-1]), np.array([1]), 8)
    (True, False)
    """
    if starts.dtype.kind not in "iu" or sizes.dtype.kind not in "iu" or starts.shape != sizes.shape:
        return False
    if not starts.size:
        return True
    if int(starts.min()) < 0 or int(sizes.min()) < 0 or int(starts.max()) > size:
        return False
    return bool((sizes <= size - starts.astype(np.int64)).all())
