"""RocksDB: records in a folder of sorted tables, for one writing process at a time.

Readers of other processes see the database as it was when they opened it. The binding writes files
of its own even where it only reads: so who reads opens a folder of links instead, which is thrown
away afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from weakref import ReferenceType, ref

from tensorkeep.database.engine import Engine, Page, WholeSnapshot, closed, held, link, unlinked
from tensorkeep.database.sorted import SortedDatabase
from tensorkeep.database.staging import Staging
from tensorkeep.errors import CorruptError, StoreError, TensorKeepError
from tensorkeep.optional import require

_ABSENT = "key not found"
_BLOCK_SIZE = 65536  # Caffe2's
_WRITE_BUFFER = 64 << 20  # bytes, of which two wait; Caffe2's 256 MiB write no faster


class RocksdbEngine(Engine):
    """A RocksDB database that is open in this process."""

    def __init__(
        self, path: str, options: Mapping[str, Any], *, writable: bool, create: bool = False
    ) -> None:
        rocksdict = _library()
        self._newest: ReferenceType[RocksdbSnapshot] | None = None
        super().__init__(path, options, writable=writable, create=create)
        settings = rocksdict.Options(raw_mode=True)
        settings.create_if_missing(create)
        settings.set_paranoid_checks(True)
        # Damage in the log is an error; only the record that a killed writer left half is dropped.
        settings.set_wal_recovery_mode(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
        blocks = rocksdict.BlockBasedOptions()
        blocks.set_block_size(_BLOCK_SIZE)
        settings.set_block_based_table_factory(blocks)
        place = path
        if writable:
            settings.set_write_buffer_size(_WRITE_BUFFER)
            settings.set_keep_log_file_num(1)
            access = rocksdict.AccessType.read_write()
        else:
            place = link(path, _is_needed, self.handle)
            settings.set_max_open_files(-1)  # all at once: a writer may remove them afterwards
            access = rocksdict.AccessType.read_only()
        try:
            self._database: Any = rocksdict.Rdict(place, settings, access_type=access)
        except BaseException:
            self.close()
            raise
        self.handle.push(self._database.close)
        if create:  # bring the log into a table: each opening would read it again
            self.handle.push(self._database.flush)

    def take(self) -> RocksdbSnapshot:
        newest = self._newest() if self._newest is not None else None
        if newest is None:
            newest = RocksdbSnapshot(self, self._database.snapshot())
            self._newest = ref(newest)
        return newest

    def apply(self, staging: Staging, *, durable: bool) -> None:
        rocksdict = _library()
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in staging.changes():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, bytes(value))
        how = rocksdict.WriteOptions()
        how.sync = durable
        self._database.write(batch, how)
        with self._lock:  # not while another thread takes one from before
            self._newest = None

    @staticmethod
    def explain(error: Exception, where: str) -> TensorKeepError | None:
        if isinstance(error, _library().DbClosedError):
            return closed(where)
        if type(error) is not Exception and not isinstance(error, OSError):
            return None  # the library has no class of its own
        reason = unlinked(str(error))
        if "lock hold" in reason or ("/LOCK" in reason and "temporarily unavailable" in reason):
            return held(where)
        if reason.startswith("Corruption") or "No such file" in reason:
            return CorruptError(f"is damaged: RocksDB says {reason!r}", where=where)
        return StoreError(f"RocksDB failed: {reason}", where=where)


class RocksdbSnapshot(WholeSnapshot):
    """A snapshot of the library."""

    def __init__(self, engine: RocksdbEngine, inner: Any) -> None:
        self.engine = engine
        self._inner = inner

    def keys(self, start: bytes, count: int) -> list[bytes]:
        found: list[bytes] = []
        iterator = self._inner.iter()
        iterator.seek(start)
        while len(found) < count and iterator.valid():
            found.append(iterator.key())
            iterator.next()
        iterator.status()  # raises where it ended for damage
        return found

    def page(self, start: bytes, count: int) -> Page:
        return self.cut(self._records(start), count)

    def _records(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        iterator = self._inner.iter()
        iterator.seek(start)
        while iterator.valid():
            yield iterator.key(), iterator.value()
            iterator.next()
        iterator.status()  # raises where it ended for damage

    def value(self, key: bytes) -> bytes | None:
        try:
            value: bytes = self._inner[key]
        except Exception as error:
            if str(error) == _ABSENT:  # the library has no class of its own for it
                return None
            raise
        return value


class RocksdbDatabase(SortedDatabase):
    """A RocksDB database, its default column family.

    Args:
        path: its folder.
        mode: "read", "write" or "new".
    """

    kind = "rocksdb"
    suffixes = (".rocksdb",)
    engine: ClassVar[type[Engine]] = RocksdbEngine

    @classmethod
    def recognises(cls, path: str | os.PathLike[str]) -> bool:
        try:
            names = os.listdir(path)
        except (OSError, ValueError):
            return False
        return any(name == "IDENTITY" or name.startswith("OPTIONS-") for name in names)


def _is_needed(name: str) -> bool:
    return not name.startswith(("LOCK", "LOG", "rocksdict-"))


def _library() -> Any:
    cure = "Install it with pip install 'tensorkeep[rocksdb]'."
    return require("rocksdict", "RocksDB databases need the package rocksdict", cure)
