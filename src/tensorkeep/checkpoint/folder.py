"""The folder that checkpoints are in: its lock, its names, and how one appears and goes.

    run/step-00001200/                        a checkpoint
    run/.step-00001300.5f3a9c01.tensorkeep.tmp/       one that is being saved
    run/.step-00000900.old.5f3a9c01.tensorkeep.tmp/   one that is being removed
    run/.step-00001200.aside/                 one that another of its step is about to replace
    run/.tensorkeep/lock                      who saves here
    run/.tensorkeep/verified/step-00001200    when all of it was read and found sound

This is all that knows of files and folders; an object store will take its place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from tensorkeep import syscalls
from tensorkeep.checkpoint.lock import Lock
from tensorkeep.errors import ArgumentError, MissingError, StoreError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import MANIFEST
from tensorkeep.hidden import appear, failed_write, hidden, reason, remove, sharing
from tensorkeep.replacing import Replacement, write_chunks
from tensorkeep.store import Chunks, Progress

_NAME = re.compile(r"step-([0-9]{8,18})")
_OWN = re.compile(r"\.(step-[0-9]{8,18})\.(?:aside|(?:old\.)?[0-9a-f]{8}\.tensorkeep\.tmp)")
_NOTES = ".tensorkeep"
_CANNOT_SWAP = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
_GONE = "Restore the folder, or make a new Checkpointer."


def name_of(step: int) -> str:
    """Name the folder of a step.

    >>> name_of(1200)
    'step-00001200'
    """
    return f"step-{step:08}"


def step_of(name: str) -> int | None:
    """Give the step that a folder is named after; None where it is no name of ours.

    >>> step_of("step-00001200"), step_of("step-12")
    (1200, None)
    """
    match = _NAME.fullmatch(name)
    step = int(match[1]) if match else None
    return step if step is not None and name_of(step) == name else None


class Draft:
    """A checkpoint that is being written, under a hidden name."""

    def __init__(self, path: str, folder: int, durable: bool) -> None:
        self.path = path
        self.folder = folder  # the folder around it, open
        self.durable = durable
        self.kept = False  # it holds what may still be needed

    def put(
        self, name: str, chunks: Chunks, size: int | None = None, progress: Progress | None = None
    ) -> None:
        """Write a file.

        Raises:
            OSError: the disk is full or failed.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(os.path.join(self.path, name), flags, 0o666)
        try:
            if size is not None and syscalls.network_filesystem(fd) is None:
                syscalls.reserve(fd, size)
            written = write_chunks(fd, chunks, 0, self.durable, progress)
            if size is not None and written != size:
                raise OSError(errno.EIO, f"{written:,} bytes came, not {size:,}")
            if self.durable:
                os.fsync(fd)
        finally:
            os.close(fd)

    def link(self, name: str, source: str) -> bool:
        """Share a file with another checkpoint; False where the filesystem cannot."""
        target = os.path.join(self.path, name)
        with contextlib.suppress(OSError):
            self._sync(source)  # it may be of a checkpoint that was not to be durable
            os.link(source, target, follow_symlinks=False)
            return True
        try:
            with open(source, "rb") as old, open(target, "xb") as new:
                syscalls.clone(old.fileno(), new.fileno())
                if self.durable:
                    os.fsync(new.fileno())
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(target)
            return False
        return True

    def finish(self, manifest: bytes) -> None:
        """Write the manifest, once all else is on the disk.

        Raises:
            OSError: the disk is full or failed.
        """
        self._sync(self.path)
        last = Replacement(os.path.join(self.path, MANIFEST))
        try:
            last.append([manifest], durable=self.durable)
            last.finish(durable=self.durable)
        finally:
            last.close()

    def _sync(self, path: str) -> None:
        if self.durable:
            _sync(path)


class Folder:
    """The checkpoints of one run.

    Args:
        path: the folder.

    >>> import tempfile
    >>> folder = Folder(tempfile.mkdtemp())
    >>> list(folder.steps()), os.path.basename(folder.path_of(7))
    ([], 'step-00000007')
    """

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

    def create(self) -> None:
        """Make the folder, where it is not there.

        Raises:
            StoreError: it cannot be.
        """
        try:
            missing = [
                p for p in (self.path, *map(str, Path(self.path).parents)) if not os.path.exists(p)
            ]
            os.makedirs(os.path.join(self.path, _NOTES), exist_ok=True)
            for made in missing:  # the entry of each new folder, in the folder around it
                _sync(os.path.dirname(made))
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
        """Let others in."""
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
        """Name what a killed save has left, or one under way is writing."""
        return [name for name in self._list() if _OWN.fullmatch(name)]

    def _list(self) -> list[str]:
        try:
            return sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot be listed: {reason(error)}", where=self.where) from error

    def steps(self) -> list[int]:
        """Give the steps that have a folder, in order, whatever is in it."""
        return sorted(step for name in self._list() if (step := step_of(name)) is not None)

    def path_of(self, step: int) -> str:
        """Give the path of a step's folder."""
        return os.path.join(self.path, name_of(step))

    def where_of(self, step: int) -> str:
        """Name a step's folder in messages, as the caller named the folder around it."""
        return os.path.join(self.where, name_of(step))

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
                folder = held.enter_context(sharing(self.path))
                path = hidden(self.path_of(step))
                os.mkdir(path)
                draft = Draft(path, folder, durable)
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

    def commit(self, draft: Draft, step: int, *, replace: bool) -> None:
        """Give a finished draft its name.

        Args:
            draft: what was written.
            step: whose name it gets.
            replace: take the place of what has the name.

        Raises:
            OSError: it cannot be done; what was there is unchanged.
            StoreError: it is there, but a loss of power may undo that.
        """
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

    def _settle(self) -> None:
        """Have all names on the disk; what lost its name may then be removed for good."""
        self._unsettled = True
        _sync(self.path)
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

    def take_out(self, step: int) -> str | None:
        """Take a checkpoint's name away; what is then to be removed, if anything, is at the path.

        Raises:
            OSError: it cannot be.
        """
        trash = hidden(f"{self.path_of(step)}.old")
        try:
            os.rename(self.path_of(step), trash)
        except FileNotFoundError:
            return None
        self._settle()  # its files go only once its name is gone for good
        with contextlib.suppress(OSError):
            os.unlink(self._mark(step))
        return trash

    def verified(self, step: int, digest: str) -> float:
        """Say when a checkpoint was last read and found sound, in seconds since 1970; 0 for never.

        Args:
            step: of the checkpoint.
            digest: its manifest's own one, which tells it from another of that step.
        """
        try:
            with open(self._mark(step), encoding="ascii") as text:
                of, at = text.read(200).split()
            return float(at) if of == digest else 0.0
        except (OSError, ValueError):
            return 0.0

    def mark_verified(self, step: int, digest: str, at: float) -> None:
        """Note that a checkpoint was read and found sound; do nothing where that is not allowed."""
        mark = self._mark(step)
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(mark), exist_ok=True)
            with contextlib.closing(Replacement(mark)) as note:
                note.append([f"{digest} {at:.0f}\n".encode()], durable=False)
                note.finish(durable=False)

    def _mark(self, step: int) -> str:
        return os.path.join(self.path, _NOTES, "verified", name_of(step))


def _sync(path: str) -> None:
    """Have a file, or the names in a folder, on the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


__all__ = ["Draft", "Folder", "name_of", "step_of"]
