"""Rows of tensors, which are what dataset operators read, choose and join. Tensors do not change.

A tensor that rows are appended to again and again lies in memory with room behind it, of which each
tensor of the row sees its own part; so a million short appends copy each byte about four times, and
not a million times.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.source import MemorySource, Source
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.columns import Numbers, ranges

_GROWTH = 1.4  # by how much the memory of an appended tensor grows
_LEAST = 64


def between(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Give rows `start` up to `stop` of a tensor; numbers are not read for it."""
    shape = (stop - start, *tensor.shape[1:])
    inner = math.prod(tensor.shape[1:])
    if tensor.dtype is dtypes.STRING:
        return _texts(tensor, np.arange(start * inner, stop * inner), shape)
    width = inner * tensor.dtype.bits // 8
    return Tensor(tensor.dtype, shape, tensor.source, tensor.offset + start * width)


def choose(tensor: Tensor, rows: Numbers) -> Tensor:
    """Give rows of a tensor by their numbers, which are checked; any order."""
    shape = (rows.size, *tensor.shape[1:])
    if tensor.dtype is dtypes.STRING:
        inner = math.prod(tensor.shape[1:])
        return _texts(tensor, (rows[:, None] * inner + np.arange(inner)).reshape(-1), shape)
    return Tensor.of(tensor.numpy()[rows] if rows.size else np.empty(shape, tensor.dtype.numpy))


def join(tensors: Sequence[Tensor], where: str) -> Tensor:
    """Put the rows of tensors behind one another.

    Args:
        tensors: one or more.
        where: names them in messages.

    Raises:
        UnsupportedError: they differ in type, or in the shape of a row.

    >>> join([Tensor.of(np.arange(2)), Tensor.of(np.arange(3))], "example").numpy().tolist()
    [0, 1, 0, 1, 2]
    """
    first, rest = tensors[0], tensors[1:]
    for other in rest:
        check_alike(first, other, where)
    shape = (sum(tensor.shape[0] for tensor in tensors), *first.shape[1:])
    if first.dtype is dtypes.STRING:
        return _join_texts(tensors, shape)
    size = first.nbytes + sum(tensor.nbytes for tensor in rest)
    source = first.source
    memory = source.memory if isinstance(source, _Grown) and source.size == first.nbytes else None
    if memory is None or not memory.take(first.nbytes, size):
        memory = _Memory(size, size if len(tensors) > 2 else int(size * _GROWTH))
        source = first.source
        source.readinto(first.offset, memory.view(0, first.nbytes))
    at = first.nbytes
    for tensor in rest:
        tensor.source.readinto(tensor.offset, memory.view(at, at + tensor.nbytes))
        at += tensor.nbytes
    return Tensor(first.dtype, shape, _Grown(memory, size, where))


def check_alike(one: Tensor, other: Tensor, where: str) -> None:
    """Refuse tensors whose rows differ in type or shape.

    Raises:
        UnsupportedError: they do.
    """
    if one.dtype is not other.dtype or one.shape[1:] != other.shape[1:]:
        raise UnsupportedError(
            f"rows of {other.dtype} {other.shape[1:]} cannot follow rows of "
            f"{one.dtype} {one.shape[1:]}",
            where=where,
            cure="Give both the same type, and the same axes but the first.",
        )


class _Memory:
    """Bytes with room behind them, that only ever get more."""

    def __init__(self, size: int, capacity: int) -> None:
        self._bytes = np.empty(max(capacity, _LEAST), np.uint8)
        self._lock = threading.Lock()
        self._size = size

    def take(self, start: int, stop: int) -> bool:
        """Have the bytes from `start` on, which have to be the first free ones; False if not."""
        with self._lock:
            if start != self._size or stop > self._bytes.size:
                return False
            self._size = stop
            return True

    def view(self, start: int, stop: int) -> memoryview:
        return self._bytes.data[start:stop]


class _Grown(Source):
    """The first bytes of a memory, which do not change any more."""

    __slots__ = ("memory",)

    def __init__(self, memory: _Memory, size: int, where: str) -> None:
        self.memory = memory
        super().__init__(size, where)

    def _read(self, start: int, stop: int) -> memoryview:
        return self.memory.view(start, stop).toreadonly()


def _texts(tensor: Tensor, numbers: Numbers, shape: tuple[int, ...]) -> Tensor:
    """Give elements of a string tensor, whose text alone is copied."""
    offsets, text = _split(tensor)
    starts, stops = offsets[numbers], offsets[numbers + 1]
    if numbers.size and numbers[-1] - numbers[0] == numbers.size - 1:  # most often so
        chosen = text[int(starts[0]) : int(stops[-1])]
    else:
        chosen = text[ranges(starts, stops)]
    return _of_texts(stops - starts, [chosen], shape, tensor.source.where)


def _join_texts(tensors: Sequence[Tensor], shape: tuple[int, ...]) -> Tensor:
    split = [_split(tensor) for tensor in tensors]
    lengths = np.concatenate([np.diff(offsets) for offsets, _ in split])
    return _of_texts(lengths, [text for _, text in split], shape, tensors[0].source.where)


def _of_texts(
    lengths: Numbers, texts: Sequence[npt.NDArray[Any]], shape: tuple[int, ...], where: str
) -> Tensor:
    offsets = np.zeros(lengths.size + 1, "<u8")
    np.cumsum(lengths, out=offsets[1:], dtype="<u8")
    data = b"".join([offsets.tobytes(), *(text.tobytes() for text in texts)])
    return Tensor(dtypes.STRING, shape, MemorySource(data, where), 0, len(data))


def _split(tensor: Tensor) -> tuple[Numbers, npt.NDArray[Any]]:
    """Give where the strings of a tensor begin in its text, and the text."""
    data = np.frombuffer(tensor.read(), np.uint8)
    head = 8 * (tensor.size + 1)
    offsets = data[:head].view("<i8").astype(np.int64, copy=False)
    text = data[head:]
    if offsets[0] != 0 or offsets[-1] != text.size or bool((offsets[1:] < offsets[:-1]).any()):
        raise CorruptError("string offsets do not cover the text", where=tensor.source.where)
    return offsets, text
