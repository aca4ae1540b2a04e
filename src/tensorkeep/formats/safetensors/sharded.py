"""The tensors of a sharded checkpoint: its files are opened, and checked, when they are first read.

There may be many thousand files, so no more than some hundred are open at a time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from tensorkeep.checksum import digest
from tensorkeep.errors import ClosedError, CorruptError, MissingError
from tensorkeep.formats.safetensors.manifest import MANIFEST, Entry, File, Manifest
from tensorkeep.formats.safetensors.pieces import Piece, Sharded
from tensorkeep.formats.safetensors.single import decode_file
from tensorkeep.reading import Filling
from tensorkeep.source import Source
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.chunks import Box, gathered

_MOST_OPEN = 256
_BAND = 4 << 20  # bytes of a piece that are read, hashed and put in place at a time
_OTHER = "Use another checkpoint."


class ShardFile(Source):
    """The bytes of one file: opened when they are first read, and checked against the manifest."""

    __slots__ = ("_checked", "_files", "_location", "_lock", "_opened", "expected", "users")

    def __init__(self, files: ShardFiles, location: Location, expected: File) -> None:
        super().__init__(expected.size, location.where)
        self.expected = expected
        self.users = 0
        self._files = files
        self._location = location
        self._lock = threading.Lock()
        self._opened: Source | None = None
        self._checked = False

    @property
    def mapped(self) -> bool:
        return self._files.mapped

    @property
    def remote(self) -> bool:
        return self._files.remote

    def open(self) -> Source:
        """Open and check the file, unless that was done."""
        with self._lock:
            if self._opened is None:
                try:
                    source = self._location.source
                except MissingError:
                    raise CorruptError(
                        f"is not there, but {MANIFEST} lists it", where=self.where, cure=_OTHER
                    ) from None
                try:
                    self._compare(source)
                except BaseException:
                    self._location.close()
                    raise
                self._opened = source
            return self._opened

    def _compare(self, source: Source) -> None:
        check_size(self._location, self.expected)
        if self._checked:
            return
        check_head(self._location, self.expected)
        told = self._files.told(self._location.name)
        held = decode_file(self._location)
        for name, known in told.items():
            tensor = held.get(name)
            if tensor is None or known != (
                tensor.dtype.name,
                tensor.shape,
                tensor.offset,
                tensor.offset + tensor.nbytes,
                held.digests.get(name),
            ):
                raise contradiction(name, self.where)
        if len(told) != len(held):
            raise contradiction(next(name for name in held if name not in told), self.where)
        self._checked = True

    def release(self) -> None:
        """Close the file, to be opened again at need."""
        with self._lock:
            self._opened = None
            self._location.close()

    def _read(self, start: int, stop: int) -> memoryview:
        with self._files.using(self) as source:
            return source.read(start, stop)

    def _readinto(self, start: int, buffer: memoryview) -> None:
        with self._files.using(self) as source:
            source.readinto(start, buffer)

    def _private(self, start: int, stop: int) -> memoryview:
        with self._files.using(self) as source:
            return source.private(start, stop)


_Told = tuple[str, tuple[int, ...], int, int, str]  # dtype, shape, range and digest


class ShardFiles:
    """The files of a sharded checkpoint.

    Args:
        location: of the checkpoint.
        manifest: of it.
        like: a file of it that is open, which tells what the others are like.
    """

    def __init__(self, location: Location, manifest: Manifest, like: Source) -> None:
        self.where = location.where
        self.manifest = manifest
        self.mapped = like.mapped
        self.remote = like.remote
        self._location = location
        self._lock = threading.Lock()
        self._files: dict[str, ShardFile] = {}
        self._open: OrderedDict[ShardFile, None] = OrderedDict()
        self._told: dict[str, dict[str, _Told]] | None = None
        self._closed = False

    def file(self, name: str) -> ShardFile:
        """Give a file, without opening it."""
        with self._lock:
            found = self._files.get(name)
            if found is None:
                location = Location(self._location.store, self.manifest.key(name))
                found = ShardFile(self, location, self.manifest.files[name])
                self._files[name] = found
            return found

    @contextmanager
    def using(self, file: ShardFile) -> Iterator[Source]:
        """Have a file open, and one that was not used for long closed if they are too many."""
        with self._lock:
            if self._closed:
                raise ClosedError(
                    "was closed before this was read",
                    where=file.where,
                    cure="Read inside the `with` block, or open it again.",
                )
            file.users += 1
            self._open[file] = None
            self._open.move_to_end(file)
            idle = [f for f in self._open if not f.users] if len(self._open) > _MOST_OPEN else []
            for other in idle[: len(self._open) - _MOST_OPEN]:
                del self._open[other]
                other.release()
        try:
            yield file.open()
        finally:
            with self._lock:
                file.users -= 1

    def told(self, file: str) -> dict[str, _Told]:
        """Give what the manifest says of a file's tensors, by their names there."""
        with self._lock:
            if self._told is None:
                self._told = self._sorted()
            return self._told.get(file, {})

    def _sorted(self) -> dict[str, dict[str, _Told]]:
        found: dict[str, dict[str, _Told]] = {}
        rows: list[tuple[str, Entry | Piece]] = [
            (entry.dtype.name, entry) for entry in self.manifest.tensors.values()
        ]
        for tensor in self.manifest.sharded.values():
            rows += [(tensor.dtype.name, piece) for piece in tensor.pieces]
        for kind, row in rows:
            file = found.setdefault(row.file, {})
            if row.name in file:
                raise contradiction(row.name, self.where)
            file[row.name] = kind, row.shape, row.start, row.stop, row.digest
        return found

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            self._closed = True
            for file in self._open:
                file.release()
            self._open.clear()


class ShardedTensors(Mapping[str, Tensor]):
    """All tensors of a sharded checkpoint, made when they are asked for.

    Args:
        files: of the checkpoint.
    """

    def __init__(self, files: ShardFiles) -> None:
        self.files = files
        self._manifest = files.manifest
        self._names = dict.fromkeys(files.manifest.names)

    def __getitem__(self, name: str) -> Tensor:
        entry = self._manifest.tensors.get(name)
        if entry is not None:
            file = self.files.file(entry.file)
            return Tensor(entry.dtype, entry.shape, file, entry.start, entry.stop - entry.start)
        tensor = self._manifest.sharded[name]
        if len(tensor.pieces) == 1:
            return self.piece(tensor, tensor.pieces[0])
        where = f"{self.files.where}: {name:.60}"
        return gathered(tensor.dtype, tensor.shape, partial(self._boxes, tensor), where)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def _boxes(self, tensor: Sharded) -> list[Box]:
        return [
            Box(piece.offsets, piece.shape, self.piece(tensor, piece)) for piece in tensor.pieces
        ]

    def piece(self, tensor: Sharded, piece: Piece) -> Tensor:
        """Give the elements of a piece."""
        file = self.files.file(piece.file)
        return Tensor(tensor.dtype, piece.shape, file, piece.start, piece.stop - piece.start)

    def check(self, name: str, touched: Sequence[tuple[slice, ...]] | None = None) -> None:
        """Check each piece of a tensor against its digest, or those alone that slices touch.

        Raises:
            CorruptError: one is damaged; the message names it.
        """
        tensor = self._manifest.sharded[name]
        for piece in tensor.pieces:
            if touched is not None and not any(_meets(piece, box) for box in touched):
                continue
            found = digest(self.piece(tensor, piece))
            if found != piece.digest:
                raise damaged_piece(name, piece, found, self.files.where)

    def fill(self, name: str, piece: Piece, into: npt.NDArray[Any]) -> None:
        """Fill an array with a piece of a tensor, and check that piece on the way.

        Raises:
            CorruptError: it is damaged; the message names it.
        """
        tensor = self.piece(self._manifest.sharded[name], piece)
        kind, hasher = tensor.dtype, xxhash.xxh3_128()
        if kind.packed or not piece.shape:
            data = tensor.read()
            hasher.update(data)
            into[...] = tensor.decode(data, piece.shape)
        elif into.flags.c_contiguous:
            memory = into.reshape(-1).view(np.uint8).data
            for at in range(0, tensor.nbytes, _BAND):
                band = memory[at : at + _BAND]
                tensor.source.readinto(piece.start + at, band)
                hasher.update(band)
        else:
            row = tensor.nbytes // piece.shape[0]
            rows = max(1, _BAND // row)
            for top in range(0, piece.shape[0], rows):
                bottom = min(top + rows, piece.shape[0])
                data = tensor.source.read(piece.start + top * row, piece.start + bottom * row)
                hasher.update(data)
                into[top:bottom] = tensor.decode(data, (bottom - top, *piece.shape[1:]))
        if (found := hasher.hexdigest()) != piece.digest:
            raise damaged_piece(name, piece, found, self.files.where)


class PieceCheck(Filling):
    """The check of a tensor in pieces."""

    def __init__(self, tensors: ShardedTensors, name: str) -> None:
        self._tensors, self._name = tensors, name

    def __call__(self) -> None:
        self._tensors.check(self._name)

    def fills(self, array: npt.NDArray[Any]) -> Iterator[tuple[int, Callable[[], None]]]:
        told = self._tensors.files.manifest.sharded[self._name]
        for piece in told.pieces:
            box: Any = [slice(o, o + s) for o, s in zip(piece.offsets, piece.shape, strict=True)]
            fill = partial(self._tensors.fill, self._name, piece, array[(*box, ...)])
            yield piece.stop - piece.start, fill


class PieceChecks(Mapping[str, PieceCheck]):
    """The checks of all tensors in pieces, made when they are asked for."""

    def __init__(self, tensors: ShardedTensors) -> None:
        self.tensors = tensors
        self._sharded = tensors.files.manifest.sharded

    def __getitem__(self, name: str) -> PieceCheck:
        if name not in self._sharded:
            raise KeyError(name)
        return PieceCheck(self.tensors, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sharded)

    def __len__(self) -> int:
        return len(self._sharded)

    def __contains__(self, name: object) -> bool:
        return name in self._sharded


def _meets(piece: Piece, box: tuple[slice, ...]) -> bool:
    return all(
        (place.start or 0) < offset + size and (place.stop is None or offset < place.stop)
        for offset, size, place in zip(piece.offsets, piece.shape, box, strict=True)
    )


def damaged_piece(name: str, piece: Piece, found: str, where: str) -> CorruptError:
    """Say that a piece is not what was saved."""
    return CorruptError(
        f"the piece of {name!r} at {list(piece.offsets)} is damaged: the XXH3-128 of bytes "
        f"{piece.start} to {piece.stop} of {piece.file} is {found}, {piece.digest} was saved",
        where=where,
        cure=_OTHER,
    )


def contradiction(name: str, where: str) -> CorruptError:
    """Say that the manifest and a file differ in what they say of a tensor."""
    return CorruptError(
        f"it and {MANIFEST} say different things of {name[:80]!r}",
        where=where,
        cure="One of them belongs to another checkpoint.",
    )


def check_size(file: Location, expected: File) -> None:
    """Check the length of a file.

    Raises:
        CorruptError: it is another than was saved.
    """
    size = file.source.size
    if size != expected.size:
        raise CorruptError(
            f"is {size:,} bytes long, {expected.size:,} were saved",
            where=file.where,
            cure=_OTHER,
        )


def check_head(file: Location, expected: File) -> None:
    """Check the header of a file.

    Raises:
        CorruptError: it is not that which was saved.
    """
    length = int.from_bytes(file.source.read(0, min(8, file.source.size)), "little")
    stop = 8 + length
    if stop > file.source.size:
        raise CorruptError("its header's length is damaged", where=file.where)
    check_digest(bytes(file.source.read(0, stop)), expected, file.where, "its header")


def check_digest(data: bytes, expected: File, where: str, what: str) -> None:
    """Check bytes of a file.

    Raises:
        CorruptError: they are not those that were saved.
    """
    found = xxhash.xxh3_128_hexdigest(data)
    if found != expected.digest:
        raise CorruptError(
            f"{what} is damaged: the XXH3-128 of its {len(data):,} bytes is {found}, "
            f"{expected.digest} was saved",
            where=where,
            cure=_OTHER,
        )
