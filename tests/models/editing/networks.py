"""Small networks that run: a convolutional one, and one with attention and a branch."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.state import State

Array = npt.NDArray[Any]
_RANDOM = np.random.default_rng(7)


def floats(*shape: int) -> Array:
    return _RANDOM.standard_normal(shape).astype(np.float32)


def info(name: str, *shape: Any, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    tensors: dict[str, Array],
    opset: int = 17,
    **options: Any,
) -> onnx.ModelProto:
    rows = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "network", inputs, outputs, rows, **options)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made)
    return made


@cache
def convolutional() -> onnx.ModelProto:
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "conv.w", "conv.b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "bn.s", "bn.b", "bn.m", "bn.v"], ["n"], name="bn"),
        node("Relu", ["n"], ["r"], name="relu"),
        node("Resize", ["r", "", "scales"], ["u"], name="resize", mode="nearest"),
        node("MaxPool", ["u"], ["p"], name="pool", kernel_shape=[4, 4], strides=[4, 4]),
        node("Reshape", ["p", "flat"], ["f"], name="flatten"),
        node("Gemm", ["f", "fc.w", "fc.b"], ["g"], name="fc"),
        node("Softmax", ["g"], ["y"], name="softmax"),
    ]
    tensors = {
        "conv.w": floats(8, 3, 3, 3),
        "conv.b": floats(8),
        "bn.s": floats(8),
        "bn.b": floats(8),
        "bn.m": floats(8),
        "bn.v": np.abs(floats(8)) + 1,
        "scales": np.array([1, 1, 2, 2], "f4"),
        "flat": np.array([1, -1], "i8"),
        "fc.w": floats(128, 10) / 10,
        "fc.b": floats(10),
    }
    return model(nodes, [info("x", 1, 3, 8, 8)], [info("y", 1, 10)], tensors)


@cache
def attention() -> onnx.ModelProto:
    """Attention over 4 tokens, then one of two branches that see the values around them."""
    node = helper.make_node

    def branch(operator: str) -> onnx.GraphProto:
        inner = [node(operator, ["a", "bias"], [f"{operator}.out"], name=f"{operator}.node")]
        return helper.make_graph(inner, operator, [], [info(f"{operator}.out", 1, 4, 8)])

    nodes = [
        node("MatMul", ["x", "q.w"], ["q"]),
        node("MatMul", ["x", "k.w"], ["k"]),
        node("MatMul", ["x", "v.w"], ["v"]),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["s"]),
        node("Softmax", ["s"], ["w"], axis=-1),
        node("MatMul", ["w", "v"], ["a"]),
        node("If", ["c"], ["i"], then_branch=branch("Add"), else_branch=branch("Mul")),
        node("ReduceSum", ["i", "axes"], ["y"], keepdims=0),
    ]
    tensors = {name: floats(8, 8) for name in ("q.w", "k.w", "v.w")}
    tensors |= {"bias": floats(8), "axes": np.array([2], "i8")}
    inputs = [info("x", 1, 4, 8), info("c", kind=TensorProto.BOOL)]
    return model(nodes, inputs, [info("y", 1, 4)], tensors)


NETWORKS = {"convolutional": convolutional, "attention": attention}
GIVEN = {
    "convolutional": {"x": floats(1, 3, 8, 8)},
    "attention": {"x": floats(1, 4, 8), "c": np.array(True)},
}


def state_of(proto: onnx.ModelProto | bytes) -> State:
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    return State.of_graph(Graph(Message.parse(MODEL, data)))


def encoded(state: State) -> bytes:
    assert state.graph is not None
    return state.graph.model.encode()


def proto_of(state: State) -> onnx.ModelProto:
    made = onnx.load_from_string(encoded(state))
    onnx.checker.check_model(made, full_check=True)
    return made


def run(state: State | onnx.ModelProto, given: dict[str, Array]) -> list[Array]:
    data = encoded(state) if isinstance(state, State) else state.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, given))
