"""Saves on the simulated disk: what a power cut or an error at any call leaves."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors, testing
from tensorkeep.testing import disk
from tensorkeep.testing.disk.log import Model

MODELS: list[Model] = ["posix", "ordered"]
OLD: dict[str, Any] = {"w": np.arange(2000, dtype=np.int32), "b": np.ones(700), "n": 1}
NEW: dict[str, Any] = {"w": np.ones(2000, np.float32), "v": np.zeros(900), "n": 2}
WHOLE: dict[str, Any] = {}
SHARDED: dict[str, Any] = {"max_shard_size": 9000}


def is_state(path: Path, expected: Any) -> bool:
    try:
        testing.assert_equal_states(tk.load(path, verify=True), expected)
    except AssertionError:
        return False
    return True


def saved_in(root: Path) -> Path:
    """Give what a path that was saved to names: one file, or the index of several."""
    whole = root / "s.safetensors"
    return whole if whole.exists() else root / "s.safetensors.index.json"


def check_power_cuts(
    root: Path, old: dict[str, Any], new: dict[str, Any], model: Model = "posix"
) -> None:
    tk.save(OLD, root / "s.safetensors", **old)
    with disk.recording(root) as log:
        tk.save(NEW, root / "s.safetensors", **new)
        log.mark("saved")
    count = 0
    for image, marks in log.crash_images(model=model, per_point=12):
        found = saved_in(image.path)
        assert is_state(found, NEW) or (not marks and is_state(found, OLD)), str(image)
        count += 1
    assert count > 5


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("old", [WHOLE, SHARDED], ids=["whole", "shards"])
def test_a_save_survives_power_cuts(old: dict[str, Any], model: Model, tmp_path: Path) -> None:
    check_power_cuts(tmp_path, old, WHOLE, model)


@pytest.mark.parametrize("model", ["posix", "ordered"])
@pytest.mark.parametrize("old", [WHOLE, SHARDED], ids=["whole", "shards"])
def test_a_save_in_shards_survives_power_cuts(
    old: dict[str, Any], model: Model, tmp_path: Path
) -> None:
    check_power_cuts(tmp_path, old, SHARDED, model)


def test_a_save_in_shards_over_one_file_survives_errors(tmp_path: Path) -> None:
    check_errors(tmp_path, WHOLE, SHARDED)


def check_errors(
    folder: Path, old: dict[str, Any], new: dict[str, Any], forever: bool = False
) -> None:
    for k in itertools.count():
        root = folder / str(k)
        root.mkdir()
        tk.save(OLD, root / "s.safetensors", **old)
        with disk.failing(root, at=k, forever=forever) as faults:
            saved = False
            with contextlib.suppress(errors.StoreError):
                tk.save(NEW, root / "s.safetensors", **new)
                saved = True
        found = saved_in(root)
        assert is_state(found, NEW) or (not saved and is_state(found, OLD)), faults.hits
        if not faults.hits:
            break
    assert k > 5


@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize(("old", "new"), [(WHOLE, WHOLE), (SHARDED, WHOLE), (SHARDED, SHARDED)])
def test_a_save_survives_errors(
    old: dict[str, Any], new: dict[str, Any], forever: bool, tmp_path: Path
) -> None:
    check_errors(tmp_path, old, new, forever)


def test_a_save_survives_short_writes(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    for k in itertools.count():
        with disk.failing(tmp_path, at=k, short=True) as faults:
            tk.save(NEW, path)
        assert is_state(path, NEW)
        if not faults.hits:
            break
    with disk.failing(tmp_path, at=0, short=True, forever=True) as faults:
        tk.save(OLD, path)
    assert len(faults.hits) > 10
    assert is_state(path, OLD)
