"""What is below a folder: files, folders and links by their numbers, whatever their names are."""

from __future__ import annotations

import os
import stat
import threading
from typing import Any, TypeAlias

from tensorkeep.testing.disk.log import Change, Entries, Event, Inode, Sync, Write

Place: TypeAlias = tuple[Inode, str]  # a folder and a name in it


class Inodes:
    """Everything below a folder that was there, or that a call has made.

    A subclass says in `meet` what becomes of a call, and in `note` what it does with what was done.

    Args:
        root: the folder; it has to exist.
    """

    reads = True  # whether `note` is interested in the bytes of files

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.folder = os.path.realpath(root)
        self.root = Inode("folder", "")
        self.strangers: list[str] = []  # what was met that no call had made
        self.inodes: dict[tuple[int, int], Inode] = {}  # by device and number
        self.lock = threading.RLock()  # what is done and what is noted have one order

    def meet(self, call: str, size: int = 0) -> int:
        """Say how many of the bytes of a call are done, before it is.

        Args:
            call: its name.
            size: how many bytes it has.

        Raises:
            OSError: the call fails.
        """
        return size

    def note(self, event: Event) -> None:
        """Take what was done."""

    def find(self) -> None:
        """Note all that is there already, and that it is safe on the disk."""
        info = os.lstat(self.folder)
        self.inodes[info.st_dev, info.st_ino] = self.root
        self._find_below(self.folder, self.root)
        for inode in list(self.inodes.values()):
            self.note(Sync(inode))

    def opened(self, fd: Any) -> Inode | None:
        """Give what a descriptor is of, where that is below the folder."""
        try:
            info = os.fstat(fd if isinstance(fd, int) else fd.fileno())
        except (OSError, AttributeError, TypeError, ValueError, OverflowError):
            return None
        return self.inodes.get((info.st_dev, info.st_ino))

    def place(self, path: Any, dir_fd: int | None = None) -> Place | None:
        """Give the folder and the name that a path leads to, where that is below the folder."""
        try:
            head, name = os.path.split(os.fsdecode(path).rstrip("/"))
            info = os.stat(head or ".", dir_fd=dir_fd)
        except (OSError, TypeError, ValueError):
            return None
        folder = self.inodes.get((info.st_dev, info.st_ino))
        return None if folder is None or folder.kind != "folder" else (folder, name)

    @staticmethod
    def key(path: Any, dir_fd: int | None = None) -> tuple[int, int] | None:
        """Give the device and number of what a path names, or None where there is nothing."""
        try:
            info = os.lstat(path, dir_fd=dir_fd)
        except OSError:
            return None
        return info.st_dev, info.st_ino

    def new(self, info: os.stat_result, label: str, target: str = "") -> Inode:
        """Keep in mind something that was not below the folder before."""
        kinds = {stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
        kind: Any = kinds.get(stat.S_IFMT(info.st_mode), "file")
        inode = self.inodes[info.st_dev, info.st_ino] = Inode(kind, label, target)
        return inode

    def there(self, path: str, label: str, dir_fd: int | None = None) -> Inode:
        """Give what a path names; what is not known is taken over as it is."""
        if dir_fd is not None:
            path = os.path.join(f"/proc/self/fd/{dir_fd}", path)
        info = os.lstat(path)
        inode = self.inodes.get((info.st_dev, info.st_ino))
        if inode is None:
            inode = self.new(info, label, _target(path, info))
            if inode.kind == "folder":
                self._find_below(path, inode)
            elif self.reads and stat.S_ISREG(info.st_mode):
                fd = os.open(path, os.O_RDONLY)
                try:
                    self.filled(inode, fd, 0, info.st_size, 0)
                finally:
                    os.close(fd)
        return inode

    def _find_below(self, path: str, folder: Inode) -> None:
        for name in sorted(os.listdir(path)):
            inode = self.there(os.path.join(path, name), join(folder, name))
            self.changed("find", (folder, name, inode))

    def changed(self, call: str, *changes: Change) -> None:
        """Note that names changed."""
        names = [join(folder, name) for folder, name, _ in changes]
        self.note(Entries(f"{call} {' '.join(names)}", changes))

    def filled(self, inode: Inode, src: int, start: int, size: int, at: int) -> None:
        """Note a write whose bytes are those of a file."""
        data = bytearray()
        while len(data) < size:
            piece = os.pread(src, size - len(data), start + len(data))
            if not piece:
                break
            data += piece
        if data:
            self.note(Write(inode, at, bytes(data)))


def join(folder: Inode, name: str) -> str:
    """Give the path of a name in a folder, for messages."""
    return f"{folder.label}/{name}" if folder.label else name


def _target(path: str, info: os.stat_result) -> str:
    return os.readlink(path) if stat.S_ISLNK(info.st_mode) else ""
