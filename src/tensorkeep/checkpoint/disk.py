"""Checkpoints in a folder on a disk: its lock, its names, and how one appears and goes.

    run/step-00001200/                        a checkpoint
    run/.step-00001300.5f3a9c01.tensorkeep.tmp/       one that is being saved
    run/.step-00000900.old.5f3a9c01.tensorkeep.tmp/   one that is being removed
    run/.step-00001200.aside/                 one that another of its step is about to replace
    run/.tensorkeep/lock                      who saves here
    run/.tensorkeep/verified/step-00001200    when all of it was read and found sound

The files of a checkpoint lie beside its manifest, or, where it was copied from an object store, in
the one folder that the manifest names.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from tensorkeep import syscalls
from tensorkeep.checkpoint.disk_drafts import DiskDraft, SharedDiskDraft
from tensorkeep.checkpoint.folder import (
    Draft,
    FileInfo,
    Folder,
    Look,
    SharedDraft,
    name_of,
    step_of,
)
from tensorkeep.checkpoint.lock import Lock
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    StoreError,
    TensorKeepError,
    UnsafeError,
)
from tensorkeep.formats.safetensors.manifest import MANIFEST, STATE, read_manifest
from tensorkeep.hidden import (
    appear,
    failed_write,
    hidden,
    lock,
    reason,
    remove,
    sharing,
    sync,
    sync_one,
)
from tensorkeep.replacing import Replacement
from tensorkeep.source import FileSource, Source
from tensorkeep.store import Location, Store
from tensorkeep.stores import Target, locate
from tensorkeep.stores.file import FileStore
from tensorkeep.wire.seal import SEAL

_OWN = re.compile(r"\.(step-[0-9]{8,18})\.(?:aside|(?:old\.)?[0-9a-f]{8}\.tensorkeep\.tmp)")
_STATE = re.compile(rf"(?:[0-9a-f]{{8}}/)?{re.escape(STATE)}")
_NOTES = ".tensorkeep"
_CANNOT_SWAP = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
_GONE = "Restore the folder, or make a new Checkpointer."
_PATIENCE = 2.0  # seconds that one who sweeps may take


class DiskFolder(Folder):
    """The checkpoints of one run, in a folder.

    Args:
        path: the folder.

    >>> import tempfile
    >>> folder = DiskFolder(tempfile.mkdtemp())
    >>> list(folder.steps()), os.path.basename(folder.path_of(7))
    ([], 'step-00000007')
    """

    shares_bytes: ClassVar[bool] = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self.path = os.path.abspath(os.fsdecode(os.fspath(path)))
        except TypeError:
            raise ArgumentError(
                f"the folder of checkpoints is a path, not {type(path).__name__}"
            ) from None
        self.where = os.fsdecode(os.fspath(path))
        self._lock: Lock | None = None
        self._unsettled = False  # names have changed that a loss of power may change back

    # --- whose turn it is -----------------------------------------------------------------------

    def exists(self) -> bool:
        return os.path.isdir(self.path)

    def create(self) -> None:
        try:
            missing = [
                p for p in (self.path, *map(str, Path(self.path).parents)) if not os.path.exists(p)
            ]
            os.makedirs(os.path.join(self.path, _NOTES), exist_ok=True)
            for made in missing:  # the entry of each new folder, in the folder around it
                sync_one(os.path.dirname(made))
        except OSError as error:
            raise failed_write(error, self.where) from error

    def lock(self) -> None:
        """Keep every other writer out, and remove what dead ones have left.

        Raises:
            StoreError: another one is writing here; the message says who.
        """
        self._lock = Lock(os.path.join(self.path, _NOTES, "lock"), self.where)
        if self._lock.alone:
            with contextlib.suppress(OSError):  # the next save tries again
                self.sweep()

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def check(self) -> None:
        """Make sure that the folder is still the one that was locked.

        Raises:
            StoreError: it was removed, moved or replaced.
        """
        if self._lock is not None and not self._lock.is_held():
            raise StoreError(
                "the folder of checkpoints was removed or replaced", where=self.where, cure=_GONE
            )

    @contextlib.contextmanager
    def tending(self) -> Iterator[None]:
        self.create()
        self.lock()
        try:
            yield
        finally:
            self.unlock()

    def sweep(self) -> list[str]:
        """Remove what killed saves have left; put back what one had moved aside. Names both.

        Only the one that holds the lock may do it.

        Raises:
            OSError: the disk failed; no more than names has changed.
        """
        found = self.leftovers()
        self._unsettled = self._unsettled or bool(found)
        for name in found:
            final = os.path.join(self.path, name[1:].partition(".")[0])
            if name.endswith(".aside") and not os.path.exists(final):
                os.rename(os.path.join(self.path, name), final)
        if self._unsettled:
            self._settle()
        for name in self.leftovers():
            remove(os.path.join(self.path, name))
        return found

    def leftovers(self) -> list[str]:
        return [name for name in self._list() if _OWN.fullmatch(name)]

    def _list(self) -> list[str]:
        try:
            return sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot be listed: {reason(error)}", where=self.where) from error

    # --- what is there --------------------------------------------------------------------------

    def steps(self) -> list[int]:
        return sorted(step for name in self._list() if (step := step_of(name)) is not None)

    def path_of(self, step: int) -> str:
        """Give the path of a step's folder."""
        return os.path.join(self.path, name_of(step))

    def location(self, step: int) -> Location:
        return locate(self.path_of(step))

    def file(self, step: int, key: str) -> Location:
        return locate(os.path.join(self.path_of(step), key))

    def there(self, step: int) -> bool:
        return os.path.lexists(self.path_of(step))

    def has_folder(self, step: int) -> bool:
        return os.path.isdir(self.path_of(step))

    def is_own(self, step: int) -> bool:
        path = self.path_of(step)
        if os.path.islink(path) or not os.path.isdir(path):
            return False
        try:
            read_manifest(locate(path))
        except CorruptError:
            return True
        except MissingError:
            states = [os.path.join(path, key) for key in self.keys(step) if _STATE.fullmatch(key)]
            return not os.listdir(path) or any(map(os.path.isfile, states))
        except TensorKeepError:
            return False
        return True

    def is_removable(self, step: int) -> bool:
        return not os.path.islink(self.path_of(step))

    def look(self, step: int) -> Look:
        path = self.path_of(step)
        try:
            manifest = read_manifest(locate(path))
        except TensorKeepError as error:
            return Look(step, None, error)
        files: dict[str, FileInfo | OSError] = {}
        for name in manifest.files:
            try:
                files[name] = _info(os.stat(self._file(step, manifest.key(name))))
            except OSError as error:
                files[name] = error
        verified = self.verified(step, self.identity(step))
        return Look(step, manifest, files=files, verified=verified)

    def identity(self, step: int) -> str:
        mark = f'"{SEAL}": "'.encode()
        try:
            with open(os.path.join(self.path_of(step), MANIFEST), "rb") as file:
                file.seek(-min(200, os.fstat(file.fileno()).st_size), os.SEEK_END)
                found = file.read(200).rpartition(mark)[2][:32]
            return found.decode("ascii")
        except (OSError, ValueError):
            return ""

    def info(self, step: int, key: str) -> FileInfo:
        return _info(os.lstat(self._file(step, key)))

    def source(self, step: int, key: str) -> Source:
        return FileSource(self._file(step, key))

    def _file(self, step: int, key: str) -> str:
        """Give the path of a file.

        Raises:
            UnsafeError: the folder that it is in is a link.
        """
        path = os.path.join(self.path_of(step), key)
        around = os.path.dirname(path)
        if "/" in key and os.path.islink(around):
            raise UnsafeError("is a link, which may lead anywhere", where=around)
        return path

    def keys(self, step: int) -> list[str]:
        """List the files in a step's folder, and those in the folders right in it."""
        found: list[str] = []
        with contextlib.suppress(OSError), os.scandir(self.path_of(step)) as entries:
            for entry in entries:
                found.append(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    with contextlib.suppress(OSError):
                        found += [f"{entry.name}/{name}" for name in os.listdir(entry.path)]
        return sorted(found)

    # --- how a checkpoint appears ---------------------------------------------------------------

    @contextlib.contextmanager
    def draft(self, step: int, *, durable: bool) -> Iterator[Draft]:
        """Give a hidden folder to write a checkpoint in; it is removed unless it was committed.

        Raises:
            StoreError: it cannot be made.
        """
        self.check()
        try:
            with contextlib.ExitStack() as held:
                if self._unsettled:
                    self._settle()
                    if self._lock is not None and self._lock.alone:
                        self.sweep()
                held.enter_context(sharing(self.path))
                path = hidden(self.path_of(step))
                os.mkdir(path)
                draft = DiskDraft(path, durable)
                try:
                    yield draft
                finally:
                    if not draft.kept:
                        remove(path)
        except FileNotFoundError as error:
            if not isinstance(error, TensorKeepError) and not os.path.isdir(self.path):
                raise MissingError(
                    "the folder of checkpoints is gone", where=self.where, cure=_GONE
                ) from error
            raise failed_write(error, self.where_of(step)) from error
        except OSError as error:
            raise failed_write(error, self.where_of(step)) from error

    def share(self, step: int, token: str, *, durable: bool) -> SharedDraft:
        held = contextlib.ExitStack()
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            held.callback(os.close, fd)
            with contextlib.suppress(OSError):  # a filesystem without locks
                lock(fd, fcntl.LOCK_SH, _PATIENCE)  # nobody sweeps here meanwhile
            path = os.path.join(self.path, f".{name_of(step)}.{token}.tensorkeep.tmp")
            os.makedirs(path, exist_ok=True)
            return SharedDiskDraft(path, durable, held, self.where_of(step))
        except OSError as error:
            held.close()
            raise failed_write(error, self.where_of(step)) from error

    def commit(self, draft: Draft, step: int, *, replace: bool) -> None:
        assert isinstance(draft, DiskDraft)
        if not isinstance(draft, SharedDiskDraft):
            self._commit(draft, step, replace=replace)
            return
        try:
            self._commit(draft, step, replace=replace)
        except OSError as error:
            raise failed_write(error, self.where_of(step)) from error
        remove(draft.path)  # what it replaced
        draft.close()

    def _commit(self, draft: DiskDraft, step: int, *, replace: bool) -> None:
        final = self.path_of(step)
        self.check()
        aside = None
        if replace and os.path.lexists(final):
            aside = self._swap(draft.path, final)
        else:
            appear(draft.path, final)
        if draft.durable:
            try:
                self._settle()
            except OSError as error:
                draft.kept = True  # where the old one may be, which is there after a loss of power
                raise StoreError(
                    f"is saved, but a loss of power may undo that: {reason(error)}",
                    where=self.where_of(step),
                    cure="Save again.",
                ) from error
        if aside is not None:
            remove(aside)

    def discard(self, draft: SharedDraft) -> None:
        assert isinstance(draft, SharedDiskDraft)
        if not draft.kept:
            remove(draft.path)
        draft.close()

    def _settle(self) -> None:
        """Have all names on the disk; what lost its name may then be removed for good."""
        self._unsettled = True
        sync_one(self.path)
        self._unsettled = False

    def _swap(self, path: str, final: str) -> str | None:
        """Give a draft the name of a checkpoint, which takes the draft's, or the one returned."""
        try:
            syscalls.exchange(path, final)
            return None
        except OSError as error:
            if error.errno not in _CANNOT_SWAP:
                raise
            folder, name = os.path.split(final)
            aside = os.path.join(folder, f".{name}.aside")
            remove(aside)  # of a save whose end failed
            os.rename(final, aside)
            try:
                os.rename(path, final)
            except OSError:
                self._unsettled = True  # the next save puts it back, if this cannot
                os.rename(aside, final)
                raise
            return aside

    # --- how one goes, and is mended ------------------------------------------------------------

    def take_out(self, step: int) -> Callable[[], None] | None:
        trash = hidden(f"{self.path_of(step)}.old")
        try:
            os.rename(self.path_of(step), trash)
        except FileNotFoundError:
            return None
        self._settle()  # its files go only once its name is gone for good
        with contextlib.suppress(OSError):
            os.unlink(self._mark(step))
        return partial(remove, trash)

    def freed(self, steps: Iterable[int]) -> int:
        """Give the bytes that the filesystem gets back if some checkpoints go.

        Files that others share are not among them.
        """
        links: Counter[tuple[int, int]] = Counter()
        inodes: dict[tuple[int, int], os.stat_result] = {}
        for step in steps:
            for key in self.keys(step):
                with contextlib.suppress(OSError):
                    info = os.lstat(os.path.join(self.path_of(step), key))
                    if stat.S_ISDIR(info.st_mode) and "/" not in key:
                        continue  # what is in it counts
                    same = info.st_dev, info.st_ino
                    links[same] += 1
                    inodes[same] = info
        return sum(info.st_size for same, info in inodes.items() if links[same] >= info.st_nlink)

    def verified(self, step: int, digest: str) -> float:
        try:
            with open(self._mark(step), encoding="ascii") as text:
                of, at = text.read(200).split()
            return float(at) if of == digest else 0.0
        except (OSError, ValueError):
            return 0.0

    def mark_verified(self, step: int, digest: str, at: float) -> None:
        mark = self._mark(step)
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(mark), exist_ok=True)
            with contextlib.closing(Replacement(mark)) as note:
                note.append([f"{digest} {at:.0f}\n".encode()], durable=False)
                note.finish(durable=False)

    def _mark(self, step: int) -> str:
        return os.path.join(self.path, _NOTES, "verified", name_of(step))

    def copy_file(self, step: int, key: str, to_step: int, to_key: str) -> None:
        """Put a hard link to a file, or a copy where there can be none, in the place of another."""
        source, target = self._file(step, key), self._file(to_step, to_key)
        try:
            with sharing(os.path.dirname(target)) as folder:
                beside = hidden(target)
                try:
                    _share(source, beside)
                    os.replace(beside, target)
                finally:
                    remove(beside)
                os.fsync(folder)
        except OSError as error:
            raise failed_write(error, target) from error

    def write_file(self, step: int, key: str, data: bytes) -> None:
        path = self._file(step, key)
        try:
            with contextlib.closing(Replacement(path)) as new:
                new.append([data])
                new.finish()
        except OSError as error:
            raise failed_write(error, path) from error


def _info(found: os.stat_result) -> FileInfo:
    return FileInfo(
        size=found.st_size,
        same=(found.st_dev, found.st_ino),
        shared=found.st_nlink > 1,
        regular=stat.S_ISREG(found.st_mode),
    )


def _share(source: str, target: str) -> None:
    with contextlib.suppress(OSError):
        os.link(source, target, follow_symlinks=False)
        return
    shutil.copyfile(source, target)
    sync(target)


def folder_at(target: Target) -> str:
    """Give the path of the folder that a store, a Location or an URL means.

    Raises:
        ArgumentError: it is no folder on a disk.
    """
    found = target if isinstance(target, Location | Store) else locate(target)
    location = Location(found) if isinstance(found, Store) else found
    if isinstance(location.store, FileStore):
        return os.path.join(location.store.where, location.key).rstrip("/") or "/"
    raise ArgumentError(
        "can hold no checkpoints",
        where=location.where,
        cure="Give a folder, or an address such as s3://bucket/run.",
    )
