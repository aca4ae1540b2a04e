"""Images made larger, smaller, or given a border."""

from __future__ import annotations

from collections.abc import Sequence

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
    _resize(op, to, _scales(op, to), "nearest", is_channels_last(op))


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
    """Each element repeated along both axes, which are the last ones in any order."""
    op.refuse_more(1)
    scale = op.integer("scale", 2)
    if scale < 1:
        raise Refused(f"its argument scale is {scale}")
    _resize(op, to, [float(scale)] * 2, "nearest", channels_last=False)


@TABLE.row("UpsampleBilinear", becomes="Resize (linear, align_corners)")
def upsample_bilinear(op: Operator, to: Writer) -> None:
    """Between the four nearest elements, the corners lying on the corners."""
    _resize(op, to, _scales(op, to), "linear", is_channels_last(op))


def _resize(op: Operator, to: Writer, scales: list[float], mode: str, channels_last: bool) -> None:
    x, nearest = op.input(0), mode == "nearest"
    if channels_last:
        x = first(x, 2, to)
    sizes = spatial_sizes(x, 2, to)
    output = None if channels_last else op.output()
    if nearest and any(scale != 1 for scale in scales) and _are_kept(sizes, scales):
        made = _gathered(x, sizes, scales, output, to)
    else:
        made = to.node(
            "Resize",
            [x, None, to.constant([1.0, 1.0, *scales], np.float32)],
            output,
            mode=mode,
            coordinate_transformation_mode="asymmetric" if nearest else "align_corners",
            nearest_mode="floor" if nearest else None,
        )
    if channels_last:
        last(made, 2, op.output(), to)


def _are_kept(sizes: Sequence[int | None], scales: list[float]) -> bool:
    """Whether a small image keeps its size; ONNX Runtime gives it back as it is then."""
    for size, scale in zip(sizes, scales, strict=True):
        if size is None or size * scale >= size + 1:
            return False
        if int(np.float32(size) * np.float32(scale)) != size:
            return False
    return True


def _gathered(
    x: str, sizes: Sequence[int | None], scales: list[float], output: str | None, to: Writer
) -> str:
    """Take the nearest elements one axis after the other."""
    for axis, (size, scale) in enumerate(zip(sizes, scales, strict=True), 2):
        places = np.floor(np.arange(size or 0, dtype=np.float32) / np.float32(scale))
        name = output if axis == 3 else None
        x = to.node("Gather", [x, to.constant(places, np.int64)], name, axis=axis)
    return x


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
    if any(step != 1 for step in (*windows.strides, *windows.dilations)):
        raise Refused("it has a stride or a dilation")
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
