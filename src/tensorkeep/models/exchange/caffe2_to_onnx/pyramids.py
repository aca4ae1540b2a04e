"""Regions over the levels of a feature pyramid: collected from them, and spread over them again."""

from __future__ import annotations

import math

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.boxes import (
    INT32,
    corners,
    counted,
    number,
    part,
    plus,
    read_edge,
    size_of,
    without,
)
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused

_MOST_LEVELS = 64


def _levels(op: Operator, kind: str, least: int, most: int) -> range:
    first, last = op.integer(f"{kind}_min_level", least), op.integer(f"{kind}_max_level", most)
    if not 0 <= last - first < _MOST_LEVELS:
        raise Refused(f"its levels are from {first} to {last}")
    return range(first, last + 1)


@TABLE.row("CollectRpnProposals", becomes="Concat, TopK, Gather")
def collect(op: Operator, to: Writer) -> None:
    """The likeliest regions of all levels."""
    to.node("Identity", [_collected(op, to)], op.output())


@TABLE.row("DistributeFpnProposals", becomes="Equal, NonZero, Gather, ScatterElements")
def distribute(op: Operator, to: Writer) -> None:
    """The regions of each level, which their size tells, and how to put them in order again."""
    op.refuse_more(1)
    _distributed(op, op.input(0), op.outputs, to)


@TABLE.row("CollectAndDistributeFpnRpnProposals", becomes="what it is one after the other")
def collect_and_distribute(op: Operator, to: Writer) -> None:
    """The likeliest regions, and those of each level."""
    rois = _collected(op, to)
    to.node("Identity", [rois], op.output(0))
    _distributed(op, rois, op.outputs[1:], to)


@TABLE.row("BatchPermutation", becomes="Gather")
def permute(op: Operator, to: Writer) -> None:
    """The rows in the order that indices tell."""
    op.refuse_more(2)
    to.node("Gather", [op.input(0), op.input(1)], op.output(), axis=0)


def _collected(op: Operator, to: Writer) -> str:
    """Give the regions with the highest scores, the earlier first where they are equal."""
    count = len(_levels(op, "rpn", 2, 6))
    if len(op.inputs) != 2 * count:
        raise Refused(f"it has {len(op.inputs)} inputs, and {count} levels")
    rois = to.node("Concat", op.inputs[:count], axis=0)
    scores = [to.reshaped(value, [-1]) for value in op.inputs[count:]]
    every = to.node("Concat", scores, axis=0)
    size, most = size_of(every, 0, to), op.integer("rpn_post_nms_topN", 2000)
    if most > 0:
        size = to.node("Min", [size, to.constant([most], np.int64)])
    _, order = to.nodes("TopK", [every, size], [None, None])
    made = to.node("Gather", [rois, order], axis=0)
    to.know(made, "float32", (None, 5))
    return made


def _distributed(op: Operator, rois: str, outputs: list[str], to: Writer) -> None:
    edge, levels = read_edge(op), _levels(op, "roi", 2, 5)
    scale, middle = op.integer("roi_canonical_scale", 224), op.integer("roi_canonical_level", 4)
    if len(outputs) != len(levels) + 1:
        raise Refused(f"it has {len(outputs)} outputs for {len(levels)} levels and their order")
    if scale <= 0:
        raise Refused(f"its argument roi_canonical_scale is {scale}")
    if to.shape(rois, [1]) != [5]:
        raise Refused(f"its regions have {to.shape(rois, [1])[0]} columns, and 5 are known")
    sides = corners(part(rois, 1, 5, to), to).sizes(edge, to)
    width, height = part(sides, 0, 1, to), part(sides, 1, 2, to)
    side = to.node("Sqrt", [without(to.node("Mul", [width, height]), 1, to)])
    ratio = plus(to.node("Div", [side, number(scale, to)]), 1e-6, to)
    power = to.node("Div", [to.node("Log", [ratio]), number(math.log(2), to)])
    level = to.node("Floor", [plus(power, middle, to)])
    level = to.node("Min", [level, number(levels[-1], to)])
    level = to.node("Max", [level, number(levels[0], to)])
    orders = []
    for each, output in zip(levels, outputs, strict=False):
        here = to.node("NonZero", [to.node("Equal", [level, number(each, to)])])
        orders.append(without(here, 0, to))
        to.node("Gather", [rois, orders[-1]], output, axis=0)
        to.know(output, "float32", (None, 5))
    order = to.node("Concat", orders, axis=0)
    places = counted(size_of(rois, 0, to), to)
    inverse = to.node("ScatterElements", [places, order, places], axis=0)
    to.node("Cast", [inverse], outputs[-1], to=INT32)
    to.know(outputs[-1], "int32", (None,))
