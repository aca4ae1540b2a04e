"""Random-access bytes that are read only when asked for.

A Source has a size and no position, so threads share it; every read passes the one bounds check in
this file. A view that a read hands out keeps alive the memory it looks at.
"""

from __future__ import annotations

import mmap
import os
import stat
import sys
import threading
from abc import ABC, abstractmethod
from bisect import bisect_right

from tensorkeep import syscalls
from tensorkeep.errors import ClosedError, CorruptError, MissingError, StoreError, UnsupportedError

_SMALL = 64 << 10  # bytes that are cheaper to read than to map
# Linux: address space for a private map is not charged against memory that is never written.
_MAP_NORESERVE = 0x4000 if sys.platform == "linux" else 0


class Source(ABC):
    """Read-only bytes of a known size; `where` names them in messages."""

    __slots__ = ("size", "where")

    def __init__(self, size: int, where: str) -> None:
        self.size = size
        self.where = where

    def read(self, start: int, stop: int) -> memoryview:
        """Give the bytes from `start` up to `stop`, without a copy where they are in memory.

        Raises:
            CorruptError: the range is not inside the source.
        """
        self._check(start, stop)
        return self._read(start, stop)

    def readinto(self, start: int, buffer: memoryview) -> None:
        """Fill a writable byte buffer from `start` on.

        Raises:
            CorruptError: the range is not inside the source.
        """
        self._check(start, start + buffer.nbytes)
        self._readinto(start, buffer)

    def private(self, start: int, stop: int) -> memoryview:
        """Give a writable view of the bytes; what is written there never reaches the source.

        Raises:
            CorruptError: the range is not inside the source.
        """
        self._check(start, stop)
        return self._private(start, stop)

    def reach(self, start: int, stop: int) -> None:
        """Refuse a range of which some bytes are known to be missing, before room is made for it.

        Raises:
            CorruptError: some are.
        """

    @property
    def mapped(self) -> bool:
        """True where `read` and `private` cost nothing until the bytes are touched."""
        return False

    @property
    def remote(self) -> bool:
        """True where each read is a request over a network: few, large and many at a time pay."""
        return False

    def close(self) -> None:
        """Release what the source holds; views that were handed out stay good."""

    def _check(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.size:
            raise CorruptError(
                f"bytes {start} to {stop} were asked for, but there are {self.size}",
                where=self.where,
                cure="The file is cut short, or its header lies about sizes.",
            )

    @abstractmethod
    def _read(self, start: int, stop: int) -> memoryview: ...

    def _readinto(self, start: int, buffer: memoryview) -> None:
        buffer[:] = self._read(start, start + buffer.nbytes)

    def _private(self, start: int, stop: int) -> memoryview:
        fresh = memoryview(bytearray(stop - start))
        self._readinto(start, fresh)
        return fresh


class MemorySource(Source):
    """Bytes that are already in memory.

    >>> bytes(MemorySource(b"weights").read(1, 4))
    b'eig'
    """

    __slots__ = ("_view",)

    def __init__(self, data: bytes | bytearray | memoryview, where: str = "memory") -> None:
        view = memoryview(data)
        if view.format != "B" or view.ndim != 1:
            view = view.cast("B")
        self._view = view if view.readonly else view.toreadonly()
        super().__init__(view.nbytes, where)

    def _read(self, start: int, stop: int) -> memoryview:
        return self._view[start:stop]


class _Ranges:
    """Ranges of which no two overlap; threads share it."""

    __slots__ = ("_lock", "_starts", "_stops")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._starts: list[int] = []
        self._stops: list[int] = []

    def take(self, start: int, stop: int) -> bool:
        """Take a range; False where some of it was taken before."""
        with self._lock:
            at = bisect_right(self._stops, start)  # the first that ends behind the start
            if at < len(self._starts) and self._starts[at] < stop:
                return False
            self._starts.insert(at, start)
            self._stops.insert(at, stop)
            return True


class FileSource(Source):
    """A regular file: mapped on local filesystems, read piece by piece on network ones.

    Small ranges, such as headers, are read even so: that is cheaper than mapping them. What is
    handed out as writable comes from a private, copy-on-write map, which costs nothing until it is
    touched. No two of those views share memory: all of the file is mapped anew each time, and a
    part that was handed out before is read into memory of its own.
    """

    __slots__ = ("_closed", "_fd", "_handed_out", "_mapping", "_maps")

    def __init__(self, path: str | os.PathLike[str], *, mapping: bool | None = None) -> None:
        self._closed = True
        name = os.fspath(path)
        try:
            # O_NONBLOCK: opening a pipe must not wait for its writer.
            flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name, flags)
        except FileNotFoundError:
            raise MissingError("there is no such file", where=name) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise StoreError(f"cannot be opened: {reason}", where=name) from error
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            os.close(fd)
            what = "a folder" if stat.S_ISDIR(info.st_mode) else "a pipe or device"
            raise UnsupportedError(f"is {what}, not a file", where=name)
        self._closed = False
        self._fd = fd
        self._maps: dict[int, memoryview] = {}
        self._handed_out = _Ranges()
        self._mapping = syscalls.network_filesystem(fd) is None if mapping is None else mapping
        super().__init__(info.st_size, name)

    @property
    def mapped(self) -> bool:
        return self._mapping

    def info(self) -> os.stat_result:
        """Look at the file that was opened, whatever its name means by now."""
        return os.fstat(self.fileno())

    def fileno(self) -> int:
        """Give the descriptor of the file that was opened, for system calls."""
        self._check_open()
        return self._fd

    def close(self) -> None:
        if not getattr(self, "_closed", True):  # a copy that was never made has no such slot
            self._closed = True
            self._maps.clear()  # unmapped once the last view is gone
            os.close(self._fd)

    def __del__(self) -> None:
        self.close()

    def _read(self, start: int, stop: int) -> memoryview:
        if self._mapping and (stop - start > _SMALL or mmap.PROT_READ in self._maps):
            return self._view(mmap.PROT_READ)[start:stop]
        return super()._private(start, stop).toreadonly()

    def _private(self, start: int, stop: int) -> memoryview:
        if self._mapping and start != stop:
            if stop - start == self.size:
                return self._map(mmap.PROT_READ | mmap.PROT_WRITE)
            if self._handed_out.take(start, stop):
                return self._view(mmap.PROT_READ | mmap.PROT_WRITE)[start:stop]
        return super()._private(start, stop)

    def _readinto(self, start: int, buffer: memoryview) -> None:
        self._check_open()
        done = 0
        while done < buffer.nbytes:
            try:
                count = os.preadv(self._fd, [buffer[done:]], start + done)
            except OSError as error:
                raise StoreError(f"cannot be read: {error.strerror}", where=self.where) from error
            if count == 0:
                raise self._shrunk()
            done += count

    def _view(self, prot: int) -> memoryview:
        self._check_map()
        if prot not in self._maps:
            self._maps[prot] = self._map(prot)
        return self._maps[prot]

    def _map(self, prot: int) -> memoryview:
        self._check_map()
        flags = mmap.MAP_PRIVATE | _MAP_NORESERVE
        try:
            return memoryview(mmap.mmap(self._fd, self.size, flags=flags, prot=prot))
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot be mapped: {error}", where=self.where) from error

    def _check_map(self) -> None:
        self._check_open()
        # Touching a map beyond the end of its file kills the process: look before handing out.
        if os.fstat(self._fd).st_size < self.size:
            raise self._shrunk()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(
                "was closed before this was read",
                where=self.where,
                cure="Read inside the `with` block, or open it again.",
            )

    def _shrunk(self) -> CorruptError:
        return CorruptError(
            f"was {self.size} bytes when it was opened and is shorter now",
            where=self.where,
            cure="Another program is writing to it in place; open it again once that is done.",
        )


class Window(Source):
    """A part of another source, with bounds of its own.

    >>> bytes(Window(MemorySource(b"weights"), 1, 3).read(0, 3))
    b'eig'
    """

    __slots__ = ("_inner", "_start")

    def __init__(self, inner: Source, start: int, size: int, where: str = "") -> None:
        super().__init__(size, where or inner.where)
        inner._check(start, start + size)
        self._inner = inner
        self._start = start

    @property
    def mapped(self) -> bool:
        return self._inner.mapped

    @property
    def remote(self) -> bool:
        return self._inner.remote

    def _read(self, start: int, stop: int) -> memoryview:
        return self._inner.read(self._start + start, self._start + stop)

    def _readinto(self, start: int, buffer: memoryview) -> None:
        self._inner.readinto(self._start + start, buffer)

    def _private(self, start: int, stop: int) -> memoryview:
        return self._inner.private(self._start + start, self._start + stop)


def file_place(source: Source, start: int) -> tuple[FileSource, int] | None:
    """Say in which file the bytes of a source lie as they are, and where; None for other sources.

    >>> file_place(MemorySource(b"weights"), 0) is None
    True
    """
    source, start = innermost(source, start)
    return (source, start) if isinstance(source, FileSource) else None


def innermost(source: Source, start: int) -> tuple[Source, int]:
    """Look through windows: give the source in which a place really is, and where that is.

    >>> innermost(Window(Window(MemorySource(b"weights"), 1, 5), 2, 3), 1)[1]
    4
    """
    while isinstance(source, Window):
        start += source._start
        source = source._inner
    return source, start
