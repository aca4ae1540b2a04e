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
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, TypeVar
from weakref import ReferenceType, finalize, ref

from tensorkeep.database.engine import (
    Engine,
    Page,
    Snapshot,
    WholeSnapshot,
    closed,
    held,
    link,
    unlinked,
)
from tensorkeep.database.opening import settle
from tensorkeep.database.sorted import SortedDatabase
from tensorkeep.database.staging import Staging
from tensorkeep.errors import CorruptError, StoreError, TensorKeepError
from tensorkeep.optional import require

_BLOCK_SIZE, _OPEN_FILES = 65536, 100  # Caffe2's
_WRITE_BUFFER = 64 << 20  # bytes, of which two wait; Caffe2's 256 MiB write no faster
_SEEN = re.compile(r"CURRENT|MANIFEST-\d+|\d+\.(ldb|sst|log)")
_NO_KEY = b"\xff" * 64
Answer = TypeVar("Answer")


class LeveldbEngine(Engine):
    """A LevelDB database that is open in this process."""

    def __init__(
        self, path: str, options: Mapping[str, Any], *, writable: bool, create: bool = False
    ) -> None:
        plyvel = _library()
        self._newest: ReferenceType[LeveldbSnapshot] | None = None
        super().__init__(path, options, writable=writable, create=create)
        _LOCKS.enter(path)
        self.handle.push(_LOCKS.leave, path)
        try:
            place = path
            if not writable:
                _LOCKS.share(path)
                place = link(path, _SEEN.fullmatch, self.handle)
            self._database: Any = plyvel.DB(
                place,
                create_if_missing=create,
                paranoid_checks=True,
                block_size=_BLOCK_SIZE,
                write_buffer_size=_WRITE_BUFFER if writable else None,
                max_open_files=_OPEN_FILES,
            )
        except BaseException:
            self.close()
            raise
        self._taken = _Taken()
        self.handle.push(self._database.close)
        if create:  # bring the log into a table: each opening would read it again
            self.handle.push(partial(self._database.compact_range, start=_NO_KEY, stop=_NO_KEY))
        self.handle.push(self._taken.close)

    def take(self) -> LeveldbSnapshot:
        newest = self._newest() if self._newest is not None else None
        if newest is None:
            newest = LeveldbSnapshot(self, self.begin())
            self._newest = ref(newest)
        return newest

    def begin(self) -> _Inner:
        """Begin a snapshot of the library."""
        return self._taken.add(self._database.snapshot())

    def hand_over(self, snapshot: Snapshot, writer: Engine) -> None:
        # The tables are opened as they are read, and those that the writer merges are removed. It
        # has changed nothing yet.
        if isinstance(snapshot, LeveldbSnapshot) and isinstance(writer, LeveldbEngine):
            writer.adopt(snapshot)
            snapshot.move(writer, writer.begin())

    def apply(self, staging: Staging, *, durable: bool) -> None:
        batch = self._database.write_batch(sync=durable)
        for key, value in staging.changes():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.write()
        with self._lock:  # not while another thread takes one from before
            self._newest = None

    @staticmethod
    def explain(error: Exception, where: str) -> TensorKeepError | None:
        plyvel = _library()
        if isinstance(error, RuntimeError) and "closed" in str(error):  # it has no class for it
            return closed(where)
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


class _Taken:
    """The library's snapshots of a database, to be closed before it.

    The library crashes where one is freed after its database, and the garbage collector frees them
    in any order: none is left to it.
    """

    def __init__(self) -> None:
        self._open: set[Any] = set()

    def add(self, inner: Any) -> _Inner:
        self._open.add(inner)
        return inner, self

    def release(self, inner: Any) -> None:
        """Close one; a second time does nothing."""
        inner.close()
        self._open.discard(inner)

    def close(self) -> None:
        """Close all."""
        while self._open:
            self._open.pop().close()


_Inner = tuple[Any, _Taken]


class LeveldbSnapshot(WholeSnapshot):
    """A snapshot of the library."""

    def __init__(self, engine: LeveldbEngine, inner: _Inner) -> None:
        self.move(engine, inner)

    def move(self, engine: LeveldbEngine, inner: _Inner) -> None:
        """Read from now on in another engine, which has the same records."""
        snapshot, taken = inner
        finalize(self, taken.release, snapshot)
        self._now = engine, snapshot
        self.engine = engine

    def keys(self, start: bytes, count: int) -> list[bytes]:
        def ask(inner: Any) -> list[bytes]:
            with _iterator(inner, start) as found:
                keys: list[bytes] = []
                while len(keys) < count and found.valid():
                    keys.append(found.key())
                    found.next()
                return keys

        return self._ask(ask)

    def page(self, start: bytes, count: int) -> Page:
        def ask(inner: Any) -> Page:
            with _iterator(inner, start) as found:
                return self.cut(_records(found), count)

        return self._ask(ask)

    def value(self, key: bytes) -> bytes | None:
        def ask(inner: Any) -> bytes | None:
            value: bytes | None = inner.get(key, verify_checksums=True)
            if value is None:  # as it is, too, where a whole table is missing: this tells
                with _iterator(inner, key):
                    pass
            return value

        return self._ask(ask)

    def _ask(self, ask: Callable[[Any], Answer]) -> Answer:
        """Ask the library, and once more where the snapshot has moved meanwhile."""
        now = self._now  # which keeps its engine open
        try:
            return ask(now[1])
        except Exception:
            settle()
            if self._now is now:
                raise
        return ask(self._now[1])


@contextlib.contextmanager
def _iterator(inner: Any, start: bytes) -> Iterator[Any]:
    """Give a raw iterator: the other kind takes damage at its end for the end of the database."""
    with contextlib.closing(inner.raw_iterator(verify_checksums=True)) as found:
        found.seek(start)
        yield found


def _records(found: Any) -> Iterator[tuple[bytes, bytes]]:
    while found.valid():
        yield found.item()
        found.next()


class _Locks:
    """The shared locks of this process on LevelDB's files.

    A process that closes a file loses all its locks on it, the library's among them: so one is
    closed only once nothing of this process is open on that database.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a collection of garbage may come in between
        # By process as well: one that was forked has none of the locks of its parent.
        self._open: dict[tuple[int, str], int] = {}
        self._files: dict[tuple[int, str], int] = {}

    def enter(self, path: str) -> None:
        """Count an engine on a path."""
        with self._lock:
            key = os.getpid(), path
            self._open[key] = self._open.get(key, 0) + 1

    def share(self, path: str) -> None:
        """Keep writers of other processes out.

        Raises:
            StoreError: there is one.
        """
        with self._lock:
            key = os.getpid(), path
            if key not in self._files:
                with contextlib.suppress(FileNotFoundError):  # a copy that was never opened
                    self._files[key] = os.open(os.path.join(path, "LOCK"), os.O_RDONLY)
                    _lock_shared(self._files[key], path)

    def leave(self, path: str) -> None:
        """Count an engine less."""
        with self._lock:
            key = os.getpid(), path
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
                if key in self._files:
                    os.close(self._files.pop(key))


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
    cure = "Install it with pip install 'tensorkeep[leveldb]'."
    return require("plyvel", "LevelDB databases need the package plyvel", cure)
