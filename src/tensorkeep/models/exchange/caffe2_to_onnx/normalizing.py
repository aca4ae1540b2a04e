"""Normalization: of batches (as tested), instances, groups, layers, channels and vectors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.activations import scalar
from tensorkeep.models.exchange.caffe2_to_onnx.convolutions import is_channels_last
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused

_TINY = 1e-12  # what Caffe2 takes at least as the length of a vector
_LARGEST = 1 << 31


def _of_channels(
    op: Operator, to: Writer, operator: str, rest: Iterable[int], **attributes: Any
) -> None:
    """Give the output by an operator that takes channels first, whatever the order is."""
    x, channels_last = op.input(0), is_channels_last(op)
    if channels_last:
        x = to.channels_first(x)
    inputs = [x, *(op.input(index) for index in rest)]
    made = to.node(operator, inputs, None if channels_last else op.output(), **attributes)
    if channels_last:
        to.channels_last(made, op.output())


@TABLE.row("SpatialBN", becomes="BatchNormalization", note="with is_test=1")
def spatial_bn(op: Operator, to: Writer) -> None:
    """(x - mean) * scale / sqrt(variance + epsilon) + bias, of each channel."""
    op.refuse_more(5)
    op.refuse_outputs(1)
    if not op.flag("is_test"):
        raise Refused(
            "it is in training mode (is_test is not 1), and uses each batch's own statistics",
            "Set its argument is_test to 1.",
        )
    op.has("num_batches")
    epsilon = op.number("epsilon", 1e-5)
    _of_channels(op, to, "BatchNormalization", range(1, 5), epsilon=epsilon)


@TABLE.row("InstanceNorm", becomes="InstanceNormalization")
def instance_norm(op: Operator, to: Writer) -> None:
    """Each channel of each image by its own mean and variance."""
    op.refuse_more(3)
    op.refuse_outputs(1)
    epsilon = op.number("epsilon", 1e-5)
    _of_channels(op, to, "InstanceNormalization", range(1, 3), epsilon=epsilon)


@TABLE.row("GroupNorm", becomes="GroupNormalization")
def group_norm(op: Operator, to: Writer) -> None:
    """Groups of channels of each image by their own mean and variance."""
    op.refuse_more(3)
    op.refuse_outputs(1)
    _of_channels(
        op,
        to,
        "GroupNormalization",
        range(1, 3),
        epsilon=op.number("epsilon", 1e-5),
        num_groups=op.integer("group", 32),
    )


@TABLE.row("LayerNorm", becomes="ReduceMean, Sub, Mul, Sqrt, Div", note="needs the rank")
def layer_norm(op: Operator, to: Writer) -> None:
    """All axes from one on by their mean and variance; means and deviations come out too."""
    op.refuse_more(3)
    x, rank = op.input(0), to.rank(op.input(0))
    axis = to.axis(x, op.integer("axis", 1))
    axes = to.constant(list(range(axis, rank)), np.int64)
    mean = to.node("ReduceMean", [x, axes])
    centered = to.node("Sub", [x, mean])
    variance = to.node("ReduceMean", [to.node("Mul", [centered, centered]), axes])
    epsilon = scalar(to, op.number("epsilon", 1e-5), x)
    deviation = to.node("Sqrt", [to.node("Add", [variance, epsilon])])
    affine = op.flag("elementwise_affine")
    normal = to.node("Div", [centered, deviation], None if affine else op.output())
    if affine:
        scaled = to.node("Mul", [normal, op.input(1)])
        to.node("Add", [scaled, op.input(2)], op.output())
    for index, value in ((1, mean), (2, deviation)):
        if op.wanted(index):
            to.reshaped(value, [*[0] * axis, 1], op.output(index))


@TABLE.row("LRN", becomes="LRN")
def lrn(op: Operator, to: Writer) -> None:
    """X * (bias + alpha/size * the sum of squares over neighbouring channels) ** -beta."""
    op.refuse_more(1)
    size, alpha, beta = op.integer("size"), op.number("alpha"), op.number("beta")
    bias = op.number("bias", 1.0)
    if not 1 <= size < _LARGEST or size % 2 == 0:
        raise Refused(f"its argument size is {size}, where an odd number is needed")
    x, channels_last = op.input(0), is_channels_last(op)
    if channels_last:
        x = to.channels_first(x)
    made = to.node(
        "LRN",
        [x],
        None if channels_last else op.output(),
        size=size,
        alpha=alpha,
        beta=beta,
        bias=bias,
    )
    if channels_last:
        to.channels_last(made, op.output())
    if op.wanted(1):
        scale = _lrn_scale(x, size, alpha, bias, None if channels_last else op.output(1), to)
        if channels_last:
            to.channels_last(scale, op.output(1))


def _lrn_scale(x: str, size: int, alpha: float, bias: float, output: str | None, to: Writer) -> str:
    """Make what LRN divides by before its power: a mean over channels, as pooling of one axis."""
    front = to.constant([1], np.int64)
    squares = to.node("Unsqueeze", [to.node("Mul", [x, x]), front])
    flat = to.reshaped(squares, [0, 1, 0, -1]) if to.dims(x) is None else squares
    rank = len(to.dims(x) or (0, 0, 0))
    kernel = [size, *[1] * (rank - 2)]
    pads = [size // 2, *[0] * (rank - 2)]
    means = to.node("AveragePool", [flat], kernel_shape=kernel, pads=pads * 2, count_include_pad=1)
    ranked = to.dims(x) is not None
    scaled = to.node("Squeeze", [means, front]) if ranked else to.shaped_like(means, x)
    made = to.node("Mul", [scaled, scalar(to, alpha, x)])
    return to.node("Add", [made, scalar(to, bias, x)], output)


@TABLE.row("Normalize", becomes="ReduceL2, Max, Div")
def normalize(op: Operator, to: Writer) -> None:
    """X / its length along an axis, which is 1e-12 at least."""
    x = op.input(0)
    axes = to.constant([to.axis(x, op.integer("axis", -1))], np.int64)
    length = to.node("ReduceL2", [x, axes])
    to.node("Div", [x, to.node("Max", [length, scalar(to, _TINY, x)])], op.output())


@TABLE.row("NormalizeL1", becomes="ReduceL1, Where, Div")
def normalize_l1(op: Operator, to: Writer) -> None:
    """X / the sum of its absolute values along an axis; zeros stay zeros."""
    x = op.input(0)
    axes = to.constant([to.axis(x, op.integer("axis", -1))], np.int64)
    length = to.node("ReduceL1", [x, axes])
    none = to.node("Equal", [length, scalar(to, 0.0, x)])
    to.node("Div", [x, to.node("Where", [none, scalar(to, 1.0, x), length])], op.output())
