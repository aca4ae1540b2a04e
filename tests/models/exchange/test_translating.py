"""Translating as users ask for it: any dialect to any, by one function and by convert."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import models
from tensorkeep.errors import (
    ArgumentError,
    LossError,
    MismatchError,
    TranslationError,
    UnknownFormatError,
)


@cache
def network(free: bool = True) -> tk.State:
    generator = np.random.default_rng(0)
    x = models.input("x", "float32", ["N" if free else 2, 3, 6, 6])
    weights = models.initializer(generator.normal(size=(4, 3, 3, 3)).astype(np.float32), "conv/w")
    y = models.node("Relu", models.node("Conv", x, weights, pads=[1, 1, 1, 1]))
    y = models.node("Flatten", models.node("GlobalAveragePool", y))
    dense = models.initializer(generator.normal(size=(4, 5)).astype(np.float32), "dense.w")
    y = models.node("Softmax", models.node("MatMul", y, dense), axis=-1)
    return models.model({"scores": y}, name="net")


def odd() -> tk.State:
    x = models.input("x", "float32", [2, 3])
    a, b = models.node("NonZero", x), models.node("Unique", x, sorted=1)
    return models.model({"a": a, "b": b}, name="odd")


@pytest.mark.parametrize(
    ("between", "last"),
    [("nnef", "caffe2"), ("caffe2", "nnef"), ("nnef", "onnx"), ("caffe2", "onnx")],
)
def test_any_dialect_goes_to_any(between: str, last: str) -> None:
    model = network()
    shapes = {"x": (2, 3, 6, 6)}
    first, report = models.translate(model, between, shapes=shapes)
    assert (first.dialect, report.source, report.target) == (between, "onnx", between)
    second = models.translate(first, last, shapes=shapes if last != "onnx" else None).state
    assert second.dialect == last
    assert {"conv/w", "dense.w"} <= set(second)
    (found,) = models.compare(model, second, np.ones((2, 3, 6, 6), np.float32))
    assert found.output == "scores"
    assert found.relative < 1e-6


def test_all_refusals_are_listed_at_once() -> None:
    with pytest.raises(TranslationError) as caught:
        models.translate(odd(), "nnef")
    assert {each.operator for each in caught.value.refusals} == {"NonZero", "Unique"}
    assert "2 nodes cannot be said in NNEF" in str(caught.value)
    assert all(each.reason for each in caught.value.refusals)


def test_the_same_dialect_stays_as_it_is() -> None:
    model = network()
    assert models.translate(model, "onnx").state is model


def test_wrong_arguments_are_told(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"no dialect 'nef'.*nnef"):
        models.translate(network(), "nef")
    tk.save({"w": np.ones(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ArgumentError, match="no model"):
        models.translate(tmp_path / "w.safetensors", "nnef")
    with pytest.raises(ArgumentError, match="weights fill the blobs of a Caffe2 net"):
        models.translate(network(), "nnef", weights={"w": np.ones(2, np.float32)})
    nnef = models.translate(network(False), "nnef").state
    with pytest.raises(ArgumentError, match="constants"):
        models.translate(nnef, "onnx", constants={"x": np.ones(1)})
    (tmp_path / "empty").mkdir()
    with pytest.raises((UnknownFormatError, ArgumentError)):
        models.translate(tmp_path / "empty", "onnx")
    with pytest.raises((ArgumentError, TranslationError), match="x"):
        models.translate(network(), "nnef", shapes={"x": (2, 3)})
    with pytest.raises(tk.TensorKeepError, match="'z'"):
        models.translate(network(), "nnef", shapes={"z": (2, 3)})


def test_convert_writes_any_dialect_and_reads_it_back(tmp_path: Path) -> None:
    tk.save(network(), tmp_path / "a.onnx")
    data = np.random.default_rng(1).normal(size=(2, 3, 6, 6)).astype(np.float32)
    expected = tk.run(tmp_path / "a.onnx", data)["scores"]
    shapes = {"x": data.shape}
    for name in ("b.nnef.tgz", "b.nnef", "predict_net.pb", "c_predict_net.pbtxt", "d.arch.json"):
        given = None if name.endswith("json") else shapes
        assert tk.convert(tmp_path / "a.onnx", tmp_path / name, shapes=given) == []
        np.testing.assert_allclose(tk.run(tmp_path / name, data)["scores"], expected, rtol=1e-5)
        tk.convert(tmp_path / name, tmp_path / f"{name}.back.onnx")
        back = tk.run(tmp_path / f"{name}.back.onnx", data)["scores"]
        np.testing.assert_allclose(back, expected, rtol=1e-5)
    assert (tmp_path / "init_net.pb").exists()
    assert (tmp_path / "c_init_net.pbtxt").exists()


def test_weights_alone_are_taken_and_the_loss_is_told(tmp_path: Path) -> None:
    tk.convert(network_file(tmp_path), tmp_path / "net.nnef.tgz", shapes={"x": (1, 3, 6, 6)})
    tk.convert(tmp_path / "a.onnx", tmp_path / "predict_net.pb", shapes={"x": (1, 3, 6, 6)})
    for name in ("net.nnef.tgz", "predict_net.pb"):
        with pytest.raises(LossError, match="is left out"):
            tk.convert(tmp_path / name, tmp_path / "w.safetensors")
        lost = tk.convert(tmp_path / name, tmp_path / "w.safetensors", lossy=True)
        assert len(lost) == 1
        assert {"conv/w", "dense.w"} <= set(tk.load(tmp_path / "w.safetensors"))


def test_an_init_net_brings_its_predict_net_along(tmp_path: Path) -> None:
    shapes = {"x": (2, 3, 6, 6)}
    tk.convert(network_file(tmp_path), tmp_path / "predict_net.pb", shapes=shapes)
    tk.convert(tmp_path / "init_net.pb", tmp_path / "b.onnx")
    data = np.ones((2, 3, 6, 6), np.float32)
    (found,) = models.compare(tmp_path / "a.onnx", tmp_path / "b.onnx", data)
    assert found.relative < 1e-6
    (tmp_path / "predict_net.pb").unlink()
    tk.convert(tmp_path / "init_net.pb", tmp_path / "weights.onnx")
    assert "dense.w" in tk.load(tmp_path / "weights.onnx")


def network_file(folder: Path) -> Path:
    tk.save(network(), folder / "a.onnx")
    return folder / "a.onnx"


def test_saving_a_model_in_another_dialect_is_told_to_convert(tmp_path: Path) -> None:
    nnef = models.translate(network(False), "nnef").state
    with pytest.raises(LossError, match="convert translates it"):
        tk.save(nnef, tmp_path / "a.onnx")
    with pytest.raises(LossError, match="convert translates it"):
        tk.save(network(False), tmp_path / "a.nnef.tgz")


def test_options_of_models_are_refused_elsewhere(tmp_path: Path) -> None:
    path = network_file(tmp_path)
    with pytest.raises(ArgumentError, match="converted whole"):
        tk.convert(
            path, tmp_path / "b.nnef.tgz", shapes={"x": (1,)}, rename={"dense.*": "d.*"}, lossy=True
        )
    with pytest.raises(ArgumentError, match="tensors alone"):
        tk.convert(path, tmp_path / "b.npz", shapes={"x": (1,)})


def test_comparing_tells_how_far_models_are_apart() -> None:
    x = models.input("x", "float32", ["N"])
    one = models.model({"y": models.node("Mul", x, np.float32(2))})
    other = models.model({"z": models.node("Mul", x, np.float32(2.5))})
    (found,) = models.compare(one, other, np.array([1.0, -4.0], np.float32))
    assert found == ("y", 2.0, 0.25, (2,))
    (same,) = models.compare(one, one)
    assert (same.largest, same.shape) == (0.0, (1,))
    twice = models.model({"y": models.node("Neg", x), "z": models.node("Abs", x)})
    with pytest.raises(MismatchError, match="1 outputs, the other 2"):
        models.compare(one, twice, np.ones(2, np.float32))


def test_comparing_sees_nan_and_shapes() -> None:
    x = models.input("x", "float32", ["N"])
    log = models.model({"y": models.node("Log", x)})
    none = models.model({"y": models.node("Identity", x)})
    bad = np.array([-1.0], np.float32)
    assert models.compare(log, log, bad)[0].largest == 0.0
    assert models.compare(log, none, bad)[0].largest == np.inf
    wide = models.model({"y": models.node("Unsqueeze", x, [0])})
    assert models.compare(none, wide, bad)[0].largest == np.inf
