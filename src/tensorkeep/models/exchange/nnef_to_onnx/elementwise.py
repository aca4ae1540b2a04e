"""Arithmetic, comparisons, logic and rounding, an element at a time."""

from __future__ import annotations

import math

from tensorkeep.models.exchange.emitting import number_of
from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE, Translate
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation

_PLAIN = {
    "exp": "Exp",
    "log": "Log",
    "sin": "Sin",
    "cos": "Cos",
    "tan": "Tan",
    "sinh": "Sinh",
    "cosh": "Cosh",
    "tanh": "Tanh",
    "asin": "Asin",
    "acos": "Acos",
    "atan": "Atan",
    "asinh": "Asinh",
    "acosh": "Acosh",
    "atanh": "Atanh",
    "abs": "Abs",
    "sign": "Sign",
    "rcp": "Reciprocal",
    "neg": "Neg",
    "floor": "Floor",
    "ceil": "Ceil",
    "sqrt": "Sqrt",
}
_BINARY = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "pow": "Pow",
    "min": "Min",
    "max": "Max",
}
_COMPARED = {
    "lt": "Less",
    "gt": "Greater",
    "le": "LessOrEqual",
    "ge": "GreaterOrEqual",
    "eq": "Equal",
}
_ALIGNED = "with axes added at the ends of operands: NNEF lays them at their first axis"


def unary(operator: str) -> Translate:
    """Give a translation to one node of one input."""

    def translate(op: Operation, reader: Reader) -> None:
        x = op.arguments.get("x")
        reader.make(op, operator, [reader.number(x)], reader.shape(x), reader.type(x))

    return translate


def binary(operator: str, dtype: str | None = None) -> Translate:
    """Give a translation to one node of two operands, which are broadcast."""

    def translate(op: Operation, reader: Reader) -> None:
        x, y = op.arguments.get("x"), op.arguments.get("y")
        kind = reader.common_number(x, y)
        shape = reader.broadcast(x, y)
        reader.make(op, operator, reader.aligned(x, y), shape, dtype or kind)

    return translate


for _name, _operator in _PLAIN.items():
    TABLE.row(_name, becomes=_operator)(unary(_operator))
for _name, _operator in _BINARY.items():
    TABLE.row(_name, becomes=_operator, note=_ALIGNED)(binary(_operator))
for _name, _operator in _COMPARED.items():
    TABLE.row(_name, becomes=_operator, note=_ALIGNED)(binary(_operator, "bool"))


@TABLE.row("ne", becomes="Not(Equal)", note=_ALIGNED)
def _ne(op: Operation, reader: Reader) -> None:
    x, y = op.arguments.get("x"), op.arguments.get("y")
    reader.common_number(x, y)
    equal = reader.to.node("Equal", reader.aligned(x, y))
    reader.make(op, "Not", [equal], reader.broadcast(x, y), "bool")


@TABLE.row("and", becomes="And", note=_ALIGNED)
def _both(op: Operation, reader: Reader) -> None:
    _logical(op, reader, "And")


@TABLE.row("or", becomes="Or", note=_ALIGNED)
def _either(op: Operation, reader: Reader) -> None:
    _logical(op, reader, "Or")


@TABLE.row("not", becomes="Not")
def _inverted(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    reader.make(op, "Not", [reader.logical(x)], reader.shape(x), "bool")


@TABLE.row("select", becomes="Where; And and Or of logical tensors", note=_ALIGNED)
def _select(op: Operation, reader: Reader) -> None:
    condition = op.arguments.get("condition")
    true, false = op.arguments.get("true_value"), op.arguments.get("false_value")
    if reader.type(condition) != "bool":
        raise Refused(f"has a condition of {reader.type(condition)}, where it has to be logical")
    shape, dtype = reader.broadcast(condition, true, false), reader.common(true, false)
    rank = len(shape)
    inputs = [
        reader.raised(condition, rank),
        reader.raised(true, rank, dtype),
        reader.raised(false, rank, dtype),
    ]
    if dtype != "bool":
        reader.make(op, "Where", inputs, shape, dtype)
        return
    chosen, yes, no = inputs
    to = reader.to  # not Where, which ONNX Runtime has no kernel of for bool
    left = to.node("And", [chosen, yes])
    right = to.node("And", [to.node("Not", [chosen]), no])
    reader.make(op, "Or", [left, right], shape, dtype)


@TABLE.row("clamp", becomes="Clip, or Min and Max where its limits are tensors", note=_ALIGNED)
def _clamp(op: Operation, reader: Reader) -> None:
    x, a, b = op.arguments.get("x"), op.arguments.get("a"), op.arguments.get("b")
    dtype, shape = reader.common_number(x, a, b), reader.broadcast(x, a, b)
    inputs = reader.aligned(x, a, b)
    # Of limits that cross, ONNX takes the upper one and NNEF the lower.
    if isinstance(a, int | float) and isinstance(b, int | float) and a <= b:
        reader.make(op, "Clip", inputs, shape, dtype)
        return
    below = reader.to.node("Min", [inputs[0], inputs[2]])
    reader.make(op, "Max", [below, inputs[1]], shape, dtype)


@TABLE.row("sqr", becomes="Mul(x, x)")
def _sqr(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    value = reader.number(x)
    reader.make(op, "Mul", [value, value], reader.shape(x), reader.type(x))


@TABLE.row("rsqr", becomes="Reciprocal(Mul(x, x))")
def _rsqr(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    value = reader.number(x)
    square = reader.to.node("Mul", [value, value])
    reader.make(op, "Reciprocal", [square], reader.shape(x), reader.type(x))


@TABLE.row("rsqrt", becomes="Reciprocal(Sqrt)")
def _rsqrt(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    root = reader.to.node("Sqrt", [reader.number(x)])
    reader.make(op, "Reciprocal", [root], reader.shape(x), reader.type(x))


@TABLE.row("log2", becomes="Log, divided by log 2")
def _log2(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    log = reader.to.node("Log", [reader.number(x)])
    base = reader.scalar(math.log(2.0), like=x)
    reader.make(op, "Div", [log, base], reader.shape(x), reader.type(x))


@TABLE.row(
    "round",
    becomes="Floor, plus 1 from a half on, with the sign",
    note="ONNX's Round differs at halves",
)
def _rounded(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("x")
    dtype, value, to = reader.type(x), reader.number(x), reader.to
    size = to.node("Abs", [value])
    floor = to.node("Floor", [size])
    rest = to.node("Sub", [size, floor])
    up = to.node("GreaterOrEqual", [rest, reader.scalar(0.5, like=x)])
    whole = to.node("Add", [floor, to.node("Cast", [up], to=number_of(dtype))])
    reader.make(op, "Mul", [whole, to.node("Sign", [value])], reader.shape(x), dtype)


@TABLE.row("add_n", becomes="Sum")
def _add_n(op: Operation, reader: Reader) -> None:
    terms = reader.items(op, "x")
    if not terms:
        raise Refused("adds nothing")
    dtype = reader.common_number(*terms)
    if len({reader.shape(term) for term in terms}) > 1:
        raise Refused("adds tensors of different shapes")
    values = [reader.value(term, dtype) for term in terms]
    reader.make(op, "Sum", values, reader.shape(terms[0]), dtype)


def _logical(op: Operation, reader: Reader, operator: str) -> None:
    x, y = op.arguments.get("x"), op.arguments.get("y")
    if reader.common(x, y) != "bool":
        raise Refused(f"takes {reader.common(x, y)}, where NNEF has logical")
    reader.make(op, operator, reader.aligned(x, y), reader.broadcast(x, y), "bool")
