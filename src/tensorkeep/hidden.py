"""Files and folders under hidden names beside the place they go to, until they are whole.

A hidden file or folder `.NAME.XXXXXXXX.tensorkeep.tmp` belongs to a save that is under way. From
its making to its renaming the save holds a shared lock on the folder around it, so that a later one
that gets that folder to itself knows that all of them there were left behind by killed saves, and
removes them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from tensorkeep import syscalls
from tensorkeep.errors import StoreError, TensorKeepError

_SUFFIX = ".tensorkeep.tmp"
PART = ".tensorkeep.part"  # ends what a copy that was cut short goes on with: never swept
_O_PATH = getattr(os, "O_PATH", 0)  # Linux: opens what may not be read, too
_LARGE = 8 << 20  # bytes
_SWEEP = 2.0  # seconds that a sweep may take
_FREEING: deque[threading.Thread] = deque()


def reason(error: Exception) -> str:
    """Say why a call failed, without numbers and file names."""
    return getattr(error, "strerror", None) or str(error)


def failed_write(
    error: OSError | ValueError, target: str | os.PathLike[str], size: int | None = None
) -> TensorKeepError:
    """Give the error to raise for one that a write met; errors of ours stay as they are.

    Args:
        error: what was met.
        target: what was to be replaced.
        size: how many bytes were to be written, where that is known.
    """
    if isinstance(error, TensorKeepError):
        return error
    where = os.fspath(target)
    code = getattr(error, "errno", None)
    problem = f"cannot be written: {reason(error)}"
    if code in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            free = os.statvfs(os.path.dirname(where) or ".")
            needed = f"{size:,} bytes are needed and " if size else ""
            problem += f" ({needed}{free.f_bavail * free.f_frsize:,} are free)"
    failure = StoreError(problem, where=where, cure="What was there before is unchanged.")
    failure.errno = code
    return failure


def hidden(target: str) -> str:
    """Name a hidden sibling of a path that nothing has yet; file names end at 255 bytes."""
    folder, name = os.path.split(target)
    short = os.fsdecode(os.fsencode(name)[:200])
    return os.path.join(folder, f".{short}.{secrets.token_hex(4)}{_SUFFIX}")


def is_hidden(name: str) -> bool:
    """Say whether a file name is one that `hidden` gives."""
    return name.startswith(".") and name.endswith(_SUFFIX)


def is_unfinished(name: str) -> bool:
    """Say whether a file name is that of something which is being written, or was when killed."""
    return name.startswith(".") and name.endswith((_SUFFIX, PART))


@contextlib.contextmanager
def sharing(folder: str | os.PathLike[str]) -> Iterator[int]:
    """Hold a folder against sweepers while something hidden is in it; sweep it where alone.

    Raises:
        OSError: the folder cannot be opened.
    """
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):  # a filesystem without locks: leftovers stay
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(OSError):
                    _remove_leftovers(folder)
            # Whoever keeps the folder longer than a sweep takes is no sweeper, and lets none in.
            lock(fd, fcntl.LOCK_SH, _SWEEP)
        yield fd
    finally:
        os.close(fd)


def lock(fd: int, how: int, patience: float) -> bool:
    """Lock a file or folder, for which others are waited for; False where they keep it too long.

    Raises:
        OSError: the filesystem has no locks.
    """
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        else:
            return True


def _remove_leftovers(folder: str | os.PathLike[str]) -> None:
    for name in os.listdir(folder):
        if is_hidden(name):
            remove(os.path.join(folder, name))


def remove(path: str) -> None:
    """Remove a file, or a folder with what is in it; do nothing where that is not allowed."""
    with contextlib.suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def removal(path: str) -> Callable[[], None]:
    """Give a function that removes a path, though not in a child of the process that asks for it.

    A child that is forked in the middle of a save has a copy of all that the save holds.
    """
    owner = os.getpid()

    def run() -> None:
        if os.getpid() == owner:
            remove(path)

    return run


def take_place(hidden: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Rename a file over another, if there is one; a large one is freed by a thread meanwhile.

    Raises:
        OSError: it cannot be; both are unchanged.
    """
    old = _open_large(path)
    try:
        os.replace(hidden, path)
    except OSError:
        if old is not None:
            os.close(old)
        raise
    if old is not None:
        freeing = threading.Thread(target=os.close, args=(old,), daemon=True)
        freeing.start()
        _FREEING.append(freeing)


def wait_for_room() -> None:
    """Wait until the disk space of all files that were replaced is free again."""
    while _FREEING:
        _FREEING.popleft().join()


def _open_large(path: str | os.PathLike[str]) -> int | None:
    """Open a file that the kernel takes long to free, so that a rename over it does not do that."""
    with contextlib.suppress(OSError):
        if _O_PATH and os.lstat(path).st_size >= _LARGE:
            return os.open(path, _O_PATH | os.O_CLOEXEC)
    return None


def share(source: str, target: str, *, durable: bool = True) -> bool:
    """Give a file another name, or the bytes of it another file; False where neither can be."""
    with contextlib.suppress(OSError):
        if durable:  # it may be of a save that was not to be
            sync_one(source)
        os.link(source, target, follow_symlinks=False)
        return True
    try:
        with open(source, "rb") as old, open(target, "xb") as new:
            syscalls.clone(old.fileno(), new.fileno())
            if durable:
                os.fsync(new.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(target)
        return False
    return True


def sync(path: str) -> None:
    """Have a file, or a folder with what is in it, on the disk.

    Raises:
        OSError: the disk failed.
    """
    inner = [os.path.join(path, name) for name in os.listdir(path)] if os.path.isdir(path) else []
    for name in [*inner, path]:
        sync_one(name)


def sync_one(path: str) -> None:
    """Have a file, or the names in a folder, on the disk.

    Raises:
        OSError: the disk failed.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def exchange(new: str, path: str) -> str:
    """Put a hidden folder in the place of what is at a path; give what that is called now.

    Raises:
        OSError: it cannot be done; both are unchanged.
    """
    try:
        syscalls.exchange(new, path)
    except OSError:  # a system or a filesystem without it: for an instant there is none
        aside = hidden(path)
        os.rename(path, aside)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(aside, path)
            raise
        return aside
    return new


def appear(hidden: str, path: str) -> None:
    """Rename a file or folder to a name that nothing but an empty folder may have.

    Raises:
        OSError: there is something.
    """
    if os.path.isdir(hidden):
        os.rename(hidden, path)
        return
    try:
        os.link(hidden, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        os.rename(hidden, path)  # a filesystem without hard links
