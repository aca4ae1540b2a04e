"""Normalizations: by what is around each element, by norms, and by statistics of batches."""

from __future__ import annotations

import math

from tensorkeep.models.exchange.nnef_to_onnx.chain import Chain
from tensorkeep.models.exchange.nnef_to_onnx.pooling import total
from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.nnef_to_onnx.windows import Window, check_made, window_of
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation, Value

_AROUND: dict[str, Value] = {"border": "constant", "padding": [], "stride": [], "dilation": []}


@TABLE.row("local_response_normalization", becomes="LRN, or AveragePool, Pow, Div")
def _local_response_normalization(op: Operation, reader: Reader) -> None:
    given = op.arguments.get("input")
    window, dtype = _around(op, reader), reader.type(given)
    value = reader.value(given)
    alpha, beta, bias = (reader.float(op, key) for key in ("alpha", "beta", "bias"))
    across = window.rank == 4 and window.size[1] % 2 and window.volume == window.size[1]
    if across and min(alpha, beta) > 0:  # which ONNX Runtime insists on
        chain = Chain(reader.to, value)
        chain.then("LRN", alpha=alpha, beta=beta, bias=bias, size=window.size[1])
        reader.give(reader.reference(op), chain.end(reader.result(op)), window.wide, dtype)
        return
    sigma = Chain(reader.to, reader.to.node("Mul", [value, value]))
    total(sigma, window, dtype, normalize=True)
    sigma.then("Mul", reader.scalar(alpha, given)).then("Add", reader.scalar(bias, given))
    sigma.then("Pow", reader.scalar(beta, given))
    reader.make(op, "Div", [value, sigma.value], window.wide, dtype)


@TABLE.row("local_mean_normalization", becomes="AveragePool, Sub")
def _local_mean_normalization(op: Operation, reader: Reader) -> None:
    window, dtype = _around(op, reader), reader.type(op.arguments.get("input"))
    value = reader.value(op.arguments.get("input"))
    mean = total(Chain(reader.to, value), window, dtype, normalize=True)
    reader.make(op, "Sub", [value, mean.value], window.wide, dtype)


@TABLE.row("local_variance_normalization", becomes="AveragePool, Sqrt, Div")
def _local_variance_normalization(op: Operation, reader: Reader) -> None:
    _by_deviation(op, reader, _around(op, reader), reader.value(op.arguments.get("input")))


@TABLE.row("local_contrast_normalization", becomes="AveragePool, Sub, AveragePool, Sqrt, Div")
def _local_contrast_normalization(op: Operation, reader: Reader) -> None:
    window, dtype = _around(op, reader), reader.type(op.arguments.get("input"))
    value = reader.value(op.arguments.get("input"))
    mean = total(Chain(reader.to, value), window, dtype, normalize=True)
    _by_deviation(op, reader, window, reader.to.node("Sub", [value, mean.value]))


@TABLE.row("l1_normalization", becomes="ReduceL1, Div")
def _l1_normalization(op: Operation, reader: Reader) -> None:
    _by_norm(op, reader, "ReduceL1")


@TABLE.row("l2_normalization", becomes="ReduceL2, Div")
def _l2_normalization(op: Operation, reader: Reader) -> None:
    _by_norm(op, reader, "ReduceL2")


@TABLE.row("batch_normalization", becomes="BatchNormalization, or Sub, Sqrt, Div, Mul, Add")
def _batch_normalization(op: Operation, reader: Reader) -> None:
    given = op.arguments.get("input")
    statistics = [op.arguments.get(key) for key in ("scale", "offset", "mean", "variance")]
    dtype = reader.common_number(given, *statistics)
    shape = reader.broadcast(given, *statistics)
    epsilon = reader.float(op, "epsilon")
    if shape != reader.shape(given):
        raise Refused(f"has statistics that do not fit an input of {list(reader.shape(given))}")
    if len(shape) >= 2 and all(_by_channel(reader, each, shape[1]) for each in statistics):
        rows = [_channels(reader, each, shape[1], dtype) for each in statistics]
        inputs = [reader.value(given, dtype), *rows]
        reader.make(op, "BatchNormalization", inputs, shape, dtype, epsilon=epsilon)
        return
    value, scale, offset, mean, variance = reader.aligned(given, *statistics, dtype=dtype)
    chain = Chain(reader.to, value).then("Sub", mean).then("Mul", scale)
    deviation = Chain(reader.to, variance)
    deviation.then("Add", reader.scalar(epsilon, given)).then("Sqrt")
    chain.then("Div", deviation.value).then("Add", offset)
    reader.give(reader.reference(op), chain.end(reader.result(op)), shape, dtype)


def _around(op: Operation, reader: Reader) -> Window:
    """Read the window around each element, whose middle is where the element is."""
    given = op.arguments.get("input")
    reader.common_number(given)
    shape, size = reader.shape(given), reader.integers(op, "size")
    if len(size) != len(shape):
        raise Refused(f"has size = {size} for an input of shape {list(shape)}")
    return window_of(Operation(op.name, _AROUND, {}), reader, size, shape)


def _by_deviation(op: Operation, reader: Reader, window: Window, value: str) -> None:
    """Divide by the root of the mean of the squares around each element."""
    dtype = reader.type(op.arguments.get("input"))
    sigma = Chain(reader.to, reader.to.node("Mul", [value, value]))
    total(sigma, window, dtype, normalize=True).then("Sqrt")
    _bounded(op, reader, sigma)
    reader.make(op, "Div", [value, sigma.value], window.wide, dtype)


def _by_norm(op: Operation, reader: Reader, operator: str) -> None:
    given = op.arguments.get("input")
    dtype = reader.common_number(given)
    shape, value = reader.shape(given), reader.value(given)
    axes = reader.axes(op, len(shape))
    sigma = Chain(reader.to, value)
    if axes:
        sigma.then(operator, reader.to.constant(axes, "int64", "axes"), keepdims=1)
    else:  # where ONNX would sum up all of it, and NNEF nothing
        sigma.then("Abs")
    _bounded(op, reader, sigma)
    reader.make(op, "Div", [value, sigma.value], shape, dtype)


def _bounded(op: Operation, reader: Reader, sigma: Chain) -> None:
    """Add the bias, and have it no less than epsilon."""
    given = op.arguments.get("input")
    bias, epsilon = reader.float(op, "bias"), reader.float(op, "epsilon")
    if bias:
        sigma.then("Add", reader.scalar(bias, given))
    if epsilon > 0 or bias < 0:
        sigma.then("Max", reader.scalar(epsilon, given))


def _by_channel(reader: Reader, argument: Value, channels: int) -> bool:
    """Whether there is one number for each channel, or a literal for all of them."""
    shape = reader.shape(argument)
    if not shape:
        return isinstance(argument, int | float)
    return shape[:2] == (1, channels) and math.prod(shape) == channels


def _channels(reader: Reader, argument: Value, channels: int, dtype: str) -> str:
    if reader.shape(argument):
        return reader.reshaped(argument, [channels], dtype)
    check_made(channels)
    one = reader.value(argument, dtype)
    return reader.to.node("Expand", [one, reader.to.constant([channels], "int64", "shape")])
