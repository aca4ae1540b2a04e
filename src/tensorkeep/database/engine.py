"""Engine: one database as its library has it open, and the records that are read from it."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from tensorkeep.database.staging import Staging
from tensorkeep.errors import ClosedError, StoreError, TensorKeepError
from tensorkeep.source import FileSource, Source

_PIECE = 8 << 20  # bytes that are copied at once
_LINKS = "tensorkeep-links-"
_PATIENCE = 0.2  # seconds


class Snapshot(ABC):
    """The records of one commit. Several threads may read it; it ends with its last reference."""

    engine: Engine

    @abstractmethod
    def keys(self, start: bytes, count: int) -> list[bytes]:
        """Give the first `count` keys that are not less than `start`, in byte order."""

    @abstractmethod
    def size(self, key: bytes) -> int | None:
        """Give the length of a value in bytes, or None where there is no such key."""

    @abstractmethod
    def read(self, key: bytes, start: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes of a value from `start` on."""


class WholeSnapshot(Snapshot):
    """A snapshot whose library gives values only whole: the last one is kept for the next read."""

    _last: tuple[bytes, bytes] | None = None

    @abstractmethod
    def value(self, key: bytes) -> bytes | None:
        """Give a value, or None where there is no such key."""

    def _value(self, key: bytes) -> bytes | None:
        last = self._last
        if last is not None and last[0] == key:
            return last[1]
        value = self.value(key)
        self._last = None if value is None else (key, value)
        return value

    def size(self, key: bytes) -> int | None:
        value = self._value(key)
        return None if value is None else len(value)

    def read(self, key: bytes, start: int, buffer: memoryview) -> None:
        buffer[:] = memoryview(self._value(key) or b"")[start : start + buffer.nbytes]


class Engine(ABC):
    """One database opened by its library. All Databases of a path in a process share it.

    Args:
        path: where it is.
        options: what the library takes.
        writable: open it for writing.
        create: make it; `path` is then a hidden place that is renamed once it is complete, so
            nothing there has to survive a kill.
    """

    stale = False  # a writer has taken its place; the sources that it has given go on
    closed = False

    def __init__(
        self, path: str, options: Mapping[str, Any], *, writable: bool, create: bool = False
    ) -> None:
        self.path = path
        self.options = options
        self.writable = writable
        self.create = create
        self._lock = threading.RLock()

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """Give the records as they are now."""

    @abstractmethod
    def apply(self, staging: Staging, *, durable: bool) -> None:
        """Make all changes, or none of them."""

    @abstractmethod
    def close(self) -> None:
        """Close the library's handle; a second time does nothing."""

    @staticmethod
    @abstractmethod
    def explain(error: Exception, where: str) -> TensorKeepError | None:
        """Say what an error of the library means, or None where it is not one of its."""

    @classmethod
    @contextmanager
    def replacing(cls, path: str) -> Iterator[None]:
        """Hold what is at a path, and what belongs to it, while a new database takes its place."""
        del path  # a folder that is not there needs no holding
        yield

    def find(self, snapshot: Snapshot, key: bytes, where: str) -> RecordSource | None:
        """Give the bytes of a record, or None where there is none."""
        size = snapshot.size(key)
        return None if size is None else RecordSource(snapshot, key, size, where)

    def note(self, source: RecordSource) -> None:
        """Know of a source: for an engine that has to tell it before its value is overwritten."""

    def __del__(self) -> None:
        if not hasattr(self, "_lock"):
            return
        # While this runs, another thread can still find it in _ENGINES.
        self.closed = True
        _CLOSING.add(id(self))
        with suppress(Exception):  # what was committed is safe, and there is no one to tell
            self.close()
        _CLOSING.discard(id(self))


class RecordSource(Source):
    """The bytes of one record, read when asked for; what is handed out is memory of its own."""

    __slots__ = ("__weakref__", "_key", "_origin")

    def __init__(self, snapshot: Snapshot, key: bytes, size: int, where: str) -> None:
        super().__init__(size, where)
        self._key = key
        self._origin: Snapshot | FileSource | None = snapshot
        snapshot.engine.note(self)

    @property
    def key(self) -> bytes:
        """The key as it is kept."""
        return self._key

    def detach(self) -> None:
        """Copy the bytes to a file without a name, for they are about to be overwritten."""
        origin = self._origin
        if not isinstance(origin, Snapshot):
            return
        with tempfile.NamedTemporaryFile(dir=os.path.dirname(origin.engine.path)) as file:
            for start in range(0, self.size, _PIECE):
                file.write(self._read(start, min(start + _PIECE, self.size)))
            file.flush()
            self._origin = FileSource(file.name)

    def close(self) -> None:
        self._origin = None

    def _read(self, start: int, stop: int) -> memoryview:
        return self._private(start, stop).toreadonly()

    def _private(self, start: int, stop: int) -> memoryview:
        fresh = np.empty(stop - start, np.uint8).data  # not zeroed first, unlike a bytearray
        self._readinto(start, fresh)
        return fresh

    def _readinto(self, start: int, buffer: memoryview) -> None:
        origin = self._origin
        if origin is None:
            cure = "Read inside the `with` block, or open it again."
            raise ClosedError("was closed before this was read", where=self.where, cure=cure)
        if isinstance(origin, FileSource):
            origin.readinto(start, buffer)
        elif buffer.nbytes:
            try:
                with explaining(origin.engine, self.where):
                    origin.read(self._key, start, buffer)
            except StoreError:
                if self._origin is origin:
                    raise
                self._readinto(start, buffer)  # it was detached meanwhile


_ENGINES: WeakValueDictionary[tuple[object, ...], Engine] = WeakValueDictionary()
_OPENING = threading.Lock()
_CLOSING: set[int] = set()


def share(
    kind: type[Engine], path: str, where: str, options: Mapping[str, Any], *, writable: bool
) -> Engine:
    """Give the engine that this process has open on a path, or open it.

    Raises:
        StoreError: another process holds it, or the disk failed.
        CorruptError: it is damaged.
    """
    key = (kind, os.getpid(), identity(path))
    with _OPENING:
        found = _ENGINES.get(key)
        if found is not None and not found.closed and (found.writable or not writable):
            return found
        if found is not None:
            found.stale = True
        engine = _open(kind, path, where, options, writable)
        _ENGINES[key] = engine
        return engine


def _open(
    kind: type[Engine], path: str, where: str, options: Mapping[str, Any], writable: bool
) -> Engine:
    """Open an engine; wait a little for one who is just closing it, longer for a thread of ours."""
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            with explaining(kind, where):
                return kind(path, options, writable=writable)
        except TensorKeepError as error:
            busy = getattr(error, "errno", None) == errno.EAGAIN
            if not busy or (not _CLOSING and time.monotonic() > until):
                raise
        time.sleep(0.01)


def link(path: str, wanted: Callable[[str], object]) -> str:
    """Make a folder of links to the files of a database, to be opened by who writes as it reads.

    Args:
        path: the folder of the database.
        wanted: says of a file name whether it is one of the database.
    """
    folder = tempfile.mkdtemp(prefix=_LINKS)
    for name in os.listdir(path):
        if wanted(name):
            os.symlink(os.path.join(path, name), os.path.join(folder, name))
    return folder


def unlinked(message: str) -> str:
    """Leave folders of links out of a message.

    >>> unlinked("NotFound: /tmp/tensorkeep-links-a1b2/CURRENT")
    'NotFound: CURRENT'
    """
    return re.sub(rf"\S*{_LINKS}\w+/", "", message)


def held(where: str) -> StoreError:
    """Make the error of a database that another process has open."""
    error = StoreError(
        "is open in another process, and its engine lets in one at a time",
        where=where,
        cure="Close it there, or read a copy of the folder.",
    )
    error.errno = errno.EAGAIN
    return error


def explaining(engine: Engine | type[Engine], where: str) -> AbstractContextManager[None]:
    """Turn the errors of an engine's library into ours."""
    return _Explaining(engine, where)


class _Explaining(AbstractContextManager[None]):  # a generator would cost more than many a read
    __slots__ = ("_engine", "_where")

    def __init__(self, engine: Engine | type[Engine], where: str) -> None:
        self._engine = engine
        self._where = where

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, TensorKeepError):
            known = self._engine.explain(error, self._where)
            if known is not None:
                raise known from error


def identity(path: str) -> tuple[int, int] | None:
    """Tell one file or folder from the next of that name; None for nothing or an empty folder."""
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            with os.scandir(path) as entries:
                if next(entries, None) is None:
                    return None
    except OSError:
        return None
    return info.st_dev, info.st_ino
