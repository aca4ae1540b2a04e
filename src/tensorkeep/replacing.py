"""Replacing a file whole: a hidden file beside it is written, and renamed over it at the end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from tensorkeep import syscalls
from tensorkeep.errors import MissingError, StoreError
from tensorkeep.hidden import (
    failed_write,
    hidden,
    lock,
    reason,
    removal,
    sharing,
    take_place,
    wait_for_room,
)
from tensorkeep.store import Chunks, Late, Progress

_PIECE = 8 << 20
_PATIENCE = 60.0  # seconds that another writer may take
_MAX_VECTORS = 1024  # IOV_MAX on Linux and macOS
_CANNOT_COPY = {errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM}


class Replacement:
    """A hidden file that takes the place of another one when it is finished.

    Args:
        path: what it will replace; where that is a link, the link stays.
        folder: the folder it is in, where another Replacement holds it longer than this one.

    Raises:
        StoreError: it cannot be written, or a folder is in its place.
        MissingError: the folder does not exist.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "weights")
    >>> new = Replacement(path)
    >>> new.append([b"12", b"34"])
    >>> os.path.exists(path), new.finish(), os.path.getsize(path)
    (False, None, 4)
    """

    def __init__(self, path: str | os.PathLike[str], *, folder: int | None = None) -> None:
        self.end = 0  # how much of the file counts
        self._held = contextlib.ExitStack()
        self.target = Path(path)
        try:
            self.target = Path(os.path.realpath(path))
            mode = check_replaceable(self.target)
            if folder is None:
                folder = self._held.enter_context(sharing(self.target.parent))
            self.folder = folder
            self._temporary, self.fd = create_beside(self.target, mode)
        except (OSError, ValueError) as error:
            self._held.close()
            raise failed_write(error, self.target, None) from error
        self._held.callback(removal(str(self._temporary)))
        self._held.callback(os.close, self.fd)

    def append(
        self, chunks: Chunks, *, durable: bool = True, progress: Progress | None = None
    ) -> None:
        """Write chunks behind what is there.

        Raises:
            OSError: the disk is full or failed; what was there before still counts.
        """
        self.end = write_chunks(self.fd, chunks, self.end, durable, progress)

    def copy(self, fd: int, start: int, stop: int) -> None:
        """Write a range of another file behind what is there.

        Raises:
            OSError: the disk is full or failed, or the range ends early.
        """
        copy_range(fd, start, stop, self.fd, self.end)
        self.end += stop - start

    def finish(self, *, durable: bool = True) -> None:
        """Put the file in its place.

        Raises:
            OSError: it cannot be; the old one is unchanged, and this one stays hidden.
        """
        os.ftruncate(self.fd, self.end)
        if durable:
            os.fsync(self.fd)
        take_place(self._temporary, self.target)
        try:
            if durable:
                os.fsync(self.folder)
        except OSError as error:
            problem = f"is replaced, but a loss of power may undo that: {reason(error)}"
            raise StoreError(problem, where=str(self.target), cure="Save it again.") from error
        finally:
            self.close()

    def close(self) -> None:
        """Remove the file, unless it is in its place."""
        self._held.close()


def identify(path: str) -> tuple[int, ...]:
    """Give what tells a file from one that takes its place; nothing where there is none.

    Raises:
        StoreError: that cannot be found out.
    """
    try:
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot be opened: {reason(error)}", where=path) from error
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns


@contextlib.contextmanager
def hold(path: str) -> Iterator[int | None]:
    """Give a file, opened for reading, that no other `hold` gives meanwhile; None if there is none.

    It is for those who read a file and replace it by what they make of it.

    Raises:
        OSError: the file cannot be opened.
    """
    while True:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            fd = -1
        if fd < 0:
            yield None
            return
        try:
            locked = True
            with contextlib.suppress(OSError):  # a filesystem without locks
                locked = lock(fd, fcntl.LOCK_EX, _PATIENCE)
            if not locked:
                raise StoreError(
                    "is locked by another program",
                    where=path,
                    cure="Wait until that is done, or save under another name.",
                )
            if _is_still(path, fd):
                yield fd
                return
        finally:
            os.close(fd)


def _is_still(path: str, fd: int) -> bool:
    """Tell whether an open file is the one that a path names."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def check_replaceable(target: Path) -> int | None:
    """Give the mode of the file that will be replaced, or None where there is none.

    Raises:
        StoreError: a folder, a pipe or a device is in its place, or that cannot be found out.
        MissingError: the folder does not exist.
    """
    try:
        info = target.stat()
    except FileNotFoundError:
        if not target.parent.is_dir():
            raise MissingError(
                "the folder to save in does not exist",
                where=str(target.parent),
                cure="Create it first.",
            ) from None
        return None
    except (OSError, ValueError) as error:
        raise failed_write(error, target, None) from error
    if stat.S_ISDIR(info.st_mode):
        raise StoreError("is a folder", where=str(target), cure="Give the name of a file in it.")
    if not stat.S_ISREG(info.st_mode):
        raise StoreError("is a pipe or device, not a file", where=str(target))
    return info.st_mode & 0o7777


def create_beside(target: Path, mode: int | None) -> tuple[Path, int]:
    """Create the hidden file that will replace a target, and open it for reading and writing.

    To be done while the folder is held by `hidden.sharing`.

    Args:
        target: what it will replace; no link.
        mode: its permissions; None leaves them to the umask.

    Raises:
        OSError: it cannot be created.
    """
    wait_for_room()
    temporary = Path(hidden(str(target)))
    fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        if mode is not None:
            os.fchmod(fd, mode)
    except OSError:
        os.close(fd)
        temporary.unlink()
        raise
    return temporary, fd


def unnamed(target: str | os.PathLike[str]) -> int:
    """Open a file beside a target that has no name and is gone with its last use.

    Until it loses its name that is one which later saves sweep, if a kill comes in between.

    Raises:
        OSError: it cannot be created.
    """
    path = Path(os.path.realpath(target))
    with sharing(path.parent):
        name, fd = create_beside(path, 0o600)
        try:
            name.unlink()
        except OSError:
            os.close(fd)
            raise
    return fd


def write_chunks(
    fd: int, chunks: Chunks, start: int, durable: bool, progress: Progress | None
) -> int:
    """Write chunks in order: large ones in pieces, runs of small ones in one call.

    Args:
        fd: the file.
        chunks: the bytes; those of a Late one are asked for at the end.
        start: where in the file the first one goes.
        durable: have the disk begin at once, since the file will be synced.
        progress: called with the number of bytes written since the last call.

    Returns:
        Where in the file the last one ends.

    Raises:
        OSError: the disk is full or failed, or a Late chunk is not as long as it said.
    """
    offset = start
    batch: list[memoryview] = []
    waiting = 0

    def flush() -> None:
        nonlocal offset, waiting
        if not batch:
            return
        write_views(fd, batch, offset)
        if durable:
            syscalls.start_writeback(fd, offset, waiting)
        for view in batch:
            syscalls.let_go(view)  # so that what streams through a map keeps memory flat
        offset += waiting
        if progress is not None:
            progress(waiting)
        waiting = 0
        batch.clear()

    late: list[tuple[int, Late]] = []
    for chunk in chunks:
        if isinstance(chunk, Late):
            flush()
            late.append((offset, chunk))
            offset += chunk.size
            continue
        view = memoryview(chunk)
        while view.nbytes:
            # Pieces end at multiples of their size in the file: its pages then lie together in
            # memory, and a map of it is read a sixth faster.
            room = _PIECE - (offset + waiting) % _PIECE
            piece, view = view[:room], view[room:]
            batch.append(piece)
            waiting += piece.nbytes
            if piece.nbytes == room or len(batch) == _MAX_VECTORS:
                flush()
    flush()
    for at, chunk in late:
        data = chunk.make()
        if len(data) != chunk.size:
            raise OSError(errno.EIO, f"a part of {chunk.size} bytes has {len(data)}")
        write_views(fd, [memoryview(data)], at)
    return offset


def write_views(fd: int, views: list[memoryview], offset: int) -> None:
    """Write up to a thousand views, one behind the other.

    Raises:
        OSError: the disk is full or failed.
    """
    total = sum(view.nbytes for view in views)
    done = os.pwritev(fd, views, offset)
    while done < total:  # a short write: go on behind what was taken
        rest, skip = [], done
        for view in views:
            if skip < view.nbytes:
                rest.append(view[skip:])
            skip = max(0, skip - view.nbytes)
        count = os.pwritev(fd, rest[:_MAX_VECTORS], offset + done)
        if count == 0:
            raise OSError(errno.EIO, "the disk took no bytes")
        done += count


def copy_range(fd: int, start: int, stop: int, into: int, offset: int) -> None:
    """Copy bytes from one file to another, inside the kernel where it can.

    Raises:
        OSError: the disk is full or failed, or the range ends early.
    """
    in_kernel = sys.platform == "linux"
    while start < stop:
        count = 0
        if in_kernel:
            try:
                count = os.copy_file_range(fd, into, stop - start, start, offset)
            except OSError as error:
                if error.errno not in _CANNOT_COPY:
                    raise
            in_kernel = count > 0
        if not in_kernel:
            data = os.pread(fd, min(_PIECE, stop - start), start)
            if not data:
                raise OSError(errno.EIO, "the file that is copied ends early")
            write_views(into, [memoryview(data)], offset)
            count = len(data)
        start += count
        offset += count
