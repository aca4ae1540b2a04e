"""SortedDatabase: an engine that keeps its keys in the order of their bytes."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, ClassVar, Self, TypeVar

from tensorkeep.database import Database, Mode, key_bytes, key_text
from tensorkeep.database.engine import Engine, RecordSource, Snapshot, explaining
from tensorkeep.database.opening import identity, share
from tensorkeep.database.staging import Staging
from tensorkeep.errors import (
    CorruptError,
    MissingError,
    StoreError,
    TensorKeepError,
    UnknownFormatError,
    UnsupportedError,
)
from tensorkeep.hidden import appear, failed_write, hidden, removal, sharing, sync
from tensorkeep.source import MemorySource, Source
from tensorkeep.store import Chunks, Progress

_BATCH = 16 << 20  # bytes that are brought into a new database together
_FIRST = 8  # how many are asked for at once: few first, for those who seek
_MOST_KEYS, _MOST_RECORDS = 1024, 256
Item = TypeVar("Item")


class SortedDatabase(Database):
    """A database whose engine keeps each key once, in byte order, and commits all or nothing."""

    sorted = True
    folder: ClassVar[bool] = True
    engine: ClassVar[type[Engine]]
    key_limit: ClassVar[int] = 1 << 20
    value_limit: ClassVar[int] = (1 << 31) - 1

    def __init__(self, path: str | os.PathLike[str], mode: Mode = "read", **options: Any) -> None:
        super().__init__(path, mode, **options)
        self._opened: Engine | None = None
        self._there: tuple[int, int] | None = None
        self._build: _Build | None = None
        self._durable = False
        self._replaces = identity(self.path) if mode == "new" else None
        self._staging = Staging(os.path.dirname(self.path))
        try:
            self._check_place()
            self._engine()
        except BaseException:
            self._closed = True
            raise

    def keys(self, prefix: str = "") -> Iterator[str]:
        snapshot, begin = self._snapshot(), key_bytes(prefix)
        if snapshot is None:
            return iter(())
        found = self._walk(snapshot, snapshot.keys, bytes, _MOST_KEYS, begin)
        return map(key_text, itertools.takewhile(lambda key: key.startswith(begin), found))

    def records(self, prefix: str = "", start: str | None = None) -> Iterator[tuple[str, Source]]:
        snapshot = self._snapshot()
        if snapshot is None:
            return
        begin = key_bytes(prefix)
        at = max(begin, key_bytes(start or ""))
        for key, value in self._walk(snapshot, snapshot.page, _key_of, _MOST_RECORDS, at):
            if not key.startswith(begin):
                return
            text = key_text(key)
            if value is not None:
                yield text, MemorySource(value, f"{self.where}/{text}")
            elif (source := self._source(snapshot, key)) is not None:
                yield text, source

    def get(self, key: str) -> Source:
        source = self._source(self._snapshot(), key_bytes(key))
        if source is None:
            raise self._missing(key)
        return source

    def _missing(self, key: str) -> MissingError:
        return MissingError(f"there is no key {key[:200]!r}", where=self.where)

    def values(self, keys: Sequence[str]) -> list[bytes | memoryview]:
        snapshot = self._snapshot()
        encoded = [key_bytes(key) for key in keys]
        values: list[bytes | None] = [None] * len(keys)
        if snapshot is not None:
            try:
                with explaining(snapshot.engine, self.where):
                    values = snapshot.values(encoded)
            except CorruptError:
                return super().values(keys)  # which says which one is damaged
        found: list[bytes | memoryview] = []
        for key, value in zip(keys, values, strict=True):
            if value is None:
                raise self._missing(key)
            found.append(value)
        return found

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self._check_writable()
        encoded = key_bytes(key)
        self._check_key(encoded)
        try:
            self._staging.put(encoded, chunks, size=size, limit=self.value_limit, progress=progress)
        except (StoreError, UnsupportedError) as error:
            if error.where:
                raise
            raise type(error)(error.problem, where=f"{self.where}/{key}", cure=error.cure) from None
        self._durable |= durable
        if self._staging.size > _BATCH and self._fresh():
            self._flush()

    def writer(self) -> Self:
        return self._writer("new" if self.mode == "new" and self._fresh() else "write")

    def delete(self, key: str) -> None:
        self._check_writable()
        self._durable = True
        self._staging.delete(key_bytes(key))

    def commit(self) -> None:
        self._check_open()
        try:
            if self.mode != "read" and self._fresh():
                self._flush()
                self._finish()
            elif self._staging:
                engine = self._engine()
                if engine is not None:
                    with engine, explaining(engine, self.where):
                        engine.apply(self._staging, durable=self._durable)
        finally:
            self.rollback()

    def rollback(self) -> None:
        self._staging.clear()
        self._durable = False
        if self._build is not None:
            self._build.drop()
            self._build = None

    def close(self) -> None:
        super().close()
        self._leave()

    def _check_key(self, key: bytes) -> None:
        if len(key) > self.key_limit or not key:
            raise UnsupportedError(
                f"the key {key_text(key[:40])!r}... has {len(key):,} bytes"
                if key
                else "a key is empty",
                where=self.where,
                cure=f"A {self.kind} database takes keys of 1 to {self.key_limit:,} bytes.",
            )

    # --- what is there -------------------------------------------------------------------------

    def _check_place(self) -> None:
        """Look what is at the path before a library does.

        Raises:
            MissingError, StoreError, UnknownFormatError: nothing or something else is there.
        """
        there = identity(self.path) is not None
        parent = os.path.dirname(self.path)
        if self.mode == "read" and not os.path.lexists(self.path):
            raise MissingError(f"there is no {self.kind} database", where=self.where)
        if not os.path.isdir(parent):
            raise MissingError(
                "the folder to save in does not exist", where=parent, cure="Create it first."
            )
        if self.mode == "new" and self.folder and os.path.lexists(self.path):
            raise StoreError(
                "exists already",
                where=self.where,
                cure='Remove it first, or add to it with mode "write".',
            )
        if self.mode == "new" and os.path.isdir(self.path):
            raise StoreError("is a folder", where=self.where, cure="Give the name of a file in it.")
        if there and self.mode != "new" and not self.recognises(self.path):
            raise self._foreign()
        if self.mode == "read" and not there:
            raise UnknownFormatError("is an empty folder", where=self.where)

    def _foreign(self) -> TensorKeepError:
        """Say that something else is at the path."""
        if os.path.isdir(self.path) != self.folder:
            found, meant = ("a file", "a folder") if self.folder else ("a folder", "a file")
            problem = f"is {found}, where a {self.kind} database is {meant}"
            return StoreError(problem, where=self.where, cure="Give another path.")
        return UnknownFormatError(f"holds no {self.kind} database", where=self.where)

    def _fresh(self) -> bool:
        """Say whether the next commit makes the database."""
        if self._build is not None:
            return True
        there = identity(self.path)
        return there is None or (self.mode == "new" and there == self._replaces)

    def _engine(self) -> Engine | None:
        """Give the open database, or None where none is there yet."""
        self._check_open()
        if self.mode != "read" and self._fresh():
            return None
        there = identity(self.path)
        if there is None:
            raise MissingError("is not there any more", where=self.where)
        opened = self._opened
        if opened is None or opened.stale or self._there != there:
            opened = share(
                self.engine, self.path, self.where, self.options, writable=self.mode != "read"
            )
            self._leave()
            self._opened, self._there = opened, there
        return opened

    def _leave(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.leave()

    def _snapshot(self) -> Snapshot | None:
        while (engine := self._engine()) is not None:
            with explaining(engine, self.where):
                snapshot = engine.snapshot()
            if snapshot is not None:
                return snapshot
        return None

    def _walk(
        self,
        snapshot: Snapshot,
        page: Callable[[bytes, int], list[Item]],
        key_of: Callable[[Item], bytes],
        most: int,
        at: bytes,
    ) -> Iterator[Item]:
        """Give what a snapshot has from a key on, page by page."""
        count = _FIRST
        while True:
            with explaining(snapshot.engine, self.where):
                items = page(at, count)
            if not items:
                return
            yield from items
            at, count = key_of(items[-1]) + b"\0", min(2 * count, most)

    def _source(self, snapshot: Snapshot | None, key: bytes) -> RecordSource | None:
        if snapshot is None:
            return None
        with explaining(snapshot.engine, self.where):
            return snapshot.engine.find(snapshot, key, f"{self.where}/{key_text(key)}")

    # --- making it -----------------------------------------------------------------------------

    def _flush(self) -> None:
        """Bring what is staged into the hidden database."""
        if self._build is None:
            self._build = _Build(
                self.engine, self.path, self.where, self.options, folder=self.folder
            )
        with explaining(self._build.engine, self.where):
            self._build.engine.apply(self._staging, durable=False)
        self._staging.restart()

    def _finish(self) -> None:
        if self._build is not None:
            self._build.finish(self._durable, replace=self.mode == "new" and not self.folder)
            self._build = None
            self._replaces = None


def _key_of(record: tuple[bytes, bytes | None]) -> bytes:
    return record[0]


class _Build:
    """A database in the making, in a hidden place beside its path."""

    def __init__(
        self,
        kind: type[Engine],
        path: str,
        where: str,
        options: Mapping[str, Any],
        *,
        folder: bool,
    ) -> None:
        self.path = path
        self.where = where
        self.hidden = hidden(path)
        self._stack = ExitStack()
        try:
            self._folder = self._stack.enter_context(sharing(os.path.dirname(path)))
            self._stack.callback(removal(self.hidden))
            if folder:
                os.mkdir(self.hidden)
            with explaining(kind, where):
                self.engine = kind(self.hidden, options, writable=True, create=True)
        except OSError as error:
            self._stack.close()
            if isinstance(error, TensorKeepError):
                raise
            raise failed_write(error, where) from error
        except BaseException:
            self._stack.close()
            raise

    def finish(self, durable: bool, *, replace: bool) -> None:
        """Let it appear under its name.

        Raises:
            StoreError: the disk failed, or something is there by now.
        """
        with explaining(self.engine, self.where):
            self.engine.close()
        try:
            if durable:
                sync(self.hidden)
            with explaining(self.engine, self.where), self.engine.replacing(self.path):
                if replace:
                    os.replace(self.hidden, self.path)
                else:
                    appear(self.hidden, self.path)
            if durable:
                os.fsync(self._folder)
        except TensorKeepError:
            raise
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise StoreError(
                    "was made by another process meanwhile",
                    where=self.where,
                    cure="Save again to add to it.",
                ) from error
            raise failed_write(error, self.where) from error
        finally:
            self.drop()

    def drop(self) -> None:
        """Remove what is left of it."""
        with suppress(Exception):  # it is thrown away
            self.engine.close()
        self._stack.close()
