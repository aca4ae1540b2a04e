"""Tensors in pieces, as manifests list them: by columns, of which a million is a few arrays.

    "tensors": {NAME: {"dtype": ..., "shape": [...], "pieces": COUNT, "name": NAME IN THE FILES,
                       "sharding": INDEX}},      the last only where it is known
    "shardings": [JSON, ...],
    "pieces": {"files": [...], "starts": [...],  for each piece, in the order of the tensors: which
                                                 of the files, and where in it
               "offsets": [...], "sizes": [...], its box: a number for each axis of its tensor
               "xxh3_128": HEX,                  the digests, joined
               "names": [NAME, ...],             what else files call pieces, and for each piece 0
               "named": [...]}                   or 1 + the index of its name; both only if needed

A piece is the bytes of its box in C order. Here everything is checked that a document says of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from tensorkeep.dtypes import DTYPES, STRING, DType
from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.notes import is_shape
from tensorkeep.state import Json
from tensorkeep.wire.chunks import Axes, overlap
from tensorkeep.wire.text import dump_json

MAX_PIECES = 2_000_000
_HEX = re.compile("[0-9a-f]*")
_WIDTH = 32  # hex digits of a digest

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Piece(NamedTuple):
    """A box of a tensor: the file it is in, its name there, its bytes, their XXH3-128."""

    file: str
    name: str
    start: int
    stop: int
    digest: str
    offsets: Axes
    shape: Axes


@dataclass(frozen=True, slots=True)
class Sharded:
    """A tensor in pieces.

    Args:
        dtype: of its elements.
        shape: of the whole.
        pieces: which are all of it, none overlapping.
        sharding: how it lay over devices or processes, for whoever wants to know.
    """

    dtype: DType
    shape: Axes
    pieces: Sequence[Piece]
    sharding: Json = None


@dataclass(frozen=True, slots=True, eq=False)
class _Columns:
    """All pieces of a document."""

    names: list[str]  # of the files
    files: Ints
    starts: Ints
    nbytes: Ints
    offsets: Ints
    sizes: Ints
    digests: str
    others: list[str]
    named: Ints

    def dump(self, files: Ints) -> dict[str, Any]:
        """Give them as a document has them, the files by their numbers there."""
        columns = {
            "files": files.tolist(),
            "starts": self.starts.tolist(),
            "offsets": self.offsets.tolist(),
            "sizes": self.sizes.tolist(),
            "xxh3_128": self.digests,
        }
        if not self.others:
            return columns
        return {**columns, "names": self.others, "named": self.named.tolist()}


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces(Sequence[Piece]):
    """The pieces of one tensor, made when they are asked for."""

    columns: _Columns
    name: str  # what the files call them
    axes: int
    first: int
    length: int
    place: int  # of their boxes

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Piece: ...
    @overload
    def __getitem__(self, index: slice) -> list[Piece]: ...
    def __getitem__(self, index: int | slice) -> Piece | list[Piece]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.length))]
        at = self.first + range(self.length)[index]
        columns = self.columns
        box = slice(*(self.place + (at - self.first + i) * self.axes for i in (0, 1)))
        named = int(columns.named[at]) if columns.others else 0
        start = int(columns.starts[at])
        return Piece(
            file=columns.names[columns.files[at]],
            name=columns.others[named - 1] if named else self.name,
            start=start,
            stop=start + int(columns.nbytes[at]),
            digest=columns.digests[at * _WIDTH : (at + 1) * _WIDTH],
            offsets=tuple(columns.offsets[box].tolist()),
            shape=tuple(columns.sizes[box].tolist()),
        )


def row_of(tensor: Sharded, shardings: dict[str, int]) -> dict[str, Json]:
    """Give what a document says of a tensor; numbers how it was sharded, as JSON text."""
    row: dict[str, Json] = {
        "dtype": tensor.dtype.name,
        "shape": list(tensor.shape),
        "pieces": len(tensor.pieces),
        "name": tensor.pieces[0].name,
    }
    if tensor.sharding is not None:
        row["sharding"] = shardings.setdefault(dump_json(tensor.sharding), len(shardings))
    return row


def columns_of(tensors: Mapping[str, Sharded], files: Mapping[str, Any]) -> dict[str, Any]:
    """Give the columns of all pieces.

    Args:
        tensors: in the order of the document.
        files: of the document, in its order.
    """
    number = {name: place for place, name in enumerate(files)}
    if known := _as_they_were(tensors):
        renumbered = np.array([number[name] for name in known.names], np.int64)
        return known.dump(renumbered[known.files])
    chosen: list[int] = []
    starts: list[int] = []
    offsets: list[int] = []
    sizes: list[int] = []
    digests: list[str] = []
    named: list[int] = []
    others: dict[str, int] = {}
    for tensor in tensors.values():
        usual = tensor.pieces[0].name
        for file, name, start, _, digest, box, shape in tensor.pieces:
            chosen.append(number[file])
            starts.append(start)
            offsets += box
            sizes += shape
            digests.append(digest)
            named.append(0 if name == usual else others.setdefault(name, len(others) + 1))
    columns = {"files": chosen, "starts": starts, "offsets": offsets, "sizes": sizes}
    columns["xxh3_128"] = "".join(digests)  # type: ignore[assignment]
    return columns if not others else {**columns, "names": list(others), "named": named}


def _as_they_were(tensors: Mapping[str, Sharded]) -> _Columns | None:
    """Give the columns of a document whose tensors these are, all of them and in its order."""
    columns: _Columns | None = None
    at = 0
    for tensor in tensors.values():
        pieces = tensor.pieces
        if not isinstance(pieces, _Pieces) or pieces.first != at:
            return None
        columns = columns or pieces.columns
        if pieces.columns is not columns or (columns.others and columns.named[at]):
            return None
        at += pieces.length
    return columns if columns is not None and at == len(columns.files) else None


def parse_pieces(
    document: Mapping[str, Any],
    rows: Mapping[str, Any],
    files: Mapping[str, int],
    where: str,
    *,
    whole: bool = True,
) -> dict[str, Sharded]:
    """Check and read the tensors in pieces.

    Args:
        document: with the columns.
        rows: what it says of each of those tensors, in order.
        files: the sizes of all its files, in order.
        where: names the document in messages.
        whole: whether the pieces have to be all of each tensor.

    Raises:
        CorruptError: the document contradicts itself.
        UnsafeError: there are more pieces than any real checkpoint has.
    """
    tensors = [_read_row(name, row, where) for name, row in rows.items()]
    names = list(rows)
    counts = np.array([count for _, _, count, _, _ in tensors], np.int64)
    total = sum(count for _, _, count, _, _ in tensors)
    if total > MAX_PIECES:
        raise UnsafeError(f"it lists more than {MAX_PIECES:,} pieces", where=where)
    axes = np.array([len(shape) for _, shape, _, _, _ in tensors], np.int64)
    columns = _read_columns(document.get("pieces"), list(files), total, int(counts @ axes), where)
    firsts = np.cumsum(counts) - counts
    places = np.cumsum(counts * axes) - counts * axes
    sizes = np.array(list(files.values()), np.int64)
    for ndim in np.unique(axes).tolist():
        chosen = np.flatnonzero(axes == ndim)
        told = [tensors[i] for i in chosen.tolist()]
        group = _Group(
            [names[i] for i in chosen.tolist()],
            np.array([shape for _, shape, _, _, _ in told], np.int64).reshape(len(told), ndim),
            np.array([kind.bits for kind, _, _, _, _ in told], np.int64),
            counts[chosen],
            where,
        )
        pieces = _ranges(firsts[chosen], counts[chosen])
        boxes = _ranges(places[chosen], counts[chosen] * ndim).reshape(len(pieces), ndim)
        offsets, shapes = columns.offsets[boxes], columns.sizes[boxes]
        columns.nbytes[pieces] = group.check_boxes(offsets, shapes)
        left = sizes[columns.files[pieces]] - columns.nbytes[pieces]
        group.refuse(
            (columns.starts[pieces] < 0) | (columns.starts[pieces] > left),
            "lies outside of its file",
        )
        if whole:
            group.check_cover(offsets, shapes)
    shardings = document.get("shardings", [])
    if not isinstance(shardings, list):
        raise CorruptError("the shardings are no list", where=where)
    found: dict[str, Sharded] = {}
    for place, (kind, shape, count, usual, sharding) in enumerate(tensors):
        if sharding >= len(shardings):
            raise CorruptError(f"there is no sharding {sharding}", where=where)
        known = None if sharding < 0 else shardings[sharding]
        view = _Pieces(columns, usual, len(shape), int(firsts[place]), count, int(places[place]))
        found[names[place]] = Sharded(kind, shape, view, known)
    return found


_Row = tuple[DType, Axes, int, str, int]


def _read_row(name: str, row: Any, where: str) -> _Row:
    match row:
        case {"dtype": str(kind), "shape": list(shape), "pieces": int(count), "name": str(usual)}:
            sharding = row.get("sharding", -1)
            if (
                kind in DTYPES
                and DTYPES[kind] is not STRING
                and is_shape(shape)
                and 0 < count <= MAX_PIECES
                and 0 < DTYPES[kind].nbytes(math.prod(shape)) < 2**62
                and math.prod(shape) < 2**59
                and type(sharding) is int
                and (sharding >= 0 or "sharding" not in row)
            ):
                return DTYPES[kind], tuple(shape), count, usual, sharding
    raise CorruptError(f"what it says of the pieces of {name[:80]!r} makes no sense", where=where)


def _read_columns(table: Any, files: list[str], total: int, axes: int, where: str) -> _Columns:
    if not isinstance(table, dict):
        raise CorruptError("the table of pieces is missing", where=where)
    digests = table.get("xxh3_128")
    if (
        not isinstance(digests, str)
        or len(digests) != total * _WIDTH
        or not _HEX.fullmatch(digests)
    ):
        raise CorruptError(f"there are not {_WIDTH} hex digits for each piece", where=where)
    others = table.get("names", [])
    if not isinstance(others, list) or not all(type(name) is str for name in others):
        raise CorruptError("the names of pieces are no list of text", where=where)
    named = _integers(table, "named", total, where) if others else np.zeros(0, np.int64)
    chosen = _integers(table, "files", total, where)
    for what, column, most in (("files", chosen, len(files) - 1), ("named", named, len(others))):
        if column.size and not 0 <= column.min() <= column.max() <= most:
            raise CorruptError(f"the pieces' {what!r} are out of range", where=where)
    return _Columns(
        names=files,
        files=chosen,
        starts=_integers(table, "starts", total, where),
        nbytes=np.zeros(total, np.int64),
        offsets=_integers(table, "offsets", axes, where),
        sizes=_integers(table, "sizes", axes, where),
        digests=digests,
        others=others,
        named=named,
    )


def _integers(table: Mapping[str, Any], key: str, count: int, where: str) -> Ints:
    values = table.get(key)
    if isinstance(values, list) and len(values) == count:
        try:
            column = np.array(values) if values else np.zeros(0, np.int64)
        except (ValueError, OverflowError):
            column = np.zeros(0)
        if column.ndim == 1 and column.dtype == np.int64:
            return column
    raise CorruptError(f"the pieces' {key!r} are not {count:,} integers", where=where)


def _ranges(firsts: Ints, counts: Ints) -> Ints:
    """Join the ranges that start at `firsts`."""
    behind = np.cumsum(counts)
    return np.arange(counts.sum()) + np.repeat(firsts - behind + counts, counts)


@dataclass(frozen=True, slots=True)
class _Group:
    """Tensors of as many axes: name, shape, bits of an element, number of pieces of each."""

    names: list[str]
    shapes: Ints
    bits: Ints
    counts: Ints
    where: str

    def refuse(self, bad: Flags, problem: str) -> None:
        if bad.any():
            piece = int(np.argmax(bad))
            tensor = int(np.searchsorted(np.cumsum(self.counts), piece, "right"))
            raise CorruptError(
                f"a piece of {self.names[tensor][:80]!r} {problem}", where=self.where
            )

    def check_boxes(self, offsets: Ints, sizes: Ints) -> Ints:
        """Check that pieces are inside of their tensors; gives the bytes of each."""
        room = np.repeat(self.shapes, self.counts, axis=0)
        bad = (sizes < 1) | (sizes > room) | (offsets < 0) | (offsets > room - sizes)
        self.refuse(np.asarray(bad.any(axis=1)), "lies outside of it")
        bits = np.repeat(self.bits, self.counts)
        elements = np.prod(sizes, axis=1, dtype=np.int64)
        packed = (elements * np.minimum(bits, 8) + 7) // 8
        nbytes: Ints = np.where(bits < 8, packed, elements * (bits // 8))
        return nbytes

    def check_cover(self, offsets: Ints, sizes: Ints) -> None:
        """Check that the pieces are all of each tensor, and no two overlap."""
        firsts = np.cumsum(self.counts) - self.counts
        filled = np.add.reduceat(np.prod(sizes, axis=1, dtype=np.int64), firsts)
        wanted = np.prod(self.shapes, axis=1, dtype=np.int64)
        regular = self._regular(offsets, sizes, firsts)
        for place in np.flatnonzero(~regular).tolist():
            own = slice(int(firsts[place]), int(firsts[place] + self.counts[place]))
            name = self.names[place]
            low = offsets[own]
            second = overlap(low, low + sizes[own], name, self.where)
            if second is not None:
                raise CorruptError(
                    f"pieces of {name[:80]!r} overlap at {tuple(low[second].tolist())}",
                    where=self.where,
                )
        if (wrong := filled != wanted).any():
            place = int(np.argmax(wrong))
            raise CorruptError(
                f"{wanted[place] - filled[place]:,} elements of {self.names[place][:80]!r} are in "
                "no piece",
                where=self.where,
            )

    def _regular(self, offsets: Ints, sizes: Ints, firsts: Ints) -> Flags:
        """Say of which tensors the pieces are different cells of an even grid."""
        cell = np.repeat(np.maximum.reduceat(sizes, firsts), self.counts, axis=0)
        room = np.repeat(self.shapes, self.counts, axis=0)
        even = ((offsets % cell == 0) & (sizes == np.minimum(cell, room - offsets))).all(axis=1)
        index = np.zeros(len(offsets), np.int64)
        for axis in range(offsets.shape[1]):
            index = index * -(-room[:, axis] // cell[:, axis]) + offsets[:, axis] // cell[:, axis]
        owner = np.repeat(np.arange(len(self.counts)), self.counts)
        order = np.lexsort((index, owner))
        same = (np.diff(owner[order]) == 0) & (np.diff(index[order]) == 0)
        even[order[1:][same]] = False
        return np.logical_and.reduceat(even, firsts)
