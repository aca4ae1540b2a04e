"""DBReader: a place in a database, which Load and the input operators go on from.

A reader that is saved keeps its shard and its place, which Caffe2 forgot; Caffe2 skips both when it
reads what is saved here. Facts: caffe2/core/db.h (DBReader).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from tensorkeep.database import Database
from tensorkeep.errors import ArgumentError, MissingError, TensorKeepError
from tensorkeep.source import Source
from tensorkeep.stores import DATABASES, open_database
from tensorkeep.wire.caffe2.values import Blob, DBReaderState

if TYPE_CHECKING:
    from tensorkeep.caffe2.operator import Operator

Record = tuple[str, Source]


class DBReader:
    """A cursor over the records of a database, or over every n-th of them.

    Args:
        db_type: the type of the database.
        source: its path.
        num_shards: how many readers share the records.
        shard_id: which of them this one is: it reads record `shard_id`, then every
            `num_shards`-th behind it.
        key: where it is in a database that is sorted; the shard's first record by default.
        record: the number of the record that it is at in one that is not; likewise.

    Raises:
        ArgumentError: an unknown type, or shards that make no sense.
        MissingError: the database is not there, or has no such record.

    >>> import tempfile
    >>> from tensorkeep.caffe2 import save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"a": b"1", "b": b"2"}, f"{folder}/x.minidb")
    ...     reader = DBReader("minidb", f"{folder}/x.minidb")
    ...     [reader.read()[0] for _ in range(3)]
    ['a', 'b', 'a']
    """

    def __init__(
        self,
        db_type: str,
        source: str,
        *,
        num_shards: int = 1,
        shard_id: int = 0,
        key: str = "",
        record: int = 0,
    ) -> None:
        if not 0 <= shard_id < num_shards:
            raise ArgumentError(
                f"shard {shard_id} of {num_shards} does not exist",
                where=source,
                cure="num_shards is 1 or more, shard_id from 0 up to below it.",
            )
        if db_type not in DATABASES:
            problem = f"no database type is called {db_type!r}"
            raise ArgumentError(problem, where=source, cure=f"Use one of {', '.join(DATABASES)}.")
        self.db_type = db_type
        self.source = source
        self.num_shards = num_shards
        self.shard_id = shard_id
        self._lock = threading.Lock()
        self._database: Database = open_database(db_type, source, "read")
        self._records: Iterator[Record] = iter(())
        self._failure: TensorKeepError | None = None
        self.current: Record | None = None
        self.passed = 0
        self._start(key, record or shard_id)

    @staticmethod
    def of(state: DBReaderState) -> DBReader:
        """Open the reader that was saved, where it was."""
        return DBReader(
            state.db_type,
            state.source,
            num_shards=state.num_shards,
            shard_id=state.shard_id,
            key=state.key,
            record=state.record,
        )

    @property
    def state(self) -> DBReaderState:
        """What is saved of a reader: its database, its shard and its place."""
        key, record = "", 0
        if self._database.sorted:
            key = self.current[0] if self.current else ""
        elif self.passed != self.shard_id:
            record = self.passed
        shard = (self.num_shards, self.shard_id)
        return DBReaderState("", self.source, self.db_type, key, *shard, record)

    def restore(self, state: DBReaderState) -> None:
        """Go to the place of a reader of the same database and shard that was saved.

        Raises:
            ArgumentError: it is of another database or shard.
            MissingError: the database no longer has that record.
        """
        own = (self.db_type, self.source, self.num_shards, self.shard_id)
        if (state.db_type, state.source, state.num_shards, state.shard_id) != own:
            raise ArgumentError(
                f"this reads shard {self.shard_id} of {self.num_shards}, and what was saved shard "
                f"{state.shard_id} of {state.num_shards} of {state.source!r}",
                where=self.source,
                cure="Open another with DBReader.of(state).",
            )
        self._start(state.key, state.record or self.shard_id)

    @property
    def valid(self) -> bool:
        """Whether there is a record at its place; False at the end."""
        return self.current is not None

    def next(self) -> None:
        """Go to the next record, whatever the shard; stay at the end.

        Raises:
            CorruptError: the database is damaged there; again and again, until it is rewound.
        """
        if self._failure is not None:
            raise self._failure
        before = self.current
        try:
            self.current = next(self._records, None)
        except TensorKeepError as error:
            self._failure = error
            raise
        self.passed += before is not None

    def rewind(self) -> None:
        """Go back to the first record of the shard.

        Raises:
            MissingError: the database has no record `shard_id`.
        """
        self._start("", self.shard_id)

    def read(self) -> Record:
        """Give the record at its place and go on to the shard's next, from the end to its first.

        Threads may share a reader.

        Raises:
            MissingError: the database is empty.
        """
        with self._lock:
            if self.current is None:
                self.rewind()
            if self.current is None:
                raise MissingError("the database holds no records", where=self.source)
            record = self.current
            for _ in range(self.num_shards):
                self.next()
                if self.current is None:
                    self.rewind()
                    break
            return record

    def remaining(self) -> Iterator[Record]:
        """Give the records from its place on, which moves along: stopping leaves it on the last."""
        while self.current is not None:
            yield self.current
            self.next()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _start(self, key: str, record: int) -> None:
        database = self._database
        self._failure = None
        self.current = None
        self.passed = 0  # records before the one it is at, from where the search for a key ended
        self._records = database.records(start=key) if key else database.records()
        self.next()
        if key:
            return
        while self.passed < record and self.valid:
            self.next()
        if 0 < self.shard_id >= self.passed and not self.valid:
            problem = f"has {self.passed} records, and none for shard {self.shard_id}"
            raise MissingError(problem, where=self.source, cure="Use fewer shards.")
        if self.passed < record:
            problem = f"has {self.passed:,} records, and the reader was at number {record:,}"
            raise MissingError(problem, where=self.source, cure="Make a new reader with CreateDB.")

    def __repr__(self) -> str:
        place = f"at {self.current[0]!r}" if self.current else "at its end"
        return f"DBReader({self.source!r}, {place})"


def storable(name: str, blob: Blob) -> Blob:
    """Replace a reader by what is saved of it, under the name that it is saved as.

    >>> storable("r", Blob("DBReader", DBReaderState("", "x.minidb", "minidb"))).value.name
    'r'
    """
    value = blob.value
    if isinstance(value, DBReader):
        value = value.state
    if isinstance(value, DBReaderState):
        return Blob(blob.kind, replace(value, name=name), blob.device)
    return blob


def reader_of(operator: Operator, index: int) -> DBReader:
    """Give the reader that is an input of an operator; one that was loaded is opened for it.

    Raises:
        ArgumentError: the input is no DBReader.
        MissingError: the database of one that was loaded is not there.
    """
    name, blob = operator.inputs[index], operator.input(index)
    if isinstance(blob.value, DBReaderState):
        blob = Blob(blob.kind, DBReader.of(blob.value), blob.device)
        operator.workspace.set(name, blob)
    if not isinstance(blob.value, DBReader):
        raise ArgumentError(
            f"the input {name!r} is a {blob.kind}, not a DBReader",
            where=operator.where,
            cure="Make one with CreateDB.",
        )
    return blob.value
