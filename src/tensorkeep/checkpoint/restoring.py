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
from tensorkeep.checkpoint.listing import Checkpoint, read_checkpoint
from tensorkeep.checkpoint.rng import RNG, capture_rng, restore_rng
from tensorkeep.errors import (
    CorruptError,
    FormatError,
    MissingError,
    StoreError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.formats.safetensors.checkpoint import about
from tensorkeep.formats.safetensors.manifest import STATE, Manifest
from tensorkeep.formats.safetensors.sharded import check_digest
from tensorkeep.reading import read_arrays
from tensorkeep.state import Json, State

Arrays = dict[str, npt.NDArray[Any]]
_NO_GOOD = (FormatError, MissingError, StoreError, UnsafeError)  # so an older one is taken
_TRIES = 5  # where another process removes or replaces what is read


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
    for _ in range(_TRIES - 1):
        with contextlib.suppress(_ChangedError):
            return _restore(folder, step, wanted, again=True)
    return _restore(folder, step, wanted, again=False)


class _ChangedError(Exception):
    """What was to be restored has been removed or replaced meanwhile."""


def _restore(
    folder: Folder, step: int | None, wanted: Wanted, *, again: bool
) -> tuple[Restored, Manifest | None] | None:
    """Restore once.

    Raises:
        _ChangedError: one was no good, and by now others are there; only if `again`.
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
    steps = folder.steps()
    passed: list[tuple[Checkpoint, Manifest | None]] = []
    skipped: list[tuple[str, str]] = []

    def look_again() -> None:
        if again and passed and _has_changed(folder, steps, passed):
            raise _ChangedError

    for number in reversed(steps) if step is None else [step]:
        row, manifest = read_checkpoint(folder, number)
        try:
            if row.problem:
                raise CorruptError(row.problem, where=row.path)
            assert manifest is not None
            state, arrays, rng = _read(folder, row, manifest, wanted)
        except _NO_GOOD as error:
            passed.append((row, manifest))
            # A network that fails tells nothing of what is stored: an older one is no cure.
            if step is not None or (folder.remote and isinstance(error, StoreError)):
                look_again()
                raise
            skipped.append((row.path, error.problem))
            continue
        look_again()
        try:
            return _put(row, wanted, state, arrays, rng, skipped), manifest
        except (CorruptError, UnsupportedError) as error:
            if step is not None:
                raise
            skipped.append((row.path, error.problem))
    look_again()
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


def _has_changed(
    folder: Folder, steps: list[int], passed: list[tuple[Checkpoint, Manifest | None]]
) -> bool:
    """Say whether there are other checkpoints than those that were looked at."""
    return folder.steps() != steps or any(
        read_checkpoint(folder, row.step) != (row, manifest) for row, manifest in passed
    )


def _read(
    folder: Folder, row: Checkpoint, manifest: Manifest, wanted: Wanted
) -> tuple[State, Arrays, Any]:
    """Read the arrays of a checkpoint and its random generators, and check them if that is wanted.

    Raises:
        CorruptError: it is damaged, or another of its step took its place meanwhile.
    """
    with api.open(folder.location(row.step), format="checkpoint") as state:
        if state.metadata["checkpoint"] != about(manifest):
            raise CorruptError("was replaced while it was read", where=row.path)
        arrays = read_arrays(
            dict(state.items()),
            copy=wanted.like is None,
            digests=state.digests if wanted.verify else None,
            checks=state.checks if wanted.verify else None,
        )
    return state, arrays, _read_rng(folder, row, manifest) if wanted.rng else None


def _put(
    row: Checkpoint,
    wanted: Wanted,
    state: State,
    arrays: Arrays,
    kept: Any,
    skipped: list[tuple[str, str]],
) -> Restored:
    """Put what was read where it is wanted: all of it, or nothing."""
    saved = api.nest(state, arrays, framework=wanted.framework, device=wanted.device)
    differences = Differences()
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


def _read_rng(folder: Folder, row: Checkpoint, manifest: Manifest) -> Any:
    """Read the state of the random generators."""
    with contextlib.closing(folder.source(row.step, manifest.key(STATE))) as source:
        data = bytes(source.read(0, source.size))
    check_digest(data, manifest.files[STATE], row.path, STATE)
    return json.loads(data).get(RNG)
