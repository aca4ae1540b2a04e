"""The system calls that change what is below a folder, taken on their way through `os`."""

from __future__ import annotations

import builtins
import fcntl
import io
import os
import stat
from collections.abc import Callable
from typing import Any, Self, TypeAlias

from tensorkeep import syscalls
from tensorkeep.testing.disk.inodes import Inodes, Place, join
from tensorkeep.testing.disk.libc import Libc
from tensorkeep.testing.disk.log import Change, Inode, Resize, Sync, Write

_O_TMPFILE = getattr(os, "O_TMPFILE", -1)
_FICLONE = 0x40049409

_Real: TypeAlias = Callable[..., Any]


class Calls(Inodes):
    """Take every call that changes something below a folder, from any thread, while it is entered.

    Args:
        root: the folder; it has to exist.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        super().__init__(root)
        self._undo: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        self.find()
        for module, names in self._patches().items():
            for name, mine in names.items():
                real = getattr(module, name, None)
                if real is not None:
                    self._undo.append((module, name, real))
                    setattr(module, name, mine(real))
        return self

    def __exit__(self, *_: object) -> None:
        while self._undo:
            setattr(*self._undo.pop())

    def _patches(self) -> dict[Any, dict[str, Callable[[_Real], _Real]]]:
        paths: dict[str, Any] = {
            "mkdir": self._mkdir,
            "rename": self._rename,
            "replace": self._rename,
            "link": self._link,
            "symlink": self._symlink,
            "unlink": self._unlink,
            "remove": self._unlink,
            "rmdir": self._unlink,
            "chmod": self._chmod,
        }
        files: dict[str, Any] = {
            "pwritev": self._write,
            "pwrite": self._write,
            "writev": self._write,
            "write": self._write,
            "sendfile": self._sendfile,
            "ftruncate": self._ftruncate,
            "posix_fallocate": self._fallocate,
            "fsync": self._sync,
            "fdatasync": self._sync,
            "fchmod": self._fchmod,
        }

        def path(name: str, mine: _Real) -> Callable[[_Real], _Real]:
            def wrap(real: _Real) -> _Real:
                def patched(*args: Any, **options: Any) -> Any:
                    with self.lock:
                        return mine(name, real, *args, **options)

                return patched

            return wrap

        def file(name: str, mine: _Real) -> Callable[[_Real], _Real]:
            def wrap(real: _Real) -> _Real:
                def patched(fd: Any, *args: Any, **options: Any) -> Any:
                    inode = self.opened(fd)
                    if inode is None:
                        return real(fd, *args, **options)
                    with self.lock:
                        return mine(name, real, inode, fd, *args, **options)

                return patched

            return wrap

        def bound(mine: _Real) -> Callable[[_Real], _Real]:
            return lambda real: lambda *args, **options: mine(real, *args, **options)

        calls = {name: path(name, mine) for name, mine in paths.items()}
        calls |= {name: file(name, mine) for name, mine in files.items()}
        calls |= {
            "open": bound(self._open),
            "truncate": bound(self._truncate),
            "copy_file_range": bound(self._copy),
        }
        return {
            os: calls,
            io: {"open": bound(self._open_file)},
            builtins: {"open": bound(self._open_file)},
            fcntl: {"ioctl": bound(self._ioctl)},
            syscalls: {"_libc": lambda real: lambda: Libc(real(), self)},
        }

    # Calls that take paths.

    def _mkdir(
        self, call: str, real: _Real, path: Any, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> None:
        place = self.place(path, dir_fd)
        if place:
            self.meet(call)
        real(path, mode, dir_fd=dir_fd)
        if place:
            self._made(call, place, path, dir_fd)

    def _symlink(
        self,
        call: str,
        real: _Real,
        src: Any,
        dst: Any,
        target_is_directory: bool = False,
        *,
        dir_fd: int | None = None,
    ) -> None:
        place = self.place(dst, dir_fd)
        if place:
            self.meet(call)
        real(src, dst, target_is_directory, dir_fd=dir_fd)
        if place:
            self._made(call, place, dst, dir_fd, os.fsdecode(src))

    def _made(self, call: str, place: Place, path: Any, dir_fd: int | None, to: str = "") -> None:
        inode = self.new(os.lstat(path, dir_fd=dir_fd), join(*place), to)
        self.changed(call, (*place, inode))

    def _link(
        self,
        call: str,
        real: _Real,
        src: Any,
        dst: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        place = self.place(dst, dst_dir_fd)
        if place:
            self.meet(call)
        options = {"src_dir_fd": src_dir_fd, "dst_dir_fd": dst_dir_fd}
        real(src, dst, **options, follow_symlinks=follow_symlinks)
        if place:
            self.changed(call, (*place, self.there(os.fsdecode(dst), join(*place), dst_dir_fd)))

    def _rename(
        self,
        call: str,
        real: _Real,
        src: Any,
        dst: Any,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
    ) -> None:
        old, new = self.place(src, src_dir_fd), self.place(dst, dst_dir_fd)
        if old or new:
            self.meet(call)
        key = self.key(src, src_dir_fd)
        real(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if self.key(src, src_dir_fd) == key:  # two names of one file: nothing was done
            return
        if old and key not in self.inodes:
            self.strangers.append(join(*old))
        changes: list[Change] = [(*old, None)] if old else []
        if new:
            changes.append((*new, self.there(os.fsdecode(dst), join(*new), dst_dir_fd)))
        if changes:
            self.changed(call, *changes)

    def _unlink(self, call: str, real: _Real, path: Any, *, dir_fd: int | None = None) -> None:
        place = self.place(path, dir_fd)
        key = self.key(path, dir_fd) if place else None
        if place:
            self.meet(call)
        real(path, dir_fd=dir_fd)
        if place:
            self.changed(call, (*place, None))
            if call == "rmdir" and key is not None:
                self.inodes.pop(key, None)

    def _chmod(self, call: str, real: _Real, path: Any, *args: Any, **options: Any) -> None:
        if self.opened(path) if isinstance(path, int) else self.place(path):
            self.meet(call)
        real(path, *args, **options)

    # Opening.

    def _open(
        self, real: _Real, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None
    ) -> int:
        unnamed = _O_TMPFILE > 0 and flags & _O_TMPFILE == _O_TMPFILE
        follows = not flags & (os.O_EXCL | os.O_NOFOLLOW)
        end = self._end(path) if dir_fd is None and follows else os.fsdecode(path)
        place = self.place(os.path.join(end, "x") if unnamed else end, dir_fd)
        if not place or (not flags & (os.O_CREAT | os.O_TRUNC) and not unnamed):
            fd: int = real(path, flags, mode, dir_fd=dir_fd)
            if not place:
                self._is_outside(fd)
            elif self.opened(fd) is None:
                self._met(place, end, dir_fd)
            return fd
        with self.lock:
            self.meet("open")
            before = None if unnamed else self.key(end, dir_fd)
            fd = real(path, flags, mode, dir_fd=dir_fd)
            info = os.fstat(fd)
            if unnamed:
                self.new(info, "a file without a name")
            elif before is None:
                self.changed("create", (*place, self.new(info, join(*place))))
            elif flags & os.O_TRUNC and (inode := self.opened(fd)):
                self.note(Resize(inode, 0))
        return fd

    def _met(self, place: Place, path: str, dir_fd: int | None) -> None:
        """Take over what no call has made."""
        with self.lock:
            self.strangers.append(join(*place))
            self.changed("find", (*place, self.there(path, join(*place), dir_fd)))

    def _is_outside(self, fd: int) -> None:
        """Forget a number that a file below the folder had, and that another one has now."""
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode):
            self.inodes.pop((info.st_dev, info.st_ino), None)

    def _open_file(
        self,
        real: _Real,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """Open a file as `open` does, but so that its writes pass through `os`."""
        given = encoding, errors, newline
        binary = "b" in mode
        if not set("wax+") & set(mode) or (buffering == 0 and not binary):
            return real(file, mode, buffering, *given, closefd, opener)
        raw = _File(file, mode.replace("b", "").replace("t", ""), closefd, opener or _create)
        if buffering == 0:
            return raw
        size = io.DEFAULT_BUFFER_SIZE if buffering in (-1, 1) else buffering
        buffer = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
        lines = buffering == 1 or (buffering < 0 and raw.isatty())
        return buffer if binary else io.TextIOWrapper(buffer, *given, lines)

    @staticmethod
    def _end(path: Any) -> str:
        """Give where a path leads; links are followed."""
        try:
            return os.path.realpath(os.fsdecode(path))
        except (OSError, ValueError):
            return os.fsdecode(path)

    # Calls that take descriptors.

    def _write(self, call: str, real: _Real, inode: Inode, fd: int, data: Any, *at: int) -> int:
        vectors = call.endswith("v")
        whole = b"".join(data) if vectors else bytes(data)
        taken = whole[: self.meet(call, len(whole))]
        count: int = real(fd, [taken] if vectors else taken, *at)
        start = at[0] if at else os.lseek(fd, 0, os.SEEK_CUR) - count
        self.note(Write(inode, start, taken[:count]))
        return count

    def _ftruncate(self, call: str, real: _Real, inode: Inode, fd: int, length: int) -> None:
        self.meet(call)
        real(fd, length)
        self.note(Resize(inode, length))

    def _truncate(self, real: _Real, path: Any, length: int) -> None:
        if isinstance(path, int):
            os.ftruncate(path, length)
            return
        with self.lock:
            place = self.place(self._end(path))
            if place:
                self.meet("truncate")
            real(path, length)
            if place:
                inode = self.there(self._end(path), join(*place))
                self.note(Resize(inode, length))

    def _fallocate(
        self, call: str, real: _Real, inode: Inode, fd: int, start: int, size: int
    ) -> None:
        self.meet(call)
        real(fd, start, size)
        self.note(Resize(inode, start + size, grow=True))

    def _sync(self, call: str, real: _Real, inode: Inode, fd: Any) -> None:
        self.meet(call)
        real(fd)
        self.note(Sync(inode))

    def _fchmod(self, call: str, real: _Real, inode: Inode, fd: int, mode: int) -> None:
        self.meet(call)
        real(fd, mode)

    def _copy(
        self,
        real: _Real,
        src: int,
        dst: int,
        count: int,
        offset_src: int | None = None,
        offset_dst: int | None = None,
    ) -> int:
        inode = self.opened(dst)
        if inode is None:
            return int(real(src, dst, count, offset_src, offset_dst))
        with self.lock:
            taken = self.meet("copy_file_range", count)
            done: int = real(src, dst, taken, offset_src, offset_dst)
            start = _before(src, done) if offset_src is None else offset_src
            at = _before(dst, done) if offset_dst is None else offset_dst
            self.filled(inode, src, start, done, at)
        return done

    def _sendfile(
        self,
        call: str,
        real: _Real,
        inode: Inode,
        fd: int,
        src: int,
        offset: int | None,
        count: int,
        *rest: Any,
    ) -> int:
        done: int = real(fd, src, offset, self.meet(call, count), *rest)
        start = _before(src, done) if offset is None else offset
        self.filled(inode, src, start, done, _before(fd, done))
        return done

    def _ioctl(self, real: _Real, fd: Any, request: int, *args: Any) -> Any:
        inode = self.opened(fd) if request == _FICLONE else None
        if inode is None:
            return real(fd, request, *args)
        with self.lock:
            self.meet("ioctl")
            result = real(fd, request, *args)
            size = os.fstat(args[0]).st_size
            self.filled(inode, args[0], 0, size, 0)
            self.note(Resize(inode, size))
        return result


class _File(io.FileIO):
    """A file whose writes pass through `os`, where they are taken."""

    def write(self, data: Any) -> int:
        return os.write(self.fileno(), data)

    def truncate(self, size: int | None = None) -> int:
        length = self.tell() if size is None else size
        os.ftruncate(self.fileno(), length)
        return length


def _create(path: str, flags: int) -> int:
    return os.open(path, flags, 0o666)


def _before(fd: int, count: int) -> int:
    """Give where a file's position was before it moved."""
    return os.lseek(fd, 0, os.SEEK_CUR) - count
