"""Sources of elements that do not lie in the file as they are in memory."""

from __future__ import annotations

import importlib
import math
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import UnsupportedError
from tensorkeep.formats.hdf5.elements import Elements
from tensorkeep.formats.hdf5.file import check_open, damage, h5py
from tensorkeep.source import Source

# Chunks are decoded whole, so one that is read in parts should not be forgotten in between.
_CACHE = 64 << 20
_SLOTS = 12_421  # a prime, as the library wants it
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset"}
_FILTERS |= {32000: "lzf", 32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32015: "zstd"}


class Decoded(Source):
    """The elements of a chunked, compressed or never written dataset, decoded by the library.

    The library is called by one thread at a time. The dataset that was read last stays open with
    its decoded chunks, all others are closed, so that memory stays flat over many.
    """

    __slots__ = ("__weakref__", "_elements", "_file", "_open", "_path", "_shape")

    _lock = threading.RLock()
    _latest: weakref.ref[Decoded] | None = None

    def __init__(self, dataset: Any, elements: Elements, size: int, where: str) -> None:
        super().__init__(size, where)
        self._file = dataset.file
        self._path = h5py().h5i.get_name(dataset.id)
        self._shape = (*map(int, dataset.shape), size // max(1, math.prod(dataset.shape)))
        self._elements = elements
        self._open: Any = None

    def _read(self, start: int, stop: int) -> memoryview:
        return self._private(start, stop).toreadonly()

    def _readinto(self, start: int, buffer: memoryview) -> None:
        stop, width = start + buffer.nbytes, self._shape[-1]
        first, last = start // width, -(-stop // width)
        if not buffer.nbytes:
            return
        with self._lock, damage(self.where):
            check_open(self._file, self.where)
            dataset = self._opened()
            if (first * width, last * width) == (start, stop):
                self._fill(dataset, first, np.frombuffer(buffer, np.uint8))
                return
            whole = np.empty((last - first) * width, np.uint8)
            self._fill(dataset, first, whole)
        buffer[:] = whole[start - first * width :][: buffer.nbytes].data

    def _opened(self) -> Any:
        latest = Decoded._latest() if Decoded._latest is not None else None
        if latest is not None and latest is not self:
            latest._open = None
        Decoded._latest = weakref.ref(self)
        if self._open is None:
            library = h5py(self.where)
            plan = library.h5p.create(library.h5p.DATASET_ACCESS)
            plan.set_chunk_cache(_SLOTS, _CACHE, 1.0)
            self._open = library.h5d.open(self._file.id, self._path, plan)
        return self._open

    def _fill(self, dataset: Any, first: int, out: npt.NDArray[np.uint8]) -> None:
        """Read elements from the flat place `first` on, as the file's type, then swap in place."""
        library = h5py(self.where)
        width, at = self._shape[-1], 0
        kind, within = dataset.get_type(), dataset.get_space()
        for start, count in boxes(self._shape[:-1], first, first + out.size // width):
            size = math.prod(count)
            if start:
                within.select_hyperslab(start, count)
            part = out[at : at + size * width]
            dataset.read(library.h5s.create_simple((size,)), within, part, kind)
            at += size * width
        if self._elements.swapped:
            swap(out, self._elements.width)


def boxes(
    shape: tuple[int, ...], first: int, last: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut elements `first` to `last` of a flattened array into boxes, in order: starts and sizes.

    >>> list(boxes((3, 4), 2, 9))
    [((0, 2), (1, 2)), ((1, 0), (1, 4)), ((2, 0), (1, 1))]
    """
    if first >= last:
        return
    if len(shape) < 2:
        yield ((first,), (last - first,)) if shape else ((), ())
        return
    row, inner = math.prod(shape[1:]), shape[1:]
    while first < last:
        at, skipped = divmod(first, row)
        rows = (last - first) // row
        if not skipped and rows:
            yield (at, *(0 for _ in inner)), (rows, *inner)
            first += rows * row
            continue
        stop = min(last, (at + 1) * row)
        for start, count in boxes(inner, skipped, stop - at * row):
            yield (at, *start), (1, *count)
        first = stop


def swap(data: npt.NDArray[np.uint8], width: int) -> None:
    """Turn big-endian numbers of `width` bytes into little-endian ones, in place."""
    data.view(f"u{width}").byteswap(inplace=True)


class Unreadable(Source):
    """Elements that no element type here holds: told in a list, refused when they are read."""

    __slots__ = ("reason",)

    def __init__(self, size: int, reason: str, where: str) -> None:
        super().__init__(size, where)
        self.reason = reason

    @property
    def mapped(self) -> bool:
        return True  # there is nothing to decode that could fail at it

    def _read(self, start: int, stop: int) -> NoReturn:
        raise UnsupportedError(
            f"{self.reason}, which no tensor can hold",
            where=self.where,
            cure="Load the others with names=..., or read this one with h5py.",
        )


def filters(dataset: Any) -> str:
    """Name the chunks and filters of a dataset; empty where it has none."""
    plan = dataset.id.get_create_plist()
    if plan.get_layout() != h5py().h5d.CHUNKED:
        return ""
    said = [f"chunks of {'x'.join(map(str, plan.get_chunk()))}"]
    for code, level in _filters(plan):
        name = _FILTERS.get(code, f"filter {code}")
        said.append(f"{name} {level[0]}" if code == 1 and level else name)
    return ", ".join(said)


def missing_filter(dataset: Any) -> str:
    """Say which filter a dataset needs that is not installed; empty where there is none."""
    h5z = h5py().h5z
    for code, _ in _filters(dataset.id.get_create_plist()):
        if not h5z.filter_avail(code):
            with suppress(ImportError):
                importlib.import_module("hdf5plugin")  # registers what it brings
            if not h5z.filter_avail(code):
                name = _FILTERS.get(code, "a filter")
                return f"is compressed with {name} (number {code}), which needs hdf5plugin"
    return ""


def _filters(plan: Any) -> list[tuple[int, tuple[int, ...]]]:
    found = (plan.get_filter(i) for i in range(plan.get_nfilters()))
    return [(code, values) for code, _, values, _ in found]
