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
DIGEST = 32  # hex digits of one

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
class Columns:
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


@dataclass(slots=True, eq=False)  # not frozen, which takes thrice as long to make
class Pieces(Sequence[Piece]):
    """The pieces of one tensor, made when they are asked for."""

    columns: Columns
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
            digest=columns.digests[at * DIGEST : (at + 1) * DIGEST],
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


def _as_they_were(tensors: Mapping[str, Sharded]) -> Columns | None:
    """Give the columns of a document whose tensors these are, all of them and in its order."""
    columns: Columns | None = None
    at = 0
    for tensor in tensors.values():
        pieces = tensor.pieces
        if not isinstance(pieces, Pieces) or pieces.first != at:
            return None
        columns = columns or pieces.columns
        if pieces.columns is not columns or (columns.others and columns.named[at]):
            return None
        at += pieces.length
    return columns if columns is not None and at == len(columns.files) else None


def parse_pieces(
    document: Mapping[str, Any],
    rows: Mapping[str, Mapping[str, Any]],
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
    shardings = document.get("shardings", [])
    if not isinstance(shardings, list):
        raise CorruptError("the shardings are no list", where=where)
    told = {name: _read_row(name, row, shardings, where) for name, row in rows.items()}
    total = sum(row.pieces for row in told.values())
    if total > MAX_PIECES:
        raise UnsafeError(f"it lists more than {MAX_PIECES:,} pieces", where=where)
    axes = sum(row.pieces * len(row.shape) for row in told.values())
    columns = _read_columns(document.get("pieces"), list(files), total, axes, where)
    return checked(told, columns, files, where, whole=whole)


class Row(NamedTuple):
    """What is said of a tensor beside its pieces."""

    kind: DType
    shape: Axes
    pieces: int
    name: str
    sharding: Json


def checked(
    rows: Mapping[str, Row],
    columns: Columns,
    files: Mapping[str, int],
    where: str,
    *,
    whole: bool,
) -> dict[str, Sharded]:
    """Check that pieces fit their tensors and files, and give the tensors."""
    names, told = list(rows), list(rows.values())
    counts = np.array([row.pieces for row in told], np.int64)
    axes = np.array([len(row.shape) for row in told], np.int64)
    firsts = np.cumsum(counts) - counts
    places = np.cumsum(counts * axes) - counts * axes
    sizes = np.array(list(files.values()), np.int64)
    for ndim in np.unique(axes).tolist():
        chosen = np.flatnonzero(axes == ndim)
        some = [told[i] for i in chosen.tolist()]
        group = _Group(
            [names[i] for i in chosen.tolist()],
            np.array([row.shape for row in some], np.int64).reshape(len(some), ndim),
            np.array([row.kind.bits for row in some], np.int64),
            counts[chosen],
            where,
        )
        pieces = ranges(firsts[chosen], counts[chosen])
        boxes = ranges(places[chosen], counts[chosen] * ndim).reshape(len(pieces), ndim)
        offsets, shapes = columns.offsets[boxes], columns.sizes[boxes]
        columns.nbytes[pieces] = group.check_boxes(offsets, shapes)
        left = sizes[columns.files[pieces]] - columns.nbytes[pieces]
        group.refuse(
            (columns.starts[pieces] < 0) | (columns.starts[pieces] > left),
            "lies outside of its file",
        )
        if whole:
            group.check_cover(offsets, shapes)
    return {
        name: Sharded(
            row.kind,
            row.shape,
            Pieces(columns, row.name, len(row.shape), first, row.pieces, place),
            row.sharding,
        )
        for (name, row), first, place in zip(
            rows.items(), firsts.tolist(), places.tolist(), strict=True
        )
    }


def _read_row(name: str, row: Mapping[str, Any], shardings: list[Json], where: str) -> Row:
    text, count, usual = row.get("dtype"), row.get("pieces"), row.get("name")
    shape: Any = row.get("shape")
    at = row.get("sharding", -1)
    if (  # there may be a million, for which a `match` takes too long
        type(text) is type(usual) is str
        and type(count) is type(at) is int
        and (kind := DTYPES.get(text, STRING)) is not STRING
        and is_shape(shape)
        and 0 < count <= MAX_PIECES
        and 0 < (elements := math.prod(shape)) < 2**59
        and kind.nbytes(elements) < 2**62
        and (at >= 0 or "sharding" not in row)
    ):
        if at >= len(shardings):
            raise CorruptError(f"there is no sharding {at}", where=where)
        return Row(kind, tuple(shape), count, usual, None if at < 0 else shardings[at])
    raise CorruptError(f"what it says of the pieces of {name[:80]!r} makes no sense", where=where)


def _read_columns(table: Any, files: list[str], total: int, axes: int, where: str) -> Columns:
    if not isinstance(table, dict):
        raise CorruptError("the table of pieces is missing", where=where)
    digests = table.get("xxh3_128")
    if (
        not isinstance(digests, str)
        or len(digests) != total * DIGEST
        or not _HEX.fullmatch(digests)
    ):
        raise CorruptError(f"there are not {DIGEST} hex digits for each piece", where=where)
    others = table.get("names", [])
    if not isinstance(others, list) or not all(type(name) is str for name in others):
        raise CorruptError("the names of pieces are no list of text", where=where)
    named = _integers(table, "named", total, where) if others else np.zeros(0, np.int64)
    chosen = _integers(table, "files", total, where)
    for what, column, most in (("files", chosen, len(files) - 1), ("named", named, len(others))):
        if column.size and not 0 <= column.min() <= column.max() <= most:
            raise CorruptError(f"the pieces' {what!r} are out of range", where=where)
    return Columns(
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


def ranges(firsts: Ints, counts: Ints) -> Ints:
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
