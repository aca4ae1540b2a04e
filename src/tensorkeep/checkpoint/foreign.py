"""Checkpoints that Caffe2 left: what its Checkpoint operator and its CheckpointManager wrote.

    run/checkpoint_00001200.minidb    the operator: a pattern of the user's, filled with the step
    run/trainer.12                    the manager: a node's name and the epoch; a file for each node

They are databases of any kind that `tensorkeep.open` reads: files, or folders such as LMDB's. They
are listed and restored; nothing here ever changes or removes them.
Facts: caffe2/operators/load_save_op.h (CheckpointOp) and caffe2/python/checkpoint.py.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tensorkeep import api
from tensorkeep.checkpoint.disk import DiskFolder
from tensorkeep.checkpoint.folder import Folder, step_of
from tensorkeep.checkpoint.listing import Checkpoint, read_all
from tensorkeep.errors import CorruptError, MissingError, TensorKeepError
from tensorkeep.formats import FORMATS
from tensorkeep.hidden import reason
from tensorkeep.reading import read_arrays
from tensorkeep.state import State
from tensorkeep.stores import locate

NAME = "caffe2"
_MANAGED = re.compile(r"(?P<label>.+)\.(?P<step>[0-9]{1,18})")
_PATTERN = re.compile(
    r"(?:(?P<label>.*)[_-])?(?P<step>[0-9]{1,18})(?P<ending>\.[A-Za-z][A-Za-z0-9]*)?"
)


@dataclass(frozen=True, slots=True)
class Epoch:
    """A checkpoint of Caffe2's.

    Args:
        step: the number in the names.
        parts: the path of each file or folder, by the node that wrote it, or the text before the
            number.
        absent: the nodes that wrote the epoch before, and not this one.
    """

    step: int
    parts: dict[str, str]
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Found:
    step: int
    label: str
    family: tuple[str, ...]  # what the names of all checkpoints of one kind have in common
    path: str


def find(folder: Folder) -> list[Epoch]:
    """Find the checkpoints of Caffe2's in a folder on a disk, in the order of their steps.

    Bytes are looked at only where a name fits. A name of a kind of which one is recognised counts
    too: an empty file beside sound ones is what a killed save of Caffe2's leaves.

    >>> import tempfile, numpy as np
    >>> from tensorkeep import caffe2
    >>> path = tempfile.mkdtemp()
    >>> caffe2.save({"w": np.zeros(3)}, f"{path}/run_000020.minidb")
    >>> [epoch.step for epoch in find(DiskFolder(path))]
    [20]
    """
    families: dict[tuple[str, ...], list[_Found]] = {}
    for row in _named(folder):
        families.setdefault(row.family, []).append(row)
    steps: dict[int, dict[str, str]] = {}
    nodes: dict[int, set[str]] = {}
    for family, rows in families.items():
        if any(map(_is_caffe2, (row.path for row in rows))):
            for row in rows:
                parts = steps.setdefault(row.step, {})
                label = row.label if row.label not in parts else os.path.basename(row.path)
                parts[label] = row.path
                if family[0] == "manager":
                    nodes.setdefault(row.step, set()).add(row.label)
    absent, before = {}, set[str]()
    for step in sorted(nodes):
        absent[step] = tuple(sorted(before - nodes[step]))
        before = nodes[step]
    return [
        Epoch(step, dict(sorted(steps[step].items())), absent.get(step, ()))
        for step in sorted(steps)
    ]


def _named(folder: Folder) -> Iterator[_Found]:
    """Give what has a name that Caffe2 could have given; it knows files and folders alone."""
    if not isinstance(folder, DiskFolder):
        return
    try:
        names = sorted(os.listdir(folder.path))
    except OSError:
        return
    for name in names:
        if name.startswith(".") or step_of(name) is not None:
            continue
        path = os.path.join(folder.path, name)
        if match := _MANAGED.fullmatch(name):
            label = match["label"]
            yield _Found(int(match["step"]), label, ("manager", label), path)
        elif match := _PATTERN.fullmatch(name):
            label, ending = match["label"] or "", match["ending"] or ""
            yield _Found(int(match["step"]), label, ("operator", label, ending), path)


def _is_caffe2(path: str) -> bool:
    """Look at the first bytes of a file, or for the files of a database in a folder."""
    try:
        location = locate(path)
    except TensorKeepError:
        return False
    try:
        return FORMATS[NAME].accepts(location)
    except (TensorKeepError, OSError):
        return False
    finally:
        location.close()
        if not location.key:
            location.store.close()


def list_all(folder: Folder) -> list[Checkpoint]:
    """List our checkpoints and those that Caffe2 left, in the order of their steps."""
    rows = [*read_all(folder), *listed(folder)]
    return sorted(rows, key=lambda row: row.step)


def listed(folder: Folder) -> list[Checkpoint]:
    """List the checkpoints of Caffe2's in a folder, those that cannot be opened too."""
    return [_row(folder, epoch) for epoch in find(folder)]


def where_of(folder: Folder, epoch: Epoch) -> str:
    """Name a checkpoint in messages: its file, or the first of several."""
    first = os.path.join(folder.where, os.path.basename(next(iter(epoch.parts.values()))))
    return first if len(epoch.parts) == 1 else f"{first} and {len(epoch.parts) - 1} more"


def _row(folder: Folder, epoch: Epoch) -> Checkpoint:
    time, size = 0.0, 0
    for file in (file for path in epoch.parts.values() for file in _files(path)):
        with contextlib.suppress(OSError):
            info = file.stat()
            time, size = max(time, info.st_mtime), size + info.st_size
    return Checkpoint(
        step=epoch.step,
        path=where_of(folder, epoch),
        time=time,
        size=size,
        metadata={"nodes": list(epoch.parts)} if len(epoch.parts) > 1 else {},
        problem=problem_of(folder, epoch),
        format=NAME,
    )


def _files(path: str) -> Iterator[Path]:
    found = Path(path)
    yield from found.rglob("*") if found.is_dir() else (found,)


def problem_of(folder: Folder, epoch: Epoch) -> str:
    """Say why a checkpoint cannot be restored; empty where nothing is known against it."""
    if epoch.absent:
        return f"there is no file of {', '.join(epoch.absent)} for it"
    for path in epoch.parts.values():
        try:
            with api.open(path) as state:
                _check(state)
        except TensorKeepError as error:
            told = error.problem if isinstance(error, CorruptError | MissingError) else str(error)
            name = os.path.basename(path)
            return f"{name} {told}" if len(epoch.parts) > 1 else told.replace(path, name)
        except OSError as error:
            return f"{os.path.basename(path)} cannot be read: {reason(error)}"
    return ""


def _check(state: State) -> None:
    """Refuse a state of which something is missing.

    Raises:
        CorruptError: something is.
    """
    if state.format != NAME:
        raise CorruptError(f"is not Caffe2's, but {state.format}", where=state.where)
    for check in state.checks.values():
        check()


def read(
    folder: Folder,
    epoch: Epoch,
    *,
    copy: bool = True,
    framework: str | None = None,
    device: str | None = None,
) -> Any:
    """Read all of a checkpoint: its blobs by name, or those of each node by the node's name.

    Raises:
        CorruptError: it is damaged, or the file of a node is missing.
        MissingError: it is gone.
    """
    _refuse_absent(folder, epoch)
    found = {}
    for label, path in epoch.parts.items():
        with api.open(path) as state:
            _check(state)
            arrays = read_arrays(dict(state.items()), copy=copy, digests=state.digests)
            found[label] = api.nest(state, arrays, framework=framework, device=device)
    return found if len(found) > 1 else next(iter(found.values()))


def open_epoch(folder: Folder, epoch: Epoch) -> State:
    """Open a checkpoint as one state, in which the tensors of several nodes go by NODE.NAME.

    Raises:
        CorruptError: it is damaged, or the file of a node is missing.
    """
    _refuse_absent(folder, epoch)
    with contextlib.ExitStack() as opened:
        states = {
            label: opened.enter_context(api.open(path)) for label, path in epoch.parts.items()
        }
        for state in states.values():
            _check(state)
        close = opened.pop_all().close
    if len(states) == 1:
        return next(iter(states.values()))
    rows = [(f"{label}.", state) for label, state in states.items()]
    return State(
        {before + name: tensor for before, state in rows for name, tensor in state.items()},
        metadata={label: state.metadata for label, state in states.items() if state.metadata},
        digests={
            before + name: row for before, state in rows for name, row in state.digests.items()
        },
        checks={before + name: row for before, state in rows for name, row in state.checks.items()},
        format=NAME,
        where=where_of(folder, epoch),
        close=close,
    )


def _refuse_absent(folder: Folder, epoch: Epoch) -> None:
    if epoch.absent:
        raise CorruptError(
            f"there is no file of {', '.join(epoch.absent)} for it",
            where=where_of(folder, epoch),
            cure="Load the others one by one with tensorkeep.load.",
        )
