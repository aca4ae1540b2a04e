"""The C library, but for its calls that change what is below a folder."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Any, TypeAlias

from tensorkeep.testing.disk.inodes import Inodes, join
from tensorkeep.testing.disk.log import Change, Resize

_HERE = -100  # AT_FDCWD
_SWAP = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS

_End: TypeAlias = tuple[Any, int | None]  # a path and the descriptor that it starts from


class Libc:
    """What `tensorkeep.syscalls` calls, taken on its way.

    Args:
        real: the library.
        disk: what takes the calls.
    """

    def __init__(self, real: Any, disk: Inodes) -> None:
        self._real = real
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def fallocate(self, fd: int, mode: int, start: int, size: int) -> int:
        """Reserve room, which makes a file longer."""
        disk = self._disk
        inode = disk.opened(fd)
        if inode is None:
            return int(self._real.fallocate(fd, mode, start, size))
        with disk.lock:
            if self._fails("fallocate"):
                return -1
            result = int(self._real.fallocate(fd, mode, start, size))
            if result == 0:
                disk.note(Resize(inode, start + size, grow=True))
        return result

    def renameat2(self, old_fd: int, old: Any, new_fd: int, new: Any, how: int) -> int:
        """Rename as Linux does, to a free name or by a swap."""
        src, dst = ((old, old_fd), (new, new_fd))
        ends = [(path, None if fd == _HERE else fd) for path, fd in (src, dst)]
        return self._rename(
            lambda: self._real.renameat2(old_fd, old, new_fd, new, how), ends, how & _SWAP
        )

    def renamex_np(self, old: Any, new: Any, how: int) -> int:
        """Rename as macOS does, to a free name or by a swap."""
        ends: list[_End] = [(old, None), (new, None)]
        return self._rename(lambda: self._real.renamex_np(old, new, how), ends, how & _SWAP)

    def _rename(self, real: Callable[[], int], ends: list[_End], swaps: int) -> int:
        disk = self._disk
        places = [disk.place(*end) for end in ends]
        if not any(places):
            return real()
        with disk.lock:
            call = "swap" if swaps else "rename"
            if self._fails(call):
                return -1
            result = real()
            if result == 0:
                changes: list[Change] = []
                for place, (path, fd), stays in zip(places, ends, (swaps, True), strict=True):
                    if place:
                        there = disk.there(os.fsdecode(path), join(*place), fd) if stays else None
                        changes.append((*place, there))
                disk.changed(call, *changes)
        return result

    def _fails(self, call: str) -> bool:
        """Say whether a call has to fail, the way that C does."""
        try:
            self._disk.meet(call)
        except OSError as error:
            ctypes.set_errno(error.errno or errno.EIO)
            return True
        return False
