"""Boxes as detection nets have them: parts of them, and boxes moved by deltas.

A box is x1, y1, x2, y2 along the last axis. Where legacy_plus_one is 1, as it is by default, the
right and the lower edge belong to it: its width is x2 - x1 + 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused

INT32, INT64, FLOAT = 6, 7, 1  # numbers of ONNX's element types
_LARGEST_GROWTH = math.log(1000.0 / 16.0)


class Boxes(NamedTuple):
    """Boxes by their corners: (..., 2) each, of x and y."""

    low: str
    high: str

    def joined(self, to: Writer) -> str:
        """Give them as (..., 4)."""
        return to.node("Concat", [self.low, self.high], axis=-1)

    def sizes(self, edge: float, to: Writer) -> str:
        """Give width and height."""
        return plus(to.node("Sub", [self.high, self.low]), edge, to)


def number(value: float, to: Writer) -> str:
    """Give a constant of float32."""
    return to.constant(value, np.float32)


def plus(value: str, by: float, to: Writer) -> str:
    """Add a number."""
    return to.node("Add", [value, number(by, to)]) if by else value


def times(value: str, by: float, to: Writer) -> str:
    """Multiply by a number."""
    return to.node("Mul", [value, number(by, to)])


def part(value: str, start: int, stop: int, to: Writer, axis: int = -1) -> str:
    """Give a range of an axis."""
    bounds = [to.constant([place], np.int64) for place in (start, stop, axis)]
    return to.node("Slice", [value, *bounds])


def without(value: str, axis: int, to: Writer) -> str:
    """Take an axis of size 1 away."""
    return to.node("Squeeze", [value, to.constant([axis], np.int64)])


def within(value: str, axis: int, to: Writer) -> str:
    """Add an axis of size 1."""
    return to.node("Unsqueeze", [value, to.constant([axis], np.int64)])


def size_of(value: str, axis: int, to: Writer) -> str:
    """Give one size of a value as a vector of one int64."""
    return part(to.node("Shape", [value]), axis, axis + 1, to, 0)


def counted(count: str, to: Writer) -> str:
    """Give 0, 1, 2, ... below a size, as int64."""
    limits = [to.constant(0, np.int64), without(count, 0, to), to.constant(1, np.int64)]
    return to.node("Range", limits)


def read_edge(op: Operator) -> float:
    """Give what legacy_plus_one adds to sizes.

    Raises:
        Refused: rotated boxes, or a rule for the edge that releases of Caffe2 read differently.
    """
    if op.flag("rotated"):
        raise Refused("its argument rotated is 1, and ONNX has no rotated boxes")
    if not op.flag("correct_transform_coords", True):
        raise Refused(
            "its argument correct_transform_coords is 0, which releases of Caffe2 read differently"
        )
    return float(op.flag("legacy_plus_one", True))


def corners(boxes: str, to: Writer) -> Boxes:
    """Take boxes of (..., 4) apart."""
    return Boxes(part(boxes, 0, 2, to), part(boxes, 2, 4, to))


def moved(
    boxes: Boxes, deltas: str, edge: float, to: Writer, weights: Sequence[float] = (1, 1, 1, 1)
) -> Boxes:
    """Move boxes by (..., 4): shifts in parts of their size, and logarithms of their growth."""
    shift, growth = part(deltas, 0, 2, to), part(deltas, 2, 4, to)
    if any(weight != 1 for weight in weights):
        pairs = [to.constant(weights[at : at + 2], np.float32) for at in (0, 2)]
        shift, growth = (
            to.node("Div", [value, pair])
            for value, pair in zip((shift, growth), pairs, strict=True)
        )
    growth = to.node("Exp", [to.node("Min", [growth, number(_LARGEST_GROWTH, to)])])
    sizes = boxes.sizes(edge, to)
    middle = to.node("Add", [boxes.low, times(sizes, 0.5, to)])
    middle = to.node("Add", [to.node("Mul", [shift, sizes]), middle])
    half = times(to.node("Mul", [growth, sizes]), 0.5, to)
    high = plus(to.node("Add", [middle, half]), -edge, to)
    return Boxes(to.node("Sub", [middle, half]), high)


def clipped(boxes: Boxes, image: str, edge: float, to: Writer) -> Boxes:
    """Keep boxes within images, whose width and height are (..., 2)."""
    limit, zero = plus(image, -edge, to), number(0, to)
    low, high = (
        to.node("Max", [to.node("Min", [corner, limit]), zero])
        for corner in (boxes.low, boxes.high)
    )
    return Boxes(low, high)
