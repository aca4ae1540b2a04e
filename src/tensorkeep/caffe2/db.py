"""Caffe2's databases as its scripts use them: a DB, its cursors and its transactions.

    db = create_db("minidb", "train.minidb", "write")
    with db.new_transaction() as transaction:
        transaction.put("00000", record)
    db.close()

Facts: Caffe2's `core/db.h` and its Python bindings. What differs: a database that is new appears
with its first commit, whole, and a `with` block that fails commits nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Self

from tensorkeep.database import Database, Mode, key_text
from tensorkeep.errors import ArgumentError
from tensorkeep.source import Source
from tensorkeep.store import Chunk
from tensorkeep.stores import DATABASES, open_database


class Cursor:
    """A place in the records of a database, in their stored order; at first the first one.

    It goes through the records of the commit that was the last one when it began.

    >>> import tempfile
    >>> db = create_db("sqlite", f"{tempfile.mkdtemp()}/a.sqlite", "new")
    >>> with db.new_transaction() as transaction:
    ...     transaction.put("b", b"2")
    ...     transaction.put("a", b"1")
    >>> cursor = db.new_cursor()
    >>> cursor.key(), cursor.value()
    ('a', b'1')
    >>> cursor.seek("aa")
    >>> cursor.key()
    'b'
    >>> cursor.next()
    >>> cursor.valid()
    False
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._records: Iterator[tuple[str, Source]] = iter(())
        self._now: tuple[str, Source] | None = None
        self.seek_to_first()

    def supports_seek(self) -> bool:
        """Say whether the keys are sorted, so that one can be looked for."""
        return self._database.sorted

    def seek_to_first(self) -> None:
        """Go back to the first record.

        Raises:
            CorruptError: it is damaged.
        """
        self._records = self._database.records()
        self._now = next(self._records, None)

    def seek(self, key: str | bytes) -> None:
        """Go to the first record whose key is not less than `key`, in byte order.

        Raises:
            UnsupportedError: the database is not sorted.
        """
        self._records = self._database.records(start=_text(key))
        self._now = next(self._records, None)

    def next(self) -> None:
        """Go to the next record, or behind the last one.

        Raises:
            CorruptError: it is damaged.
        """
        self._now = next(self._records, None)

    def valid(self) -> bool:
        """Say whether there is a record here."""
        return self._now is not None

    def key(self) -> str:
        """Give the key of this record.

        Raises:
            ArgumentError: the cursor is behind the last one.
        """
        return self._record()[0]

    def value(self) -> bytes:
        """Give the bytes of this record.

        Raises:
            ArgumentError: the cursor is behind the last one.
            CorruptError: they are damaged.
        """
        source = self._record()[1]
        return bytes(source.read(0, source.size))

    def _record(self) -> tuple[str, Source]:
        if self._now is None:
            raise ArgumentError(
                "the cursor is behind the last record",
                where=self._database.where,
                cure="Ask valid() first, or go back with seek_to_first().",
            )
        return self._now


class Transaction:
    """Records that are written together; committed at the latest when it ends."""

    def __init__(self, database: Database) -> None:
        self._database: Database | None = database
        self._changed = False

    def put(self, key: str | bytes, value: Chunk) -> None:
        """Take a record.

        Raises:
            UnsupportedError: the database keeps no such key or value.
            StoreError: the disk failed, or the database was opened for reading.
        """
        if self._database is None:
            raise ArgumentError("the transaction has ended", cure="Begin a new one.")
        self._database.put(_text(key), [value], size=memoryview(value).nbytes)
        self._changed = True

    def commit(self) -> None:
        """Make what was put visible; more can be put afterwards.

        Raises:
            StoreError: the disk failed.
        """
        if self._database is not None and self._changed:
            self._changed = False
            self._database.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.commit()
        elif self._database is not None:
            self._database.rollback()
        self._database = None

    def __del__(self) -> None:
        self.commit()


class DB:
    """An open database.

    Args:
        database: what keeps the records.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._empty = database.mode == "new"  # and nobody may have put anything when it is closed

    def new_cursor(self) -> Cursor:
        """Give a cursor at the first record.

        Raises:
            CorruptError: the database is damaged.
        """
        return Cursor(self.database)

    def new_transaction(self) -> Transaction:
        """Begin to write. One transaction of a DB is under way at a time."""
        return Transaction(self.database)

    def close(self) -> None:
        """Release it; one that is new is made even where nothing was put."""
        if self._empty:
            self._empty = False
            self.database.commit()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._empty = self._empty and kind is None
        self.close()

    def __del__(self) -> None:
        self._empty = False
        with suppress(Exception):  # nobody could catch it
            self.close()


def create_db(db_type: str, path: str | os.PathLike[str], mode: Mode = "read") -> DB:
    """Open or make a database.

    Args:
        db_type: one of `registered_dbs()`.
        path: its file or folder.
        mode: "read" what is there, "write" more into it, or make it "new".

    Raises:
        ArgumentError: there is no such type or mode.
        MissingError: there is nothing to read.
        StoreError: it cannot be opened.

    >>> import tempfile
    >>> with create_db("minidb", f"{tempfile.mkdtemp()}/x.minidb", "new") as db:
    ...     with db.new_transaction() as transaction:
    ...         transaction.put("key", b"value")
    """
    return DB(open_database(db_type, path, mode))


def registered_dbs() -> list[str]:
    """Give the names of all types of databases.

    >>> "lmdb" in registered_dbs()
    True
    """
    return list(DATABASES)


def _text(key: str | bytes) -> str:
    return key if isinstance(key, str) else key_text(key)
