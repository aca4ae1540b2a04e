"""Tensors that were saved in slices: partitioned variables.

The key of a slice is a zero byte, the name, the number of axes, and for each axis where the slice
starts and how long it is (-1: all of it), so written that byte order is the order of values. Facts:
ordered_code.cc and saved_tensor_slice_util.cc of TensorFlow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.formats.tensorflow.entries import FULL, Box
from tensorkeep.source import Source

_MOST = 2_000  # slices that are compared with one another, where they lie along several axes
_PIECE = 16 << 20


def slice_key(name: str, box: Box) -> bytes:
    """Give the key of a slice.

    >>> slice_key("w", ((0, 2), (0, -1))).hex()
    '0077000101028082807f'
    """
    text = name.encode("utf-8", "surrogateescape")
    text = re.sub(rb"[\x00\xff]", lambda met: met[0] + bytes([255 - met[0][0]]), text)
    numbers = b"".join(_signed(start) + _signed(length) for start, length in box)
    return _unsigned(0) + text + b"\x00\x01" + _unsigned(len(box)) + numbers


def _unsigned(value: int) -> bytes:
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _signed(value: int) -> bytes:
    """Write a number in n bytes of 7n - 1 bits, led by n ones if it is not negative, else zeros."""
    bits = (value if value >= 0 else ~value).bit_length()
    size = bits // 7 + 1
    head = ((1 << size) - 1) << (7 * size)
    return ((value & ((1 << 8 * size) - 1)) ^ head).to_bytes(size, "big")


@dataclass(frozen=True, slots=True)
class Part:
    """A slice: where in the tensor it starts, its shape, and where its bytes are."""

    start: tuple[int, ...]
    shape: tuple[int, ...]
    source: Source
    offset: int


def resolve(box: Box, shape: tuple[int, ...], where: str) -> tuple[tuple[int, ...], ...]:
    """Give the starts and the lengths of a slice of a tensor.

    Raises:
        CorruptError: it is not inside the tensor.
    """
    starts = tuple(start for start, _ in box)
    lengths = tuple(
        size - start if length == FULL else length
        for (start, length), size in zip(box, shape, strict=False)
    )
    inside = all(
        start >= 0 and length >= 0 and start + length <= size
        for start, length, size in zip(starts, lengths, shape, strict=False)
    )
    if len(box) != len(shape) or not inside:
        raise CorruptError(f"a slice {box} is not inside a tensor of shape {shape}", where=where)
    return starts, lengths


def check_cover(parts: Sequence[Part], shape: tuple[int, ...], name: str, where: str) -> None:
    """Refuse slices that leave a part of the tensor out, or hold it twice.

    Raises:
        CorruptError: they do.
        UnsupportedError: there are too many along several axes to tell.
    """
    filled = [part for part in parts if math.prod(part.shape)]
    held, size = sum(math.prod(part.shape) for part in filled), math.prod(shape)
    if held != size or _overlap(filled, shape, name, where):
        raise CorruptError(
            f"the slices of {name!r} hold {held:,} of its {size:,} elements"
            + (", some of them twice" if held == size else ""),
            where=where,
        )


def _overlap(parts: Sequence[Part], shape: tuple[int, ...], name: str, where: str) -> bool:
    split = [axis for axis, size in enumerate(shape) if any(p.shape[axis] != size for p in parts)]
    if len(split) == 1:
        (axis,) = split
        spans = sorted((part.start[axis], part.shape[axis]) for part in parts)
        return any(a + n > b for (a, n), (b, _) in pairwise(spans))
    if len(parts) > _MOST:
        raise UnsupportedError(
            f"{name!r} is cut along several axes into {len(parts):,} slices, over {_MOST:,}",
            where=where,
        )
    first = np.array([part.start for part in parts], np.int64).reshape(len(parts), -1)
    last = first + np.array([part.shape for part in parts], np.int64).reshape(len(parts), -1)
    for at in range(len(parts) - 1):
        meets = (first[at] < last[at + 1 :]) & (first[at + 1 :] < last[at])
        if meets.all(axis=1).any():
            return True
    return False


class Joined(Source):
    """The bytes of a tensor in C order whose slices lie apart; only the rows asked for are read."""

    __slots__ = ("_parts", "_row", "_shape", "_width")

    def __init__(self, parts: Sequence[Part], shape: tuple[int, ...], width: int, where: str):
        super().__init__(math.prod(shape) * width, where)
        self._parts = [part for part in parts if math.prod(part.shape)]
        self._shape, self._width = shape, width
        self._row = math.prod(shape[1:]) * width  # a scalar is one row of one element

    def _readinto(self, start: int, buffer: memoryview) -> None:
        rows = max(1, _PIECE // max(1, self._row))
        stop = start + buffer.nbytes
        at = start
        while at < stop:
            first = at // self._row
            last = min(first + rows, -(-stop // self._row))
            block = self._rows(first, last)
            end = min(stop, last * self._row)
            buffer[at - start : end - start] = block[
                at - first * self._row : end - first * self._row
            ]
            at = end

    def _read(self, start: int, stop: int) -> memoryview:
        return self._private(start, stop).toreadonly()

    def _private(self, start: int, stop: int) -> memoryview:
        fresh = memoryview(bytearray(stop - start))
        self._readinto(start, fresh)
        return fresh

    def _rows(self, first: int, last: int) -> memoryview:
        """Put together whole rows of the first axis."""
        kind = np.dtype((np.void, self._width))
        shape = self._shape or (1,)
        block = np.zeros((last - first, *shape[1:]), kind)
        for part in self._parts:
            start, size = part.start or (0,), part.shape or (1,)
            low, high = max(first, start[0]), min(last, start[0] + size[0])
            if low >= high:
                continue
            row = math.prod(size[1:]) * self._width
            offset = part.offset + (low - start[0]) * row
            data = part.source.read(offset, offset + (high - low) * row)
            inner = tuple(slice(a, a + n) for a, n in zip(start[1:], size[1:], strict=True))
            block[(slice(low - first, high - first), *inner)] = np.frombuffer(data, kind).reshape(
                high - low, *size[1:]
            )
        return block.reshape(-1).view(np.uint8).data
