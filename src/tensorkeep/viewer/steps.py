"""The checkpoints of a run, whoever saved them: listed, found by their step, and opened."""

from __future__ import annotations

from tensorkeep import api
from tensorkeep.checkpoint import Checkpoint, checkpoints, foreign
from tensorkeep.checkpoint.folder import Folder, open_folder
from tensorkeep.checkpoint.listing import read_checkpoint
from tensorkeep.errors import MissingError
from tensorkeep.state import State
from tensorkeep.stores import Target
from tensorkeep.viewer import others

OURS = "checkpoint"  # the format of those that no other program saved
_CURE = "It may have been removed meanwhile; look at the run again."


def listed(target: Target) -> list[Checkpoint]:
    """List the checkpoints of a run in the order of their steps, damaged ones too.

    A training may save beside it. Where there are none of ours, nor of Caffe2's, those of other
    trainers are looked for.

    Raises:
        MissingError: there is no such folder.
        StoreError: it cannot be listed.
    """
    folder = open_folder(target)
    found = checkpoints(target) or others.listed(folder)
    return [row for row in found if _is_there(folder, row)]


def _is_there(folder: Folder, row: Checkpoint) -> bool:
    """Whether a checkpoint was not removed while it was looked at."""
    return not row.problem or row.format != OURS or folder.there(row.step)


def count(folder: Folder) -> int:
    """Count the steps of a run; 0 for a folder that is none."""
    ours = {*folder.steps(), *(epoch.step for epoch in foreign.find(folder))}
    return len(ours or {row.step for row in others.listed(folder)})


def find(target: Target, step: int) -> Checkpoint:
    """Find the checkpoint of a step, one of ours before one of another program's.

    Raises:
        MissingError: there is none.
    """
    folder = open_folder(target)
    if folder.there(step):
        return read_checkpoint(folder, step)[0]
    for row in listed(target):
        if row.step == step:
            return row
    raise MissingError(f"there is no checkpoint of step {step}", where=folder.where, cure=_CURE)


def open_step(target: Target, row: Checkpoint) -> State:
    """Open a checkpoint of a run, sharded or another program's.

    Raises:
        MissingError: it is gone.
        CorruptError: it is damaged.
    """
    folder = open_folder(target)
    if row.format == OURS:
        return api.open(folder.location(row.step), format=OURS)
    if row.format == foreign.NAME:
        return foreign.open_epoch(folder, epoch_of(folder, row))
    return api.open(row.path)


def epoch_of(folder: Folder, row: Checkpoint) -> foreign.Epoch:
    """Find a checkpoint of Caffe2's again.

    Raises:
        MissingError: it is gone.
    """
    for epoch in foreign.find(folder):
        if epoch.step == row.step:
            return epoch
    raise MissingError(f"there is no checkpoint of step {row.step}", where=folder.where, cure=_CURE)
