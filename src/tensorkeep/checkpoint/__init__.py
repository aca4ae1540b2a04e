"""Checkpoints that cannot be lost: saved whole or not at all, checked, kept and restored."""

from __future__ import annotations

from tensorkeep.checkpoint.checkpointer import Checkpointer
from tensorkeep.checkpoint.filling import Differences
from tensorkeep.checkpoint.folder import open_folder
from tensorkeep.checkpoint.foreign import list_all
from tensorkeep.checkpoint.keeping import Best, Keep, keep
from tensorkeep.checkpoint.listing import Checkpoint
from tensorkeep.checkpoint.restoring import Restored
from tensorkeep.checkpoint.saving import Saving
from tensorkeep.errors import MissingError
from tensorkeep.stores import Target


def checkpoints(folder: Target) -> list[Checkpoint]:
    """List the checkpoints of a folder in the order of their steps, damaged ones too.

    Those that Caffe2 left are listed with the format "caffe2".

    Raises:
        MissingError: there is no such folder.

    >>> import tempfile
    >>> checkpoints(tempfile.mkdtemp())
    []
    """
    found = open_folder(folder)
    if not found.exists():
        raise MissingError("there is no such folder", where=found.where)
    return list_all(found)


__all__ = [
    "Best",
    "Checkpoint",
    "Checkpointer",
    "Differences",
    "Keep",
    "Restored",
    "Saving",
    "checkpoints",
    "keep",
]
