from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.models.editing.networks import convolutional, info, model, proto_of, state_of

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


def test_inputs_that_differ() -> None:
    nodes = [helper.make_node("Add", ["x", "m"], ["y"])]
    proto = model(nodes, [info("x", 1, 4), info("m", 3, 4)], [info("y", 3, 4)], {})
    with pytest.raises(UnsupportedError, match="the input m has 3 there, x has 1"):
        batch(state_of(proto), 2)


@pytest.mark.parametrize("size", [0, -1, "", 1.5, True, None])
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
