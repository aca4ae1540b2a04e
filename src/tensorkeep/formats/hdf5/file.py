"""An HDF5 file as h5py sees it, opened from any Source: no lock, nothing written, structure alone.

The library sees the bytes through a file object, so that a zip's member, memory and a remote file
are all one to it, and so that it can reach no other file. What it says of damaged bytes becomes a
CorruptError in `damage`, the one place for that.

The superblock's fields: HDF5 File Format Specification 3.0, II.A. A file may begin with a block of
the user's of 512 bytes or a doubling of that, so the signature is looked for there too.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tensorkeep.errors import ClosedError, CorruptError, TensorKeepError
from tensorkeep.optional import require
from tensorkeep.source import MemorySource, Source

MAGIC = b"\x89HDF\r\n\x1a\n"
MARK = "tensorkeep"  # the root's attribute that every file of the format hdf5 written here has
_HEAP = b"GCOL"
_USER_BLOCKS = (0, 512, 1024, 2048)

# What h5py raises where the bytes make no sense to it.
LIBRARY_ERRORS = (
    OSError,
    RuntimeError,
    AttributeError,
    LookupError,
    ValueError,
    TypeError,
    NotImplementedError,
    OverflowError,
    MemoryError,
)


def h5py(where: str = "") -> Any:
    """Import h5py.

    Raises:
        MissingDependencyError: it is not installed.
    """
    # Asked for very often, so not by way of the import system once it is there.
    return sys.modules.get("h5py") or require(
        "h5py", "HDF5 needs h5py", "Install tensorkeep[hdf5].", where
    )


def is_hdf5(head: bytes) -> bool:
    """Say whether a file that begins so is one.

    >>> is_hdf5(MAGIC), is_hdf5(bytes(512) + MAGIC), is_hdf5(b"PK")
    (True, True, False)
    """
    return any(head[at : at + len(MAGIC)] == MAGIC for at in _USER_BLOCKS)


@contextmanager
def damage(where: str) -> Iterator[None]:
    """Turn what h5py says of damaged bytes into a CorruptError.

    Raises:
        CorruptError: h5py raised anything.
    """
    try:
        yield
    except TensorKeepError:
        raise
    except LIBRARY_ERRORS as error:
        if ours := _ours(error):
            raise ours from None
        said = str(error).strip("'\"") or type(error).__name__
        raise CorruptError(
            f"the HDF5 library cannot read it: {said}",
            where=where,
            cure="It is damaged; use another copy of the file.",
        ) from error


def _ours(error: BaseException | None) -> TensorKeepError | None:
    """Find an error of a Source among what led to one of h5py's."""
    for _ in range(8):
        if error is None or isinstance(error, TensorKeepError):
            return error
        error = error.__cause__ or error.__context__
    return None


def open_file(source: Source, where: str) -> Any:
    """Open an HDF5 file for reading; gives an `h5py.File`, to be closed by the caller.

    Tensors with elements to decode (chunked, compressed, big-endian) are read through it later,
    the others through `source` alone.

    Raises:
        CorruptError: it is cut short, or no HDF5 file.
        MissingDependencyError: h5py is not installed.
    """
    library = h5py(where)
    check_superblock(source, where)
    with damage(where):
        return library.File(SourceFile(source), "r")


class SourceFile(io.RawIOBase):
    """A Source as a file object that has a position; h5py calls it under its own lock."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        # Many small ranges are read: from one view where that costs nothing.
        quick = source.mapped and source.size > 0
        view = source.read(0, source.size) if quick else None
        self._source = source if view is None else MemorySource(view, source.where)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._source.size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer).cast("B")
        here = max(0, min(room.nbytes, self._source.size - self._at))
        self._source.readinto(self._at, room[:here])
        # The library never looks at how much it got: what is not there must not be old memory.
        room[here:] = bytes(room.nbytes - here)
        if bytes(room[:4]) == _HEAP and heap_never_ends(self._heap(room)):
            room[:4] = bytes(4)  # which the library refuses, where it would go round for ever
        self._at += room.nbytes
        return room.nbytes

    def _heap(self, head: memoryview) -> memoryview:
        """Give all of a heap, of which the library reads the first 4 KiB alone at first."""
        size = int.from_bytes(head[8:16], "little")
        return self._source.read(self._at, min(self._at + size, self._source.size))


def heap_never_ends(heap: memoryview) -> bool:
    """Say whether the library would never find the end of a heap of strings.

    It goes from one object to the next by their sizes, and does not notice one of none.
    """
    size, at = int.from_bytes(heap[8:16], "little"), 16
    while at + 16 <= min(size, heap.nbytes):
        length = int.from_bytes(heap[at + 8 : at + 16], "little")
        free = not any(heap[at : at + 2])
        step = length if free else 16 + -(-length // 8) * 8
        if not 0 < step <= size - at:  # its sums can overflow, too
            return True
        at += step
    return False


def check_open(file: Any, where: str) -> None:
    """Refuse to read through a file that was closed.

    Raises:
        ClosedError: it was.
    """
    if not file:
        raise ClosedError(
            "was closed before this was read",
            where=where,
            cure="Read inside the `with` block, or open it again.",
        )


def check_superblock(source: Source, where: str) -> None:
    """Compare the length that the superblock gives with that of the file.

    Raises:
        CorruptError: there is no superblock, or the file is shorter.
    """
    head = bytes(source.read(0, min(4096, source.size)))
    start = next((at for at in _USER_BLOCKS if head[at : at + len(MAGIC)] == MAGIC), None)
    if start is None:
        raise CorruptError(
            f"does not begin as an HDF5 file does, but with {head[:8]!r}", where=where
        )
    end = _end_of_file(head[start:])
    if end is not None and not start and source.size < end:
        raise CorruptError(
            f"is {source.size:,} bytes long, but its superblock says {end:,}",
            where=where,
            cure="It is cut short; copy or download it again.",
        )


def _end_of_file(block: bytes) -> int | None:
    """Give the end of the file that a superblock states; None where its form is not known."""
    if len(block) < 96:
        return None
    version = block[8]
    if version < 2:
        width, at = block[13], 24 + 4 * version
    else:
        width, at = block[9], 12
    if version > 3 or width not in (2, 4, 8):
        return None
    at += 2 * width
    return int.from_bytes(block[at : at + width], "little")
