"""Boxes proposed, chosen and spread over the levels of a pyramid, as in Faster and Mask R-CNN."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.boxes import (
    FLOAT,
    INT32,
    INT64,
    Boxes,
    clipped,
    corners,
    counted,
    moved,
    number,
    part,
    plus,
    read_edge,
    size_of,
    times,
    within,
    without,
)
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused

_ANY = (1 << 31) - 1  # more boxes than there are
_LOWEST = float(np.finfo(np.float32).min)


def _at_most(count: str, limit: int, to: Writer) -> str:
    """Give the smaller of a size and a limit, where there is one."""
    return to.node("Min", [count, to.constant([limit], np.int64)]) if limit > 0 else count


def _suppressed(
    boxes: str, scores: str, to: Writer, most: int, overlap: float, least: float
) -> str:
    """Give rows (first axis of the scores, second one, box) of what is chosen."""
    limits = [
        to.constant(most if most > 0 else _ANY, np.int64),
        number(overlap, to),
        number(least, to),
    ]
    made = to.node("NonMaxSuppression", [boxes, scores, *limits])
    to.know(made, "int64", (None, 3))
    return made


def _places(chosen: str, to: Writer) -> str:
    """Give where chosen boxes are: their batch and their number in it."""
    return to.node("Gather", [chosen, to.constant([0, 2], np.int64)], axis=1)


@TABLE.row(
    "GenerateProposals",
    "GenerateProposalsCPP",
    becomes="TopK, arithmetic, NonMaxSuppression",
    note="not of rotated boxes",
)
def generate_proposals(op: Operator, to: Writer) -> None:
    """The likeliest boxes of each image: anchors moved by deltas, none of which cover another."""
    op.refuse_more(4)
    scores, deltas, info, anchors = (op.input(index) for index in range(4))
    edge, scale = read_edge(op), op.number("spatial_scale", 1 / 16)
    for name in ("angle_bound_on", "angle_bound_lo", "angle_bound_hi", "clip_angle_thresh"):
        op.has(name)
    if not 0 < scale < math.inf:
        raise Refused(f"its argument spatial_scale is {scale:g}")
    if to.shape(anchors, [1]) != [4]:
        raise Refused(f"its anchors have {to.shape(anchors, [1])[0]} numbers each, and 4 are known")
    every = _anchors(scores, anchors, float(np.float32(1.0 / scale)), to)
    flat = to.reshaped(to.node("Transpose", [scores], perm=[0, 2, 3, 1]), [0, -1])
    split = to.reshaped(to.node("Transpose", [deltas], perm=[0, 2, 3, 1]), [0, -1, 4])
    count = _at_most(size_of(flat, 1, to), op.integer("pre_nms_topN", 6000), to)
    best, order = to.nodes("TopK", [flat, count], [None, None], axis=1)
    here = to.node("Gather", [every, order], axis=0)
    by = to.node("GatherND", [split, within(order, 2, to)], batch_dims=1)
    sizes = within(to.node("Gather", [info, to.constant([1, 0], np.int64)], axis=1), 1, to)
    boxes = moved(corners(here, to), by, edge, to)
    boxes = clipped(boxes, to.node("Floor", [sizes]), edge, to)
    good = _large_enough(boxes, sizes, info, op.number("min_size", 16.0), edge, to)
    likely = to.node("Where", [good, best, number(-math.inf, to)])
    reaching = Boxes(boxes.low, plus(boxes.high, edge, to)).joined(to)
    most, overlap = op.integer("post_nms_topN", 300), op.number("nms_thresh", 0.7)
    chosen = _suppressed(reaching, within(likely, 1, to), to, most, overlap, _LOWEST)
    places = _places(chosen, to)
    image = to.node("Cast", [part(chosen, 0, 1, to)], to=FLOAT)
    found = to.node("GatherND", [boxes.joined(to), places])
    to.node("Concat", [image, found], op.output(), axis=1)
    to.know(op.output(), "float32", (None, 5))
    if op.wanted(1):
        to.know(to.node("GatherND", [best, places], op.output(1)), "float32", (None,))


def _anchors(scores: str, anchors: str, stride: float, to: Writer) -> str:
    """Give the anchors at each place of an image, (height * width * anchors, 4)."""
    shifted = anchors
    for axis, rows, which in ((3, [1, -1, 1, 1], [1, 0, 1, 0]), (2, [-1, 1, 1, 1], [0, 1, 0, 1])):
        steps = to.node("Cast", [counted(size_of(scores, axis, to), to)], to=FLOAT)
        shift = to.reshaped(times(steps, stride, to), rows)
        shift = to.node("Mul", [shift, to.constant(which, np.float32)])
        shifted = to.node("Add", [shifted, shift])
    return to.reshaped(shifted, [-1, 4])


def _large_enough(
    boxes: Boxes, sizes: str, info: str, least: float, edge: float, to: Writer
) -> str:
    """Tell boxes with sides of a size, in the image's scale, and their middle in the image."""
    sides = boxes.sizes(edge, to)
    limit = within(times(part(info, 2, 3, to), least, to), 1, to)
    middle = to.node("Add", [boxes.low, times(sides, 0.5, to)])
    large = to.node("GreaterOrEqual", [sides, limit])
    both = to.node("And", [large, to.node("Less", [middle, sizes])])
    every = to.node("Cast", [both], to=FLOAT)
    every = to.node("ReduceMin", [every, to.constant([2], np.int64)], keepdims=0)
    return to.node("Greater", [every, number(0.5, to)])


@TABLE.row(
    "BoxWithNMSLimit",
    becomes="NonMaxSuppression, TopK",
    note="needs the number of classes; not of rotated boxes, not soft",
)
def limit_boxes(op: Operator, to: Writer) -> None:
    """For each image and class the likeliest boxes, none of which cover another."""
    op.refuse_more(3)
    edge = read_edge(op)
    if op.flag("soft_nms_enabled"):
        raise Refused("its argument soft_nms_enabled is 1, and ONNX's suppression is not soft")
    for name in ("soft_nms_method", "soft_nms_sigma", "soft_nms_min_score_thres"):
        op.has(name)
    scores, boxes = (_matrix(op.input(index), to) for index in (0, 1))
    classes = to.shape(scores, [1])[0]
    if classes < 2:
        raise Refused(f"its scores are of {classes} classes")
    with_background = op.flag("input_boxes_include_bg_cls", True)
    begin = int(with_background)
    likely = part(scores, begin, begin + classes - 1, to, 1)
    likely = to.node("Transpose", [likely], perm=[1, 0])
    by_class = _boxes_by_class(op, boxes, classes, with_background, to)
    images = _Images(op, scores, to)
    likely, by_class = images.spread(likely, by_class)
    most = op.integer("detections_per_im", 100)
    sides = corners(by_class, to)
    reaching = Boxes(sides.low, plus(sides.high, edge, to)).joined(to)
    overlap, least = op.number("nms", 0.3), op.number("score_thresh", 0.05)
    chosen = _suppressed(reaching, within(likely, 1, to), to, most, overlap, least)
    if most > 0:
        found = to.node("GatherND", [likely, _places(chosen, to)])
        rows = images.limited(found, lambda: images.image_of(chosen, classes - 1), most)
        chosen = to.node("Gather", [chosen, rows], axis=0)
    kind = images.class_of(chosen, classes - 1)
    places = _places(chosen, to)
    to.know(to.node("GatherND", [likely, places], op.output(0)), "float32", (None,))
    to.know(to.node("GatherND", [by_class, places], op.output(1)), "float32", (None, 4))
    background = float(op.flag("output_classes_include_bg_cls", True))
    named = plus(to.node("Cast", [kind], to=FLOAT), background, to)
    to.know(to.node("Identity", [named], op.output(2)), "float32", (None,))
    if not any(op.wanted(index) for index in (3, 4, 5)):
        return
    image = images.image_of(chosen, classes - 1)
    if op.wanted(3):
        to.node("Cast", [images.count(image)], op.output(3), to=FLOAT)
    if op.wanted(4):
        row = to.node("Sub", [without(part(chosen, 2, 3, to), 1, to), images.start_of(image)])
        to.node("Cast", [row], op.output(4), to=INT32)
    if op.wanted(5):
        kinds = to.node("Add", [kind, to.constant(1, np.int64)])
        to.node("Cast", [images.count_by_class(image, kinds, classes)], op.output(5), to=INT32)


def _matrix(value: str, to: Writer) -> str:
    rank = to.rank(value)
    if rank == 4:
        return to.node("Flatten", [value], axis=1)
    if rank != 2:
        raise Refused(f"{value!r} has {rank} axes, and 2 or 4 are known")
    return value


def _boxes_by_class(
    op: Operator, boxes: str, classes: int, with_background: bool, to: Writer
) -> str:
    """Give the boxes of each class, (class, box, 4), without those of the background."""
    if op.flag("cls_agnostic_bbox_reg"):
        once = within(part(boxes, 0, 4, to, 1), 0, to)
        return to.node("Tile", [once, to.constant([classes - 1, 1, 1], np.int64)])
    begin = 4 * int(with_background)
    mine = part(boxes, begin, begin + 4 * (classes - 1), to, 1)
    split = to.reshaped(mine, [-1, classes - 1, 4])
    return to.node("Transpose", [split], perm=[1, 0, 2])


class _Images:
    """The images whose boxes lie behind one another, as many as a third input says."""

    def __init__(self, op: Operator, scores: str, to: Writer) -> None:
        self.to = to
        self._single = not op.has_input(2) or to.dims(op.input(2)) == (1,)
        self._given = op.input(2) if op.has_input(2) else ""
        self._scores = scores

    @cached_property
    def _sizes(self) -> str:
        if self._given:
            return self.to.node("Cast", [self._given], to=INT64)
        return size_of(self._scores, 0, self.to)

    @cached_property
    def _ends(self) -> str:
        return self.to.node("CumSum", [self._sizes, self.to.constant(0, np.int64)])

    @cached_property
    def _starts(self) -> str:
        return self.to.node("Sub", [self._ends, self._sizes])

    @cached_property
    def _number(self) -> str:
        return size_of(self._sizes, 0, self.to)

    @cached_property
    def _every(self) -> str:
        return within(counted(self._number, self.to), 1, self.to)

    def spread(self, scores: str, boxes: str) -> tuple[str, str]:
        """Repeat scores and boxes by class for each image, whose own alone keep their scores."""
        if self._single:
            return scores, boxes
        to = self.to
        index = counted(size_of(scores, 1, to), to)
        after = to.node("GreaterOrEqual", [index, within(self._starts, 1, to)])
        before = to.node("Less", [index, within(self._ends, 1, to)])
        members = within(to.node("And", [after, before]), 1, to)  # (image, 1, box)
        masked = to.node("Where", [members, scores, number(-math.inf, to)])
        repeats = to.node("Concat", [self._number, to.constant([1, 1], np.int64)], axis=0)
        boxes = to.node("Tile", [boxes, repeats])
        return without(to.reshaped(masked, [-1, 1, 0]), 1, to), boxes

    def image_of(self, chosen: str, classes: int) -> str:
        """Tell the image of what was chosen of the rows that `spread` made."""
        to = self.to
        image = to.node("Div", [part(chosen, 0, 1, to), to.constant(classes, np.int64)])
        return without(image, 1, to)

    def class_of(self, chosen: str, classes: int) -> str:
        """Tell the class of it, that of the background not counted."""
        to = self.to
        kind = to.node("Mod", [part(chosen, 0, 1, to), to.constant(classes, np.int64)])
        return without(kind, 1, to)

    def limited(self, scores: str, image: Callable[[], str], most: int) -> str:
        """Give which of the chosen stay where each image keeps so many, in their order."""
        to = self.to
        count = _at_most(size_of(scores, 0, to), most, to)
        if self._single:
            _, rows = to.nodes("TopK", [scores, count], [None, None])
        else:
            mine = to.node("Equal", [self._every, image()])
            table = to.node("Where", [mine, scores, number(-math.inf, to)])
            best, order = to.nodes("TopK", [table, count], [None, None], axis=1)
            there = to.reshaped(to.node("Greater", [best, number(-math.inf, to)]), [-1])
            rows = to.node("Compress", [to.reshaped(order, [-1]), there], axis=0)
        ordered = to.nodes("TopK", [rows, size_of(rows, 0, to)], [None, None], largest=0)
        return ordered[0]

    def count(self, image: str) -> str:
        """Give how many boxes each image has."""
        to = self.to
        same = to.node("Cast", [to.node("Equal", [self._every, image])], to=INT64)
        return to.node("ReduceSum", [same, to.constant([1], np.int64)], keepdims=0)

    def start_of(self, image: str) -> str:
        """Give where the boxes of images start."""
        return self.to.node("Gather", [self._starts, image], axis=0)

    def count_by_class(self, image: str, kinds: str, classes: int) -> str:
        """Give how many boxes each image has of each class, (image, class)."""
        to = self.to
        mine = within(to.node("Equal", [self._every, image]), 1, to)
        every = to.constant(np.arange(classes)[:, None], np.int64)
        both = to.node("And", [mine, to.node("Equal", [every, kinds])])
        counts = to.node("Cast", [both], to=INT64)
        return to.node("ReduceSum", [counts, to.constant([2], np.int64)], keepdims=0)
