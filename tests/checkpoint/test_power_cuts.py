"""Checkpoints on the simulated disk: what a power cut at any call leaves."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest
from tests.checkpoint.runs import RUNS, Run, forbid_swaps, quiet, state, watch_only

import tensorkeep as tk
from tensorkeep import testing
from tensorkeep.testing import disk
from tensorkeep.testing.disk.log import Model

MODELS: list[Model] = ["posix", "ordered"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    watch_only(monkeypatch)


@pytest.mark.parametrize(
    ("points", "per_point"), [(6, 4), pytest.param(None, 12, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", RUNS)
def test_checkpoints_survive_power_cuts(
    name: str,
    model: Model,
    points: int | None,
    per_point: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = RUNS[name]
    if not run.swaps:
        forbid_swaps(monkeypatch)
    run.prepare(tmp_path)
    with disk.recording(tmp_path) as log:
        run.play(tmp_path, lambda number: log.mark(str(number)))
    count = 0
    for image, marks in log.crash_images(model=model, points=points, per_point=per_point):
        run.check(image.path, int(marks[-1]) if marks else run.before, image)
        count += 1
    assert count > 5


@pytest.mark.parametrize("model", MODELS)
def test_files_that_were_never_synced_are_so_before_they_are_shared(
    model: Model, tmp_path: Path
) -> None:
    with disk.recording(tmp_path) as log:
        for number in (1, 2):
            with tk.Checkpointer(tmp_path, durable=number == 2, rng=False) as checkpointer:
                saving = checkpointer.save(number, state(number))
        log.mark("saved")
    assert saving.shared
    for image, _ in log.crash_images(model=model, points=[-1], per_point=30):
        with tk.Checkpointer(image.path, read_only=True) as checkpointer:
            restored = checkpointer.restore()
        assert restored is not None, image
        testing.assert_equal_states(restored.state, state(2))


def stumble(run: Run, root: Path, log: disk.Recording, k: int, killed: bool) -> disk.Faults:
    """Save on a disk where call `k` fails, and, if killed, all later ones; then on a sound one."""
    (first, step), (second, next_step) = run.saves
    afresh = killed or "keep" in run.options  # closing waits for what removes old ones
    checkpointer = tk.Checkpointer(root, rng=False, **run.options)
    with disk.failing(root, at=k, forever=killed) as faults:
        with contextlib.suppress(tk.TensorKeepError):
            checkpointer.save(step, state(first), overwrite=True)
            log.mark(str(first))
        if afresh:
            checkpointer.close()
    if afresh:
        checkpointer = tk.Checkpointer(root, rng=False, **run.options)
    checkpointer.save(next_step, state(second), overwrite=True)
    log.mark(str(second))
    checkpointer.close()
    return faults


@pytest.mark.parametrize(
    ("last", "every"), [(8, 13), pytest.param(1000, 1, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    ("name", "killed"),
    [
        ("swap", False),
        ("swap", True),
        ("aside", True),
        pytest.param("aside", False, marks=pytest.mark.slow),
        pytest.param("kept", False, marks=pytest.mark.slow),
    ],
)
def test_checkpoints_survive_power_cuts_after_errors(
    name: str,
    killed: bool,
    last: int,
    every: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of the last calls of a save fails; the power, some calls later."""
    run = RUNS[name]
    if not run.swaps:
        forbid_swaps(monkeypatch)
    run.prepare(tmp_path / "base")

    def attempt(k: int) -> tuple[disk.Recording, disk.Faults]:
        root = tmp_path / str(k)
        shutil.copytree(tmp_path / "base", root)
        with disk.recording(root) as log, quiet():
            return log, stumble(run, root, log, k, killed)

    count = attempt(1 << 30)[1].calls
    assert count > 20
    for k in range(max(0, count - last), count):
        log, faults = attempt(k)
        points = range(-min(len(log.calls), 60), 0, every)
        for image, marks in log.crash_images(points=points, per_point=6, seed=k):
            told = f"{faults.hits[:1]} at {k}, {image}"
            run.check(image.path, int(marks[-1]) if marks else run.before, told)
