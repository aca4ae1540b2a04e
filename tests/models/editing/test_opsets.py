from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, version_converter
from tests.models.editing.networks import (
    GIVEN,
    attention,
    convolutional,
    encoded,
    floats,
    info,
    model,
    proto_of,
    run,
    state_of,
)

import tensorkeep as tk
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.models.editing import convert_opset
from tensorkeep.models.opening import graph_of


def test_unchanged_nodes_are_the_same_bytes() -> None:
    before = convolutional()
    after = proto_of(convert_opset(state_of(before), 21))
    assert after.opset_import[0].version == 21
    assert [n.SerializeToString() for n in before.graph.node] == [
        n.SerializeToString() for n in after.graph.node
    ]


def test_changed_nodes_are_what_the_converter_makes() -> None:
    nodes = [
        helper.make_node("Clip", ["x"], ["a"], name="clip", min=-1.0, max=1.0),
        helper.make_node("Dropout", ["a"], ["b"], name="drop", ratio=0.3),
        helper.make_node("Scatter", ["b", "i", "u"], ["s"], name="scatter", axis=1),
        helper.make_node("ReduceSum", ["s"], ["y"], name="sum", axes=[1]),
    ]
    tensors = {"i": np.array([[1, 0]], "i8"), "u": floats(1, 2)}
    proto = model(nodes, [info("x", 1, 4)], [info("y", 1, 1)], tensors, opset=10)
    state, given = state_of(proto), {"x": floats(1, 4)}
    changed = convert_opset(state, 18)
    made = proto_of(changed)
    plain = version_converter.convert_version(proto, 18)
    assert [n.op_type for n in made.graph.node] == [n.op_type for n in plain.graph.node]
    names = {n.op_type: n.name for n in made.graph.node if n.name}
    assert names == {
        "Clip": "clip", "Dropout": "drop", "ScatterElements": "scatter", "ReduceSum": "sum",
    }  # fmt: skip
    assert "s" in made.graph.node[-1].input
    np.testing.assert_array_equal(run(changed, given)[0], run(state, given)[0])


def test_down_with_constants_that_the_converter_reads() -> None:
    axes = helper.make_node(
        "Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.array([1]))
    )
    nodes = [
        axes,
        helper.make_node("ReduceSum", ["x", "k"], ["a"]),
        helper.make_node("ReduceSum", ["a", "axes"], ["y"]),
    ]
    proto = model(nodes, [info("x", 2, 3)], [info("y", 1, 1)], {"axes": np.array([0])}, opset=13)
    state, given = state_of(proto), {"x": floats(2, 3)}
    changed = convert_opset(state, 12)
    made = proto_of(changed)
    assert [(n.op_type, len(n.input)) for n in made.graph.node] == [("ReduceSum", 1)] * 2
    assert not made.graph.initializer
    np.testing.assert_array_equal(run(changed, given)[0], run(state, given)[0])


def test_values_keep_their_names_also_for_branches() -> None:
    def branch(operator: str, **more: Any) -> onnx.GraphProto:
        node = helper.make_node(operator, ["s"], [operator], **more)
        return helper.make_graph([node], operator, [], [info(operator, 1, 4)])

    nodes = [
        helper.make_node("Scatter", ["x", "i", "u"], ["s"], axis=1),
        helper.make_node(
            "If", ["c"], ["b"], then_branch=branch("Abs"), else_branch=branch("Clip", min=0.0)
        ),
        helper.make_node("Scatter", ["b", "i", "u"], ["t"], axis=1),
        helper.make_node("If", ["c"], ["y"], then_branch=branch("Neg"), else_branch=branch("Exp")),
    ]
    tensors = {"i": np.array([[1, 0]], "i8"), "u": floats(1, 2)}
    inputs = [info("x", 1, 4), info("c", kind=onnx.TensorProto.BOOL)]
    proto = model(nodes, inputs, [info("y", 1, 4), info("t", 1, 4)], tensors, opset=10)
    changed = convert_opset(state_of(proto), 18)
    made = proto_of(changed)
    assert [list(node.output) for node in made.graph.node] == [["s"], ["b"], ["t"], ["y"]]
    for c in (True, False):
        given = {"x": floats(1, 4), "c": np.array(c)}
        for now, was in zip(run(changed, given), run(proto, given), strict=True):
            np.testing.assert_array_equal(now, was)


def test_subgraphs_are_converted() -> None:
    changed = convert_opset(state_of(attention()), 21)
    proto_of(changed)
    given = GIVEN["attention"]
    np.testing.assert_allclose(run(changed, given)[0], run(attention(), given)[0], atol=1e-6)


def test_function_that_has_to_change_is_converted() -> None:
    body = [helper.make_node("ReduceSum", ["v"], ["out"], axes=[1])]
    function = helper.make_function(
        "my", "Sum", ["v"], ["out"], body, [helper.make_opsetid("", 12)], []
    )
    nodes = [helper.make_node("Sum", ["x"], ["y"], domain="my")]
    graph = helper.make_graph(nodes, "g", [info("x", 2, 3)], [info("y", 2, 1)])
    sets = [helper.make_opsetid("", 12), helper.make_opsetid("my", 1)]
    proto = helper.make_model(graph, opset_imports=sets, functions=[function], ir_version=8)
    changed = convert_opset(state_of(proto), 13)
    made = onnx.load_from_string(encoded(changed)).functions[0]
    assert made.opset_import[0].version == 13
    assert [n.op_type for n in made.node] == ["Constant", "ReduceSum"]
    given = {"x": floats(2, 3)}
    np.testing.assert_array_equal(run(changed, given)[0], run(state_of(proto), given)[0])


def test_function_that_stays_as_it_is_has_the_version_of_the_model() -> None:
    body = [
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["v", "two"], ["out"]),
    ]
    imports = [helper.make_opsetid("", 17)]
    function = helper.make_function("my", "Twice", ["v"], ["out"], body, imports, [])
    nodes = [helper.make_node("Twice", ["x"], ["y"], domain="my")]
    graph = helper.make_graph(nodes, "g", [info("x", 2, 3)], [info("y", 2, 3)])
    sets = [*imports, helper.make_opsetid("my", 1)]
    proto = helper.make_model(graph, opset_imports=sets, functions=[function], ir_version=8)
    changed = onnx.load_from_string(encoded(convert_opset(state_of(proto), 21)))
    onnx.checker.check_model(changed, full_check=True)
    assert changed.functions[0].opset_import[0].version == 21
    assert changed.functions[0].node == function.node


def test_large_tensors_are_not_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "big.onnx"
    nodes = [
        helper.make_node("Gather", ["w", "x"], ["g"]),
        helper.make_node("ReduceSum", ["g"], ["y"], axes=[1]),
    ]
    inputs = [info("x", 1, kind=onnx.TensorProto.INT64)]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", 1, 1)])
    size = 3 << 30
    w = graph.initializer.add(name="w", data_type=1, dims=[3 << 10, 1 << 18], data_location=1)
    for key, value in {"location": "w.bin", "offset": "0", "length": str(size)}.items():
        w.external_data.add(key=key, value=value)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8)
    path.write_bytes(proto.SerializeToString())
    with open(tmp_path / "w.bin", "wb") as file:
        file.truncate(size)  # a hole
    with tk.open(path) as state:
        tk.save(convert_opset(state, 18), path)
    assert (tmp_path / "w.bin").stat().st_size == size
    onnx.checker.check_model(str(path), full_check=True)
    with tk.open(path) as state:
        assert state["w"].nbytes == size
        assert graph_of(state).opsets == {"": 18}


def test_reason_of_the_converter_is_told() -> None:
    node = helper.make_node("Gelu", ["x"], ["y"])
    proto = model([node], [info("x", 1)], [info("y", 1)], {}, opset=20)
    with pytest.raises(UnsupportedError, match=r"from operator set 20 to 17: .*Gelu"):
        convert_opset(state_of(proto), 17)


@pytest.mark.parametrize("version", [0, 999, True, "13"])
def test_no_such_version(version: int) -> None:
    with pytest.raises(ArgumentError, match="no operator set"):
        convert_opset(state_of(convolutional()), version)
