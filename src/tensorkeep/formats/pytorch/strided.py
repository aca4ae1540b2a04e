"""The canonical bytes of a tensor whose elements are not: strided, big endian or conjugated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.source import Source

# Turns values as they are stored into what they stand for.
Finish = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


class Strided(Source):
    """Elements picked out of a source by strides; only the rows that a read covers are copied.

    Args:
        inner: the bytes of the storage.
        start: where in them the first element is, in bytes.
        stored: the type and byte order of an element there.
        shape: the sizes of the axes.
        strides: how far apart neighbours on each axis are, in elements.
        finish: what is done to the values at the end.
    """

    __slots__ = ("_finish", "_inner", "_shape", "_start", "_stored", "_strides")

    def __init__(
        self,
        inner: Source,
        start: int,
        stored: np.dtype[Any],
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        finish: Finish | None = None,
    ) -> None:
        self._inner = inner
        self._start = start
        self._stored = stored
        self._shape = shape
        self._strides = strides
        self._finish = finish
        super().__init__(math.prod(shape) * stored.itemsize, inner.where)

    def _read(self, start: int, stop: int) -> memoryview:
        size = self._stored.itemsize
        first, last = start // size, -(-stop // size)
        if first >= last:
            return memoryview(b"")
        values = self._elements(first, last)
        values = values.astype(self._stored.newbyteorder("<"), copy=False)
        if self._finish is not None:
            values = self._finish(values)
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        return flat.data[start - first * size : stop - first * size].toreadonly()

    def _elements(self, first: int, last: int) -> npt.NDArray[Any]:
        """Give elements `first` to `last` in C order."""
        at, size, shape, strides = self._start, self._stored.itemsize, self._shape, self._strides
        while True:  # into the one row that holds them all, as far as there is one
            row = math.prod(shape[1:])
            begin, end = (first // row, -(-last // row)) if shape else (0, 1)
            if len(shape) < 2 or end - begin > 1:
                break
            at += begin * strides[0] * size
            first, last = first - begin * row, last - begin * row
            shape, strides = shape[1:], strides[1:]
        if shape:
            at += begin * strides[0] * size
            first, last = first - begin * row, last - begin * row
            shape = (end - begin, *shape[1:])
        span = 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        data = self._inner.read(at, at + span * size)
        steps = tuple(step * size for step in strides)
        array = np.ndarray(shape, self._stored, data, strides=steps)
        return np.ascontiguousarray(array).reshape(-1)[first:last]
