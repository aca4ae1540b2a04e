"""An HDF5 file as a stream, although the library writes in no order.

The library makes the structure in memory: groups, attributes and datasets that have no room yet.
Opened once more, it gives each dataset its room behind that, of which one element is written and
forgotten. The rest is streamed: structure, then each tensor where its dataset is. So nothing is
written twice and memory stays flat. Compressed files are made in a temporary file, then streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import xxhash

from tensorkeep.format import Stream
from tensorkeep.formats.hdf5.compressing import Compression, compressed
from tensorkeep.formats.hdf5.file import h5py
from tensorkeep.formats.hdf5.seal import build_seal
from tensorkeep.formats.hdf5.storing import Stored, float_type, stored_as
from tensorkeep.formats.hdf5.structure import Contents, laid_out
from tensorkeep.notes import Notes
from tensorkeep.store import Chunk
from tensorkeep.tensor import Tensor

__all__ = ["Compression", "Contents", "Stored", "float_type", "stored_as", "write_file"]

_HASHED = 2 << 20  # bytes that are still in cache when they are written after they were hashed
_PIECE = 16 << 20
_NO_DIGEST = "0" * 32

Check = Callable[[str, str], None]


def write_file(
    key: str,
    contents: Contents,
    *,
    checksums: bool = True,
    check: Check | None = None,
    compression: Compression | None = None,
) -> Stream:
    """Write one file, with checksums of its structure behind its end.

    Args:
        key: where to.
        contents: what.
        checksums: whether those of the tensors, by path, stand there as well.
        check: called with the path and the XXH3-128 of each tensor, where they do.
        compression: how datasets are compressed; None leaves them as they are.

    Raises:
        MissingDependencyError: h5py is not installed.
    """
    h5py(key)
    rows = {path: contents.stored(tensor) for path, tensor in contents.datasets.items()}
    hashing = _Hashing(checksums, check)
    if compression is not None:
        return Stream(key, _compressed(contents, rows, compression, hashing))
    structure, places, end = laid_out(contents, rows)
    ranges = [(0, len(structure))]
    whole = xxhash.xxh3_128_digest(structure)
    expected = hashing.document(dict.fromkeys(rows, _NO_DIGEST))
    size = end + len(build_seal(expected, ranges, whole))

    def chunks() -> Iterator[Chunk]:
        yield structure
        at = len(structure)
        for path, tensor in contents.datasets.items():
            if path in places:
                yield bytes(places[path] - at)
                at = places[path] + tensor.nbytes
            for piece in hashing.pieces(path, tensor):
                if path in places:
                    yield piece
        yield bytes(end - at)
        yield build_seal(hashing.document(hashing.found), ranges, whole)

    return Stream(key, chunks(), size)


def _compressed(
    contents: Contents, rows: dict[str, Stored], compression: Compression, hashing: _Hashing
) -> Iterator[Chunk]:
    structure = xxhash.xxh3_128()
    with compressed(contents, rows, compression, hashing.pieces) as (file, ranges, end):
        bounds = iter([*ranges, (end, end)])
        first, last = next(bounds)
        at = 0
        while at < end:
            if at == last and last < end:
                first, last = next(bounds)
            inside = first <= at < last
            stop = min(at + _PIECE, last if inside else (first if at < first else end))
            file.seek(at)
            piece = file.read(stop - at)
            if inside:
                structure.update(piece)
            yield piece
            at = stop
        yield build_seal(hashing.document(hashing.found), ranges, structure.digest())


class _Hashing:
    """The digests of tensors, taken as they are written."""

    def __init__(self, wanted: bool, check: Check | None) -> None:
        self._wanted = wanted
        self._check = check
        self.found: dict[str, str] = {}

    def pieces(self, path: str, tensor: Tensor, size: int = 0) -> Iterator[memoryview]:
        """Give the bytes of a tensor in order; its digest is known once the last was taken."""
        if not self._wanted:
            yield from tensor.pieces(size or _PIECE)
            return
        hasher = xxhash.xxh3_128()
        for piece in tensor.pieces(size or _HASHED):
            hasher.update(piece)
            yield piece
        self.found[path] = hasher.hexdigest()
        if self._check is not None:
            self._check(path, self.found[path])

    def document(self, digests: dict[str, str]) -> bytes:
        """Write the digests; nothing where none are wanted."""
        return Notes(digests=digests).dump().encode() if self._wanted else b""
