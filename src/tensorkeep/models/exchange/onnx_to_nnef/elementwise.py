"""Arithmetic, functions, comparisons and logic: ONNX's elementwise operators in NNEF."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from tensorkeep.models.exchange.onnx_to_nnef.rounding import halves_to_even
from tensorkeep.models.exchange.onnx_to_nnef.small_integers import (
    SMALL,
    WIDE,
    compared,
    computed,
    fits_comparison,
    truncated,
    typed,
    wrapped,
)
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import NUMBERS, Operand, Writer, literal
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal
from tensorkeep.wire.nnef.operations import Reference

_UNARY = {
    "Abs": "abs",
    "Acos": "acos",
    "Acosh": "acosh",
    "Asin": "asin",
    "Asinh": "asinh",
    "Atan": "atan",
    "Atanh": "atanh",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Exp": "exp",
    "Floor": "floor",
    "Log": "log",
    "Neg": "neg",
    "Reciprocal": "rcp",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Sqrt": "sqrt",
    "Tan": "tan",
    "Tanh": "tanh",
}
_COMPARISONS = {
    "Equal": "eq",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "Less": "lt",
    "LessOrEqual": "le",
}
_ARITHMETIC = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}


def _unary(node: Node, to: Writer) -> None:
    operation = _UNARY[node.operator]
    if node.operator not in ("Abs", "Neg", "Sign"):
        to.need(node.input(0), *NUMBERS)
    (x,) = computed(to, node.input(0))
    if to.model.type(node.input(0)) in SMALL:
        wrapped(to, to.apply(operation, x), node.output())
    else:
        to.apply(operation, x, output=node.output())


for _operator, _operation in _UNARY.items():
    TABLE.row(_operator, becomes=_operation)(_unary)


def _arithmetic(node: Node, to: Writer) -> None:
    kind = to.model.type(node.input(0))
    if node.operator == "Mul" and SMALL.get(kind, 0) > 8:
        raise Refused(f"it computes with {kind}, whose products NNEF's scalars cannot hold exactly")
    x, y = _pair(node, to)
    made = _ARITHMETIC[node.operator]
    if kind in SMALL:
        whole = to.apply(made, x, y)
        wrapped(to, truncated(to, whole) if made == "div" else whole, node.output())
    else:
        to.apply(made, x, y, output=node.output())


for _operator, _operation in _ARITHMETIC.items():
    TABLE.row(_operator, becomes=_operation, note="of integers, those of up to 16 bits")(
        _arithmetic
    )


def _pair(node: Node, to: Writer) -> list[Operand]:
    """Refer to two operands, which operators before opset 7 broadcast by a rule of their own."""
    x, y = node.inputs[:2]
    axis = node.attributes.get("axis")
    if node.since >= 7 or axis is None or not node.attributes.get("broadcast"):
        return computed(to, x, y)
    # The second one's axes are the first one's from this one on, as NNEF has it after the lifting.
    (first,), (second,) = computed(to, x), computed(to, y)
    return [first, to.lifted(second, normal(axis, to.model.rank(x)) + to.model.rank(y))]


@TABLE.row("Pow", becomes="pow", note="the base has to be of a float type")
def _pow(node: Node, to: Writer) -> None:
    base, power = node.inputs[:2]
    to.need(base, *NUMBERS, what="the base")
    kind = to.model.type(power)
    if kind not in NUMBERS and kind not in SMALL:
        exact = to.model.array(power, f"the exponent, of type {kind},")
        if np.abs(exact.astype(np.float64)).max() >= 2**24:
            raise Refused(f"the exponent is {kind}, and too large for a scalar")
    x, y = to.aligned(base, power)
    if not isinstance(y, Reference):
        y = float(y)
    elif kind != to.model.type(base):
        y = to.cast(y, to.model.type(base))
    to.apply("pow", x, y, output=node.output())


def _comparison(node: Node, to: Writer) -> None:
    names = node.inputs[:2]
    kind = to.model.type(names[0])
    if kind == "bool" and node.operator == "Equal":
        x, y = to.aligned(*names)
        to.apply("not", _differ(to, x, y), output=node.output())
        return
    x, y = compared(to, *names) if fits_comparison(to, names) else _pair(node, to)
    to.apply(_COMPARISONS[node.operator], x, y, output=node.output())


for _operator, _operation in _COMPARISONS.items():
    TABLE.row(_operator, becomes=_operation, note="of wide integers, with small constants alone")(
        _comparison
    )


def _differ(to: Writer, x: Operand, y: Operand, output: str | None = None) -> Reference:
    """Tell where two logical values differ, which `ne` tells of scalars alone."""
    both = to.apply("not", to.apply("and", x, y))
    return to.apply("and", to.apply("or", x, y), both, output=output)


@TABLE.row("And", becomes="and")
@TABLE.row("Or", becomes="or")
def _logic(node: Node, to: Writer) -> None:
    x, y = to.aligned(*node.inputs[:2])
    to.apply(node.operator.lower(), x, y, output=node.output())


@TABLE.row("Xor", becomes="and, or, not")
def _xor(node: Node, to: Writer) -> None:
    x, y = to.aligned(*node.inputs[:2])
    _differ(to, x, y, node.output())


@TABLE.row("Not", becomes="not")
def _not(node: Node, to: Writer) -> None:
    to.apply("not", to.tensor(node.input(0)), output=node.output())


@TABLE.row("Where", becomes="select")
def _where(node: Node, to: Writer) -> None:
    condition, x, y = to.aligned(*node.inputs[:3])
    if not isinstance(x, Reference) and not isinstance(y, Reference):
        y = typed(to, y, to.model.type(node.output()))
    to.apply("select", condition, x, y, output=node.output())


@TABLE.row("Max", becomes="max", note="as often as there are operands; select of wide integers")
@TABLE.row("Min", becomes="min", note="as often as there are operands; select of wide integers")
def _extreme(node: Node, to: Writer) -> None:
    _chain(node, to, node.operator.lower())


@TABLE.row("Sum", becomes="add", note="as often as there are operands")
def _sum(node: Node, to: Writer) -> None:
    to.need(node.input(0), *NUMBERS)
    _chain(node, to, "add")


@TABLE.row("Mean", becomes="add, div")
def _mean(node: Node, to: Writer) -> None:
    to.need(node.input(0), *NUMBERS)
    values = to.aligned(*node.inputs)
    total = _folded(to, "add", values)
    to.apply("div", total, float(len(values)), output=node.output())


def _chain(node: Node, to: Writer, operation: str) -> None:
    names = node.inputs
    signed = len(names) == 2 and to.model.type(names[0]) in ("int32", "int64")
    if signed and operation != "add" and fits_comparison(to, names):
        least = operation == "min"
        chosen = to.apply("lt" if least else "gt", *compared(to, *names))
        to.apply("select", chosen, *to.aligned(*names), output=node.output())
        return
    if len(node.inputs) == 1:
        to.alias(node.output(), to.tensor(node.input(0)))
        return
    values = computed(to, *node.inputs)
    if to.model.type(node.input(0)) in SMALL:
        wrapped(to, _folded(to, operation, values), node.output())
        return
    values.sort(key=lambda value: not isinstance(value, Reference))
    total = _folded(to, operation, values[:-1])
    to.apply(operation, total, values[-1], output=node.output())


def _folded(to: Writer, operation: str, values: list[Operand]) -> Operand:
    # Tensors first, so that every number has one beside it, whose type it takes.
    total, *others = sorted(values, key=lambda value: not isinstance(value, Reference))
    for value in others:
        total = to.apply(operation, total, value)
    return total


@TABLE.row(
    "Clip", becomes="clamp", note="max and min of one bound; lt, gt and select of wide integers"
)
def _clip(node: Node, to: Writer) -> None:
    if to.model.type(node.input(0)) in WIDE:
        _clip_wide(node, to)
        return
    (x,) = computed(to, node.input(0))
    least, most = _bound(node, to, 1, "min"), _bound(node, to, 2, "max")
    steps: list[tuple[str, list[Operand]]] = []
    if isinstance(least, float) and isinstance(most, float) and least <= most:
        steps.append(("clamp", [least, most]))
    else:  # the upper bound counts where it is below the lower one, which clamp has otherwise
        steps += [("max", [least])] if least is not None else []
        steps += [("min", [most])] if most is not None else []
    if not steps:
        to.alias(node.output(), to.tensor(node.input(0)))
        return
    narrow = to.model.type(node.input(0)) in SMALL
    for index, (operation, bounds) in enumerate(steps):
        last = index == len(steps) - 1 and not narrow
        x = to.apply(operation, x, *bounds, output=node.output() if last else None)
    if narrow:
        wrapped(to, x, node.output())


def _clip_wide(node: Node, to: Writer) -> None:
    """Clip integers by comparing them with the bounds, which have to be small."""
    value: Operand = to.tensor(node.input(0))
    bounds = [
        (name, way) for name, way in zip(node.inputs[1:3], ("lt", "gt"), strict=False) if name
    ]
    for index, (name, way) in enumerate(bounds):
        if not fits_comparison(to, [node.input(0), name]):
            raise Refused("it clips wide integers at what is computed, or large")
        bound = to.model.integers(name)[0]
        beyond = to.apply(way, to.cast(value, "float32"), float(bound))
        output = node.output() if index == len(bounds) - 1 else None
        value = to.emit(
            "select", {"condition": beyond, "true_value": bound, "false_value": value}, output
        )
    if not bounds:
        to.alias(node.output(), value)


def _bound(node: Node, to: Writer, index: int, key: str) -> Operand | None:
    """Give a bound of Clip's, which is an input or an attribute, or left out."""
    name = node.input(index)
    if name and not to.model.is_constant(name):
        return computed(to, name)[0]
    endless = -np.inf if key == "min" else np.inf
    value = to.model.number(name, key) if name else node.attributes.get(key, endless)
    if value == endless:
        return None
    found = literal(to.model.array(name) if name else np.array([value], np.float32))
    if found is None or isinstance(found, Reference):
        raise Refused(f"its {key} is {value}")
    return float(found)


@TABLE.row("Mod", becomes="floor, div, mul, sub", note="of integers of up to 16 bits alone")
def _mod(node: Node, to: Writer) -> None:
    kind = to.model.type(node.input(0))
    if kind not in SMALL:
        raise Refused(f"the remainder of {kind} is not exact by NNEF's operations")
    x, y = computed(to, *node.inputs[:2])
    quotient = to.apply("div", x, y)
    whole = truncated(to, quotient) if node.attributes.get("fmod") else to.apply("floor", quotient)
    wrapped(to, to.apply("sub", x, to.apply("mul", whole, y)), node.output())


@TABLE.row("Round", becomes="floor, ceil, select", note="halves to even, as ONNX rounds them")
def _round(node: Node, to: Writer) -> None:
    to.need(node.input(0), *NUMBERS)
    halves_to_even(to, to.tensor(node.input(0)), node.output())
    to.report.add("expanded", str(node), "NNEF's round does not say where halves go")


@TABLE.row("IsNaN", becomes="ne", note="of the value and itself")
def _is_nan(node: Node, to: Writer) -> None:
    to.need(node.input(0), *NUMBERS)
    x = to.tensor(node.input(0))
    to.apply("ne", x, x, output=node.output())


@TABLE.row("IsInf", becomes="eq", note="to a variable that is infinite")
def _is_infinite(node: Node, to: Writer) -> None:
    kind = to.model.type(node.input(0))
    to.need(node.input(0), *NUMBERS)
    x = to.tensor(node.input(0))
    below, above = (node.attributes.get(f"detect_{key}", 1) for key in ("negative", "positive"))
    if not below and not above:
        to.apply("lt", to.apply("abs", x), 0.0, output=node.output())
        return
    infinite = to.variable(np.array(np.inf if above else -np.inf, kind), "infinity")
    to.apply("eq", to.apply("abs", x) if below and above else x, infinite, output=node.output())


# erf(x) = x P(x^2) / Q(x^2) for |x| up to _ERF_END, past which it is 1 to float32: fitted for the
# least relative error, which is 4e-7 in float32.
_ERF_END = 3.925
_ERF_ABOVE = (
    *(1.9871342e-08, -1.9562922e-06, 1.4208266e-04, 3.7154446e-03, 5.0619327e-02, 2.0027729e-01),
    1.1283791e00,
)
_ERF_BELOW = (9.5906667e-04, 1.4382417e-02, 1.1514344e-01, 5.1082277e-01, 1.0)


def error_function(to: Writer, x: Operand) -> Reference:
    """Compute erf by the operations that NNEF has, to 4e-7."""
    near = to.apply("clamp", x, -_ERF_END, _ERF_END)
    square = to.apply("mul", near, near)
    above = to.apply("mul", near, _polynomial(to, square, _ERF_ABOVE))
    whole = to.apply("div", above, _polynomial(to, square, _ERF_BELOW))
    return to.apply("clamp", whole, -1.0, 1.0)


def _polynomial(to: Writer, x: Reference, coefficients: tuple[float, ...]) -> Operand:
    total: Operand = coefficients[0]
    for _, coefficient in pairwise(coefficients):
        total = to.apply("add", to.apply("mul", x, total), coefficient)
    return total


@TABLE.row("Erf", becomes="clamp, mul, add, div", note="to 4e-7, which is told as changed")
def _erf(node: Node, to: Writer) -> None:
    to.need(node.input(0), *NUMBERS)
    kind, x = to.model.type(node.input(0)), to.tensor(node.input(0))
    tell_error_function(node, to)
    if kind != "float16":
        to.emit("copy", {"x": error_function(to, x)}, node.output())
        return
    to.cast(error_function(to, to.cast(x, "float32")), kind, node.output())


def tell_error_function(node: Node, to: Writer) -> None:
    """Note that erf is computed by a quotient of polynomials."""
    text = "NNEF has no erf: a quotient of polynomials is it to 4e-7"
    to.report.add("changed", str(node), text)
