"""A Graph: what goes in and comes out, where its tensors are, and copies of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.formats.onnx import models

import tensorkeep as tk
from tensorkeep.errors import MissingError
from tensorkeep.graph import Graph, walk_graphs, walk_nodes
from tensorkeep.graph.schema import MODEL, NODE
from tensorkeep.graph.walking import may_hold
from tensorkeep.message import Message
from tensorkeep.state import State


def array(name: str, size: int = 2) -> Any:
    return numpy_helper.from_array(np.zeros(size, np.float32), name)


def graph_of(proto: Any) -> Graph:
    return Graph(Message.parse(MODEL, models.encode(proto)), where="m.onnx")


def full() -> Any:
    """Make a model with tensors in every kind of place."""
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["k"], value=array("t"))], "then", [], [], [array("s")]
    )
    sparse = helper.make_sparse_tensor(
        array("sp", 1), numpy_helper.from_array(np.zeros(1, int)), [4]
    )
    odd = helper.make_node("Odd", ["x"], ["o"], name="odd")
    odd.attribute.append(helper.make_attribute("many", [array("a"), array("b")]))
    odd.attribute.append(helper.make_attribute("sparse", sparse))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=array("t")),
        helper.make_node("If", ["b"], ["i"], name="if", then_branch=inner, else_branch=inner),
        helper.make_node("Sink", ["x"], [], value=array("t")),
        helper.make_node("Relu", ["x"], ["r"]),
        odd,
    ]
    body = [helper.make_node("Constant", [], ["k"], name="n", value=array(""))]
    function = helper.make_function("own", "F", [], ["k"], body, [helper.make_opsetid("", 18)])
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", 1, ["n", 2, None]),
            helper.make_tensor_value_info("w", 1, [2]),
            helper.make_tensor_value_info("unranked", 10, None),
            helper.make_value_info("seq", helper.make_sequence_type_proto(onnx.TypeProto())),
            helper.make_value_info("empty", onnx.TypeProto()),
        ],
        [helper.make_tensor_value_info("y", 7, [])],
        [array("w"), array("w"), array("")],
        sparse_initializer=[sparse],
    )
    opsets = [helper.make_opsetid("ai.onnx", 18), helper.make_opsetid("own", 1)]
    proto = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    overloaded = proto.functions.add()
    overloaded.CopyFrom(proto.functions[0])
    overloaded.overload = "fast"
    proto.training_info.add().algorithm.initializer.append(array("w"))
    return proto


def test_names_of_tensors() -> None:
    assert list(graph_of(full()).tensors) == [
        "w",
        "w~2",
        "",
        "sp/values",
        "sp/indices",
        "c.value",
        "if.else_branch/s",
        "if.else_branch/k.value",
        "if.then_branch/s",
        "if.then_branch/k.value",
        "Sink#2.value",
        "odd.many.0",
        "odd.many.1",
        "odd.sparse/values",
        "odd.sparse/indices",
        "training.0.algorithm/w",
        "own::F/n.value",
        "own::F:fast/n.value",
    ]


def test_what_goes_in_and_comes_out() -> None:
    graph = graph_of(full())
    assert list(map(str, graph.inputs)) == [
        "x: float32[n, 2, ?]",
        "unranked: float16",
        "seq: sequence",
        "empty: unknown",
    ]
    assert [str(value) for value in graph.outputs] == ["y: int64[]"]
    assert graph.outputs[0].axes == ()
    assert graph.opsets == {"": 18, "own": 1}
    assert (len(graph), bool(graph)) == (5, True)
    assert repr(graph).startswith("Graph(5 nodes: x: float32[n, 2, ?], ")


def test_every_graph_and_node_is_walked() -> None:
    model = graph_of(full()).model
    assert [graph.name for graph in walk_graphs(model)] == ["g", "then", "then", ""]
    kinds = [node.op_type for node in walk_nodes(model)]
    assert sorted(kinds) == sorted([*["Constant"] * 5, "If", "Sink", "Relu", "Odd"])


def test_a_copy_is_changed_on_its_own() -> None:
    graph = graph_of(full())
    before = graph.model.encode()
    fresh = graph.copy()
    fresh.model.graph.node[0].attribute[0].t.name = "changed"
    fresh.model.graph.initializer[0].name = "v"
    assert "v" in fresh.tensors
    assert "v" not in graph.tensors
    assert graph.model.encode() == before
    assert fresh.tensors["v"].source is graph.tensors["w"].source


def test_a_state_of_a_changed_model_keeps_the_digests_of_what_stayed() -> None:
    with tk.open(models.at(models.encode(full()))) as state:
        digests = models.saved(state, checksums=True)
    with tk.open(models.at(digests)) as state:
        assert state.graph is not None
        fresh = state.graph.copy()
        fresh.model.graph.initializer[0].raw_data = np.ones(2, np.float32).tobytes()
        changed = State.of_graph(fresh, state)
        assert set(state.digests) - set(changed.digests) == {"w"}
        again = models.saved(changed, checksums=True)
    found = tk.load(models.at(again), verify=True)
    assert found["w"].tolist() == [1, 1]
    assert found["w~2"].tolist() == [0, 0]


def test_a_graph_is_made_of_a_model() -> None:
    with pytest.raises(TypeError, match="made of a ModelProto, not of a NodeProto"):
        Graph(Message(NODE))


def test_the_short_way_to_see_what_nodes_hold() -> None:
    """It skips what has neither tensors nor graphs, and nothing else, in every model there is."""
    for name, data in {**models.generated(), "full": models.encode(full())}.items():
        theirs = onnx.ModelProto.FromString(data).graph.node
        ours = Message.parse(MODEL, data).graph.node
        for node, message in zip(theirs, ours, strict=True):
            assert may_hold(message) == any(map(_holds, node.attribute)), name


def _holds(attribute: Any) -> bool:
    one = any(attribute.HasField(field) for field in ("t", "g", "sparse_tensor"))
    return bool(one or attribute.tensors or attribute.graphs or attribute.sparse_tensors)


def test_bytes_that_look_like_what_holds_a_tensor() -> None:
    node = helper.make_node("Odd", ["*" * 300], ["y"], a=1, b=[1.0] * 50, c="*2R", d=["Z"])
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    assert not may_hold(Message.parse(MODEL, models.encode(model)).graph.node[0])


def test_a_tensor_in_another_file_of_a_model_in_no_folder() -> None:
    proto = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    proto.external_data.add(key="location", value="w.bin")
    graph = graph_of(helper.make_model(helper.make_graph([], "g", [], [], [proto])))
    assert graph.remarks == {"w": "in w.bin, which is missing"}
    with pytest.raises(MissingError, match="the model is in no folder"):
        graph.tensors["w"].numpy()
