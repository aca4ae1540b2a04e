"""Quantization.

What graph.quant can say of a tensor is said there: an activation that is quantized and dequantized
at once, and a weight that is kept as integers, both with one scale. Everything else is computed,
the integers as scalars: those of 16 bits and less are exact.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep.models.exchange.onnx_to_nnef.operands import floats
from tensorkeep.models.exchange.onnx_to_nnef.rounding import halves_to_even
from tensorkeep.models.exchange.onnx_to_nnef.small_integers import SMALL
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import Operand, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal
from tensorkeep.wire.nnef.operations import Quantization, Reference


class Scaling(NamedTuple):
    """How a node quantizes: its scale and zero point, the integers, and the axis of scales.

    The axis is None where there is one scale for all; `zero` is empty where it is 0.
    """

    scale: str
    zero: str
    kind: str
    axis: int | None

    @property
    def limits(self) -> tuple[float, float]:
        """Give the least and the most integer."""
        info = np.iinfo(self.kind)
        return float(info.min), float(info.max)


@TABLE.row(
    "QuantizeLinear",
    becomes="graph.quant, or div, floor, clamp, cast<integer>",
    note="to integers of up to 16 bits; with DequantizeLinear after it, and one scale, graph.quant",
)
def _quantize(node: Node, to: Writer) -> None:
    scaling = scaling_of(node, to)
    if _is_paired(node, to, scaling):
        return  # with what dequantizes it
    made = quantized(to, to.tensor(node.input(0)), scaling)
    to.cast(made, scaling.kind, node.output())
    to.report.add("expanded", str(node), "it is computed, with halves rounded to even")


@TABLE.row(
    "DequantizeLinear",
    becomes="graph.quant, or cast<scalar>, sub, mul",
    note="integers of up to 16 bits, and constants of 32; weights stay integers",
)
def _dequantize(node: Node, to: Writer) -> None:
    scaling = scaling_of(node, to)
    before = _quantizing(node, to, scaling)
    if before is not None:
        x = to.tensor(before.input(0))
        if _is_written(to, scaling):
            made = to.apply("copy", x, output=node.output())
            to.quantization[made.name] = _written(to, scaling)
        else:
            _scaled_back(to, quantized(to, x, scaling), scaling, node.output())
            to.report.add("expanded", str(node), "it is computed, with halves rounded to even")
    elif _is_weight(node, to, scaling):
        made = to.dequantized(node.input(0), _written(to, scaling), "float32")
        to.same(node.output(), made)
    else:
        value = to.cast(to.tensor(node.input(0)), "float32")
        _scaled_back(to, value, scaling, node.output())
        to.report.add("expanded", str(node), "it is computed from the integers")


@TABLE.row("DynamicQuantizeLinear", becomes="max_reduce, min_reduce, div, floor, clamp, ...")
def _dynamic(node: Node, to: Writer) -> None:
    floats(to, node.input(0))
    x, rank = to.tensor(node.input(0)), to.model.rank(node.input(0))
    axes = list(range(rank))
    ends = [
        to.emit(operation, {"input": x, "axes": axes}, shape=[1] * rank)
        for operation in ("min_reduce", "max_reduce")
    ]
    least, most = (to.squeeze(end, axes) if axes else end for end in ends)
    least, most = to.apply("min", least, 0.0), to.apply("max", most, 0.0)
    step = to.apply("div", to.apply("sub", most, least), 255.0)
    scale = to.apply("select", to.apply("eq", step, 0.0), 1.0, step, output=node.output(1))
    place = to.apply("sub", 0.0, to.apply("div", least, scale))
    zero = halves_to_even(to, to.apply("clamp", place, 0.0, 255.0))
    to.cast(zero, "uint8", node.output(2))
    whole = halves_to_even(to, to.apply("div", x, scale))
    made = to.apply("clamp", to.apply("add", whole, zero), 0.0, 255.0)
    to.cast(made, "uint8", node.output())
    to.report.add("expanded", str(node), "it is computed, with halves rounded to even")


def scaling_of(node: Node, to: Writer) -> Scaling:
    """Read the scale and zero point of QuantizeLinear or DequantizeLinear.

    Raises:
        Refused: there are blocks, or types that NNEF does not compute with.
    """
    forward = node.operator == "QuantizeLinear"
    real = [node.input(0) if forward else node.output(), node.input(1)]
    if floats(to, *real) != "float32":
        raise Refused("it quantizes other numbers than float32")
    if node.attributes.get("block_size", 0) or node.attributes.get("precision", 0) not in (0, 1):
        raise Refused("it scales in blocks, or with a precision of its own, which NNEF does not")
    kind = to.model.type(node.output() if forward else node.input(0))
    wide = not forward and kind == "int32"
    if kind not in SMALL and not wide:
        raise Refused(f"it quantizes to {kind}, and NNEF has integers of 8 and 16 bits for that")
    sizes = to.shape(node.input(1))
    if len(sizes) > 1:
        raise Refused(f"its scales are {sizes}, not one or a row of them")
    rank = to.model.rank(node.input(0))
    axis = None
    if sizes and (sizes[0] > 1 or rank == 0):
        axis = normal(int(node.attributes.get("axis", 1)), rank)
        if to.shape(node.input(0))[axis] != sizes[0]:
            raise Refused(f"its {sizes[0]} scales are not one for each of axis {axis}")
    return Scaling(node.input(1), node.input(2), kind, axis)


def quantized(to: Writer, x: Reference, scaling: Scaling) -> Reference:
    """Give scalars as the integers that they are quantized to, as scalars still."""
    whole = halves_to_even(to, to.apply("div", x, _scale(to, scaling)))
    zero = _zero(to, scaling)
    moved = whole if zero is None else to.apply("add", whole, zero)
    return to.apply("clamp", moved, *scaling.limits)


def _scaled_back(to: Writer, value: Reference, scaling: Scaling, output: str) -> None:
    zero = _zero(to, scaling)
    moved = value if zero is None else to.apply("sub", value, zero)
    to.apply("mul", moved, _scale(to, scaling), output=output)


def _scale(to: Writer, scaling: Scaling) -> Operand:
    return _along(to, to.value(scaling.scale), scaling.axis)


def _zero(to: Writer, scaling: Scaling) -> Operand | None:
    """Give the zero point as scalars; None where it is 0 throughout."""
    if not scaling.zero:
        return None
    if not to.model.is_constant(scaling.zero):
        return _along(to, to.cast(to.tensor(scaling.zero), "float32"), scaling.axis)
    held: npt.NDArray[Any] = to.model.array(scaling.zero).astype(np.float32)
    if not held.any():
        return None
    if held.size == 1:
        return float(held.reshape(-1)[0])
    return _along(to, to.variable(held, scaling.zero), scaling.axis)


def _along(to: Writer, value: Operand, axis: int | None) -> Operand:
    """Put one scale for each of an axis where that axis is."""
    if axis and isinstance(value, Reference):
        return to.unsqueeze(value, range(axis))
    return value


def _is_written(to: Writer, scaling: Scaling) -> bool:
    """Whether graph.quant can say it: one constant scale, and a constant zero point."""
    known = to.model.is_constant(scaling.scale)
    return (
        known and scaling.axis is None and (not scaling.zero or to.model.is_constant(scaling.zero))
    )


def _written(to: Writer, scaling: Scaling) -> Quantization:
    zero = int(to.model.number(scaling.zero)) if scaling.zero else 0
    return Quantization(
        "zero_point_linear_quantize",
        {
            "zero_point": zero,
            "scale": float(str(np.float32(to.model.number(scaling.scale)))),
            "bits": SMALL[scaling.kind],
            "signed": scaling.kind.startswith("int"),
            "symmetric": False,
        },
    )


def _is_paired(node: Node, to: Writer, scaling: Scaling) -> bool:
    """Whether what is quantized is only ever dequantized again, in the same way."""
    if node.output() in to.model.outputs:
        return False
    takers = to.takers(node.output())
    return bool(takers) and all(
        taker.operator == "DequantizeLinear"
        and taker.input(0) == node.output()
        and node.output() not in taker.inputs[1:]
        and _alike(to, scaling, scaling_of(taker, to))
        for taker in takers
    )


def _quantizing(node: Node, to: Writer, scaling: Scaling) -> Node | None:
    """Give the node that quantized what is dequantized, where the two are a pair."""
    before = to.giver(node.input(0))
    if before is None or before.operator != "QuantizeLinear":
        return None
    return before if _is_paired(before, to, scaling) else None


def _alike(to: Writer, one: Scaling, other: Scaling) -> bool:
    if (one.kind, one.axis) != (other.kind, other.axis):
        return False
    if one == other:
        return True
    if not all(to.model.is_constant(name) for name in (one.scale, other.scale)):
        return False
    return np.array_equal(
        to.model.array(one.scale).reshape(-1), to.model.array(other.scale).reshape(-1)
    ) and np.array_equal(_zeros(to, one), _zeros(to, other))


def _zeros(to: Writer, scaling: Scaling) -> npt.NDArray[Any]:
    if not scaling.zero:
        return np.zeros(to.shape(scaling.scale) or (1,))
    return to.model.array(scaling.zero).reshape(-1)


def _is_weight(node: Node, to: Writer, scaling: Scaling) -> bool:
    """Whether a constant is dequantized, by one scale, wherever it is used."""
    name = node.input(0)
    if not to.model.is_constant(name) or name in to.model.outputs or scaling.kind not in SMALL:
        return False
    takers = to.takers(name)
    return _is_written(to, scaling) and all(
        taker.operator == "DequantizeLinear"
        and name not in taker.inputs[1:]
        and _alike(to, scaling, scaling_of(taker, to))
        for taker in takers
    )
