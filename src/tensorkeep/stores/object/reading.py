"""An object as a Source: few requests for small reads, many at a time for large ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from tensorkeep.errors import ClosedError
from tensorkeep.source import Source
from tensorkeep.stores.object.cache import Cache
from tensorkeep.stores.object.fetching import Version
from tensorkeep.stores.object.memory import Blocks, Fill, ReadAhead, room
from tensorkeep.stores.object.whole import fetch_whole

if TYPE_CHECKING:
    from tensorkeep.stores.object.connection import Connection

_SMALL = 128 << 10  # bytes that are read by blocks
_PIECE = 8 << 20  # what one request fetches of a large read at least
_LARGE = 16 << 20  # bytes beyond which a read is several requests at a time
_PLANNED = 64 << 20  # the same for reads into a buffer, which have mostly been cut up already
_BEGINNING = 64  # where headers start
_REQUESTS = 16  # of one object at a time, besides those of the threads that read


class RemoteSource(Source):
    """An object in a bucket or on a web server, of which the bytes come as they are asked for.

    To open it is one request, for its size and its first 256 KiB, which are kept. Should it be
    replaced meanwhile, later reads fail rather than give some bytes of each.

    Args:
        connection: to what has it.
        key: the object's key there.
        where: its address, for messages.
        cache: keeps what was fetched on a local disk.
        whole: fetch all of it now, for servers that give no ranges of bytes.

    Raises:
        MissingError: there is no such object.
        StoreError: the store cannot be reached, refuses, or gives no ranges.
    """

    __slots__ = (
        "_ahead",
        "_blocks",
        "_cache",
        "_closed",
        "_fill",
        "_inner",
        "_lock",
        "_pool",
        "_process",
        "_version",
        "etag",
    )

    def __init__(
        self,
        connection: Connection,
        key: str,
        where: str,
        *,
        cache: Cache | None = None,
        whole: bool = False,
    ) -> None:
        self._closed = False
        self._inner: Source | None = None
        self._pool: ThreadPoolExecutor | None = None
        if whole:
            self._inner, self.etag = fetch_whole(connection, key, where)
            super().__init__(self._inner.size, where)
            return
        self._version = version = Version(connection, key, where)
        super().__init__(version.size, where)
        self.etag = version.etag
        self._cache = cache if version.strong else None
        self._begin()

    def _begin(self) -> None:
        """Start with nothing fetched ahead: a fork has no threads, and may have locks that stay."""
        self._process = os.getpid()
        self._pool = None
        self._lock = threading.Lock()
        self._fill: Fill = self._version.fill
        if self._cache is not None:
            self._fill = self._cache.through(self._version)
        self._blocks = Blocks(self._fill, self.size, self._version.head)
        self._ahead = ReadAhead(self._fill, self._in_thread, self.size)

    @property
    def mapped(self) -> bool:
        return self._inner is not None and self._inner.mapped

    @property
    def remote(self) -> bool:
        return self._inner is None

    def close(self) -> None:
        self._closed = True
        if self._inner is not None:
            self._inner.close()
            return
        if self._process != os.getpid():
            return
        self._ahead.clear()
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)

    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and getattr(self, "_pool", None) is not None:
            self.close()

    def _read(self, start: int, stop: int) -> memoryview:
        self._check_open()
        if self._inner is not None:
            return self._inner.read(start, stop)
        buffer = room(stop - start)
        first, last = self._blocks.held(start, buffer)
        if first == last:
            return buffer.toreadonly()
        header = start < _BEGINNING  # behind which nothing is bound to be read next
        taken = 0 if header else self._ahead.take(start + first, buffer[first:last])
        rest = buffer[first + taken : last]
        if 0 < rest.nbytes <= _SMALL:
            self._blocks.read(start + first + taken, rest)
        elif rest.nbytes:
            self._fetch(start + first + taken, rest)
        if header:
            self._blocks.keep(start + first, buffer[first:last])
        return buffer.toreadonly()

    def _readinto(self, start: int, buffer: memoryview) -> None:
        self._check_open()
        if self._inner is not None:
            self._inner.readinto(start, buffer)
            return
        first, last = self._blocks.held(start, buffer)
        if first != last:
            self._fetch(start + first, buffer[first:last], _PLANNED)

    def _private(self, start: int, stop: int) -> memoryview:
        if self._inner is not None:
            self._check_open()
            return self._inner.private(start, stop)
        buffer = room(stop - start)
        self._readinto(start, buffer)
        return buffer

    def _fetch(self, start: int, buffer: memoryview, large: int = _LARGE) -> None:
        """Fetch into a buffer, by several requests at a time where it is large."""
        if buffer.nbytes <= large:
            self._fill(start, buffer)
            return
        size = max(_PIECE, -(-buffer.nbytes // _REQUESTS))
        rest: list[Future[None]] = []
        try:
            for at in range(size, buffer.nbytes, size):
                fill = partial(self._fill, start + at, buffer[at : at + size])
                rest.append(self._in_thread(fill))
            self._fill(start, buffer[:size])
            for future in rest:
                future.result()
        except (RuntimeError, CancelledError):  # another thread closed it meanwhile
            self._check_open()
            raise
        finally:
            for future in rest:
                future.cancel()

    def _in_thread(self, task: Callable[[], None]) -> Future[None]:
        with self._lock:
            if self._closed:
                raise RuntimeError("is closed")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_REQUESTS, "tensorkeep-fetch")
            return self._pool.submit(task)

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(
                "was closed before this was read",
                where=self.where,
                cure="Read inside the `with` block, or open it again.",
            )
        if self._inner is None and self._process != os.getpid():
            self._begin()
