"""The checkpoints of a run as a timeline, and every byte of one of them read."""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.servers import Server
from tests.viewer.runs_made import STEPS

import tensorkeep as tk
from tensorkeep import caffe2
from tensorkeep.checkpoint.folder import open_folder
from tensorkeep.errors import MissingError
from tensorkeep.viewer import steps
from tensorkeep.viewer.answers import Run, Verified
from tensorkeep.viewer.runs import run, verify

DATA = Path(__file__).parents[1] / "data"


def _ignore(done: int, total: int) -> None:
    pass


def _run(target: Any) -> Run:
    found = run(target)
    json.dumps(asdict(found), allow_nan=False)
    return found


def test_a_run_as_a_timeline(made: Path) -> None:
    found = _run(made / "diverging").steps
    assert [row.step for row in found] == list(range(1, STEPS + 1))
    assert {row.format for row in found} == {"checkpoint"}
    assert not any(row.problem for row in found)
    assert found[0].shared > 500_000  # the weights that the training started from
    assert found[0].size > found[0].shared
    assert found[12].metrics["accuracy"] > found[0].metrics["accuracy"]  # type: ignore[operator]
    assert found[18].metrics["loss"] == "nan"
    assert found[18].metrics["learning_rate"] == "inf"
    assert all(a.time <= b.time for a, b in pairwise(found))


def test_metadata(tmp_path: Path) -> None:
    with tk.Checkpointer(tmp_path, rng=False) as ck:
        ck.save(1, {"w": np.ones(2)}, metadata={"a": [1, {"b": 2}]}, metrics={"x": -np.inf})
    assert _run(tmp_path).steps[0].metadata == {"a": [1, {"b": 2}]}
    assert _run(tmp_path).steps[0].metrics == {"x": "-inf"}


def test_verified_and_damaged(made: Path) -> None:
    folder = made / "damaged"
    told: list[tuple[int, int]] = []
    assert verify(folder, 10, lambda done, total: told.append((done, total))) == Verified(
        10, True, []
    )
    assert told[-1][0] == told[-1][1] > 2_000_000
    assert _run(folder).steps[9].verified > 0
    found = verify(folder, 11, _ignore)
    assert not found.sound
    assert len(found.problems) == 1
    assert found.problems[0].startswith("model.hidden.weight: its XXH3-128 is ")
    assert found.problems[0].endswith(" of model.safetensors.")
    assert _run(folder).steps[10].verified == 0


def test_lengths_already_tell(tmp_path: Path) -> None:
    with tk.Checkpointer(tmp_path, rng=False) as ck:
        ck.save(1, {"w": np.ones(100)})
        ck.save(2, {"w": np.ones(100) * 2})
    file = tmp_path / "step-00000002" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    (tmp_path / "step-00000003").mkdir()
    found = _run(tmp_path).steps
    assert [bool(row.problem) for row in found] == [False, True, True]
    assert verify(tmp_path, 2, _ignore).problems == [f"{found[1].problem}."]
    assert not verify(tmp_path, 3, _ignore).sound


def test_damage_to_the_structure(tmp_path: Path) -> None:
    with tk.Checkpointer(tmp_path, rng=False) as ck:
        ck.save(1, {"w": np.ones(100)})
    file = tmp_path / "step-00000001" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8] = 0xFF
    file.write_bytes(data)
    found = verify(tmp_path, 1, _ignore)
    assert not found.sound
    assert "model.safetensors" in found.problems[0]


def test_many_damaged_tensors_are_told_in_few_sentences(tmp_path: Path) -> None:
    with tk.Checkpointer(tmp_path, rng=False) as ck:
        ck.save(1, {f"w{at}": np.full(8, at + 1.0) for at in range(70)})
    file = tmp_path / "step-00000001" / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: -70 * 64] + bytes(70 * 64))
    problems = verify(tmp_path, 1, _ignore).problems
    assert len(problems) == 51
    assert problems[-1] == "And 20 more."


def test_there_is_no_such_step_or_folder(tmp_path: Path) -> None:
    assert _run(tmp_path).steps == []
    with pytest.raises(MissingError, match="there is no checkpoint of step 7"):
        verify(tmp_path, 7, _ignore)
    with pytest.raises(MissingError, match="there is no such folder"):
        run(tmp_path / "absent")


def test_a_training_beside_it(tmp_path: Path) -> None:
    """Steps appear and go while the run is looked at; none is told damaged."""
    failed: list[object] = []

    def train() -> None:
        with tk.Checkpointer(tmp_path, keep="last=2", rng=False, durable=False) as ck:
            for step in range(1, 60):
                ck.save(step, {"w": np.full(1000, step)})

    training = threading.Thread(target=train)
    training.start()
    looks = 0
    while training.is_alive():
        if tmp_path.is_dir():
            failed += [row for row in run(tmp_path).steps if row.problem]
            looks += 1
    training.join()
    assert looks > 2
    assert not failed
    assert [row.step for row in run(tmp_path).steps] == [58, 59]


def test_sharded(tmp_path: Path) -> None:
    with tk.Checkpointer(tmp_path, rng=False, max_shard_size=3000) as ck:
        ck.save(1, {f"w{at}": np.full(300, at) for at in range(5)})
    assert len(list((tmp_path / "step-00000001").glob("*.safetensors"))) > 2
    with steps.open_step(tmp_path, steps.find(tmp_path, 1)) as state:
        assert state["w3"][:2].tolist() == [3, 3]
    assert verify(tmp_path, 1, _ignore).sound


def test_in_a_bucket(s3: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    with tk.Checkpointer(bucket.url("run"), rng=False) as ck:
        ck.save(4, {"w": np.arange(5)}, metrics={"loss": 0.5})
    found = _run(bucket.url("run")).steps
    assert [(row.step, row.metrics) for row in found] == [(4, {"loss": 0.5})]
    assert verify(bucket.url("run"), 4, _ignore).sound
    with steps.open_step(bucket.url("run"), steps.find(bucket.url("run"), 4)) as state:
        assert state["w"].numpy().tolist() == [0, 1, 2, 3, 4]
    assert steps.count(open_folder(bucket.url("run"))) == 1


# --- other programs' ----------------------------------------------------------------------------


def test_caffe2s(tmp_path: Path) -> None:
    folder = shutil.copytree(DATA / "caffe2" / "checkpoint_op", tmp_path / "run")
    found = _run(folder).steps
    assert [(row.step, row.format, row.problem) for row in found] == [
        (0, "caffe2", ""),
        (10, "caffe2", ""),
    ]
    assert found[0].size > 0
    assert verify(folder, 10, _ignore).sound
    with steps.open_step(folder, steps.find(folder, 10)) as state:
        assert len(state) > 0
    assert steps.count(open_folder(folder)) == 2
    caffe2.save({"w": np.arange(40.0)}, tmp_path / "x_1.minidb")
    caffe2.save({"w": np.arange(40.0)}, tmp_path / "x_2.minidb")
    data = bytearray((tmp_path / "x_2.minidb").read_bytes())
    (tmp_path / "x_2.minidb").write_bytes(data[: len(data) // 2])
    assert not verify(tmp_path, 2, _ignore).sound


def test_transformers(tmp_path: Path) -> None:
    for step in (500, 1000):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        tk.save({"w": np.full(3, step)}, folder / "model.safetensors")
        history = [{"step": 500, "loss": 2.0}, {"step": 1000, "loss": float("nan")}]
        history.append({"step": 1000, "eval_loss": 1, "epoch": 0.5})
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    (tmp_path / "runs").mkdir()
    found = _run(tmp_path).steps
    assert [(row.step, row.format) for row in found] == [
        (500, "safetensors"),
        (1000, "safetensors"),
    ]
    assert found[0].metrics == {"loss": 2.0}
    assert found[1].metrics == {"loss": "nan", "eval_loss": 1.0, "epoch": 0.5}
    with steps.open_step(tmp_path, steps.find(tmp_path, 1000)) as state:
        assert state["w"].numpy().tolist() == [1000] * 3
    assert verify(tmp_path, 500, _ignore).sound
    assert steps.count(open_folder(tmp_path)) == 2


def test_orbaxs_metrics(tmp_path: Path) -> None:
    (tmp_path / "checkpoint_1" / "metrics").mkdir(parents=True)
    tk.save({"w": np.ones(3)}, tmp_path / "checkpoint_1" / "model.safetensors")
    (tmp_path / "checkpoint_1" / "metrics" / "metrics").write_text('{"loss": 0.5, "note": "x"}')
    assert _run(tmp_path).steps[0].metrics == {"loss": 0.5}


def test_tensorflows_manager(tmp_path: Path) -> None:
    source = DATA / "tensorflow" / "dtypes"
    for step in (1, 2):
        for ending in ("index", "data-00000-of-00001"):
            shutil.copy(f"{source}.{ending}", tmp_path / f"ckpt-{step}.{ending}")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckpt-2"\n')
    found = _run(tmp_path).steps
    assert [(row.step, row.format, row.problem) for row in found] == [
        (1, "tensorflow", ""),
        (2, "tensorflow", ""),
    ]
    assert found[0].size == sum(file.stat().st_size for file in tmp_path.glob("ckpt-1.*"))
    assert verify(tmp_path, 1, _ignore).sound


def test_what_has_no_checksums(tmp_path: Path) -> None:
    (tmp_path / "step_1.npy").write_bytes(b"")
    np.save(tmp_path / "step_1.npy", np.ones(3))
    assert verify(tmp_path, 1, _ignore) == Verified(1, True, [], unchecked=1)


@pytest.mark.parametrize("history", ["[" * 100_000, "{", '{"log_history": [3, {"step": 1}]}', "3"])
def test_a_history_that_is_none(tmp_path: Path, history: str) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    tk.save({"w": np.ones(3)}, tmp_path / "checkpoint-1" / "model.safetensors")
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text(history)
    assert [row.metrics for row in _run(tmp_path).steps] == [{}]


def test_files_named_after_their_steps(tmp_path: Path) -> None:
    for epoch in range(3):
        tk.save({"w": np.ones(3)}, tmp_path / f"epoch={epoch}-step={epoch * 12}.npz")
    (tmp_path / "epoch=3-step=36.npz").write_bytes(b"cut sh")
    found = _run(tmp_path).steps
    assert [row.step for row in found] == [0, 12, 24, 36]
    assert [bool(row.problem) for row in found] == [False, False, False, True]
    assert not verify(tmp_path, 36, _ignore).sound


def test_what_is_no_run(tmp_path: Path) -> None:
    for name in ("image_1.npy", "w1.npy", "12.npy", "checkpoint-00001-of-00002.npy"):
        tk.save(np.ones(3), tmp_path / name)
    (tmp_path / "step_1.txt").write_text("hello")
    (tmp_path / "30").mkdir()
    tk.save({"w": np.ones(3)}, tmp_path / "elsewhere.npz")
    (tmp_path / "step_2.npz").symlink_to(tmp_path / "elsewhere.npz")
    os.mkfifo(tmp_path / "step_3.npz")
    assert _run(tmp_path).steps == []
    folder = tmp_path / "model"
    folder.mkdir()
    tk.save({"w": np.ones(3)}, folder / "model.safetensors")
    tk.save({"w": np.ones(3)}, folder / "checkpoint_1.npz")
    assert _run(folder).steps == []  # it is a state
    assert steps.count(open_folder(folder)) == 0
