"""Loops whose rounds are known, as the nodes of all rounds one after another.

From ONNX's definitions: the body of a Loop takes the number of the round, whether it goes on, and
what it carries; it gives whether it goes on, what it carries, and what is stacked. That of a Scan
takes and gives what it carries, and slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from .messages import defined
from .renaming import Names

MOST = 10_000  # nodes that a loop may become
_AXES_ARE_INPUTS = 13  # the opset from which on


def body_of(node: NodeProto) -> GraphProto | None:
    """Give the body of a Loop or Scan that can be put in its place; None where it cannot."""
    body = next((row.g for row in node.attribute if row.name == "body"), None)
    return None if body is None or body.sparse_initializer else body


def goes_on(body: GraphProto) -> bool:
    """Whether the body of a Loop always says to go on, where it is told so itself."""
    if len(body.input) < 2 or not body.output:
        return False
    makers = {name: node for node in body.node for name in node.output}
    name = body.output[0].name
    for _ in range(len(body.node) + 1):
        if name == body.input[1].name:
            return True
        if (tensor := next((t for t in body.initializer if t.name == name), None)) is not None:
            return _is_true(tensor)
        node = makers.get(name)
        if node is None or node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type == "Constant":
            return any(row.name == "value" and _is_true(row.t) for row in node.attribute)
        if node.op_type not in ("Identity", "Cast"):
            return False
        name = node.input[0]
    return False


def _is_true(tensor: TensorProto) -> bool:
    if tensor.data_location or tensor.data_type != TensorProto.BOOL:
        return False
    return bool(numpy_helper.to_array(tensor).all())


def unroll_loop(node: NodeProto, rounds: int, names: Names, opset: int) -> list[NodeProto] | None:
    """Give the nodes of a Loop's rounds; None where it cannot be done."""
    body = body_of(node)
    carried = list(node.input[2:])
    if body is None or len(body.input) != 2 + len(carried):
        return None
    if not 1 + len(carried) <= len(body.output) == 1 + len(node.output):
        return None
    if rounds * (1 + len(body.node)) > MOST or (rounds == 0 and len(node.output) > len(carried)):
        return None
    made = _Rounds(node, body, names, opset)
    stacked: list[list[str]] = [[] for _ in body.output[1 + len(carried) :]]
    yes = made.constant(np.array(True))
    for number in range(rounds):
        given = [made.constant(np.array(number, np.int64)), yes, *carried]
        _, *rest = made.run(given)
        carried, slices = rest[: len(carried)], rest[len(carried) :]
        for pieces, piece in zip(stacked, slices, strict=True):
            pieces.append(piece)
    made.give(carried, node.output)
    for pieces, name in zip(stacked, node.output[len(carried) :], strict=True):
        made.stack(pieces, 0, name)
    return made.nodes


def unroll_scan(node: NodeProto, rounds: int, names: Names, opset: int) -> list[NodeProto] | None:
    """Give the nodes of a Scan's rounds; None where it cannot be done."""
    body = body_of(node)
    said = {row.name: row for row in node.attribute}
    count = said["num_scan_inputs"].i if "num_scan_inputs" in said else 0
    states = len(node.input) - count
    if body is None or not 0 < count <= len(node.input) or len(body.input) != len(node.input):
        return None
    if len(body.output) != len(node.output) or states > len(node.output):
        return None
    if not 0 < rounds * (len(body.node) + count) <= MOST:
        return None
    outputs = len(node.output) - states
    axes = _listed(said, "scan_input_axes", count)
    backwards = _listed(said, "scan_input_directions", count)
    out_axes = _listed(said, "scan_output_axes", outputs)
    out_backwards = _listed(said, "scan_output_directions", outputs)
    made = _Rounds(node, body, names, opset)
    carried = list(node.input[:states])
    stacked: list[list[str]] = [[] for _ in range(outputs)]
    for number in range(rounds):
        places = [rounds - 1 - number if back else number for back in backwards]
        slices = [
            made.slice(name, place, axis)
            for name, place, axis in zip(node.input[states:], places, axes, strict=True)
        ]
        given = made.run([*carried, *slices])
        carried = given[:states]
        for pieces, piece in zip(stacked, given[states:], strict=True):
            pieces.append(piece)
    made.give(carried, node.output)
    rows = zip(stacked, out_axes, out_backwards, node.output[states:], strict=True)
    for pieces, axis, back, name in rows:
        made.stack(pieces[::-1] if back else pieces, axis, name)
    return made.nodes


def _listed(said: dict[str, Any], name: str, count: int) -> list[int]:
    values = list(said[name].ints) if name in said else []
    return (values + [0] * count)[:count]


class _Rounds:
    """The nodes of rounds, in the making."""

    def __init__(self, node: NodeProto, body: GraphProto, names: Names, opset: int) -> None:
        self.nodes: list[NodeProto] = []
        self._body = body
        self._names = names
        self._opset = opset
        self._hint = node.name or next(filter(None, node.output), node.op_type)
        self._round = 0
        self._held = {t.name: self._constant_of(t) for t in body.initializer}
        self._own = [name for name in defined(body) if name not in self._held]

    def constant(self, value: Any) -> str:
        """Add a constant."""
        return self._constant_of(numpy_helper.from_array(value))

    def _constant_of(self, tensor: TensorProto) -> str:
        name = self._names.fresh(f"{self._hint}/{tensor.name or 'constant'}")
        self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def run(self, given: Sequence[str]) -> list[str]:
        """Add a round; gives the names of what the body gives."""
        hint = f"{self._hint}/{self._round}/"
        self._round += 1
        names = {name: self._names.fresh(hint + name) for name in self._own}
        names |= self._held
        names |= {row.name: name for row, name in zip(self._body.input, given, strict=True)}
        for each in self._body.node:
            made = NodeProto()
            made.CopyFrom(each)
            made.name = hint + each.name if each.name else ""
            self._names.rename(made, names, {})
            self.nodes.append(made)
        return [names.get(row.name, row.name) for row in self._body.output]

    def slice(self, name: str, place: int, axis: int) -> str:
        """Take out one place of an axis."""
        index = self.constant(np.array(place, np.int64))
        return self._add("Gather", [name, index], f"{self._hint}/slice", axis=axis)

    def stack(self, pieces: Sequence[str], axis: int, name: str) -> None:
        """Put pieces beside one another along a new axis."""
        if not name:
            return
        wide = [self._widened(piece, axis) for piece in pieces]
        self.nodes.append(helper.make_node("Concat", wide, [name], axis=axis))

    def _widened(self, piece: str, axis: int) -> str:
        hint = f"{self._hint}/piece"
        if self._opset < _AXES_ARE_INPUTS:
            return self._add("Unsqueeze", [piece], hint, axes=[axis])
        axes = self.constant(np.array([axis], np.int64))
        return self._add("Unsqueeze", [piece, axes], hint)

    def _add(self, operator: str, inputs: Sequence[str], hint: str, **attributes: Any) -> str:
        name = self._names.fresh(hint)
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def give(self, values: Sequence[str], names: Sequence[str]) -> None:
        """Call values as the outputs are called."""
        for value, name in zip(values, names, strict=False):
            if name:
                self.nodes.append(helper.make_node("Identity", [value], [name]))
