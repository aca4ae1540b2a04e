"""Placed and named nodes as ONNX's messages: graphs, bodies in them, functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorkeep.graph import fill_tensor
from tensorkeep.graph.schema import FUNCTION, GRAPH
from tensorkeep.message import Message
from tensorkeep.models.building.attributes import (
    AttributeValue,
    Body,
    take_attribute,
    write_attribute,
)
from tensorkeep.models.building.functions import Function
from tensorkeep.models.building.meanings import SPLIT_COUNTS
from tensorkeep.models.building.naming import Names
from tensorkeep.models.building.placing import Placed, Scope
from tensorkeep.models.building.symbols import Node
from tensorkeep.models.ops import ONNX


def write_graph(placed: Placed, names: Names, name: str, opset: int) -> Message:
    """Give a whole graph as a GraphProto; its arrays are initializers of the outermost graph."""
    made = Message(GRAPH, name=name)
    _write_scope(made, placed.root, placed, names, opset)
    for constant in placed.constants:
        fill_tensor(
            made.add("initializer", name=names.values[constant, 0]),
            constant.tensor,
        )
    return made


def write_function(
    function: Function, placed: Placed, names: Names, opsets: Mapping[str, int]
) -> Message:
    """Give a function as a FunctionProto; its arrays are Constant nodes."""
    made = Message(FUNCTION, name=function.name, domain=function.domain)
    made["input"] = [names.of(symbol) for symbol in function.inputs]
    made["output"] = [names.of(symbol) for symbol in placed.root.outputs]
    made["attribute"] = [r.name for r in function.attributes.values() if r.default is None]
    for reference in function.attributes.values():
        if reference.default is not None:
            given = AttributeValue(reference.name, reference.kind, reference.default)
            made["attribute_proto"] = [*made.attribute_proto, write_attribute(given, _no_graph)]
    for constant in placed.constants:
        name = names.values[constant, 0]
        node = made.add("node", op_type="Constant", name=name, output=[name])
        value = take_attribute("value", constant.tensor, "tensor", "Constant's")
        node["attribute"] = [write_attribute(value, _no_graph)]
    _write_nodes(made, placed.root, placed, names, opsets[ONNX])
    if function.doc:
        made.doc_string = function.doc
    for domain, version in opsets.items():
        made.add("opset_import", domain=domain, version=version)
    return made


def _write_scope(made: Message, scope: Scope, placed: Placed, names: Names, opset: int) -> None:
    _write_nodes(made, scope, placed, names, opset)
    for field, symbols in (("input", scope.inputs), ("output", scope.outputs)):
        for symbol in symbols:
            value = made.add(field, name=names.of(symbol))
            if symbol.type is not None:
                value["type"] = symbol.type.message()


def _write_nodes(made: Message, scope: Scope, placed: Placed, names: Names, opset: int) -> None:
    for node in scope.nodes:
        _write_node(made.add("node"), node, placed, names, opset)


def _write_node(made: Message, node: Node, placed: Placed, names: Names, opset: int) -> None:
    made["input"] = [names.of(symbol) for symbol in node.inputs]
    outputs = [names.values.get((node, place), "") for place in range(node.outputs)]
    while len(outputs) > 1 and not outputs[-1]:
        outputs.pop()
    made["output"] = outputs
    made.name = names.nodes[node]
    made.op_type = node.op_type
    if node.domain:
        made.domain = node.domain
    if node.doc:
        made.doc_string = node.doc

    def graph_of(body: Body) -> Message:
        inner = Message(GRAPH, name=body.name or f"{names.nodes[node]}_body")
        _write_scope(inner, placed.bodies[body], placed, names, opset)
        return inner

    attributes = [*node.attributes, *_counted(node, opset)]
    made["attribute"] = [write_attribute(each, graph_of) for each in attributes]


def _counted(node: Node, opset: int) -> list[AttributeValue]:
    """Tell Split how many parts to give, where its inputs and attributes do not."""
    told = len(node.inputs) > 1 or any(each.name == "num_outputs" for each in node.attributes)
    if (node.domain, node.op_type) != (ONNX, "Split") or opset < SPLIT_COUNTS or told:
        return []
    return [AttributeValue("num_outputs", "int", node.outputs)]


def _no_graph(_: Any) -> Message:
    raise AssertionError("a default is no graph")
