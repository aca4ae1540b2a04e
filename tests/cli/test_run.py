from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from PIL import Image
from tests.cli.running import ESCAPE, Run, is_safe
from tests.models.running.making import linear, model, one, plainly, save, tensor, value

import tensorkeep as tk

X = np.arange(6, dtype=np.float32).reshape(2, 3)
Y = plainly(linear(), {"x": X})["y"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tk.save(X, tmp_path / "x.npy")
    return save(linear(), tmp_path / "m.onnx")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Give a model of pictures: the mean of each channel as the score of a class."""
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)
    made = model([node], [value("x", ("N", 3, 16, 16))], [value("y", ("N", 3))])
    for name, colour in (("red.png", (255, 0, 0)), ("blue.png", (0, 0, 255))):
        Image.new("RGB", (20, 30), colour).save(tmp_path / name)
    (tmp_path / "labels.txt").write_text("red\ngreen\nblue\n")
    return save(made, tmp_path / "m.onnx")


def test_a_summary(run: Run, path: Path) -> None:
    ran = run("run", path, "--input", f"x={path.with_name('x.npy')}")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"y: float32[2, 4]\n  {', '.join(f'{v:.6g}' for v in Y.reshape(-1))}\n"


def test_the_name_of_the_only_input_may_be_left_out(run: Run, path: Path) -> None:
    ran = run("run", path, "-i", path.with_name("x.npy"), "--json")
    assert ran.json == {
        "model": str(path),
        "inputs": {"x": {"dtype": "float32", "shape": [2, 3]}},
        "outputs": {"y": {"dtype": "float32", "shape": [2, 4], "values": Y.reshape(-1).tolist()}},
        "preset": None,
        "output": None,
        "top": None,
        "times": None,
    }


def test_tensors_of_files(run: Run, path: Path) -> None:
    batch = path.with_name("batch=1.safetensors")
    tk.save({"data": X, "other": X[:1]}, batch)
    for text in (f"x={batch}:data", f"{batch}:data"):
        assert run("run", path, "-i", text, "--json").json["outputs"]["y"]["shape"] == [2, 4]
    ran = run("run", path, "-i", batch)
    assert ran.code == 2
    assert "holds 2 tensors" in ran.err
    tk.save({"x": X, "other": X[:1]}, batch)
    assert run("run", path, "-i", batch, "--json").json["outputs"]["y"]["shape"] == [2, 4]


def test_outputs_are_saved(run: Run, path: Path, tmp_path: Path) -> None:
    x = path.with_name("x.npy")
    for name in ("y.npy", "y.safetensors"):
        ran = run("run", path, "-i", x, "-o", tmp_path / name)
        assert (ran.code, ran.out) == (0, f"wrote 1 output to {tmp_path / name}\n")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), Y)
    np.testing.assert_array_equal(tk.load(tmp_path / "y.safetensors")["y"], Y)


def test_pieces(run: Run, path: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((100, 3), np.float32)
    tk.save(x, tmp_path / "many.npy")
    ran = run("run", path, "-i", tmp_path / "many.npy", "--batch", 7, "-o", tmp_path / "y.npy")
    assert ran.code == 0
    expected = plainly(linear(), {"x": x})["y"]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-6)


def test_chosen_outputs(run: Run, tmp_path: Path) -> None:
    nodes = [helper.make_node(op, ["x"], [op]) for op in ("Abs", "Neg")]
    made = model(nodes, [value("x", ("N",))], [value("Abs", ("N",)), value("Neg", ("N",))])
    path = save(made, tmp_path / "m.onnx")
    tk.save(np.ones(20, np.float32), tmp_path / "x.npy")
    ran = run("run", path, "-i", tmp_path / "x.npy", "--only", "Neg")
    assert ran.out == f"Neg: float32[20]\n  {', '.join(['-1'] * 8)}, ...\n"
    assert "Did you mean Neg" in run("run", path, "-i", tmp_path / "x.npy", "--only", "Nég").err


def test_classes_of_a_picture(run: Run, classifier: Path) -> None:
    labels, red = classifier.with_name("labels.txt"), classifier.with_name("red.png")
    ran = run("run", classifier, "--image", red, "--labels", labels, "--topk", 2)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "Pictures were scaled as the preset imagenet says."
    assert lines[1] == "y: probabilities by softmax"
    assert [line.split()[1:] for line in lines[2:]] == [["0", "red"], ["2", "blue"]]


def test_a_batch_of_pictures(run: Run, classifier: Path) -> None:
    pictures = [classifier.with_name(name) for name in ("red.png", "blue.png")]
    options = [part for picture in pictures for part in ("--image", f"x={picture}")]
    ran = run("run", classifier, *options, "--preset", "unit", "--topk", "1", "--json")
    assert ran.json["inputs"] == {"x": {"dtype": "float32", "shape": [2, 3, 16, 16]}}
    assert ran.json["preset"] == "unit"
    top = ran.json["top"]["y"]
    assert top["softmax"] is False
    assert [[each["class"] for each in row] for row in top["rows"]] == [[0], [2]]
    assert top["rows"][0][0] == {"class": 0, "name": "", "probability": 1.0}


def test_how_pictures_are_prepared(run: Run, tmp_path: Path, classifier: Path) -> None:
    red = classifier.with_name("red.png")
    node = helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0)
    made = model([node], [value("x", ("N", None, None, None))], [value("y", ("N", None))])
    path = save(made, tmp_path / "last.onnx")
    ran = run(
        "run",
        path,
        "--image",
        red,
        "--layout",
        "nhwc",
        "--size",
        "8x10",
        "--preset",
        "unit",
        "--mean",
        "0.5",
        "--std",
        "0.5,0.25,0.5",
        "--json",
    )
    assert ran.json["inputs"]["x"]["shape"] == [1, 8, 10, 3]
    assert ran.json["outputs"]["y"]["values"] == [1, -2, -1]
    for option, text in (("--size", "big"), ("--mean", "a"), ("--layout", "hwc")):
        ran = run("run", path, "--image", red, option, text)
        assert ran.code == 2
        assert option.removeprefix("--") in ran.err
    assert "no picture to prepare" in run("run", path, "--size", "8").err


def test_times(run: Run, path: Path) -> None:
    ran = run("run", path, "-i", path.with_name("x.npy"), "--time", "--repeat", 5)
    assert "then 5 runs: mean " in ran.out
    times = run("run", path, "-i", path.with_name("x.npy"), "--time", "--json").json["times"]
    assert times["repeats"] == 20
    assert 0 < times["median"] <= times["p95"]
    assert times["load"] > 0
    assert times["first"] > 0


def test_casts(run: Run, path: Path, tmp_path: Path) -> None:
    tk.save(X.astype(np.float64), tmp_path / "wide.npy")
    ran = run("run", path, "-i", tmp_path / "wide.npy")
    assert ran.code == 2
    assert "takes x: float32[N, 3], not float64[2, 3]" in ran.err
    assert "--cast" in ran.err
    assert run("run", path, "-i", tmp_path / "wide.npy", "--cast").code == 0


def test_problems(run: Run, path: Path) -> None:
    x = path.with_name("x.npy")
    cases = {
        ("-i", f"xx={x}"): "no input called 'xx'. Did you mean x?",
        ("-i", x, "-i", x): "is for which input",
        ("-i", f"x={x}", "-i", f"x={x}"): "is given twice",
        (): "also takes x: float32[N, 3]",
        ("-i", x, "--provider", "gpu"): "no provider 'gpu'",
        ("-i", x, "--image", x): "none of them pictures",
        ("-i", x, "--labels", "none.txt"): "there is no such file",
    }
    cases["-i", x, "--output", path] = "is the model, which the outputs would replace"
    for options, text in cases.items():
        ran = run("run", path, *options)
        assert ran.code == 2
        assert text in ran.err
        assert ran.out == ""
    assert run("run", path, "--json").json["error"]["kind"] == "ArgumentError"


def test_names_that_steer_the_terminal(run: Run, tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], [f"y{ESCAPE}"])
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(object))
    made = model([node], [value("x", ("N",), kind)], [value(f"y{ESCAPE}", ("N",), kind)])
    path = save(made, tmp_path / "m.onnx")
    tk.save({"x": np.array([f"t{ESCAPE}"])}, tmp_path / "x.safetensors")
    ran = run("run", path, "-i", tmp_path / "x.safetensors")
    assert ran.code == 0
    assert is_safe(ran.out)
    (tmp_path / "labels.txt").write_text(f"{ESCAPE}\nb\nc")
    scores = save(one("Identity", ("N", 3)), tmp_path / "s.onnx")
    tk.save(X, tmp_path / "s.npy")
    ran = run("run", scores, "-i", tmp_path / "s.npy", "--labels", tmp_path / "labels.txt")
    assert is_safe(ran.out)
    assert "row 1" in ran.out


def test_weights_may_be_inputs(run: Run, tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    inputs = [value("x", (2,)), value("w", (2,))]
    made = model([node], inputs, [value("y", (2,))], [tensor("w", np.ones(2, np.float32))])
    path = save(made, tmp_path / "m.onnx")
    tk.save(np.zeros(2, np.float32), tmp_path / "z.npy")
    z = tmp_path / "z.npy"
    assert run("run", path, "-i", z, "--json").json["outputs"]["y"]["values"] == [1, 1]
    ran = run("run", path, "-i", z, "-i", f"w={z}", "--json")
    assert ran.json["outputs"]["y"]["values"] == [0, 0]


def test_scores_that_are_none_name_their_output(run: Run, tmp_path: Path) -> None:
    path = save(one("Identity", ("N", 3)), tmp_path / "m.onnx")
    tk.save(np.full((1, 3), np.nan, np.float32), tmp_path / "x.npy")
    ran = run("run", path, "-i", tmp_path / "x.npy", "--topk", "2")
    assert (ran.code, ran.out) == (2, "")
    assert "output 'y': the scores are not all finite. Name the output" in ran.err


def test_an_interrupt_ends_a_run_that_goes_on(tmp_path: Path) -> None:
    """ONNX Runtime does not look for it, and this loop takes days."""
    steps = [helper.make_node("Add", ["a", "a"], ["b"]), helper.make_node("Identity", ["c"], ["d"])]
    taken = [value("i", (), 7), value("c", (), 9), value("a", (1,))]
    body = helper.make_graph(steps, "body", taken, [value("d", (), 9), value("b", (1,))])
    loop = helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)
    made = model([loop], [value("n", (), 7), value("x", (1,))], [value("y", (1,))])
    save(made, tmp_path / "m.onnx")
    tk.save({"n": np.array(10**15), "x": np.ones(1, np.float32)}, tmp_path / "x.npz")
    command = [sys.executable, "-m", "tensorkeep", "run", "m.onnx", "-i", "x.npz"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        # A shell's background jobs, and what they start, ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) in (-signal.SIGINT, 130)
    finally:
        process.kill()
        process.wait()
