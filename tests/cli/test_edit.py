from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from tests.cli.running import Ran, Run
from tests.models.editing.networks import GIVEN, convolutional, encoded, state_of
from tests.models.editing.networks import run as run_model

import tensorkeep as tk
from tensorkeep.cli import _guarded
from tensorkeep.cli.edit import edit
from tensorkeep.models.opening import graph_of


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(_guarded(edit))

    def run(*arguments: object) -> Ran:
        with pytest.raises(SystemExit) as end:
            app([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Ran(int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(convolutional().SerializeToString())
    return path


def test_several_edits(run: Run, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ran = run(path, out, "--rename", "conv.*=stem.*", "--batch", "N", "--expose", "r", "--json")
    assert ran.code == 0
    assert ran.json["inputs"] == ["x: float32[N, 3, 8, 8]"]
    assert ran.json["outputs"] == ["y: float32[N, 10]", "r: float32[N, 8, 8, 8]"]
    assert "renamed conv.w to stem.w" in ran.json["did"]
    assert ran.json["lost"] == []
    onnx.checker.check_model(str(out), full_check=True)
    assert path.read_bytes() == convolutional().SerializeToString()


def test_cut_and_opset(run: Run, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ran = run(path, out, "--inputs", "r", "--outputs", "g", "--opset", 21)
    assert ran.code == 0
    assert "cut to 4 of 8 nodes: from r to g" in ran.out
    assert "converted from operator set 17 to 21" in ran.out
    assert out.exists()


def test_cast_there_and_back_in_place(run: Run, path: Path) -> None:
    assert run(path, "--in-place", "--cast", "float16").code == 0
    assert path.stat().st_size < 0.7 * len(convolutional().SerializeToString())
    assert run(path, "--in-place", "--cast", "float32").code == 0
    given = GIVEN["convolutional"]
    found = run_model(onnx.load(path), given)[0]
    np.testing.assert_allclose(found, run_model(convolutional(), given)[0], atol=1e-2)


def test_strip_and_attach(run: Run, path: Path, tmp_path: Path) -> None:
    weights, bare, whole = (tmp_path / n for n in ("w.safetensors", "bare.onnx", "whole.onnx"))
    ran = run(path, bare, "--strip", weights)
    assert ran.code == 0
    assert "took 1 tensor out" in ran.out
    assert bare.stat().st_size < 3000
    assert run(bare, whole, "--attach", weights).code == 0
    assert whole.read_bytes() == path.read_bytes()


def test_weights(run: Run, path: Path, tmp_path: Path) -> None:
    tk.save({"fc.b": np.arange(10, dtype="f4")}, tmp_path / "w.npz")
    out = tmp_path / "out.onnx"
    refused = run(path, out, "--weights", tmp_path / "w.npz")
    assert refused.code == 2
    assert "--partial" in refused.err or "partial=True" in refused.err
    assert not out.exists()
    assert run(path, out, "--weights", tmp_path / "w.npz", "--partial").code == 0
    with tk.open(out) as state:
        assert state["fc.b"].numpy().tolist() == list(range(10))


def test_in_place_keeps_the_data_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    tk.save(state_of(convolutional()), path, external=True, threshold=1)
    (data,) = tmp_path.glob("*.data")
    before = data.stat()
    assert run(path, "-i", "--rename", "y=out").code == 0
    after = data.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_refusals(run: Run, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert "say either what to write, or --in-place" in run(path).err
    assert "say either" in run(path, out, "--in-place").err
    assert "there is nothing to change" in run(path, out).err
    assert "Did you mean conv.w" in run(path, out, "--rename", "convw=a").err
    assert "is there already" in run(path, path, "--batch", 2).err
    assert "--compute says how" in run(path, out, "--compute").err
    error = run(path, out, "--batch", 0, "--json")
    assert error.code == 2
    assert error.json["error"]["kind"] == "ArgumentError"
    assert not out.exists()
    tk.save({"w": np.zeros(3)}, tmp_path / "w.npz")
    assert "holds tensors, but no graph" in run(tmp_path / "w.npz", out, "--batch", 2).err


def test_text_forms_are_written(run: Run, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.pbtxt"
    assert run(path, out, "--rename", "y=probabilities").code == 0
    with tk.open(out) as state:
        assert [v.name for v in graph_of(state).outputs] == ["probabilities"]
        assert len(encoded(state)) > 1000


def test_weights_are_not_taken_out_into_the_model(run: Run, path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    for arguments in ((path, "-i"), (path, tmp_path / "new.onnx"), (path, tmp_path / "./m.onnx")):
        target = arguments[1] if arguments[1] != "-i" else path
        for strip in {path, target}:
            ran = run(*arguments, "--strip", strip, "--force")
            assert ran.code == 2
            assert "cannot hold both the model and its weights" in ran.err
    assert path.read_bytes() == data
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]
