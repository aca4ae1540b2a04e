from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.models.running.making import linear, model, one, plainly, save, tensor, value

import tensorkeep as tk
from tensorkeep import dtypes
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    MismatchError,
    MissingDependencyError,
    MissingError,
    UnsupportedError,
)
from tensorkeep.models.running import run, session

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(linear(), tmp_path / "m.onnx")


def test_it_gives_what_onnx_runtime_gives(path: Path) -> None:
    expected = plainly(linear(), {"x": X})
    assert run(path, {"x": X}).keys() == {"y"}
    np.testing.assert_array_equal(run(path, {"x": X})["y"], expected["y"])
    np.testing.assert_array_equal(run(str(path), X)["y"], expected["y"])


def test_any_form_of_a_model(path: Path, tmp_path: Path) -> None:
    expected = plainly(linear(), {"x": X})["y"]
    with tk.open(path) as state:
        for name in ("m.onnx.pbtxt", "m.onnx.json"):
            tk.save(state, tmp_path / name)
            np.testing.assert_array_equal(run(tmp_path / name, X)["y"], expected)
        np.testing.assert_array_equal(run(state, X)["y"], expected)
        changed = state.replace(tensors={**state, "b": tk.Tensor.of(np.zeros(4, np.float32))})
        np.testing.assert_allclose(run(changed, X)["y"], X @ state["w"].numpy(), rtol=1e-5)
        np.testing.assert_array_equal(run(state, X)["y"], expected)


def test_any_kind_of_array(path: Path) -> None:
    expected = plainly(linear(), {"x": X})["y"]
    wide = np.zeros((2, 6), np.float32)
    wide[:, ::2] = X
    for given in (X, tk.Tensor.of(X), wide[:, ::2], X.astype(">f4"), np.asfortranarray(X)):
        np.testing.assert_array_equal(run(path, {"x": given})["y"], expected)
    np.testing.assert_array_equal(run(path, {"x": X.tolist()})["y"], expected)
    before = X.copy()
    before.setflags(write=False)
    np.testing.assert_array_equal(run(path, {"x": before})["y"], expected)


def test_inputs_from_any_file_of_tensors(path: Path, tmp_path: Path) -> None:
    expected = plainly(linear(), {"x": X})["y"]
    for name, state in (("x.npy", X), ("x.npz", {"x": X}), ("b.safetensors", {"x": X})):
        tk.save(state, tmp_path / name)
        np.testing.assert_array_equal(run(path, tmp_path / name)["y"], expected)
        with tk.open(tmp_path / name) as opened:
            np.testing.assert_array_equal(run(path, opened)["y"], expected)


def test_a_session_is_loaded_once(path: Path) -> None:
    with session(path) as loaded:
        path.unlink()
        for rows in (1, 5, 0):
            x = np.ones((rows, 3), np.float32)
            np.testing.assert_array_equal(loaded.run(x)["y"], plainly(linear(), {"x": x})["y"])
        assert repr(loaded) == "Session(x: float32[N, 3] -> y: float32[N, 4])"
        assert loaded.providers == ["CPUExecutionProvider"]
    with pytest.raises(ClosedError, match="the session was closed"):
        loaded.run(X)


def test_chosen_outputs() -> None:
    nodes = [helper.make_node(op, ["x"], [op]) for op in ("Abs", "Neg")]
    made = model(nodes, [value("x", ("N",))], [value("Abs", ("N",)), value("Neg", ("N",))])
    state = _open(made)
    assert run(state, [1.0], "Neg") == {"Neg": [-1]}
    assert list(run(state, [1.0], ["Neg", "Abs"])) == ["Neg", "Abs"]
    with pytest.raises(MissingError, match=r"no output called 'Nag'. Did you mean Neg"):
        run(state, [1.0], "Nag")


def test_initializers_that_are_inputs_may_be_given() -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    made = model(
        [node],
        [value("x", (2,)), value("w", (2,))],
        [value("y", (2,))],
        [tensor("w", np.array([1, 2], np.float32))],
    )
    state = _open(made)
    assert run(state, [0.0, 0.0])["y"].tolist() == [1, 2]
    assert run(state, {"x": [0.0, 0.0], "w": [5.0, 6.0]})["y"].tolist() == [5, 6]


NARROW = [
    (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    (TensorProto.FLOAT16, np.float16),
    (TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn),
    (TensorProto.FLOAT8E5M2, ml_dtypes.float8_e5m2),
    (TensorProto.INT4, ml_dtypes.int4),
    (TensorProto.UINT4, ml_dtypes.uint4),
]


@pytest.mark.parametrize(("kind", "numpy"), NARROW, ids=lambda v: str(v)[-20:])
def test_narrow_types_go_in_and_come_out(kind: int, numpy: Any) -> None:
    numbers = np.array([[0, 1, 2], [3, 4, 5]], np.float32)
    x = numbers.astype(numpy)
    inward = _open(one("Cast", ("N", 3), kind, out=TensorProto.FLOAT, to=1, opset=21))
    np.testing.assert_array_equal(run(inward, x)["y"], numbers)
    np.testing.assert_array_equal(run(inward, tk.Tensor.of(x))["y"], numbers)
    outward = _open(one("Cast", ("N", 3), out=kind, to=kind, opset=21))
    y = run(outward, numbers)["y"]
    assert y.dtype == dtypes.dtype(numpy).numpy
    np.testing.assert_array_equal(y.astype(np.float32), numbers)


def test_plain_types() -> None:
    for kind in ("float64", "int8", "uint8", "int16", "uint16", "int32", "int64", "uint64", "bool"):
        number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        x = np.array([0, 1, 1]).astype(kind)
        y = run(_open(one("Identity", ("N",), number)), x)["y"]
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y, x)


def test_text() -> None:
    state = _open(one("Identity", ("N",), TensorProto.STRING))
    for given in (
        np.array(["a", "wörld"]),
        np.array(["a", "wörld"], object),
        ["a", "wörld"],
        tk.Tensor.of(np.array(["a", "wörld"])),
        np.array([b"a", "wörld".encode()]),
    ):
        assert run(state, {"x": given})["y"].tolist() == ["a", "wörld"]


def test_text_and_narrow_types_at_once_are_refused() -> None:
    nodes = [
        helper.make_node("Identity", ["s"], ["t"]),
        helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16),
    ]
    made = model(
        nodes,
        [value("s", ("N",), TensorProto.STRING), value("x", ("N",))],
        [value("t", ("N",), TensorProto.STRING), value("y", ("N",), TensorProto.BFLOAT16)],
    )
    with pytest.raises(UnsupportedError, match="elements that NumPy has not, and takes text"):
        run(_open(made), {"s": ["a"], "x": [1.0]})
    assert run(_open(made), {"s": ["a"], "x": [1.0]}, "t")["t"].tolist() == ["a"]


def test_sequences_come_as_lists() -> None:
    made = model(
        [helper.make_node("SequenceConstruct", ["x", "x"], ["s"])],
        [value("x", ("N",))],
        [helper.make_tensor_sequence_value_info("s", 1, None)],
    )
    got = run(_open(made), [1.0, 2.0])["s"]
    assert [part.tolist() for part in got] == [[1, 2], [1, 2]]
    made = model(
        [helper.make_node("SequenceLength", ["s"], ["n"])],
        [helper.make_tensor_sequence_value_info("s", 1, None)],
        [value("n", (), TensorProto.INT64)],
    )
    assert run(_open(made), {"s": [X, tk.Tensor.of(X[:1])]})["n"] == 2


def test_optional_values() -> None:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(1, ["N"]))
    made = model(
        [helper.make_node("OptionalHasElement", ["x"], ["y"])],
        [helper.make_value_info("x", kind)],
        [value("y", (), TensorProto.BOOL)],
        opset=18,
    )
    state = _open(made)
    assert run(state, {"x": np.ones(2, np.float32)})["y"]
    assert not run(state, {"x": None})["y"]
    assert not run(state, {})["y"]
    kind = helper.make_optional_type_proto(
        helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, ["N"]))
    )
    made.graph.input[0].type.CopyFrom(kind)
    assert run(_open(made), {"x": [np.ones(2, np.float32)]})["y"]


def test_what_onnx_runtime_cannot_load() -> None:
    cases = {
        one(
            "Relu", opset=99
        ).SerializeToString(): r"is made for opset 99 of ai.onnx, of which this "
        r"ONNX Runtime knows those up to \d+. Convert it with `tensorkeep edit --opset \d+`",
        one("Relu", ir=99).SerializeToString(): r"IR version 99, of which .* up to \d+",
        one(
            "Cos", kind=TensorProto.BFLOAT16, opset=22
        ).SerializeToString(): r"has the operator Cos "
        r"\(of opset 22\), of which ONNX Runtime has no kernel for its types. `tensorkeep ops Cos`",
        one("Foo").SerializeToString(): r"has the operator Foo, which opset 17 does not have",
        one(
            "Foo", domain="own"
        ).SerializeToString(): r"the operator Foo of own, which ONNX Runtime",
        one("Upsample", opset=17).SerializeToString(): "Upsample, which is deprecated in opset 17",
        model(
            [helper.make_node("Relu", ["z"], ["y"])], [], [value("y", ("N",))]
        ).SerializeToString(): "cannot be loaded by ONNX Runtime",
    }
    for data, text in cases.items():
        with pytest.raises(UnsupportedError, match=text) as caught:
            run(_open(data), {})
        assert "onnxruntime_src" not in str(caught.value)
        assert "[ONNXRuntimeError]" not in str(caught.value)


def test_a_node_that_fails_is_named(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made = linear(axes=("N", "M"))
    with pytest.raises(MismatchError) as caught:
        run(_open(made), np.ones((2, 5), np.float32))
    text = str(caught.value)
    assert "fails at the node Gemm 'first/MatMulAddFusion': " in text
    assert text.endswith("It was given x: float32[2, 5].")
    assert capfd.readouterr() == ("", "")


def test_providers(path: Path) -> None:
    assert run(path, X, providers=["cpu"]).keys() == {"y"}
    assert run(path, X, providers=["CPUExecutionProvider"], threads=1).keys() == {"y"}
    with pytest.raises(ArgumentError, match=r"no provider 'gpu' here. It has .*cpu"):
        run(path, X, providers=["gpu"])


def test_options_of_onnx_runtime(path: Path) -> None:
    seen: list[Any] = []
    run(path, X, configure=seen.append)
    assert type(seen[0]).__name__ == "SessionOptions"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"outputs": []}, "outputs names none. Leave it out"),
        ({"outputs": 3}, "outputs cannot be 3"),
        ({"providers": 3}, "providers cannot be 3"),
        ({"threads": 0}, "threads cannot be 0. Give 1 to 1,024"),
        ({"threads": "2"}, "threads cannot be '2'"),
        ({"threads": 10**9}, "threads cannot be 1000000000"),
    ],
)
def test_options_that_make_no_sense(path: Path, options: Any, problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        run(path, X, **options)


def test_what_configure_raises_is_not_the_models_fault(path: Path) -> None:
    def fail(_options: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(path, X, configure=fail)


def test_tensors_alone_are_no_model(tmp_path: Path) -> None:
    tk.save({"w": X}, tmp_path / "w.safetensors")
    with pytest.raises(ArgumentError, match="holds tensors, but no graph"):
        run(tmp_path / "w.safetensors", X)
    with pytest.raises(MissingError, match="there is no such file"):
        run(tmp_path / "none.onnx", X)


def test_without_onnx_runtime(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"pip install \"tensorkeep\[run\]\""):
        run(path, X)


def _open(made: Any) -> tk.State:
    """Open a model that is in no file."""
    from tensorkeep.stores.memory import MemoryStore

    data = made if isinstance(made, bytes) else made.SerializeToString()
    store = MemoryStore()
    store.put("m.onnx", [data])
    store.commit()
    return tk.open(tk.Location(store, "m.onnx"))
