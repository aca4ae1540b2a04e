"""What many manifests say of pieces, joined into the columns of one.

A million pieces are some arrays all the way: none of them is ever an object of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tensorkeep.errors import UnsafeError
from tensorkeep.formats.safetensors.pieces import (
    DIGEST,
    MAX_PIECES,
    Columns,
    Ints,
    Pieces,
    Row,
    Sharded,
    checked,
    ranges,
)
from tensorkeep.state import Json


def join(
    tensors: Mapping[str, Sequence[Sharded]],
    files: Mapping[str, int],
    sharding: Mapping[str, Json],
    where: str,
) -> dict[str, Sharded]:
    """Give each tensor all the pieces that several documents have of it, in their order.

    Args:
        tensors: as the documents that were read have them, alike in type and shape.
        files: the sizes of the files of all documents.
        sharding: how a tensor was sharded, by its name, where that is known.
        where: names the documents in messages.

    Raises:
        CorruptError: the pieces are not all of each tensor, or some overlap.
        UnsafeError: they are more than any real checkpoint has.
    """
    views = [_view(tensor) for held in tensors.values() for tensor in held]
    counts = [sum(len(tensor.pieces) for tensor in held) for held in tensors.values()]
    if sum(counts) > MAX_PIECES:
        raise UnsafeError(f"there are more than {MAX_PIECES:,} pieces", where=where)
    if not views:
        return {}
    columns, names = _joined(views, np.array(counts, np.int64), list(files))
    rows = {
        name: Row(held[0].dtype, held[0].shape, count, usual, sharding.get(name))
        for (name, held), count, usual in zip(tensors.items(), counts, names, strict=True)
    }
    return checked(rows, columns, files, where, whole=True)


def _view(tensor: Sharded) -> Pieces:
    assert isinstance(tensor.pieces, Pieces), "of a document that was read"
    return tensor.pieces


def _joined(views: list[Pieces], counts: Ints, files: list[str]) -> tuple[Columns, list[str]]:
    """Join the columns, in the order of the views; gives the usual name of each tensor too."""
    parts = list({id(view.columns): view.columns for view in views}.values())
    number = {id(part): place for place, part in enumerate(parts)}
    owners = np.array([number[id(view.columns)] for view in views])
    rows = [(view.first, view.length, view.place, view.axes) for view in views]
    first, length, place, axes = np.array(rows, np.int64).T
    pieces = ranges(first + _starts([len(part.files) for part in parts])[owners], length)
    boxes = ranges(place + _starts([len(part.sizes) for part in parts])[owners], length * axes)
    known = {name: at for at, name in enumerate(files)}
    numbers = [np.array([known[n] for n in part.names], np.int64) for part in parts]
    names, named = _names(views, parts, owners, pieces, length)
    usual = named[np.cumsum(counts) - counts]
    differs = named != np.repeat(usual, counts)
    left, others = np.unique(named[differs], return_inverse=True)
    named[:] = 0
    named[differs] = others + 1
    digests = np.frombuffer("".join(part.digests for part in parts).encode(), f"S{DIGEST}")
    columns = Columns(
        names=files,
        files=np.concatenate([n[p.files] for n, p in zip(numbers, parts, strict=True)])[pieces],
        starts=np.concatenate([part.starts for part in parts])[pieces],
        nbytes=np.zeros(len(pieces), np.int64),
        offsets=np.concatenate([part.offsets for part in parts])[boxes],
        sizes=np.concatenate([part.sizes for part in parts])[boxes],
        digests=digests[pieces].tobytes().decode(),
        others=[names[at] for at in left.tolist()],
        named=named if left.size else np.zeros(0, np.int64),
    )
    return columns, [names[at] for at in usual.tolist()]


def _names(
    views: list[Pieces], parts: list[Columns], owners: Ints, pieces: Ints, length: Ints
) -> tuple[list[str], Ints]:
    """Number all names, and give the number of each piece's."""
    numbers: dict[str, int] = {}
    usual = [numbers.setdefault(view.name, len(numbers)) for view in views]
    named = np.repeat(np.array(usual, np.int64), length)
    if any(part.others for part in parts):
        others = [numbers.setdefault(n, len(numbers)) for part in parts for n in part.others]
        own = [part.named if part.others else np.zeros_like(part.files) for part in parts]
        told = np.concatenate(own)[pieces]
        behind = np.repeat(_starts([len(part.others) for part in parts])[owners], length)
        differs = told > 0
        named[differs] = np.array(others)[behind[differs] + told[differs] - 1]
    return list(numbers), named


def _starts(counts: list[int]) -> Ints:
    """Say where each of several columns starts in all of them."""
    found: Ints = np.cumsum([0, *counts[:-1]])
    return found
