"""Consolidate: a sharded checkpoint as plain safetensors, which other tools load.

The tensors pass through memory some rows at a time, and the pieces are checked against their
digests on the way.
"""

from __future__ import annotations

import os
import posixpath
from dataclasses import dataclass

from tensorkeep import api, formats
from tensorkeep.checkpoint.layout import Parts, parts_of
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.formats.safetensors.checkpoint import is_checkpoint
from tensorkeep.formats.safetensors.shards import INDEX
from tensorkeep.formats.safetensors.streaming import streamed
from tensorkeep.hidden import failed_write
from tensorkeep.state import State
from tensorkeep.store import Location, Store
from tensorkeep.stores import Target, locate

_ENDING = ".safetensors"
ALL = "state"  # what the file of everything is called


@dataclass(frozen=True, slots=True)
class Consolidated:
    """What was written.

    Args:
        where: the file, or the one that its shards and index are named after.
        tensors: how many.
        bytes: of all tensors.
        left: the parts of the checkpoint that were left out.
    """

    where: str
    tensors: int
    bytes: int
    left: list[str]


def consolidate(
    source: Target,
    target: Target,
    *,
    part: str = "model",
    everything: bool = False,
    max_shard_size: int | str | None = "5GB",
    durable: bool = True,
    progress: api.ProgressReport | None = None,
) -> Consolidated:
    """Write the tensors of a sharded checkpoint, each whole, into files that other tools load.

    Without more it is the model alone, by the names that it has below `model`: `model.safetensors`,
    or shards of it and the usual index, as Hugging Face tools load them.

    Args:
        source: the checkpoint; any other state does too.
        target: a folder, or a file that ends in .safetensors.
        part: which top-level entry of the state to write.
        everything: write all of the state, by full names and with its nesting, as
            `state.safetensors`.
        max_shard_size: how many bytes of tensors a file holds at most.
        durable: return only once it is on the disk.
        progress: called with the bytes done and the total.

    Raises:
        ArgumentError: the state has no such part; or the target is a checkpoint, or a file of one.
        CorruptError: a piece is not what was saved; nothing is written then.
        StoreError: the disk is full or failed.

    >>> import tempfile, numpy as np, tensorkeep as tk
    >>> folder = tempfile.mkdtemp()
    >>> with tk.Checkpointer(folder) as ck:
    ...     _ = ck.save(3, {"model": {"w": np.ones(2)}, "optimizer": {"m": np.zeros(2)}})
    >>> consolidate(f"{folder}/step-3", f"{folder}/out").left
    ['optimizer']
    >>> list(tk.open(f"{folder}/out/model.safetensors"))
    ['w']
    """
    with api.open(source) as state:
        parts = parts_of(state, state.skeleton)
        chosen = state if everything else _part(state, parts, part)
        _refuse_checkpoint(target)
        location = _file(target, ALL if everything else part)
        size = chosen.nbytes
        written = streamed(chosen)
        options = {"max_shard_size": max_shard_size}
        safetensors = formats.by_name("safetensors")
        api.write(written, location, safetensors, durable, False, progress, options)
        left = [] if everything else [stem for stem in parts if stem != part]
        return Consolidated(location.where, len(chosen), size, left)


def _part(state: State, parts: Parts, part: str) -> State:
    if part not in parts:
        listed = ", ".join(list(parts)[:20]) or "no tensors"
        raise ArgumentError(
            f"there is no {part!r} in it",
            where=state.where,
            cure=f"It has {listed}: name one of them, or take everything.",
        )
    inner = parts[part]
    names = {name: inside for inside, name in inner.items()}
    written = streamed(state)
    return written.replace(
        tensors={names[name]: written[name] for name in state if name in names},
        digests={names[n]: digest for n, digest in written.digests.items() if n in names},
        checks={names[n]: check for n, check in written.checks.items() if n in names},
        remarks={},
        skeleton=None,
        metadata={},
    )


def _refuse_checkpoint(target: Target) -> None:
    """Refuse to write into a checkpoint, whose files its manifest vouches for."""
    folder = locate(target)
    if folder.key.endswith((_ENDING, INDEX)):
        folder = Location(folder.store, posixpath.dirname(folder.key))
    try:
        folder = formats.find(folder)  # by its short name too
        there = is_checkpoint(folder)
    except MissingError:
        return
    if there:
        raise ArgumentError(
            "is a checkpoint, which would no longer be what its manifest says",
            where=folder.where,
            cure="Give a folder of its own.",
        )


def _file(target: Target, stem: str) -> Location:
    """Give the file to write: the one named, or that in a folder, which is made."""
    if isinstance(target, Store):
        return Location(target, stem + _ENDING)
    if isinstance(target, Location):
        named = target.key.endswith((_ENDING, INDEX))
        return Location(target.store, target.key if named else f"{target.key}/{stem}{_ENDING}")
    text = os.fsdecode(os.fspath(target))
    if text.endswith((_ENDING, INDEX)):
        return locate(target)
    if "://" not in text:
        try:
            os.makedirs(text, exist_ok=True)
        except OSError as error:
            raise failed_write(error, text) from error
    return locate(f"{text.rstrip('/')}/{stem}{_ENDING}")
