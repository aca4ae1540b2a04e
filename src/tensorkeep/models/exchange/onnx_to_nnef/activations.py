"""Activations: ONNX's in NNEF's operations, each by its own formula."""

from __future__ import annotations

import math

import numpy as np

from tensorkeep.models.exchange.onnx_to_nnef.elementwise import error_function, tell_error_function
from tensorkeep.models.exchange.onnx_to_nnef.operands import attribute
from tensorkeep.models.exchange.onnx_to_nnef.small_integers import typed
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import NUMBERS, Operand, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal
from tensorkeep.wire.nnef.operations import Reference


def operand(node: Node, to: Writer) -> Reference:
    """Refer to the one operand, which has to be of a float type."""
    to.need(node.input(0), *NUMBERS)
    return to.tensor(node.input(0))


_PLAIN = {"Relu": "relu", "Sigmoid": "sigmoid", "Softplus": "softplus"}


def _plain(node: Node, to: Writer) -> None:
    to.apply(_PLAIN[node.operator], operand(node, to), output=node.output())


for _operator, _operation in _PLAIN.items():
    TABLE.row(_operator, becomes=_operation)(_plain)


@TABLE.row("LeakyRelu", becomes="leaky_relu")
def _leaky_relu(node: Node, to: Writer) -> None:
    alpha = attribute(to, node, "alpha", 0.01)
    to.apply("leaky_relu", operand(node, to), alpha=alpha, output=node.output())


@TABLE.row("PRelu", becomes="prelu")
def _prelu(node: Node, to: Writer) -> None:
    to.need(node.input(0), *NUMBERS)
    x, slope = to.aligned(*node.inputs[:2])
    if node.since < 7 and len(to.shape(node.input(1))) == 1 and isinstance(slope, Reference):
        slope = to.unsqueeze(to.tensor(node.input(1)), [0])  # of channels, before opset 7
    to.apply("prelu", x, slope, output=node.output())


@TABLE.row("Elu", becomes="elu")
def _elu(node: Node, to: Writer) -> None:
    alpha = attribute(to, node, "alpha", 1.0)
    to.apply("elu", operand(node, to), alpha=alpha, output=node.output())


@TABLE.row("Selu", becomes="selu", note="alpha and gamma are kept")
def _selu(node: Node, to: Writer) -> None:
    alpha, gamma = (1.6732, 1.0507) if node.since < 6 else (1.6732632, 1.050701)
    arguments = {
        "x": operand(node, to),
        "alpha": attribute(to, node, "alpha", alpha),
        "lambda": attribute(to, node, "gamma", gamma),
    }
    to.emit("selu", arguments, node.output())


@TABLE.row("Celu", becomes="select, exp, div, sub, mul")
def _celu(node: Node, to: Writer) -> None:
    x, alpha = operand(node, to), attribute(to, node, "alpha", 1.0)
    risen = to.apply("sub", to.apply("exp", to.apply("div", x, alpha)), 1.0)
    below = to.apply("mul", risen, alpha)
    to.apply("select", to.apply("lt", x, 0.0), below, x, output=node.output())


@TABLE.row("HardSigmoid", becomes="mul, add, clamp")
def _hard_sigmoid(node: Node, to: Writer) -> None:
    _hard(
        to,
        operand(node, to),
        attribute(to, node, "alpha", 0.2),
        attribute(to, node, "beta", 0.5),
        node,
    )


@TABLE.row("HardSwish", becomes="mul, add, clamp")
def _hard_swish(node: Node, to: Writer) -> None:
    x = operand(node, to)
    to.apply("mul", x, _hard(to, x, attribute(to, node, "alpha", 1 / 6), 0.5), output=node.output())


def _hard(
    to: Writer, x: Reference, alpha: float, beta: float, node: Node | None = None
) -> Reference:
    line = to.apply("add", to.apply("mul", x, alpha), beta)
    return to.apply("clamp", line, 0.0, 1.0, output=node.output() if node else None)


@TABLE.row("Softsign", becomes="abs, add, div")
def _softsign(node: Node, to: Writer) -> None:
    x = operand(node, to)
    to.apply("div", x, to.apply("add", to.apply("abs", x), 1.0), output=node.output())


@TABLE.row("Mish", becomes="softplus, tanh, mul")
def _mish(node: Node, to: Writer) -> None:
    x = operand(node, to)
    to.apply("mul", x, to.apply("tanh", to.apply("softplus", x)), output=node.output())


@TABLE.row("Swish", becomes="silu", note="mul, sigmoid where alpha is not 1")
def _swish(node: Node, to: Writer) -> None:
    x, alpha = operand(node, to), attribute(to, node, "alpha", 1.0)
    if alpha == 1:
        to.apply("silu", x, output=node.output())
        return
    gate = to.apply("sigmoid", to.apply("mul", x, alpha))
    to.apply("mul", x, gate, output=node.output())


@TABLE.row("Gelu", becomes="mul, add, tanh", note="without approximation erf is computed, to 4e-7")
def _gelu(node: Node, to: Writer) -> None:
    x, way = operand(node, to), node.word("approximate", "none")
    if way not in ("none", "tanh"):
        raise Refused(f"its approximation is {way!r}, which is none of ONNX's")
    kind = to.model.type(node.input(0))
    wide = to.cast(x, "float32") if kind == "float16" and way == "none" else x
    if way == "none":
        tell_error_function(node, to)
        inner = error_function(to, to.apply("mul", wide, math.sqrt(0.5)))
    else:
        cube = to.apply("mul", to.apply("mul", x, x), x)
        sum_ = to.apply("add", x, to.apply("mul", cube, 0.044715))
        inner = to.apply("tanh", to.apply("mul", sum_, math.sqrt(2 / math.pi)))
    half = to.apply("mul", wide, 0.5)
    risen = to.apply("add", inner, 1.0)
    if wide is x:
        to.apply("mul", half, risen, output=node.output())
    else:
        to.cast(to.apply("mul", half, risen), kind, node.output())


@TABLE.row("ThresholdedRelu", becomes="gt, select")
def _thresholded_relu(node: Node, to: Writer) -> None:
    x, alpha = operand(node, to), attribute(to, node, "alpha", 1.0)
    to.apply("select", to.apply("gt", x, alpha), x, 0.0, output=node.output())


@TABLE.row("Shrink", becomes="lt, gt, add, sub, select")
def _shrink(node: Node, to: Writer) -> None:
    x = operand(node, to)
    bias, edge = attribute(to, node, "bias", 0.0), attribute(to, node, "lambd", 0.5)
    above = to.apply("select", to.apply("gt", x, edge), to.apply("sub", x, bias), 0.0)
    below = to.apply("add", x, bias)
    to.apply("select", to.apply("lt", x, -edge), below, above, output=node.output())


def _axes(node: Node, rank: int) -> list[int]:
    """Give the axes over which it normalizes: before opset 13, all from `axis` on."""
    axis = normal(node.attributes.get("axis", 1 if node.since < 13 else -1), rank)
    return list(range(axis, rank)) if node.since < 13 else [axis]


@TABLE.row("Softmax", becomes="softmax")
def _softmax(node: Node, to: Writer) -> None:
    x = operand(node, to)
    axes = _axes(node, to.model.rank(node.input(0)))
    to.apply("softmax", x, axes=axes, output=node.output())


@TABLE.row("LogSoftmax", becomes="max_reduce, sub, exp, sum_reduce, log")
def _log_softmax(node: Node, to: Writer) -> None:
    x, shape = operand(node, to), to.shape(node.input(0))
    axes = _axes(node, len(shape))
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    # Not the logarithm of softmax, which is infinite where that is too small for a float.
    below = to.apply("sub", x, to.apply("max_reduce", x, axes=axes, shape=kept))
    total = to.apply("sum_reduce", to.apply("exp", below), axes=axes, shape=kept)
    to.apply("sub", below, to.apply("log", total), output=node.output())


@TABLE.row("Hardmax", becomes="argmax_reduce, cast, eq, select")
def _hardmax(node: Node, to: Writer) -> None:
    x, shape = operand(node, to), to.shape(node.input(0))
    axes = _axes(node, len(shape))
    sizes = [*shape[: axes[0]], math.prod(shape[axis] for axis in axes), *shape[axes[-1] + 1 :]]
    flat = to.reshape(x, sizes) if len(axes) > 1 else x
    kept = [1 if axis == axes[0] else size for axis, size in enumerate(sizes)]
    best = to.apply("argmax_reduce", flat, axes=axes[:1], shape=kept)
    to.affordable(sizes[axes[0]])
    places: Operand = to.variable(np.arange(sizes[axes[0]], dtype=np.float32), "places")
    places = to.lifted(places, axes[0] + 1)
    chosen = to.apply("eq", to.cast(best, "float32"), places)
    kind, last = to.model.type(node.input(0)), len(axes) == 1
    arguments = {"condition": chosen, "true_value": 1.0, "false_value": typed(to, 0.0, kind)}
    made = to.emit("select", arguments, node.output() if last else None, type=kind)
    if not last:
        to.reshape(made, shape, node.output())
