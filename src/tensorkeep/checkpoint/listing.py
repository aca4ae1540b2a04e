"""What checkpoints are in a folder, and what each of them is worth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tensorkeep.checkpoint.folder import Folder, Look
from tensorkeep.errors import CorruptError, MissingError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import MANIFEST, Manifest
from tensorkeep.hidden import reason
from tensorkeep.state import Json


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint, as its manifest and the lengths of its files tell.

    Args:
        step: of the training.
        path: its folder.
        time: when it was saved, in seconds since 1970.
        size: the bytes of its files.
        shared: how many of them other checkpoints have too, and which take no room.
        metrics: what was measured.
        metadata: what the user keeps with it.
        reason: why it was saved.
        verified: when all of it was last read and found sound, in seconds since 1970; 0 for never.
        problem: why it is no good; empty where it is whole as far as lengths tell.
        format: "checkpoint", or that of another program's.
    """

    step: int
    path: str
    time: float = 0.0
    size: int = 0
    shared: int = 0
    metrics: dict[str, float | str] = field(default_factory=dict)
    metadata: dict[str, Json] = field(default_factory=dict)
    reason: str = ""
    verified: float = 0.0
    problem: str = ""
    format: str = "checkpoint"

    @property
    def ok(self) -> bool:
        """Whether it is whole, as far as lengths tell."""
        return not self.problem


def read_checkpoint(folder: Folder, step: int) -> tuple[Checkpoint, Manifest | None]:
    """Look at one checkpoint; its manifest is None where that cannot be read."""
    return _judge(folder, folder.look(step))


def read_all(folder: Folder) -> Iterator[Checkpoint]:
    """Look at each checkpoint of a folder, in the order of their steps."""
    return (_judge(folder, found)[0] for found in folder.looks())


def newest_first(folder: Folder) -> Iterator[tuple[Checkpoint, Manifest | None]]:
    """Look at each checkpoint of a folder, from the newest on."""
    for step in reversed(folder.steps()):
        yield read_checkpoint(folder, step)


def _judge(folder: Folder, found: Look) -> tuple[Checkpoint, Manifest | None]:
    """Say what a checkpoint is worth, as far as lengths tell."""
    step, manifest, where = found.step, found.manifest, folder.where_of(found.step)
    if manifest is None:
        assert found.error is not None
        problem = _told(found.error, folder.location(step).where, where)
        return Checkpoint(step, where, problem=problem), None
    problem, shared = "", 0
    if manifest.step != step:
        problem = f"its manifest is that of step {manifest.step}"
    for name, file in manifest.files.items():
        info = found.files[name]
        if isinstance(info, OSError):
            problem = problem or f"{name} cannot be found: {reason(info)}"
            continue
        if not info.regular or info.size != file.size:
            problem = problem or f"{name} is {info.size:,} bytes long, not {file.size:,}"
        if info.shared:
            shared += info.size
    row = Checkpoint(
        step=step,
        path=where,
        time=manifest.time,
        size=manifest.size,
        shared=shared,
        metrics=dict(manifest.metrics),
        metadata=dict(manifest.metadata),
        reason=manifest.reason,
        verified=found.verified,
        problem=problem,
    )
    return row, manifest


def _told(error: TensorKeepError, path: str, where: str) -> str:
    if isinstance(error, MissingError):
        return f"it has no {MANIFEST}: its saving never finished, or it is no checkpoint"
    told = error.problem if isinstance(error, CorruptError) else str(error)
    return told.replace(path, where)
