"""Convolutions: conv, deconv, and both split into one over planes and one over points."""

from __future__ import annotations

import math

import numpy as np

from tensorkeep.models.exchange.emitting import Shape
from tensorkeep.models.exchange.nnef_to_onnx.chain import Chain
from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.nnef_to_onnx.windows import (
    Window,
    bordered,
    check_made,
    unwindow_of,
    window_of,
)
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation, Value

_NO_WINDOW: dict[str, Value] = {"border": "constant", "padding": [], "stride": [], "dilation": []}


@TABLE.row("conv", becomes="Conv", note="a border that is repeated or reflected becomes a Pad")
def _conv(op: Operation, reader: Reader) -> None:
    dtype = _dtype(op, reader, "filter")
    chain = Chain(reader.to, reader.value(op.arguments.get("input"), dtype))
    shape = reader.shape(op.arguments.get("input"))
    groups = reader.integer(op, "groups")
    shape = _convolve(op, reader, chain, shape, op.arguments.get("filter"), groups, dtype)
    reader.give(reader.reference(op), chain.end(reader.result(op)), shape, dtype)


@TABLE.row("deconv", becomes="ConvTranspose", note="border constant or ignore")
def _deconv(op: Operation, reader: Reader) -> None:
    dtype = _dtype(op, reader, "filter")
    chain = Chain(reader.to, reader.value(op.arguments.get("input"), dtype))
    shape = reader.shape(op.arguments.get("input"))
    groups = reader.integer(op, "groups")
    shape = _deconvolve(op, reader, chain, shape, op.arguments.get("filter"), groups, dtype)
    reader.give(reader.reference(op), chain.end(reader.result(op)), shape, dtype)


@TABLE.row("separable_conv", becomes="Conv, Conv")
def _separable_conv(op: Operation, reader: Reader) -> None:
    plane, point = op.arguments.get("plane_filter"), op.arguments.get("point_filter")
    dtype = _dtype(op, reader, "plane_filter", "point_filter")
    chain = Chain(reader.to, reader.value(op.arguments.get("input"), dtype))
    shape = reader.shape(op.arguments.get("input"))
    first, second = _stages(op, plane=True), _stages(op, plane=False)
    second.arguments["bias"] = op.arguments.get("bias")
    shape = _convolve(first, reader, chain, shape, plane, 0, dtype)
    shape = _convolve(second, reader, chain, shape, point, reader.integer(op, "groups"), dtype)
    reader.give(reader.reference(op), chain.end(reader.result(op)), shape, dtype)


@TABLE.row("separable_deconv", becomes="ConvTranspose, ConvTranspose")
def _separable_deconv(op: Operation, reader: Reader) -> None:
    plane, point = op.arguments.get("plane_filter"), op.arguments.get("point_filter")
    dtype = _dtype(op, reader, "plane_filter", "point_filter")
    chain = Chain(reader.to, reader.value(op.arguments.get("input"), dtype))
    shape = reader.shape(op.arguments.get("input"))
    first, second = _stages(op, plane=False), _stages(op, plane=True)
    second.arguments["bias"] = op.arguments.get("bias")
    shape = _deconvolve(first, reader, chain, shape, point, reader.integer(op, "groups"), dtype)
    shape = _deconvolve(second, reader, chain, shape, plane, 0, dtype)
    reader.give(reader.reference(op), chain.end(reader.result(op)), shape, dtype)


def _stages(op: Operation, *, plane: bool) -> Operation:
    """Give the one of two convolutions that has the window, or the one over points."""
    arguments = dict(op.arguments) if plane else {**_NO_WINDOW, "output_shape": []}
    return Operation(op.name, arguments | {"bias": 0.0}, op.results)


def _convolve(
    op: Operation,
    reader: Reader,
    chain: Chain,
    shape: Shape,
    filter: Value,
    groups: int,
    dtype: str,
) -> Shape:
    """Add a Conv; give the shape of its result."""
    kernel = _kernel(reader, shape, filter)
    groups = groups or shape[1]
    if groups < 1 or kernel[1] * groups != shape[1] or kernel[0] % groups:
        raise Refused(
            f"has {shape[1]} channels and a filter of {list(kernel)} in {groups} groups, which do "
            "not fit"
        )
    window = window_of(op, reader, kernel[2:], shape[2:])
    if window.border not in ("constant", "ignore") or min(window.pads) < 0:
        whole = _all_axes(window, shape)
        bordered(chain, whole)
        window = window.unpadded()
    bias, rest = _bias(op, reader, kernel[0], len(shape), dtype)
    chain.then(
        "Conv",
        reader.value(filter, dtype),
        bias,
        kernel_shape=list(window.size),
        strides=list(window.strides),
        dilations=list(window.dilations),
        pads=window.pads,
        group=groups,
    )
    if rest:
        chain.then("Add", rest)
    return (shape[0], kernel[0], *window.narrow)


def _deconvolve(
    op: Operation,
    reader: Reader,
    chain: Chain,
    shape: Shape,
    filter: Value,
    groups: int,
    dtype: str,
) -> Shape:
    """Add a ConvTranspose; give the shape of its result."""
    kernel = _kernel(reader, shape, filter)
    wanted = reader.integers(op, "output_shape", len(shape))
    groups = groups or (wanted[1] if wanted else shape[1])
    if groups < 1 or kernel[0] != shape[1] or kernel[0] % groups:
        raise Refused(
            f"has {shape[1]} channels and a filter of {list(kernel)} in {groups} groups, which do "
            "not fit"
        )
    channels = kernel[1] * groups
    if wanted and wanted[:2] != [shape[0], channels]:
        raise Refused(f"has output_shape = {wanted}, where {[shape[0], channels]} come first")
    window = unwindow_of(op, reader, kernel[2:], shape[2:], wanted[2:])
    bias, rest = _bias(op, reader, channels, len(shape), dtype)
    spread_out(chain, window, reader.value(filter, dtype), groups, bias)
    if rest:
        chain.then("Add", rest)
    return (shape[0], channels, *window.wide)


def spread_out(
    chain: Chain, window: Window, filter: str, groups: int = 1, bias: str | None = None
) -> Chain:
    """Add a ConvTranspose whose result has the sizes that a window is over.

    Args:
        chain: gives its input.
        window: on the axes after the first two.
        filter: the ONNX value of it.
        groups: of channels.
        bias: that of a number for each channel.
    """
    whole = [(n - 1) * s for n, s in zip(window.narrow, window.strides, strict=True)]
    reached = [each + window.spread(axis) for axis, each in enumerate(whole)]
    beyond = [
        wide + sum(pair) - reach
        for wide, pair, reach in zip(window.wide, window.padding, reached, strict=True)
    ]
    # What ONNX can say itself: padding, and a few elements at the end that nothing reaches.
    plain = min(window.pads) >= 0 and all(
        0 <= each < stride for each, stride in zip(beyond, window.strides, strict=True)
    )
    chain.then(
        "ConvTranspose",
        filter,
        bias if plain else None,
        kernel_shape=list(window.size),
        strides=list(window.strides),
        dilations=list(window.dilations),
        pads=window.pads if plain else None,
        output_padding=beyond if plain and any(beyond) else None,
        group=groups,
    )
    if not plain:
        cut = [-before for before, _ in window.padding]
        cut += [each - after for each, (_, after) in zip(beyond, window.padding, strict=True)]
        pads = [0, 0, *cut[: window.rank], 0, 0, *cut[window.rank :]]
        chain.then("Pad", chain.to.constant(pads, "int64", "pads"), mode="constant")
        if bias:
            sizes = chain.to.constant([1, -1, *[1] * window.rank], "int64", "shape")
            chain.then("Add", chain.to.node("Reshape", [bias, sizes]))
    return chain


def _kernel(reader: Reader, shape: Shape, filter: Value) -> Shape:
    kernel = reader.shape(filter)
    if len(kernel) != len(shape):
        raise Refused(f"has an input of shape {list(shape)} and a filter of {list(kernel)}")
    if len(shape) < 3:
        raise Refused(f"has an input of shape {list(shape)}, which has no axis to slide over")
    return kernel


def _bias(
    op: Operation, reader: Reader, channels: int, rank: int, dtype: str
) -> tuple[str | None, str | None]:
    """Name the bias of the channels, or, where it is one for all of them, what is to be added."""
    bias = op.arguments.get("bias", 0.0)
    if not reader.shape(bias):
        if isinstance(bias, int | float) and not isinstance(bias, bool):
            check_made(channels)
            return (reader.to.constant(np.full(channels, bias, dtype)) if bias else None), None
        return None, reader.value(bias, dtype)
    shape = reader.shape(bias)
    if math.prod(shape) == 1:
        return None, reader.reshaped(bias, [1] * rank, dtype)
    if shape != (channels,) and (shape[:2] != (1, channels) or math.prod(shape) != channels):
        raise Refused(f"has a bias of shape {list(shape)}, where {[1, channels]} is expected")
    return reader.reshaped(bias, [channels], dtype), None


def _all_axes(window: Window, shape: Shape) -> Window:
    """Give a window over spatial axes as one over all axes of a tensor."""
    return Window(
        (1, 1, *window.size),
        ((0, 0), (0, 0), *window.padding),
        (1, 1, *window.strides),
        (1, 1, *window.dilations),
        (*shape[:2], *window.wide),
        (*shape[:2], *window.narrow),
        window.border,
    )


def _dtype(op: Operation, reader: Reader, *filters: str) -> str:
    arguments = [op.arguments.get(key) for key in ("input", *filters)]
    return reader.common_number(*arguments, op.arguments.get("bias", 0.0))
