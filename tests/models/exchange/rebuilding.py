"""A model made of a settled one, to compare what both give."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, defs, helper, numpy_helper

from tensorkeep import dtypes
from tensorkeep.graph import NUMBERS
from tensorkeep.models.exchange.settled import Node, Settled
from tensorkeep.tensor import Tensor


def rebuild(settled: Settled, opset: int) -> onnx.ModelProto | None:
    """Give the model; None where a node is of another version than the opset has."""
    graph = onnx.GraphProto(name="rebuilt")
    for name in settled.inputs:
        graph.input.append(_value(settled, name))
    for name, tensor in settled.constants.items():
        if name not in settled.inputs:
            graph.initializer.append(_proto(tensor, name))
    for node in settled.nodes:
        if node.domain == "" and not _is_of(node, opset):
            return None
        graph.node.append(_node(node))
    for name in settled.outputs:
        graph.output.append(_value(settled, name))
    given = set(settled.outputs)
    for node in settled.nodes:
        for name in node.outputs:
            if name in settled.shapes and name in settled.types and name not in given:
                graph.output.append(_value(settled, name))
                given.add(name)
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(d, 1) for d in {node.domain for node in settled.nodes} if d]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def _is_of(node: Node, opset: int) -> bool:
    return bool(defs.get_schema(node.operator, opset, "").since_version == node.since)


def _value(settled: Settled, name: str) -> onnx.ValueInfoProto:
    if name not in settled.types:
        return onnx.ValueInfoProto(name=name)
    number = NUMBERS[dtypes.dtype(settled.types[name])]
    return helper.make_tensor_value_info(name, number, settled.shapes.get(name))


def _proto(tensor: Tensor, name: str) -> TensorProto:
    number = NUMBERS[tensor.dtype]
    if tensor.dtype is dtypes.STRING:
        return helper.make_tensor(
            name, number, tensor.shape, [str(s) for s in tensor.numpy().reshape(-1)]
        )
    return TensorProto(
        name=name, data_type=number, dims=tensor.shape, raw_data=bytes(tensor.read())
    )


def _node(node: Node) -> onnx.NodeProto:
    made = onnx.NodeProto(op_type=node.operator, domain=node.domain, name=node.name)
    made.input.extend(node.inputs)
    made.output.extend(node.outputs)
    for key, value in node.attributes.items():
        made.attribute.append(_attribute(node, key, value))
    return made


def _attribute(node: Node, key: str, value: Any) -> onnx.AttributeProto:
    if value == ():
        kind = defs.get_schema(node.operator, node.since, node.domain).attributes[key].type
        return onnx.AttributeProto(name=key, type=kind.value)
    if isinstance(value, Tensor):
        return helper.make_attribute(key, _proto(value, key))
    if hasattr(value, "schema"):
        kind = {"GraphProto": ("g", 5), "TypeProto": ("tp", 13)}[value.schema.name]
        made = onnx.AttributeProto(name=key, type=kind[1])
        getattr(made, kind[0]).ParseFromString(value.encode())
        return made
    return helper.make_attribute(key, value)


def plain(value: Any) -> npt.NDArray[Any]:
    """Give the array of an input or output of a case."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
