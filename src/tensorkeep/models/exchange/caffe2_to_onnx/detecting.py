"""Regions of images: what lies in boxes, boxes moved by what a net says of them, keypoints."""

from __future__ import annotations

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx import boxes as on_boxes
from tensorkeep.models.exchange.caffe2_to_onnx.boxes import (
    INT64,
    corners,
    number,
    part,
    plus,
    size_of,
    times,
    within,
    without,
)
from tensorkeep.models.exchange.caffe2_to_onnx.convolutions import first, is_channels_last, last
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused

_REGIONS = 21  # the last opset whose operators on regions ONNX Runtime 1.32 has
_TOO_FLAT, _FARTHEST = 1e-4, 1.5  # of the peak of a heat map


@TABLE.row("AliasWithName", becomes="Identity")
def alias(op: Operator, to: Writer) -> None:
    """The same."""
    for name in ("name", "is_backward"):
        op.has(name)
    op.refuse_outputs(1)
    to.node("Identity", [op.input(0)], op.output())


def _pooled(op: Operator) -> tuple[int, int]:
    height, width = op.integer("pooled_h", 1), op.integer("pooled_w", 1)
    if height < 1 or width < 1:
        raise Refused(f"its pooled_h and pooled_w are {height} and {width}")
    return height, width


def _columns(rois: str, known: tuple[int, ...], to: Writer) -> int:
    """Give the number of columns of regions: 4, or 5 with the image they are of."""
    if to.rank(rois) != 2:
        raise Refused(f"its regions have {to.rank(rois)} axes")
    columns = to.shape(rois, [1])[0]
    if columns not in known:
        raise Refused(f"its regions have {columns} columns")
    return columns


@TABLE.row("RoIAlign", becomes="RoiAlign", note="needs the number of the regions' columns")
def roi_align(op: Operator, to: Writer) -> None:
    """The mean of points within each part of each region, between the pixels around them."""
    op.refuse_more(2)
    x, rois = op.input(0), op.input(1)
    channels_last, (height, width) = is_channels_last(op), _pooled(op)
    if channels_last:
        x = first(x, 2, to)
    if _columns(rois, (4, 5), to) == 5:
        images = to.node("Cast", [without(part(rois, 0, 1, to), 1, to)], to=INT64)
        rois = part(rois, 1, 5, to)
    else:
        images = to.node("Expand", [to.constant([0], np.int64), size_of(rois, 0, to)])
    to.limit_opset(_REGIONS)
    mode = "half_pixel" if op.flag("aligned") else "output_half_pixel"
    made = to.node(
        "RoiAlign",
        [x, rois, images],
        None if channels_last else op.output(),
        coordinate_transformation_mode=mode,
        output_height=height,
        output_width=width,
        sampling_ratio=max(op.integer("sampling_ratio", -1), 0),
        spatial_scale=op.number("spatial_scale", 1.0),
    )
    _know_pooled(made, x, rois, height, width, to)
    if channels_last:
        last(made, 2, op.output(), to)


@TABLE.row("RoIPool", becomes="MaxRoiPool", note="not its second output")
def roi_pool(op: Operator, to: Writer) -> None:
    """The largest of each part of each region."""
    op.refuse_more(2)
    op.refuse_outputs(1)
    if is_channels_last(op):
        raise Refused("its argument order is NHWC, which it does not know")
    x, rois = op.input(0), op.input(1)
    height, width = _pooled(op)
    to.limit_opset(_REGIONS)
    made = to.node(
        "MaxRoiPool",
        [x, rois],
        op.output(),
        pooled_shape=[height, width],
        spatial_scale=op.number("spatial_scale", 1.0),
    )
    _know_pooled(made, x, rois, height, width, to)


def _know_pooled(made: str, x: str, rois: str, height: int, width: int, to: Writer) -> None:
    dims, count = to.dims(x), to.dims(rois)
    channels = dims[1] if dims is not None and len(dims) == 4 else None
    to.know(made, to.type(x), (count[0] if count else None, channels, height, width))


@TABLE.row("BBoxTransform", becomes="arithmetic", note="not of rotated boxes")
def transform_boxes(op: Operator, to: Writer) -> None:
    """Boxes moved by the deltas of each class, within their image; how many each image has."""
    op.refuse_more(3)
    rois, deltas, info = op.input(0), op.input(1), op.input(2)
    edge, weights = on_boxes.read_edge(op), op.numbers("weights", (1.0,) * 4)
    for name in ("angle_bound_on", "angle_bound_lo", "angle_bound_hi", "clip_angle_thresh"):
        op.has(name)
    if len(weights) != 4 or 0 in weights:
        raise Refused(f"its weights are {weights}")
    several = _columns(rois, (4, 5), to) == 5
    if several:
        images = to.node("Cast", [without(part(rois, 0, 1, to), 1, to)], to=INT64)
        mine, boxes = to.node("Gather", [info, images], axis=0), part(rois, 1, 5, to)
    else:
        mine, boxes = info, rois
    scale = part(mine, 2, 3, to)
    sizes = to.node("Gather", [mine, to.constant([1, 0], np.int64)], axis=1)
    sizes = to.node("Floor", [plus(to.node("Div", [sizes, scale]), 0.5, to)])
    boxes = within(to.node("Div", [boxes, scale]), 1, to)  # (n, 1, 4): the same for each class
    split = to.reshaped(deltas, [0, -1, 4])
    moved = on_boxes.moved(corners(boxes, to), split, edge, to, weights)
    kept = on_boxes.clipped(moved, within(sizes, 1, to), edge, to).joined(to)
    if op.flag("apply_scale", True):
        kept = to.node("Mul", [kept, within(scale, 1, to)])
    dims = to.dims(deltas)
    made = to.reshaped(kept, [0, -1], op.output())
    to.know(made, to.type(deltas), dims if dims is not None else (None, None))
    if not op.wanted(1):
        return
    if several:
        every = within(on_boxes.counted(size_of(info, 0, to), to), 1, to)
        same = to.node("Cast", [to.node("Equal", [every, images])], to=on_boxes.FLOAT)
        to.node("ReduceSum", [same, to.constant([1], np.int64)], op.output(1), keepdims=0)
    else:
        to.node("Cast", [size_of(rois, 0, to)], op.output(1), to=on_boxes.FLOAT)


@TABLE.row("HeatmapMaxKeypoint", becomes="ArgMax, GatherElements, arithmetic")
def keypoints(op: Operator, to: Writer) -> None:
    """The peaks of heat maps in boxes: x, y, height, and probability where it is asked for.

    A peak lies between pixels: where the parabola through the highest one and those around it, a
    mirror standing at the edges, is highest.
    """
    op.refuse_more(2)
    maps, boxes = op.input(0), op.input(1)
    side, width = to.shape(maps, [2, 3])
    if side != width or side < 2:
        raise Refused(f"its heat maps are {side} by {width}, which are no squares of 2 and more")
    flat = to.reshaped(maps, [0, 0, -1])
    place = to.node("ArgMax", [flat], axis=2, keepdims=1)
    wide = side + 2
    pads = to.constant([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    around = to.reshaped(to.node("Pad", [maps, pads], mode="reflect"), [0, 0, -1])
    whole = to.constant(side, np.int64)
    row, column = to.node("Div", [place, whole]), to.node("Mod", [place, whole])
    corner = to.node("Add", [to.node("Mul", [row, to.constant(wide, np.int64)]), column])
    offsets = [y * wide + x for y in range(3) for x in range(3)]
    indices = to.node("Add", [corner, to.constant(offsets, np.int64)])
    nine = to.node("GatherElements", [around, indices], axis=2)
    found = to.nodes("Split", [nine], [None] * 9, axis=2, num_outputs=9)
    shifts, height = _peak(found, to)
    rows = []
    for axis, (shift, at) in enumerate(zip(shifts, (column, row), strict=True)):
        low, high = part(boxes, axis, axis + 1, to), part(boxes, axis + 2, axis + 3, to)
        length = to.node("Max", [to.node("Sub", [high, low]), number(1, to)])
        inside = plus(to.node("Cast", [at], to=on_boxes.FLOAT), 0.5, to)
        inside = to.node("Mul", [to.node("Add", [inside, shift]), within(length, 2, to)])
        inside = to.node("Div", [inside, number(side, to)])
        rows.append(to.node("Add", [within(low, 2, to), inside]))
    rows.append(height)
    if op.flag("should_output_softmax"):
        chances = to.node("Softmax", [flat], axis=2)
        rows.append(to.node("GatherElements", [chances, place], axis=2))
    else:
        rows.append(times(height, 0, to))
    joined = to.node("Concat", rows, axis=2)
    made = to.node("Transpose", [joined], op.output(), perm=[0, 2, 1])
    dims = to.dims(maps)
    to.know(made, to.type(maps), (dims[0] if dims else None, 4, dims[1] if dims else None))


def _peak(nine: list[str], to: Writer) -> tuple[list[str], str]:
    """Give how far the peak is from the middle of nine pixels, along x and y, and its height."""

    def sub(a: str, b: str) -> str:
        return to.node("Sub", [a, b])

    def add(a: str, b: str) -> str:
        return to.node("Add", [a, b])

    def mul(a: str, b: str) -> str:
        return to.node("Mul", [a, b])

    f00, f01, f02, f10, f11, f12, f20, f21, f22 = nine
    twice = times(f11, 2, to)
    down = times(sub(f12, f10), -0.5, to), times(sub(f21, f01), -0.5, to)
    xx, yy = add(sub(f10, twice), f12), add(sub(f01, twice), f21)
    xy = times(add(sub(sub(f22, f20), f02), f00), 0.25, to)
    determinant = sub(mul(xx, yy), mul(xy, xy))
    flat = to.node("Less", [to.node("Abs", [determinant]), number(_TOO_FLAT, to)])
    over = to.node("Where", [flat, number(1, to), determinant])
    x = to.node("Div", [sub(mul(down[0], yy), mul(down[1], xy)), over])
    y = to.node("Div", [sub(mul(down[1], xx), mul(down[0], xy)), over])
    farther = to.node("Max", [to.node("Abs", [x]), to.node("Abs", [y])])
    shorten = to.node("Max", [to.node("Div", [farther, number(_FARTHEST, to)]), number(1, to)])
    x, y = (
        to.node("Where", [flat, number(0, to), to.node("Div", [axis, shorten])]) for axis in (x, y)
    )
    slope = add(mul(down[0], x), mul(down[1], y))
    bend = add(mul(x, add(mul(xx, x), mul(xy, y))), mul(y, add(mul(xy, x), mul(yy, y))))
    return [x, y], add(sub(f11, slope), times(bend, 0.5, to))
