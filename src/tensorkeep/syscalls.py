"""System calls that Python does not offer; each does nothing harmful where it is absent."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import sys
from functools import lru_cache

import numpy as np

_LINUX = sys.platform == "linux"
_SYNC_FILE_RANGE_WRITE = 2
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_FICLONE = 0x40049409
_WORTH = 64 << 10  # bytes
_MAP = mmap.mmap
_CANNOT_RESERVE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.ENODEV}

# statfs(2) magic numbers of filesystems where a page fault is a network round trip.
_NETWORK = {
    0x6969: "nfs",
    0x517B: "smb",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x0BD00BD0: "lustre",
    0x65735546: "fuse",
    0x01021997: "9p",
    0x5346414F: "afs",
    0x6B414653: "afs",
    0x00C36400: "ceph",
    0x47504653: "gpfs",
    0x19830326: "beegfs",
    0x73757245: "coda",
    0x7461636F: "ocfs2",
    0x01161970: "gfs2",
    0xAAD7AAEA: "panfs",
}


@lru_cache(maxsize=1)
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    libc.fstatfs.argtypes = [ctypes.c_int, ctypes.c_void_p]
    return libc


def network_filesystem(fd: int) -> str | None:
    """Name the network filesystem that holds an open file, or None where it is local."""
    if not _LINUX:
        return None
    buffer = (ctypes.c_long * 32)()
    if _libc().fstatfs(fd, ctypes.byref(buffer)) != 0:
        return None
    return _NETWORK.get(buffer[0] & 0xFFFFFFFF)


def reserve(fd: int, size: int, start: int = 0) -> None:
    """Reserve disk space for a file that will be `size` bytes long, from `start` on.

    Raises:
        OSError: the disk is full or the size is over the filesystem's limit.
    """
    if not _LINUX or size == start:
        return
    # A reservation that fails takes all the room there is, for a while.
    room = os.fstatvfs(fd)
    if size - start > room.f_bavail * room.f_frsize:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    # Not os.posix_fallocate: where the filesystem cannot reserve, it writes every block instead.
    if _libc().fallocate(fd, 0, start, size - start) != 0:
        code = ctypes.get_errno()
        if code not in _CANNOT_RESERVE:
            raise OSError(code, os.strerror(code))


def start_writeback(fd: int, start: int, size: int) -> None:
    """Ask the kernel to begin writing a range to the disk, without waiting for it."""
    if _LINUX:
        _libc().sync_file_range(fd, start, size, _SYNC_FILE_RANGE_WRITE)


def let_go(view: memoryview) -> None:
    """Have the pages of a file that a view looks at stop counting as memory of this process.

    They stay in the system's cache, and are there again when they are looked at. Done for maps that
    cannot be written to alone, since those of others may hold what is in no file.
    """
    mapping = view.obj
    if not isinstance(mapping, _MAP) or view.nbytes < _WORTH or not _LINUX:
        return
    whole = memoryview(mapping)
    if not whole.readonly:
        return
    start = _address(view) - _address(whole)
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + view.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def exchange(one: str, other: str) -> None:
    """Swap the names of two files or folders of one filesystem, in one step.

    Raises:
        OSError: they cannot be swapped; ENOSYS where the system does not offer it.
    """
    if not _LINUX or not hasattr(_libc(), "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    names = os.fsencode(one), os.fsencode(other)
    if _libc().renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), one, None, other)


def clone(source: int, target: int) -> None:
    """Have an empty file share the bytes of another until one of them is written to.

    Raises:
        OSError: the filesystem cannot do that.
    """
    if not _LINUX:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    fcntl.ioctl(target, _FICLONE, source)


def available_memory() -> int | None:
    """Give the bytes of memory that can still be taken, in this control group too; None if unknown.

    Facts: proc(5), and the kernel's description of control groups, version 2.
    """
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            rows = dict(line.split(":", 1) for line in lines)
        available = int(rows["MemAvailable"].split()[0]) << 10
    except (OSError, ValueError, LookupError):
        return None
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as text:
            limit = int(text.read())
        with open("/sys/fs/cgroup/memory.stat", encoding="ascii") as lines:
            used = dict(line.split() for line in lines)
        taken = sum(int(used[kind]) for kind in ("anon", "shmem", "kernel", "sock"))
        return max(0, min(available, limit - taken))
    except (OSError, ValueError, LookupError):  # "max" where there is no limit
        return available
