"""Datasets of strings: fixed and variable lengths, as the canonical bytes of a `string` tensor.

A string of variable length is 16 bytes in the dataset: its length, and where in the file's heap it
is. Many can point at the same place, so their lengths are added up before any is read.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.errors import UnsafeError
from tensorkeep.formats.hdf5.decoded import Unreadable
from tensorkeep.formats.hdf5.elements import Elements
from tensorkeep.formats.hdf5.file import h5py
from tensorkeep.source import MemorySource, Source
from tensorkeep.tensor import Tensor

MAX_TEXT = 256 << 20
_REFERENCE = 16


def read_texts(
    dataset: Any, elements: Elements, shape: tuple[int, ...], source: Source, where: str
) -> Tensor:
    """Read all strings of a dataset; one of too many for that is listed, and refused when read."""
    count = math.prod(shape)
    size = count * max(elements.width, _REFERENCE)
    if size > MAX_TEXT:
        reason = f"holds {count:,} strings, more than are read at once"
        return Tensor(dtypes.UINT8, (size,), Unreadable(size, reason, where))
    if elements.inner:
        return Tensor(dtypes.UINT8, (size,), Unreadable(size, "holds arrays of strings", where))
    texts: list[bytes] = []
    for start, stop in _steps(dataset, elements, count, source, where):
        texts.extend(_values(dataset, elements, shape, start, stop))
        if sum(map(len, texts[-(stop - start) :])) > MAX_TEXT:
            raise UnsafeError("its strings take more memory than they should", where=where)
    data = dtypes.pack_strings(texts)
    return Tensor(dtypes.STRING, shape, MemorySource(data, where), 0, len(data))


def _steps(
    dataset: Any, elements: Elements, count: int, source: Source, where: str
) -> list[tuple[int, int]]:
    """Say how many strings to read at a time, so that none of it can fill the memory."""
    if elements.text == "fixed" or not count:
        return [(0, count)] if count else []
    offset = dataset.id.get_offset()
    if offset is not None and dataset.id.get_storage_size() == _REFERENCE * count:
        raw = np.frombuffer(source.read(offset, offset + _REFERENCE * count), "<u4")
        total = int(raw[::4].sum(dtype=np.uint64))
        if total > MAX_TEXT + source.size:
            raise UnsafeError(
                f"says its strings are {total:,} bytes, in a file of {source.size:,}", where=where
            )
        return [(0, count)]
    step = max(1, min(count, MAX_TEXT // max(1, source.size)))
    return [(start, min(count, start + step)) for start in range(0, count, step)]


def _values(
    dataset: Any, elements: Elements, shape: tuple[int, ...], start: int, stop: int
) -> list[bytes]:
    library = h5py()
    space = dataset.id.get_space()
    if shape:
        points = np.array(np.unravel_index(np.arange(start, stop), shape), "u8").T
        if (start, stop) != (0, math.prod(shape)):
            space.select_elements(np.ascontiguousarray(points))
    # h5py's own dtype, which tells it what to make of the pointers that the library gives.
    out = np.empty(stop - start, dataset.id.dtype)
    dataset.id.read(library.h5s.create_simple((stop - start,)), space, out)
    return [text if isinstance(text, bytes) else str(text).encode() for text in out.tolist()]
