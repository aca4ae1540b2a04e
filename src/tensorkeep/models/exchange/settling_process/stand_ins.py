"""Nodes that inference can do, for those of operators whose version has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
from onnx import NodeProto, TensorProto

# Operators without inference, and the version whose inference does for them after a change.
_SAME = frozenset(
    (
        *("Abs", "Add", "BatchNormalization", "Ceil", "Clip", "Div", "Dropout", "Elu", "Exp"),
        *("Floor", "GroupNormalization", "HardSigmoid", "InstanceNormalization", "LeakyRelu"),
        *("Log", "Max", "Mean", "MeanVarianceNormalization", "Min", "Mul", "Neg", "PRelu"),
        *("Reciprocal", "Relu", "Selu", "Sigmoid", "Sqrt", "Sub", "Sum", "Tanh"),
    )
)
_NEWER = {
    "Cast": 6,
    "Concat": 4,
    "Gemm": 7,
    "GlobalLpPool": 2,
    "GreaterOrEqual": 16,
    "LessOrEqual": 16,
    "LpPool": 2,
    "Pad": 2,
    "Reshape": 5,
    "Split": 2,
    "Upsample": 7,
}


_SHAPE = "its shape"  # the input that a Reshape has instead of an attribute


def stand_in(node: NodeProto) -> tuple[NodeProto, int]:
    """Give a node with the same result for inference, and its version; 0: that of its input."""
    if node.op_type in _SAME:
        return node, 0
    if node.op_type not in _NEWER:
        return node, -1
    made = NodeProto()
    made.CopyFrom(node)
    _CHANGES.get(node.op_type, lambda _: None)(made)
    return made, _NEWER[node.op_type]


def given_shape(node: NodeProto, asked: NodeProto) -> TensorProto | None:
    """Give the second input of a Reshape that stands in for one with an attribute."""
    if _SHAPE not in asked.input:
        return None
    shape = [n for row in node.attribute if row.name == "shape" for n in row.ints]
    return onnx.helper.make_tensor(_SHAPE, TensorProto.INT64, [len(shape)], shape)


def _change_reshape(node: NodeProto) -> None:
    _only(node)
    node.input.append(_SHAPE)


def _change_cast(node: NodeProto) -> None:
    to = next((row.s.decode("ascii", "replace") for row in node.attribute if row.name == "to"), "")
    _only(node, to=TensorProto.DataType.Value(to) if to in TensorProto.DataType.keys() else 0)


def _change_concat(node: NodeProto) -> None:
    if not any(row.name == "axis" for row in node.attribute):
        node.attribute.append(onnx.helper.make_attribute("axis", 1))


def _change_pad(node: NodeProto) -> None:
    _only(node, pads=[n for row in node.attribute if row.name == "paddings" for n in row.ints])


def _change_upsample(node: NodeProto) -> None:
    given = {row.name: row.f for row in node.attribute}
    _only(node, scales=[1.0, 1.0, given.get("height_scale", 1.0), given.get("width_scale", 1.0)])


def _only(node: NodeProto, **attributes: Any) -> None:
    del node.attribute[:]
    node.attribute.extend(onnx.helper.make_attribute(k, v) for k, v in attributes.items())


def _drop(*names: str) -> Callable[[NodeProto], None]:
    def change(node: NodeProto) -> None:
        kept = [row for row in node.attribute if row.name not in names]
        _only(node)
        node.attribute.extend(kept)

    return change


_CHANGES: dict[str, Callable[[NodeProto], None]] = {
    "Cast": _change_cast,
    "Concat": _change_concat,
    "Gemm": _drop("broadcast"),
    "GlobalLpPool": _drop("p"),
    "LpPool": _drop("p"),
    "Pad": _change_pad,
    "Reshape": _change_reshape,
    "Upsample": _change_upsample,
}
