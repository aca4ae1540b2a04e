"""A model of one operator, for examples."""

from __future__ import annotations

from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL, OPSET
from tensorkeep.message import Message
from tensorkeep.state import State


def doubling() -> State:
    """Give a model that adds a float32 vector to itself.

    >>> doubling().graph
    Graph(1 node: x: float32[N] -> y: float32[N])
    """
    model = Message(MODEL, ir_version=8)
    model.opset_import = [Message(OPSET, domain="", version=17)]
    graph = model.make("graph", name="doubling")
    for field, name in (("input", "x"), ("output", "y")):
        held = graph.add(field, name=name).make("type").make("tensor_type", elem_type=1)
        held.make("shape").add("dim", dim_param="N")
    graph.add("node", op_type="Add", input=["x", "x"], output=["y"])
    return State.of_graph(Graph(model))
