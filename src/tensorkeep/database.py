"""Database: a key-value engine as a store, with the modes in which Caffe2 opens one."""

from __future__ import annotations

import errno
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, ClassVar, Literal, Self, get_args

from tensorkeep.engine import Engine, RecordSource, Snapshot, explaining, identity, share
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    MissingError,
    StoreError,
    TensorKeepError,
    UnknownFormatError,
    UnsupportedError,
)
from tensorkeep.source import Source
from tensorkeep.staging import (
    Staging,
    appear,
    failure,
    hidden,
    remove,
    sharing,
    sync,
)
from tensorkeep.store import Chunks, Progress, Store

Mode = Literal["read", "write", "new"]


_BATCH = 16 << 20  # bytes that are brought into a new database together
_FIRST_KEYS, _MOST_KEYS = 8, 1024  # how many are asked for at once: few first, for those who seek


class Database(Store):
    """A store of records in one file, or in a folder that one engine has to itself.

    Args:
        path: the file or folder.
        mode: "read" opens what is there and changes nothing; "write" opens it, or makes it where
            there is nothing; "new" makes it: a folder must not exist yet, a file is replaced. What
            is new appears at the first commit, whole.
        options: what the engine takes; see its own class.

    Raises:
        MissingError: there is nothing to read.
        StoreError: it cannot be opened, or is held by another process.
        CorruptError: it is damaged.
        ArgumentError: an unknown mode or option.
    """

    kind: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]]
    sorted: ClassVar[bool]
    option_names: ClassVar[tuple[str, ...]] = ()
    holds_empty: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str], mode: Mode = "read", **options: Any) -> None:
        self._closed = True
        if mode not in get_args(Mode):
            raise ArgumentError(f"there is no mode {mode!r}", cure='Use "read", "write" or "new".')
        for option in options:
            if option not in self.option_names:
                known = ", ".join(self.option_names) or "none"
                raise ArgumentError(
                    f"{self.kind} has no option {option!r}", cure=f"It has {known}."
                )
        self.where = os.fsdecode(path)
        try:
            self.path = os.path.realpath(self.where)
        except (OSError, ValueError) as error:
            raise StoreError(f"is no file name: {error}", where=self.where) from error
        self.mode: Mode = mode
        self.options = options
        self._closed = False

    @classmethod
    @abstractmethod
    def recognises(cls, path: str | os.PathLike[str]) -> bool:
        """Say whether a database of this kind is there, by file names or first bytes."""

    @abstractmethod
    def records(self, prefix: str = "", start: str | None = None) -> Iterator[tuple[str, Source]]:
        """Give the committed records whose keys start with `prefix`, in stored order.

        Args:
            prefix: how the keys start.
            start: the first key that may come; only for an engine that is `sorted`.

        Raises:
            UnsupportedError: `start` was given to an engine that does not sort its keys.
        """

    @property
    def exists(self) -> bool:
        """Whether something is at the path: what is new is not, until its first commit."""
        return os.path.lexists(self.path)

    def writer(self) -> Self:
        return self._writer("write")

    def _writer(self, mode: Mode) -> Self:
        writer = type(self)(self.path, mode, **self.options)
        writer.where = self.where
        return writer

    def close(self) -> None:
        if not self._closed:
            self.rollback()
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the database was closed", where=self.where, cure="Open it again.")

    def _check_writable(self) -> None:
        self._check_open()
        if self.mode == "read":
            raise StoreError(
                "was opened for reading only",
                where=self.where,
                cure='Open it with mode "write", or write through its writer().',
            )


def key_bytes(key: str) -> bytes:
    r"""Encode a key as it is kept; a lone surrogate stands for a byte that is not UTF-8.

    Raises:
        ArgumentError: the key is no text that can be encoded.

    >>> key_bytes("w\udcff")
    b'w\xff'
    """
    try:
        return key.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ArgumentError(f"the key {key[:60]!r} cannot be encoded") from None


def key_text(key: bytes) -> str:
    r"""Decode a key that is kept; bytes that are not UTF-8 become lone surrogates.

    >>> key_text(b"w\xff")
    'w\udcff'
    """
    return key.decode("utf-8", "surrogateescape")


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
            raise failure(error, where) from error
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
            raise failure(error, self.where) from error
        finally:
            self.drop()

    def drop(self) -> None:
        """Remove what is left of it."""
        with suppress(Exception):  # it is thrown away
            self.engine.close()
        self._stack.close()
