"""Rows of one tensor, any of them in any order, as one fresh array."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.data.dataset import Rows
from tensorkeep.data.memory import empty
from tensorkeep.dtypes import STRING, unpack_strings
from tensorkeep.errors import CorruptError
from tensorkeep.source import MemorySource, Source
from tensorkeep.tensor import Tensor

_GAP = 16 << 10  # bytes that are cheaper to read than another read is to start
_SPAN = 64 << 20  # bytes that are read at once, where rows are decoded on the way
_WIDEST = 1 << 30  # bytes of a row that NumPy takes as one element
_CHUNKS = re.compile(r"chunks of ([0-9x]+)")

Values = npt.NDArray[Any]


def take(array: Values, rows: Rows) -> Values:
    """Copy rows of an array that is in memory, or mapped: as fast as memory goes.

    Rows are copied as one element each, by which NumPy moves whole rows and not their numbers.

    >>> take(np.arange(6).reshape(3, 2), np.array([2, 0])).tolist()
    [[4, 5], [0, 1]]
    """
    width = array.nbytes // max(1, len(array))
    if not array.flags.c_contiguous or array.dtype.hasobject or not 0 < width < _WIDEST:
        return np.asarray(array[rows])
    out = empty((len(rows), *array.shape[1:]), array.dtype)
    whole = array.reshape(-1).view(np.uint8).view(f"V{width}")
    # They were checked; "raise" would have NumPy gather into memory of its own first.
    whole.take(rows, out=out.reshape(-1).view(f"V{width}"), mode="clip")
    return out


def gather(tensor: Tensor, rows: Rows, block: int = 1) -> Values:
    """Read rows of a tensor; only their bytes, or what has to be decoded for them, are read.

    Args:
        tensor: of one axis or more.
        rows: int64 numbers of rows, checked before; any order.
        block: rows that are decoded together, such as those of a compressed chunk. Each block is
            read once, however many of its rows are asked for.

    Returns:
        A fresh, writable array: `len(rows)` by the shape of a row.

    Raises:
        CorruptError: they are damaged, or the file has become shorter.

    >>> gather(Tensor.of(np.arange(6).reshape(3, 2)), np.array([2, 0])).tolist()
    [[4, 5], [0, 1]]
    """
    if not len(rows) or not tensor.size:
        return np.empty((len(rows), *tensor.shape[1:]), tensor.dtype.numpy)
    if tensor.dtype is STRING:
        return _texts(tensor, rows)
    if not tensor.dtype.packed and tensor.source.mapped:
        return take(tensor.numpy(), rows)
    return _decoded(tensor, rows, block)


def rows_together(tensor: Tensor, remark: str) -> int:
    """Say how many neighbouring rows are decoded together, by what a format remarks of a tensor.

    >>> rows_together(Tensor.of(np.zeros((100, 3))), "chunks of 32x3, gzip 4")
    32
    """
    found = _CHUNKS.search(remark)
    sizes = [int(size) for size in found[1].split("x") if size] if found else []
    return max(1, min(sizes[0], len(tensor))) if len(sizes) == tensor.ndim > 0 else 1


def _decoded(tensor: Tensor, rows: Rows, block: int) -> Values:
    """Read rows in their stored order, near ones at once, and put each where it belongs."""
    count = math.prod(tensor.shape[1:])
    out = np.empty((len(rows), *tensor.shape[1:]), tensor.dtype.numpy)
    order = np.argsort(rows, kind="stable")
    stored = rows[order]
    for first, last in _runs(stored, max(1, tensor.nbytes // len(tensor)), block):
        low, high = int(stored[first]), int(stored[last - 1]) + 1
        part = tensor.elements(low * count, high * count).reshape(high - low, *tensor.shape[1:])
        out[order[first:last]] = part[stored[first:last] - low]
    return out


def _runs(stored: Rows, width: int, block: int) -> Iterator[tuple[int, int]]:
    """Cut rising row numbers where a gap is wide: from which to before which to read at once."""
    apart = (np.diff(stored) - 1) * width > _GAP
    if block > 1:
        apart &= np.diff(stored // block) > 0
    cuts = [0, *(np.flatnonzero(apart) + 1).tolist(), len(stored)]
    most = max(1, _SPAN // max(1, width), block)
    for first, last in pairwise(cuts):
        while first < last:  # a long run in parts, so that memory stays flat
            stop = int(np.searchsorted(stored[first:last], stored[first] + most)) + first
            yield first, stop
            first = stop


def _texts(tensor: Tensor, rows: Rows) -> Values:
    """Read strings: for each run of rows where they are, and then their text."""
    count, where = math.prod(tensor.shape[1:]), tensor.source.where
    source, at = tensor.source, tensor.offset
    if source.mapped:
        source, at = MemorySource(tensor.read(), where), 0
    out = np.empty((len(rows), *tensor.shape[1:]), object)
    head = 8 * (tensor.size + 1)
    order = np.argsort(rows, kind="stable")
    stored = rows[order]
    for first, last in _runs(stored, 8 * count, 1):
        low, high = int(stored[first]), int(stored[last - 1]) + 1
        offsets = source.read(at + 8 * low * count, at + 8 * (high * count + 1))
        part = _split(source, at + head, tensor.nbytes - head, offsets, where)
        out[order[first:last]] = part.reshape(high - low, *tensor.shape[1:])[
            stored[first:last] - low
        ]
    return out


def _split(source: Source, text: int, size: int, offsets: memoryview, where: str) -> Values:
    """Give the strings between some of the offsets of a tensor, whose text starts at `text`."""
    bounds = np.frombuffer(offsets, "<u8")
    begin, end = int(bounds[0]), int(bounds[-1])
    if not begin <= end <= size:
        raise CorruptError("string offsets do not cover the text", where=where)
    own = (bounds - bounds[0]).astype("<u8").tobytes()
    joined = own + bytes(source.read(text + begin, text + end))
    return unpack_strings(joined, len(bounds) - 1, where)
