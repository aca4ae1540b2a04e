"""The elements of an array, gathered from the chunks that a read overlaps."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import CorruptError
from tensorkeep.formats.zarr.files import Files
from tensorkeep.formats.zarr.grid import Grid, Place, below
from tensorkeep.formats.zarr.metadata import Array
from tensorkeep.source import Source
from tensorkeep.wire.elements import boxes

_KEPT = 64 << 20  # bytes of unpacked chunks that are kept for the next read


class Whole(Source):
    """An array that is one chunk as it is: a window on its file."""

    __slots__ = ("_array", "_files", "_key", "_mapped", "_stored")

    def __init__(self, array: Array, path: str, files: Files) -> None:
        super().__init__(math.prod(array.shape) * array.width, f"{files.where}: {path}")
        self._array, self._files = array, files
        self._key = below(path, array.key((0,) * len(array.shape)))
        self._stored = math.prod(array.chunks) * array.width
        self._mapped: bool | None = None

    @property
    def mapped(self) -> bool:
        if self._files.far or (self._mapped is None and not self.size):  # or there is no chunk
            self._mapped = False
        elif self._mapped is None:
            file = self._files.open(self._key)
            self._mapped = file is not None and file.mapped and file.size == self._stored
            if file is not None:
                file.close()
        return self._mapped

    @property
    def remote(self) -> bool:
        return self._files.far

    def reach(self, start: int, stop: int) -> None:
        # Where all can be listed, that is cheaper than to open each of many files.
        file = None if self._files.far and self._files.root.store.lists else self._opened()
        if file is None:
            self._files.allow(stop - start)
        else:
            file.close()

    def _opened(self) -> Source | None:
        file = self._files.open(self._key)
        if file is not None and file.size != self._stored:
            file.close()
            raise _wrong_size(file, self._stored)
        return file

    def _read(self, start: int, stop: int) -> memoryview:
        if start == stop:
            return memoryview(b"")
        file = self._opened()
        if file is None:
            return _filled(self._array, self._files, start, stop)
        try:
            return file.read(start, stop)
        finally:
            file.close()

    def _private(self, start: int, stop: int) -> memoryview:
        file = self._opened()
        if file is None:
            return super()._private(start, stop)
        try:
            return file.private(start, stop)
        finally:
            file.close()

    def _readinto(self, start: int, buffer: memoryview) -> None:
        file = self._opened()
        if file is None:
            buffer[:] = _filled(self._array, self._files, start, start + buffer.nbytes)
            return
        try:
            file.readinto(start, buffer)
        finally:
            file.close()


def _filled(array: Array, files: Files, start: int, stop: int) -> memoryview:
    files.allow(stop - start)
    first, last = start // array.width, -(-stop // array.width)
    out = np.empty((last - first, array.width), np.uint8)
    out[:] = np.frombuffer(array.fill, np.uint8)
    return out.reshape(-1)[start - first * array.width :][: stop - start].data.toreadonly()


class Gathered(Source):
    """The elements of an array in C order and little endian, each in whole bytes."""

    __slots__ = ("_array", "_cache", "_element", "_files", "_grid", "_lock")

    def __init__(self, array: Array, path: str, files: Files) -> None:
        super().__init__(math.prod(array.shape) * array.width, f"{files.where}: {path}")
        self._array, self._files = array, files
        self._grid = Grid(array, path, files)
        self._element = np.dtype(_ELEMENTS[array.width])
        self._lock = threading.Lock()
        self._cache: OrderedDict[Place, Future[npt.NDArray[Any] | None]] = OrderedDict()

    def close(self) -> None:
        with self._lock:
            self._cache.clear()
            self._grid.close()

    def reach(self, start: int, stop: int) -> None:
        self._files.allow(stop - start)

    def _read(self, start: int, stop: int) -> memoryview:
        width = self._array.width
        first, last = start // width, -(-stop // width)
        self._files.allow((last - first) * width)
        out = np.empty(last - first, self._element)
        self._gather(first, last, out)
        data = out.view(np.uint8).data if out.size else memoryview(b"")
        return data[start - first * width :][: stop - start].toreadonly()

    def _readinto(self, start: int, buffer: memoryview) -> None:
        width = self._array.width
        if start % width or buffer.nbytes % width or not buffer.nbytes:
            buffer[:] = self._read(start, start + buffer.nbytes)
            return
        first = start // width
        out = np.frombuffer(buffer, np.uint8).view(self._element)
        self._gather(first, first + len(out), out)

    def check(self) -> None:
        """Unpack every chunk, and so check the checksums that are among its codecs.

        Raises:
            CorruptError: one is damaged.
        """
        for place in self._grid.within(self._grid.whole()):
            self._chunk(place)

    def _gather(self, first: int, last: int, out: npt.NDArray[Any]) -> None:
        done = 0
        for origin, extent in boxes(self._array.shape, first, last):
            count = math.prod(extent)
            self._fill_box(origin, extent, out[done : done + count].reshape(extent))
            done += count

    def _fill_box(self, origin: Place, extent: Place, out: npt.NDArray[Any]) -> None:
        sizes = self._array.inner
        spans = [
            range(at // size, (at + length - 1) // size + 1)
            for at, length, size in zip(origin, extent, sizes, strict=True)
        ]
        out[...] = np.frombuffer(self._array.fill, self._element)[0]
        for place in self._grid.within(spans):
            inside, outside = [], []
            for number, size, at, length in zip(place, sizes, origin, extent, strict=True):
                start, stop = max(at, number * size), min(at + length, (number + 1) * size)
                inside.append(slice(start - number * size, stop - number * size))
                outside.append(slice(start - at, stop - at))
            part = self._part(place, tuple(inside))
            if part is not None:
                out[tuple(outside)] = part

    def _part(self, place: Place, inside: tuple[slice, ...]) -> npt.NDArray[Any] | None:
        """Give a part of a chunk; None where the chunk is not stored."""
        array = self._array
        if not array.raw or not inside or array.shard:
            chunk = self._chunk(place)
            return None if chunk is None else chunk[inside] if inside else chunk
        file = self._grid.open(place)
        if file is None:
            return None
        try:  # only the rows that are wanted
            if file.size != math.prod(array.chunks) * array.width:
                raise _wrong_size(file, math.prod(array.chunks) * array.width)
            rows, row = inside[0], math.prod(array.chunks[1:]) * array.width
            data = file.read(rows.start * row, rows.stop * row)
        finally:
            file.close()
        shape = (rows.stop - rows.start, *array.chunks[1:])
        part: npt.NDArray[Any] = np.frombuffer(data, self._element).reshape(shape)
        return part[(slice(None), *inside[1:])]

    def _chunk(self, place: Place) -> npt.NDArray[Any] | None:
        """Unpack a chunk once, however many threads ask for it."""
        with self._lock:
            future = self._cache.get(place)
            if mine := future is None:
                future = self._cache[place] = Future()
            self._cache.move_to_end(place)
        if mine:
            try:
                chunk = self._unpacked(place)
            except BaseException as error:
                with self._lock:
                    self._cache.pop(place, None)
                future.set_exception(error)
                raise
            future.set_result(chunk)
            self._trim()
        return future.result()

    def _trim(self) -> None:
        size = math.prod(self._array.inner) * self._array.width
        with self._lock:
            while len(self._cache) > max(2, min(_KEPT // max(size, 1), 4096)):
                self._cache.popitem(last=False)

    def _unpacked(self, place: Place) -> npt.NDArray[Any] | None:
        array = self._array
        data = self._grid.read(place)
        if data is None:
            return None
        size = math.prod(array.inner) * array.width
        self._files.allow(size)
        data = unpack(array, data, size, self.where)
        if len(data) != size:
            raise CorruptError(
                f"the chunk {place} unpacks to {len(data):,} bytes, not {size:,}", where=self.where
            )
        half = array.width // 2 if array.kind.kind == "complex" else array.width
        flat = np.frombuffer(data, np.uint8)
        if array.big and half > 1:
            flat = flat.view(f">u{half}").astype(f"<u{half}")
        stored = flat.view(self._element).reshape([array.inner[axis] for axis in array.axes])
        return stored.transpose(np.argsort(array.axes)) if array.axes else stored


_ELEMENTS = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8", 16: "<c16"}


def unpack(array: Array, data: memoryview, size: int, where: str) -> memoryview:
    """Undo the codecs of a chunk that has `size` bytes at first.

    Raises:
        CorruptError: it is damaged.
        UnsafeError: it becomes more.
    """
    slack = size + size // 16 + 65536  # what packing what cannot be packed, and checksums, may add
    for position in range(len(array.codecs) - 1, -1, -1):
        step = array.codecs[position]
        data = step.decode(data, size if position == 0 else slack, where)
    return data


def _wrong_size(file: Source, size: int) -> CorruptError:
    return CorruptError(
        f"the chunk has {file.size:,} bytes, not {size:,}",
        where=file.where,
        cure="It is cut short, or the metadata of its array lies.",
    )
