"""The lock of a folder of checkpoints: one writer at a time, over all processes.

It is a POSIX record lock: the system drops it when its process ends, however that ends, and a
forked child, such as a worker that loads data, does not inherit it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time

from tensorkeep.errors import StoreError
from tensorkeep.hidden import failed_write

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
# Locks of this process: the system would grant it another one, and drop both with either.
_HELD: dict[tuple[int, int], int] = {}
_GUARD = threading.Lock()


class Lock:
    """Hold a file locked until it is released.

    Args:
        path: the file; it is made where it is not there.
        where: names the folder in messages.

    Raises:
        StoreError: another Checkpointer holds it, or it cannot be made.

    >>> import tempfile
    >>> path = f"{tempfile.mkdtemp()}/lock"
    >>> lock = Lock(path, "run")
    >>> Lock(path, "run")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    tensorkeep.errors.StoreError: run: another Checkpointer of this process saves here. ...
    >>> lock.release()
    >>> Lock(path, "run").release()
    """

    def __init__(self, path: str, where: str) -> None:
        self.path = path
        self.alone = True  # False where the filesystem has no locks
        self._where = where
        self._owner = os.getpid()
        with _GUARD:
            self._take()

    def _take(self) -> None:
        try:
            known = os.stat(self.path)
            # Another file descriptor, closed, would drop the lock that this process has.
            if _HELD.get((known.st_dev, known.st_ino)) == os.getpid():
                raise StoreError(
                    "another Checkpointer of this process saves here",
                    where=self._where,
                    cure="Close it first, or make this one with read_only=True.",
                )
        except FileNotFoundError:
            pass
        except OSError as error:
            raise failed_write(error, self.path) from error
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise failed_write(error, self.path) from error
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _describe(self._fd)
            if error.errno in _NO_LOCKS:
                self.alone = False
            else:
                os.close(self._fd)
                raise StoreError(
                    f"another Checkpointer saves here{holder}",
                    where=self._where,
                    cure="Wait until it ends, use another folder, or only read with "
                    "read_only=True.",
                ) from None
        info = os.fstat(self._fd)
        self._key = (info.st_dev, info.st_ino)
        _HELD[self._key] = self._owner
        about = {"pid": self._owner, "host": os.uname().nodename, "since": round(time.time())}
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(about).encode(), 0)

    def is_held(self) -> bool:
        """Say whether the file is still the one at its path, and no other process has its lock."""
        try:
            info = os.stat(self.path)
            if self.alone:  # whoever closes the file in this process, as a backup does, drops it
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return (info.st_dev, info.st_ino) == self._key

    def release(self) -> None:
        """Let others have it; a forked child's copy of this changes nothing."""
        with _GUARD:
            if self._owner == os.getpid() and _HELD.pop(self._key, None) is not None:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, 0)
                os.close(self._fd)


def _describe(fd: int) -> str:
    """Say who holds the lock, as far as it told."""
    try:
        about = json.loads(os.pread(fd, 1000, 0))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(about["since"])))
        return f": process {int(about['pid'])} on {about['host']!s:.60}, since {since}"
    except (OSError, ValueError, TypeError, LookupError, OverflowError):
        return ""
