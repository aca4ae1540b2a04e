"""What is asked of ONNX's messages time and again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, defs


class ProblemError(Exception):
    """The model cannot be worked out."""


def plain(domain: str) -> str:
    """Spell ONNX's own domain in one way."""
    return "" if domain == "ai.onnx" else domain


def named(node: NodeProto) -> str:
    """Name a node in messages."""
    name = node.name or next(filter(None, node.output), "")
    return f"the node {name!r} ({node.op_type})" if name else f"a node {node.op_type}"


def schema_of(operator: str, version: int, domain: str) -> Any:
    """Give the schema of an operator; None where there is none."""
    try:
        return defs.get_schema(operator, version, domain)
    except defs.SchemaError:
        return None


def defaults(schema: Any) -> dict[str, AttributeProto]:
    """Give the attributes that an operator has where a node does not say them."""
    rows = {name: row.default_value for name, row in schema.attributes.items()}
    return {name: row for name, row in rows.items() if row is not None and row.name}


def is_whole(kind: TypeProto | None) -> bool:
    """Whether a type is that of a tensor, with an element type and all sizes."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.elem_type:
        return False
    held = kind.tensor_type
    return held.HasField("shape") and all(
        axis.HasField("dim_value") and axis.dim_value >= 0 for axis in held.shape.dim
    )


def agree(kind: TypeProto, declared: TypeProto) -> bool:
    """Whether a type that is known in part is the declared one."""
    if kind.WhichOneof("value") != "tensor_type":
        return kind.WhichOneof("value") is None
    one, other = kind.tensor_type, declared.tensor_type
    if one.elem_type and one.elem_type != other.elem_type:
        return False
    if not one.HasField("shape"):
        return True
    return len(one.shape.dim) == len(other.shape.dim) and all(
        not a.HasField("dim_value") or a.dim_value == b.dim_value
        for a, b in zip(one.shape.dim, other.shape.dim, strict=True)
    )


def type_of(tensor: TensorProto) -> TypeProto:
    """Give the type of a tensor."""
    kind = TypeProto()
    kind.tensor_type.elem_type = tensor.data_type
    for axis in tensor.dims:
        kind.tensor_type.shape.dim.add(dim_value=axis)
    kind.tensor_type.shape.SetInParent()
    return kind


def nbytes(kind: TypeProto | None) -> int:
    """Give at least the bytes of a tensor; -1 where they are not known."""
    if kind is None or not is_whole(kind):
        return -1
    size = 16 if kind.tensor_type.elem_type in (8, 15) else 8
    for axis in kind.tensor_type.shape.dim:
        size *= axis.dim_value
    return size


def defined(graph: GraphProto) -> dict[str, None]:
    """Name the values of a graph."""
    names = dict.fromkeys(row.name for row in graph.input)
    names |= dict.fromkeys(row.name for row in graph.initializer)
    return names | {name: None for node in graph.node for name in node.output if name}


def all_names(graph: GraphProto) -> set[str]:
    """Name the values of a graph and of all within it."""
    names = set(defined(graph))
    names.update(row.name for row in graph.output)
    for node in graph.node:
        names.update(node.input)
        for row in node.attribute:
            for inner in ([row.g] if row.HasField("g") else []) + list(row.graphs):
                names |= all_names(inner)
    return names


def alive(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Give those of sorted nodes that outputs depend on."""
    needed = set(outputs)
    kept = []
    for node in reversed(nodes):
        if not needed.isdisjoint(name for name in node.output if name):
            kept.append(node)
            needed.update(_takes(node))
    return kept[::-1]


def in_order(nodes: Sequence[NodeProto], known: Iterable[str]) -> list[NodeProto]:
    """Give nodes in an order in which they can run: theirs, where that is one.

    What takes something that nothing gives comes last.
    """
    given = set(known)
    made = {name for node in nodes for name in node.output if name} - given
    lacking: dict[int, int] = {}
    waiting: dict[str, list[int]] = {}
    order: list[int] = []
    for place, node in enumerate(nodes):
        needs = {name for name in _takes(node) if name in made and name not in given}
        needs |= {name for name in node.input if name and name not in made and name not in given}
        lacking[place] = len(needs)
        for name in needs:
            waiting.setdefault(name, []).append(place)
        ready = [] if needs else [place]
        while ready:
            order.append(now := ready.pop())
            for name in nodes[now].output:
                if name and name not in given:
                    given.add(name)
                    for later in waiting.pop(name, ()):
                        lacking[later] -= 1
                        if not lacking[later]:
                            ready.append(later)
    done = set(order)
    return [nodes[place] for place in (*order, *(p for p in lacking if p not in done))]


def _takes(node: NodeProto) -> set[str]:
    """Name what a node may take of its graph, that of which its own graphs are made included."""
    names = set(filter(None, node.input))
    for row in node.attribute:
        for graph in ([row.g] if row.HasField("g") else []) + list(row.graphs):
            names |= all_names(graph)
    return names
