"""Files in a folder. A file is replaced whole or not at all, and never truncated in place.

Each put goes to a hidden temporary file in the target's own folder; commit renames them in the
order of the puts. From its first put to its commit a writer holds a shared lock on the folder, so
that a later one that gets the folder to itself knows that all temporary files there were left
behind by killed saves, and removes them.

A draft is a hidden folder that takes the place of another, or of none, at its commit.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tensorkeep import syscalls
from tensorkeep.errors import MissingError, StoreError, UnsafeError
from tensorkeep.hidden import (
    exchange,
    failed_write,
    hidden,
    is_unfinished,
    reason,
    removal,
    sharing,
    sync_one,
    take_place,
)
from tensorkeep.replacing import check_replaceable, create_beside, write_chunks
from tensorkeep.source import FileSource, Source
from tensorkeep.store import Chunks, Progress, Store


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
        self._folders: dict[Path, int] = {}  # those that are shared until the commit
        self._shared = contextlib.ExitStack()

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
            raise StoreError(f"cannot be listed: {reason(error)}", where=self.where) from error

    def get(self, key: str) -> Source:
        return FileSource(self._contained(key))

    def get_own(self, key: str) -> Source:
        path = self._contained(key)
        try:
            source = FileSource(path)
        except MissingError:
            if os.path.islink(path) and not self._is_cached(os.path.realpath(path)):
                raise UnsafeError("is a link, to nothing", where=str(path)) from None
            raise
        try:
            self._refuse_links(key, path, source.info())  # what was opened is what is looked at
        except BaseException:
            source.close()
            raise
        return source

    def _refuse_links(self, key: str, path: Path, opened: os.stat_result) -> None:
        real = os.path.realpath(path)
        plain = os.path.join(os.path.realpath(self.folder), *key.split("/"))
        if real != plain and not self._is_cached(real):
            problem = f"is a link to {real}, or lies behind one, where a model may name files alone"
            raise UnsafeError(problem, where=str(path), cure="Copy the file itself there.")
        try:
            same = os.path.samestat(opened, os.lstat(real))
        except OSError:
            same = False
        if not same:
            raise UnsafeError("was replaced while it was opened", where=str(path))
        if opened.st_nlink > 1:
            raise UnsafeError(
                f"is one of {opened.st_nlink} names of a file, which may lie anywhere",
                where=str(path),
                cure="Copy the file itself there.",
            )

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
            problem = f"the key {key[:60]!r} is no file name: {reason(error)}"
            raise StoreError(problem, where=self.where) from error
        if os.path.commonpath([home, real]) == home:
            return path
        if self._is_cached(real):
            return path
        raise UnsafeError(
            f"is a link to {real}, outside its own folder",
            where=str(path),
            cure="Copy the file there, or open the target itself.",
        )

    def _is_cached(self, real: str) -> bool:
        """Whether a file lies in the blobs beside the snapshots that this folder is one of."""
        home = os.path.realpath(self.folder)
        for snapshots in Path(home, "here").parents:
            if snapshots.name == "snapshots" and snapshots != Path(home):
                return os.path.dirname(real) == str(snapshots.parent / "blobs")
        return False

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
            mode = check_replaceable(target)
            if target.parent not in self._folders:
                folder = self._shared.enter_context(sharing(target.parent))
                self._folders[target.parent] = folder
            temporary, fd = create_beside(target, mode)
        except (OSError, ValueError) as error:
            raise failed_write(error, path, size) from error
        put = _Pending(key, temporary, target, durable)
        try:
            if size is not None and syscalls.network_filesystem(fd) is None:
                syscalls.reserve(fd, size)
            written = write_chunks(fd, chunks, 0, durable, progress)
            if size is not None and written != size:
                raise StoreError(f"{written:,} bytes came, not {size:,}", where=str(path))
            if durable:
                os.fsync(fd)
        except BaseException as error:
            self._drop(put)
            if isinstance(error, OSError):
                raise failed_write(error, path, size) from error
            raise
        finally:
            os.close(fd)
        self._forget(key)
        self._pending.append(put)

    def writer(self) -> FileStore:
        writer = FileStore(os.path.abspath(self.folder), named=self.named)
        writer.where = self.where
        return writer

    def draft(self, key: str) -> Store:
        return _Draft(
            self, key, self._contained(key) if key else Path(os.path.abspath(self.folder))
        )

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
        try:
            folders: set[Path] = set()
            while self._pending:
                put = self._pending[0]
                if len(self._pending) == 1:  # the last name makes the others count
                    self._sync(folders)
                take_place(put.temporary, put.target)
                self._pending.pop(0)
                if put.durable:
                    folders.add(put.target.parent)
            self._sync(folders)
            for key in self._deleted:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.folder / key)
            if self._deleted:
                self._sync(folders)
        except OSError as error:
            problem = f"cannot be finished: {reason(error)}"
            cure = "Some of it may have been replaced already; verify it, and save it again."
            failure = StoreError(problem, where=self.where, cure=cure)
            failure.errno = error.errno
            raise failure from error

    def _sync(self, folders: set[Path]) -> None:
        for folder in folders:
            os.fsync(self._folders[folder])

    def rollback(self) -> None:
        while self._pending:
            self._drop(self._pending.pop())
        self._deleted.clear()
        self._folders.clear()
        self._shared.close()

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


class _Draft(Store):
    """The files of a folder that is replaced whole.

    Args:
        store: what has the folder.
        key: the folder's key in it; empty for its own.
        target: the folder itself, which need not exist.
    """

    def __init__(self, store: FileStore, key: str, target: Path) -> None:
        self.where = store.where
        self._store = store
        self._prefix = f"{key}/" if key else ""
        self._target = os.path.realpath(target)
        self._hidden = ""
        self._folders: set[str] = set()
        self._durable = False
        self._held = contextlib.ExitStack()

    def keys(self, prefix: str = "") -> Iterator[str]:
        return self._store.keys(prefix)

    def get(self, key: str) -> Source:
        return self._store.get(key)

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        parts = key.removeprefix(self._prefix).split("/")
        if not key.startswith(self._prefix) or any(part in ("", ".", "..") for part in parts):
            raise UnsafeError(f"the key {key[:60]!r} leads out of the folder", where=self.where)
        self._durable |= durable
        try:
            self._start()
            path = os.path.join(self._hidden, *parts)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._folders |= {
                os.path.join(self._hidden, *parts[:depth]) for depth in range(len(parts))
            }
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                if size is not None and syscalls.network_filesystem(fd) is None:
                    syscalls.reserve(fd, size)
                written = write_chunks(fd, chunks, 0, durable, progress)
                if size is not None and written != size:
                    raise StoreError(f"{written:,} bytes came, not {size:,}", where=path)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            raise failed_write(error, self._target, size) from error

    def _start(self) -> None:
        if self._hidden:
            return
        if os.path.lexists(self._target) and not os.path.isdir(self._target):
            raise StoreError("is a file, where a folder is to be", where=self._target)
        self._held.enter_context(sharing(os.path.dirname(self._target)))
        self._hidden = hidden(self._target)
        self._held.callback(removal(self._hidden))
        os.mkdir(self._hidden)
        if os.path.isdir(self._target):
            os.chmod(self._hidden, os.stat(self._target).st_mode & 0o7777)

    def delete(self, key: str) -> None:
        """Do nothing: what was not put is not in the new folder."""

    def commit(self) -> None:
        if not self._hidden:
            return
        try:
            for folder in sorted(self._folders) if self._durable else []:
                sync_one(folder)
            if os.path.isdir(self._target):
                self._held.callback(removal(exchange(self._hidden, self._target)))
            else:
                os.rename(self._hidden, self._target)
            if self._durable:
                sync_one(os.path.dirname(self._target))
        except OSError as error:
            raise failed_write(error, self._target) from error
        finally:
            self.rollback()

    def rollback(self) -> None:
        self._hidden = ""
        self._folders.clear()
        self._held.close()


def sweep(folder: Path) -> None:
    """Remove what killed saves have left in a folder, unless a save is under way there."""
    with contextlib.suppress(OSError), sharing(folder):
        pass


def _is_kept(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file() and not is_unfinished(entry.name)
    except OSError:  # a link that leads in a circle
        return False
