"""An NNEF document as a graph to draw.

What is external is an input and what is a variable a weight: neither is a node. An operation of a
fragment that the document defines is one node, and what it is made of a part, which all calls with
the same arguments have in common.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from tensorkeep.errors import CorruptError, TensorKeepError
from tensorkeep.state import State
from tensorkeep.viewer.answers import Attribute, Graph, Node, Part, Value
from tensorkeep.viewer.graphs.bounds import (
    MOST_LEVELS,
    MOST_PARTS,
    Budget,
    Facts,
    clipped,
    ends,
    first_few,
    listed,
    named,
    type_of,
)
from tensorkeep.viewer.graphs.nnef_fragments import Calls
from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.operations import Operation, Quantization, Reference
from tensorkeep.wire.nnef.operations import Value as Given
from tensorkeep.wire.nnef.printing import literal

_TYPES = {"scalar": "float32", "integer": "int64", "logical": "bool", "string": "string"}


def graph(state: State) -> Graph:
    """Give the graph of a state that is an NNEF model; see `tensorkeep.viewer.graphs.graph`."""
    document = state.document
    assert isinstance(document, Document)
    try:
        walk = _Walk(document, state, Calls(document))
        walk.run()
    except (TensorKeepError, RecursionError):  # what a call is made of depends on its caller
        walk = _Walk(document, state, None)
        walk.run()
    return Graph("nnef", dict(_about(document)), walk.parts, walk.budget.left_out)


def _about(document: Document) -> Facts:
    facts = Facts()
    facts.tell("graph", document.name)
    facts.tell("extensions", ", ".join(document.extensions))
    facts.tell("fragments", ", ".join(fragment.name for fragment in document.fragments))
    if document.quantization:
        facts.tell("quantized tensors", f"{len(document.quantization):,}")
    return facts


class _Waiting(NamedTuple):
    """A call whose turn will come."""

    operation: Operation
    part: int
    level: int


class _Walk:
    """Goes through a document, and what its own operations are made of."""

    def __init__(self, document: Document, state: State, calls: Calls | None) -> None:
        self.document = document
        self.state = state
        self.calls = calls if calls and calls.defined else None
        self.parts: list[Part] = []
        self.budget = Budget()

    def run(self) -> None:
        """Give all parts, as far as there is room."""
        document = self.document
        operations = document.operations() if self.calls is None else self.calls.outermost()
        waiting: deque[_Waiting] = deque()
        known: dict[str, int] = {}
        part = Part("graph", named(document.name), [], [], [], {}, {})
        self.parts.append(part)
        self._types(part, operations)
        part.inputs.extend(self._ends(document.inputs, part))
        part.outputs.extend(self._ends(document.outputs, part))
        self._nodes(part, operations, 0, waiting, known)
        while waiting:
            operation, place, level = waiting.popleft()
            assert self.calls is not None
            inside = self.calls.inside(operation)
            part = self.parts[place]
            part.inputs.extend(Value(named(name)) for name in self._some(inside.inputs))
            part.outputs.extend(Value(named(name)) for name in self._some(inside.outputs))
            self._nodes(part, inside.operations, level, waiting, known)

    def _ends(self, names: Sequence[str], part: Part) -> list[Value]:
        return [Value(named(name), part.values.get(named(name), "")) for name in self._some(names)]

    def _some(self, names: Iterable[str]) -> Iterator[str]:
        return self.budget.some(names, str)

    def _types(self, part: Part, operations: Sequence[Operation]) -> None:
        """Say what is known of the tensors of the graph, and which are weights."""
        indices = {name: index for index, name in enumerate(self.state)}
        document = self.document
        for operation in operations:
            if operation.name not in ("external", "variable", "constant"):
                continue
            for output in self._some(operation.outputs()):
                name = named(output)
                label = operation.arguments.get("label")
                called = document.names.get(output, label if isinstance(label, str) else "")
                if operation.name == "variable" and called in indices:
                    part.tensors[name] = indices[called]
                    part.values[name] = type_of(self.state[called])
                    continue
                word = document.types.get(output) or _TYPES.get(operation.dtype or "scalar", "")
                shape = operation.arguments.get("shape")
                part.values[name] = clipped(word + (_text(shape) if shape is not None else ""))
        for output in self._some(document.quantization):
            quantized = document.quantization[output]
            name = named(output)
            kinds = (part.values.get(name, ""), _quantized(quantized))
            part.values[name] = clipped(", ".join(filter(None, kinds)))

    def _nodes(
        self,
        part: Part,
        operations: Sequence[Operation],
        level: int,
        waiting: deque[_Waiting],
        known: dict[str, int],
    ) -> None:
        for operation in operations:
            if operation.name in ("external", "variable"):
                continue
            if not self.budget.has_room():
                self.budget.left_out += 1
                continue
            parts: list[int] = []
            if self.calls is not None and operation.name in self.calls.defined:
                place = self._called(operation, level, waiting, known)
                parts += [] if place is None else [place]
            part.nodes.append(self._node(operation, parts, level))

    def _called(
        self, operation: Operation, level: int, waiting: deque[_Waiting], known: dict[str, int]
    ) -> int | None:
        assert self.calls is not None
        key = self.calls.key(operation)
        if key in known:
            return known[key]
        if level >= MOST_LEVELS:
            raise CorruptError("fragments nest too deeply", where=self.document.where)
        if len(self.parts) >= MOST_PARTS:
            return None
        place = known[key] = len(self.parts)
        self.parts.append(Part("function", named(operation.name), [], [], [], {}, {}))
        waiting.append(_Waiting(operation, place, level + 1))
        return place

    def _node(self, operation: Operation, parts: list[int], level: int) -> Node:
        attributes: list[Attribute] = []
        taken, given = operation.inputs(), operation.outputs()
        inputs = ends(taken, "inputs", attributes)
        outputs = ends(given, "outputs", attributes)
        if operation.dtype:
            attributes.append(Attribute("dtype", "type", operation.dtype))
        arguments = list(operation.arguments.items())
        for name, value in first_few(arguments, "arguments", attributes):
            if value is None or _is_tensors(value):
                continue
            attributes.append(Attribute(named(name), _kind(value), _text(value)))
        called = ""
        if level == 0 and len(given) == 1:
            called = self.document.names.get(given[0], "")
        self.budget.spend([*inputs, *outputs, called], attributes, "")
        return Node(named(operation.name), "", named(called), inputs, outputs, attributes, parts)


def _is_tensors(value: Given) -> bool:
    """Whether a value is a tensor, or tensors alone."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(each, Reference) for each in value)
    return isinstance(value, Reference)


def _kind(value: Given) -> str:
    if isinstance(value, list | tuple):
        inner = dict.fromkeys(map(_kind, value[:8]))
        return f"{next(iter(inner))}[]" if len(inner) == 1 else "array"
    names = {bool: "logical", int: "integer", float: "scalar", str: "string", Reference: "tensor"}
    return names.get(type(value), "none")


def _text(value: Given) -> str:
    """Write a value as NNEF does, the beginning of a long one."""
    if isinstance(value, list):
        return listed(value, _text)
    if isinstance(value, tuple):
        return f"({listed(value, _text)[1:-1]})"
    try:
        return clipped("none" if value is None else literal(value))
    except TensorKeepError:  # a number that is not finite
        return repr(value)


def _quantized(quantization: Quantization) -> str:
    given = (f"{name} = {_text(value)}" for name, value in quantization.arguments.items())
    return f"{quantization.name}({', '.join(given)})"
