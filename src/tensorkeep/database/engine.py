"""Engine: one database as its library has it open, and the records that are read from it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet

import numpy as np

from tensorkeep.database.handle import Handle
from tensorkeep.database.staging import Staging
from tensorkeep.errors import ClosedError, StoreError, TensorKeepError
from tensorkeep.hidden import sharing
from tensorkeep.replacing import create_beside
from tensorkeep.source import FileSource, Source

_PIECE = 8 << 20  # bytes that are copied at once
_LINKS = "tensorkeep-links-"
_PAGE = 1 << 20  # bytes of values that are taken from a library together
SMALL = 4 << 10  # bytes of a value that cost less to take along with its key than to ask for again

Page = list[tuple[bytes, bytes | None]]


class Snapshot(ABC):
    """The records of one commit. Several threads may read it; it ends with its last reference."""

    engine: Engine

    @abstractmethod
    def keys(self, start: bytes, count: int) -> list[bytes]:
        """Give the first `count` keys that are not less than `start`, in byte order."""

    @abstractmethod
    def page(self, start: bytes, count: int) -> Page:
        """Give at most `count` keys from `start` on, each with its value where that is small."""

    @abstractmethod
    def size(self, key: bytes) -> int | None:
        """Give the length of a value in bytes, or None where there is no such key."""

    @abstractmethod
    def read(self, key: bytes, start: int, buffer: memoryview) -> None:
        """Fill a buffer with the bytes of a value from `start` on."""

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Give whole values, each None where there is no such key."""
        return [self._whole(key) for key in keys]

    def _whole(self, key: bytes) -> bytes | None:
        size = self.size(key)
        if size is None:
            return None
        value = bytearray(size)
        self.read(key, 0, memoryview(value))
        return bytes(value)


class WholeSnapshot(Snapshot):
    """A snapshot whose library gives values only whole: the last one is kept for the next read."""

    _last: tuple[bytes, bytes] | None = None

    @abstractmethod
    def value(self, key: bytes) -> bytes | None:
        """Give a value, or None where there is no such key."""

    def cut(self, records: Iterable[tuple[bytes, bytes]], count: int) -> Page:
        """Make a page of the first records; it ends with a value that is large, for it is kept."""
        page: Page = []
        room = _PAGE
        for key, value in records:
            if len(value) <= SMALL:
                page.append((key, value))
            else:
                page.append((key, None))
                self._last = key, value
            room -= len(value)
            if len(page) == count or room <= 0:
                break
        return page

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

    def _whole(self, key: bytes) -> bytes | None:
        return self.value(key)

    def read(self, key: bytes, start: int, buffer: memoryview) -> None:
        buffer[:] = memoryview(self._value(key) or b"")[start : start + buffer.nbytes]


class Engine(ABC):
    """One database opened by its library. All Databases of a path in a process share it.

    It closes with the last Database that has it open, or else with the last source it has given.

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
        self.handle = Handle(path, self)
        self._lock = threading.RLock()
        self._users = 0
        self._snapshots: WeakSet[Snapshot] = WeakSet()

    @abstractmethod
    def take(self) -> Snapshot:
        """Give the records as they are now; called by one thread at a time."""

    @abstractmethod
    def apply(self, staging: Staging, *, durable: bool) -> None:
        """Make all changes, or none of them."""

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

    def snapshot(self) -> Snapshot | None:
        """Give the records as they are now, or None where a writer has taken its place.

        Raises:
            ClosedError: it was closed.
        """
        with self._lock:
            if self.closed:
                raise closed(self.path)
            if self.stale:
                return None
            snapshot = self.take()
            self._snapshots.add(snapshot)
            return snapshot

    def find(self, snapshot: Snapshot, key: bytes, where: str) -> RecordSource | None:
        """Give the bytes of a record, or None where there is none."""
        size = snapshot.size(key)
        return None if size is None else RecordSource(snapshot, key, size, where)

    def note(self, source: RecordSource) -> None:
        """Know of a source: for an engine that has to tell it before its value is overwritten."""

    # --- its end -------------------------------------------------------------------------------

    def enter(self) -> bool:
        """Count one more who uses it; False where it is closed."""
        with self._lock:
            if not self.closed:
                self._users += 1
            return not self.closed

    def leave(self) -> None:
        """Count one less; the last one closes it, unless there are sources."""
        with self._lock:
            self._users -= 1
            if self.closed or self._users or self._snapshots:
                return
            self.closed = True
        self.handle.abandon()

    def __enter__(self) -> Self:
        if not self.enter():
            raise closed(self.path)
        return self

    def __exit__(self, *raised: object) -> None:
        self.leave()

    def give_way(self, writer: Engine) -> None:
        """Take no more users, for an engine that writes was opened on the same path."""
        with self._lock:
            self.stale = True
            for snapshot in list(self._snapshots):
                self.hand_over(snapshot, writer)

    def hand_over(self, snapshot: Snapshot, writer: Engine) -> None:
        """Let a snapshot read through `writer`: where that may take away what is read here."""

    def adopt(self, snapshot: Snapshot) -> None:
        """Stay open for a snapshot of another engine, which is about to read here."""
        with self._lock:
            self._snapshots.add(snapshot)

    def close(self) -> None:
        """Close the library's handle; a second time does nothing."""
        self.closed = True
        self.handle.close()


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
        target = Path(origin.engine.path)
        with sharing(target.parent), ExitStack() as held:
            name, fd = create_beside(target, 0o600)
            held.callback(name.unlink)
            with open(fd, "wb") as file:
                for start in range(0, self.size, _PIECE):
                    file.write(self._read(start, min(start + _PIECE, self.size)))
            self._origin = FileSource(name)

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
            raise closed(self.where)
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


def link(path: str, wanted: Callable[[str], object], handle: Handle) -> str:
    """Make a folder of links to the files of a database, to be opened by who writes as it reads.

    Args:
        path: the folder of the database.
        wanted: says of a file name whether it is one of the database.
        handle: removes it when it is closed.

    Raises:
        StoreError: the disk for it is full, or the database is gone.
    """
    try:
        folder = tempfile.mkdtemp(prefix=_LINKS)
    except OSError as error:
        raise StoreError(
            f"cannot be opened: no folder of links to it can be made: {error.strerror}",
            where=path,
            cure="Set TMPDIR to a folder that can be written to.",
        ) from error
    handle.push(shutil.rmtree, folder, True)  # errors do not matter
    try:
        for name in os.listdir(path):
            if wanted(name):
                os.symlink(os.path.join(path, name), os.path.join(folder, name))
    except OSError as error:
        raise StoreError(f"cannot be opened: {error.strerror}", where=path) from error
    return folder


def unlinked(message: str) -> str:
    """Leave folders of links out of a message.

    >>> unlinked("NotFound: /tmp/tensorkeep-links-a1b2/CURRENT")
    'NotFound: CURRENT'
    """
    return re.sub(rf"\S*{_LINKS}\w+/", "", message)


def closed(where: str) -> ClosedError:
    """Make the error of what was closed before it was read."""
    cure = "Read inside the `with` block, or open it again."
    return ClosedError("was closed before this was read", where=where, cure=cure)


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
            if known is None:
                return
            # Whoever keeps the error keeps no iterator of the library, which must not outlive its
            # database, and no engine.
            traceback.clear_frames(error.__traceback__)
            try:
                raise known from error
            finally:
                del known, error
