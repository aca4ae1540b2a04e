from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.bulk import Item, find, run
from tensorkeep.bulk.converting import convert, plan
from tensorkeep.errors import ArgumentError

TO_NPZ = partial(convert, to="npz", durable=False)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for name in ("a", "deep/b", "deep/a"):
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        tk.save({"w": np.full(3, ord(name[-1]))}, path, durable=False)
    return folder


def test_names_are_kept_below_the_folder(sources: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = run(TO_NPZ, plan(find([sources]), str(out), "npz"))
    assert summary.counts["done"] == 3
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.npz")) == [
        *("a.npz", "deep/a.npz", "deep/b.npz")
    ]
    assert tk.load(out / "deep/b.npz")["w"].tolist() == [98] * 3
    assert summary.outcomes[0].result == {
        "target": str(out / "a.npz"),
        "format": "npz",
        "tensors": 1,
        "bytes": 24,
        "lost": [],
    }


def test_what_is_up_to_date_is_skipped(sources: Path, tmp_path: Path) -> None:
    planned = plan(find([sources]), str(tmp_path / "out"), "npz")
    run(TO_NPZ, planned)
    os.utime(tmp_path / "out" / "a.npz", (5, 5))
    (tmp_path / "out" / "deep" / "a.npz").unlink()
    again = run(TO_NPZ, planned)
    assert [outcome.status for outcome in again.outcomes] == ["failed", "done", "skipped"]
    assert "is there already, and older than its source" in again.outcomes[0].problem
    assert "its target is up to date" in again.outcomes[2].problem
    assert os.stat(tmp_path / "out" / "a.npz").st_mtime == 5
    forced = run(partial(TO_NPZ, force=True), planned)
    assert forced.counts["done"] == 3


def test_a_journal_does_not_hide_a_target_that_is_gone(sources: Path, tmp_path: Path) -> None:
    planned = plan(find([sources]), str(tmp_path / "out"), "npz")
    for _ in range(2):
        run(TO_NPZ, planned, journal=tmp_path / "journal")
        (tmp_path / "out" / "a.npz").unlink()
    again = run(TO_NPZ, planned, journal=tmp_path / "journal")
    assert [outcome.status for outcome in again.outcomes] == ["done", "skipped", "skipped"]


def test_collisions_are_refused_before_anything_is_written(sources: Path, tmp_path: Path) -> None:
    tk.save({"w": np.ones(3)}, sources / "a.json")
    with pytest.raises(ArgumentError, match=r"would be the target of both .*a\.json and .*a\.safe"):
        plan(find([sources]), str(tmp_path / "out"), "npz")
    two = [sources / "a.safetensors", sources / "deep" / "a.safetensors"]
    with pytest.raises(ArgumentError, match="would be the target of both"):
        plan(find(two), str(tmp_path / "out"), "npz")
    with pytest.raises(ArgumentError, match="would be replaced by what"):
        plan(find([sources / "a.safetensors"]), str(sources), "safetensors")
    assert not (tmp_path / "out").exists()


def test_a_folder_inside_of_what_is_converted(sources: Path) -> None:
    out = str(sources / "out")
    for _ in range(2):
        planned = plan(find([sources]), out, "npz")
        assert [os.path.relpath(item.target, out) for item in planned] == [
            *("a.npz", "deep/a.npz", "deep/b.npz")
        ]
        run(TO_NPZ, planned)


def test_checkpoints_and_shards_become_files(tmp_path: Path) -> None:
    state = {"w": np.arange(3000.0), "b": np.ones(3000)}
    with tk.Checkpointer(tmp_path / "run") as checkpointer:
        checkpointer.save(7, state)
    tk.save(state, tmp_path / "run" / "m.safetensors", max_shard_size=30_000)
    planned = plan(find([tmp_path / "run"]), str(tmp_path / "out"), "npz")
    assert sorted(os.path.basename(item.target) for item in planned) == [
        *("m.npz", "step-00000007.npz")
    ]
    assert run(TO_NPZ, planned).ok
    assert tk.load(tmp_path / "out" / "step-00000007.npz")["w"].shape == (3000,)


def test_sharded_targets_are_seen(sources: Path, tmp_path: Path) -> None:
    tk.save({"w": np.ones(3000), "b": np.ones(3000)}, tmp_path / "big.npz")
    planned = plan(find([tmp_path / "big.npz"]), str(tmp_path / "out"), "safetensors")
    task = partial(convert, to="safetensors", max_shard_size=30_000)
    assert [run(task, planned).outcomes[0].status for _ in range(2)] == ["done", "skipped"]


def test_a_loss_fails_alone(sources: Path, tmp_path: Path) -> None:
    tk.save({"w": np.ones(3), "deep": {"v": 3}}, sources / "nested.safetensors")
    planned = plan(find([sources]), str(tmp_path / "out"), "npy")
    summary = run(partial(convert, to="npy"), planned)
    assert summary.counts == {"done": 0, "damaged": 0, "failed": 4, "skipped": 0}
    assert summary.outcomes[-1].error["kind"] in ("LossError", "UnsupportedError", "ArgumentError")


def test_formats_that_are_not_written() -> None:
    with pytest.raises(ArgumentError, match="pickle is read only"):
        plan([Item("a.npz")], "out", "pickle")
    with pytest.raises(ArgumentError, match="no format is called 'npzz'"):
        plan([Item("a.npz")], "out", "npzz")
