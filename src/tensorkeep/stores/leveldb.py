"""LevelDB: records in a folder of sorted tables, for one process at a time.

The library can only open a database for writing: it takes the lock, and replaces some of its files
even where nothing is written. Who reads opens it through a folder of links instead, which is thrown
away afterwards; a shared lock on the database keeps writers out meanwhile. So a database on a
read-only disk can be read, and by several processes together.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
import shutil
import threading
from collections.abc import Mapping
from typing import Any, ClassVar
from weakref import ReferenceType, ref

from tensorkeep.database.engine import Engine, WholeSnapshot, held, link, unlinked
from tensorkeep.database.sorted import SortedDatabase
from tensorkeep.database.staging import Staging
from tensorkeep.errors import CorruptError, MissingDependencyError, StoreError, TensorKeepError

_BLOCK_SIZE, _WRITE_BUFFER, _OPEN_FILES = 65536, 268435456, 100  # Caffe2's
_SEEN = re.compile(r"CURRENT|MANIFEST-\d+|\d+\.(ldb|sst|log)")
_NO_KEY = b"\xff" * 64


class LeveldbEngine(Engine):
    """A LevelDB database that is open in this process."""

    def __init__(
        self, path: str, options: Mapping[str, Any], *, writable: bool, create: bool = False
    ) -> None:
        plyvel = _library()
        self._closed = True
        self._database: Any = None
        self._links: str | None = None
        self._taken: set[Any] = set()
        self._newest: ReferenceType[LeveldbSnapshot] | None = None
        super().__init__(path, options, writable=writable, create=create)
        _LOCKS.enter(path)
        self._closed = False
        try:
            if not writable:
                _LOCKS.share(path)
                self._links = link(path, _SEEN.fullmatch)
            self._database = plyvel.DB(
                self._links or path,
                create_if_missing=create,
                paranoid_checks=True,
                block_size=_BLOCK_SIZE,
                write_buffer_size=_WRITE_BUFFER if writable else None,
                max_open_files=_OPEN_FILES,
            )
        except BaseException:
            self.close()
            raise

    def snapshot(self) -> LeveldbSnapshot:
        with self._lock:
            newest = self._newest() if self._newest is not None else None
            if newest is None:
                newest = LeveldbSnapshot(self, self._database.snapshot())
                self._taken.add(newest.inner)
                self._newest = ref(newest)
            return newest

    def release(self, inner: Any) -> None:
        """Close a snapshot of the library."""
        inner.close()
        self._taken.discard(inner)

    def apply(self, staging: Staging, *, durable: bool) -> None:
        batch = self._database.write_batch(sync=durable)
        for key, value in staging.changes():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.write()
        self._newest = None

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._database is not None:
                # The library crashes where a snapshot is freed after its database, and the garbage
                # collector frees them in any order: none is left to it.
                while self._taken:
                    self._taken.pop().close()
                if self.create:  # bring the log into a table: each opening would read it again
                    self._database.compact_range(start=_NO_KEY, stop=_NO_KEY)
                self._database.close()
        finally:
            if self._links is not None:
                shutil.rmtree(self._links, ignore_errors=True)
            _LOCKS.leave(self.path)

    @staticmethod
    def explain(error: Exception, where: str) -> TensorKeepError | None:
        plyvel = _library()
        if not isinstance(error, plyvel.Error):
            return None
        reason = error.args[0] if error.args else ""
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        text = unlinked(text)
        if "/LOCK" in text and ("already held" in text or "temporarily unavailable" in text):
            return held(where)
        if isinstance(error, plyvel.CorruptionError) or "No such file" in text:
            return CorruptError(f"is damaged: LevelDB says {text!r}", where=where)
        return StoreError(f"LevelDB failed: {text}", where=where)


class LeveldbSnapshot(WholeSnapshot):
    """A snapshot of the library."""

    def __init__(self, engine: LeveldbEngine, inner: Any) -> None:
        self.engine = engine
        self.inner = inner
        self._leveldb = engine

    def __del__(self) -> None:
        self._leveldb.release(self.inner)

    def keys(self, start: bytes, count: int) -> list[bytes]:
        found = self.inner.iterator(start=start, include_value=False, verify_checksums=True)
        with contextlib.closing(found):
            return list(itertools.islice(found, count))

    def value(self, key: bytes) -> bytes | None:
        value: bytes | None = self.inner.get(key, verify_checksums=True)
        return value


class _Locks:
    """The shared locks of this process on LevelDB's files.

    A process that closes a file loses all its locks on it, the library's among them: so one is
    closed only once nothing of this process is open on that database.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a collection of garbage may come in between
        self._open: dict[str, int] = {}
        self._files: dict[str, int] = {}

    def enter(self, path: str) -> None:
        """Count an engine on a path."""
        with self._lock:
            self._open[path] = self._open.get(path, 0) + 1

    def share(self, path: str) -> None:
        """Keep writers of other processes out.

        Raises:
            StoreError: there is one.
        """
        with self._lock:
            if path not in self._files:
                with contextlib.suppress(FileNotFoundError):  # a copy that was never opened
                    self._files[path] = os.open(os.path.join(path, "LOCK"), os.O_RDONLY)
                    _lock_shared(self._files[path], path)

    def leave(self, path: str) -> None:
        """Count an engine less."""
        with self._lock:
            self._open[path] -= 1
            if not self._open[path]:
                del self._open[path]
                if path in self._files:
                    os.close(self._files.pop(path))


_LOCKS = _Locks()


def _lock_shared(fd: int, path: str) -> None:
    try:
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise held(path) from None  # on a filesystem without locks there is no one to exclude


class LeveldbDatabase(SortedDatabase):
    """A LevelDB database.

    Args:
        path: its folder.
        mode: "read", "write" or "new".
    """

    kind = "leveldb"
    suffixes = (".leveldb",)
    engine: ClassVar[type[Engine]] = LeveldbEngine

    @classmethod
    def recognises(cls, path: str | os.PathLike[str]) -> bool:
        try:
            names = os.listdir(path)
        except (OSError, ValueError):
            return False
        rocksdb = any(name == "IDENTITY" or name.startswith("OPTIONS-") for name in names)
        return not rocksdb and any(map(_SEEN.fullmatch, names))


def _library() -> Any:
    try:
        import plyvel
    except ImportError as error:
        raise MissingDependencyError(
            "LevelDB databases need the package plyvel",
            cure="Install it with pip install 'tensorkeep[leveldb]'.",
        ) from error
    return plyvel
