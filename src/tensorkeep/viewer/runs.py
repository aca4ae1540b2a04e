"""A run: its checkpoints as a timeline, and its tensors over the steps."""

from __future__ import annotations

from collections.abc import Callable

from tensorkeep.stores import Target
from tensorkeep.viewer.answers import Course, Run, Verified

Report = Callable[[int, int], None]


def run(target: Target) -> Run:
    """List the checkpoints of a run."""
    raise NotImplementedError


def verify(target: Target, step: int, report: Report) -> Verified:
    """Read every byte of a checkpoint."""
    raise NotImplementedError


def course(target: Target, *, exact: bool, report: Report) -> Course:
    """Follow each tensor over the steps: its norm, and how far each step moved it."""
    raise NotImplementedError
