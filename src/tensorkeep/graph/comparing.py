"""What differs between two models besides the values of their tensors, place by place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from tensorkeep.graph.codec import clear_tensor
from tensorkeep.graph.graph import Graph, value_of
from tensorkeep.graph.walking import TRAINING_PARTS, function_name, node_name
from tensorkeep.message import Message

ABSENT = "absent"
_FEW = 64 << 10
_SHOWN = 8  # numbers of a list

_MODEL = ("ir_version", "producer_name", "producer_version", "domain", "model_version")
_TENSORS = ("t", "sparse_tensor", "tensors", "sparse_tensors")
_GRAPHS = ("g", "graphs")


class Changed(NamedTuple):
    """A place of a model, and what is there on both sides."""

    place: str
    a: str
    b: str


class _Part(NamedTuple):
    message: Message
    show: Callable[[Message], str]


def compare(a: Graph | None, b: Graph | None) -> Iterator[Changed]:
    """Give what differs between two models: nodes, inputs, outputs, opsets, functions and the rest.

    Nodes are matched by name, those without by their first output. Tensors and metadata_props are
    compared elsewhere.

    >>> from tensorkeep.graph.schema import MODEL
    >>> list(compare(*(Graph(Message(MODEL, ir_version=version)) for version in (8, 10))))
    [Changed(place='ir_version', a='8', b='10')]
    """
    if a is None or b is None:
        if a is not b:
            yield Changed("graph", *(ABSENT if side is None else repr(side) for side in (a, b)))
        return
    parts_a, parts_b = dict(_model_parts(a.model)), dict(_model_parts(b.model))
    for place in dict.fromkeys((*parts_a, *parts_b)):
        one, other = parts_a.get(place), parts_b.get(place)
        if one is None or other is None or not _same(one, other):
            shown = [ABSENT if part is None else _shown(part) for part in (one, other)]
            if shown[0] == shown[1]:
                shown = [f"{text} (in what is not shown here)" for text in shown]
            yield Changed(place, *shown)


def _shown(part: _Part | str) -> str:
    return part if isinstance(part, str) else part.show(part.message)


def _same(a: _Part | str, b: _Part | str) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    bytes_a, bytes_b = a.message.glance(_FEW), b.message.glance(_FEW)
    if bytes_a is not None and bytes_a == bytes_b:
        return True
    return _without_tensors(a.message) == _without_tensors(b.message)


def _without_tensors(message: Message) -> Message:
    """Give a node or another part without values of tensors, and without the graphs in it."""
    if "attribute" not in message.schema.by_name:
        return message
    bare = message.copy()
    for attribute in bare.attribute:
        if not isinstance(attribute, Message):  # the names of a function's attributes
            break
        for name in _GRAPHS:
            if name in attribute:
                attribute.drop(name)
        for name in _TENSORS:
            if name in attribute:
                held = attribute[name]
                for tensor in held if isinstance(held, list) else [held]:
                    _clear(tensor)
    return bare


def _clear(message: Message) -> None:
    if "values" in message.schema.by_name:  # a sparse one is made of two
        for name in ("values", "indices"):
            if name in message:
                clear_tensor(message[name])
    else:
        clear_tensor(message)


def _model_parts(model: Message) -> Iterator[tuple[str, _Part | str]]:
    for name in _MODEL:
        if name in model:
            yield name, str(model[name])
    if "doc_string" in model:
        yield "doc_string", repr(model.doc_string)
    for row in model.opset_import:
        yield f"opset {row.domain or 'ai.onnx'}", str(row.version)
    if "graph" in model:
        yield from _graph_parts(model.graph, "")
    for place, training in enumerate(model.training_info):
        for part in TRAINING_PARTS:
            if part in training:
                yield from _graph_parts(training[part], f"training.{place}.{part}/")
        for part in ("initialization_binding", "update_binding"):
            for entry in training[part]:
                yield f"training.{place}.{part} {entry.key}", entry.value
    for function in model.functions:
        yield from _function_parts(function)
    for number, configuration in enumerate(model.configuration):
        yield f"configuration {configuration.name or number}", _Part(configuration, repr)
    for number, data in enumerate(model.unknown()):
        yield f"unknown fields {number}", data.hex()[:64]


def _function_parts(function: Message) -> Iterator[tuple[str, _Part | str]]:
    name = function_name(function)
    heads = ("input", "output", "attribute")
    yield f"function {name}", "; ".join(f"{head} {', '.join(function[head])}" for head in heads)
    for attribute in function.attribute_proto:
        yield f"{name}/{attribute.name}", _Part(attribute, _show_attribute)
    for row in function.opset_import:
        yield f"{name}/opset {row.domain or 'ai.onnx'}", str(row.version)
    yield from _node_parts(function.node, f"{name}/")


def _graph_parts(graph: Message, prefix: str) -> Iterator[tuple[str, _Part | str]]:
    for name in ("name", "doc_string"):
        if name in graph:
            yield f"{prefix}graph.{name}", repr(graph[name])
    for title in ("input", "output", "value_info"):
        for value in graph[title]:
            yield f"{prefix}{title} {value.name}", _Part(value, _show_value)
    for note in graph.quantization_annotation:
        yield f"{prefix}quantization of {note.tensor_name}", _Part(note, repr)
    for entry in graph.metadata_props:
        yield f"{prefix}graph.metadata {entry.key}", entry.value
    yield from _node_parts(graph.node, prefix)


def _node_parts(nodes: list[Message], prefix: str) -> Iterator[tuple[str, _Part | str]]:
    seen: dict[str, int] = {}
    for index, node in enumerate(nodes):
        name = f"{prefix}{node_name(node, index)}"
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            name = f"{name}~{seen[name]}"
        yield f"node {name}", _Part(node, _show_node)
        for attribute in node.attribute:
            if "g" in attribute:
                yield from _graph_parts(attribute.g, f"{name}.{attribute.name}/")
            for place, graph in enumerate(attribute.graphs):
                yield from _graph_parts(graph, f"{name}.{attribute.name}.{place}/")


def _show_node(node: Message) -> str:
    kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    attributes = ", ".join(
        f"{attribute.name}={_show_attribute(attribute)}" for attribute in node.attribute
    )
    text = f"{kind}({', '.join(node.input)}) -> {', '.join(node.output)}"
    return f"{text} {{{attributes}}}" if attributes else text


def _show_attribute(attribute: Message) -> str:
    if attribute.ref_attr_name:
        return f"@{attribute.ref_attr_name}"
    for name in ("f", "i", "s", "floats", "ints", "strings"):
        if name not in attribute:
            continue
        value = attribute[name]
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, list) and len(value) > _SHOWN:
            return f"[{', '.join(map(repr, value[:_SHOWN]))}, ...]"
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else repr(value)
    if "t" in attribute:
        return f"tensor {tuple(attribute.t.dims.tolist())}"
    return next((name for name in (*_GRAPHS, *_TENSORS, "tp") if name in attribute), "nothing")


def _show_value(message: Message) -> str:
    return str(value_of(message)).partition(": ")[2]
