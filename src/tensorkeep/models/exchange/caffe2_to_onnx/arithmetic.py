"""Arithmetic, comparison and logic of two tensors or more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.activations import scalar
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.emitting import number_of
from tensorkeep.models.exchange.report import Refused

_BINARY = {
    **{name: name for name in ("Add", "Sub", "Mul", "Div", "And", "Or", "Xor")},
    "EQ": "Equal",
    "LT": "Less",
    "LE": "LessOrEqual",
    "GT": "Greater",
    "GE": "GreaterOrEqual",
}
_LEGACY = "the older broadcast=1 with axis needs the ranks to be known"


def _register() -> None:
    for name, becomes in _BINARY.items():
        TABLE.row(name, becomes=becomes, note=_LEGACY if name == "Add" else "")(_binary)


def _binary(op: Operator, to: Writer) -> None:
    a, b = aligned(op, to)
    to.node(_BINARY[op.type], [a, b], op.output())


def aligned(op: Operator, to: Writer, first: int = 0) -> tuple[str, str]:
    """Give the two operands, the second one reshaped where the older broadcasting aligns it.

    broadcast=1 places the axes of the second operand at `axis` of the first one, or at its end.
    Without it NumPy's rules hold.
    """
    op.refuse_more(first + 2)
    a, b = op.input(first), op.input(first + 1)
    if not op.flag("broadcast"):  # and then an axis has no meaning
        return a, b
    axis, named = op.integer("axis", -1), op.text("axis_str")
    if named:
        if axis != -1:
            raise Refused("it has both axis and axis_str")
        axis = op.text("order", "NCHW").find(named)
        if axis < 0:
            raise Refused(f"its argument axis_str is {named!r}, which is not in its order")
    sizes = to.dims(b)
    if sizes is None and axis == -1:
        return a, b
    if sizes is not None and all(size == 1 for size in sizes):
        dims = to.dims(a)
        short = len(sizes) <= (len(dims) if dims is not None else 1)
        return a, b if short else to.reshaped(b, [1])
    if axis == -1:
        dims = to.dims(a)
        if dims is not None and sizes is not None and len(sizes) > len(dims):
            raise Refused(f"broadcast=1 gives {len(sizes)} axes to one of {len(dims)}")
        return a, b
    behind = to.rank(a) - axis - to.rank(b)
    if axis < 0 or behind < 0:
        raise Refused(f"broadcast=1 at axis {axis} does not fit {to.rank(a)} axes")
    if not behind:
        return a, b
    axes = list(range(to.rank(b), to.rank(b) + behind))
    return a, to.node("Unsqueeze", [b, to.constant(axes, np.int64)])


_register()


@TABLE.row("NE", becomes="Equal, Not")
def not_equal(op: Operator, to: Writer) -> None:
    """Whether they differ."""
    to.node("Not", [to.node("Equal", list(aligned(op, to)))], op.output())


@TABLE.row("Not", becomes="Not")
def negated(op: Operator, to: Writer) -> None:
    """The opposite."""
    to.node("Not", [op.input(0)], op.output())


@TABLE.row("Pow", becomes="Pow")
def power(op: Operator, to: Writer) -> None:
    """X to an exponent: an argument, or a second tensor."""
    if op.has_input(1):
        to.node("Pow", list(aligned(op, to)), op.output())
        return
    x = op.input(0)
    if not op.has("exponent"):
        raise Refused("it has no exponent")
    to.node("Pow", [x, scalar(to, op.number("exponent"), x)], op.output())


@TABLE.row("Mod", becomes="Mod")
def modulo(op: Operator, to: Writer) -> None:
    """The rest of a division by an integer, with the sign of x, or of the divisor."""
    x, divisor = op.input(0), op.integer("divisor")
    if not divisor:
        raise Refused("its argument divisor is 0")
    if to.type(x) not in ("int32", "int64"):
        raise Refused(f"its input is {to.type(x)}, where integers are expected")
    fmod = int(not op.flag("sign_follow_divisor"))
    to.node("Mod", [x, to.constant(divisor, to.type(x))], op.output(), fmod=fmod)


@TABLE.row("Sum", "Max", "Min", becomes="the same, or Add for integers")
def several(op: Operator, to: Writer) -> None:
    """The sum, or the largest or smallest, of any number of tensors of one shape."""
    combine(op.type, op.inputs, op.output(), to)


@TABLE.row("Mean", becomes="Mean")
def mean(op: Operator, to: Writer) -> None:
    """The mean of any number of tensors."""
    combine("Mean", op.inputs, op.output(), to)


@TABLE.row("SumRelu", becomes="Sum, Relu")
def sum_relu(op: Operator, to: Writer) -> None:
    """The sum of tensors, with what is below zero as zero."""
    to.node("Relu", [combine("Sum", op.inputs, None, to)], op.output())


def combine(operator: str, inputs: Sequence[str], output: str | None, to: Writer) -> str:
    """Combine any number of tensors into one."""
    if not inputs:
        raise Refused("it has no inputs")
    if len(inputs) == 1:
        return to.node("Identity", inputs, output)
    if operator != "Sum" or to.types.get(inputs[0], "").startswith("float"):
        return to.node(operator, inputs, output)
    found = inputs[0]
    for index, each in enumerate(inputs[1:], 2):
        found = to.node("Add", [found, each], output if index == len(inputs) else None)
    return found


@TABLE.row("WeightedSum", becomes="Mul, Sum")
def weighted_sum(op: Operator, to: Writer) -> None:
    """The sum of tensors, each multiplied by the one number behind it."""
    if len(op.inputs) % 2 or not op.inputs:
        raise Refused(f"it has {len(op.inputs)} inputs, where pairs are expected")
    pairs = zip(op.inputs[::2], op.inputs[1::2], strict=True)
    made = [to.node("Mul", [x, to.reshaped(w, [1])]) for x, w in pairs]
    combine("Sum", made, op.output(), to)


@TABLE.row("AffineChannel", becomes="Mul, Add", note="needs the rank to be known")
def affine_channel(op: Operator, to: Writer) -> None:
    """X * scale + bias, of each channel."""
    x = op.input(0)
    rank = to.rank(x)
    axis = rank - 1 if op.text("order", "NCHW") == "NHWC" else 1
    op.has("is_learnable")
    made = to.node("Mul", [x, to.along(op.input(1), axis, rank)])
    to.node("Add", [made, to.along(op.input(2), axis, rank)], op.output())


@TABLE.row("RowMul", becomes="Mul", note="needs the rank to be known")
def row_mul(op: Operator, to: Writer) -> None:
    """X * w, w having one number for each row."""
    x, rank = op.input(0), to.rank(op.input(0))
    to.node("Mul", [x, to.reshaped(op.input(1), [-1, *[1] * (rank - 1)])], op.output())


_BITWISE = {"BitwiseAnd": "And", "BitwiseOr": "Or", "BitwiseXor": "Xor"}


@TABLE.row(*_BITWISE, becomes="the same, or And, Or and Xor of bool")
def bitwise(op: Operator, to: Writer) -> None:
    """Bit by bit; of bool, what And, Or and Xor say."""
    a, b = aligned(op, to)
    truth = to.type(a) == "bool"
    to.node(_BITWISE[op.type] if truth else op.type, [a, b], op.output())


@TABLE.row("Where", becomes="Where")
def where(op: Operator, to: Writer) -> None:
    """The second where the first is true, the third elsewhere."""
    condition, x, y = op.input(0), op.input(1), op.input(2)
    if op.flag("broadcast_on_rows"):
        condition = _by_row(condition, x, to)
    to.node("Where", [condition, x, y], op.output())


@TABLE.row("Conditional", becomes="Where", note="needs the rank to be known")
def conditional(op: Operator, to: Writer) -> None:
    """Rows of the second where the first is true, of the third elsewhere."""
    condition, x, y = op.input(0), op.input(1), op.input(2)
    to.node("Where", [_by_row(condition, x, to), x, y], op.output())


def _by_row(condition: str, x: str, to: Writer) -> str:
    rank = to.rank(x)
    return condition if rank == 1 else to.reshaped(condition, [-1, *[1] * (rank - 1)])


_TYPES = {1: "float32", 2: "int32", 3: "uint8", 5: "bool", 6: "uint8", 7: "int8", 8: "uint16"}
_TYPES |= {9: "int16", 10: "int64", 12: "float16", 13: "float64"}
_NAMES = {"float": 1, "int32": 2, "int": 2, "bool": 5, "uint8": 6, "int8": 7, "uint16": 8}
_NAMES |= {"int16": 9, "int64": 10, "int64_t": 10, "float16": 12, "double": 13}


def element_type(op: Operator, name: str, default: int) -> str:
    """Give the element type that an argument names, by Caffe2's number or by its word."""
    argument = op.argument(name)
    code: int | None = default
    if argument is not None:
        code = _NAMES.get(op.text(name).lower()) if "s" in argument else op.integer(name)
    if code not in _TYPES:
        raise Refused(f"its argument {name} is no element type that there is in ONNX")
    return _TYPES[code]


@TABLE.row("Cast", becomes="Cast")
def cast(op: Operator, to: Writer) -> None:
    """Another element type."""
    op.has("from_type")
    if not op.has("to"):
        raise Refused("it has no argument to")
    to.node("Cast", [op.input(0)], op.output(), to=number_of(element_type(op, "to", 1)))


@TABLE.row("FloatToHalf", becomes="Cast", note="what is too large becomes infinite")
def float_to_half(op: Operator, to: Writer) -> None:
    """float32 as float16."""
    if op.flag("clip"):
        raise Refused("its argument clip is 1")
    to.node("Cast", [op.input(0)], op.output(), to=number_of("float16"))


@TABLE.row("HalfToFloat", becomes="Cast")
def half_to_float(op: Operator, to: Writer) -> None:
    """float16 as float32."""
    to.node("Cast", [op.input(0)], op.output(), to=number_of("float32"))
