"""SortedDatabase: an engine that keeps its keys in the order of their bytes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, ClassVar, Self

from tensorkeep.database import Database, Mode, key_bytes, key_text
from tensorkeep.database.engine import Engine, RecordSource, Snapshot, explaining, identity, share
from tensorkeep.database.staging import Staging
from tensorkeep.errors import (
    MissingError,
    StoreError,
    TensorKeepError,
    UnknownFormatError,
    UnsupportedError,
)
from tensorkeep.hidden import appear, failed_write, hidden, remove, sharing, sync
from tensorkeep.source import Source
from tensorkeep.store import Chunks, Progress

_BATCH = 16 << 20  # bytes that are brought into a new database together
_FIRST_KEYS, _MOST_KEYS = 8, 1024  # how many are asked for at once: few first, for those who seek


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
        return map(key_text, self._keys(self._snapshot(), key_bytes(prefix), b""))

    def records(self, prefix: str = "", start: str | None = None) -> Iterator[tuple[str, Source]]:
        snapshot = self._snapshot()
        for key in self._keys(snapshot, key_bytes(prefix), key_bytes(start or "")):
            if (source := self._source(snapshot, key)) is not None:
                yield key_text(key), source

    def get(self, key: str) -> Source:
        source = self._source(self._snapshot(), key_bytes(key))
        if source is None:
            raise MissingError(f"there is no key {key[:200]!r}", where=self.where)
        return source

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
        with placing(f"{self.where}/{key}"):
            self._staging.put(encoded, chunks, size=size, limit=self.value_limit, progress=progress)
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
                    with explaining(engine, self.where):
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
        self._opened = None

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
            self._opened, self._there = opened, there
        return opened

    def _snapshot(self) -> Snapshot | None:
        engine = self._engine()
        if engine is None:
            return None
        with explaining(engine, self.where):
            return engine.snapshot()

    def _keys(self, snapshot: Snapshot | None, prefix: bytes, start: bytes) -> Iterator[bytes]:
        if snapshot is None:
            return
        at, count = max(prefix, start), _FIRST_KEYS
        while True:
            with explaining(snapshot.engine, self.where):
                keys = snapshot.keys(at, count)
            for key in keys:
                if not key.startswith(prefix):
                    return
                yield key
            if len(keys) < count:
                return
            at, count = keys[-1] + b"\0", min(2 * count, _MOST_KEYS)

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


@contextmanager
def placing(where: str) -> Iterator[None]:
    """Name the record in an error that does not say where it is."""
    try:
        yield
    except (StoreError, UnsupportedError) as error:
        if error.where:
            raise
        raise type(error)(error.problem, where=where, cure=error.cure) from None


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
            self._stack.callback(remove, self.hidden)
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
