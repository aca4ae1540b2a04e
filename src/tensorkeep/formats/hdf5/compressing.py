"""Compressed datasets: made by the library in a temporary file, of which memory holds pieces."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from tensorkeep.errors import ArgumentError
from tensorkeep.formats.hdf5.decoded import boxes
from tensorkeep.formats.hdf5.file import h5py
from tensorkeep.formats.hdf5.storing import Stored
from tensorkeep.formats.hdf5.structure import Contents, build, contiguous, new_file
from tensorkeep.tensor import Tensor

_CHUNK = 1 << 20
_CACHE = 32 << 20
_ROOM = 64 << 10  # the library's metadata in blocks of that, so that it is in few places
METHODS = ("gzip", "lzf")

Pieces = Callable[[str, Tensor, int], Iterator[memoryview]]


@dataclass(frozen=True, slots=True)
class Compression:
    """How datasets are cut into chunks, and what each chunk goes through.

    Args:
        method: "gzip", "lzf" or none.
        level: of gzip, 0 to 9.
        shuffle: put the first bytes of all elements together, then the second ones.
        fletcher32: let the library check each chunk.
        chunks: the rows of the first axis in a chunk; 0 for chunks of about 1 MiB.
    """

    method: str = ""
    level: int = 4
    shuffle: bool = False
    fletcher32: bool = False
    chunks: int = 0

    def __post_init__(self) -> None:
        if self.method and self.method not in METHODS:
            raise ArgumentError(
                f"compression takes {' or '.join(map(repr, METHODS))}, not {self.method!r}"
            )
        if type(self.level) is not int or not 0 <= self.level <= 9:
            raise ArgumentError(f"level is 0 to 9, not {self.level!r}")
        if type(self.chunks) is not int or self.chunks < 0:
            raise ArgumentError(f"chunks is a number of rows, not {self.chunks!r}")

    def plan(self, row: Stored) -> Any:
        """Plan a dataset; one of no elements or no axes is left in one piece."""
        plan = contiguous(row)
        if not row.shape or not math.prod(row.shape) or row.texts:
            return plan
        h5z = h5py().h5z
        plan.set_layout(h5py().h5d.CHUNKED)
        plan.set_chunk(self.chunk(row.shape, row.kind.get_size()))
        plan.set_alloc_time(h5py().h5d.ALLOC_TIME_INCR)
        if self.shuffle:
            plan.set_shuffle()
        if self.method == "gzip":
            plan.set_deflate(self.level)
        elif self.method == "lzf":
            plan.set_filter(h5z.FILTER_LZF, h5z.FLAG_OPTIONAL)
        if self.fletcher32:
            plan.set_fletcher32()
        return plan

    def chunk(self, shape: tuple[int, ...], width: int) -> tuple[int, ...]:
        """Give the shape of a chunk: whole rows where they fit.

        >>> Compression().chunk((1000, 1000), 4), Compression(chunks=10).chunk((1000, 1000), 4)
        ((262, 1000), (10, 1000))
        """
        if self.chunks:
            return (min(self.chunks, shape[0]), *shape[1:])
        room, axes = max(1, _CHUNK // width), []
        for axis in reversed(shape):
            axes.append(min(axis, room))
            room = max(1, room // axis)
        return tuple(reversed(axes))


@contextmanager
def compressed(
    contents: Contents, rows: Mapping[str, Stored], compression: Compression, pieces: Pieces
) -> Iterator[tuple[IO[bytes], list[tuple[int, int]], int]]:
    """Make the file without a name; gives it, the ranges of its structure, and its end."""
    with tempfile.TemporaryFile() as made:
        with new_file(made, cache=_CACHE, block=_ROOM) as file:
            build(file, contents, rows, compression.plan)
            for path, row in rows.items():
                _write(file, path, row, contents.datasets[path], pieces)
        with h5py().File(made, "r") as file:
            data = sorted(place for path in rows for place in _places(file, path, rows[path]))
        end = made.seek(0, 2)
        yield made, _between(data, end), end


def _write(file: Any, path: str, row: Stored, tensor: Tensor, pieces: Pieces) -> None:
    h5s = h5py().h5s
    dataset = h5py().h5d.open(file.id, path.encode())
    width = row.kind.get_size()
    plan = dataset.get_create_plist()
    step = width
    if plan.get_layout() == h5py().h5d.CHUNKED:
        step *= math.prod(plan.get_chunk())
    step *= max(1, (4 << 20) // step)
    at = 0
    for piece in pieces(path, tensor, step):
        if row.texts:
            continue
        data, stop = np.frombuffer(piece, np.uint8), at + piece.nbytes // width
        for start, count in boxes(row.shape, at, stop):
            space, size = dataset.get_space(), math.prod(count)
            if start:
                space.select_hyperslab(start, count)
            part, data = data[: size * width], data[size * width :]
            dataset.write(h5s.create_simple((size,)), space, part, row.kind)
        at = stop


def _places(file: Any, path: str, row: Stored) -> list[tuple[int, int]]:
    """Say where the elements of a dataset are; strings count as structure."""
    dataset = h5py().h5d.open(file.id, path.encode())
    offset = dataset.get_offset()
    if row.texts:
        return []
    if offset is not None:
        return [(offset, offset + dataset.get_storage_size())]
    found: list[tuple[int, int]] = []
    if dataset.get_create_plist().get_layout() == h5py().h5d.CHUNKED:
        dataset.chunk_iter(
            lambda chunk: found.append((chunk.byte_offset, chunk.byte_offset + chunk.size))
        )
    return found


def _between(data: list[tuple[int, int]], end: int) -> list[tuple[int, int]]:
    """Give the ranges that the ones given leave free."""
    free, at = [], 0
    for start, stop in data:
        if start > at:
            free.append((at, start))
        at = max(at, stop)
    return [*free, (at, end)] if at < end else free
