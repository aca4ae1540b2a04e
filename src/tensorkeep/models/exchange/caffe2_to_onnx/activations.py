"""Activations and other functions of one tensor, element by element."""

from __future__ import annotations

import math

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused

_SAME = {
    **{name: name for name in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Exp", "Log")},
    **{name: name for name in ("Sqrt", "Abs", "Reciprocal", "Floor", "Ceil", "Sign", "Erf")},
    **{name: name for name in ("Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh")},
    "Negative": "Neg",
}


def _register() -> None:
    for name, becomes in _SAME.items():
        TABLE.row(name, becomes=becomes)(_plain)


def _plain(op: Operator, to: Writer) -> None:
    op.refuse_outputs(1)
    to.node(_SAME[op.type], [op.input(0)], op.output())


_register()


def scalar(to: Writer, value: float, like: str) -> str:
    """Give a constant of the element type of a value."""
    return to.constant(value, np.dtype(to.type(like)))


@TABLE.row("LeakyRelu", becomes="LeakyRelu")
def leaky_relu(op: Operator, to: Writer) -> None:
    """X below zero is multiplied by alpha, 0.01 by default."""
    to.node("LeakyRelu", [op.input(0)], op.output(), alpha=op.number("alpha", 0.01))


@TABLE.row("Elu", becomes="Elu")
def elu(op: Operator, to: Writer) -> None:
    """Alpha * (exp(x) - 1) below zero."""
    to.node("Elu", [op.input(0)], op.output(), alpha=op.number("alpha", 1.0))


@TABLE.row("Selu", becomes="Selu")
def selu(op: Operator, to: Writer) -> None:
    """Scale * (x, or alpha * (exp(x) - 1) below zero)."""
    alpha = op.number("alpha", 1.6732632423543772)
    gamma = op.number("scale", 1.0507009873554805)
    to.node("Selu", [op.input(0)], op.output(), alpha=alpha, gamma=gamma)


@TABLE.row("ThresholdedRelu", becomes="ThresholdedRelu")
def thresholded_relu(op: Operator, to: Writer) -> None:
    """X where it is above alpha, zero elsewhere."""
    to.node("ThresholdedRelu", [op.input(0)], op.output(), alpha=op.number("alpha", 1.0))


@TABLE.row("HardSigmoid", becomes="HardSigmoid")
def hard_sigmoid(op: Operator, to: Writer) -> None:
    """Alpha * x + beta, within 0 and 1."""
    alpha, beta = op.number("alpha", 0.2), op.number("beta", 0.5)
    to.node("HardSigmoid", [op.input(0)], op.output(), alpha=alpha, beta=beta)


@TABLE.row("ReluN", becomes="Clip")
def relu_n(op: Operator, to: Writer) -> None:
    """X within 0 and n."""
    x = op.input(0)
    most = op.number("n", 6.0)
    if most <= 0:
        raise Refused(f"its argument n is {most:g}, where more than 0 is needed")
    to.node("Clip", [x, scalar(to, 0.0, x), scalar(to, most, x)], op.output())


@TABLE.row("Clip", becomes="Clip")
def clip(op: Operator, to: Writer) -> None:
    """X within min and max, either of which may be missing."""
    x = op.input(0)
    bounds = [scalar(to, op.number(n), x) if op.has(n) else None for n in ("min", "max")]
    to.node("Clip", [x, *bounds], op.output())


@TABLE.row("PRelu", becomes="PRelu", note="a slope per channel needs the rank to be known")
def prelu(op: Operator, to: Writer) -> None:
    """X below zero is multiplied by a slope, one for all or one per channel."""
    x, slope = op.input(0), op.input(1)
    sizes = to.dims(slope)
    if sizes is None or None in sizes:
        raise Refused("the number of its slopes is not known")
    if math.prod(size or 0 for size in sizes) == 1:
        to.node("PRelu", [x, to.reshaped(slope, [1])], op.output())
        return
    rank = to.rank(x)
    axis = rank - 1 if op.text("order", "NCHW") == "NHWC" else 1
    to.node("PRelu", [x, to.along(slope, axis, rank)], op.output())


@TABLE.row("Swish", becomes="Sigmoid, Mul")
def swish(op: Operator, to: Writer) -> None:
    """X * sigmoid(x)."""
    x = op.input(0)
    to.node("Mul", [x, to.node("Sigmoid", [x])], op.output())


@TABLE.row("Gelu", becomes="Gelu")
def gelu(op: Operator, to: Writer) -> None:
    """X * the normal distribution's integral, or its approximation by tanh."""
    approximate = "tanh" if op.flag("fast_gelu") else "none"
    to.node("Gelu", [op.input(0)], op.output(), approximate=approximate)


@TABLE.row("Glu", becomes="Split, Sigmoid, Mul")
def glu(op: Operator, to: Writer) -> None:
    """One half along an axis * sigmoid of the other half."""
    x = op.input(0)
    axis, dims = to.axis(x, op.integer("dim", -1)), to.dims(x)
    if dims is not None and (size := dims[axis]) is not None and size % 2:
        raise Refused(f"its axis {axis} has {size} elements, which have no halves")
    a, b = to.nodes("Split", [x], [None, None], axis=axis, num_outputs=2)
    to.node("Mul", [a, to.node("Sigmoid", [b])], op.output())


@TABLE.row("Sqr", becomes="Mul")
def square(op: Operator, to: Writer) -> None:
    """X * x."""
    to.node("Mul", [op.input(0), op.input(0)], op.output())


@TABLE.row("Cube", becomes="Mul")
def cube(op: Operator, to: Writer) -> None:
    """X * x * x."""
    x = op.input(0)
    to.node("Mul", [to.node("Mul", [x, x]), x], op.output())


@TABLE.row("Cbrt", becomes="Abs, Pow, Sign, Mul")
def cube_root(op: Operator, to: Writer) -> None:
    """The cube root, with the sign of x."""
    x = op.input(0)
    root = to.node("Pow", [to.node("Abs", [x]), scalar(to, 1 / 3, x)])
    to.node("Mul", [to.node("Sign", [x]), root], op.output())


@TABLE.row("Rsqrt", becomes="Sqrt, Reciprocal")
def reciprocal_root(op: Operator, to: Writer) -> None:
    """1 / sqrt(x)."""
    to.node("Reciprocal", [to.node("Sqrt", [op.input(0)])], op.output())


@TABLE.row("Round", becomes="Floor, GreaterOrEqual, Sign", note="halves go away from zero")
def rounded(op: Operator, to: Writer) -> None:
    """The nearest integer, halves away from zero, where ONNX's Round takes the even one."""
    x = op.input(0)
    size = to.node("Abs", [x])
    low = to.node("Floor", [size])
    half = to.node("GreaterOrEqual", [to.node("Sub", [size, low]), scalar(to, 0.5, x)])
    up = to.node("Cast", [half], to=_number(to, x))
    to.node("Mul", [to.node("Sign", [x]), to.node("Add", [low, up])], op.output())


@TABLE.row("ReplaceNaN", becomes="IsNaN, Where")
def replace_nan(op: Operator, to: Writer) -> None:
    """A value where x is not a number."""
    x = op.input(0)
    value = scalar(to, op.number("value", 0.0), x)
    to.node("Where", [to.node("IsNaN", [x]), value, x], op.output())


@TABLE.row("StumpFunc", becomes="LessOrEqual, Where")
def stump(op: Operator, to: Writer) -> None:
    """low_value up to a threshold, high_value above it."""
    x = op.input(0)
    low, high = op.number("low_value"), op.number("high_value")
    above = to.node("LessOrEqual", [x, scalar(to, op.number("threshold"), x)])
    to.node("Where", [above, scalar(to, low, x), scalar(to, high, x)], op.output())


@TABLE.row("Scale", becomes="Mul")
def scale(op: Operator, to: Writer) -> None:
    """X * scale."""
    x = op.input(0)
    to.node("Mul", [x, scalar(to, op.number("scale", 1.0), x)], op.output())


@TABLE.row("Softmax", becomes="Softmax", note="over all axes from `axis` on, as Caffe2 flattens")
def softmax(op: Operator, to: Writer) -> None:
    """exp(x) over its sum, of all axes from one on taken as one."""
    _over_the_rest(op, to, "Softmax")


@TABLE.row("LogSoftmax", becomes="LogSoftmax")
def log_softmax(op: Operator, to: Writer) -> None:
    """The logarithm of Softmax."""
    _over_the_rest(op, to, "LogSoftmax")


def _over_the_rest(op: Operator, to: Writer, operator: str) -> None:
    x = op.input(0)
    axis, dims = to.axis(x, op.integer("axis", 1)), to.dims(x)
    if dims is not None and all(size == 1 for size in dims[axis + 1 :]):
        to.node(operator, [x], op.output(), axis=axis)
        return
    if axis < 0:
        to.rank(x)
    flat = to.node(operator, [to.node("Flatten", [x], axis=axis)], axis=1)
    to.shaped_like(flat, x, op.output())


def _number(to: Writer, like: str) -> int:
    from tensorkeep.models.exchange.emitting import number_of

    return number_of(to.type(like))
