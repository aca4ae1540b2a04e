"""What has to hold of every graph that is to be drawn, and the models that it is tried with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tensorkeep import State
from tensorkeep.demo.network import initial
from tensorkeep.viewer.answers import Graph, Part
from tensorkeep.viewer.graphs.bounds import LONGEST, MOST_NODES

INT, FLOAT, BOOL = TensorProto.INT64, TensorProto.FLOAT, TensorProto.BOOL


def check(graph: Graph, state: State) -> None:
    """Check that references lead somewhere, and that the answer is bounded text."""
    count, names = len(graph.parts), list(state)
    owners = {part for each in graph.parts for node in each.nodes for part in node.parts}
    assert all(0 <= part < count for part in owners)
    for part in graph.parts:
        assert part.kind in ("graph", "subgraph", "function", "net")
        assert all(0 <= place < len(names) for place in part.tensors.values())
        for node in part.nodes:
            for attribute in node.attributes:
                assert attribute.part is None or attribute.part in node.parts
                assert attribute.tensor is None or 0 <= attribute.tensor < len(names)
    assert sum(len(part.nodes) for part in graph.parts) <= MOST_NODES
    assert max(map(len, texts(asdict(graph))), default=0) <= LONGEST
    json.dumps(asdict(graph), ensure_ascii=False, allow_nan=False).encode()


def texts(value: object) -> Iterator[str]:
    """Give every text in an answer."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from (key, *texts(each))
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)


def sources(part: Part) -> dict[str, str]:
    """Give where each value of a part comes from; each comes from one place alone."""
    found: dict[str, str] = dict.fromkeys(part.tensors, "weight")
    rows = [(value.name, "input") for value in part.inputs]
    for place, node in enumerate(part.nodes):
        rows += [(name, f"node {place}") for name in node.outputs if name]
    for name, source in rows:
        assert name not in found, name
        found[name] = source
    return found


def loose(part: Part) -> set[str]:
    """Give the values that a part takes from around it."""
    known = sources(part)
    taken = {name for node in part.nodes for name in node.inputs if name}
    return (taken | {value.name for value in part.outputs}) - known.keys()


def save(model: ModelProto, path: Path) -> Path:
    """Write an ONNX model."""
    path.write_bytes(model.SerializeToString())
    return path


def digits_classifier() -> ModelProto:
    """Make the network of the demo, as an ONNX model."""
    weights = initial(np.random.default_rng(0))
    nodes = [
        helper.make_node("Conv", ["image", "conv.weight", "conv.bias"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "hidden.weight", "hidden.bias"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["g"]),
        helper.make_node("Gemm", ["g", "output.weight", "output.bias"], ["scores"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", FLOAT, ["count", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", FLOAT, ["count", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
