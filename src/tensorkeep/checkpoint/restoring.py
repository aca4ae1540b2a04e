"""Restore: the newest sound checkpoint, read and verified, into what is there or anew."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from tensorkeep import api
from tensorkeep.checkpoint import foreign
from tensorkeep.checkpoint.filling import Differences, fill
from tensorkeep.checkpoint.folder import Folder
from tensorkeep.checkpoint.listing import Checkpoint, newest_first, read_checkpoint
from tensorkeep.checkpoint.rng import RNG, capture_rng, restore_rng
from tensorkeep.checksum import check_all
from tensorkeep.errors import (
    CorruptError,
    FormatError,
    MissingError,
    StoreError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.formats.safetensors.manifest import STATE, Manifest
from tensorkeep.reading import read_arrays
from tensorkeep.state import Json, State

Arrays = dict[str, npt.NDArray[Any]]
_NO_GOOD = (FormatError, MissingError, StoreError, UnsafeError)  # so an older one is taken


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored.

    Args:
        step: of the training.
        state: what was saved; with `like`, that with what was saved in it.
        path: the checkpoint's folder.
        metrics: what was measured when it was saved.
        metadata: what the user keeps with it.
        skipped: newer checkpoints that are no good, each with the reason.
        differences: what did not fit; empty unless `partial`.
    """

    step: int
    state: Any
    path: str
    metrics: dict[str, float | str] = field(default_factory=dict)
    metadata: dict[str, Json] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    differences: Differences = field(default_factory=Differences)


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to restore; see `Checkpointer.restore`."""

    like: Any = None
    partial: bool = False
    verify: bool = True
    rng: bool = True
    framework: str | None = None
    device: str | None = None


def restore(
    folder: Folder, step: int | None, wanted: Wanted
) -> tuple[Restored, Manifest | None] | None:
    """Restore a step, or the newest that is sound; None where there is none at all.

    Raises:
        MissingError: there is no such step.
        CorruptError: it, or every one, is damaged.
        MismatchError: it does not fit what it is to be restored into.
    """
    if step is not None and not folder.has_folder(step):
        if found := _restore_foreign(folder, step, wanted):
            return found, None
        there = sorted({*folder.steps(), *(epoch.step for epoch in foreign.find(folder))})
        raise MissingError(
            f"there is no checkpoint of step {step}",
            where=folder.where,
            cure=f"There are {', '.join(map(str, there[-10:]))}." if there else "There is none.",
        )
    skipped: list[tuple[str, str]] = []
    rows = newest_first(folder) if step is None else iter([read_checkpoint(folder, step)])
    for row, manifest in rows:
        try:
            if row.problem:
                raise CorruptError(row.problem, where=row.path)
            state, arrays = _read(folder, row, wanted)
        except _NO_GOOD as error:
            if step is not None:
                raise
            skipped.append((row.path, error.problem))
            continue
        try:
            assert manifest is not None
            return _put(folder, row, manifest, wanted, state, arrays, skipped), manifest
        except (CorruptError, UnsupportedError) as error:
            if step is not None:
                raise
            skipped.append((row.path, error.problem))
    if skipped:
        listed = "; ".join(f"{path}: {problem}" for path, problem in skipped)
        raise CorruptError(
            f"none of {len(skipped)} checkpoints can be restored: {listed}",
            where=folder.where,
            cure="Run `tensorkeep checkpoints DIR verify`; sound tensors can still be loaded "
            "one by one.",
        )
    found = _restore_foreign(folder, step, wanted)
    return (found, None) if found else None


def _restore_foreign(folder: Folder, step: int | None, wanted: Wanted) -> Restored | None:
    """Restore a checkpoint that another program left, or the newest of those; None without any."""
    skipped: list[tuple[str, str]] = []
    for epoch in reversed(foreign.find(folder)):
        if step not in (None, epoch.step):
            continue
        where = foreign.where_of(folder, epoch)
        try:
            saved = foreign.read(
                folder,
                epoch,
                copy=wanted.like is None,
                framework=wanted.framework,
                device=wanted.device,
            )
        except (FormatError, MissingError) as error:
            if step is not None:
                raise
            skipped.append((where, error.problem))
            continue
        differences = Differences()
        if wanted.like is not None:
            saved, differences = fill(wanted.like, saved, where, partial=wanted.partial)
        return Restored(epoch.step, saved, where, skipped=skipped, differences=differences)
    if skipped:
        listed = "; ".join(f"{path}: {problem}" for path, problem in skipped)
        raise CorruptError(
            f"none of {len(skipped)} checkpoints can be restored: {listed}", where=folder.where
        )
    return None


def _read(folder: Folder, row: Checkpoint, wanted: Wanted) -> tuple[State, Arrays]:
    """Read the arrays of a checkpoint, and check them if that is wanted."""
    with api.open(folder.location(row.step), format="checkpoint") as state:
        digests = state.digests if wanted.verify else None
        if wanted.verify:  # tensors in pieces have digests of those
            check_all([state.checks[name] for name in state if name in state.checks])
        return state, read_arrays(dict(state.items()), copy=wanted.like is None, digests=digests)


def _put(
    folder: Folder,
    row: Checkpoint,
    manifest: Manifest,
    wanted: Wanted,
    state: State,
    arrays: Arrays,
    skipped: list[tuple[str, str]],
) -> Restored:
    """Put what was read where it is wanted: all of it, or nothing."""
    saved = api.nest(state, arrays, framework=wanted.framework, device=wanted.device)
    differences = Differences()
    kept = _read_rng(folder, row.step, manifest) if wanted.rng else None
    before = capture_rng()
    try:
        if kept is not None:
            restore_rng(kept, row.path)  # first, as it may be refused
        if wanted.like is not None:
            saved, differences = fill(wanted.like, saved, row.path, partial=wanted.partial)
    except BaseException:
        restore_rng(before, row.path)
        raise
    restore_rng(before if kept is None else kept, row.path)  # whatever the objects drew
    return Restored(
        row.step, saved, row.path, row.metrics, row.metadata, list(skipped), differences
    )


def _read_rng(folder: Folder, step: int, manifest: Manifest) -> Any:
    """Read the random generators' state, which opening the checkpoint has checked."""
    with contextlib.closing(folder.source(step, manifest.key(STATE))) as source:
        return json.loads(bytes(source.read(0, source.size))).get(RNG)
