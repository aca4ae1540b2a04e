"""Uploads that show at commit: small objects are held until then, larger ones leave in parts.

obstore's `put` sends what an iterator gives as a multipart upload, which is completed at the end of
the iterator and aborted where it raises. So it runs in a thread, fed with parts: commit ends them,
rollback raises. Parts are copied from the chunks, whose memory a producer may use again.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tensorkeep.errors import StoreError, UnsupportedError
from tensorkeep.store import Chunks, Late, Progress
from tensorkeep.stores.object.connection import Connection
from tensorkeep.stores.object.failures import again

MARK = "tensorkeepwriter"  # metadata: who put an object
PART = 8 << 20  # of an upload; objects up to this are put at once
_UNSIZED = 16 << 20  # where the size is not known before
_PARTS = 10_000  # of an upload, at most, for S3
_LARGEST = 5 << 40
_IN_MEMORY = 16 << 20  # of what is held; more goes to a temporary file
_QUEUED = 2  # parts that wait to be sent


class Spool:
    """Bytes that wait: some megabytes in memory, more in a temporary file without a name."""

    def __init__(self) -> None:
        self._file: tempfile.SpooledTemporaryFile[bytes] | None = None
        self._end = 0
        self._lock = threading.Lock()

    def append(self, data: Any) -> tuple[int, int]:
        """Take bytes; gives where they start and stop."""
        start, view = self._end, memoryview(data)
        if self._file is None:
            self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        try:
            self._file.seek(start)
            self._file.write(view)
        except OSError as error:
            raise StoreError(
                f"what waits to be uploaded cannot be kept: {error.strerror}",
                where=tempfile.gettempdir(),
                cure="Make room there, or set TMPDIR.",
            ) from error
        self._end = start + view.nbytes
        return start, self._end

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """Give bytes back, a few megabytes at a time."""
        while start < stop:
            data = b""
            with self._lock:
                if self._file is not None:
                    self._file.seek(start)
                    data = self._file.read(min(PART, stop - start))
            if not data:
                raise StoreError("what waits to be uploaded is gone", where=tempfile.gettempdir())
            yield data
            start += len(data)

    def clear(self) -> None:
        """Forget all of it."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._end = 0

    def __del__(self) -> None:
        self.clear()


class _Aborted(Exception):  # noqa: N818
    """Ends an upload so that nothing of it stays."""


class _FailedError(Exception):
    """An upload failed that had begun; its parts are gone, so that it cannot be tried again."""


class _Parts:
    """An upload in parts, by a thread.

    Args:
        connection: to the bucket.
        path: the whole key.
        where: how messages name it.
        part: bytes of a part.
    """

    def __init__(self, connection: Connection, path: str, where: str, part: int) -> None:
        self._connection = connection
        self._where = where
        self._queue: queue.Queue[Any] = queue.Queue(_QUEUED)
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._etag = ""
        self._path = path
        self._left = False
        self._taken = self._ended = False  # the first part, the last one
        self._token = uuid.uuid4().hex
        concurrency = connection.concurrency
        store = connection.store_for(part * concurrency)

        def put() -> str:
            try:
                result = store.put(
                    path,
                    self._parts(),
                    use_multipart=True,
                    chunk_size=part,
                    max_concurrency=concurrency,
                    attributes={MARK: self._token},
                )
            except Exception as error:
                if not self._taken:  # which is so only where it could not begin
                    raise
                if self._ended and self._is_there():
                    return ""
                raise _FailedError from error
            return result.get("e_tag") or ""

        def run() -> None:
            try:
                self._etag = again(put, connection.patience)
            except _FailedError as failed:
                self._error = failed.__cause__
            except BaseException as error:
                self._error = error
            finally:
                self._done.set()

        self._thread = threading.Thread(target=run, name=f"upload of {path}", daemon=True)
        self._thread.start()

    def _parts(self) -> Iterator[Any]:
        while (part := self._queue.get()) is not None:
            if self._left or isinstance(part, _Aborted):
                raise _Aborted
            self._taken = True
            yield part
        self._ended = True

    def _is_there(self) -> bool:
        """Tell whether the object is this upload's, whose completion was answered in vain."""
        try:
            found = self._connection.store.get(self._path, options={"range": (0, 1)})
        except Exception:
            return False
        return self._token in found.attributes.values()

    def send(self, part: Any) -> None:
        """Hand a part on; waits where enough of them wait already.

        Raises:
            StoreError: an earlier one failed.
        """
        while not self._done.is_set():
            try:
                self._queue.put(part, timeout=0.2)
            except queue.Full:
                continue
            if not self._done.is_set():
                return
        if part is not None and not isinstance(part, _Aborted):
            self._check()

    def finish(self, size: int) -> None:
        """Complete the upload, and compare its size."""
        self.send(None)
        self._done.wait()
        self._check()
        try:
            found = self._connection.store.head(self._path)
        except Exception as error:
            raise self._connection.failure(error, self._where) from None
        if found["size"] != size and (found["e_tag"] or "") == self._etag:
            raise StoreError(f"{found['size']:,} bytes arrived, not {size:,}", where=self._where)

    def abort(self) -> None:
        """Have nothing of it stay."""
        self.send(_Aborted())
        self._done.wait()

    def leave(self) -> None:
        """Have nothing of it stay, soon; does not wait for that."""
        self._left = True
        with contextlib.suppress(queue.Full):  # or else there is a part to come that ends it
            self._queue.put_nowait(_Aborted())

    def _check(self) -> None:
        if self._error is not None:
            raise self._connection.failure(self._error, self._where) from None


class Upload:
    """One object on its way.

    Args:
        connection: to the bucket.
        path: the whole key.
        where: how messages name it.
        spool: keeps what has to wait for the commit.
        size: the total, where it is known.
    """

    def __init__(
        self, connection: Connection, path: str, where: str, spool: Spool, size: int | None
    ) -> None:
        self._connection = connection
        self._path = path
        self._where = where
        self._spool = spool
        self._size = size
        self._step = part_size(size, where)
        self._part = np.empty(0, np.uint8)
        self._filled = 0
        self._sent = 0
        self._parts: _Parts | None = None
        self._kept: tuple[int, int] | None = None
        self._process = os.getpid()

    def __del__(self) -> None:
        parts = getattr(self, "_parts", None)
        if parts is not None and self._process == os.getpid():
            parts.leave()

    def take(self, chunks: Chunks, progress: Progress | None) -> None:
        """Take all the bytes; what is behind a Late chunk waits until that is known.

        Raises:
            StoreError: the store failed, or other bytes came than were announced.
        """
        late = Spool()
        waiting: list[Late | tuple[int, int]] = []
        count = 0
        try:
            for chunk in chunks:
                if isinstance(chunk, Late):
                    waiting.append(chunk)
                    count += chunk.size
                    continue
                view = memoryview(chunk)
                if waiting:
                    waiting.append(late.append(view))
                else:
                    self._write(view)
                count += view.nbytes
                if progress is not None and view.nbytes:
                    progress(view.nbytes)
            for part in waiting:
                for data in (
                    _made(part, self._where) if isinstance(part, Late) else late.pieces(*part)
                ):
                    self._write(memoryview(data))
            if self._size is not None and count != self._size:
                raise StoreError(f"{count:,} bytes came, not {self._size:,}", where=self._where)
            self._kept = self._spool.append(self._part[: self._filled])
            self._part = np.empty(0, np.uint8)
        finally:
            late.clear()

    def _write(self, view: memoryview) -> None:
        if view.ndim != 1 or view.format != "B":
            view = view.cast("B")
        while view.nbytes:
            if self._filled == self._step:
                self._send()
            if self._filled == self._part.nbytes:
                self._grow(view.nbytes)
            room = min(view.nbytes, self._part.nbytes - self._filled)
            self._part[self._filled : self._filled + room] = np.frombuffer(view[:room], np.uint8)
            self._filled += room
            view = view[room:]

    def _grow(self, wanted: int) -> None:
        """Make room in the part: at once where it will be full, else by doubling."""
        size = max(2 * self._filled, self._filled + wanted, 64 << 10)
        fresh = np.empty(min(self._step, size), np.uint8)
        fresh[: self._filled] = self._part[: self._filled]
        self._part = fresh

    def _send(self) -> None:
        if self._parts is None:
            self._parts = _Parts(self._connection, self._path, self._where, self._step)
        self._parts.send(self._part)
        self._sent += self._filled
        self._part = np.empty(0, np.uint8)
        self._filled = 0

    def finish(self) -> None:
        """Make the object visible.

        Raises:
            StoreError: the store failed; the old object is still there.
        """
        start, stop = self._kept or (0, 0)
        rest = b"".join(self._spool.pieces(start, stop))
        if self._parts is None:
            store = self._connection.store_for(len(rest) * self._connection.concurrency)
            try:
                store.put(self._path, rest, use_multipart=False)
            except Exception as error:
                raise self._connection.failure(error, self._where) from None
            return
        if rest:
            self._parts.send(rest)
        self._parts.finish(self._sent + len(rest))
        self._parts = None

    def abort(self) -> None:
        """Have nothing of it stay."""
        if self._parts is not None:
            self._parts.abort()
            self._parts = None
        self._part = np.empty(0, np.uint8)


def _made(late: Late, where: str) -> Iterable[bytes]:
    data = late.make()
    if len(data) != late.size:
        raise StoreError(f"a part of {late.size} bytes has {len(data)}", where=where)
    return (data,)


def part_size(size: int | None, where: str) -> int:
    """Give the bytes of each part, so that there are not too many.

    Raises:
        UnsupportedError: the object is larger than any store keeps.

    >>> part_size(10**9, ""), part_size(10**12, "")
    (8388608, 101711872)
    """
    if size is None:
        return _UNSIZED
    if size > _LARGEST:
        raise UnsupportedError(
            f"{size:,} bytes are more than an object can have ({_LARGEST:,})",
            where=where,
            cure="Save it in shards, by max_shard_size.",
        )
    return max(PART, math.ceil(size / (_PARTS - 100) / (1 << 20)) << 20)


def finish_together(uploads: list[Upload], concurrency: int) -> None:
    """Finish uploads several at a time, but the last one after all the others.

    Raises:
        StoreError: one of them failed.
    """
    with ThreadPoolExecutor(concurrency) as pool:
        for _ in pool.map(Upload.finish, uploads[:-1]):
            pass
    for upload in uploads[-1:]:
        upload.finish()
