"""An ONNX model as a graph to draw.

Parts: the main graph; the functions, which the nodes that call them name; the graphs for training;
then every subgraph, as the nodes that have them are met. A subgraph is walked when its turn comes,
not within its node, so that nesting costs no stack.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.graph import Graph as Model
from tensorkeep.graph.walking import TRAINING_PARTS, function_name, subgraphs
from tensorkeep.message import Message
from tensorkeep.notes import KEY
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
    named,
    type_of,
)
from tensorkeep.viewer.graphs.onnx_attributes import Held, show, tensors_of
from tensorkeep.viewer.graphs.onnx_types import Types

_MOST_INFERRED = 10_000  # nodes; 5,000 take a few seconds

_Call = tuple[str, str, str]


def graph(state: State, *, infer: bool = False) -> Graph:
    """Give the graph of a state that is an ONNX model; see `tensorkeep.viewer.graphs.graph`."""
    assert state.graph is not None
    about, walk = _about(state.graph), _Walk(state.graph, state)
    walk.run()
    if infer and walk.lacks_types():
        try:
            walk = _inferred(state)
        except TensorKeepError as error:
            about.tell("types not worked out", error.problem)
    return Graph("onnx", dict(about), walk.parts, walk.budget.left_out)


def _inferred(state: State) -> _Walk:
    """Go through a model after onnx has worked out its types, in a process of its own.

    Raises:
        ArgumentError: it has too many nodes, or onnx refuses it.
        MissingDependencyError: the onnx package is not installed.
    """
    from tensorkeep.models.shapes import infer_shapes

    assert state.graph is not None
    if len(state.graph) > _MOST_INFERRED:
        raise ArgumentError(f"it has more than {_MOST_INFERRED:,} nodes")
    inferred = infer_shapes(state)
    assert inferred.graph is not None
    walk = _Walk(inferred.graph, inferred)
    walk.run()
    return walk


def _about(model: Model) -> Facts:
    message, facts = model.model, Facts()
    facts.tell("producer", f"{message.producer_name} {message.producer_version}".strip())
    if message.ir_version:
        facts.tell("IR version", message.ir_version)
    opsets = (f"{domain or 'ai.onnx'} {version}" for domain, version in model.opsets.items())
    facts.tell("operator sets", ", ".join(opsets))
    facts.tell("graph", message.graph.name)
    facts.tell("domain", message.domain)
    if message.model_version:
        facts.tell("model version", message.model_version)
    facts.tell("documentation", message.doc_string)
    for place, training in enumerate(message.training_info):
        for bound in ("initialization_binding", "update_binding"):
            pairs = (f"{row.key} = {row.value}" for row in training[bound])
            facts.tell(f"training {place}: {bound.replace('_', ' ')}", ", ".join(pairs))
    if message.configuration:
        names = ", ".join(f"{row.name} ({row.num_devices})" for row in message.configuration)
        facts.tell("device configurations", names)
    if message.graph.quantization_annotation:
        notes = (row.tensor_name for row in message.graph.quantization_annotation)
        facts.tell("quantization annotations", ", ".join(notes))
    for row in chain(message.metadata_props, message.graph.metadata_props):
        if row.key != KEY:
            facts.tell(f"metadata: {row.key}", row.value)
    return facts


@dataclass(slots=True)
class _Waiting:
    """A graph or function whose turn will come."""

    message: Message
    kind: str
    name: str
    level: int
    part: int | None  # its place among the parts; None: its nodes are counted alone


class _Walk:
    """Goes through a model, part by part."""

    def __init__(self, model: Model, state: State) -> None:
        self.parts: list[Part] = []
        self.budget = Budget()
        self._types = Types()
        self._model = model
        self._message = model.model
        self._state = state
        indices = {name: index for index, name in enumerate(state)}
        # By the identity of their messages, which the places keep alive.
        self._places = model.places()
        self._held = {
            id(place.message): Held(indices[name], state[name])
            for name, place in self._places.items()
            if name in indices
        }
        self._waiting: deque[_Waiting] = deque()
        self._functions: dict[_Call, int] = {}
        self._around: dict[int, int] = {}  # by part, the one around it
        self._given: dict[int, set[str]] = {}  # by part, what its nodes give and what is its input

    def run(self) -> None:
        """Give all parts, as far as there is room."""
        message = self._message
        if "graph" in message:
            self._await(message.graph, "graph", message.graph.name, 0)
        for function in message.functions:
            part = self._await(function, "function", function_name(function), 0)
            called = (_domain(function.domain), function.name, function.overload)
            if part is not None:
                self._functions.setdefault(called, part)
        for place, training in enumerate(message.training_info):
            for name in TRAINING_PARTS:
                if name in training:
                    self._await(training[name], "graph", f"training {place}: {name}", 0)
        while self._waiting:
            self._take(self._waiting.popleft())

    def lacks_types(self) -> bool:
        """Whether the type of a value is not known that a node gives."""
        return any(
            name and not part.values.get(name)
            for part in self.parts
            for node in part.nodes
            for name in node.outputs
        )

    def _await(
        self, message: Message, kind: str, name: str, level: int, around: int | None = None
    ) -> int | None:
        place = None
        if level <= MOST_LEVELS and len(self.parts) < MOST_PARTS:
            place = len(self.parts)
            self.parts.append(Part(kind, named(name), [], [], [], {}, {}))
            if around is not None:
                self._around[place] = around
        self._waiting.append(_Waiting(message, kind, name, level, place))
        return place

    def _take(self, waiting: _Waiting) -> None:
        message = waiting.message
        if waiting.part is not None:
            part = self.parts[waiting.part]
            if waiting.kind == "function":
                part = self._function(part, message)
            else:
                part = self._graph(part, message)
            self.parts[waiting.part] = part
        for node in message.node:
            if waiting.part is None or not self.budget.has_room():
                self.budget.left_out += 1
                for graph in subgraphs(node):
                    self._waiting.append(_Waiting(graph, "", "", waiting.level + 1, None))
            else:
                part.nodes.append(self._node(node, waiting.part, waiting.level))
        if waiting.part is not None:
            self._look_around(waiting.part)

    def _look_around(self, place: int) -> None:
        """Tell the types of values that a subgraph takes from around it, and which are weights."""
        part = self.parts[place]
        given = {name for node in part.nodes for name in node.outputs}
        given.update(value.name for value in part.inputs)
        self._given[place] = given
        if place not in self._around:
            return
        taken = (name for node in part.nodes for name in node.inputs)
        for name in dict.fromkeys(chain(taken, (value.name for value in part.outputs))):
            if name and name not in given and name not in part.tensors:
                self._find_around(name, place)

    def _find_around(self, name: str, place: int) -> None:
        part, at = self.parts[place], self._around.get(place)
        while at is not None:
            outer = self.parts[at]
            weight = name in outer.tensors and name not in self._given[at]
            if weight:
                part.tensors[name] = outer.tensors[name]
            if weight or name in self._given[at]:
                if name in outer.values:
                    part.values.setdefault(name, outer.values[name])
                return
            at = self._around.get(at)

    def _graph(self, part: Part, graph: Message) -> Part:
        values, tensors = part.values, part.tensors
        for tensor in self._some(graph.initializer):
            held = self._held.get(id(tensor))
            if held is not None:
                tensors[named(tensor.name)] = held.place
                values[named(tensor.name)] = type_of(held.tensor)
        for sparse in graph.sparse_initializer:
            held = self._held.get(id(sparse["values"]))
            if held is not None:
                name = named(sparse["values"].name)
                tensors[name] = held.place
                values[name] = f"sparse {held.tensor.dtype.name}{sparse.dims.tolist()[:64]}"
        for row in self._some(graph.value_info):
            if text := self._types.text(row.type):
                values[named(row.name)] = text
        inputs = [
            value
            for value in map(self._value, self._some(graph.input))
            if value.name not in tensors
        ]
        outputs = [self._value(row) for row in self._some(graph.output)]
        for value in chain(inputs, outputs):
            if value.type:
                values[value.name] = value.type
        doc = clipped(graph.doc_string)
        return Part(part.kind, part.name, inputs, outputs, part.nodes, values, tensors, doc)

    def _function(self, part: Part, function: Message) -> Part:
        for row in self._some(function.value_info):
            if text := self._types.text(row.type):
                part.values[named(row.name)] = text

        def typed(names: list[str]) -> list[Value]:
            some = self.budget.some(names, str)
            return [Value(named(each), part.values.get(named(each), "")) for each in some]

        inputs, outputs = typed(function.input), typed(function.output)
        lines = [function.doc_string]
        if function.attribute:
            lines.append(f"Attributes: {', '.join(function.attribute)}.")
        shown = (show(attribute, self._held) for attribute in function.attribute_proto)
        lines += [f"{attribute.name} = {attribute.text}" for attribute in shown]
        opsets = ", ".join(
            f"{row.domain or 'ai.onnx'} {row.version}" for row in function.opset_import
        )
        lines.append(f"Operator sets: {opsets}." if opsets else "")
        doc = clipped("\n".join(filter(None, lines)))
        return Part(part.kind, part.name, inputs, outputs, part.nodes, part.values, {}, doc)

    def _value(self, row: Message) -> Value:
        return Value(named(row.name), self._types.text(row.type))

    def _some(self, rows: list[Message]) -> Iterator[Message]:
        return self.budget.some(rows, lambda row: str(row.name))

    def _node(self, node: Message, place: int, level: int) -> Node:
        attributes: list[Attribute] = []
        inputs = ends(node.input, "inputs", attributes)
        outputs = ends(node.output, "outputs", attributes)
        parts: list[int] = []
        for attribute in first_few(node.attribute, "attributes", attributes):
            attributes += self._attribute(attribute, place, level, parts)
        for row in first_few(node.metadata_props, "metadata", attributes):
            attributes.append(Attribute(named(row.key), "metadata", clipped(row.value)))
        for row in first_few(node.device_configurations, "devices", attributes):
            text = clipped(" ".join(row.to_text().split()))
            attributes.append(Attribute("device configuration", "device", text))
        domain, op = _domain(node.domain), node.op_type
        called = self._functions.get((domain, op, node.overload))
        if called is not None:
            parts.append(called)
        if op == "Constant" and not domain and len(outputs) == 1 and attributes:
            held = next(map(self._held_by, node.attribute), None)
            if held is not None:
                self.parts[place].values[outputs[0]] = type_of(held.tensor)
        doc = clipped(node.doc_string)
        self.budget.spend([*inputs, *outputs, node.name], attributes, doc)
        return Node(
            named(op), named(domain), named(node.name), inputs, outputs, attributes, parts, doc
        )

    def _held_by(self, attribute: Message) -> Held | None:
        return self._held.get(id(attribute.t)) if "t" in attribute else None

    def _attribute(
        self, message: Message, place: int, level: int, parts: list[int]
    ) -> list[Attribute]:
        name, found = named(message.name), []
        for kind, graph in _graphs_of(message):
            part = self._await(graph, "subgraph", graph.name or message.name, level + 1, place)
            text = named(graph.name) if part is not None else "too deep, or one of too many graphs"
            found.append(Attribute(name, kind, text, part=part))
            if part is not None:
                parts.append(part)
        found += tensors_of(message, name, self._held)
        return found or [show(message, self._held)]


def _graphs_of(attribute: Message) -> list[tuple[str, Message]]:
    found = [("graph", attribute.g)] if "g" in attribute else []
    return [*found, *(("graphs", graph) for graph in attribute.graphs)]


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
