"""Arrays of strings, which are read when the store is opened: their length is in no metadata."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import STRING
from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.formats.zarr.chunks import unpack
from tensorkeep.formats.zarr.files import Files
from tensorkeep.formats.zarr.grid import Grid, Place
from tensorkeep.formats.zarr.metadata import Array
from tensorkeep.source import MemorySource
from tensorkeep.tensor import Tensor

_MOST = 1 << 28  # bytes of one array of strings


def read_texts(array: Array, path: str, files: Files) -> Tensor:
    """Read an array of strings.

    Raises:
        CorruptError: it is damaged.
        UnsafeError: it is larger than an array of strings may be.
    """
    where = f"{files.where}: {path}"
    count = math.prod(array.shape)
    grid = Grid(array, path, files)
    chunks = math.prod(map(len, grid.whole()))
    each = math.prod(array.inner)
    if max(count, chunks * each) * max(array.width, 8) > _MOST:
        raise UnsafeError(f"{count:,} strings are more than are read", where=where)
    files.allow_texts(count)
    out = np.full(array.shape, "", object)
    for place in grid.within(grid.whole()):
        data = grid.read(place)
        if data is None:
            continue
        values = (
            _vlen(array, data, each, where)
            if array.text == "vlen"
            else _fixed(array, data, each, where)
        )
        stored = values.reshape([array.inner[axis] for axis in array.axes])
        chunk = stored.transpose(np.argsort(array.axes)) if array.axes else stored
        _put(out, chunk, place, array)
    packed = dtypes.pack_strings(out.reshape(-1).tolist())
    return Tensor(STRING, array.shape, MemorySource(packed, where), 0, len(packed))


def _put(out: npt.NDArray[Any], chunk: npt.NDArray[Any], place: Place, array: Array) -> None:
    target, source = [], []
    for number, size, axis in zip(place, array.inner, array.shape, strict=True):
        start, stop = number * size, min((number + 1) * size, axis)
        target.append(slice(start, stop))
        source.append(slice(0, stop - start))
    if place:
        out[tuple(target)] = chunk[tuple(source)]
    else:
        out[...] = chunk


def _fixed(array: Array, data: memoryview, count: int, where: str) -> npt.NDArray[Any]:
    size = count * array.width
    data = unpack(array, data, size, where)
    if len(data) != size:
        raise CorruptError(f"a chunk has {len(data):,} bytes, not {size:,}", where=where)
    kind = array.text.replace("<", ">") if array.big else array.text
    try:
        values = np.frombuffer(data, kind).astype(object)
    except (ValueError, SystemError) as error:
        raise CorruptError(f"its strings are damaged: {error}", where=where) from None
    if array.text.startswith("|S"):
        texts = [text.decode("utf-8", "surrogateescape") for text in values]
        values = np.empty(count, object)
        values[:] = texts
    return values


def _vlen(array: Array, data: memoryview, count: int, where: str) -> npt.NDArray[Any]:
    """Take apart a count and, for each string, its length and its bytes."""
    data = _bounded(array, data, where)
    found = int.from_bytes(data[:4], "little")
    if found != count or len(data) < 4 * (count + 1):
        raise CorruptError(f"a chunk has {found:,} strings, not {count:,}", where=where)
    out = np.empty(count, object)
    at = 4
    for i in range(count):
        length = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if at + length > len(data):
            raise CorruptError("a string ends behind its chunk", where=where)
        out[i] = bytes(data[at : at + length]).decode("utf-8", "surrogateescape")
        at += length
    return out


def _bounded(array: Array, data: memoryview, where: str) -> memoryview:
    """Undo the codecs, into no more than text becomes when it is unpacked."""
    limit = min(_MOST, (1 << 20) + 1000 * len(data))
    for step in reversed(array.codecs):
        data = step.decode(data, limit, where)
    return data
