"""Drafts on a disk: hidden folders, which are renamed when they are committed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from tensorkeep import syscalls
from tensorkeep.checkpoint.folder import Draft, SharedDraft, name_of
from tensorkeep.errors import MissingError, StoreError
from tensorkeep.formats.safetensors.manifest import MANIFEST, Manifest
from tensorkeep.hidden import (
    failed_write,
    hidden,
    is_hidden,
    reason,
    remove,
    share,
    sync_one,
)
from tensorkeep.replacing import Replacement, write_chunks
from tensorkeep.store import Chunks, Progress


class DiskDraft(Draft):
    """A checkpoint that is being written, under a hidden name.

    Args:
        path: where.
        durable: have its files on the disk.
    """

    def __init__(self, path: str, durable: bool) -> None:
        self.path = path
        self.durable = durable

    def put(
        self, name: str, chunks: Chunks, size: int | None = None, progress: Progress | None = None
    ) -> None:
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

    def link(self, name: str, step: int, key: str) -> bool:
        source = os.path.join(os.path.dirname(self.path), name_of(step), key)
        target = os.path.join(self.path, name)
        return share(source, target, durable=self.durable)

    def finish(self, manifest: Manifest) -> None:
        last = Replacement(os.path.join(self.path, MANIFEST))
        try:
            last.append([manifest.dump()], durable=self.durable)
            last.finish(durable=self.durable)  # and the names of all other files, too
        finally:
            last.close()

    def _sync(self, path: str) -> None:
        if self.durable:
            sync_one(path)


class SharedDiskDraft(DiskDraft, SharedDraft):
    """A hidden folder that several processes write in.

    Args:
        path: where.
        durable: have each file on the disk once it is put.
        held: lets go of the folder around it.
        where: names the checkpoint in messages.
    """

    def __init__(self, path: str, durable: bool, held: contextlib.ExitStack, where: str) -> None:
        super().__init__(path, durable)
        self._held = held
        self._where = where

    def put(
        self, name: str, chunks: Chunks, size: int | None = None, progress: Progress | None = None
    ) -> None:
        with self._telling(size), self._placing(name) as beside:
            super().put(beside, chunks, size, progress)

    def report(self, name: str, data: bytes) -> None:
        with self._telling(len(data)):
            self._sync(self.path)  # the names of what was put before
            with (
                self._placing(name) as beside,
                open(os.path.join(self.path, beside), "xb") as file,
            ):
                file.write(data)

    @contextlib.contextmanager
    def _placing(self, name: str) -> Iterator[str]:
        """Give the name to write a file under, which it then changes for its own."""
        path = os.path.join(self.path, name)
        beside = hidden(path)
        try:
            yield os.path.basename(beside)
            os.rename(beside, path)
        except BaseException:
            remove(beside)
            raise

    def finish(self, manifest: Manifest) -> None:
        with self._telling():
            for name in os.listdir(self.path):
                if is_hidden(name):  # of a process that was killed
                    remove(os.path.join(self.path, name))
            for name, file in manifest.files.items():
                found = os.stat(os.path.join(self.path, name)).st_size
                if found != file.size:
                    raise StoreError(
                        f"{name} has {found:,} bytes, not {file.size:,}", where=self._where
                    )
            super().finish(manifest)

    def names(self) -> list[str]:
        with self._telling():
            return sorted(name for name in os.listdir(self.path) if not is_hidden(name))

    def read(self, name: str) -> bytes | None:
        try:
            with self._telling(), open(os.path.join(self.path, name), "rb") as file:
                return file.read()
        except MissingError:
            return None

    def remove(self, name: str) -> None:
        with self._telling(), contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, name))

    def close(self) -> None:
        self._held.close()

    @contextlib.contextmanager
    def _telling(self, size: int | None = None) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            if isinstance(error, MissingError):
                raise
            raise MissingError(f"is gone: {reason(error)}", where=self._where) from error
        except OSError as error:
            raise failed_write(error, self._where, size) from error


__all__ = ["DiskDraft", "SharedDiskDraft"]
