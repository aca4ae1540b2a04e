"""Checkpoints that other trainers left side by side, told by their names.

    checkpoint-500/              Transformers' Trainer, with metrics in trainer_state.json
    epoch=3-step=1200.ckpt       Lightning
    ckpt-12.index                TensorFlow's CheckpointManager
    1200/                        Orbax's CheckpointManager
    model_epoch_12.pt            and whatever else says that it is a checkpoint, a step or an epoch

They are looked for on a disk only, and where the folder around them is no state in itself.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tensorkeep import api, formats
from tensorkeep.checkpoint import Checkpoint
from tensorkeep.checkpoint.disk import DiskFolder
from tensorkeep.checkpoint.folder import Folder
from tensorkeep.errors import TensorKeepError
from tensorkeep.state import Json
from tensorkeep.stores import locate

_NAME = re.compile(
    r"(?P<label>(?:.*[^0-9])?)(?P<step>[0-9]{1,18})(?P<ending>(?:\.[A-Za-z][A-Za-z0-9]*)*)"
)
_SAYS_SO = re.compile(r"checkpoint|ckpt|step|epoch|iter", re.IGNORECASE)
_PART = re.compile(r"[0-9]-of-$")  # of something that is in several files
_MOST = 2_000  # names to look at
_MOST_FILES = 10_000  # of a checkpoint
_NEWEST = "checkpoint"  # where TensorFlow's CheckpointManager names the newest
_HISTORY = "trainer_state.json"
_METRICS = "metrics/metrics"  # Orbax's
_MOST_METRICS = 16 << 20  # bytes
_OWN = ("checkpoint", "caffe2")  # formats that are listed elsewhere


def listed(folder: Folder) -> list[Checkpoint]:
    """List the checkpoints of another trainer in a folder, those that cannot be opened too.

    Of several kinds of names side by side, that of most checkpoints counts.

    >>> import tempfile, numpy as np, tensorkeep as tk
    >>> path = tempfile.mkdtemp()
    >>> for epoch in (9, 10):
    ...     tk.save({"w": np.zeros(3)}, f"{path}/model_epoch_{epoch}.npz")
    >>> [(row.step, row.format) for row in listed(DiskFolder(path))]
    [(9, 'npz'), (10, 'npz')]
    """
    if not isinstance(folder, DiskFolder) or _is_state(folder.path):
        return []
    families: dict[tuple[str, str], list[Checkpoint]] = {}
    for entry, match in _named(folder.path):
        family = (re.sub("[0-9]+", "#", match["label"]), match["ending"])
        says_so = _SAYS_SO.search(family[0]) is not None
        if not says_so and entry.name != match["step"]:
            continue
        row = _row(entry, int(match["step"]))
        # A number alone says nothing, unless what it names does.
        if row.format not in _OWN and (says_so or row.format == "orbax"):
            families.setdefault(family, []).append(row)
    rows = max(families.values(), key=_worth, default=[])
    # Where none is sound, they only happen to be called so.
    return sorted(rows, key=lambda row: row.step) if any(row.ok for row in rows) else []


def _worth(rows: list[Checkpoint]) -> tuple[int, int]:
    return sum(row.ok for row in rows), sum(row.size for row in rows)


def _is_state(path: str) -> bool:
    if os.path.isfile(os.path.join(path, _NEWEST)):
        return False  # it is, but one of those that are listed
    try:
        location = locate(path)
    except (TensorKeepError, OSError):
        return False
    try:
        formats.detect(location)
    except (TensorKeepError, OSError):
        return False
    finally:
        location.store.close()
    return True


def _named(path: str) -> list[tuple[Path, re.Match[str]]]:
    try:
        names = sorted(os.listdir(path))[:_MOST]
    except OSError:
        return []
    found = ((Path(path, name), _NAME.fullmatch(name)) for name in names if name[0] != ".")
    return [
        (file, match)
        for file, match in found
        if match is not None and not _PART.search(match["label"]) and _is_there(file)
    ]


def _is_there(file: Path) -> bool:
    """Whether something lies in the folder itself, and can be read without end."""
    return not file.is_symlink() and (file.is_file() or file.is_dir())


def _row(path: Path, step: int) -> Checkpoint:
    problem, format = "", ""
    try:
        with api.open(path) as state:
            format = state.format
    except (TensorKeepError, OSError) as error:
        problem = str(error)
    time, size = 0.0, 0
    for file in _files(path):
        with contextlib.suppress(OSError):
            info = file.stat()
            time, size = max(time, info.st_mtime), size + info.st_size
    metrics = _metrics(path, step) if path.is_dir() else {}
    return Checkpoint(
        step, str(path), time=time, size=size, metrics=metrics, problem=problem, format=format
    )


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from islice((file for file in path.rglob("*") if not file.is_dir()), _MOST_FILES)
        return
    yield path
    if path.suffix == ".index":  # the values are in files beside it
        yield from path.parent.glob(f"{glob.escape(path.stem)}.data-*")


def _metrics(path: Path, step: int) -> dict[str, float | str]:
    """Read what was measured at a step; nothing where that is not told."""
    history = _json(path / _HISTORY).get("log_history")
    found = _numbers(_json(path / _METRICS))
    for row in history if isinstance(history, list) else []:
        if isinstance(row, dict) and row.get("step") == step:
            found |= _numbers(row)
    found.pop("step", None)
    return found


def _json(file: Path) -> dict[str, Json]:
    try:
        if file.stat().st_size > _MOST_METRICS:
            return {}
        told: Json = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _numbers(row: dict[str, Json]) -> dict[str, float | str]:
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 64)
    }
