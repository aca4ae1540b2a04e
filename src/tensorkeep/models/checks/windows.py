"""What convolutions and poolings give, worked out from their attributes alone.

From onnx's docs/Operators.md: an axis of size n, padded by b and e, gives
(n + b + e - ((k - 1) * dilation + 1)) // stride + 1 places for a window of k. This also explains a
node that lacks its weight, of which nothing else can tell the shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tensorkeep.graph.graph import Axis, Value
from tensorkeep.message import Message
from tensorkeep.models.checks.scopes import Scope, plain
from tensorkeep.models.checks.values import Declared, declared_in, shown

# Where the weight is among the inputs; poolings have none.
_WEIGHTS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_POOLS = ("MaxPool", "AveragePool", "LpPool")


class Contradiction(NamedTuple):
    """What is declared of a value, and what it is: the declaration, the node, and both.

    The problem is empty where nothing contradicts, but less is declared than callers have to know.
    """

    declared: Declared
    node: str
    right: Value
    problem: str
    cure: str


def check_windows(scope: Scope) -> Iterator[Contradiction]:
    """Compare what is declared of the outputs of convolutions and poolings with what they give."""
    rows: dict[str, list[Declared]] | None = None
    weights: dict[str, tuple[int, ...]] = {}
    for index, node in enumerate(scope.nodes):
        if plain(node.domain) or (node.op_type not in _WEIGHTS and node.op_type not in _POOLS):
            continue
        if rows is None:
            rows = {}
            for declared in declared_in(scope):
                rows.setdefault(declared.value.name, []).append(declared)
            if not scope.is_function:
                weights = {
                    str(tensor.name): tuple(map(int, tensor.dims.tolist()))
                    for tensor in scope.message.initializer
                }
        inputs, outputs = list(node.input), list(node.output)
        if inputs and outputs and inputs[0] in rows:
            known = rows[inputs[0]][0].value
            place = _WEIGHTS.get(str(node.op_type), len(inputs))
            weight = weights.get(inputs[place]) if place < len(inputs) else None
            for declared in rows.get(outputs[0], ()):
                found = _compare(node, known, weight, declared)
                if found is not None:
                    yield found._replace(node=scope.label(index))


def _compare(
    node: Message, given: Value, weight: tuple[int, ...] | None, declared: Declared
) -> Contradiction | None:
    value = declared.value
    if given.axes is None or value.axes is None or len(given.axes) != len(value.axes):
        return None
    spatial = given.axes[2:]
    kernel = _ints(node, "kernel_shape") or (weight[2:] if weight else None)
    if not kernel or len(kernel) != len(spatial) or not spatial or _int(node, "ceil_mode"):
        return None
    pads = _ints(node, "pads") or (0,) * (2 * len(kernel))
    found = _sizes(node, spatial, kernel, pads)
    if found is None:
        return None
    pairs = list(zip(value.axes[2:], found, strict=True))
    if not any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
        return None
    axes = (*value.axes[:2], *(a if b is None else b for a, b in pairs))
    right = value._replace(axes=axes)
    steps = _ints(node, "strides") or (1,) * len(kernel)
    problem = (
        f"is declared as {shown(value)}, but {node.op_type} with kernel {_by(kernel)}, pads "
        f"{_by(pads, ',')} and strides {_by(steps)} over {_by(spatial)} gives {_by(found)}, not "
        f"{_by(value.axes[2:])}"
    )
    cure = f"Declare {shown(right)}"
    without = _sizes(node, spatial, kernel, (0,) * len(pads))
    if any(pads) and without == value.axes[2:]:
        cure += f", or set pads to 0, with which it gives {_by(without)}"
    return Contradiction(declared, "", right, problem, f"{cure}.")


def _sizes(
    node: Message, spatial: tuple[Axis, ...], kernel: tuple[int, ...], pads: tuple[int, ...]
) -> tuple[Axis, ...] | None:
    rank = len(kernel)
    strides = _ints(node, "strides") or (1,) * rank
    dilations = _ints(node, "dilations") or (1,) * rank
    mode = _text(node, "auto_pad") or "NOTSET"
    if len(strides) != rank or len(dilations) != rank or len(pads) != 2 * rank:
        return None
    if min(*strides, *dilations, *kernel) < 1 or mode not in ("NOTSET", "VALID"):
        return None
    if mode == "VALID":
        pads = (0,) * (2 * rank)
    found: list[Axis] = []
    for place, size in enumerate(spatial):
        if not isinstance(size, int):
            found.append(None)
            continue
        room = size + pads[place] + pads[place + rank]
        room -= (kernel[place] - 1) * dilations[place] + 1
        found.append(room // strides[place] + 1)
    return tuple(found)


def _attribute(node: Message, name: str) -> Message | None:
    return next((each for each in node.attribute if each.name == name), None)


def _ints(node: Message, name: str) -> tuple[int, ...]:
    found = _attribute(node, name)
    return () if found is None else tuple(map(int, found.ints.tolist()))


def _int(node: Message, name: str) -> int:
    found = _attribute(node, name)
    return 0 if found is None else int(found.i)


def _text(node: Message, name: str) -> str:
    found = _attribute(node, name)
    return "" if found is None else found.s.decode("utf-8", "replace")


def _by(sizes: tuple[Axis, ...], mark: str = "x") -> str:
    return mark.join("?" if size is None else str(size) for size in sizes)
