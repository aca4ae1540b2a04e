"""Every tensor and every graph of a model, wherever they hide, with a name for each.

    NAME                            an initializer
    NAME/values, NAME/indices       a sparse one
    NODE.ATTRIBUTE                  the attribute of a node; of several, NODE.ATTRIBUTE.0 and so on
    NODE.ATTRIBUTE/...              in the subgraph that is an attribute
    DOMAIN::NAME/...                in a function (DOMAIN::NAME:OVERLOAD/ where it has one)
    training.0.initialization/...   in a training graph; training.0.algorithm/...

A node that has no name goes by its first output, else by its type and place. What would come twice
gets ~2 behind it, then ~3.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tensorkeep.message import Message
from tensorkeep.message.scanning import BrokenError, read_varint

INITIALIZER, SPARSE, ATTRIBUTE = "initializer", "sparse", "attribute"
TRAINING_PARTS = ("initialization", "algorithm")


class Place(NamedTuple):
    """A TensorProto, its name, and what it is to the model: one of the three kinds above."""

    name: str
    message: Message
    kind: str


def walk(model: Message) -> Iterator[Place]:
    """Give every tensor of a model, each under a name of its own.

    Raises:
        CorruptError: the model is damaged, or nests too deeply.
    """
    seen: set[str] = set()
    times: dict[str, int] = {}
    for place in map(_readable, _walk_model(model)):
        name = place.name
        while name in seen:
            times[place.name] = times.get(place.name, 1) + 1
            name = f"{place.name}~{times[place.name]}"
        seen.add(name)
        yield place if name == place.name else place._replace(name=name)


def _readable(place: Place) -> Place:
    """Write the bytes of a name that are not UTF-8 in a way that every file can hold."""
    try:
        place.name.encode()
    except UnicodeEncodeError:
        data = place.name.encode("utf-8", "surrogateescape")
        return place._replace(name=data.decode("utf-8", "backslashreplace"))
    return place


def _walk_model(model: Message) -> Iterator[Place]:
    if "graph" in model:
        yield from _walk_graph(model.graph, "")
    for prefix, graph in _training_graphs(model):
        yield from _walk_graph(graph, prefix)
    for function in model.functions:
        prefix = f"{function_name(function)}/"
        for attribute in function.attribute_proto:
            yield from _walk_attribute(attribute, prefix + attribute.name)
        yield from _walk_nodes(function.node, prefix)


def _training_graphs(model: Message) -> Iterator[tuple[str, Message]]:
    for place, training in enumerate(model.training_info):
        for part in TRAINING_PARTS:
            if part in training:
                yield f"training.{place}.{part}/", training[part]


def function_name(function: Message) -> str:
    """Name a function with its domain and, where it has one, its overload."""
    overload = function.overload
    name = f"{function.domain}::{function.name}"
    return f"{name}:{overload}" if overload else name


def _walk_graph(graph: Message, prefix: str) -> Iterator[Place]:
    for tensor in graph.initializer:
        yield Place(prefix + tensor.name, tensor, INITIALIZER)
    for sparse in graph.sparse_initializer:
        yield from _walk_sparse(sparse, prefix + sparse["values"].name)
    yield from _walk_nodes(graph.node, prefix)


def _walk_sparse(sparse: Message, name: str) -> Iterator[Place]:
    for part in ("values", "indices"):
        if part in sparse:
            yield Place(f"{name}/{part}", sparse[part], SPARSE)


def _walk_nodes(nodes: list[Message], prefix: str) -> Iterator[Place]:
    for index, node in enumerate(nodes):
        if not may_hold(node):
            continue
        name = prefix + node_name(node, index)
        for attribute in node.attribute:
            yield from _walk_attribute(attribute, f"{name}.{attribute.name}")


def node_name(node: Message, index: int) -> str:
    """Name a node: by its name, its first output, or its type and place among the others."""
    if node.name:
        return str(node.name)
    return next(filter(None, node.output), f"{node.op_type}#{index}")


def _walk_attribute(attribute: Message, name: str) -> Iterator[Place]:
    if "t" in attribute:
        yield Place(name, attribute.t, ATTRIBUTE)
    if "sparse_tensor" in attribute:
        yield from _walk_sparse(attribute.sparse_tensor, name)
    if "g" in attribute:
        yield from _walk_graph(attribute.g, f"{name}/")
    for place, tensor in enumerate(attribute.tensors):
        yield Place(f"{name}.{place}", tensor, ATTRIBUTE)
    for place, sparse in enumerate(attribute.sparse_tensors):
        yield from _walk_sparse(sparse, f"{name}.{place}")
    for place, graph in enumerate(attribute.graphs):
        yield from _walk_graph(graph, f"{name}.{place}/")


def walk_graphs(model: Message) -> Iterator[Message]:
    """Give every GraphProto of a model, subgraphs and those of functions and training included.

    >>> from tensorkeep.graph.schema import MODEL
    >>> model = Message(MODEL)
    >>> _ = model.make("graph").add("node", op_type="If").add("attribute", name="then").make("g")
    >>> len(list(walk_graphs(model)))
    2
    """
    if "graph" in model:
        yield from graphs_within(model.graph)
    for _, graph in _training_graphs(model):
        yield from graphs_within(graph)
    for function in model.functions:
        for node in function.node:
            yield from _graphs_of_node(node)


def graphs_within(graph: Message) -> Iterator[Message]:
    """Give a GraphProto and all its subgraphs."""
    yield graph
    for node in graph.node:
        yield from _graphs_of_node(node)


def _graphs_of_node(node: Message) -> Iterator[Message]:
    for graph in subgraphs(node):
        yield from graphs_within(graph)


def subgraphs(node: Message) -> Iterator[Message]:
    """Give the graphs that are attributes of a node, but not those within them."""
    if not may_hold(node):
        return
    for attribute in node.attribute:
        if "g" in attribute:
            yield attribute.g
        yield from attribute.graphs


def walk_nodes(model: Message) -> Iterator[Message]:
    """Give every NodeProto of a model, those of functions, subgraphs and training included."""
    for graph in walk_graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


# Thousands of nodes hold no tensor and no graph: their bytes tell, without a Message for each part.
_FEW = 64 << 10
_ATTRIBUTE_TAG = 0x2A
_HOLDERS = frozenset((0x2A, 0x32, 0x52, 0x5A, 22 << 3 | 2, 23 << 3 | 2))  # t g tensors graphs ...


def may_hold(node: Message) -> bool:
    """Whether a node may have a tensor or a graph as an attribute; False where it has none."""
    data = node.glance(_FEW)
    if data is None:
        return True
    if _ATTRIBUTE_TAG not in data:
        return False
    try:
        return _node_holds(data)
    except (IndexError, BrokenError):  # damaged, which reading it will tell
        return True


def _node_holds(data: bytes | memoryview) -> bool:
    at, size = 0, len(data)
    while at < size:
        tag = data[at]
        at += 1
        if tag > 127 or tag & 7 != 2:
            return True
        length = data[at]
        at += 1
        if length > 127:
            length, at = read_varint(data, at - 1)
        if tag == _ATTRIBUTE_TAG and _attribute_holds(data, at, at + length):
            return True
        at += length
    return False


def _attribute_holds(data: bytes | memoryview, at: int, stop: int) -> bool:
    while at < stop:
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = read_varint(data, at - 1)
        if tag in _HOLDERS:
            return True
        wire = tag & 7
        if wire == 2:
            length = data[at]
            at += 1
            if length > 127:
                length, at = read_varint(data, at - 1)
            at += length
        elif wire == 0:
            while data[at] > 127:
                at += 1
            at += 1
        elif wire == 5:
            at += 4
        else:
            return True
    return False
