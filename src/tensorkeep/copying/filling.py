"""Filling a file on a disk: going on behind what is there, each byte being checked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from tensorkeep import syscalls
from tensorkeep.copying.content import Checker
from tensorkeep.copying.sources import File
from tensorkeep.copying.work import Work
from tensorkeep.errors import CorruptError, StoreError
from tensorkeep.replacing import copy_range, write_views
from tensorkeep.source import FileSource, Source

_STEP = 64 << 20  # bytes that the kernel copies before progress is told
_WRITTEN = 8 << 20  # bytes after which the disk is to begin


@dataclass(frozen=True, slots=True)
class Filled:
    """How the bytes of a file got there; see `tally.Copy`."""

    transferred: int = 0
    shared: int = 0
    skipped: int = 0


def fill(path: str, file: File, work: Work, *, verify: bool) -> Filled:
    """Write a file to a path where some of it may be, and have it on the disk.

    Bytes that are there count where digests tell that they are right.

    Raises:
        OSError: the disk is full or failed.
        CorruptError: the source is damaged.
    """
    drop_shared(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o666)
    try:
        check_size(file)
        begun = os.fstat(fd).st_size > 0
        cloned = bool(not begun and file.size) and _clone(file.location.source, fd)
        try:
            filled = _fill(fd, path, file, work, verify=verify, cloned=cloned)
        except CorruptError:
            if not begun:
                raise
            os.ftruncate(fd, 0)  # what was there may be what is damaged
            filled = _fill(fd, path, file, work, verify=verify, cloned=False)
        check_unchanged(file, verify=verify)
        os.fsync(fd)
        return filled
    finally:
        os.close(fd)
        file.close()


def drop_shared(path: str) -> None:
    """Remove what is at a path if it is another name of a file, which is not to be written to."""
    with contextlib.suppress(FileNotFoundError):
        if os.lstat(path).st_nlink > 1:
            os.unlink(path)


def check_size(file: File) -> None:
    """Make sure that a source has as many bytes as it should.

    Raises:
        CorruptError: it has not as many as its manifest says.
        StoreError: it has changed since it was looked at.
    """
    size = file.location.source.size
    if size == file.size:
        return
    if file.known is not None:
        raise CorruptError(
            f"is {size:,} bytes long, {file.size:,} were saved",
            where=file.location.where,
            cure="Use another checkpoint.",
        )
    _refuse_change(file)


def check_unchanged(file: File, *, verify: bool) -> None:
    """Make sure that a source without digests was not written to meanwhile.

    Raises:
        StoreError: it was.
    """
    source = file.location.source
    if file.known is not None or not verify or not isinstance(source, FileSource):
        return  # an object that changes is told by its store
    if not file.version.startswith(f"{source.info().st_size} {source.info().st_mtime_ns} "):
        _refuse_change(file)


def _refuse_change(file: File) -> None:
    raise StoreError(
        "changed while it was copied", where=file.location.where, cure="Copy it again."
    )


def _clone(source: Source, fd: int) -> bool:
    with contextlib.suppress(OSError):
        if isinstance(source, FileSource):
            syscalls.clone(source.fileno(), fd)
            return True
    return False


def _fill(fd: int, path: str, file: File, work: Work, *, verify: bool, cloned: bool) -> Filled:
    where, size = file.location.where, file.size
    have = os.fstat(fd).st_size
    checker = Checker(file.content, where) if verify else None
    proved = checker is not None and file.content.proved
    kept = have if have <= size and (cloned or proved or not verify) else 0
    if checker is not None and proved and kept:
        part = FileSource(path)
        try:
            for piece in work.pieces(part):
                checker.take(piece)
        except CorruptError:
            if cloned:
                raise
            kept = checker.sound
            checker = Checker(file.content, where, kept)
        finally:
            part.close()
    work.moved(kept)
    os.ftruncate(fd, kept)
    if checker is not None and checker.at < kept:
        checker = None  # a clone, of which nothing tells more than that it is one
    source = file.location.source
    if kept < size and isinstance(source, FileSource) and not proved:
        _copy_in_kernel(fd, source, kept, size, work)
    elif kept < size:
        _write(fd, work.checked(source, checker, kept), kept, work)
    if cloned:
        return Filled(shared=kept, transferred=size - kept)
    return Filled(transferred=size - kept, skipped=kept)


def _write(fd: int, pieces: Iterator[memoryview], at: int, work: Work) -> None:
    begun = at  # what the disk was not asked to write yet
    for piece in pieces:
        write_views(fd, [piece], at)
        at += piece.nbytes
        work.moved(piece.nbytes)
        if at - begun >= _WRITTEN:
            syscalls.start_writeback(fd, begun, at - begun)
            begun = at


def _copy_in_kernel(fd: int, source: FileSource, start: int, stop: int, work: Work) -> None:
    for at in range(start, stop, _STEP):
        work.check()
        last = min(at + _STEP, stop)
        copy_range(source.fileno(), at, last, fd, at)
        syscalls.start_writeback(fd, at, last - at)
        work.moved(last - at)
