"""The parts of all ranks as one manifest: every tensor once, and all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.errors import ArgumentError, FormatError, UnsafeError
from tensorkeep.formats.safetensors.joining import join
from tensorkeep.formats.safetensors.manifest import Entry, File, Manifest, Sharded
from tensorkeep.notes import is_shape
from tensorkeep.state import Json


@dataclass(frozen=True, slots=True)
class Merged:
    """What all ranks have written, and the JSON values that they brought."""

    files: dict[str, File]
    entries: dict[str, Entry]
    sharded: dict[str, Sharded]
    objects: dict[str, Json]
    order: tuple[str, ...]
    empty: dict[str, tuple[DType, tuple[int, ...]]]  # the tensors without elements


def merge(
    parts: Sequence[Manifest],
    sharding: Mapping[str, Json],
    order: Iterable[str] | None,
    where: str,
) -> Merged:
    """Put the parts of all ranks together, in the order of the ranks.

    Raises:
        ArgumentError: they are not all of each tensor, or contradict one another.
    """
    files: dict[str, File] = {}
    objects: dict[str, Json] = {}
    entries: dict[str, Entry] = {}
    pieces: dict[str, list[Sharded]] = {}
    empty: dict[str, tuple[DType, tuple[int, ...]]] = {}
    first: dict[str, tuple[int, Sharded | Entry]] = {}
    for rank, part in enumerate(parts):
        files.update(part.files)
        told = part.metadata.get("objects")
        objects.update(told if isinstance(told, dict) else {})
        _add_empty(empty, part.metadata.get("empty"), rank, where)
        for name in part.names:
            tensor = part.tensors.get(name) or part.sharded[name]
            other, known = first.setdefault(name, (rank, tensor))
            if (tensor.dtype, tensor.shape) != (known.dtype, known.shape):
                raise ArgumentError(
                    f"rank {other} has {name!r} as {known.dtype} of shape {known.shape}, rank "
                    f"{rank} as {tensor.dtype} of shape {tensor.shape}",
                    where=where,
                )
            if known is not tensor and (isinstance(tensor, Entry) or isinstance(known, Entry)):
                raise ArgumentError(
                    f"rank {other} and rank {rank} have both put {name!r}",
                    where=where,
                    cure="Of boxes that several ranks hold alike, put one.",
                )
            if isinstance(tensor, Entry):
                entries[name] = tensor
            else:
                pieces.setdefault(name, []).append(tensor)
    if both := empty.keys() & first.keys():
        raise ArgumentError(f"{min(both)!r} has elements for some ranks alone", where=where)
    names = _ordered({**first, **empty}, order, where)
    sharded = _joined(
        {name: pieces[name] for name in names if name in pieces}, files, sharding, where
    )
    return Merged(files, entries, sharded, objects, names, empty)


def _add_empty(
    empty: dict[str, tuple[DType, tuple[int, ...]]], told: Json, rank: int, where: str
) -> None:
    for name, row in told.items() if isinstance(told, dict) else ():
        match row:
            case [str(kind), list(axes)] if kind in DTYPES and is_shape(axes):
                shape: tuple[Any, ...] = tuple(axes)
                found = DTYPES[kind], shape
                if empty.setdefault(name, found) != found:
                    raise ArgumentError(
                        f"rank {rank} has {name!r} as {kind} of shape {shape}, another as "
                        f"{empty[name][0]} of shape {empty[name][1]}",
                        where=where,
                    )


def _ordered(
    found: Mapping[str, object], order: Iterable[str] | None, where: str
) -> tuple[str, ...]:
    if order is None:
        return tuple(found)
    names = tuple(order)
    if missing := [name for name in names if name not in found]:
        raise ArgumentError(f"no rank has put {missing[0]!r}", where=where)
    return tuple(dict.fromkeys((*names, *found)))


def _joined(
    pieces: Mapping[str, Sequence[Sharded]],
    files: Mapping[str, File],
    sharding: Mapping[str, Json],
    where: str,
) -> dict[str, Sharded]:
    sizes = {name: file.size for name, file in files.items()}
    try:
        return join(pieces, sizes, sharding, where)
    except (FormatError, UnsafeError) as error:
        raise ArgumentError(
            f"the ranks' parts do not fit together: {error.problem}",
            where=where,
            cure="Every element has to be put by exactly one rank.",
        ) from None
