"""Files in a folder. A file is replaced whole or not at all, and never truncated in place.

Each put goes to a hidden temporary file in the target's own folder; commit renames them in the
order of the puts. A writer holds a lock on its temporary files, so that the next save can tell the
leftovers of a killed one from those of a living one, and remove them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tensorkeep import syscalls
from tensorkeep.errors import MissingError, StoreError, UnsafeError
from tensorkeep.source import FileSource, Source
from tensorkeep.store import Chunk, Progress, Store

_PIECE = 8 << 20
_MAX_VECTORS = 1024  # IOV_MAX on Linux and macOS
_SUFFIX = ".tmp"


@dataclass(slots=True)
class _Pending:
    temporary: Path
    target: Path
    fd: int  # holds the lock that tells others the writer is alive
    durable: bool


class FileStore(Store):
    """Files below a folder, by relative path.

    Args:
        folder: where the files are; has to exist when something is put.
        named: the one key that the caller spelt out, which may be a link to anywhere.

    >>> import tempfile
    >>> store = FileStore(tempfile.mkdtemp())
    >>> store.put("a.bin", [b"one", b"two"])
    >>> store.commit()
    >>> list(store.keys()), bytes(store.get("a.bin").read(0, 6))
    (['a.bin'], b'onetwo')
    """

    def __init__(self, folder: str | os.PathLike[str] = ".", *, named: str = "") -> None:
        self.folder = Path(folder)
        self.named = named
        self.where = "" if str(folder) in ("", ".") else str(folder)
        self._pending: list[_Pending] = []
        self._deleted: list[str] = []

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give the files of each folder in the order of their names, then those below it."""
        return self._walk("", prefix)

    def _walk(self, below: str, prefix: str) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(self.folder / below), key=lambda entry: entry.name)
        except FileNotFoundError:
            raise MissingError("there is no such folder", where=self.where) from None
        except OSError as error:
            raise StoreError(f"cannot be listed: {error.strerror}", where=self.where) from error
        for entry in entries:
            key = below + entry.name
            if key.startswith(prefix) and entry.is_file() and not _is_temporary(entry.name):
                yield key
        for entry in entries:
            folder = f"{below}{entry.name}/"
            if folder.startswith(prefix[: len(folder)]) and entry.is_dir(follow_symlinks=False):
                yield from self._walk(folder, prefix)

    def get(self, key: str) -> Source:
        path = self.folder / key
        if key != self.named:
            self._contain(path)
        return FileSource(path)

    def _contain(self, path: Path) -> None:
        """Refuse a file that is a link out of the folder.

        Hugging Face's download cache is links from snapshots/REVISION into blobs beside it, which
        is a folder of the same model: those are followed.
        """
        home = os.path.realpath(self.folder)
        real = os.path.realpath(path)
        if os.path.commonpath([home, real]) == home:
            return
        snapshots = os.path.dirname(home)
        blobs = os.path.join(os.path.dirname(snapshots), "blobs")
        if os.path.basename(snapshots) == "snapshots" and os.path.dirname(real) == blobs:
            return
        raise UnsafeError(
            f"is a link to {real}, outside its own folder",
            where=str(path),
            cure="Copy the file there, or open the target itself.",
        )

    def put(
        self,
        key: str,
        chunks: Iterable[Chunk],
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        target = Path(os.path.realpath(self.folder / key))  # a link stays, its target is replaced
        if target.is_dir():
            raise StoreError(
                "is a folder", where=str(self.folder / key), cure="Give the name of a file in it."
            )
        if not target.parent.is_dir():
            raise MissingError(
                "the folder to save in does not exist",
                where=str(target.parent),
                cure="Create it first.",
            )
        sweep(target)
        try:
            temporary, fd = _create(target)
        except OSError as error:
            raise StoreError(f"cannot be written: {error.strerror}", where=str(target)) from error
        self._pending.append(_Pending(temporary, target, fd, durable))
        try:
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(fd, target.stat().st_mode & 0o7777)
            if size is not None and syscalls.network_filesystem(fd) is None:
                syscalls.reserve(fd, size)
            _write(fd, chunks, durable, progress)
            if durable:
                os.fsync(fd)
        except OSError as error:
            self._drop(self._pending.pop())
            if isinstance(error, StoreError | MissingError):
                raise
            raise _failed(error, target, size) from error
        except BaseException:
            self._drop(self._pending.pop())
            raise

    def delete(self, key: str) -> None:
        self._deleted.append(key)

    def commit(self) -> None:
        folders: set[Path] = set()
        while self._pending:
            put = self._pending[0]
            try:
                os.replace(put.temporary, put.target)
            except OSError as error:
                self.rollback()
                raise _failed(error, put.target, None) from error
            os.close(put.fd)
            self._pending.pop(0)
            if put.durable:
                folders.add(put.target.parent)
        for folder in folders:
            _sync_folder(folder)
        for key in self._deleted:
            with contextlib.suppress(OSError):  # it was replaced and is only taking up room
                os.unlink(self.folder / key)
        self._deleted.clear()

    def rollback(self) -> None:
        while self._pending:
            self._drop(self._pending.pop())
        self._deleted.clear()

    def _drop(self, put: _Pending) -> None:
        with contextlib.suppress(OSError):
            os.unlink(put.temporary)
        os.close(put.fd)


def _write(fd: int, chunks: Iterable[Chunk], durable: bool, progress: Progress | None) -> None:
    """Write chunks in order: large ones in pieces, runs of small ones in one call."""
    offset = 0
    batch: list[memoryview] = []
    waiting = 0

    def flush() -> None:
        nonlocal offset, waiting
        if not batch:
            return
        _write_all(fd, batch, offset)
        if durable:
            syscalls.start_writeback(fd, offset, waiting)
        offset += waiting
        if progress is not None:
            progress(waiting)
        waiting = 0
        batch.clear()

    for chunk in chunks:
        view = chunk if isinstance(chunk, memoryview) else memoryview(chunk)
        for start in range(0, view.nbytes, _PIECE):
            piece = view[start : start + _PIECE]
            batch.append(piece)
            waiting += piece.nbytes
            if waiting >= _PIECE or len(batch) == _MAX_VECTORS:
                flush()
    flush()


def _write_all(fd: int, views: list[memoryview], offset: int) -> None:
    total = sum(view.nbytes for view in views)
    done = os.pwritev(fd, views, offset)
    while done < total:  # a short write: go on behind what was taken
        rest, skip = [], done
        for view in views:
            if skip < view.nbytes:
                rest.append(view[skip:])
            skip = max(0, skip - view.nbytes)
        count = os.pwritev(fd, rest[:_MAX_VECTORS], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "the disk took no bytes")
        done += count


def _create(target: Path) -> tuple[Path, int]:
    """Create and lock a new temporary file beside the target."""
    while True:
        temporary = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}{_SUFFIX}")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):  # a filesystem without locks: its leftovers stay
            fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return temporary, fd
        os.close(fd)  # another save swept it between its creation and its lock


def sweep(target: Path) -> None:
    """Remove what killed saves of the same file have left in its folder."""
    prefix = _prefix(target)
    for name in os.listdir(target.parent):
        if not (name.startswith(prefix) and _is_temporary(name)):
            continue
        path = target.with_name(name)
        with contextlib.suppress(OSError):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path)
            finally:
                os.close(fd)


def _prefix(target: Path) -> str:
    """Name what all temporary files of a target start with; file names end at 255 bytes."""
    return f".{target.name.encode()[:200].decode(errors='ignore')}."


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(_SUFFIX)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failed(error: OSError, target: Path, size: int | None) -> StoreError:
    problem = f"cannot be written: {error.strerror}"
    cure = "What was there before is unchanged."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = os.statvfs(target.parent)
            needed = f"{size:,} bytes are needed and " if size else ""
            problem += f" ({needed}{free.f_bavail * free.f_frsize:,} are free)"
    failure = StoreError(problem, where=str(target), cure=cure)
    failure.errno = error.errno
    return failure
