"""What checkpoints are in a folder, and what each of them is worth."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from tensorkeep.checkpoint.folder import Folder
from tensorkeep.errors import CorruptError, MissingError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import MANIFEST, STATE, Manifest, read_manifest
from tensorkeep.hidden import reason
from tensorkeep.state import Json
from tensorkeep.stores import locate
from tensorkeep.wire.seal import SEAL


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
    where = folder.where_of(step)
    path = folder.path_of(step)
    try:
        manifest = read_manifest(locate(path))
    except TensorKeepError as error:
        return Checkpoint(step, where, problem=_told(error, path, where)), None
    problem, shared = "", 0
    if manifest.step != step:
        problem = f"its manifest is that of step {manifest.step}"
    for name, file in manifest.files.items():
        try:
            info = os.stat(os.path.join(path, name))
        except OSError as error:
            problem = problem or f"{name} cannot be found: {reason(error)}"
            continue
        if not stat.S_ISREG(info.st_mode) or info.st_size != file.size:
            problem = problem or f"{name} is {info.st_size:,} bytes long, not {file.size:,}"
        if info.st_nlink > 1:
            shared += info.st_size
    row = Checkpoint(
        step=step,
        path=where,
        time=manifest.time,
        size=manifest.size,
        shared=shared,
        metrics=dict(manifest.metrics),
        metadata=dict(manifest.metadata),
        reason=manifest.reason,
        verified=folder.verified(step, identity(folder, step)),
        problem=problem,
    )
    return row, manifest


def identity(folder: Folder, step: int) -> str:
    """Give the manifest's own digest, which tells a checkpoint from another of its step."""
    mark = f'"{SEAL}": "'.encode()
    try:
        with open(os.path.join(folder.path_of(step), MANIFEST), "rb") as file:
            file.seek(-min(200, os.fstat(file.fileno()).st_size), os.SEEK_END)
            found = file.read(200).rpartition(mark)[2][:32]
        return found.decode("ascii")
    except (OSError, ValueError):
        return ""


def is_own(path: str) -> bool:
    """Say whether what is at a path is, or was, a checkpoint that this version may replace."""
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    try:
        read_manifest(locate(path))
    except CorruptError:
        return True
    except MissingError:
        return not os.listdir(path) or os.path.isfile(os.path.join(path, STATE))
    except TensorKeepError:
        return False
    return True


def _told(error: TensorKeepError, path: str, where: str) -> str:
    if isinstance(error, MissingError):
        return f"it has no {MANIFEST}: its saving never finished, or it is no checkpoint"
    told = error.problem if isinstance(error, CorruptError) else str(error)
    return told.replace(path, where)


def newest_first(folder: Folder) -> Iterator[tuple[Checkpoint, Manifest | None]]:
    """Look at each checkpoint of a folder, from the newest on."""
    for step in reversed(folder.steps()):
        yield read_checkpoint(folder, step)
