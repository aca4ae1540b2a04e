"""Restoring beside one who saves, and takes away or replaces what is being read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.checkpoint.bucket_runs import Run

import tensorkeep as tk
from tensorkeep.checkpoint import restoring
from tensorkeep.errors import CorruptError, MissingError
from tensorkeep.formats.safetensors.checkpoint import about
from tensorkeep.reading import read_arrays


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "run")
    run: Run = request.getfixturevalue("run")
    return run.url


def _save(place: str, step: int, number: int, **options: Any) -> None:
    with tk.Checkpointer(place, durable=False, **options) as ck:
        np.random.seed(number)
        weights = {"w": np.full(9, number), "n": number}
        ck.save(step, weights, metrics={"n": number}, overwrite=True)


def _meanwhile(monkeypatch: pytest.MonkeyPatch, place: str, change: Callable[[], None]) -> None:
    """Have something done once, when the first checkpoint is open."""
    changes = [change]

    def read(*arguments: Any, **options: Any) -> Any:
        if "://" in place and changes:
            changes.pop()()
        found = read_arrays(*arguments, **options)
        if changes:  # of what is open on a disk, nothing is lost
            changes.pop()()
        return found

    monkeypatch.setattr(restoring, "read_arrays", read)


def _check(restored: tk.Restored | None, step: int, number: int) -> None:
    assert restored is not None
    assert (restored.step, restored.skipped) == (step, [])
    assert restored.state["w"].tolist() == [number] * 9
    assert (restored.state["n"], restored.metrics) == (number, {"n": number})
    drawn = np.random.random()
    np.random.seed(number)
    assert drawn == np.random.random()


@pytest.mark.parametrize("step", [None, 1])
def test_one_that_is_replaced_is_restored_as_one_of_the_two(
    step: int | None, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(place, 1, 10)
    _meanwhile(monkeypatch, place, lambda: _save(place, 1, 20))
    with tk.Checkpointer(place, read_only=True) as ck:
        _check(ck.restore(step=step), 1, 20)


def test_one_that_is_removed_has_a_newer_one(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(place, 1, 10)
    _meanwhile(monkeypatch, place, lambda: _save(place, 2, 20, keep="last=1"))
    with tk.Checkpointer(place, read_only=True) as ck:
        _check(ck.restore(), 2, 20)
        _meanwhile(monkeypatch, place, lambda: _save(place, 3, 30, keep="last=1"))
        with pytest.raises(MissingError, match=r"no checkpoint of step 2.*There are 3"):
            ck.restore(step=2)


def test_one_that_changes_all_the_time_is_given_up(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(place, 1, 10)
    tries = []

    def tell(manifest: Any) -> Any:
        tries.append(1)
        _save(place, 1, 10)
        return about(manifest) | {"time": 0.0}

    monkeypatch.setattr(restoring, "about", tell)
    with (
        tk.Checkpointer(place, read_only=True) as ck,
        pytest.raises(CorruptError, match="was replaced while it was read"),
    ):
        ck.restore()
    assert len(tries) == 5
