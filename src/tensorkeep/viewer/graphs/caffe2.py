"""Caffe2's nets as graphs to draw: the predict net, then those that are arguments in it.

Arguments that are nets belong to If, While, RecurrentNetwork and their kin. See `caffe2_blobs` for
the names of blobs, which operators write again and again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from tensorkeep.dtypes import FLOAT32
from tensorkeep.errors import TensorKeepError
from tensorkeep.message import Message
from tensorkeep.state import State
from tensorkeep.viewer.answers import Attribute, Graph, Node, Part, Value
from tensorkeep.viewer.graphs.bounds import (
    MOST_LEVELS,
    MOST_PARTS,
    Budget,
    Facts,
    beginning,
    bytes_text,
    clipped,
    ends,
    first_few,
    float_text,
    listed,
    named,
    type_of,
)
from tensorkeep.viewer.graphs.caffe2_blobs import Blobs, Outer
from tensorkeep.wire.caffe2.nets import Given, Nets
from tensorkeep.wire.caffe2.schema import DEVICE_TYPE, NET

_MOST_TEXT = 1 << 20  # bytes of a net that is written as text in an argument


def graph(state: State) -> Graph:
    """Give the graph of a state that is a model of Caffe2's; see `tensorkeep.viewer.graphs.graph`.

    Where the weights are not in the state, they are inputs of the net, as all that it reads.
    """
    nets = state.document
    assert isinstance(nets, Nets)
    walk = _Walk(nets, state)
    walk.run()
    return Graph("caffe2", dict(_about(nets.predict)), walk.parts, walk.budget.left_out)


def _about(net: Message) -> Facts:
    facts = Facts()
    facts.tell("net", net.name)
    facts.tell("type", net.type)
    if net.num_workers:
        facts.tell("workers", net.num_workers)
    if "device_option" in net:
        facts.tell("device", _device(net.device_option))
    for argument in net.arg:
        facts.tell(f"argument: {argument.name}", _written(argument)[1])
    if net.partition_info:
        facts.tell("partitions", ", ".join(row.name for row in net.partition_info))
    return facts


def _device(option: Message) -> str:
    name = DEVICE_TYPE.names.get(option.device_type, str(option.device_type))
    return f"{name.removeprefix('PROTO_')} {option.device_id}"


class _Waiting(NamedTuple):
    """A net within another, whose turn will come."""

    net: Message
    part: int
    level: int
    outer: Outer


class _Walk:
    """Goes through the nets of a model, one by one."""

    def __init__(self, nets: Nets, state: State) -> None:
        self.parts: list[Part] = []
        self.budget = Budget()
        self._nets = nets
        self._state = state
        self._indices = {name: index for index, name in enumerate(state)}
        self._waiting: deque[_Waiting] = deque()

    def run(self) -> None:
        """Give all parts, as far as there is room."""
        nets, net = self._nets, self._nets.predict
        operators = self._shown(net)
        given = set(nets.inputs) or {*nets.given, *self._stand_ins(operators)}
        weights = {name: index for name, index in self._indices.items() if name not in given}
        declared = [*nets.inputs, *nets.given, *net.external_input]
        inputs = [name for name in dict.fromkeys(declared) if name not in weights]
        blobs = Blobs(operators, inputs, weights)
        inputs += blobs.unmade
        kept = [name for name in self._some(weights) if blobs.starts(name)]
        tensors = {named(name): weights[name] for name in kept}
        values = {named(name): type_of(self._state[name]) for name in kept}
        part = Part(
            "net",
            named(net.name),
            [Value(named(name), self._type(name)) for name in self._some(inputs)],
            [Value(blobs.last(name)) for name in self._some(nets.outputs or net.external_output)],
            [],
            values,
            tensors,
        )
        self.parts.append(part)
        self._operators(part, operators, blobs, 0)
        while self._waiting:
            self._take(self._waiting.popleft())

    def _stand_ins(self, operators: list[Message]) -> Iterator[str]:
        """Name the weights that only stand in for an input: [[0]], as exporters put it there."""
        state = self._state
        fed = {operator.input[0] for operator in operators if operator.input}
        for name in self._nets.predict.external_input:
            if name in fed and name in state and state[name].shape == (1, 1):
                with suppress(TensorKeepError):
                    if state[name].dtype is FLOAT32 and not state[name].numpy().any():
                        yield name

    def _some(self, names: Iterable[str]) -> Iterator[str]:
        return self.budget.some(names, str)

    def _shown(self, net: Message) -> list[Message]:
        operators: list[Message] = net.op
        room = max(0, self.budget.nodes)
        self.budget.left_out += max(0, len(operators) - room)
        return operators[:room]

    def _type(self, name: str) -> str:
        given = self._nets.given.get(name, Given())
        shape = "" if given.shape is None else str(list(given.shape))
        return f"{given.dtype or '?'}{shape}" if given.dtype or shape else ""

    def _take(self, waiting: _Waiting) -> None:
        net, before = waiting.net, self.parts[waiting.part]
        operators = self._shown(net)
        weights = self.parts[0].tensors
        inputs = [name for name in net.external_input if waiting.outer.value(name) not in weights]
        blobs = Blobs(operators, inputs, outer=waiting.outer)
        around = map(waiting.outer.value, blobs.unmade)
        taken = [name for name in around if name is not None and name in weights]
        part = Part(
            "net",
            before.name,
            [Value(named(name)) for name in self._some(inputs)],
            [Value(blobs.last(name)) for name in self._some(net.external_output)],
            [],
            {name: self.parts[0].values[name] for name in taken},
            {name: weights[name] for name in taken},
        )
        self.parts[waiting.part] = part
        self._operators(part, operators, blobs, waiting.level)

    def _operators(self, part: Part, operators: list[Message], blobs: Blobs, level: int) -> None:
        for place, operator in enumerate(operators):
            if not self.budget.has_room():
                self.budget.left_out += len(operators) - place
                return
            part.nodes.append(self._node(operator, Outer(blobs, place), level))

    def _node(self, operator: Message, place: Outer, level: int) -> Node:
        attributes: list[Attribute] = []
        read, written = place.blobs.of(place.at)
        inputs = ends(read, "inputs", attributes)
        outputs = ends(written, "outputs", attributes)
        parts: list[int] = []
        for argument in first_few(operator.arg, "arguments", attributes):
            attributes += self._argument(argument, operator, place, level, parts)
        if operator.engine:
            attributes.append(Attribute("engine", "string", clipped(operator.engine)))
        if "device_option" in operator:
            attributes.append(Attribute("device", "device", _device(operator.device_option)))
        if operator.control_input:
            attributes.append(Attribute("control inputs", "blobs", listed(operator.control_input)))
        if operator.is_gradient_op:
            attributes.append(Attribute("is_gradient_op", "int", "1"))
        doc = clipped(operator.debug_info)
        self.budget.spend([*inputs, *outputs, operator.name], attributes, doc)
        return Node(
            named(operator.type), named(operator.domain), named(operator.name),
            inputs, outputs, attributes, parts, doc,
        )  # fmt: skip

    def _argument(
        self, argument: Message, operator: Message, place: Outer, level: int, parts: list[int]
    ) -> Iterator[Attribute]:
        name = named(argument.name)
        nets = _nets_of(argument)
        for net in nets:
            text = clipped(net.name)
            if level >= MOST_LEVELS or len(self.parts) >= MOST_PARTS:
                yield Attribute(name, "net", "too deep, or one of too many nets")
                self.budget.left_out += len(net.op)
                continue
            part = len(self.parts)
            self.parts.append(Part("net", named(net.name or argument.name), [], [], [], {}, {}))
            self._waiting.append(_Waiting(net, part, level + 1, place))
            parts.append(part)
            yield Attribute(name, "net", text, part=part)
        if nets:
            return
        if argument.name == "values" and len(operator.output) == 1:
            index = self._indices.get(operator.output[0])
            if index is not None:  # a fill, whose numbers are not read for their beginning
                text = type_of(self._state[operator.output[0]])
                yield Attribute(name, "tensor", clipped(text), tensor=index)
                return
        kind, text = _written(argument)
        yield Attribute(name, kind, text)


def _nets_of(argument: Message) -> list[Message]:
    """Give the nets that an argument holds: as messages, or as text as Caffe2 once kept them."""
    found = [argument.n] if "n" in argument else []
    found += argument.nets
    text = argument.s if not found and argument.name.endswith("net") else b""
    if text and len(text) <= _MOST_TEXT:
        with suppress(TensorKeepError):
            net = Message.from_text(NET, text)
            if net.op or net.name:
                found.append(net)
    return found


def _bytes(data: bytes) -> str:
    return beginning(data, len(data))


_WRITERS: tuple[tuple[str, str, Any], ...] = (
    ("f", "float", lambda row: float_text(row.f)),
    ("i", "int", lambda row: str(row.i)),
    ("s", "string", lambda row: bytes_text(row, "s")),
    ("floats", "floats", lambda row: listed(row.floats, float_text)),
    ("ints", "ints", lambda row: listed(row.ints)),
    ("strings", "strings", lambda row: listed(row.strings, _bytes)),
    ("t", "tensor", lambda row: _shape(row.t)),
    ("tensors", "tensors", lambda row: listed(row.tensors, _shape)),
    ("qtensors", "tensors", lambda row: listed(row.qtensors, _shape)),
)


def _written(argument: Message) -> tuple[str, str]:
    for field, kind, write in _WRITERS:
        if field in argument:
            return kind, write(argument)
    return "empty", ""


def _shape(tensor: Message) -> str:
    return listed(tensor.dims)
