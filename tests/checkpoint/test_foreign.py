"""Checkpoints that Caffe2 left are listed and restored, and never touched."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import caffe2
from tensorkeep.errors import CorruptError, MissingError

DATA = Path(__file__).parents[1] / "data" / "caffe2"


def _reading(folder: Path) -> tk.Checkpointer:
    return tk.Checkpointer(folder, read_only=True)


def _operator(folder: Path, pattern: str, *steps: int, db_type: str = "minidb") -> None:
    for step in steps:
        ws = caffe2.Workspace(str(folder))
        ws.feed("iter", np.array([step]))
        ws.feed("w", np.full(3, step, np.float32))
        ws.run(
            caffe2.create_operator(
                "Checkpoint", ["iter", "w"], db=pattern, db_type=db_type, every=1
            )
        )


def test_what_caffe2s_operator_wrote() -> None:
    folder = DATA / "checkpoint_op"
    rows = tk.checkpoints(folder)
    assert [(row.step, row.format, row.ok) for row in rows] == [
        (0, "caffe2", True),
        (10, "caffe2", True),
    ]
    assert rows[1].path == str(folder / "a_00010")
    assert rows[1].size == (folder / "a_00010").stat().st_size
    assert rows[1].time == pytest.approx((folder / "a_00010").stat().st_mtime)
    restored = _reading(folder).restore()
    assert restored is not None
    assert restored.step == 10
    assert restored.state["iter"].tolist() == [10]


def test_what_caffe2s_manager_wrote() -> None:
    folder = DATA / "checkpoint_manager"
    assert [row.step for row in tk.checkpoints(folder)] == [0, 1, 2, 3]
    restored = _reading(folder).restore(step=2)
    assert restored is not None
    assert restored.path == str(folder / "trainer.2")
    assert "trainer/task/GivenTensorFill:0" in restored.state


@pytest.mark.parametrize("db_type", ["minidb", "lmdb", "rocksdb", "sqlite"])
def test_every_database(tmp_path: Path, db_type: str) -> None:
    _operator(tmp_path, f"checkpoint_%08d.{db_type}", 20, 100, db_type=db_type)
    assert [row.step for row in tk.checkpoints(tmp_path)] == [20, 100]
    restored = _reading(tmp_path).restore()
    assert restored is not None
    assert (restored.step, restored.state["w"].tolist()) == (100, [100.0] * 3)


@pytest.mark.parametrize("pattern", ["%d", "b_%d.db", "deep-%05d", "x_y_%03d.minidb"])
def test_names(tmp_path: Path, pattern: str) -> None:
    _operator(tmp_path, pattern, 5, 1000)
    assert [row.step for row in tk.checkpoints(tmp_path)] == [5, 1000]


def test_other_files_are_not_taken_for_checkpoints(tmp_path: Path) -> None:
    caffe2.save({"w": np.zeros(3)}, tmp_path / "resnet50.minidb")
    (tmp_path / "log_0001.txt").write_text("loss 0.3")
    (tmp_path / "notes.2024").write_text("nothing")
    (tmp_path / "empty_001").mkdir()
    tk.save({"w": np.zeros(3)}, tmp_path / "weights_100.safetensors")
    assert tk.checkpoints(tmp_path) == []
    assert _reading(tmp_path).restore() is None


def test_listing_changes_nothing(tmp_path: Path) -> None:
    _operator(tmp_path, "c_%03d.lmdb", 1, db_type="lmdb")
    (tmp_path / "c_002.lmdb").mkdir()  # as a killed save leaves it
    before = sorted(tmp_path.rglob("*"))
    assert [row.problem for row in tk.checkpoints(tmp_path)] == [
        "",
        "the database holds no records",
    ]
    assert sorted(tmp_path.rglob("*")) == before


def test_several_nodes_of_one_epoch(tmp_path: Path) -> None:
    for node in ("reader:0", "trainer"):
        for epoch in (1, 2):
            caffe2.save({"w": np.full(2, epoch)}, tmp_path / f"{node}.{epoch}")
    row = tk.checkpoints(tmp_path)[-1]
    assert (row.step, row.ok, row.metadata) == (2, True, {"nodes": ["reader:0", "trainer"]})
    restored = _reading(tmp_path).restore()
    assert restored is not None
    assert {node: state["w"].tolist() for node, state in restored.state.items()} == {
        "reader:0": [2, 2],
        "trainer": [2, 2],
    }


def test_an_epoch_that_a_node_did_not_write_is_skipped(tmp_path: Path) -> None:
    for name in ("reader.1", "trainer.1", "reader.2"):
        caffe2.save({"w": np.zeros(2)}, tmp_path / name)
    assert tk.checkpoints(tmp_path)[-1].problem == "there is no file of trainer for it"
    with pytest.warns(RuntimeWarning, match="is skipped: there is no file of trainer"):
        restored = _reading(tmp_path).restore()
    assert restored is not None
    assert restored.step == 1
    assert restored.skipped == [(str(tmp_path / "reader.2"), "there is no file of trainer for it")]
    with pytest.raises(CorruptError, match="no file of trainer"):
        _reading(tmp_path).restore(step=2)


@pytest.mark.parametrize("size", [0, 3, 50])
def test_a_cut_one_is_listed_and_skipped(tmp_path: Path, size: int) -> None:
    _operator(tmp_path, "c_%08d.minidb", 1, 2)
    os.truncate(tmp_path / "c_00000002.minidb", size)
    rows = tk.checkpoints(tmp_path)
    assert [row.ok for row in rows] == [True, False]
    with pytest.warns(RuntimeWarning, match="c_00000002.minidb is skipped"):
        restored = _reading(tmp_path).restore()
    assert restored is not None
    assert restored.step == 1
    os.truncate(tmp_path / "c_00000001.minidb", 50)
    with pytest.raises(CorruptError, match="none of 2 checkpoints"):
        _reading(tmp_path).restore()


def test_a_missing_chunk_is_a_problem(tmp_path: Path) -> None:
    state = {"w": np.arange(8.0)}
    caffe2.save(state, tmp_path / "c_001.minidb")
    caffe2.save(state, tmp_path / "c_002.minidb", chunk_size=4)
    data = (tmp_path / "c_002.minidb").read_bytes()
    (tmp_path / "c_002.minidb").write_bytes(data[: len(data) // 2])
    assert [row.ok for row in tk.checkpoints(tmp_path)] == [True, False]


def test_one_of_ours_comes_first(tmp_path: Path) -> None:
    _operator(tmp_path, "c_%08d.minidb", 7, 900)
    with tk.Checkpointer(tmp_path, rng=False) as ck:
        ck.save(7, {"w": np.zeros(3)})
    assert [(row.step, row.format) for row in tk.checkpoints(tmp_path)] == [
        (7, "checkpoint"),
        (7, "caffe2"),
        (900, "caffe2"),
    ]
    restored = _reading(tmp_path).restore()
    assert restored is not None
    assert restored.path.endswith("step-00000007")
    older = _reading(tmp_path).restore(step=900)
    assert older is not None
    assert older.state["w"].tolist() == [900.0] * 3
    with pytest.raises(MissingError, match=r"There are 7, 900"):
        _reading(tmp_path).restore(step=8)


def test_restored_into_what_is_there(tmp_path: Path) -> None:
    _operator(tmp_path, "c_%d.minidb", 30)
    like: dict[str, Any] = {"iter": np.zeros(1, np.int64), "w": np.zeros(3, np.float32)}
    restored = _reading(tmp_path).restore(like)
    assert restored is not None
    assert restored.state["w"] is like["w"]
    assert like["w"].tolist() == [30.0] * 3


def test_retention_leaves_them_alone(tmp_path: Path) -> None:
    shutil.copytree(DATA / "checkpoint_manager", tmp_path / "run")
    before = sorted(os.listdir(tmp_path / "run"))
    with tk.Checkpointer(tmp_path / "run", keep="last=1") as ck:
        for step in range(3):
            ck.save(step, {"w": np.zeros(2)})
    after = [name for name in sorted(os.listdir(tmp_path / "run")) if name[0] not in ".s"]
    assert after == before
