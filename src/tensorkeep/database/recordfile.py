"""A database in one file of records, one behind the other.

Every commit replaces the file whole: what was put is collected in a hidden file beside it, which
becomes the database itself where nothing else has to be in it. A kill at any instant leaves the old
file or the new one, never half a record.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from tensorkeep import syscalls
from tensorkeep.database import Database, Mode
from tensorkeep.errors import MissingError, StoreError, UnsupportedError
from tensorkeep.hidden import failed_write
from tensorkeep.replacing import (
    Replacement,
    check_replaceable,
    hold,
    identify,
    write_chunks,
    write_views,
)
from tensorkeep.source import FileSource, MemorySource, Source, Window
from tensorkeep.store import Chunk, Chunks, Late, Progress, join

_SMALL = 64 << 10  # values up to here are collected, and written together
_TOGETHER = 1 << 20
_RESERVED = 64 << 20  # values from here on have their room on the disk reserved first

_Piece = Chunk | Late


# Bytes of an open file: its descriptor, the first byte and the one after the last.
_Run = tuple[int, int, int]  # no NamedTuple: making one costs as much as copying a small record
_Change = tuple[str, _Run | None]  # a put, or where there is nothing a delete


class Record(NamedTuple):
    """The key of a record and where its value lies in the source.

    What precedes the value, up to the end of the record before, belongs to the record.
    """

    key: str
    start: int
    stop: int


@dataclass(slots=True)
class _Opened:
    """A committed file, what tells it from one that takes its place, and once asked, its keys."""

    identity: tuple[int, ...]
    source: FileSource
    index: dict[str, Record] | None = None


class RecordFile(Database):
    """Records in one file, in the order in which they were put.

    A key that is put again keeps its place; one that is deleted and put again goes to the end.

    Args:
        path: the file.
        mode: "new" replaces the file at the first commit; until then nothing of it is shown.

    Raises:
        CorruptError: at the first use, for a file that is cut short or damaged; `records` gives
            what is before that.
    """

    sorted: ClassVar[bool] = False
    holds_empty: ClassVar[bool] = False
    most_bytes: ClassVar[int | None] = None  # of the whole file

    @abstractmethod
    def _scan(self, source: Source) -> Iterator[Record]:
        """Give the records of a file, without reading their values.

        Raises:
            CorruptError: it is cut short or damaged.
        """

    @staticmethod
    @abstractmethod
    def _head(key: str, size: int) -> bytes:
        """Give what precedes a value of `size` bytes.

        Raises:
            UnsupportedError: there can be no such record.
        """

    def __init__(self, path: str | os.PathLike[str], mode: Mode = "read", **options: Any) -> None:
        self._opened: _Opened | None = None
        self._spool: _Spool | None = None
        self._changes: list[_Change] = []
        self._durable = False
        super().__init__(path, mode, **options)
        self._hidden = identify(self.path) if mode == "new" else None
        if mode == "new":
            check_replaceable(Path(self.path))
        else:
            self._committed()

    def keys(self, prefix: str = "") -> Iterator[str]:
        opened = self._committed()
        index = self._index(opened) if opened is not None else {}
        return (key for key in index if key.startswith(prefix))

    def get(self, key: str) -> Source:
        opened = self._committed()
        record = self._index(opened).get(key) if opened is not None else None
        if opened is None or record is None:
            raise MissingError(f"there is no key {key[:60]!r}", where=self.where)
        return self._window(opened.source, record)

    def records(self, prefix: str = "", start: str | None = None) -> Iterator[tuple[str, Source]]:
        if start is not None:
            raise UnsupportedError(
                f"the keys of a {self.kind} are not sorted, so none can be searched for",
                where=self.where,
                cure="Go through all records, or use a database that sorts them, such as lmdb.",
            )
        opened = self._committed()
        if opened is None:
            return iter(())
        found = self._scan(opened.source)
        return (
            (record.key, self._window(opened.source, record))
            for record in found
            if record.key.startswith(prefix)
        )

    def _index(self, opened: _Opened) -> dict[str, Record]:
        """Give each key once, where it came first, with the record that came last."""
        if opened.index is None:
            opened.index = {record.key: record for record in self._scan(opened.source)}
        return opened.index

    def _window(self, source: Source, record: Record) -> Source:
        where = f"{self.where}/{record.key}"
        return Window(source, record.start, record.stop - record.start, where)

    def _committed(self) -> _Opened | None:
        """Give the file as it is now, opened again where another has taken its place."""
        self._check_open()
        identity = identify(self.path)
        if identity == self._hidden:
            return None
        if self._opened is None or self._opened.identity != identity:
            try:
                source = FileSource(self.path)
            except MissingError:
                if self.mode == "read":
                    raise
                return None
            source.where = self.where
            self._opened = _Opened(identity, source)
        return self._opened

    def writer(self) -> Self:
        mode: Mode = "new" if identify(self.path) == self._hidden else "write"
        writer = type(self)(self.path, mode, **self.options)
        writer.where = self.where
        return writer

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
        if self._spool is None:
            self._spool = _Spool(self.path, self._head)
        try:
            run = self._spool.append(key, chunks, size, durable, progress)
        except OSError as error:
            raise failed_write(error, Path(self.where), size) from error
        self._changes.append((key, run))
        self._durable |= durable

    def delete(self, key: str) -> None:
        self._check_writable()
        self._changes.append((key, None))
        self._durable = True

    def commit(self) -> None:
        try:
            if self._changes or self._committed() is None:
                self._replace()
        except OSError as error:
            raise failed_write(error, Path(self.where), None) from error
        finally:
            self.rollback()

    def rollback(self) -> None:
        self._changes = []
        self._durable = False
        if self._spool is not None:
            self._spool.file.close()
            self._spool = None

    def _replace(self) -> None:
        spool = self._spool = self._spool or _Spool(self.path, self._head)
        spool.flush()
        with contextlib.ExitStack() as held:
            hides_old = identify(self.path) == self._hidden
            old = None if hides_old else held.enter_context(hold(self.path))
            kept = () if old is None else self._read_runs(old)
            runs = _join(_arrange(kept, self._changes, bool(self.options.get("repeats"))))
            self._check_total(sum(stop - start for _, start, stop in runs))
            whole = spool.file
            if runs and (len(runs) > 1 or runs[0][:2] != (whole.fd, 0)):
                whole = Replacement(self.path, folder=spool.file.folder)
                held.callback(whole.close)
                for run in runs:
                    whole.copy(*run)
            else:
                whole.end = runs[0][2] if runs else 0
            whole.finish(durable=self._durable or not self._changes)

    def _check_total(self, size: int) -> None:
        if self.most_bytes is not None and size > self.most_bytes:
            raise UnsupportedError(
                f"would have {size:,} bytes; a {self.kind} holds up to {self.most_bytes:,}",
                where=self.where,
                cure="Use another kind of database, such as minidb. The file is unchanged.",
            )

    def _read_runs(self, fd: int) -> Iterator[_Change]:
        """Give the records of an open file, whole."""
        size = os.fstat(fd).st_size
        if not size:
            return
        start = 0
        source = MemorySource(memoryview(mmap.mmap(fd, size, prot=mmap.PROT_READ)), self.where)
        for record in self._scan(source):
            yield record.key, (fd, start, record.stop)
            start = record.stop


class _Spool:
    """New records, one behind the other in a hidden file; small ones are written together."""

    def __init__(self, path: str, head: Callable[[str, int], bytes]) -> None:
        self._head = head
        self.file = Replacement(path)
        self._waiting = bytearray()

    def append(
        self, key: str, chunks: Chunks, size: int | None, durable: bool, progress: Progress | None
    ) -> _Run:
        """Take a record; where that fails, what was there before still counts."""
        if (
            size is not None
            and size <= _SMALL
            and type(chunks) is tuple
            and Late not in map(type, chunks)
        ):
            return self._append_small(key, b"".join(chunks), size, durable, progress)
        coming = iter(chunks)
        taken, count = _take(coming)
        if count > _SMALL:
            return self._append_large(key, chain(taken, coming), size, durable, progress)
        expected = count if size is None else size
        return self._append_small(key, join(taken), expected, durable, progress)

    def _append_small(
        self, key: str, data: bytes, size: int, durable: bool, progress: Progress | None
    ) -> _Run:
        count = len(data)
        if count != size:
            raise self._wrong_size(key, count, size)
        head = self._head(key, count)
        if len(self._waiting) + len(head) + count > _TOGETHER:
            self.flush(durable)
        start = self.file.end + len(self._waiting)
        self._waiting += head
        self._waiting += data
        if progress is not None and count:
            progress(count)
        return self.file.fd, start, start + len(head) + count

    def _append_large(
        self, key: str, chunks: Chunks, size: int | None, durable: bool, progress: Progress | None
    ) -> _Run:
        head = self._head(key, 1 if size is None else size)  # refuse it before it is written
        self.flush(durable)
        fd, start = self.file.fd, self.file.end
        inside = start + len(head)
        if size is not None and size >= _RESERVED:
            syscalls.reserve(fd, inside + size, start)
        stop = write_chunks(fd, chunks, inside, durable, progress)
        if size is not None and stop - inside != size:
            raise self._wrong_size(key, stop - inside, size)
        write_views(fd, [memoryview(self._head(key, stop - inside))], start)
        self.file.end = stop
        return fd, start, stop

    def _wrong_size(self, key: str, count: int, expected: int) -> StoreError:
        problem = f"{count:,} bytes came for {key[:60]!r}, not {expected:,}"
        return StoreError(problem, where=str(self.file.target))

    def flush(self, durable: bool = True) -> None:
        """Write what waits."""
        if self._waiting:
            self.file.append([self._waiting], durable=durable)
            self._waiting = bytearray()


def _take(chunks: Iterator[_Piece]) -> tuple[list[_Piece], int]:
    """Take chunks until there are none or they are no longer small together."""
    taken: list[_Piece] = []
    count = 0
    for chunk in chunks:
        taken.append(chunk)
        count += chunk.size if isinstance(chunk, Late) else memoryview(chunk).nbytes
        if count > _SMALL:
            break
    return taken, count


def _arrange(kept: Iterable[_Change], changes: Sequence[_Change], repeats: bool) -> list[_Run]:
    """Give the records that are left after all changes, in their order."""
    if kept == () and len(dict(changes)) == len(changes):
        return [run for _, run in changes if run is not None]
    runs: list[_Run | None] = []
    places: dict[str, list[int]] = {}
    for key, run in kept:
        places.setdefault(key, []).append(len(runs))
        runs.append(run)
    for key, run in changes:
        if run is not None and (repeats or key not in places):
            places.setdefault(key, []).append(len(runs))
            runs.append(run)
            continue
        held = places.pop(key, [])
        for place in held:
            runs[place] = None
        if run is not None:
            runs[held[0]] = run
            places[key] = held[:1]
    return [run for run in runs if run is not None]


def _join(runs: list[_Run]) -> list[_Run]:
    """Make one run of those that lie one behind the other."""
    joined: list[_Run] = []
    last, begin, end = -1, 0, 0
    for fd, start, stop in runs:
        if fd == last and start == end:
            end = stop
            continue
        joined.append((last, begin, end))
        last, begin, end = fd, start, stop
    return [*joined, (last, begin, end)][1:]
