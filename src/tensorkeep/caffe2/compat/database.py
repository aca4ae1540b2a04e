"""Databases as `workspace.C` gave them: create_db, Mode and registered_dbs.

Those of `tensorkeep.caffe2.db`, but for what Caffe2's Python module takes and gives.
"""

from __future__ import annotations

import enum

from tensorkeep.caffe2 import db
from tensorkeep.caffe2.db import registered_dbs
from tensorkeep.store import Chunk
from tensorkeep.stores import open_database

__all__ = ["DB", "Cursor", "Mode", "Transaction", "create_db", "registered_dbs"]


class Mode(enum.Enum):
    """How a database is opened."""

    read = "read"
    write = "write"
    new = "new"


class Cursor(db.Cursor):
    """A place in the records; its keys are bytes."""

    def key(self) -> bytes:  # type: ignore[override]
        return super().key().encode("utf-8", "surrogateescape")


class Transaction(db.Transaction):
    """Records that are written together; values may be text."""

    def put(self, key: str | bytes, value: Chunk | str) -> None:
        super().put(key, value.encode() if isinstance(value, str) else value)


class DB(db.DB):
    """An open database."""

    def new_cursor(self) -> Cursor:
        return Cursor(self.database)

    def new_transaction(self) -> Transaction:
        return Transaction(self.database)


def create_db(db_type: str, path: str, mode: Mode) -> DB:
    """Open or make a database; a minidb file keeps every record, also of one key.

    Raises:
        ArgumentError: there is no such type.
        MissingError: there is nothing to read.
        StoreError: it cannot be opened.
    """
    options = {"repeats": True} if db_type in ("minidb", "MiniDB") else {}
    return DB(open_database(db_type, path, mode.value, **options))
