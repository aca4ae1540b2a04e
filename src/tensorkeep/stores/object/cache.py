"""Blocks of objects kept on a local disk, so that what was read once is not fetched again.

    FOLDER/2f/2f81...c6/00000012     16 bytes: the XXH3-128 of the rest; then the block's bytes

The folder of an object is named by the digest of its address, ETag and size, so that an object that
was replaced is another one; one without a strong ETag is not kept. A block is 4 MiB, the last one
what is left. It appears whole, by a rename, and is checked whenever it is read; what is damaged is
fetched anew. The blocks that were not used for longest are removed once there are too many. Nothing
that goes wrong here makes a read fail.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import xxhash

from tensorkeep.errors import ArgumentError
from tensorkeep.stores.object.memory import Fill, room

if TYPE_CHECKING:
    from tensorkeep.stores.object.fetching import Version

BLOCK = 4 << 20
SIZE = 20 << 30  # bytes that a cache takes unless it is told otherwise
_RUN = 4  # blocks that one request fetches at most
_DIGEST = 16
_STALE = 3600.0  # seconds after which what a killed process was writing is removed


class Cache:
    """Blocks below a folder; processes share it.

    Args:
        folder: where; it is made where there is none.
        size: how many bytes to keep.

    Raises:
        ArgumentError: the folder is somebody else's, or everybody may write there.
    """

    def __init__(self, folder: str | os.PathLike[str], size: int = SIZE) -> None:
        self.folder = os.path.abspath(os.path.expanduser(os.fspath(folder)))
        self.size = size
        if size <= 0:
            raise ArgumentError(f"a cache of {size} bytes keeps nothing", where=self.folder)
        self._lock = threading.Lock()
        self._unseen: int | None = None  # bytes written since the folder was last looked through
        with contextlib.suppress(OSError):
            os.makedirs(self.folder, 0o700, exist_ok=True)
            info = os.stat(self.folder)
            if info.st_uid not in (os.geteuid(), 0) or info.st_mode & stat.S_IWOTH:
                raise ArgumentError(
                    "others may write there, and so change what is read from the cache",
                    where=self.folder,
                    cure="Choose a folder of your own for it.",
                )

    def through(self, version: Version) -> Fill:
        """Give what fills buffers with the bytes of an object, from here where they are here."""
        name = "\0".join(version.identity).encode("utf-8", "surrogatepass")
        digest = xxhash.xxh3_128_hexdigest(name)
        return _Kept(self, version, os.path.join(self.folder, digest[:2], digest)).fill

    def write(self, path: str, block: memoryview) -> None:
        """Keep a block, if that is possible."""
        temporary = os.path.join(self.folder, f".{secrets.token_hex(8)}.part")
        try:
            folder = os.path.dirname(path)
            for part in (os.path.dirname(folder), folder):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                rest = [memoryview(xxhash.xxh3_128_digest(block)), block]
                while rest:
                    count = os.writev(fd, rest)
                    while rest and count >= rest[0].nbytes:
                        count -= rest.pop(0).nbytes
                    if rest:
                        rest[0] = rest[0][count:]
            finally:
                os.close(fd)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            return
        self._make_room(block.nbytes + _DIGEST)

    def _make_room(self, written: int) -> None:
        """Look through the folder now and then, since other processes write there as well."""
        if not self._lock.acquire(blocking=False):  # another thread does, or one that a fork lacks
            return
        try:
            if self._unseen is not None:
                self._unseen += written
                if self._unseen < max(BLOCK, self.size // 20):
                    return
            self._unseen = 0
            self._remove_oldest()
        finally:
            self._lock.release()

    def _remove_oldest(self) -> None:
        files = sorted(self._files())
        total = sum(size for _, size, _ in files)
        if total <= self.size:
            return
        for _, size, path in files:
            if total <= self.size - self.size // 10:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                total -= size
            with contextlib.suppress(OSError):  # where others are left in it
                os.rmdir(os.path.dirname(path))

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Give the blocks: when each was used last, its size, its path."""
        for part in _scan(self.folder):
            if part.name.endswith(".part"):
                with contextlib.suppress(OSError):
                    if time.time() - part.stat().st_mtime > _STALE:
                        os.unlink(part.path)
            elif len(part.name) == 2:
                for kept in _scan(part.path):
                    for block in _scan(kept.path):
                        with contextlib.suppress(OSError):
                            info = block.stat(follow_symlinks=False)
                            yield info.st_mtime, info.st_size, block.path


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


class _Kept:
    """The blocks of one object; threads share it, and fetch no block twice."""

    def __init__(self, cache: Cache, version: Version, folder: str) -> None:
        self._cache = cache
        self._version = version
        self._folder = folder
        self._lock = threading.Lock()
        self._coming: dict[int, threading.Event] = {}

    def fill(self, start: int, buffer: memoryview) -> None:
        stop = start + buffer.nbytes
        at, end = start // BLOCK, -(-stop // BLOCK)
        missing: list[int] = []
        waiting: list[int] = []
        for block in range(at, end):
            if self._take(block, start, buffer):
                continue
            with self._lock:
                if block in self._coming:
                    waiting.append(block)
                    continue
                self._coming[block] = threading.Event()
            missing.append(block)
        try:
            for run in _runs(missing):
                self._fetch(run, start, buffer)
        finally:
            for block in missing:
                with self._lock:
                    event = self._coming.pop(block)
                event.set()
        for block in waiting:
            with self._lock:
                coming = self._coming.get(block)
            if coming is not None:
                coming.wait()
            if not self._take(block, start, buffer):  # the disk is full
                self._fetch(range(block, block + 1), start, buffer)

    def _path(self, block: int) -> str:
        return os.path.join(self._folder, f"{block:08}")

    def _take(self, block: int, start: int, buffer: memoryview) -> bool:
        """Copy what a block has of a buffer's bytes into it; False where it is not here."""
        size = min(BLOCK, self._version.size - block * BLOCK)
        path = self._path(block)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            if os.fstat(fd).st_size == size + _DIGEST:
                digest, memory = bytearray(_DIGEST), room(size)
                if (
                    os.preadv(fd, [digest, memory], 0) == size + _DIGEST
                    and xxhash.xxh3_128_digest(memory) == digest
                ):
                    _share(block * BLOCK, memory, start, buffer)
                    os.utime(fd)
                    return True
            os.unlink(path)
        except OSError:
            pass
        finally:
            os.close(fd)
        return False

    def _fetch(self, blocks: range, start: int, buffer: memoryview) -> None:
        first = blocks.start * BLOCK
        memory = room(min(blocks.stop * BLOCK, self._version.size) - first)
        self._version.fill(first, memory)
        _share(first, memory, start, buffer)
        for block in blocks:
            at = block * BLOCK - first
            self._cache.write(self._path(block), memory[at : at + BLOCK])


def _share(at: int, memory: memoryview, start: int, buffer: memoryview) -> None:
    """Copy what bytes from `at` on have in common with those from `start` on."""
    first = max(at, start)
    last = min(at + memory.nbytes, start + buffer.nbytes)
    buffer[first - start : last - start] = memory[first - at : last - at]


def _runs(blocks: list[int]) -> Iterator[range]:
    """Put neighbours together, a few at a time.

    >>> list(_runs([1, 2, 5, 6, 7, 8, 9]))
    [range(1, 3), range(5, 9), range(9, 10)]
    """
    run = range(0)
    for block in blocks:
        if run and block == run.stop and len(run) < _RUN:
            run = range(run.start, block + 1)
            continue
        if run:
            yield run
        run = range(block, block + 1)
    if run:
        yield run


_OPEN: dict[tuple[str, int], Cache] = {}


def chosen(folder: object = None, size: object = None) -> Cache | None:
    """Give the cache in a folder, or in the one that TENSORKEEP_CACHE names; None without one."""
    if not isinstance(folder, str | os.PathLike | None) or not isinstance(size, int | None):
        raise ArgumentError(
            f"a cache of {folder!r}, {size!r} cannot be kept",
            cure="cache= is the path of a folder, and cache_size= a number of bytes.",
        )
    path = os.fspath(folder) if folder is not None else os.environ.get("TENSORKEEP_CACHE", "")
    if not path:
        return None
    key = (os.path.abspath(os.path.expanduser(path)), SIZE if size is None else size)
    if key not in _OPEN:
        _OPEN[key] = Cache(*key)
    return _OPEN[key]
