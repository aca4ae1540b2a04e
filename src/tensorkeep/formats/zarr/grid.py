"""Which chunks an array has, and where their packed bytes are: in files or in shards of several.

A few bytes of metadata can declare more chunks than anybody can look for. Where a grid has very
many, the files that are there are listed once, and nothing else is looked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import CorruptError
from tensorkeep.formats.zarr.files import Files
from tensorkeep.formats.zarr.metadata import Array
from tensorkeep.source import Source
from tensorkeep.wire.crc32c import crc32c

Place = tuple[int, ...]
Table = npt.NDArray[np.uint64]

_MANY = 10_000  # files of a grid that are listed before they are looked for
_FEW = 100  # files of one read that are looked for even so
_TABLE = 64 << 20  # bytes of the table of a shard
_TABLES = 1000  # that are kept
_NOWHERE = 2**64 - 1


class Grid:
    """The chunks of an array by their places, as far as they are stored.

    Args:
        array: whose chunks they are.
        path: where in the store it is.
        files: the store.
    """

    def __init__(self, array: Array, path: str, files: Files) -> None:
        self._array, self._path, self._files = array, path, files
        self._each = tuple(a // b for a, b in zip(array.chunks, array.inner, strict=True))
        count = math.prod(-(-a // c) for a, c in zip(array.shape, array.chunks, strict=True))
        # Where none may be missing, the first that is ends the search.
        self._searched = count <= _MANY or files.complete or not files.root.store.lists
        self._listed: dict[Place, None] | None = None
        self._tables: dict[Place, Table] = {}

    def whole(self) -> list[range]:
        """Give what `within` takes to give every chunk."""
        sizes = zip(self._array.shape, self._array.inner, strict=True)
        return [range(-(-axis // size)) for axis, size in sizes]

    def within(self, spans: Sequence[range]) -> Iterator[Place]:
        """Give the chunks of a part of the grid, without those known not to be stored."""
        each = self._each
        around = [
            range(span.start // n, (span.stop - 1) // n + 1)
            for span, n in zip(spans, each, strict=True)
        ]
        for file in self._within(around):
            if self._array.shard is None:
                yield file
            elif self._table(file) is not None:
                yield from _product(
                    [
                        range(max(span.start, at * n), min(span.stop, (at + 1) * n))
                        for span, at, n in zip(spans, file, each, strict=True)
                    ]
                )

    def _within(self, spans: Sequence[range]) -> Iterator[Place]:
        """Give the places of files."""
        count = math.prod(map(len, spans))
        if self._searched or (self._listed is None and count <= _FEW):
            yield from _product(spans)
            return
        if self._listed is None:
            self._listed = dict.fromkeys(sorted(self._stored()))
        if len(self._listed) > count:
            yield from (place for place in _product(spans) if place in self._listed)
            return
        for place in self._listed:
            if all(at in span for at, span in zip(place, spans, strict=True)):
                yield place

    def _stored(self) -> Iterator[Place]:
        for key in self._files.keys(self._path):
            place = self._array.place(key)
            if place is not None:
                yield place

    def read(self, place: Place) -> memoryview | None:
        """Read the packed bytes of a chunk; None where it is not stored.

        Raises:
            CorruptError: the table of its shard is damaged.
        """
        array = self._array
        outer = tuple(at // count for at, count in zip(place, self._each, strict=True))
        file = self.open(outer)
        if file is None:
            return None
        try:
            if array.shard is None:
                return file.read(0, file.size)
            table = self._read_table(outer, file)
            at = 0
            for position, count in zip(place, self._each, strict=True):
                at = at * count + position % count
            start, length = int(table[at, 0]), int(table[at, 1])
            return None if start == length == _NOWHERE else file.read(start, start + length)
        finally:
            file.close()

    def open(self, outer: Place) -> Source | None:
        """Open the file of a chunk, or of a shard; None where there is none."""
        return self._files.open(below(self._path, self._array.key(outer)))

    def _table(self, outer: Place) -> Table | None:
        if outer in self._tables:
            return self._tables[outer]
        file = self.open(outer)
        if file is None:
            return None
        try:
            return self._read_table(outer, file)
        finally:
            file.close()

    def _read_table(self, outer: Place, file: Source) -> Table:
        """Read where in a shard its chunks are: an offset and a length each."""
        known = self._tables.get(outer)
        if known is not None:
            return known
        shard, count = self._array.shard, math.prod(self._each)
        assert shard is not None
        size = 16 * count + 4 * shard.crc
        if size > file.size or size > _TABLE:
            raise CorruptError(
                f"a shard of {count:,} chunks starts or ends with {size:,} bytes that tell where "
                f"they are, but it has {file.size:,}",
                where=file.where,
            )
        start = file.size - size if shard.at_end else 0
        data = file.read(start, start + size)
        if shard.crc and crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
            raise CorruptError("the table of its chunks is damaged", where=file.where)
        if len(self._tables) > _TABLES:
            self._tables.clear()
        table = np.frombuffer(bytes(data[: 16 * count]), "<u8").reshape(count, 2)
        self._tables[outer] = table
        return table

    def close(self) -> None:
        """Forget what is known of shards."""
        self._tables.clear()


def below(path: str, key: str) -> str:
    """Give the key, in the store, of a key of an array."""
    return f"{path}/{key}" if path else key


def _product(spans: Sequence[range]) -> Iterator[Place]:
    """Give all places one by one, where itertools.product would first make lists of the ranges.

    >>> list(_product([range(2), range(5, 7)]))
    [(0, 5), (0, 6), (1, 5), (1, 6)]
    """
    if not spans:
        yield ()
        return
    for first in spans[0]:
        for rest in _product(spans[1:]):
            yield (first, *rest)
