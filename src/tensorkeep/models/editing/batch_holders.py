"""Nodes that hold the size of a batch, which shape inference does not tell.

Reshape [N, 4, 16] -> [8, 16]    fits a batch of 2 alone
Reshape [N, 4, 16] -> [8, -1]    takes any, but the rows of the batch are no longer apart
LSTM, initial_h [1, 2, 8]        fits a batch of 2 alone
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from tensorkeep.graph.codec import read_tensor
from tensorkeep.graph.graph import Axis, value_of
from tensorkeep.graph.schema import EXTERNAL
from tensorkeep.graph.walking import node_name, subgraphs
from tensorkeep.message import Message
from tensorkeep.models.editing.value_types import declared

_INT64 = 7
_MOST_AXES = 16
_RECURRENT = ("LSTM", "GRU", "RNN")


def misfits(
    graph: Message,
    batch: int,
    around: Mapping[str, tuple[Axis, ...]] | None = None,
    constants: Mapping[str, list[int]] | None = None,
) -> Iterator[str]:
    """Name the nodes that take no other batch, or would mix its rows.

    Args:
        graph: a GraphProto with inferred types, in which the batch is a prime that no axis has.
        batch: that prime.
        around: the axes of the values around it, by name.
        constants: the shapes around it, by name.
    """
    known = {**(around or {}), **_axes(graph)}
    shapes = {**(constants or {}), **_constants(graph)}
    for place, node in enumerate(graph.node):
        if node.op_type == "Reshape" and node.domain in ("", "ai.onnx") and len(node.input) == 2:
            shape, target = known.get(node.input[0]), shapes.get(node.input[1])
            keeps = any(row.name == "allowzero" and row.i for row in node.attribute)
            if shape is not None and target is not None and not _fits(shape, target, batch, keeps):
                yield f"the Reshape {node_name(node, place)} to {target}"
        if node.op_type in _RECURRENT and node.domain in ("", "ai.onnx"):
            for name in filter(None, node.input[4:7]):  # sequence_lens, initial_h, initial_c
                if _holds_another(known, node.input[0], name, batch):
                    yield f"{name} of the {node.op_type} {node_name(node, place)}"
        for inner in subgraphs(node):
            yield from misfits(inner, batch, known, shapes)


def _fits(shape: tuple[Axis, ...], target: list[int], batch: int, keeps: bool) -> bool:
    """Whether what has a batch still has whole rows of it when it is reshaped."""
    sizes = [size for size in shape if isinstance(size, int)]
    total = math.prod(sizes)
    if len(sizes) < len(shape) or not total or total % batch:
        return True
    if not keeps and any(size == 0 and i >= len(sizes) for i, size in enumerate(target)):
        return True  # no Reshape at all, as others say
    made = [sizes[i] if size == 0 and not keeps else size for i, size in enumerate(target)]
    rest = math.prod(size for size in made if size != -1)
    if -1 not in made:
        if rest != total:
            return False
    elif not rest or total % rest:
        return False
    else:
        made[made.index(-1)] = total // rest
    front = _front(made, batch)
    return front is not None and _front(sizes, batch) % front == 0  # type: ignore[operator]


def _holds_another(
    known: Mapping[str, tuple[Axis, ...]], name: str, state: str, batch: int
) -> bool:
    """Whether a state of a recurrent node is whole and has no batch, though the input has it."""
    axes = known.get(state, (None,))
    return batch in known.get(name, ()) and batch not in axes and None not in axes


def _front(sizes: list[int], batch: int) -> int | None:
    """Give the elements of all axes before the one that has the batch."""
    for place, size in enumerate(sizes):
        if size % batch == 0:
            return math.prod(sizes[:place])
    return None


def _axes(graph: Message) -> dict[str, tuple[Axis, ...]]:
    values = (value_of(row) for row in declared(graph).values())
    return {value.name: value.axes for value in values if value.axes is not None}


def _constants(graph: Message) -> dict[str, list[int]]:
    found = {row.name: row for row in graph.initializer}
    shapes: dict[str, list[int]] = {}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for row in node.attribute:
                if row.name == "value" and "t" in row:
                    found[node.output[0]] = row.t
                elif row.name == "value_ints":
                    shapes[node.output[0]] = row.ints.tolist()
    for name, row in found.items():
        count = math.prod(row.dims.tolist())
        if row.data_type == _INT64 and count <= _MOST_AXES and row.data_location != EXTERNAL:
            shapes[name] = read_tensor(row, name).numpy().reshape(-1).tolist()
    return shapes
