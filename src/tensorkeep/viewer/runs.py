"""A run: its checkpoints as a timeline, and its tensors over the steps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

from tensorkeep.api import ProgressReport
from tensorkeep.checkpoint import Checkpoint, foreign
from tensorkeep.checkpoint.folder import open_folder
from tensorkeep.checkpoint.retention import examine
from tensorkeep.errors import MissingError, TensorKeepError
from tensorkeep.state import Json
from tensorkeep.stores import Target
from tensorkeep.verify import Verification
from tensorkeep.verify import verify as verify_file
from tensorkeep.viewer.answers import Run, Step, Verified
from tensorkeep.viewer.course import course
from tensorkeep.viewer.steps import OURS, epoch_of, find, listed

__all__ = ["course", "run", "verify"]


_TOLD = 50  # damaged tensors to name
_LONGEST = 500  # characters of a problem
_LONGEST_VALUE = 2_000  # of a value of the metadata


def run(target: Target) -> Run:
    """List the checkpoints of a run, damaged ones too; a training may save beside it.

    Raises:
        MissingError: there is no such folder.
        StoreError: it cannot be listed.
    """
    return Run([_step(row) for row in listed(target)])


def _step(row: Checkpoint) -> Step:
    return Step(
        step=row.step,
        time=row.time,
        size=row.size,
        shared=row.shared,
        metrics={name: _as_json(value) for name, value in row.metrics.items()},
        metadata={name: _brief(value) for name, value in row.metadata.items()},
        reason=row.reason,
        verified=row.verified,
        problem=row.problem,
        format=row.format,
    )


def _as_json(value: float | str) -> float | str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _brief(value: Json) -> Json:
    """Have the beginning of long values alone; the checkpoint itself, once open, has them whole."""
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


# --- every byte ---------------------------------------------------------------------------------


def verify(target: Target, step: int, report: ProgressReport) -> Verified:
    """Read every byte of a checkpoint, and say what is damaged: a sentence for each tensor.

    What is found is noted, as `tensorkeep checkpoints verify` does, where the folder allows it.

    Raises:
        MissingError: there is no such checkpoint.
        StoreError: a network fails, which says nothing of what is stored.
    """
    row = find(target, step)
    problems, unchecked = [] if not row.problem else [_sentence(row.problem)], 0
    if not problems:
        try:
            for found in _verifications(target, row, report):
                problems += [_sentence(f"{name}: {told}") for name, told in found.damaged]
                unchecked += len(found.unchecked)
        except MissingError:
            raise
        except TensorKeepError as error:
            problems.append(_sentence(str(error)))
    if len(problems) > _TOLD:
        problems = [*problems[:_TOLD], f"And {len(problems) - _TOLD:,} more."]
    return Verified(step, not problems, problems, unchecked)


def _verifications(
    target: Target, row: Checkpoint, report: ProgressReport
) -> Iterator[Verification]:
    folder = open_folder(target)
    if row.format == OURS:
        yield examine(folder, row.step, report)
        return
    is_caffe2 = row.format == foreign.NAME
    for part in epoch_of(folder, row).parts.values() if is_caffe2 else [row.path]:
        yield verify_file(part, progress=report)


def _sentence(text: str) -> str:
    short = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return short if short.endswith((".", "…")) else f"{short}."
