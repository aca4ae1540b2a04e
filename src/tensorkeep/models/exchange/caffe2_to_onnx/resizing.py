"""Images made larger, smaller, or given a border."""

from __future__ import annotations

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.convolutions import (
    first,
    is_channels_last,
    last,
    read_windows,
    spatial_sizes,
)
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused

_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge"}


def _scales(op: Operator, to: Writer) -> list[float]:
    """Give height_scale and width_scale, of the arguments or of a second input."""
    op.refuse_more(2)
    scales = [op.number("height_scale", 1.0), op.number("width_scale", 1.0)]
    if op.has_input(1):
        array = to.array(op.input(1))
        if array is None or array.size != 2:
            raise Refused("its second input, the scales, is not a constant of two numbers")
        scales = [float(value) for value in array.reshape(-1)]
    _check(scales)
    return scales


def _check(scales: list[float]) -> None:
    if not all(0 < scale < float("inf") for scale in scales):
        raise Refused(f"its scales are {scales}")


@TABLE.row("ResizeNearest", becomes="Resize (nearest, asymmetric, floor)")
def resize_nearest(op: Operator, to: Writer) -> None:
    """Each element from the nearest one before it."""
    _resize(op, to, _scales(op, to), "nearest", "asymmetric")


@TABLE.row("ResizeNearest3D", becomes="Resize (nearest, asymmetric, floor)")
def resize_nearest_3d(op: Operator, to: Writer) -> None:
    """Each element from the nearest one before it, along time as well."""
    op.refuse_more(1)
    if is_channels_last(op):
        raise Refused("its argument order is NHWC")
    names = ("temporal_scale", "height_scale", "width_scale")
    scales = [op.number(name, 1.0) for name in names]
    _check(scales)
    spatial_sizes(op.input(0), 3, to)
    to.node(
        "Resize",
        [op.input(0), None, to.constant([1.0, 1.0, *scales], np.float32)],
        op.output(),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


@TABLE.row("UpsampleNearest", becomes="Resize (nearest, asymmetric, floor)")
def upsample_nearest(op: Operator, to: Writer) -> None:
    """Each element repeated along both axes."""
    op.refuse_more(1)
    scale = op.integer("scale", 2)
    if scale < 1:
        raise Refused(f"its argument scale is {scale}")
    _resize(op, to, [float(scale)] * 2, "nearest", "asymmetric")


@TABLE.row("UpsampleBilinear", becomes="Resize (linear, align_corners)")
def upsample_bilinear(op: Operator, to: Writer) -> None:
    """Between the four nearest elements, the corners lying on the corners."""
    _resize(op, to, _scales(op, to), "linear", "align_corners")


def _resize(op: Operator, to: Writer, scales: list[float], mode: str, places: str) -> None:
    x, channels_last = op.input(0), is_channels_last(op)
    if channels_last:
        x = first(x, 2, to)
    spatial_sizes(x, 2, to)
    made = to.node(
        "Resize",
        [x, None, to.constant([1.0, 1.0, *scales], np.float32)],
        None if channels_last else op.output(),
        mode=mode,
        coordinate_transformation_mode=places,
        nearest_mode="floor" if mode == "nearest" else None,
    )
    if channels_last:
        last(made, 2, op.output(), to)


@TABLE.row("PadImage", becomes="Pad")
def pad_image(op: Operator, to: Writer) -> None:
    """A border of a constant, of the mirrored image, or of its edge."""
    op.refuse_more(1)
    mode = _MODES.get(op.text("mode", "constant"))
    if mode is None:
        raise Refused(f"its argument mode is {op.text('mode')!r}")
    windows = read_windows(op)
    if windows.legacy or len(windows.pads) != 4:
        raise Refused("it has a legacy_pad, or pads that are not four")
    x = op.input(0)
    spatial_sizes(x, 2, to)
    top, left, bottom, right = windows.pads
    pads = [0, 0, top, left, 0, 0, bottom, right]
    if is_channels_last(op):
        pads = [0, top, left, 0, 0, bottom, right, 0]
    value = op.number("value", 0.0)
    inputs = [x, to.constant(pads, np.int64)]
    if mode == "constant":
        inputs.append(to.constant(value, np.dtype(to.type(x))))
    to.node("Pad", inputs, op.output(), mode=mode)
