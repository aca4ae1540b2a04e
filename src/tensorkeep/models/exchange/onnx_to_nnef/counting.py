"""Products of integers, computed as scalars where no sum can be too large to be exact."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep.models.exchange.onnx_to_nnef.multiplying import multiply
from tensorkeep.models.exchange.onnx_to_nnef.operands import floats, number
from tensorkeep.models.exchange.onnx_to_nnef.rounding import halves_to_even
from tensorkeep.models.exchange.onnx_to_nnef.small_integers import SMALL
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import Operand, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node
from tensorkeep.models.exchange.windows import windows_of
from tensorkeep.wire.nnef.operations import Reference

_EXACT = 1 << 24  # whole numbers up to it are exact in float32
_NOTE = "refused where a sum could be more than 2^24"


class Counted(NamedTuple):
    """An operand of small integers and its zero point; empty where it is 0."""

    name: str
    zero: str


@TABLE.row("MatMulInteger", becomes="cast<scalar>, sub, matmul, cast<integer>", note=_NOTE)
def _matmul(node: Node, to: Writer) -> None:
    a, b = (Counted(node.input(index), node.input(index + 2)) for index in (0, 1))
    to.cast(_product(to, a, b), "int32", node.output())
    _tell(node, to)


@TABLE.row("ConvInteger", becomes="cast<scalar>, sub, conv, cast<integer>", note=_NOTE)
def _conv(node: Node, to: Writer) -> None:
    x, filters = (Counted(node.input(index), node.input(index + 2)) for index in (0, 1))
    to.cast(_convolution(node, to, x, filters), "int32", node.output())
    _tell(node, to)


@TABLE.row("QLinearMatMul", becomes="as MatMulInteger, then mul, floor, clamp", note=_NOTE)
def _scaled_matmul(node: Node, to: Writer) -> None:
    a, b = (Counted(node.input(index), node.input(index + 2)) for index in (0, 3))
    scales = _multiplier(node, to)
    if scales.size > 1 and scales.size != to.shape(b.name)[-1]:
        raise Refused(f"its {scales.size} scales are not one for each column")
    sums = _product(to, a, b)
    _requantized(node, to, sums, scales, len(to.shape(node.output())) - 1)


@TABLE.row("QLinearConv", becomes="as ConvInteger, then mul, floor, clamp", note=_NOTE)
def _scaled_conv(node: Node, to: Writer) -> None:
    x, filters = (Counted(node.input(index), node.input(index + 2)) for index in (0, 3))
    scales = _multiplier(node, to)
    if scales.size > 1 and scales.size != to.shape(filters.name)[0]:
        raise Refused(f"its {scales.size} scales are not one for each channel")
    bias, most = node.input(8), 0
    if bias:
        most = int(np.abs(to.model.array(bias, "its bias").astype(np.int64)).max())
    sums = _convolution(node, to, x, filters, more=most)
    if bias:
        row = to.unsqueeze(to.cast(to.tensor(bias), "float32"), [0])
        sums = to.apply("add", sums, row)
    _requantized(node, to, sums, scales, 1)


def _tell(node: Node, to: Writer) -> None:
    to.report.add("expanded", str(node), "it is computed with scalars, which hold its sums exactly")


def _multiplier(node: Node, to: Writer) -> npt.NDArray[np.float32]:
    """Give what sums are multiplied by: the scales of both operands by that of the result."""
    names = [node.input(index) for index in (1, 4, 6)]
    if floats(to, *names) != "float32":
        raise Refused("its scales are not float32")
    a, b, y = (to.model.array(name, "its scales").reshape(-1) for name in names)
    if a.size != 1 or y.size != 1:
        raise Refused("it has several scales of its first operand, or of its result")
    found: npt.NDArray[np.float32] = a * b / y
    if not np.isfinite(found).all():
        raise Refused("its scales are not finite")
    return found


def _requantized(
    node: Node, to: Writer, sums: Reference, scales: npt.NDArray[np.float32], axis: int
) -> None:
    """Give sums as integers of another scale, halves rounded to even."""
    by: Operand = number(float(scales[0]))
    if scales.size > 1:
        by = to.variable(scales.reshape((1,) * axis + (-1,)), f"{node.output()}_scales")
    whole = halves_to_even(to, to.apply("mul", sums, by))
    zero = to.model.number(node.input(7), "its zero point")
    moved = to.apply("add", whole, zero) if zero else whole
    info = np.iinfo(to.model.type(node.output()))
    held = to.apply("clamp", moved, float(info.min), float(info.max))
    to.cast(held, to.model.type(node.output()), node.output())
    _tell(node, to)


def _product(to: Writer, a: Counted, b: Counted) -> Reference:
    """Multiply matrices of integers, as scalars."""
    inner = to.shape(a.name)[-1]
    _bounded(to, a, b, inner, axis=-2 if to.model.rank(b.name) > 1 else 0)
    left = _moved(to, a, -2 if to.model.rank(a.name) > 1 else None)
    right = _moved(to, b, -1 if to.model.rank(b.name) > 1 else None)
    return multiply(to, left, right)


def _convolution(
    node: Node, to: Writer, image: Counted, filter: Counted, *, more: int = 0
) -> Reference:
    """Convolve integers, as scalars; `more` is what is added to the sums afterwards."""
    x, filters = to.shape(image.name), to.shape(filter.name)
    groups = int(node.attributes.get("group", 1))
    if len(x) < 3 or len(filters) != len(x) or filters[1] * groups != x[1] or filters[0] % groups:
        raise Refused(f"its filter {filters} in {groups} groups does not fit an input of {x}")
    windows = windows_of(node, x[2:], filters[2:])
    axes = tuple(range(1, len(filters)))
    _bounded(to, image, filter, math.prod(filters[1:]), axis=axes, more=more)
    arguments: dict[str, Any] = {
        "input": _moved(to, image, None),
        "filter": _moved(to, filter, 0),
        **windows.arguments(),
    }
    if groups != 1:
        arguments["groups"] = groups
    return to.emit("conv", arguments, shape=to.shape(node.output()))


def _moved(to: Writer, operand: Counted, axis: int | None) -> Reference:
    """Give integers as scalars without their zero point, which may be one for each of an axis."""
    name, zero = operand
    to.need(name, *SMALL)
    value = to.cast(to.tensor(name), "float32")
    if not zero:
        return value
    shape, rank = to.shape(zero), to.model.rank(name)
    offset = to.cast(to.tensor(zero), "float32")
    if math.prod(shape) > 1:
        if axis is None or len(shape) > 1 or shape[0] != to.shape(name)[axis]:
            raise Refused(f"its zero points {shape} are not one, or one for each row")
        offset = to.unsqueeze(offset, range(axis % rank)) if axis % rank else offset
    elif len(shape) > rank:
        raise Refused(f"its zero point {shape} has more axes than what it is of")
    return to.apply("sub", value, offset)


def _bounded(
    to: Writer,
    a: Counted,
    b: Counted,
    inner: int,
    axis: int | tuple[int, ...],
    more: int = 0,
) -> None:
    """Refuse where a sum of products may be larger than what is exact."""
    first, second = _most(to, a), _most(to, b)
    total = float(first * second * inner) + more
    if total > _EXACT and to.model.is_constant(b.name):
        held = to.model.array(b.name).astype(np.int64)
        zeros = to.model.array(b.zero) if b.zero else np.zeros(())
        if zeros.size == 1:
            sums = np.abs(held - int(zeros.reshape(-1)[0])).sum(axis=axis)
            total = float(sums.max()) * first + more
    if total > _EXACT:
        raise Refused(
            "its sums may be more than 2^24, and NNEF does not compute with integers",
            "Dequantize the model: DequantizeLinear, and MatMul or Conv of the numbers.",
        )


def _most(to: Writer, operand: Counted) -> int:
    """Give how large an integer without its zero point can be."""
    to.need(operand.name, *SMALL)
    info = np.iinfo(to.model.type(operand.name))
    least, most = int(info.min), int(info.max)
    if not operand.zero:
        return max(most, -least)
    if not to.model.is_constant(operand.zero):
        return most - least
    return max(max(most - zero, zero - least) for zero in to.model.integers(operand.zero))
