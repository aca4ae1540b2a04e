"""Changes that are not committed yet, in a spool."""

from __future__ import annotations

import contextlib
import io
import mmap
import os
from collections.abc import Iterator
from typing import BinaryIO

from tensorkeep.errors import StoreError, UnsupportedError
from tensorkeep.hidden import failed_write
from tensorkeep.replacing import unnamed
from tensorkeep.store import Chunks, Late, Progress

SPOOL_LIMIT = 64 << 20  # bytes that are staged in memory, before they go to a file
_PIECE = 8 << 20


class Staging:
    """Changes by key, the last of each; many bytes of them lie in a file without a name.

    Args:
        folder: where that file is made.

    >>> staging = Staging("/tmp")
    >>> staging.put(b"a", [b"12", b"34"])
    >>> staging.delete(b"b")
    >>> [(key, value and bytes(value)) for key, value in staging.changes()]
    [(b'a', b'1234'), (b'b', None)]
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = folder
        self._ranges: dict[bytes, tuple[int, int] | None] = {}
        self._spool: BinaryIO = io.BytesIO()
        self.size = 0  # bytes in the spool, those of replaced values too

    def __len__(self) -> int:
        return len(self._ranges)

    def __contains__(self, key: bytes) -> bool:
        return key in self._ranges

    def put(
        self,
        key: bytes,
        chunks: Chunks,
        *,
        size: int | None = None,
        limit: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Take the bytes of a key, at most `limit` of them.

        Raises:
            UnsupportedError: there are more.
            StoreError: the disk is full, or not `size` bytes came. Nothing of this `put` stays.
        """
        start = self.size
        try:
            check_size(size, limit)
            stop = self._write(chunks, progress)
            check_size(stop - start, limit)
            if size is not None and stop - start != size:
                raise StoreError(f"{stop - start:,} bytes came, not {size:,}")
        except BaseException:
            self._cut(start)
            raise
        self._ranges.pop(key, None)
        self._ranges[key] = (start, stop)
        self.size = stop

    def delete(self, key: bytes) -> None:
        """Note that a key goes."""
        self._ranges.pop(key, None)
        self._ranges[key] = None

    def changes(self) -> Iterator[tuple[bytes, memoryview | None]]:
        """Give each key with its bytes, or None where it goes; a view ends with the next key."""
        with self._view() as view:
            for key, found in self._ranges.items():
                if found is None:
                    yield key, None
                    continue
                with view[found[0] : found[1]] as value:  # a failure would hold it, and the spool
                    yield key, value

    def restart(self) -> None:
        """Forget all changes, which were made; the memory is used again, warm as it is."""
        self._ranges.clear()
        self.size = 0
        self._spool.seek(0)

    def clear(self) -> None:
        """Forget all changes, and give up what they took."""
        self._ranges.clear()
        self.size = 0
        if not isinstance(self._spool, io.BytesIO):
            self._spool.close()
        self._spool = io.BytesIO()

    def _write(self, chunks: Chunks, progress: Progress | None) -> int:
        stop = self.size
        late: list[tuple[int, Late]] = []
        for chunk in chunks:
            if isinstance(chunk, Late):
                late.append((stop, chunk))
                stop += self._append(memoryview(bytes(chunk.size)))
                continue
            written = self._append(memoryview(chunk))
            stop += written
            if progress is not None and written:
                progress(written)
        for at, chunk in late:
            data = chunk.make()
            if len(data) != chunk.size:
                raise StoreError(f"a part of {chunk.size} bytes has {len(data)}")
            self._spool.seek(at)
            self._spool.write(data)
        self._spool.seek(stop)
        return stop

    def _append(self, data: memoryview) -> int:
        try:
            spool = self._spool
            if type(spool) is io.BytesIO and spool.tell() + data.nbytes > SPOOL_LIMIT:
                fd = unnamed(os.path.join(self._folder, "changes"))
                self._move(os.fdopen(fd, "w+b", buffering=1 << 20))
            try:
                return self._spool.write(data)
            except BufferError:  # a failure still holds views of it
                self._move(io.BytesIO())
                return self._spool.write(data)
        except OSError as error:
            raise failed_write(error, os.fspath(self._folder)) from error

    def _move(self, spool: BinaryIO) -> None:
        old, self._spool = self._spool, spool
        stop = old.tell()
        old.seek(0)
        for start in range(0, stop, _PIECE):
            spool.write(old.read(min(_PIECE, stop - start)))

    def _cut(self, stop: int) -> None:
        with contextlib.suppress(OSError):
            self._spool.seek(stop)

    @contextlib.contextmanager
    def _view(self) -> Iterator[memoryview]:
        if isinstance(self._spool, io.BytesIO):
            with self._spool.getbuffer() as view:
                yield view
            return
        if not self.size:
            yield memoryview(b"")
            return
        try:
            self._spool.flush()
            mapped = mmap.mmap(self._spool.fileno(), self.size, prot=mmap.PROT_READ)
        except OSError as error:
            raise failed_write(error, os.fspath(self._folder)) from error
        with memoryview(mapped) as view:
            yield view


def check_size(size: int | None, limit: int | None) -> None:
    """Refuse a value that is longer than the engine keeps.

    Raises:
        UnsupportedError: it is.
    """
    if size is not None and limit is not None and size > limit:
        raise UnsupportedError(
            f"has {size:,} bytes, and a value may have {limit:,}",
            cure="Save it in smaller chunks, or in a file of its own.",
        )
