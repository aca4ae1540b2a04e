"""Operators on quantized tensors: taken to floats, computed, and quantized again.

An Int8 blob is its unsigned bytes; its scale and zero point, which Caffe2 keeps beside them, are
constants of the operator that made it (Y_scale, Y_zero_point) or of the weight. ONNX says this as
DequantizeLinear, the operator on floats, QuantizeLinear, which runtimes fuse. Caffe2's kernels
compute with integers and round otherwise: results are the same within one step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx import (
    activations,
    convolutions,
    joining,
    multiplying,
    pooling,
    reshaping,
    selecting,
)
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.caffe2.fills import read_fill
from tensorkeep.wire.caffe2.values import Int8Tensor

_STEP = "within one step of Caffe2's integers"
_SAME = "the scale and zero point of its input"


def _quantization(value: str, to: Writer) -> tuple[float, int]:
    """Give the scale and zero point of a value."""
    found = to.quantization.get(value)
    if found is not None:
        return found
    details = to.details.get(value)
    if isinstance(details, dict) and "scale" in details:
        scale, zero = float(details["scale"]), int(details.get("zero_point", 0))
    else:
        raise Refused(f"the scale and zero point of its input {value!r} are not known")
    _check(scale, zero if to.type(value) == "uint8" else 0)
    return scale, zero


def _check(scale: float, zero: int) -> None:
    if not 0 < scale < math.inf or not 0 <= zero <= 255:
        raise Refused(f"its scale is {scale:g} and its zero point {zero}, which bytes cannot have")


def _told(op: Operator) -> tuple[float, int]:
    """Give the scale and zero point that an operator says of its output."""
    scale, zero = op.number("Y_scale", 1.0), op.integer("Y_zero_point", 0)
    _check(scale, zero)
    return float(np.float32(scale)), zero


def _kept(op: Operator, to: Writer) -> tuple[float, int]:
    """Give those of the input, which the operator has to repeat."""
    mine, told = _quantization(op.input(0), to), _told(op)
    if (np.float32(mine[0]), mine[1]) != (np.float32(told[0]), told[1]):
        raise Refused(
            f"its Y_scale and Y_zero_point are {told[0]:g} and {told[1]}, and those of its input "
            f"{mine[0]:g} and {mine[1]}, where Caffe2 has them be the same"
        )
    return told


def _constants(scale: float, zero: int, to: Writer) -> list[str]:
    return [to.constant(scale, np.float32), to.constant(zero, np.uint8)]


def _floats(value: str, to: Writer) -> str:
    """Take a quantized value to floats."""
    scale, zero = _quantization(value, to)
    return to.node("DequantizeLinear", [value, *_constants(scale, zero, to)])


def _quantize(value: str, op: Operator, told: tuple[float, int], to: Writer) -> None:
    """Quantize what comes out of an operator."""
    to.node("QuantizeLinear", [value, *_constants(*told, to)], op.output())
    to.quantization[op.output()] = told


def _on_floats(
    op: Operator, to: Writer, inputs: Sequence[str], row: Callable[[Operator, Writer], None]
) -> str:
    """Have the row of the operator on floats translate it; gives what it makes."""
    inner = copy.copy(op)
    inner.type = op.type.removeprefix("Int8")
    inner.inputs, inner.outputs = list(inputs), [to.fresh(f"{op.output()}_float")]
    row(inner, to)
    return inner.outputs[0]


def _refuse_channels_first(op: Operator) -> None:
    if not convolutions.is_channels_last(op):
        raise Refused("its argument order is not NHWC, the only one that Caffe2 quantizes")


@TABLE.row("Int8GivenTensorFill", "Int8GivenIntTensorFill", becomes="an initializer")
def given(op: Operator, to: Writer) -> None:
    """Bytes, or the integers of a bias."""
    value = read_fill(op.message).value
    for name in ("shape", "values"):
        op.has(name)
    assert isinstance(value, Int8Tensor)
    scale, zero = op.number("Y_scale", 1.0), op.integer("Y_zero_point", 0)
    weight = to.weight(to.fresh(f"{op.output()}_filled"), value.data)
    to.node("Identity", [weight], op.output())
    to.same(op.output(), weight)
    to.quantization[op.output()] = (scale, zero)


@TABLE.row("Int8Quantize", becomes="QuantizeLinear")
def quantize(op: Operator, to: Writer) -> None:
    """Floats as bytes: rounded to even, and kept in their range."""
    op.refuse_more(1)
    _quantize(op.input(0), op, _told(op), to)


@TABLE.row("Int8Dequantize", becomes="DequantizeLinear")
def dequantize(op: Operator, to: Writer) -> None:
    """Bytes as floats."""
    op.refuse_more(1)
    scale, zero = _quantization(op.input(0), to)
    to.node("DequantizeLinear", [op.input(0), *_constants(scale, zero, to)], op.output())


def _weighted(op: Operator, to: Writer) -> list[str]:
    """Give an input, the weights and the bias as floats; the scale of a bias follows from both."""
    op.refuse_more(3)
    x, weights, bias = op.input(0), op.input(1), op.input(2)
    if to.type(bias) != "int32":
        raise Refused(f"its bias is of {to.type(bias)}, and not of int32")
    scale = _quantization(x, to)[0] * _quantization(weights, to)[0]
    inputs = [bias, to.constant(scale, np.float32)]
    return [_floats(x, to), _floats(weights, to), to.node("DequantizeLinear", inputs)]


@TABLE.row("Int8Conv", "Int8ConvRelu", becomes="DequantizeLinear, Conv, QuantizeLinear", note=_STEP)
def conv(op: Operator, to: Writer) -> None:
    """A convolution of channels that are last; the weights are (out, kernel..., in)."""
    _refuse_channels_first(op)
    made = _on_floats(op, to, _weighted(op, to), convolutions.conv)
    _quantize(_activated(made, op, to), op, _told(op), to)


@TABLE.row("Int8FC", becomes="DequantizeLinear, Gemm, QuantizeLinear", note=_STEP)
def fully_connected(op: Operator, to: Writer) -> None:
    """The product with weights (out, in), plus a bias."""
    for name in ("axis", "axis_w"):
        if op.integer(name, 1) != 1:
            raise Refused(f"its argument {name} is {op.integer(name)}, which it does not know")
    made = _on_floats(op, to, _weighted(op, to), multiplying.fully_connected)
    _quantize(made, op, _told(op), to)


@TABLE.row(
    "Int8Add",
    "Int8AddRelu",
    "Int8Sum",
    "Int8SumRelu",
    becomes="DequantizeLinear, Add, QuantizeLinear",
    note=_STEP,
)
def add(op: Operator, to: Writer) -> None:
    """The sum of two tensors of one shape."""
    op.refuse_more(2)
    one, other = (to.dims(op.input(index)) or (None,) for index in (0, 1))
    if None not in (*one, *other) and one != other:
        raise Refused(f"its inputs have the shapes {one} and {other}")
    made = to.node("Add", [_floats(op.input(0), to), _floats(op.input(1), to)])
    _quantize(_activated(made, op, to), op, _told(op), to)


def _activated(made: str, op: Operator, to: Writer) -> str:
    return to.node("Relu", [made]) if op.type.endswith("Relu") else made


@TABLE.row("Int8Relu", becomes="DequantizeLinear, Relu, QuantizeLinear", note=_SAME)
def relu(op: Operator, to: Writer) -> None:
    """Nothing below zero."""
    op.refuse_more(1)
    told = _kept(op, to)
    _quantize(to.node("Relu", [_floats(op.input(0), to)]), op, told, to)


@TABLE.row("Int8LeakyRelu", becomes="DequantizeLinear, LeakyRelu, QuantizeLinear", note=_STEP)
def leaky_relu(op: Operator, to: Writer) -> None:
    """Less of what is below zero."""
    op.refuse_more(1)
    made = _on_floats(op, to, [_floats(op.input(0), to)], activations.leaky_relu)
    _quantize(made, op, _told(op), to)


@TABLE.row("Int8Sigmoid", becomes="DequantizeLinear, Sigmoid, QuantizeLinear", note=_STEP)
def sigmoid(op: Operator, to: Writer) -> None:
    """1 / (1 + exp(-x)), in steps of 1/256."""
    _unit(op)
    _quantize(to.node("Sigmoid", [_floats(op.input(0), to)]), op, _told(op), to)


@TABLE.row("Int8Softmax", becomes="DequantizeLinear, Softmax, QuantizeLinear", note=_STEP)
def softmax(op: Operator, to: Writer) -> None:
    """Over all axes but the first, in steps of 1/256."""
    _unit(op)
    x = _floats(op.input(0), to)
    dims = to.dims(x)
    if dims is not None and len(dims) == 2:
        made = to.node("Softmax", [x], axis=1)
    else:
        flat = to.node("Softmax", [to.node("Flatten", [x], axis=1)], axis=1)
        made = to.shaped_like(flat, x)
    _quantize(made, op, _told(op), to)


def _unit(op: Operator) -> None:
    op.refuse_more(1)
    if _told(op) != (1 / 256, 0):
        scale, zero = _told(op)
        raise Refused(
            f"its Y_scale and Y_zero_point are {scale:g} and {zero}, where Caffe2 wants 1/256 and 0"
        )


@TABLE.row(
    "Int8MaxPool",
    "Int8MaxPoolRelu",
    becomes="DequantizeLinear, MaxPool, QuantizeLinear",
    note=_SAME,
)
def max_pool(op: Operator, to: Writer) -> None:
    """The largest of each window."""
    _refuse_channels_first(op)
    told = _kept(op, to)
    made = _on_floats(op, to, [_floats(op.input(0), to)], pooling.max_pool)
    _quantize(_activated(made, op, to), op, told, to)


@TABLE.row(
    "Int8AveragePool",
    "Int8AveragePoolRelu",
    becomes="DequantizeLinear, AveragePool, QuantizeLinear",
    note=f"{_STEP}; not with pads, which releases of Caffe2 count differently",
)
def average_pool(op: Operator, to: Writer) -> None:
    """The mean of each window."""
    _refuse_channels_first(op)
    if not op.flag("global_pooling"):
        windows = convolutions.read_windows(op)
        if any(windows.pads) or windows.legacy:
            raise Refused(
                f"its pads are {windows.pads}, which releases of Caffe2 count differently"
            )
    made = _on_floats(op, to, [_floats(op.input(0), to)], pooling.average_pool)
    _quantize(_activated(made, op, to), op, _told(op), to)


@TABLE.row("Int8Concat", becomes="Concat", note=_SAME)
def concat(op: Operator, to: Writer) -> None:
    """Tensors behind one another, along the first axis where no order says otherwise."""
    op.refuse_outputs(1)
    told = _kept(op, to)
    for value in op.inputs:
        _quantization(value, to)
    axis = joining.axis_of(op) if op.has("order") else op.integer("axis", 0)
    to.node("Concat", op.inputs, op.output(), axis=to.axis(op.input(0), axis))
    to.quantization[op.output()] = told


_REARRANGING: dict[str, Callable[[Operator, Writer], None]] = {
    "Int8Reshape": reshaping.reshape,
    "Int8Flatten": reshaping.flatten,
    "Int8Transpose": reshaping.transpose,
    "Int8ChannelShuffle": reshaping.channel_shuffle,
}


@TABLE.row(*_REARRANGING, becomes="what it is on floats", note=_SAME)
def rearrange(op: Operator, to: Writer) -> None:
    """The same bytes in another shape or order."""
    told = _kept(op, to)
    if op.type == "Int8ChannelShuffle":
        _refuse_channels_first(op)
    _REARRANGING[op.type](op, to)
    to.quantization[op.output()] = told


@TABLE.row("Int8Slice", becomes="Slice", note=_SAME)
def sliced(op: Operator, to: Writer) -> None:
    """A range of each axis, or of the one that dim names."""
    told = _kept(op, to)
    if op.has_input(1) or not all(op.has(name) for name in ("dim", "start_idx", "end_idx")):
        selecting.sliced(op, to)
    else:
        axis = to.axis(op.input(0), op.integer("dim"))
        bounds = [op.integer("start_idx"), op.integer("end_idx")]
        places = [[selecting.from_front(place)] for place in bounds]
        inputs = [to.constant(row, np.int64) for row in (*places, [axis])]
        to.node("Slice", [op.input(0), *inputs], op.output())
    to.quantization[op.output()] = told


@TABLE.row("Int8ResizeNearest", becomes="Resize (nearest, asymmetric, floor)", note=_SAME)
def resize_nearest(op: Operator, to: Writer) -> None:
    """Each element from the nearest one before it; the channels are last."""
    op.refuse_more(1)
    told = _kept(op, to)
    scales = [1.0, op.number("height_scale", 1.0), op.number("width_scale", 1.0), 1.0]
    if not all(0 < scale < math.inf for scale in scales):
        raise Refused(f"its scales are {scales[1:3]}")
    to.node(
        "Resize",
        [op.input(0), None, to.constant(scales, np.float32)],
        op.output(),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    to.quantization[op.output()] = told
