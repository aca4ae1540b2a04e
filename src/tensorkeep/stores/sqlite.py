"""SQLite: records in one file, the database of choice where nothing else speaks for another one.

The file is an SQLite database with the application id "tkep" and one table:

    records(id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB UNIQUE, value BLOB)

A value is never changed in place: one that replaces another gets a new id, so a value that is being
read is either the old one or gone, and never half of each.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar
from urllib.parse import quote
from weakref import WeakSet

from tensorkeep.database.engine import SMALL, Engine, Page, RecordSource, Snapshot, closed
from tensorkeep.database.sorted import SortedDatabase
from tensorkeep.database.staging import Staging
from tensorkeep.errors import (
    CorruptError,
    StoreError,
    TensorKeepError,
    UnknownFormatError,
    UnsupportedError,
)

APPLICATION_ID = 0x746B6570  # "tkep", at bytes 68 to 72 of the file
_VERSION = 1
_MAGIC = b"SQLite format 3\0"
_PAGE_SIZE = 16384
_PIECE = 8 << 20
_TOGETHER = 256  # values that are asked for at once
_BESIDE = ("-journal", "-wal", "-shm")  # what SQLite itself keeps beside a database
_PATIENCE = 5.0  # seconds to wait for another process that is writing
_SCHEMA = """
    PRAGMA page_size = {page_size};
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA application_id = {application_id};
    PRAGMA user_version = {version};
    CREATE TABLE records (
        id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL
    );
"""


class SqliteEngine(Engine):
    """A connection, which the threads of this process use in turn."""

    def __init__(
        self, path: str, options: Mapping[str, Any], *, writable: bool, create: bool = False
    ) -> None:
        self._sources: WeakSet[RecordSource] = WeakSet()
        super().__init__(
            path, options, writable=writable or os.access(path, os.W_OK), create=create
        )
        self.connection = _connect(path, "rwc" if create else "rw" if self.writable else "ro")
        self.handle.push(self.connection.close)
        if create:
            schema = _SCHEMA.format(
                page_size=_PAGE_SIZE, application_id=APPLICATION_ID, version=_VERSION
            )
            self.connection.executescript(schema)
        self._check_version()

    def _check_version(self) -> None:
        ((version,),) = self.ask("PRAGMA user_version")
        if version != _VERSION:
            raise UnsupportedError(
                f"its tables are of version {version}, and {_VERSION} is what is known here",
                where=self.path,
                cure="Update tensorkeep.",
            )

    def ask(self, question: str, *values: object) -> list[tuple[Any, ...]]:
        """Give the rows that answer a question."""
        with self._lock:
            return self.connection.execute(question, values).fetchall()

    def read(self, number: int, start: int, buffer: memoryview) -> None:
        """Fill a buffer from a value, by its id."""
        with self._lock:
            if not self.ask("SELECT 1 FROM records WHERE id = ?", number):
                raise StoreError(
                    "was replaced or removed by another process since it was opened",
                    where=self.path,
                    cure="Open it again.",
                )
            with self.connection.blobopen("records", "value", number, readonly=True) as blob:
                blob.seek(start)
                for at in range(0, buffer.nbytes, _PIECE):
                    part = buffer[at : at + _PIECE]
                    part[:] = blob.read(part.nbytes)

    def take(self) -> SqliteSnapshot:
        return SqliteSnapshot(self)

    def find(self, snapshot: Snapshot, key: bytes, where: str) -> RecordSource | None:
        with self._lock:  # so that `apply` knows of each source whose value it replaces
            return super().find(snapshot, key, where)

    def note(self, source: RecordSource) -> None:
        self._sources.add(source)

    def apply(self, staging: Staging, *, durable: bool) -> None:
        with self._lock:
            for source in list(self._sources):
                if source.key in staging:
                    source.detach()
            if not self.create:
                self.connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                for key, value in staging.changes():
                    self.connection.execute("DELETE FROM records WHERE key = ?", (key,))
                    if value is not None:
                        self.connection.execute(
                            "INSERT INTO records (key, value) VALUES (?, ?)", (key, value)
                        )
                self.connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
                raise

    @classmethod
    @contextlib.contextmanager
    def replacing(cls, path: str) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if os.path.exists(path):
                old = stack.enter_context(contextlib.closing(_connect(path, "rw")))
                _hold(old)
            # What a killed writer has left beside a file is for that file and no other: SQLite
            # would put it into whatever has the name.
            for end in _BESIDE:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path + end)
            yield

    @staticmethod
    def explain(error: Exception, where: str) -> TensorKeepError | None:
        if not isinstance(error, sqlite3.Error):
            return None
        if "closed database" in str(error):
            return closed(where)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return CorruptError(f"is damaged: SQLite says {str(error)!r}", where=where)
        if code == sqlite3.SQLITE_ERROR:  # a table or a row that is not there
            return CorruptError(f"is damaged: SQLite says {str(error)!r}", where=where)
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StoreError(
                f"another process was writing to it for {_PATIENCE:g} seconds",
                where=where,
                cure="Wait until it is done, and try again.",
            )
        made = StoreError(f"SQLite failed: {error}", where=where)
        made.errno = errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO
        return made


class SqliteSnapshot(Snapshot):
    """The ids that values had when they were looked up. Others may remove them meanwhile."""

    def __init__(self, engine: SqliteEngine) -> None:
        self.engine = engine
        self._sqlite = engine
        self._ids: dict[bytes, int] = {}

    def keys(self, start: bytes, count: int) -> list[bytes]:
        if start:
            question = "SELECT key FROM records WHERE key >= ? ORDER BY key LIMIT ?"
            keys = [key for (key,) in self._sqlite.ask(question, start, count)]
        else:  # what is no bytes comes before all that is, and is seen here
            question = "SELECT key FROM records ORDER BY key LIMIT ?"
            keys = [key for (key,) in self._sqlite.ask(question, count)]
        self._check_keys(keys)
        return keys

    def _check_keys(self, keys: Iterable[object]) -> None:
        if not all(isinstance(key, bytes) for key in keys):
            raise CorruptError("is damaged: a key is not bytes", where=self.engine.path)

    def page(self, start: bytes, count: int) -> Page:
        value = f"CASE WHEN typeof(value) = 'blob' AND length(value) <= {SMALL} THEN value END"
        if start:
            question = f"SELECT key, {value} FROM records WHERE key >= ? ORDER BY key LIMIT ?"
            page = self._sqlite.ask(question, start, count)
        else:
            page = self._sqlite.ask(f"SELECT key, {value} FROM records ORDER BY key LIMIT ?", count)
        self._check_keys(key for key, _ in page)
        return page

    def size(self, key: bytes) -> int | None:
        question = "SELECT id, typeof(value), length(value) FROM records WHERE key = ?"
        for number, kind, size in self._sqlite.ask(question, key):
            self._check_kind(kind)
            self._ids[key] = number
            return int(size)
        return None

    def _check_kind(self, kind: str) -> None:
        if kind != "blob":
            raise CorruptError(f"is damaged: a value is {kind}, not bytes", where=self.engine.path)

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: dict[bytes, bytes] = {}
        for start in range(0, len(keys), _TOGETHER):
            some = keys[start : start + _TOGETHER]
            marks = ",".join("?" * len(some))
            question = f"SELECT key, typeof(value), value FROM records WHERE key IN ({marks})"
            for key, kind, value in self._sqlite.ask(question, *some):
                self._check_kind(kind)
                found[key] = value
        return [found.get(key) for key in keys]

    def read(self, key: bytes, start: int, buffer: memoryview) -> None:
        self._sqlite.read(self._ids[key], start, buffer)


class SqliteDatabase(SortedDatabase):
    """A key-value database in one SQLite file.

    Args:
        path: the file.
        mode: "read", "write" or "new".
    """

    kind = "sqlite"
    suffixes = (".sqlite",)
    folder = False
    engine: ClassVar[type[Engine]] = SqliteEngine
    key_limit = 1 << 16
    value_limit = 999_900_000  # SQLite takes rows of 1,000,000,000 bytes

    @classmethod
    def recognises(cls, path: str | os.PathLike[str]) -> bool:
        head = _head(path)
        return _is_sqlite(head) and head[68:72] == APPLICATION_ID.to_bytes(4, "big")

    def _check_place(self) -> None:
        if _is_sqlite(_head(self.path)) and not self.recognises(self.path):
            raise UnknownFormatError(
                "is an SQLite database of another program",
                where=self.where,
                cure="Give another name: it is neither read nor changed here.",
            )
        super()._check_place()


def _connect(path: str, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(path)}?mode={mode}",
        uri=True,
        timeout=_PATIENCE,
        isolation_level=None,  # transactions begin and end where we say
        check_same_thread=False,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def _hold(connection: sqlite3.Connection) -> None:
    """Finish what was left undone in a database, and keep all others out of it.

    Raises:
        sqlite3.Error: another process is using it.
    """
    try:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise  # anything else: it is damaged, and will be replaced


def _head(path: str | os.PathLike[str]) -> bytes:
    if not os.path.isfile(path):  # opening a pipe would wait for its writer
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(100)
    except OSError:
        return b""


def _is_sqlite(head: bytes) -> bool:
    return head.startswith(_MAGIC)
