"""LMDB: records in a memory-mapped B+ tree, in a folder with data.mdb and lock.mdb.

One process writes at a time, many read. The limits are those of the library: keys of 1 to 511
bytes; the map, which is address space and not disk, is 1 TiB as in Caffe2, less where the address
space is limited, and grows when it is full.
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar
from weakref import ReferenceType, ref

import numpy as np

from tensorkeep.database.engine import SMALL, Engine, Page, Snapshot, closed, explaining
from tensorkeep.database.opening import share
from tensorkeep.database.sorted import SortedDatabase
from tensorkeep.database.staging import Staging
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    StoreError,
    TensorKeepError,
)
from tensorkeep.optional import require
from tensorkeep.source import FileSource
from tensorkeep.wire.lmdb import check_pages, looks_like_lmdb, newest_commit, newest_meta

_MAP_SIZE = 1 << 40
_LEAST_MAP_SIZE = 1 << 20
_META_PAGES = 64 << 10  # bytes that have both of the first pages, however large those are
_TRIES = 100
_PROBE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)


class LmdbEngine(Engine):
    """An LMDB environment; the library forbids a second one on the same files in a process."""

    def __init__(
        self, path: str, options: Mapping[str, Any], *, writable: bool, create: bool = False
    ) -> None:
        # A reader notes itself in lock.mdb, so that no writer takes its pages: where it may.
        super().__init__(path, options, writable=writable or _is_writable(path), create=create)
        self._gate = _Gate()
        self._newest: ReferenceType[LmdbSnapshot] | None = None
        self._checked = create or not options.get("unchecked", False)
        if self._checked and not create:
            _check(path)
        elif not create:
            newest_commit(_map(_file_of(path)), path)
        self._env = _open(path, _map_size(options), writable=self.writable, create=create)
        self.handle.push(self._env.close)
        if self.writable:
            self._env.reader_check()  # those of killed processes would hold pages for ever

    def take(self) -> LmdbSnapshot:
        self._check()
        newest = self._newest() if self._newest is not None else None
        if newest is None or newest.number != self._env.info()["last_txnid"]:
            newest = LmdbSnapshot(self, self._gate, self._begin(write=False))
            self._newest = ref(newest)
        return newest

    def pin(self) -> LmdbSnapshot:
        """Begin a read transaction for who reads the file itself, and asks the library nothing."""
        with self._lock:
            snapshot = LmdbSnapshot(self, self._gate, self._begin(write=False))
            self._snapshots.add(snapshot)
            return snapshot

    def _check(self) -> None:
        """Check the pages, where that was left for when the library is to follow them."""
        if not self._checked:
            _check(self.path)
            self._checked = True

    def _begin(self, *, write: bool) -> Any:
        try:
            return self._env.begin(write=write, buffers=True)
        except _library().MapResizedError:  # another process has let it grow
            self._set_map_size(0)
            return self._env.begin(write=write, buffers=True)

    def apply(self, staging: Staging, *, durable: bool) -> None:
        self._check()
        while True:
            try:
                self._apply(staging)
                return
            except _library().MapFullError:
                now = self._env.info()["map_size"]
                self._set_map_size(max(2 * now, now + 2 * staging.size))

    def _apply(self, staging: Staging) -> None:
        with self._begin(write=True) as transaction:
            for key, value in staging.changes():
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value)

    def _set_map_size(self, size: int) -> None:
        """Map the file anew, which may be done only while no transaction is under way.

        Raises:
            StoreError: there is no address space for so much.
        """
        try:  # a failure to map it would leave the library with nothing mapped
            mmap.mmap(-1, max(size, 1), prot=0, flags=_PROBE).close()
        except (OSError, OverflowError, ValueError):
            raise StoreError(
                f"its map is full, and there is no address space for one of {size:,} bytes",
                where=self.path,
                cure="Raise the limit on address space (ulimit -v).",
            ) from None
        with self._lock, self._gate.alone():
            snapshots = [each for each in self._snapshots if isinstance(each, LmdbSnapshot)]
            for snapshot in snapshots:
                snapshot.transaction.abort()
            self._env.set_mapsize(size)
            for snapshot in snapshots:
                snapshot.transaction = self._env.begin(buffers=True)

    @staticmethod
    def explain(error: Exception, where: str) -> TensorKeepError | None:
        lmdb = _library()
        if not isinstance(error, lmdb.Error):
            return None
        if "closed/deleted/dropped" in str(error):
            return closed(where)
        damage = lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.PanicError
        if isinstance(error, (*damage, lmdb.VersionMismatchError, lmdb.CursorFullError)):
            return CorruptError(f"is damaged: {error}", where=where)
        cure, code = "", getattr(error, "code", None)
        if "already open in this process" in str(error):
            cure = "If this process was forked from one that has it open, open it after the fork."
            code = errno.EAGAIN
        made = StoreError(f"LMDB failed: {error}", where=where, cure=cure)
        made.errno = code
        return made


class LmdbSnapshot(Snapshot):
    """A read transaction. What it gives is copied, since it is gone with the transaction."""

    def __init__(self, engine: LmdbEngine, gate: _Gate, transaction: Any) -> None:
        self.engine = engine
        self.transaction = transaction
        self.number: int = transaction.id()
        self._gate = gate

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Let nothing happen meanwhile to the pages of this commit in the file.

        Raises:
            StoreError: something has happened to them already.
        """
        with self._gate:
            self._now()
            yield

    def _now(self) -> Any:
        """Give the transaction, to be used inside the gate."""
        if self.transaction.id() != self.number:
            raise StoreError(
                "was changed by another process while its map grew",
                where=self.engine.path,
                cure="Open it again.",
            )
        return self.transaction

    def keys(self, start: bytes, count: int) -> list[bytes]:
        found: list[bytes] = []
        with self._gate, self._now().cursor() as cursor:
            more = cursor.set_range(start) if start else cursor.first()
            while more and len(found) < count:
                found.append(bytes(cursor.key()))
                more = cursor.next_nodup()
        return found

    def page(self, start: bytes, count: int) -> Page:
        with self._gate, self._now().cursor() as cursor:
            if not (cursor.set_range(start) if start else cursor.first()):
                return []
            records = itertools.islice(cursor.iternext(), count)
            return [
                (bytes(key), bytes(value) if len(value) <= SMALL else None)
                for key, value in records
            ]

    def size(self, key: bytes) -> int | None:
        if not 0 < len(key) <= LmdbDatabase.key_limit:
            return None
        with self._gate:
            value = self._now().get(key)
            return None if value is None else len(value)

    def read(self, key: bytes, start: int, buffer: memoryview) -> None:
        with self._gate:
            value = np.frombuffer(self._now().get(key), np.uint8, buffer.nbytes, start)
            np.copyto(np.frombuffer(buffer, np.uint8), value)  # other threads go on meanwhile


class _Gate:
    """Let many in together (`with gate:`), or one alone."""

    def __init__(self) -> None:
        self._inside = 0
        self._changed = threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until nobody is inside, and keep all others out."""
        with self._changed:
            self._changed.wait_for(lambda: not self._inside)
            yield


class LmdbDatabase(SortedDatabase):
    """An LMDB database, its unnamed one.

    Args:
        path: its folder, or the data file of one that has no folder.
        mode: "read", "write" or "new".
        map_size: bytes of address space to begin with; it grows when it is full.
    """

    kind = "lmdb"
    suffixes = (".lmdb",)
    engine: ClassVar[type[Engine]] = LmdbEngine
    option_names = ("map_size",)
    key_limit = 511
    value_limit = 0xFFFFFFFF

    @classmethod
    def recognises(cls, path: str | os.PathLike[str]) -> bool:
        if os.path.isdir(path):
            return os.path.isfile(os.path.join(path, "data.mdb"))
        # Opening a pipe would wait for its writer.
        return os.path.isfile(path) and looks_like_lmdb(_head(path))


class LmdbFile:
    """The file of an LMDB database and what it says of its newest commit, which stays as it is.

    A read transaction of the library keeps writers from taking the pages of the commit. It is held
    until `close`, and meanwhile the file of a database that is written to grows. Where the place is
    read-only the library can note no transaction: there, nobody may write to the database.

    Args:
        path: the folder of the database, or its file.

    Raises:
        CorruptError: its first pages are damaged.
        StoreError: it cannot be opened, or is changed faster than it is.
    """

    def __init__(self, path: str) -> None:
        real = os.path.realpath(path)
        self.where = path
        engine = share(LmdbEngine, real, path, {"unchecked": True}, writable=False)
        assert isinstance(engine, LmdbEngine)
        self._engine: LmdbEngine | None = engine
        try:
            name = _file_of(real)
            self.source = FileSource(name, mapping=True)
            for _ in range(_TRIES):
                with explaining(engine, path):
                    self.snapshot = engine.pin()
                # Which holds all pages of the commit, as a file that was opened before may not.
                self.source.close()
                self.source = FileSource(name, mapping=True)
                head = self.source.read(0, min(self.source.size, _META_PAGES))
                self.meta = newest_meta(head, path)
                if self.meta.number == self.snapshot.number:
                    return
            raise StoreError("is changed all the time by another process", where=path)
        except BaseException:
            self.close()
            raise

    def unchanged(self) -> AbstractContextManager[None]:
        """Let nothing happen meanwhile to the pages of the commit.

        Raises:
            StoreError: something has happened to them already.
            ClosedError: it was closed.
        """
        if self._engine is None:
            raise closed(self.where)
        return self.snapshot.unchanged()

    def close(self) -> None:
        """End the transaction; a second time does nothing."""
        engine, self._engine = self._engine, None
        if engine is not None:
            self.__dict__.pop("snapshot", None)
            engine.leave()

    def __del__(self) -> None:
        if getattr(self, "_engine", None) is not None:
            self.close()


def _library() -> Any:
    cure = "Install it with pip install 'tensorkeep[lmdb]'."
    return require("lmdb", "LMDB databases need the package lmdb", cure)


def _map_size(options: Mapping[str, Any]) -> int:
    size = options.get("map_size", _MAP_SIZE)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size < 1 << 62:
        raise ArgumentError(f"map_size is a number of bytes, not {size!r}")
    return size


def _open(path: str, size: int, *, writable: bool, create: bool) -> Any:
    """Open the environment, with less address space where there is not so much."""
    lmdb = _library()
    while True:
        try:
            return lmdb.open(
                path,
                map_size=size,
                subdir=create or os.path.isdir(path),
                readonly=not writable,
                lock=writable,
                create=create,
                sync=not create,
                mode=0o664,
                readahead=False,
            )
        except lmdb.MemoryError:
            size //= 2
            if size < _LEAST_MAP_SIZE:
                raise


def _is_writable(path: str) -> bool:
    names = [path, *(os.path.join(path, name) for name in ("data.mdb", "lock.mdb"))]
    return all(os.access(name, os.W_OK) for name in names if os.path.exists(name))


def _check(path: str) -> None:
    """Check the pages before the library sees them.

    Raises:
        CorruptError: the file is damaged or cut short.
    """
    name = _file_of(path)
    seen = None
    while True:
        data = _map(name)
        number = newest_commit(data, name)
        try:
            return check_pages(data, name)
        except CorruptError:
            if number == seen:  # otherwise another process may be committing at this moment
                raise
        seen = number
        time.sleep(0.005)


def _file_of(path: str) -> str:
    return os.path.join(path, "data.mdb") if os.path.isdir(path) else path


def _map(name: str) -> memoryview:
    try:
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) if size else b"")
    except OSError as error:
        raise StoreError(f"cannot be read: {error.strerror}", where=name) from error


def _head(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(20)
    except OSError:
        return b""
