from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.models.running.making import linear, model, one, plainly, save, value

import tensorkeep as tk
from tensorkeep.errors import ArgumentError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.running import run, session
from tensorkeep.source import Source


def _open(made: Any) -> tk.State:
    return tk.State.of_graph(Graph(Message.parse(MODEL, made.SerializeToString())))


X = np.random.default_rng(1).standard_normal((10, 3), np.float32)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 10, 64])
def test_pieces_give_what_the_whole_gives(size: int) -> None:
    seen = []
    got = run(_open(linear()), X, batch_size=size, progress=lambda *done: seen.append(done))
    np.testing.assert_allclose(got["y"], plainly(linear(), {"x": X})["y"], rtol=1e-6)
    assert seen[-1] == (10, 10)
    assert len(seen) == -(-10 // size)


@pytest.mark.parametrize("rows", [1, 4, 7, 8, 10])
def test_a_fixed_batch_is_filled_up(rows: int) -> None:
    state = _open(linear(axes=(4, 3), out=(4, 4)))
    got = run(state, X[:rows], batch_size=4)["y"]
    assert got.shape == (rows, 4)
    np.testing.assert_allclose(got, plainly(linear(), {"x": X[:rows]})["y"], rtol=1e-6)


def test_a_fixed_batch_of_another_size_is_told() -> None:
    state = _open(linear(axes=(4, 3), out=(4, 4)))
    with pytest.raises(ArgumentError, match=r"Say batch_size=4, to run it in pieces"):
        run(state, X)
    with pytest.raises(ArgumentError, match=r"every piece has 4 rows, not 5. Say batch_size=4"):
        run(state, X, batch_size=5)
    with pytest.raises(ArgumentError, match="has no rows"):
        run(state, X[:0], batch_size=4)


def test_no_rows() -> None:
    assert run(_open(linear()), X[:0], batch_size=4)["y"].shape == (0, 4)


def test_inputs_of_the_batch_are_split_and_others_are_not() -> None:
    nodes = [
        helper.make_node("Add", ["x", "m"], ["h"]),
        helper.make_node("Mul", ["h", "scale"], ["g"]),
        helper.make_node("Add", ["g", "position"], ["y"]),
    ]
    inputs = [
        value("x", ("N", "T")),
        value("m", ("N", "T")),
        value("scale", (1,)),
        value("position", ("T",)),
    ]
    made = model(nodes, inputs, [value("y", ("N", "T"))])
    rng = np.random.default_rng(0)
    feed: dict[str, Any] = {
        "x": rng.random((7, 3), np.float32),
        "m": rng.random((7, 3), np.float32),
        "scale": np.array([2], np.float32),
        "position": np.arange(3, dtype=np.float32),
    }
    got = run(_open(made), feed, batch_size=3)["y"]
    np.testing.assert_array_equal(got, plainly(made, feed)["y"])
    with pytest.raises(ArgumentError, match=r"N is 6 here, but 7 in 'x'|has 6 rows, but 'x' has 7"):
        run(_open(made), {**feed, "m": feed["m"][:6]}, batch_size=3)


@pytest.mark.parametrize(
    ("op", "axes", "out", "attributes"),
    [
        ("ReduceMean", ("N", 3), (), {"keepdims": 0}),
        ("Transpose", ("N", "T"), ("T", "N"), {"perm": [1, 0]}),
        ("Transpose", ("N", "T"), (None, None), {"perm": [1, 0]}),
        ("Transpose", ("N", 3), (3, "N"), {"perm": [1, 0]}),
    ],
)
def test_outputs_without_rows_are_refused(op: str, axes: Any, out: Any, attributes: Any) -> None:
    state = _open(one(op, axes, out_axes=out, **attributes))
    with pytest.raises(ArgumentError, match=r"output 'y': gives y: .* a row for each of the batch"):
        run(state, X, batch_size=3)
    assert run(state, X)["y"].shape == (() if op == "ReduceMean" else (3, 10))


def test_outputs_of_no_declared_shape_are_joined() -> None:
    made = one("Relu", ("N", 3), out_axes=("rows", None))
    np.testing.assert_array_equal(run(_open(made), X, batch_size=4)["y"], np.maximum(X, 0))


@pytest.mark.parametrize("op", ["Transpose", "Shape"])
def test_as_many_rows_by_chance_are_refused(op: str) -> None:
    """Each piece of 2 rows gives 2 that are none of the batch; the model does not tell."""
    made = one(op, ("N", 2), out=TensorProto.INT64 if op == "Shape" else None)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    with pytest.raises(ArgumentError, match="does not have a row for each of the batch"):
        run(_open(made), x, batch_size=2)


def test_rows_of_different_shapes_are_refused() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"]),
        helper.make_node("Shape", ["i"], ["s"]),
        helper.make_node("ReduceProd", ["s"], ["n"], keepdims=1),
        helper.make_node("Shape", ["x"], ["r"], end=1),
        helper.make_node("Concat", ["r", "n"], ["shape"], axis=0),
        helper.make_node("ConstantOfShape", ["shape"], ["y"]),
    ]
    made = model(nodes, [value("x", ("N", 1))], [value("y", (None, None))])
    x = np.array([[1], [1], [1], [0]], np.float32)
    with pytest.raises(ArgumentError, match=r"has rows of shape \(4,\) after those of \(2,\)"):
        run(_open(made), x, batch_size=2)


@pytest.mark.parametrize("size", [0, -1, True, 2.0, "4"])
def test_odd_sizes(size: Any) -> None:
    with pytest.raises(ArgumentError, match="batch_size cannot be"):
        run(_open(linear()), X, batch_size=size)


def test_a_size_of_numpy() -> None:
    size: Any = np.int64(4)
    assert run(_open(linear()), X, batch_size=size)["y"].shape == (10, 4)


def test_nothing_to_split() -> None:
    state = _open(one("Relu", ()))
    with pytest.raises(ArgumentError, match="no input with an axis to split"):
        run(state, np.float32(1), batch_size=2)


def test_narrow_outputs_are_joined() -> None:
    state = _open(one("Cast", ("N", 3), out=TensorProto.BFLOAT16, to=TensorProto.BFLOAT16))
    got = run(state, X, batch_size=4)["y"]
    assert got.dtype.name == "bfloat16"
    np.testing.assert_array_equal(got, X.astype(got.dtype))


class _Watched(Source):
    """Bytes that count what is read of them at a time."""

    def __init__(self, data: bytes) -> None:
        super().__init__(len(data), "watched")
        self._data = data
        self.reads: list[int] = []

    def _read(self, start: int, stop: int) -> memoryview:
        self.reads.append(stop - start)
        return memoryview(self._data)[start:stop]


def test_a_lazy_tensor_is_read_piece_by_piece() -> None:
    rows = np.random.default_rng(0).random((1000, 3), np.float32)
    source = _Watched(rows.tobytes())
    tensor = tk.Tensor(tk.dtype("float32"), rows.shape, source)
    with session(_open(linear())) as loaded:
        got = loaded.run({"x": tensor}, batch_size=100)["y"]
    np.testing.assert_allclose(got, plainly(linear(), {"x": rows})["y"], rtol=1e-5)
    assert source.reads == [1200] * 10


def test_pieces_of_a_file(tmp_path: Path) -> None:
    tk.save({"x": X.astype(np.float64)}, tmp_path / "batch.safetensors")
    path = save(linear(), tmp_path / "m.onnx")
    got = run(path, tmp_path / "batch.safetensors", batch_size=3, cast=True)["y"]
    np.testing.assert_allclose(got, plainly(linear(), {"x": X})["y"], rtol=1e-6)
