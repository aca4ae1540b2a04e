"""Where the records of a database lie: in a file that is mapped, or wherever its library has them.

minidb and LMDB keep each value in one piece of a file: an index says where, and batches are copied
from there. The libraries of the others are asked for each value, by its key.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tensorkeep.data import fingerprint, index
from tensorkeep.data.index import Index
from tensorkeep.data.ranges import Bytes, Numbers, gather, inside, joined, view_of
from tensorkeep.database import Database, key_text
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    CorruptError,
    MissingError,
    UnknownFormatError,
)
from tensorkeep.source import FileSource, Source, Window
from tensorkeep.store import HEAD
from tensorkeep.stores import DATABASES
from tensorkeep.stores.leveldb import LeveldbDatabase
from tensorkeep.stores.lmdb import LmdbDatabase, LmdbFile
from tensorkeep.stores.minidb import MinidbStore
from tensorkeep.stores.rocksdb import RocksdbDatabase
from tensorkeep.stores.sqlite import SqliteDatabase
from tensorkeep.wire.lmdb import find_values
from tensorkeep.wire.minidb import MAX_KEY, read_records

_Array = npt.NDArray[Any]
Arrays = Mapping[str, _Array]
Fetched = tuple[Bytes, Numbers, Numbers]  # bytes, and where in them each value begins; its size

_PLAIN: Final = (LmdbDatabase, LeveldbDatabase, RocksdbDatabase, SqliteDatabase, MinidbStore)
_TABLES = (".ldb", ".sst", ".log")  # files whose change is one of the records
_LENGTHS = 8  # bytes before a key in a minidb
_ALIKE = 64  # records of one size from which on they are found many at a time
_MOST_ALIKE = 1 << 16
_KIND = "records"


def find_kind(path: str, db_type: str | None = None) -> tuple[type[Database], str]:
    """Find the database that a path means, such as "train.minidb" or "lmdb:train"; give its path.

    Raises:
        ArgumentError: there is no such type.
        MissingError: nothing is there.
        UnknownFormatError: no database is.
    """
    name, colon, rest = path.partition(":")
    if db_type is None and colon and name in DATABASES:
        db_type, path = name, rest.removeprefix("//")
    if db_type is not None:
        if db_type not in DATABASES:
            raise ArgumentError(
                f"there is no db_type {db_type!r}", cure=f"Use one of {', '.join(DATABASES)}."
            )
        return DATABASES[db_type], path
    for kind in _PLAIN:
        if kind.recognises(path):
            return kind, path
    if not os.path.lexists(path):
        raise MissingError("there is no such file or folder", where=path)
    if path.endswith(MinidbStore.suffixes):
        return MinidbStore, path  # which says what is wrong with it
    raise UnknownFormatError("is no database of a kind that is known here", where=path)


def open_places(kind: type[Database], path: str) -> Places:
    """Open a database to read values by their number.

    Raises:
        CorruptError: it is damaged.
        StoreError: it cannot be opened.
        MissingError: nothing is there.
    """
    if kind is MinidbStore:
        return _InMinidb(path)
    return _InLmdb(path) if kind is LmdbDatabase else _InLibrary(kind, path)


def first_value(kind: type[Database], path: str) -> tuple[bytes, int] | None:
    """Give the first kilobytes of the first value of a database, and its size.

    However large the database is, little of it is read.

    Raises:
        CorruptError: it is damaged.
        StoreError: it cannot be opened.
        MissingError: nothing is there.
    """
    if kind is LmdbDatabase:
        with closing(LmdbFile(path)) as file, closing(file.source), file.unchanged():
            data = file.source.read(0, file.source.size)
            values = find_values(data, file.meta, path, first=True)
            if not len(values.starts):
                return None
            start, size = int(values.starts[0]), int(values.sizes[0])
            return bytes(data[start : start + min(size, HEAD)]), size
    with kind(path, "read") as database:
        for _, source in database.records():
            return bytes(source.read(0, min(HEAD, source.size))), source.size
    return None


class Places(ABC):
    """The values of a database by their number, in stored order. Threads share it."""

    where: str
    sizes: npt.NDArray[Any]

    @abstractmethod
    def fetch(self, rows: Numbers) -> Fetched:
        """Give bytes that hold some values, and where; to be copied out of inside `unchanged`."""

    def unchanged(self) -> AbstractContextManager[None]:
        """Let nothing happen meanwhile to what `fetch` gives."""
        return nullcontext()

    @abstractmethod
    def key(self, row: int) -> str:
        """Give the key of a value."""

    @abstractmethod
    def close(self) -> None:
        """Release the database."""


class _InFile(Places):
    """Values that lie in one file, each in one piece."""

    _source: Source

    def _load(self, arrays: Arrays) -> None:
        self._starts = arrays["starts"]
        self.sizes = arrays["sizes"]
        self._key_starts = arrays["key_starts"]
        self._key_sizes = arrays["key_sizes"]

    def _sound(self, found: Index) -> bool:
        arrays, size = found.arrays, self._source.size
        names = ("starts", "sizes", "key_starts", "key_sizes")
        if set(arrays) != set(names):
            return False
        starts, sizes, key_starts, key_sizes = (arrays[name] for name in names)
        return (
            starts.ndim == 1
            and starts.shape == key_starts.shape
            and inside(starts, sizes, size)
            and inside(key_starts, key_sizes, size)
        )

    def fetch(self, rows: Numbers) -> Fetched:
        starts, sizes = self._starts[rows], self.sizes[rows].astype(np.int64)
        if self._source.mapped:
            return view_of(self._source), starts, sizes
        return (*joined(self._source, starts, sizes), sizes)

    def key(self, row: int) -> str:
        start = int(self._key_starts[row])
        return key_text(bytes(self._source.read(start, start + int(self._key_sizes[row]))))

    def close(self) -> None:
        self._source.close()


class _InMinidb(_InFile):
    def __init__(self, path: str) -> None:
        self.where = path
        self._source = source = FileSource(path)
        try:
            state = fingerprint.combine("minidb", fingerprint.sampled(source))
            found = index.find(path, _KIND, state, self._make, self._sound)
            self._load(found.arrays)
        except BaseException:
            source.close()
            raise

    def _make(self) -> Index:
        starts, sizes, keys = scan_minidb(self._source)
        arrays: dict[str, _Array] = {
            "starts": starts,
            "sizes": sizes.astype(np.uint32),
            "key_starts": starts - keys,
            "key_sizes": keys.astype(np.uint32),
        }
        return Index(_KIND, arrays)


class _InLmdb(_InFile):
    def __init__(self, path: str) -> None:
        self.where = path
        self._file = file = LmdbFile(path)
        self._source = source = file.source
        try:
            sampled = fingerprint.sampled(source)
            state = fingerprint.combine("lmdb", str(file.meta.main), file.meta.number, sampled)
            found = index.find(path, _KIND, state, self._make, self._sound)
            self._load(found.arrays)
        except BaseException:
            self.close()
            raise

    def _make(self) -> Index:
        source = self._source
        with self.unchanged():
            values = find_values(source.read(0, source.size), self._file.meta, self.where)
        arrays: dict[str, _Array] = {
            "starts": values.starts,
            "sizes": values.sizes.astype(np.uint32),
            "key_starts": values.key_starts,
            "key_sizes": values.key_sizes.astype(np.uint32),
        }
        return Index(_KIND, arrays)

    def unchanged(self) -> AbstractContextManager[None]:
        return self._file.unchanged()

    def key(self, row: int) -> str:
        with self.unchanged():
            return super().key(row)

    def close(self) -> None:
        self._source.close()
        self._file.close()


class _InLibrary(Places):
    """Values that a library is asked for."""

    def __init__(self, kind: type[Database], path: str) -> None:
        self.where = path
        database = kind(path, "read")
        self._database: Database | None = database
        try:
            state = fingerprint.combine(kind.kind, *_files(path))
            found = index.find(path, _KIND, state, self._make, self._sound)
            self.sizes = found.arrays["sizes"]
            self._keys = found.arrays["keys"].data
            self._key_ends = found.arrays["key_ends"]
        except BaseException:
            database.close()
            raise

    def _make(self) -> Index:
        keys, sizes = [], []
        for key, source in self._open().records():
            keys.append(key.encode("utf-8", "surrogateescape"))
            sizes.append(source.size)
        arrays: dict[str, _Array] = {
            "keys": np.frombuffer(b"".join(keys), np.uint8),
            "key_ends": np.cumsum([len(key) for key in keys], dtype=np.int64),
            "sizes": np.array(sizes, np.uint32),
        }
        return Index(_KIND, arrays)

    def _sound(self, found: Index) -> bool:
        arrays = found.arrays
        if set(arrays) != {"keys", "key_ends", "sizes"}:
            return False
        keys, ends = arrays["keys"], arrays["key_ends"]
        if keys.dtype != np.uint8 or keys.ndim != 1 or ends.ndim != 1:
            return False
        starts = np.concatenate([np.zeros(1, ends.dtype), ends[:-1]])
        return (
            ends.shape == arrays["sizes"].shape
            and arrays["sizes"].dtype.kind == "u"
            and inside(starts[: len(ends)], ends - starts[: len(ends)], keys.size)
        )

    def _open(self) -> Database:
        if self._database is None:
            raise ClosedError("was closed before this was read", where=self.where)
        return self._database

    def fetch(self, rows: Numbers) -> Fetched:
        own, again = np.unique(rows, return_inverse=True)  # in the order of the keys
        values = self._open().values([self.key(row) for row in own.tolist()])
        sizes = np.array([len(value) for value in values], np.int64)
        starts = np.cumsum(sizes) - sizes
        return np.frombuffer(b"".join(values), np.uint8), starts[again], sizes[again]

    def key(self, row: int) -> str:
        start = int(self._key_ends[row - 1]) if row else 0
        return key_text(bytes(self._keys[start : int(self._key_ends[row])]))

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            database.close()


def _files(path: str) -> list[str]:
    """Describe the files of a database by name, size and time; its log of messages is none."""
    if os.path.isdir(path):
        names = sorted(os.listdir(path))
        chosen = [n for n in names if n.endswith(_TABLES) or n.startswith(("MANIFEST", "CURRENT"))]
        paths = [os.path.join(path, name) for name in chosen]
    else:
        paths = [name for name in (path, f"{path}-wal") if os.path.exists(name)]
    states = [(os.path.basename(name), os.stat(name)) for name in paths]
    return [f"{name} {state.st_size} {state.st_mtime_ns}" for name, state in states]


def scan_minidb(source: Source) -> tuple[Numbers, Numbers, Numbers]:
    """Find the values of a minidb: where each begins, its size and that of its key.

    Records of one size are found many at a time, by the lengths before each.

    Raises:
        CorruptError: it is cut short or damaged.

    >>> from tensorkeep.source import MemorySource
    >>> from tensorkeep.wire.minidb import record_header
    >>> data = MemorySource(record_header("a", 2) + b"hi" + record_header("bc", 1) + b"!")
    >>> [numbers.tolist() for numbers in scan_minidb(data)]
    [[9, 21], [2, 1], [1, 2]]
    """
    alike, at = _scan_alike(view_of(source)) if source.mapped and source.size else ([], 0)
    rest = Window(source, at, source.size - at)
    try:
        found = [(record.start, record.stop) for record in read_records(rest)]
    except CorruptError:
        for _ in read_records(source):  # says which record it is of all
            pass
        raise
    places = np.array(found, np.int64).reshape(-1, 2) + at
    ends = np.concatenate([[at], places[:, 1]])
    others = (places[:, 0], places[:, 1] - places[:, 0], places[:, 0] - ends[:-1] - _LENGTHS)
    starts, sizes, keys = map(np.concatenate, zip(*alike, others, strict=True))
    return starts, sizes, keys


def _scan_alike(view: Bytes) -> tuple[list[tuple[Numbers, Numbers, Numbers]], int]:
    """Find runs of records that have the lengths of the first of them; say where they end."""
    runs = []
    at, most = 0, _ALIKE
    while at + _LENGTHS <= view.size:
        head = view[at : at + _LENGTHS]
        key, size = head.view("<i4").tolist()
        if not 0 < key <= MAX_KEY or size <= 0:
            break
        each = _LENGTHS + key + size
        begins = at + each * np.arange(min(most, (view.size - at) // each))
        same = (gather(view, begins, _LENGTHS) == head).all(axis=1)
        count = len(same) if same.all() else int(same.argmin())
        if count < _ALIKE:
            break
        starts = begins[:count] + _LENGTHS + key
        runs.append((starts, np.full(count, size), np.full(count, key)))
        at += count * each
        most = min(2 * most, _MOST_ALIKE)
    return runs, at
