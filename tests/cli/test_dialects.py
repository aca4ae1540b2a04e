"""Models between dialects on the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.cli.running import Run

import tensorkeep as tk
from tensorkeep import models
from tensorkeep.errors import ArgumentError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with an open batch and axes that are an input."""
    x, axes = models.input("x", "float32", ["N", 3]), models.input("axes", "int64", [1])
    y = models.node("ReduceSum", models.node("Relu", x), axes, keepdims=1).typed(
        "float32", ["A", "B"]
    )
    path = tmp_path_factory.mktemp("models") / "a.onnx"
    tk.save(models.model({"y": y}, inputs=[x, axes], name="sums"), path)
    return path


def test_convert_translates_and_reports(run: Run, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.nnef.tgz"
    ran = run("convert", model, target, "--constant", "axes=1", "--check", "random")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == f"{target}: nnef-archive, 0 tensors, 0 B"
    assert "fixed: x: " in ran.out
    assert "check: y[1, 1] differs by at most 0 (0 of its largest value)" in ran.out


def test_json_has_the_remarks_and_the_check(run: Run, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.ones((4, 3), np.float32))
    ran = run(
        *("convert", model, tmp_path / "a.nnef.tgz", "--shape", "x=4,3", "--constant", "axes=1"),
        *("--check", tmp_path / "data.npz", "--json"),
    )
    assert ran.code == 0
    assert {remark["kind"] for remark in ran.json["remarks"]} >= {"fixed"}
    (found,) = ran.json["check"]
    assert found == {"output": "y", "largest": 0, "relative": 0, "shape": [4, 1]}


def test_refusals_stand_in_lines_of_their_own(run: Run, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.nnef.tgz"
    ran = run("convert", model, target)
    assert ran.code == 2
    lines = ran.err.splitlines()
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("  ReduceSum at reducesum_1: axes ('axes') is computed when it runs")
    assert "--constant axes=" in ran.err
    assert not target.exists()
    refused = run("convert", model, target, "--json").json["error"]["refusals"]
    assert [each["operator"] for each in refused] == ["ReduceSum"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--shape", "x"], "--shape cannot be 'x'"),
        (["--shape", "x=a"], "--shape cannot be"),
        (["--shape", "x=1,3", "--shape", "x=2,3"], "twice"),
        (["--constant", "axes"], "--constant cannot be"),
        (["--constant", "axes=none.npy"], "none.npy"),
        (["--weights", "w.npz"], "weights"),
    ],
)
def test_wrong_options(
    run: Run, model: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    ran = run("convert", model, tmp_path / "a.nnef.tgz", *options)
    assert ran.code == 2
    assert told in ran.err


def test_constants_come_from_files(run: Run, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", a=np.array([1]), b=np.array([0]))
    target = tmp_path / "a.nnef.tgz"
    assert run("convert", model, target, "--constant", f"axes={tmp_path}/c.npz:b").code == 0
    y = tk.run(target, np.ones((1, 3), np.float32))["y"]
    assert y.shape == (1, 3)
    ran = run("convert", model, target, "--constant", f"axes={tmp_path}/c.npz", "--force")
    assert ran.code == 2
    assert "Name one of them" in ran.err


def test_other_dialects_are_run_and_checked(run: Run, model: Path, tmp_path: Path) -> None:
    net = tmp_path / "predict_net.pb"
    assert run("convert", model, net, "--constant", "axes=1", "--shape", "x=2,3").code == 0
    assert (tmp_path / "init_net.pb").exists()
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    assert run("check", net).code == 0
    ran = run("run", net, "-i", tmp_path / "x.npy")
    assert ran.out == "y: float32[2, 1]\n  3, 3\n"
    again = run("convert", model, net, "--constant", "axes=1", "--shape", "x=2,3")
    assert again.code == 2
    assert "is there already" in again.err


def test_an_edit_is_written_in_the_dialect_of_its_target(run: Run, tmp_path: Path) -> None:
    source, net = tmp_path / "a.nnef.tgz", tmp_path / "a_predict_net.pb"
    x = models.input("x", "float32", [2, 3])
    relu = models.model({"y": models.node("Relu", x)})
    tk.save(models.translate(relu, "nnef").state, source)
    assert run("edit", source, net, "--batch", "4", "--json").json["remarks"] == []
    assert run("edit", source, "--in-place", "--batch", "3").code == 0
    for path, dialect, rows in ((source, "nnef", 3), (net, "caffe2", 4)):
        with tk.open(path) as state:
            assert state.dialect == dialect
        assert tk.run(path, np.ones((rows, 3), np.float32))["y"].shape == (rows, 3)
    net.unlink()
    refused = run("edit", source, net, "--batch", "4")
    assert (refused.code, "a_init_net.pb: is there already" in refused.err) == (2, True)


def test_a_folder_of_caffe2s_nets_is_a_model(run: Run, tmp_path: Path) -> None:
    pair = tmp_path / "pair"
    pair.mkdir()
    x = models.input("x", "float32", [2, 3])
    net = models.model({"y": models.node("Add", x, np.ones((2, 3), np.float32))})
    tk.save(models.translate(net, "caffe2").state, pair / "predict_net.pb")
    assert run("convert", pair, tmp_path / "a.onnx").code == 0
    assert models.compare(pair, tmp_path / "a.onnx")[0].largest == 0
    assert models.check(pair, official=False) == []
    shutil.copy(pair / "predict_net.pb", pair / "b_predict_net.pb")
    with pytest.raises(ArgumentError, match="several predict nets: b_predict"):
        tk.convert(pair, tmp_path / "b.onnx")


def test_options_that_are_no_formats_are_told(run: Run, model: Path, tmp_path: Path) -> None:
    ran = run("convert", model, tmp_path / "b.onnx", "-o", "weights=false")
    assert (ran.code, "'weights' is no option of a format" in ran.err) == (2, True)
