"""What depends on constants alone, computed: weights that a model makes of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.errors import TensorKeepError
from tensorkeep.graph import Graph, fill_tensor
from tensorkeep.graph.schema import GRAPH, MODEL
from tensorkeep.message import Message
from tensorkeep.models.exchange.settled import Node, Shape
from tensorkeep.models.running import session
from tensorkeep.source import Source
from tensorkeep.state import State
from tensorkeep.tensor import Tensor

LARGEST = 64 << 20  # bytes of what is computed, if it is more than what it is made of
LARGEST_FILLED = 1 << 30  # bytes of one of equal elements, which takes no room until it is read
_VIEWS = ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_RANDOM = ("Random", "Bernoulli", "Multinomial")
_IR = 10


class Row:
    """A node, its message, and the version of the operator set that it is of."""

    __slots__ = ("message", "node", "opset")

    def __init__(self, node: Node, message: Message, opset: int) -> None:
        self.node = node
        self.message = message
        self.opset = opset


def fold(
    rows: Sequence[Row],
    constants: dict[str, Tensor],
    types: Mapping[str, str],
    shapes: Mapping[str, Shape],
    wanted: Sequence[str],
    kept: Sequence[str],
) -> list[Row]:
    """Compute nodes that take constants alone; gives those that are left.

    What only gives a tensor another shape is not read. Where ONNX Runtime cannot compute them, they
    are left.

    Args:
        rows: all nodes, in order.
        constants: takes what is computed.
        types: of all values.
        shapes: of all values.
        wanted: the outputs of the model.
        kept: operators whose nodes are left as they are.
    """
    left: list[Row] = []
    chosen: list[Row] = []
    computed: set[str] = set()
    for row in rows:
        node = row.node
        inputs = [name for name in node.inputs if name]
        known = all(name in constants or name in computed for name in inputs)
        if not known or not _can_fold(row, types, shapes, constants) or node.operator in kept:
            left.append(row)
        elif node.operator == "ConstantOfShape":
            constants[node.output()] = _filled(node, shapes[node.output()])
        elif node.operator in _VIEWS and node.input(0) in constants:
            held = constants[node.input(0)]
            shape = shapes[node.output()]
            constants[node.output()] = Tensor(
                held.dtype, shape, held.source, held.offset, held.nbytes
            )
        else:
            chosen.append(row)
            computed.update(filter(None, node.outputs))
    used = {name for row in left for name in _uses(row)}.union(wanted)
    for opset, group in groupby(chosen, lambda row: row.opset):
        batch = list(group)
        within = set(batch)
        later = {name for row in chosen if row not in within for name in row.node.inputs}
        try:
            constants |= _run(batch, constants, used | later, opset)
        except TensorKeepError:
            kept_rows = set(left)
            lost = {name for row in chosen for name in row.node.outputs} - constants.keys()
            return [
                row for row in rows if row in kept_rows or not lost.isdisjoint(row.node.outputs)
            ]
    return left


def _uses(row: Row) -> list[str]:
    from tensorkeep.models.editing.scopes import used_by

    return list(used_by(row.message))


def _can_fold(
    row: Row,
    types: Mapping[str, str],
    shapes: Mapping[str, Shape],
    constants: Mapping[str, Tensor],
) -> bool:
    node = row.node
    if node.domain or node.operator.startswith(_RANDOM):
        return False
    if any(isinstance(value, Message) for value in node.attributes.values()):
        return False
    if node.operator == "ConstantOfShape" and _is_packed(node):
        return False
    outputs = [name for name in node.outputs if name]
    if not outputs or any(name not in shapes or name not in types for name in outputs):
        return False
    if node.operator in _VIEWS:
        held = constants.get(node.input(0))
        if held is not None and held.size != dtypes.count_of(shapes[node.output()]):
            return False
    if node.operator == "ConstantOfShape":
        return _nbytes(outputs[0], types, shapes) <= LARGEST_FILLED
    sizes = [_nbytes(name, types, shapes) for name in outputs]
    most = sum(_nbytes(name, types, shapes) for name in node.inputs if name in shapes)
    return sum(sizes) <= max(LARGEST, most)


def _is_packed(node: Node) -> bool:
    """Whether an element is no whole number of bytes, or several."""
    value = node.attributes.get("value")
    return isinstance(value, Tensor) and (value.dtype.packed or value.size != 1)


def _filled(node: Node, shape: Shape) -> Tensor:
    value = node.attributes.get("value")
    if not isinstance(value, Tensor):
        value = Tensor.of(np.zeros(1, np.float32))
    return Tensor(value.dtype, shape, Filled(value, dtypes.count_of(shape)))


class Filled(Source):
    """The bytes of a tensor whose elements are all the same, made when they are read."""

    __slots__ = ("_element",)

    def __init__(self, element: Tensor, count: int) -> None:
        super().__init__(element.dtype.nbytes(count), element.source.where)
        self._element = bytes(element.read())

    def _read(self, start: int, stop: int) -> memoryview:
        width = len(self._element)
        skipped = start % width
        whole = self._element * -(-(stop - start + skipped) // width)
        return memoryview(whole)[skipped : skipped + stop - start]


def _nbytes(name: str, types: Mapping[str, str], shapes: Mapping[str, Shape]) -> int:
    return dtypes.dtype(types[name]).nbytes(dtypes.count_of(shapes[name]))


def _run(
    rows: Sequence[Row], constants: Mapping[str, Tensor], used: set[str], opset: int
) -> dict[str, Tensor]:
    graph = Message(GRAPH, name="constants")
    made = {name for row in rows for name in row.node.outputs if name}
    taken = dict.fromkeys(name for row in rows for name in row.node.inputs if name)
    for name in taken:
        if name not in made:
            fill_tensor(graph.add("initializer", name=name), constants[name])
    graph["node"] = [row.message.copy() for row in rows]
    names = [name for name in made if name in used]
    for name in names:
        graph.add("output", name=name)
    if not names:
        return {}
    model = Message(MODEL, ir_version=_IR, graph=graph)
    model.add("opset_import", domain="", version=opset)
    with session(State.of_graph(Graph(model)), configure=_plainly) as loaded:
        found = loaded.run({}, names)
    return {name: Tensor.of(array, name) for name, array in found.items()}


def _plainly(options: Any) -> None:
    from onnxruntime import GraphOptimizationLevel

    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
