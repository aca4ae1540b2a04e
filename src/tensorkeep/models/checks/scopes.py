"""The graphs and functions of a model: each with its place, its opsets and what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from tensorkeep.errors import CorruptError
from tensorkeep.graph.schema import FUNCTION
from tensorkeep.graph.walking import TRAINING_PARTS, graphs_within, may_hold
from tensorkeep.message import Message
from tensorkeep.models.checks.findings import quoted

MAX_NESTING = 30  # graphs within one another; messages may nest 100 deep, and a graph takes three
MAX_SCOPES = 200_000
FunctionKey = tuple[str, str, str]


@dataclass(eq=False)
class Scope:
    """A graph or the body of a function.

    Attributes:
        message: the GraphProto or FunctionProto.
        where: its place in the model.
        opsets: the opset of each domain that it may use, as imported; "" is ONNX's own.
        outer: the scope that it is a subgraph in; None for the others.
        at: the node there that it is an attribute of.
        inner: the subgraphs of each node, by the place of the node.
        in_function: whether it is a function or within one.
        trained: the names in it that the training of the model uses.
    """

    message: Message
    where: str
    opsets: dict[str, int]
    outer: Scope | None = None
    at: int = 0
    in_function: bool = False
    inner: dict[int, list[Scope]] = field(default_factory=dict)
    trained: frozenset[str] = frozenset()

    @property
    def is_function(self) -> bool:
        """Whether it is the body of a function."""
        return self.message.schema is FUNCTION

    @cached_property
    def nodes(self) -> list[Message]:
        """Its nodes."""
        return list(self.message.node)

    @cached_property
    def inputs(self) -> list[str]:
        """The names of what goes in."""
        return _names(self.message.input)

    @cached_property
    def outputs(self) -> list[str]:
        """The names of what comes out."""
        return _names(self.message.output)

    @cached_property
    def initializers(self) -> list[str]:
        """The names of its constants."""
        if self.is_function:
            return []
        dense = [str(tensor.name) for tensor in self.message.initializer]
        return dense + [str(sparse["values"].name) for sparse in self.message.sparse_initializer]

    @cached_property
    def noted(self) -> set[str]:
        """The names that are used though no node takes them: by annotations, and in training."""
        if self.is_function:
            return set()
        noted = set(self.trained)
        for row in self.message.quantization_annotation:
            noted.update(str(entry.value) for entry in row.quant_parameter_tensor_names)
        return noted

    def label(self, index: int) -> str:
        """Name the place of a node."""
        node = self.nodes[index]
        name = f" {quoted(node.name)}" if node.name else ""
        return f"{self.where}.node[{index}] {str(node.op_type)[:60]}{name}"

    def within(self) -> Iterator[Scope]:
        """Give it and all its subgraphs."""
        yield self
        for scopes in self.inner.values():
            for scope in scopes:
                yield from scope.within()


def _names(values: list[Message] | list[str]) -> list[str]:
    return [value if isinstance(value, str) else str(value.name) for value in values]


def opsets_of(message: Message) -> dict[str, int]:
    """Give what a model or a function imports, the last where it does so twice, as onnx does."""
    return {plain(row.domain): int(row.version) for row in message.opset_import}


def plain(domain: str) -> str:
    """Give ONNX's own domain one name.

    >>> plain("ai.onnx"), plain("com.example")
    ('', 'com.example')
    """
    return "" if domain == "ai.onnx" else str(domain)


def function_key(message: Message) -> FunctionKey:
    """Give what tells a function from others: domain, name and overload."""
    return plain(message.domain), str(message.name), str(message.overload)


def roots(model: Message) -> list[Scope]:
    """Give the graphs and functions of a model that are not within another.

    Raises:
        CorruptError: they are damaged, or nest too deeply.
    """
    opsets = opsets_of(model)
    found: list[Scope] = []
    if "graph" in model:
        found.append(Scope(model.graph, "graph", opsets, trained=_trained(model)))
    for place, training in enumerate(model.training_info):
        for part in TRAINING_PARTS:
            if part in training:
                where = f"training_info[{place}].{part}"
                found.append(Scope(training[part], where, opsets))
    for place, function in enumerate(model.functions):
        name = quoted(f"{function.domain}::{function.name}")
        where = f"functions[{place}] {name}"
        found.append(Scope(function, where, opsets_of(function), in_function=True))
    budget = [MAX_SCOPES]
    for scope in found:
        _nest(scope, 1, budget)
    return found


def _trained(model: Message) -> frozenset[str]:
    """Give the names of the main graph that training may use or change."""
    names: set[str] = set()
    for training in model.training_info:
        for graph in graphs_within(training.algorithm) if "algorithm" in training else ():
            names.update(*(node.input for node in graph.node), _names(graph.output))
        for entry in (*training.initialization_binding, *training.update_binding):
            names.update((str(entry.key), str(entry.value)))
    return frozenset(names)


def _nest(scope: Scope, depth: int, budget: list[int]) -> None:
    for index, node in enumerate(scope.nodes):
        if not may_hold(node):
            continue
        for attribute in node.attribute:
            graphs = [("", attribute.g)] if "g" in attribute else []
            graphs += [(f"[{i}]", graph) for i, graph in enumerate(attribute.graphs)]
            for suffix, graph in graphs:
                where = f"{scope.label(index)}.{attribute.name}{suffix}"
                budget[0] -= 1
                if depth >= MAX_NESTING or budget[0] < 0:
                    problem = f"graphs nest more than {MAX_NESTING} levels deep"
                    if budget[0] < 0:
                        problem = f"holds more than {MAX_SCOPES:,} subgraphs"
                    raise CorruptError(problem, where=scope.where[:200])
                inner = Scope(graph, where, scope.opsets, scope, index, scope.in_function)
                scope.inner.setdefault(index, []).append(inner)
                _nest(inner, depth + 1, budget)
