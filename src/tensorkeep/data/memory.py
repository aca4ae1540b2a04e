"""Memory for batches, used again once nobody looks at it.

Fresh memory is what gathering a batch costs most: the system hands it out page by page, and takes
longer than copying the samples, above all where several threads ask for it. NumPy has every view of
an array refer to the one at the root, however it was sliced, reshaped or wrapped by a framework; so
a weak reference to that root tells when the last of them is gone.
"""

from __future__ import annotations

import math
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

_WORTH = 256 << 10  # bytes below which the allocator has warm memory anyway
_IDLE = 64 << 20  # bytes of one size that wait to be used again, or two blocks
_SIZES = 8  # of blocks that wait


def _fresh(size: int) -> Bytes:
    return np.empty(size, np.uint8)


class Memory:
    """Blocks of memory by their size; threads share them.

    It takes no locks, since a collection of garbage can give a block back at any moment.

    Args:
        allocate: gives a new block of so many bytes.

    >>> memory = Memory()
    >>> first = memory.empty((512, 1024), np.uint8)
    >>> place = first.ctypes.data
    >>> del first
    >>> memory.empty((1024, 64), np.dtype("V8")).ctypes.data == place
    True
    """

    def __init__(self, allocate: Callable[[int], Bytes] = _fresh) -> None:
        self._allocate = allocate
        self._free: dict[int, deque[Bytes]] = {}
        self._used: dict[int, weakref.ref[Bytes]] = {}

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Give an array of any values, writable and nobody else's."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        if size < _WORTH or kind.hasobject:
            return np.empty(shape, kind)
        block = self._take(size)
        root = np.frombuffer(block.data, np.uint8)
        key = id(root)

        def gone(reference: object) -> None:
            del self._used[key]
            self._give(block)

        self._used[key] = weakref.ref(root, gone)
        return np.ndarray(shape, kind, root.data)

    def clear(self) -> None:
        """Give what waits back to the system."""
        self._free.clear()

    def _take(self, size: int) -> Bytes:
        try:
            return self._free[size].pop()
        except (KeyError, IndexError):
            return self._allocate(size)

    def _give(self, block: Bytes) -> None:
        size = block.nbytes
        if size not in self._free and len(self._free) >= _SIZES:
            self._free.clear()
        self._free.setdefault(size, deque(maxlen=max(2, _IDLE // size))).append(block)


MEMORY = Memory()
_THREAD = threading.local()


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Give an array of any values, of the memory that this thread is using."""
    memory: Memory = getattr(_THREAD, "memory", MEMORY)
    return memory.empty(shape, dtype)


@contextmanager
def using(memory: Memory) -> Iterator[None]:
    """Have this thread take arrays of another memory, such as one that a GPU can read."""
    before = getattr(_THREAD, "memory", MEMORY)
    _THREAD.memory = memory
    try:
        yield
    finally:
        _THREAD.memory = before
