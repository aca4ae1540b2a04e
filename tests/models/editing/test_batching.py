from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.models.editing.networks import (
    convolutional,
    floats,
    info,
    model,
    proto_of,
    run,
    state_of,
)

from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.models.editing import batch


def _shapes(state: Any) -> dict[str, Any]:
    return {v.name: v.axes for v in (*state.graph.inputs, *state.graph.outputs)}


def test_types_and_constant_shapes_follow() -> None:
    changed = batch(state_of(convolutional()), "N")
    assert _shapes(changed) == {"x": ("N", 3, 8, 8), "y": ("N", 10)}
    assert changed["flat"].numpy().tolist() == [0, -1]
    back = batch(changed, 5)
    assert _shapes(back) == {"x": (5, 3, 8, 8), "y": (5, 10)}


def test_inferred_value_info_follows() -> None:
    proto = onnx.shape_inference.infer_shapes(convolutional())
    changed = proto_of(batch(state_of(proto), "batch"))
    dims = {r.name: r.type.tensor_type.shape.dim[0].dim_param for r in changed.graph.value_info}
    assert set(dims.values()) == {"batch"}


def test_shared_shape_is_changed_for_its_own_use_alone() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["a"]),
        helper.make_node("Reshape", ["k", "s"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    tensors = {"s": np.array([1, 4], "i8"), "k": np.ones((2, 2), "f4")}
    proto = model(nodes, [info("x", 1, 2, 2)], [info("y", 1, 4)], tensors)
    changed = batch(state_of(proto), "N")
    assert changed["s"].numpy().tolist() == [1, 4]
    assert changed["s.batch"].numpy().tolist() == [0, 4]
    proto_of(changed)


def test_what_cannot_follow_is_refused_or_told() -> None:
    nodes = [
        helper.make_node("Add", ["x", "k"], ["a"]),
        helper.make_node("MatMul", ["w", "a"], ["y"]),
    ]
    tensors = {"k": np.ones(4, "f4"), "w": np.ones((2, 2), "f4")}
    proto = model(nodes, [info("x", 2, 4)], [info("y", 2, 4)], tensors)
    with pytest.raises(UnsupportedError, match=r"cannot be changed everywhere: .*MatMul"):
        batch(state_of(proto), 3)
    assert _shapes(batch(state_of(proto), 3, partial=True))["x"] == (3, 4)


def _branches() -> list[onnx.NodeProto]:
    inner = (
        helper.make_node("Reshape", ["x", "s"], ["t"]),
        helper.make_node("Flatten", ["x"], ["e"]),
    )
    branches = {
        branch: helper.make_graph([node], branch, [], [info(node.output[0], 2, 64)])
        for branch, node in zip(("then_branch", "else_branch"), inner, strict=True)
    }
    return [helper.make_node("If", ["yes"], ["y"], **branches)]


def _node(op_type: str, *inputs: str, **attributes: Any) -> list[onnx.NodeProto]:
    return [helper.make_node(op_type, list(inputs), ["y"], **attributes)]


X4, LSTM = (2, 4, 16), {"W": floats(1, 32, 6), "R": floats(1, 32, 8), "h": floats(1, 2, 8)}
# Nodes, the axes of x and y, tensors, and what holds the batch of 2.
HOLDERS: dict[str, tuple[Any, ...]] = {
    "an array added": (_node("Add", "x", "k"), X4, X4, {"k": floats(*X4)}, "Add"),
    "an array joined": (
        _node("Concat", "x", "k", axis=1),
        (2, 4),
        (2, 6),
        {"k": floats(2, 2)},
        "Concat",
    ),
    "rows in one axis": (_node("Reshape", "x", "s"), X4, (8, 16), {"s": [8, 16]}, "y to .8, 16."),
    "rows that mix": (_node("Reshape", "x", "s"), X4, (8, 16), {"s": [8, -1]}, "y to .8, -1."),
    "a branch": (_branches(), X4, (None, None), {"s": [2, 64], "yes": [True]}, "t to .2, 64."),
    "a part": (_node("Slice", "x", "a", "b"), X4, X4, {"a": [0], "b": [2]}, "the output y has 2"),
    "a state": (
        _node("LSTM", "x", "W", "R", "", "", "h", hidden_size=8),
        (5, 2, 6),
        (5, 1, 2, 8),
        LSTM,
        "h of the LSTM y",
    ),
}


@pytest.mark.parametrize("size", ["N", 6])
@pytest.mark.parametrize("case", HOLDERS)
def test_what_holds_the_size_is_refused(case: str, size: Any) -> None:
    nodes, shape, given, tensors, problem = HOLDERS[case]
    kinds = {"s": "i8", "a": "i8", "b": "i8", "yes": "?"}
    arrays = {n: np.asarray(v, kinds.get(n, "f4")) for n, v in tensors.items()}
    proto = model(nodes, [info("x", *shape)], [info("y", *given)], arrays)
    with pytest.raises(UnsupportedError, match=problem):
        batch(state_of(proto), size, axis=shape.index(2))


def test_rows_in_one_axis_follow() -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["m"]),
        helper.make_node("Transpose", ["m"], ["t"], perm=[1, 0]),
        helper.make_node("Transpose", ["t"], ["u"], perm=[1, 0]),
        helper.make_node("Reshape", ["u", "r"], ["y"]),
    ]
    tensors = {"s": np.array([-1, 16]), "w": floats(16, 3), "r": np.array([-1, 4, 3])}
    proto = model(nodes, [info("x", *X4)], [info("y", 2, 4, 3)], tensors)
    proto = onnx.shape_inference.infer_shapes(proto)
    x = floats(6, 4, 16)
    parts = [run(state_of(proto), {"x": x[i : i + 2]})[0] for i in (0, 2, 4)]
    for size, rows in (("N", None), (6, 24)):
        changed = batch(state_of(proto), size)
        declared = {
            r.name: r.type.tensor_type.shape.dim for r in proto_of(changed).graph.value_info
        }
        assert declared["rows"][0].dim_value == declared["t"][1].dim_value == (rows or 0)
        np.testing.assert_allclose(run(changed, {"x": x})[0], np.concatenate(parts), rtol=1e-5)


def test_size_in_a_shape_that_needs_it() -> None:
    nodes = _node("Resize", "x", "", "", "size", mode="nearest")
    tensors = {"size": np.array([1, 3, 8, 8])}
    proto = model(nodes, [info("x", 1, 3, 4, 4)], [info("y", 1, 3, 8, 8)], tensors)
    changed = batch(state_of(proto), 3)
    assert changed["size"].numpy().tolist() == [3, 3, 8, 8]
    assert _shapes(changed) == {"x": (3, 3, 4, 4), "y": (3, 3, 8, 8)}
    with pytest.raises(UnsupportedError, match="the shape size of a Resize holds 1"):
        batch(state_of(proto), "N")


def test_inputs_that_differ() -> None:
    nodes = [helper.make_node("Add", ["x", "m"], ["y"])]
    proto = model(nodes, [info("x", 1, 4), info("m", 3, 4)], [info("y", 3, 4)], {})
    with pytest.raises(UnsupportedError, match="the input m has 3 there, x has 1"):
        batch(state_of(proto), 2)


@pytest.mark.parametrize("size", [0, -1, "", " ", "-1", "3", 1.5, True, None])
def test_no_size(size: Any) -> None:
    with pytest.raises(ArgumentError, match="the batch cannot be"):
        batch(state_of(convolutional()), size)


def test_no_axis() -> None:
    with pytest.raises(ArgumentError, match="no input has an axis 4"):
        batch(state_of(convolutional()), 2, axis=4)
    with pytest.raises(ArgumentError, match="axis of the batch cannot be -1"):
        batch(state_of(convolutional()), 2, axis=-1)


def test_works_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnx", None)
    data = batch(state_of(onnx_declared()), "N")
    assert _shapes(data) == {"x": ("N", 4), "y": ("N", 4)}


def onnx_declared() -> bytes:
    from tensorkeep.graph.schema import MODEL
    from tensorkeep.message import Message

    made = Message(MODEL, ir_version=8)
    made.add("opset_import", version=13)
    graph = made.make("graph", name="g")
    graph.add("node", op_type="Abs", input=["x"], output=["y"])
    for name in ("input", "output"):
        held = graph.add(name, name=name[0].replace("i", "x").replace("o", "y")).make("type")
        dims = held.make("tensor_type", elem_type=1).make("shape")
        dims.add("dim", dim_value=1)
        dims.add("dim", dim_value=4)
    return made.encode()
