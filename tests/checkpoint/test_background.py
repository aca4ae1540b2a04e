"""Saves behind the training's back: a copy of their own, one at a time, no failure unheard."""

from __future__ import annotations

import threading
import warnings
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.checkpoint.slow_disk import BACKGROUND, BOTH, Disk, N, state

import tensorkeep as tk
from tensorkeep import errors, testing
from tensorkeep.checkpoint import Checkpointer, Saving, staging
from tensorkeep.checkpoint.disk import DiskFolder as Folder


def spoil(value: Any) -> None:
    """Change all of a state, as training on does."""
    for part in value.values():
        for name, array in part.items():
            if isinstance(array, np.ndarray):
                array[...] = "x" if array.dtype.kind == "U" else ~array if name == "b" else 5


def check(folder: Path, step: int, expected: Any) -> None:
    testing.assert_equal_states(tk.load(folder / f"step-{step:08}", verify=True), expected)


def clean(folder: Path) -> bool:
    return Folder(folder).leftovers() == []


# --- copies -------------------------------------------------------------------------------------


@BOTH
def test_the_copy_is_not_touched_by_what_comes_after(
    options: dict[str, Any], disk: Disk, tmp_path: Path
) -> None:
    """Nothing of it is written before all has changed, what was always the same included."""
    with Checkpointer(tmp_path, **options) as ck:
        for step in range(1, 6):
            disk.free.clear()
            disk.waiting.clear()
            given = state(step)
            saving = ck.save(step, given)
            ck.fence()
            assert saving.staged
            assert disk.waiting.wait(60)
            spoil(given)
            disk.free.set()
            saving.wait()
            check(tmp_path, step, state(step))
    assert [row.step for row in tk.checkpoints(tmp_path)] == [1, 2, 3, 4, 5]


def test_what_stopped_changing_and_starts_again(disk: Disk, tmp_path: Path) -> None:
    """The same arrays all along; which of them stays the same for a save is another each time."""
    arrays = {f"a{i}": np.zeros(N // 2, np.float32) for i in range(4)}
    with Checkpointer(tmp_path, **BACKGROUND) as ck:
        for step in range(1, 10):
            for i, array in enumerate(arrays.values()):
                if step % (i + 1) == 0:
                    array += 1
            expected = {name: array.copy() for name, array in arrays.items()}
            disk.free.clear()
            saving = ck.save(step, {"model": arrays})
            saved = {name: array.copy() for name, array in arrays.items()}
            for array in arrays.values():
                array[:] = -step
            disk.free.set()
            saving.wait()
            check(tmp_path, step, {"model": expected})
            for name, array in saved.items():
                arrays[name][:] = array


def test_there_is_one_copy_however_many_saves(tmp_path: Path) -> None:
    given = {"model": {f"w{i}": np.zeros(N, np.float32) for i in range(8)}}
    total = 8 * 4 * N
    with Checkpointer(tmp_path, **BACKGROUND) as ck:
        for step in range(4):
            for array in given["model"].values():
                array += 1
            ck.save(step, given)
            assert total <= ck._saver._buffer.size < 1.01 * total
        ck.wait()
        ck.save(9, {"small": np.zeros(3)}).wait()
        assert ck._saver._buffer.size < 1.01 * total
    assert ck._saver._buffer.size == 0


def test_what_was_copied_is_let_go(disk: Disk, tmp_path: Path) -> None:
    """A training that makes new arrays at each step holds the old ones no longer than the copy."""
    given = {"w": np.full(N, 3.0)}
    alive = weakref.ref(given["w"])
    with Checkpointer(tmp_path, **BACKGROUND) as ck:
        saving = ck.save(1, given)
        assert disk.waiting.wait(60)
        given["w"] = np.zeros(N)
        assert saving.staged
        assert alive() is None, "the original lives beside its copy while it is written"
        disk.free.set()


def test_a_bytearray_may_grow_once_it_is_copied(disk: Disk, tmp_path: Path) -> None:
    log = bytearray(5000)
    with Checkpointer(tmp_path, **BACKGROUND) as ck:
        saving = ck.save(1, {"log": log})
        assert disk.waiting.wait(60)
        log += b"more"
        disk.free.set()
        saving.wait()
    check(tmp_path, 1, {"log": bytearray(5000)})


@BOTH
def test_too_little_memory_makes_the_training_wait(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_WORTH_IT", 1000)
    monkeypatch.setattr(staging, "available_memory", lambda: 1 << 20)
    with Checkpointer(tmp_path, **options) as ck:
        with pytest.warns(RuntimeWarning, match="while the training waits: .* are available"):
            saving = ck.save(1, state(1))
        assert saving.committed
        check(tmp_path, 1, state(1))


@BOTH
def test_no_memory_for_the_copy_loses_no_save(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numpy: Any = np
    real = numpy.empty

    def empty(shape: Any, *rest: Any) -> Any:
        if shape:
            raise MemoryError
        return real(shape, *rest)

    with Checkpointer(tmp_path, **options) as ck:
        given = state(1)
        with monkeypatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            patch.setattr(np, "empty", empty)
            saving = ck.save(1, given)
            ck.wait()
        assert saving.committed
        check(tmp_path, 1, state(1))


# --- one at a time --------------------------------------------------------------------------------


def test_a_save_waits_for_the_one_before(disk: Disk, tmp_path: Path) -> None:
    with Checkpointer(tmp_path, **BACKGROUND) as ck:
        first = ck.save(1, state(1))
        assert disk.waiting.wait(60)
        threading.Timer(0.05, disk.free.set).start()
        second = ck.save(2, state(2))
        assert first.committed
        second.wait()
    assert [row.step for row in tk.checkpoints(tmp_path)] == [1, 2]


def test_a_save_skips_itself(disk: Disk, tmp_path: Path) -> None:
    with Checkpointer(tmp_path, busy="skip", **BACKGROUND) as ck:
        first = ck.save(1, state(1))
        second = ck.save(2, state(2))
        assert second.skipped
        assert second.over
        assert second.wait()
        assert not second.committed
        disk.free.set()
        first.wait()
        ck.save(3, state(3)).wait()
    assert [row.step for row in tk.checkpoints(tmp_path)] == [1, 3]


def test_a_save_takes_the_place_of_another(disk: Disk, tmp_path: Path) -> None:
    with Checkpointer(tmp_path, busy="replace", **BACKGROUND) as ck:
        first = ck.save(2, state(2))
        assert disk.waiting.wait(60)
        threading.Timer(0.05, disk.free.set).start()
        second = ck.save(3, state(3))
        assert first.replaced
        assert not first.committed
        assert first.wait()
        second.wait()
        check(tmp_path, 3, state(3))
        ck.save(4, state(4)).wait()
        check(tmp_path, 4, state(4))
        assert clean(tmp_path)
    assert [row.step for row in tk.checkpoints(tmp_path)] == [3, 4]


def test_a_save_that_cannot_be_does_not_take_the_place_of_one_that_can(
    disk: Disk, tmp_path: Path
) -> None:
    with Checkpointer(tmp_path, busy="replace", **BACKGROUND) as ck:
        first = ck.save(1, state(1))
        assert disk.waiting.wait(60)
        threading.Timer(0.05, disk.free.set).start()
        with pytest.raises(errors.UnsupportedError):
            ck.save(2, {"bad": object()})
        ck.wait()
        assert first.committed


def test_the_exception_that_ends_it_is_saved_though_another_save_is_under_way(
    disk: Disk, tmp_path: Path
) -> None:
    options: dict[str, Any] = {**BACKGROUND, "busy": "skip", "on_exception": True, "every_steps": 2}

    def train() -> None:
        with Checkpointer(tmp_path, **options) as ck:
            ck.step(2, state(2))
            assert disk.waiting.wait(60)
            ck.step(3, state(3))
            threading.Timer(0.05, disk.free.set).start()
            raise ValueError("end")

    with pytest.raises(ValueError, match="end"):
        train()
    assert [row.step for row in tk.checkpoints(tmp_path)] == [2, 3]


def test_progress_goes_forward_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    real = Saving.report

    def report(saving: Saving, count: int) -> None:
        real(saving, count)
        seen.append(saving.progress)

    monkeypatch.setattr(Saving, "report", report)
    with Checkpointer(tmp_path, max_shard_size=1000, **BACKGROUND) as ck:
        for step in (1, 2, 3):
            seen.clear()
            saving = ck.save(step, state(step))
            saving.wait()
            assert seen == sorted(seen)
            assert seen[-1] == saving.progress == (saving.total, saving.total)
            assert saving.seconds_left == 0
