"""What is computed element by element: arithmetic, comparisons, activations, casts."""

from __future__ import annotations

import math

import numpy as np

from tensorkeep import dtypes
from tensorkeep.models.exchange.onnx_to_caffe2.table import TABLE
from tensorkeep.models.exchange.onnx_to_caffe2.writer import FLOAT, INTEGERS, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, Shape
from tensorkeep.wire.caffe2.elements import CODES

_SAME = {
    "Relu": "Relu",
    "Sigmoid": "Sigmoid",
    "Tanh": "Tanh",
    "Softsign": "Softsign",
    "Exp": "Exp",
    "Log": "Log",
    "Sqrt": "Sqrt",
    "Abs": "Abs",
    "Sin": "Sin",
    "Cos": "Cos",
    "Tan": "Tan",
    "Asin": "Asin",
    "Acos": "Acos",
    "Atan": "Atan",
    "Sinh": "Sinh",
    "Cosh": "Cosh",
    "Floor": "Floor",
    "Ceil": "Ceil",
    "Erf": "Erf",
    "Reciprocal": "Reciprocal",
}


def _same(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    to.add(_SAME[node.operator], [to.blob(node.input(0))], node.output())


for _name, _other in _SAME.items():
    TABLE.row(_name, becomes=_other)(_same)


@TABLE.row("Softplus", becomes="Relu, Abs, Negative, Softplus, Add")
def _softplus(node: Node, to: Writer) -> None:
    """Caffe2's own is infinite from 89 on, since it raises e to that."""
    to.need(node.input(0), FLOAT)
    blob = to.blob(node.input(0))
    small = to.add("Softplus", [to.add("Negative", [to.add("Abs", [blob])])])
    to.add("Add", [to.add("Relu", [blob]), small], node.output())


@TABLE.row("Neg", becomes="Negative")
@TABLE.row("Sign", becomes="Sign")
def _signed(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT, *INTEGERS)
    type = "Negative" if node.operator == "Neg" else node.operator
    to.add(type, [to.blob(node.input(0))], node.output())


@TABLE.row("Identity", becomes="Copy")
def _identity(node: Node, to: Writer) -> None:
    to.add("Copy", [to.blob(node.input(0))], node.output())


@TABLE.row("Dropout", becomes="Dropout", note="with is_test=1; in training it is refused")
def _dropout(node: Node, to: Writer) -> None:
    if to.is_used(node.output(1)):
        raise Refused("its mask is used, which Caffe2 does not write in tests")
    training = node.input(2)
    if training and bool(to.model.number(training, "training_mode")):
        raise Refused("it is in training mode, and what comes out of it is random")
    if node.since < 7 and not node.attributes.get("is_test", 0):
        to.report.add("changed", str(node), "it drops nothing, as when a model is used")
    ratio, blob = float(node.attributes.get("ratio", 0.5)), to.blob(node.input(0))
    if node.input(1) and to.model.is_constant(node.input(1)):
        ratio = to.model.number(node.input(1), "ratio")
    if to.model.type(node.input(0)) != FLOAT or not 0 <= ratio < 1:
        to.add("Copy", [blob], node.output())
        return
    to.add("Dropout", [blob], node.output(), is_test=1, ratio=ratio)


_WITH = {"LeakyRelu": {"alpha": 0.01}, "Elu": {"alpha": 1.0}, "ThresholdedRelu": {"alpha": 1.0}}


@TABLE.row("LeakyRelu", becomes="LeakyRelu")
@TABLE.row("Elu", becomes="Elu")
@TABLE.row("ThresholdedRelu", becomes="ThresholdedRelu")
def _with_alpha(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    given = {k: float(node.attributes.get(k, v)) for k, v in _WITH[node.operator].items()}
    to.add(node.operator, [to.blob(node.input(0))], node.output(), **given)


@TABLE.row("Selu", becomes="Selu")
def _selu(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    old = node.since < 6  # whose default had fewer digits
    alpha = node.attributes.get("alpha", 1.6732 if old else 1.67326319217681884765625)
    scale = node.attributes.get("gamma", 1.0507 if old else 1.05070102214813232421875)
    to.add("Selu", [to.blob(node.input(0))], node.output(), alpha=float(alpha), scale=float(scale))


@TABLE.row("HardSigmoid", becomes="HardSigmoid")
def _hard_sigmoid(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    alpha, beta = node.attributes.get("alpha", 0.2), node.attributes.get("beta", 0.5)
    blob = to.blob(node.input(0))
    to.add("HardSigmoid", [blob], node.output(), alpha=float(alpha), beta=float(beta))


@TABLE.row("Gelu", becomes="Gelu", note="the exact one, not that by tanh")
def _gelu(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    if node.attributes.get("approximate", "none") not in ("none", b"none"):
        raise Refused("Caffe2's fast Gelu is not quite ONNX's tanh")
    to.add("Gelu", [to.blob(node.input(0))], node.output())


@TABLE.row("PRelu", becomes="PRelu", note="a slope for all, or one for each channel")
def _prelu(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    slope, shape = to.model.array(node.input(1), "the slope"), to.shape(node.input(0))
    per_channel = (1,) * (len(shape) - slope.ndim) + slope.shape
    if len(shape) < 2 or slope.ndim > len(shape):
        raise Refused("Caffe2's PRelu takes what has an axis of channels")
    fits = slope.size == 1 or (
        slope.size == shape[1]
        and all(size == 1 for axis, size in enumerate(per_channel) if axis != 1)
    )
    if not fits:
        raise Refused(f"its slope has the shape {slope.shape}, neither one nor one of a channel")
    blob = to.constant(slope.reshape(-1).astype(np.float32), f"{node.input(1)}_slope")
    to.add("PRelu", [to.blob(node.input(0)), blob], node.output())


@TABLE.row("Clip", becomes="Clip", note="the bounds have to be constants")
def _clip(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    bounds = {}
    for index, key in ((1, "min"), (2, "max")):
        if node.input(index):
            bounds[key] = to.model.number(node.input(index), key)
        elif key in node.attributes:
            bounds[key] = float(node.attributes[key])
    to.add("Clip", [to.blob(node.input(0))], node.output(), **bounds)


@TABLE.row("Pow", becomes="Pow", note="of floats")
def _pow(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    to.need(node.input(1), FLOAT, *INTEGERS)
    base = to.blob(node.input(0))
    if to.model.is_constant(node.input(1)) and to.model.array(node.input(1)).size == 1:
        exponent = to.model.number(node.input(1))
        if math.isfinite(exponent) and float(np.float32(exponent)) != exponent:
            raise Refused(f"its exponent {exponent} is no float32, which Caffe2's is")
        if len(to.shape(node.output())) != len(to.shape(node.input(0))):
            base = to.reshaped(base, to.shape(node.output()))
        to.add("Pow", [base], node.output(), exponent=exponent)
        return
    if to.shape(node.input(0)) != to.shape(node.input(1)):
        raise Refused("its exponents are of another shape, which Caffe2's Pow does not take")
    to.need(node.input(1), FLOAT)
    to.add("Pow", [base, to.blob(node.input(1))], node.output())


_BINARY = {"Add": "Add", "Sub": "Sub", "Mul": "Mul", "Div": "Div"}
_COMPARING = {
    "Less": "LT",
    "LessOrEqual": "LE",
    "Greater": "GT",
    "GreaterOrEqual": "GE",
    "Equal": "EQ",
}
_LOGIC = {"And": "And", "Or": "Or", "Xor": "Xor"}


def _binary(node: Node, to: Writer) -> None:
    type = (_BINARY | _COMPARING | _LOGIC)[node.operator]
    kinds = ("bool",) if node.operator in _LOGIC else (FLOAT, *INTEGERS)
    if node.operator == "Equal":
        kinds = (*kinds, "bool")
    for index in (0, 1):
        to.need(node.input(index), *kinds)
    if node.operator == "Div" and to.model.type(node.input(0)) != FLOAT:
        raise Refused("it divides integers, which Caffe2 may round otherwise")
    a, b = node.input(0), node.input(1)
    extra = {}
    legacy = node.attributes.get("broadcast") and node.since < 7
    if legacy:
        extra = {"broadcast": 1}
        if "axis" in node.attributes:
            extra["axis"] = int(node.attributes["axis"])
    elif (axis := _inside(to.shape(a), to.shape(b))) is not None:
        extra = {"broadcast": 1, "axis": axis}  # which older runtimes know too
    to.add(type, [to.blob(a), to.blob(b)], node.output(), **extra)


for _name, _other in (_BINARY | _COMPARING | _LOGIC).items():
    TABLE.row(_name, becomes=_other, note="" if _name in _LOGIC else "of float32, int32, int64")(
        _binary
    )


def _inside(a: Shape, b: Shape) -> int | None:
    """Give the axis of `a` from which on `b` lies, for Caffe2's older broadcasting.

    >>> _inside((2, 3, 4), (3, 4)), _inside((2, 3), (2, 3)), _inside((2, 3, 4), (3, 1))
    (1, None, None)
    """
    if not 0 < len(b) < len(a) or a[len(a) - len(b) :] != b:
        return None
    return len(a) - len(b)


@TABLE.row("Not", becomes="Not")
def _not(node: Node, to: Writer) -> None:
    to.add("Not", [to.blob(node.input(0))], node.output())


_MANY = {"Sum": "Sum", "Max": "Max", "Min": "Min", "Mean": "Mean"}


@TABLE.row("Sum", becomes="Sum", note="or Add, one after the other, of several shapes")
@TABLE.row("Max", becomes="Max", note="of one shape")
@TABLE.row("Min", becomes="Min", note="of one shape")
@TABLE.row("Mean", becomes="Mean", note="of one shape")
def _many(node: Node, to: Writer) -> None:
    shapes = {to.shape(name) for name in node.inputs}
    for name in node.inputs:
        to.need(name, FLOAT)
    if len(node.inputs) == 1:
        to.add("Copy", [to.blob(node.input(0))], node.output())
        return
    blobs = [to.blob(name) for name in node.inputs]
    if len(shapes) > 1 and node.operator == "Sum":
        first, *others, last = blobs
        for other in others:
            first = to.add("Add", [first, other])
        to.add("Add", [first, last], node.output())
        return
    if len(shapes) > 1:
        raise Refused(f"its inputs have the shapes {sorted(shapes)}, and Caffe2 takes one")
    to.add(_MANY[node.operator], blobs, node.output())


@TABLE.row("Where", becomes="Where", note="of one shape")
def _where(node: Node, to: Writer) -> None:
    shapes = {to.shape(name) for name in node.inputs}
    to.need(node.input(1), FLOAT, *INTEGERS, "bool")
    if len(shapes) > 1:
        raise Refused(f"its inputs have the shapes {sorted(shapes)}, and Caffe2 takes one")
    to.add("Where", [to.blob(name) for name in node.inputs], node.output())


@TABLE.row("Cast", becomes="Cast", note="between float32, int32, int64, bool, uint8")
def _cast(node: Node, to: Writer) -> None:
    kinds = (FLOAT, *INTEGERS, "bool", "uint8")
    to.need(node.input(0), *kinds)
    to.need(node.output(), *kinds)
    found = to.model.type(node.input(0)), to.model.type(node.output())
    if found[0] == FLOAT and found[1] in ("uint8",):
        raise Refused("it casts floats to uint8, where what is out of range differs")
    code = CODES[dtypes.dtype(found[1])]
    to.add("Cast", [to.blob(node.input(0))], node.output(), to=int(code))
