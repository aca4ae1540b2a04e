"""What is removed, what never is, and that no save waits for it."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.checkpoint import Checkpointer, retention
from tensorkeep.checkpoint.disk import DiskFolder as Folder
from tensorkeep.checkpoint.keeping import keep
from tensorkeep.errors import CorruptError


def saver(folder: Path, **options: Any) -> Checkpointer:
    return Checkpointer(folder, durable=False, rng=False, **options)


def steps(folder: Path) -> list[int]:
    return [row.step for row in tk.checkpoints(folder)]


def save(folder: Path, *numbers: int, **options: Any) -> None:
    with saver(folder, **options) as ck:
        for step in numbers:
            ck.save(step, {"w": np.full(9, step)}, metrics={"loss": step % 7, "top": -(step % 5)})


def flip(folder: Path, step: int) -> None:
    path = folder / f"step-{step:08}" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (None, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ("last=20", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ("younger=1d", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
        ("last=3", [10, 11, 12]),
        ("last=1", [12]),
        ("every=5", [5, 10, 12]),
        ("best=loss", [7, 12]),
        ("best=loss:min:2,last=2", [1, 7, 11, 12]),
        ("best=loss:max,best=top:max", [6, 10, 12]),
        ("best=nothing", [12]),
    ],
)
def test_the_union_of_the_rules_and_the_newest_stay(
    rules: str | None, expected: list[int], tmp_path: Path
) -> None:
    save(tmp_path, *range(1, 13), keep=rules)
    found = steps(tmp_path)
    if rules == "best=loss:min:2,last=2":  # 8 is as good as 1, and newer
        expected = [7, 8, 11, 12]
    assert found == expected
    assert Folder(tmp_path).leftovers() == []


def test_the_rules_apply_to_what_earlier_processes_saved(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4)
    save(tmp_path, 5, keep=keep(last=2))
    assert steps(tmp_path) == [4, 5]


def test_the_last_sound_one_is_never_removed(tmp_path: Path) -> None:
    """Every one that would be kept is damaged, the disk having turned bad: nothing goes."""
    save(tmp_path, 1, 2, 3)
    for step in (2, 3):
        flip(tmp_path, step)
    folder = Folder(tmp_path)
    doomed = retention.doomed(folder, keep(last=2))
    assert [row.step for row in doomed] == [1]
    with pytest.raises(CorruptError, match="none was removed"):
        retention.remove_doomed(folder, doomed, lambda step: retention.check(folder, step))
    assert steps(tmp_path) == [1, 2, 3]


def test_a_newest_one_that_is_damaged_at_once_saves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that damages what it writes: that is found out before any is removed."""
    save(tmp_path, 1, 2)
    real = retention.Janitor.saved

    def saved(janitor: retention.Janitor, step: int) -> None:
        flip(tmp_path, step)
        real(janitor, step)

    monkeypatch.setattr(retention.Janitor, "saved", saved)
    with pytest.warns(RuntimeWarning, match="none was removed"):
        save(tmp_path, 3, keep="last=1")
    assert steps(tmp_path) == [1, 2, 3]
    with saver(tmp_path) as ck:
        with pytest.warns(RuntimeWarning, match="skipped"):
            found = ck.restore()
        assert found is not None
        assert found.step == 2


def test_damaged_ones_do_not_count_and_are_left(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    (tmp_path / "step-00000002" / "MANIFEST.json").unlink()
    save(tmp_path, 4, keep="last=2")
    assert steps(tmp_path) == [2, 3, 4]


def test_what_is_not_ours_is_never_touched(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    save(elsewhere, 12)
    save(root, 1, 2)
    for name in (
        "step-abc",
        "step-12",
        "step-000000001",
        "Step-00000003",
        "other",
        "step-00000007",
    ):
        (root / name).mkdir()
        (root / name / "notes.txt").write_text("mine")
    (root / "step-00000008").write_text("a file")
    (root / "step-00000004").symlink_to(elsewhere / "step-00000012")
    (root / "step-00000012").symlink_to(elsewhere / "step-00000012")
    (root / "step-00000005").symlink_to("nowhere")
    (root / ".step-00000006.mine").mkdir()
    before = sorted(set(os.listdir(root)) - {"step-00000001", "step-00000002"})
    save(root, 20, 21, 22, keep="last=1")
    left = sorted(set(os.listdir(root)) - {"step-00000022"})
    assert left == before
    assert tk.verify(elsewhere / "step-00000012").ok
    assert (root / "step-00000007" / "notes.txt").read_text() == "mine"


def test_no_save_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    real = retention.doomed

    def slow(*arguments: Any) -> Any:
        let_go.wait(60)
        return real(*arguments)

    monkeypatch.setattr(retention, "doomed", slow)
    with saver(tmp_path, keep="last=1") as ck:
        for step in (1, 2, 3):
            ck.save(step, {"w": np.full(9, step)})
        assert steps(tmp_path) == [1, 2, 3]
        let_go.set()
    assert steps(tmp_path) == [3]


def test_what_cannot_be_removed_is_told(unprivileged: Path) -> None:
    save(unprivileged, 1, 2)
    with saver(unprivileged, keep="last=1") as ck:
        held = retention.doomed
        with pytest.MonkeyPatch.context() as patch:

            def close_folder(*arguments: Any) -> Any:
                os.chmod(unprivileged, 0o500)
                return held(*arguments)

            patch.setattr(retention, "doomed", close_folder)
            ck.save(3, {"w": np.zeros(1)})
            with pytest.warns(RuntimeWarning, match="cannot be removed: Permission denied"):
                ck.close()
    assert steps(unprivileged) == [1, 2, 3]
    os.chmod(unprivileged, 0o700)


def test_steps_after_a_return_to_an_older_one_stay(tmp_path: Path) -> None:
    """What was just saved stays, though a step from before the return is higher."""
    with saver(tmp_path, keep="last=1") as ck:
        ck.save(5, {"w": np.full(9, 5)})
        ck.save(10, {"w": np.full(9, 10)})
        ck.save(6, {"w": np.full(9, 6)})
    assert steps(tmp_path) == [6, 10]


def test_a_thread_that_lags_removes_nothing_that_was_saved_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, real = threading.Event(), retention.doomed

    def lagging(*arguments: Any) -> Any:
        assert saved.wait(60)
        return real(*arguments)

    monkeypatch.setattr(retention, "doomed", lagging)
    with saver(tmp_path, keep="last=1") as ck:
        ck.save(10, {"w": np.full(9, 10)})
        ck.save(6, {"w": np.full(9, 6)})
        saved.set()
    assert steps(tmp_path) == [6, 10]


def test_a_commit_that_fails_spares_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with saver(tmp_path, keep="last=1") as ck:
        ck.save(1, {"w": np.zeros(1)})
        with monkeypatch.context() as patch:
            patch.setattr(Folder, "commit", lambda *a, **k: (_ for _ in ()).throw(OSError(5, "x")))
            with pytest.raises(OSError, match="x"):
                ck.save(1, {"w": np.ones(1)}, overwrite=True)
        ck.save(2, {"w": np.ones(1)})
    assert steps(tmp_path) == [2]


def test_its_thread_ends_with_the_checkpointer(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    for step in range(3):
        save(tmp_path, step, keep="last=2", background=True)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()
