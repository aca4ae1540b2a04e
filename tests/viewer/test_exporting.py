"""Reports: what is recorded in one, within which bounds, and how it is written."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.viewer.runs_made import make_run

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.viewer import export
from tensorkeep.viewer.answering import Answering

RECORDED = re.compile(r'<script type="application/json" id="recorded">(.*?)</script>', re.DOTALL)


def recorded(file: Path) -> dict[str, Any]:
    match = RECORDED.search(file.read_text("utf-8"))
    assert match is not None
    answers: dict[str, Any] = json.loads(match[1])
    return answers


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(3)
    weights: dict[str, Any] = {
        "conv": rng.standard_normal((4, 3, 5, 5), np.float32),
        "dense": rng.standard_normal((64, 32)),
        "words": np.array(["one", "two"]),
    }
    tk.save(weights, tmp_path / "a.npz", metadata={"kept": "</script>"})
    tk.save({**weights, "dense": weights["dense"] + 1}, tmp_path / "b.npz")
    return [tmp_path / "a.npz", tmp_path / "b.npz"]


def test_what_is_recorded_is_what_the_server_answers(two: list[Path], tmp_path: Path) -> None:
    assert export(two, tmp_path / "report.html") == []
    answers = recorded(tmp_path / "report.html")
    answering = Answering(two)
    for path, found in answers.items():
        if path.endswith("/statistics"):
            served = json.loads(answering.answer(f"{path}?of=0,1,2").body)
        elif isinstance(found, str):
            assert base64.b64decode(found) == answering.answer(path).body
            continue
        else:
            served = json.loads(answering.answer(path).body)
            while not served.get("finished", True):
                served = json.loads(answering.answer(path).body)
        assert found == served, path
    answering.close()
    assert {"things", "things/0/tensors", "things/1/metadata", "things/0/statistics"} <= set(
        answers
    )
    assert {"things/0/tensors/0/window", "things/0/tensors/0/tiles"} <= set(answers)
    assert {"diff?a=0&b=1", "diff/histograms?a=0&b=1&ia=1&ib=1"} <= set(answers)
    assert answers["diff?a=0&b=1"]["result"]["equal"] is False


def test_the_same_files_give_the_same_bytes(two: list[Path], tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        export(two, tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_exact_statistics_are_of_all_values(tmp_path: Path) -> None:
    array = np.zeros(3_000_000, np.float32)
    array[1_234_567] = 5
    tk.save({"w": array}, tmp_path / "large.npy.safetensors")
    for exact in (False, True):
        export([tmp_path / "large.npy.safetensors"], tmp_path / "report.html", exact=exact)
        statistics = recorded(tmp_path / "report.html")["things/0/statistics"]
        assert statistics[0]["exact"] is exact
    assert (statistics[0]["max"], statistics[0]["measured"]) == (5, 3_000_000)


def test_what_exceeds_the_budget_is_left_out_and_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {f"layer.{n}": rng.standard_normal((64, 64 + n % 3), np.float32) for n in range(300)}
    tk.save(weights, tmp_path / "many.safetensors")
    budget = 2_000_000
    left_out = export([tmp_path / "many.safetensors"], tmp_path / "report.html", budget=budget)
    answers = recorded(tmp_path / "report.html")
    assert len(json.dumps(answers)) < budget * 1.1
    drawn = [path for path in answers if path.endswith("window")]
    shapes = {
        answers["things/0/tensors"]["shapes"][int(path.split("/")[3])][1] for path in drawn[:3]
    }
    assert shapes == {64, 65, 66}  # one of each kind first
    assert left_out == [f"many.safetensors: values of {300 - len(drawn)} tensors"]
    assert left_out[0] in (tmp_path / "report.html").read_text("utf-8")
    with pytest.raises(errors.ArgumentError, match="cannot hold"):
        export([tmp_path / "many.safetensors"], tmp_path / "none.html", budget=20)
    assert not (tmp_path / "none.html").exists()


def test_a_run_is_recorded_with_its_last_checkpoint(tmp_path: Path) -> None:
    make_run(tmp_path / "run", steps=3)
    left_out = export([tmp_path / "run"], tmp_path / "report.html")
    answers = recorded(tmp_path / "report.html")
    assert len(answers["runs/0"]["steps"]) == 3
    assert answers["runs/0/course?exact=0"]["finished"]
    assert answers["things/0@3"]["kind"] == "state"
    assert answers["things/0@3/tensors"]["names"]
    assert left_out == ["run: tensors of all checkpoints but the last"]


def test_what_is_there_is_replaced_only_where_that_is_meant(
    two: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(errors.ArgumentError, match="is there already"):
        export(two, tmp_path / "report.html", replace=False)
    assert (tmp_path / "report.html").read_text() == "mine"
    export(two, tmp_path / "report.html")
    assert recorded(tmp_path / "report.html")


def test_a_failed_export_leaves_what_was_there(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(errors.MissingError):
        export(two, tmp_path / "report.html", page=tmp_path)
    with pytest.raises(errors.TensorKeepError):
        export([tmp_path / "nothing.npz"], tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "mine"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.npz", "b.npz", "report.html"]


def test_what_cannot_be_opened_is_told_beside_what_can(two: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 nothing")
    export([two[0], tmp_path / "broken.npz"], tmp_path / "report.html")
    assert recorded(tmp_path / "report.html")["things"]["things"][1]["problem"]


def test_what_was_given_is_never_replaced_by_its_report(two: list[Path], tmp_path: Path) -> None:
    before = two[1].read_bytes()
    link = tmp_path / "link.html"
    link.symlink_to(two[1])
    for file in (two[1], f"{two[1]}", link):
        with pytest.raises(errors.ArgumentError, match="is what the report is to tell of"):
            export(two, file)
    assert two[1].read_bytes() == before
