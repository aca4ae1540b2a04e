"""Files in a folder. A file is replaced whole or not at all, and never truncated in place.

Each put goes to a hidden temporary file in the target's own folder; commit renames them in the
order of the puts. From its first put to its commit a writer holds a shared lock on the folder, so
that a later one that gets the folder to itself knows that all temporary files there were left
behind by killed saves, and removes them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tensorkeep import syscalls
from tensorkeep.errors import MissingError, StoreError, UnsafeError
from tensorkeep.source import FileSource, Source
from tensorkeep.store import Chunks, Late, Progress, Store

_PIECE = 8 << 20
_MAX_VECTORS = 1024  # IOV_MAX on Linux and macOS
_SUFFIX = ".tensorkeep.tmp"


@dataclass(frozen=True, slots=True)
class _Pending:
    key: str
    temporary: Path
    target: Path
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
        self.where = str(self.folder)
        self._pending: list[_Pending] = []
        self._deleted: list[str] = []
        self._locks: dict[Path, int] = {}

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give the files of each folder in the order of their names, then those below it."""
        folders = [""]
        while folders:
            below = folders.pop()
            entries = self._list(below)
            for entry in entries:
                if (below + entry.name).startswith(prefix) and _is_kept(entry):
                    yield below + entry.name
            inner = [f"{below}{e.name}/" for e in entries if e.is_dir(follow_symlinks=False)]
            folders += [f for f in reversed(inner) if f.startswith(prefix[: len(f)])]

    def _list(self, below: str) -> list[os.DirEntry[str]]:
        try:
            return sorted(os.scandir(self.folder / below), key=lambda entry: entry.name)
        except (OSError, ValueError) as error:
            if below:  # gone by now, or not ours to look into, such as lost+found
                return []
            if isinstance(error, FileNotFoundError):
                raise MissingError("there is no such folder", where=self.where) from None
            raise StoreError(f"cannot be listed: {_reason(error)}", where=self.where) from error

    def get(self, key: str) -> Source:
        return FileSource(self._contained(key))

    def _contained(self, key: str) -> Path:
        """Find the file of a key; refuse keys and links that lead out of the folder.

        Hugging Face's download cache is links from snapshots/REVISION into blobs beside it, which
        is a folder of the same model: those are followed.
        """
        path = self.folder / key
        if not key or os.path.isabs(key) or ".." in key.split("/"):
            raise UnsafeError(f"the key {key[:60]!r} leads out of the folder", where=self.where)
        if key == self.named:
            return path
        try:
            home, real = os.path.realpath(self.folder), os.path.realpath(path)
        except (OSError, ValueError) as error:
            problem = f"the key {key[:60]!r} is no file name: {_reason(error)}"
            raise StoreError(problem, where=self.where) from error
        if os.path.commonpath([home, real]) == home:
            return path
        for snapshots in Path(home, "here").parents:
            if snapshots.name == "snapshots" and snapshots != Path(home):
                if os.path.dirname(real) == str(snapshots.parent / "blobs"):
                    return path
                break
        raise UnsafeError(
            f"is a link to {real}, outside its own folder",
            where=str(path),
            cure="Copy the file there, or open the target itself.",
        )

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        path = self._contained(key)
        try:
            target = Path(os.path.realpath(path))  # a link stays, its target is replaced
            mode = _replaceable(target)
            self._lock(target.parent)
            temporary = target.with_name(f"{_prefix(target)}{secrets.token_hex(4)}{_SUFFIX}")
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except (OSError, ValueError) as error:
            raise _failed(error, path, size) from error
        put = _Pending(key, temporary, target, durable)
        try:
            if mode is not None:
                os.fchmod(fd, mode)
            if size is not None and syscalls.network_filesystem(fd) is None:
                syscalls.reserve(fd, size)
            written = _write(fd, chunks, durable, progress)
            if size is not None and written != size:
                raise StoreError(f"{written:,} bytes came, not {size:,}", where=str(path))
            if durable:
                os.fsync(fd)
        except BaseException as error:
            self._drop(put)
            if isinstance(error, OSError):
                raise _failed(error, path, size) from error
            raise
        finally:
            os.close(fd)
        self._forget(key)
        self._pending.append(put)

    def writer(self) -> FileStore:
        writer = FileStore(os.path.abspath(self.folder), named=self.named)
        writer.where = self.where
        return writer

    def delete(self, key: str) -> None:
        self._contained(key)
        self._forget(key)
        self._deleted.append(key)

    def commit(self) -> None:
        try:
            self._rename()
        finally:
            self.rollback()

    def _rename(self) -> None:
        folders: set[Path] = set()
        try:
            while self._pending:
                put = self._pending[0]
                os.replace(put.temporary, put.target)
                self._pending.pop(0)
                if put.durable:
                    folders.add(put.target.parent)
            for folder in folders:
                os.fsync(self._locks[folder])
        except OSError as error:
            problem = f"cannot be finished: {_reason(error)}"
            cure = "Some of it may have been replaced already; verify it, and save it again."
            failure = StoreError(problem, where=self.where, cure=cure)
            failure.errno = error.errno
            raise failure from error
        for key in self._deleted:
            with contextlib.suppress(OSError):  # it was replaced and only takes up room
                os.unlink(self.folder / key)

    def rollback(self) -> None:
        while self._pending:
            self._drop(self._pending.pop())
        self._deleted.clear()
        while self._locks:
            os.close(self._locks.popitem()[1])

    def _forget(self, key: str) -> None:
        """Drop what an earlier put or delete would do to a key: the last one counts."""
        for put in [put for put in self._pending if put.key == key]:
            self._pending.remove(put)
            self._drop(put)
        if key in self._deleted:
            self._deleted.remove(key)

    def _drop(self, put: _Pending) -> None:
        with contextlib.suppress(OSError):
            os.unlink(put.temporary)

    def _lock(self, folder: Path) -> None:
        """Share a folder with other writers until the commit; alone in it, sweep it first."""
        if folder in self._locks:
            return
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._locks[folder] = fd
        with contextlib.suppress(OSError):  # a filesystem without locks: leftovers stay
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove_leftovers(folder)
            fcntl.flock(fd, fcntl.LOCK_SH)


def sweep(folder: Path) -> None:
    """Remove what killed saves have left in a folder, unless a save is under way there."""
    store = FileStore(folder)
    with contextlib.suppress(OSError):
        store._lock(folder)
    store.close()


def _remove_leftovers(folder: Path) -> None:
    for name in os.listdir(folder):
        if _is_temporary(name):
            with contextlib.suppress(OSError):
                os.unlink(folder / name)


def _replaceable(target: Path) -> int | None:
    """Give the mode of the file that will be replaced, or None where there is none.

    Raises:
        StoreError: a folder, a pipe or a device is in its place.
        MissingError: the folder does not exist.
    """
    try:
        info = target.stat()
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise MissingError(
                "the folder to save in does not exist",
                where=str(target.parent),
                cure="Create it first.",
            ) from None
        return None
    if stat.S_ISDIR(info.st_mode):
        raise StoreError("is a folder", where=str(target), cure="Give the name of a file in it.")
    if not stat.S_ISREG(info.st_mode):
        raise StoreError("is a pipe or device, not a file", where=str(target))
    return info.st_mode & 0o7777


def _write(fd: int, chunks: Chunks, durable: bool, progress: Progress | None) -> int:
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

    late: list[tuple[int, Late]] = []
    for chunk in chunks:
        if isinstance(chunk, Late):
            flush()
            late.append((offset, chunk))
            offset += chunk.size
            continue
        view = memoryview(chunk)
        while view.nbytes:
            # Pieces end at multiples of their size in the file: its pages then lie together in
            # memory, and a map of it is read a sixth faster.
            room = _PIECE - (offset + waiting) % _PIECE
            piece, view = view[:room], view[room:]
            batch.append(piece)
            waiting += piece.nbytes
            if piece.nbytes == room or len(batch) == _MAX_VECTORS:
                flush()
    flush()
    for at, chunk in late:
        data = chunk.make()
        if len(data) != chunk.size:
            raise OSError(errno.EIO, f"a part of {chunk.size} bytes has {len(data)}")
        _write_all(fd, [memoryview(data)], at)
    return offset


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


def _prefix(target: Path) -> str:
    """Start the names of a target's temporary files with its own; file names end at 255 bytes."""
    name = os.fsencode(target.name)
    return f".{target.name if len(name) <= 200 else name[:200].decode(errors='ignore')}."


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(_SUFFIX)


def _is_kept(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file() and not _is_temporary(entry.name)
    except OSError:  # a link that leads in a circle
        return False


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _failed(error: OSError | ValueError, target: Path, size: int | None) -> Exception:
    if isinstance(error, StoreError | MissingError | UnsafeError):
        return error
    code = getattr(error, "errno", None)
    problem = f"cannot be written: {_reason(error)}"
    if code in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = os.statvfs(target.parent)
            needed = f"{size:,} bytes are needed and " if size else ""
            problem += f" ({needed}{free.f_bavail * free.f_frsize:,} are free)"
    failure = StoreError(problem, where=str(target), cure="What was there before is unchanged.")
    failure.errno = code
    return failure
