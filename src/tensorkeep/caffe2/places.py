"""The records of a database with where their bytes lie, for those that read ten thousands of them.

A Source for each record would cost more than reading a small record does; those of a minidb file
are ranges of one source.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tensorkeep.database import Database
from tensorkeep.source import FileSource, MemorySource, Source
from tensorkeep.stores.minidb import MinidbStore
from tensorkeep.wire.minidb import read_records

_SMALL = 64 << 10  # bytes of a record that are handed out as they are
_TINY = 4 << 10  # bytes that cost less to keep than to ask an engine for them again


# The key of a record, the range of a source that holds it, and its bytes where it is small.
Place = tuple[str, Source, int, int, memoryview | None]


def places_of(
    records: Database | Iterable[tuple[str, Source]], *, strict: bool = True
) -> Iterator[Place]:
    """Give the records of a database, or of pairs of keys and sources, in their order.

    Raises:
        CorruptError: a record is damaged; raised after those before it were given.
    """
    if isinstance(records, MinidbStore) and records.mode == "read":
        yield from _minidb_places(records, strict)
        return
    pairs = records.records() if isinstance(records, Database) else records
    for key, source in pairs:
        if source.size > _TINY:
            yield key, source, 0, source.size, None
            continue
        data = source.read(0, source.size)
        yield key, MemorySource(data, source.where), 0, source.size, data


def _minidb_places(database: MinidbStore, strict: bool) -> Iterator[Place]:
    source = FileSource(database.path)
    source.where = database.where
    if not source.mapped or not source.size:
        for key, start, stop in read_records(source, strict=strict):
            yield key, source, start, stop, None
        return
    view = source.read(0, source.size)
    for key, start, stop in read_records(source, strict=strict):
        yield key, source, start, stop, view[start:stop] if stop - start < _SMALL else None
