from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.models.building_checks import compute, graph_of, model, official, sketch

import tensorkeep as tk
from tensorkeep.errors import ArgumentError
from tensorkeep.models.building import initializer, input, node
from tensorkeep.source import MemorySource

X = np.array([[1, -2], [3, 4]], "float32")


def test_a_saved_model_is_what_the_checker_and_the_runtime_take(tmp_path: Path) -> None:
    x = input("x", "float32", ["N", 1, 8, 8])
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 1, 3, 3)).astype("float32")
    y = node("Conv", x, w, np.ones(4, "float32"), pads=[1, 1, 1, 1])
    a, b = node("Split", node("Relu", y), outputs=2, axis=1)
    built = model([a, b], name="small", doc="for the tests", check=True)
    tk.save(built, tmp_path / "m.onnx")
    with tk.open(tmp_path / "m.onnx") as state:
        assert str(state.graph) == (
            "Graph(3 nodes: x: float32[N, 1, 8, 8] -> "
            "split_1_0: float32[N, 2, 8, 8], split_1_1: float32[N, 2, 8, 8])"
        )
        assert list(state) == ["conv_1_W", "conv_1_B"]
        assert graph_of(state).model.producer_name == "tensorkeep"
        assert graph_of(state).model.graph.doc_string == "for the tests"
        assert np.array_equal(state["conv_1_W"].numpy(), w)
        found = compute(state, x=np.ones((2, 1, 8, 8), "float32"))
    assert [part.shape for part in found] == [(2, 2, 8, 8)] * 2


def test_operators_of_python_and_their_numbers() -> None:
    x = input("x", "float32", [2, 2])
    w = np.eye(2, dtype="float32")
    y = 2 / (-((1 + x * 2 - 3) ** 2) - 1.5) @ w + w @ x + (4 - x)
    (found,) = compute(model([y]), x=X)
    expected = 2 / (-((1 + X * 2 - 3) ** 2) - 1.5) @ w + w @ X + (4 - X)
    assert np.allclose(found, expected, atol=1e-5)
    assert y.dtype is tk.dtype("float32")
    assert compute(model([2 ** (x / 2)]), x=X)[0] == pytest.approx(2 ** (X / 2))


def test_numbers_take_the_type_of_what_they_belong_with() -> None:
    for dtype in ("float16", "float64", "int32", "uint8"):
        built = sketch([input("x", dtype, [2]) + 1])
        assert built["add_1_B"].dtype.name == dtype
    reshaped = node("Reshape", input("x", "float32", [4]), [2, 2])
    assert sketch([reshaped])["reshape_1_shape"].dtype.name == "int64"
    free = sketch([node("Identity", [1.0, 2.0])])
    assert free["identity_1_input"].dtype.name == "float32"
    assert sketch([node("Identity", [True])])["identity_1_input"].dtype.name == "bool"
    assert sketch([node("Identity", ["a", "b"])])["identity_1_input"].numpy().tolist() == ["a", "b"]


def test_the_opset_is_the_lowest_that_fits() -> None:
    x = input("x", "float32", ["N", 4])
    scale = np.ones(4, "float32")

    def opset(*values: object) -> int:
        return graph_of(sketch(list(values))).opsets[""]

    assert opset(node("Relu", x)) == 13
    assert opset(node("LayerNormalization", x, scale)) == 17
    assert opset(node("ReduceMean", x, axes=[1])) == 13
    assert opset(node("ReduceMean", x, [1])) == 18
    assert opset(node("Relu", x), node("Gelu", x)) == 20
    assert opset(node("Split", x, outputs=2, axis=1, num_outputs=2)[0]) == 18
    assert (
        opset(node("Conv", input("i", "bfloat16", [1, 1, 4]), input("w", "bfloat16", [1, 1, 2])))
        == 22
    )
    assert opset(node("Pad", x, [0, 1, 0, 1], mode="wrap")) == 19
    assert opset(node("Mod", x, x, fmod=1), node("Mod", [3], [2])) == 13
    assert opset(node("Mod", x, x)) == 28
    image, grid = input("i", "float32", [1, 1, 4, 4]), np.zeros((1, 2, 2, 2), "float32")
    assert opset(node("GridSample", image, grid)) == 16
    assert opset(node("GridSample", image, grid, mode="linear")) == 20
    assert opset(node("Cast", x, to="float8_e4m3fn", saturate=0)) == 19


def test_the_opset_can_be_said() -> None:
    x = input("x", "float32", [1, 1, 2, 2])
    assert graph_of(sketch([node("Relu", x)], opset=20)).opsets == {"": 20}
    up = node("Upsample", x, np.array([1, 1, 2, 2], "float32"))
    with pytest.raises(ArgumentError, match="Upsample as it is used here is in opset 9 alone"):
        sketch([up])
    assert graph_of(sketch([up], opset=9)).opsets == {"": 9}
    with pytest.raises(
        ArgumentError, match=r"Gelu .* is not in opset 13, but in opset 20 and later"
    ):
        sketch([node("Gelu", x)], opset=13)
    with pytest.raises(ArgumentError, match=r"no opset has both: ReduceMean .* 1-17, Gelu"):
        sketch([node("ReduceMean", node("Gelu", x), axes=[1])])
    with pytest.raises(ArgumentError, match="cannot be 0"):
        sketch([node("Relu", x)], opset={"ai.onnx": 0})


def test_the_version_of_the_format_is_the_lowest_that_fits() -> None:
    x = input("x", "float32", [2])
    assert graph_of(sketch([node("Relu", x)])).model.ir_version == 7
    assert graph_of(sketch([node("Relu", x)], ir_version=10)).model.ir_version == 10
    narrow = node("Cast", x, to="int4")
    assert graph_of(sketch([narrow])).model.ir_version == 10
    with pytest.raises(ArgumentError, match="ir_version cannot be 8, since it needs 10"):
        sketch([narrow], ir_version=8)


def test_an_array_used_twice_is_one_initializer() -> None:
    x = input("x", "float32", [2, 2])
    w, other = np.ones((2, 2), "float32"), np.ones((2, 2), "float32")
    built = sketch([(x @ w) @ w @ other + w + 1.0 + 1.0])
    assert list(built) == ["matmul_1_B", "matmul_3_B", "add_2_B"]
    named = initializer(w, name="tied")
    assert list(sketch([x @ w @ named])) == ["tied"]
    twice = sketch([x @ named @ initializer(w, name="copy")])
    assert list(twice) == ["tied", "copy"]


def test_arrays_are_read_when_the_model_is_written() -> None:
    class Counting(MemorySource):
        reads = 0

        def _read(self, start: int, stop: int) -> memoryview:
            Counting.reads += 1
            return super()._read(start, stop)

    values = np.random.default_rng(0).random((50, 50), np.float32)
    lazy = tk.Tensor(tk.dtype("float32"), (50, 50), Counting(values.tobytes()))
    built = model([input("x", "float32", [50, 50]) @ lazy])
    assert Counting.reads == 0
    assert np.allclose(compute(built, x=np.eye(50, dtype="float32"))[0], values)
    assert Counting.reads


def test_given_names() -> None:
    x = input("x", "float32", [4])
    y = node("Relu", x, name="conv_1")
    a, b = node("Split", y, outputs=2, axis=0, output_names=["left", "right"], name="split")
    built = model({"sum": a + b, "again": a + b, "left": a, "other": a, "x2": x}, name="named")
    read = official(built)
    assert [each.name for each in read.graph.output] == ["sum", "again", "left", "other", "x2"]
    assert {each.name for each in read.graph.node} >= {"conv_1", "split", "add_1", "add_2"}
    found = compute(built, x=np.arange(4, dtype="float32"))
    assert [part.tolist() for part in found] == [[2, 4], [2, 4], [0, 1], [0, 1], [0, 1, 2, 3]]


def test_made_names_avoid_given_ones() -> None:
    x = input("relu_1", "float32", [4])
    read = official(model([node("Relu", node("Relu", x, name="relu_1"))]))
    assert len({*read.graph.node[0].output, *read.graph.node[1].output, "relu_1"}) == 3
    assert len({each.name for each in read.graph.node}) == 2


def test_inputs_in_order() -> None:
    a, b = input("a", "float32", [2]), input("b", "float32", [2])
    assert [v.name for v in graph_of(sketch([b - a])).inputs] == ["a", "b"]
    unused = input("c", "int64", None)
    built = sketch([b - a], inputs=[b, unused.typed("int64", [1]), a])
    assert [v.name for v in graph_of(built).inputs] == ["b", "c", "a"]
    with pytest.raises(ArgumentError, match="uses a, which its inputs lack"):
        sketch([b - a], inputs=[b])


def test_outputs_that_nobody_uses_are_left_out() -> None:
    x = input("x", "float32", [3, 1, 2])
    w, r = np.ones((1, 8, 2), "float32"), np.ones((1, 8, 2), "float32")
    _, last, _ = node("LSTM", x, w, r, hidden_size=2, outputs=3)
    read = official(model([last]))
    assert list(read.graph.node[0].output) == ["", "lstm_1_1"]
    values, _ = node("TopK", x, [1], outputs=2)
    assert len(official(model([values])).graph.node[0].output) == 2


def test_split_is_told_how_many_parts_to_give() -> None:
    x = input("x", "float32", [4])
    a, b = node("Split", x, outputs=2)
    assert not official(model([a + b])).graph.node[0].attribute
    newer = model([a + b], opset=20)
    assert official(newer).graph.node[0].attribute[0].name == "num_outputs"
    assert compute(newer, x=np.arange(4, dtype="float32"))[0].tolist() == [2, 4]


def test_inputs_left_out() -> None:
    x = input("x", "float32", [4])
    read = official(model([node("Clip", x, None, 2.0)]))
    assert list(read.graph.node[0].input) == ["x", "", "clip_1_max"]
    assert compute(model([node("Clip", x, None, 2.0)]), x=np.arange(4, dtype="f"))[0].max() == 2
    assert list(official(model([node("Clip", x, None, None)])).graph.node[0].input) == ["x"]


def test_what_no_output_needs_is_left_out() -> None:
    x = input("x", "float32", [4])
    node("Sigmoid", x)
    assert len(graph_of(sketch([node("Relu", x)]))) == 1


def test_the_same_values_make_several_models() -> None:
    y = node("Relu", input("x", "float32", [4]))
    assert len(graph_of(sketch([y]))) == len(graph_of(sketch([y]))) == 1
    assert len(graph_of(sketch([y + 1]))) == 2


def test_a_deep_model() -> None:
    y = input("x", "float32", [1])
    for _ in range(3000):
        y = node("Relu", y)
    built = model([y.typed("float32", [1])], check=False)
    assert len(graph_of(built)) == 3000
    assert graph_of(built).model.graph.node[0].input == ["x"]


def test_names_that_onnx_lacks_become_functions() -> None:
    x = input("x", "float32", [2])
    built = model([node("Erfc", x)])
    assert graph_of(built).opsets == {"": 15, "tensorkeep.ops": 1}
    assert np.allclose(compute(built, x=np.array([0, 1], "float32"))[0], [1, 0.157299], atol=1e-5)


def test_domains_that_are_not_known_are_not_checked() -> None:
    x = input("x", "float32", [2])
    y = node("FusedThing", x, domain="com.example", power=2, mode="fast")
    built = model([y.typed("float32", [2])], opset={"com.example": 3})
    assert graph_of(built).opsets == {"": 13, "com.example": 3}
    assert graph_of(built).model.graph.node[0].domain == "com.example"
    with pytest.raises(ArgumentError, match="the type of the output 'fusedthing_1' is not known"):
        model([y])


def test_metadata_goes_with_it() -> None:
    built = model(
        [node("Relu", input("x", "float32", [2]))], metadata={"author": "A", "version": 2}
    )
    read = official(built)
    assert read.model_version == 2
    assert [(each.key, each.value) for each in read.metadata_props] == [("model_author", "A")]


_WITHOUT = """
import sys
sys.modules["onnx"] = None
import importlib.util as found
find = found.find_spec
found.find_spec = lambda name, *rest: None if name == "onnx" else find(name, *rest)
import numpy as np
import tensorkeep as tk
from tensorkeep.models.building import input, model, node
x = input("x", "float32", ["N", 4])
y = node("Softmax", node("Gemm", x, np.ones((4, 2), "float32")))
typed = model({"y": y.typed("float32", ["N", 2]), "size": node("Shape", x).typed("int64", [2])})
tk.save(typed, sys.argv[1])
print(model([y], check=False).graph)
for wrong in (y, node("EyeLike", x)):
    try:
        model([wrong])
    except tk.TensorKeepError as error:
        print(error)
assert not any(name.startswith(("onnx.", "google.protobuf")) for name in sys.modules)
"""


def test_without_the_onnx_package(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WITHOUT, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    bare, axes, kind = done.stdout.splitlines()
    assert bare == "Graph(2 nodes: x: float32[N, 4] -> softmax_1: float32)"
    assert axes.startswith("the number of axes of the output 'softmax_1' is not known")
    assert kind.startswith("the type of the output 'eyelike_1' is not known")
    assert kind.endswith("or install tensorkeep[onnx] to infer it.")
    with tk.open(path) as state:
        assert list(map(str, graph_of(state).outputs)) == ["y: float32[N, 2]", "size: int64[2]"]
