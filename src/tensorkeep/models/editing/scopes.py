"""Which names a graph defines, uses and captures, and giving values other names everywhere.

From ONNX's docs/IR.md: the inputs, initializers and node outputs of a graph are one set of names. A
subgraph sees those of the graphs around it, unless it defines them itself. The algorithm of a
training_info sees those of the main graph; its initialization, and functions, see none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tensorkeep.errors import ArgumentError
from tensorkeep.graph.walking import subgraphs
from tensorkeep.message import Message

Names = dict[str, None]  # a set that keeps its order


def defined(graph: Message) -> Names:
    """Name the values of a graph: inputs, initializers, then what its nodes compute."""
    names: Names = dict.fromkeys(row.name for row in graph.input)
    names |= dict.fromkeys(initialized(graph))
    names |= dict.fromkeys(computed(graph))
    return names


def initialized(graph: Message) -> Iterator[str]:
    """Name the initializers of a graph, sparse ones last."""
    for tensor in graph.initializer:
        yield tensor.name
    for sparse in graph.sparse_initializer:
        yield sparse["values"].name


def computed(graph: Message) -> Iterator[str]:
    """Name what the nodes of a graph compute."""
    for node in graph.node:
        yield from filter(None, node.output)


def used_by(node: Message) -> Names:
    """Name the values that a node uses of its graph, also within its subgraphs."""
    names = dict.fromkeys(filter(None, node.input))
    for graph in subgraphs(node):
        names |= captured(graph)
    return names


def captured(graph: Message) -> Names:
    """Name the values that a subgraph uses of the graphs around it."""
    own = defined(graph)
    names: Names = {}
    for node in graph.node:
        names |= {name: None for name in used_by(node) if name not in own}
    names |= {row.name: None for row in graph.output if row.name not in own}
    return names


def graphs_that_see(model: Message) -> Iterator[Message]:
    """Give the main graph, and those of the training algorithms, which see its names."""
    yield model.graph
    for training in model.training_info:
        if "algorithm" in training:
            yield training.algorithm


def names_anywhere(model: Message) -> set[str]:
    """Name all values of the main graph, of all that sees it, and of all subgraphs in them."""
    names: set[str] = set()
    for graph in graphs_that_see(model):
        _collect(graph, names)
    return names


def _collect(graph: Message, names: set[str]) -> None:
    names.update(defined(graph))
    names.update(row.name for row in graph.output)
    for node in graph.node:
        names.update(node.input)
        for inner in subgraphs(node):
            _collect(inner, names)


def fresh(wanted: str, taken: set[str]) -> str:
    """Give a name that is not taken, and take it.

    >>> taken = {"x"}
    >>> fresh("x", taken), fresh("x", taken), fresh("y", taken)
    ('x~2', 'x~3', 'y')
    """
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}~{count}"
    taken.add(name)
    return name


def rename_values(graph: Message, names: Mapping[str, str], where: str) -> int:
    """Give values other names in all of a graph; says how many places named them.

    Raises:
        ArgumentError: a subgraph defines a new name, so that it would see another value.
    """
    count = 0
    for row in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        count += _put(row, "name", names)
    for sparse in graph.sparse_initializer:
        if "values" in sparse:
            count += _put(sparse["values"], "name", names)
    for annotation in graph.quantization_annotation:
        count += _put(annotation, "tensor_name", names)
        for entry in annotation.quant_parameter_tensor_names:
            count += _put(entry, "value", names)
    for node in graph.node:
        count += rename_in_list(node.output, names)
        count += rename_uses(node, names, where)
    return count


def rename_uses(node: Message, names: Mapping[str, str], where: str) -> int:
    """Give what a node uses other names, also in its subgraphs."""
    count = rename_in_list(node.input, names)
    for configuration in node.device_configurations:
        for sharding in configuration.sharding_spec:
            count += _put(sharding, "tensor_name", names)
    for graph in subgraphs(node):
        seen = names_within(graph, names, where)
        if seen:
            count += rename_values(graph, seen, where)
    return count


def names_within(graph: Message, names: Mapping[str, str], where: str) -> dict[str, str]:
    """Give those renamings that reach into a graph which has names of its own.

    Raises:
        ArgumentError: it uses a value whose new name it has itself.
    """
    own = defined(graph)
    seen = {old: new for old, new in names.items() if old not in own}
    clashes = set(own).intersection(seen.values())
    if clashes:
        used = captured(graph)
        for old, new in seen.items():
            if new in clashes and old in used:
                raise ArgumentError(
                    f"cannot call {old!r} {new!r}: the graph {graph.name!r}, which uses it, has a "
                    "value of that name itself",
                    where=where,
                    cure="Choose another name.",
                )
    return seen


def rename_in_list(values: list[str], names: Mapping[str, str]) -> int:
    """Replace names in a list; says how many."""
    count = 0
    for place, name in enumerate(values):
        if name in names:
            values[place] = names[name]
            count += 1
    return count


def _put(message: Message, field: str, names: Mapping[str, str]) -> int:
    old = message[field]
    if old not in names:
        return 0
    message[field] = names[old]
    return 1
