"""Parts: hidden files and folders that a copy which was cut short goes on with.

    .NAME.XXXXXXXX.tensorkeep.part

X are digits of what tells the content of one source from another. Whoever fills a part holds a lock
on it; another copy at the same time takes a hidden file of its own, which nothing goes on with.
What saves sweep is named otherwise, so that a part waits until a copy to the same name ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from tensorkeep.hidden import PART, hidden, removal, remove, sharing


def part_of(target: str, identity: str) -> str:
    """Name the part of a file or folder.

    >>> part_of("run/step-00000007", "5f3a9c0112345678")
    'run/.step-00000007.5f3a9c01.tensorkeep.part'
    """
    folder, name = os.path.split(target)
    short = os.fsdecode(os.fsencode(name)[:200])
    return os.path.join(folder, f".{short}.{identity[:8]}{PART}")


@contextlib.contextmanager
def held(target: str, identity: str, *, folder: bool) -> Iterator[str]:
    """Give the path of a part, made where there is none.

    Args:
        target: what it will be.
        identity: what tells its content from another.
        folder: whether it is a folder, or a file.

    Raises:
        OSError: it cannot be made.
    """
    path = part_of(target, identity)
    _remove_others(path)
    fd = _take(path, folder)
    if fd is not None:
        try:
            yield path
        finally:
            os.close(fd)
        return
    with contextlib.ExitStack() as own:
        own.enter_context(sharing(os.path.dirname(target)))
        path = hidden(target)
        own.callback(removal(path))
        if folder:
            os.mkdir(path)
        yield path


def _take(path: str, folder: bool) -> int | None:
    """Make and lock a part; None where another copy fills it, or there are no locks."""
    while True:
        if folder:
            os.makedirs(path, exist_ok=True)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:  # it got its name a moment ago
                continue
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(path, flags, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(fd)):
                return fd
        except FileNotFoundError:
            pass  # so did this
        except OSError:
            os.close(fd)
            return None
        os.close(fd)


def _remove_others(path: str) -> None:
    """Remove the parts of other content for the same name, unless they are being filled."""
    folder, name = os.path.split(path)
    start = name[: -len(f"XXXXXXXX{PART}")]
    for other in os.listdir(folder or "."):
        if other == name or not (other.startswith(start) and other.endswith(PART)):
            continue
        found = os.path.join(folder, other)
        if len(other) == len(name) and (fd := _lock(found)) is not None:
            remove(found)
            os.close(fd)


def _lock(path: str) -> int | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd
