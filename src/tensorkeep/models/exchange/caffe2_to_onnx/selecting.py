"""Parts of tensors, by range or by index, and tensors repeated."""

from __future__ import annotations

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused

_END = np.iinfo(np.int64).max


@TABLE.row("Slice", becomes="Slice")
def sliced(op: Operator, to: Writer) -> None:
    """A range of each axis; one below zero counts from behind the end, so that -1 is the end."""
    x = op.input(0)
    if op.has_input(1):
        op.refuse_more(3)
        starts = to.integers(op.input(1), "its second input, the starts,")
        ends = to.integers(op.input(2), "its third input, the ends,")
    else:
        starts, ends = op.integers("starts"), op.integers("ends")
    if len(starts) != len(ends):
        raise Refused(f"it has {len(starts)} starts and {len(ends)} ends")
    dims = to.dims(x)
    if dims is not None and len(starts) > len(dims):
        raise Refused(f"it has {len(starts)} starts, and its input {len(dims)} axes")
    axes = [axis for axis, bounds in enumerate(zip(starts, ends, strict=True)) if bounds != (0, -1)]
    if not axes:
        to.node("Identity", [x], op.output())
        return
    bounds = [[from_front(row[axis]) for axis in axes] for row in (starts, ends)]
    inputs = [to.constant(row, np.int64) for row in (*bounds, axes)]
    to.node("Slice", [x, *inputs], op.output())


def from_front(place: int) -> int:
    """Say a place as ONNX counts it: -1 is behind the end here, and the last element there."""
    if place >= 0:
        return place
    return _END if place == -1 else place + 1


@TABLE.row("Gather", becomes="Gather")
def gather(op: Operator, to: Writer) -> None:
    """The parts along an axis that indices name."""
    op.refuse_more(2)
    if op.flag("match_outer"):
        raise Refused("its argument match_outer is 1")
    op.has("wrap_indices")
    axis = to.axis(op.input(0), op.integer("axis", 0))
    to.node("Gather", [op.input(0), op.input(1)], op.output(), axis=axis)


@TABLE.row("BatchGather", becomes="Gather")
def batch_gather(op: Operator, to: Writer) -> None:
    """The parts along the second axis that indices name."""
    op.refuse_more(2)
    if op.flag("match_outer"):
        raise Refused("its argument match_outer is 1")
    if op.integer("axis", 1) != 1:
        raise Refused(f"its argument axis is {op.integer('axis')}, and Caffe2 gathers along axis 1")
    axis = to.axis(op.input(0), 1)
    to.node("Gather", [op.input(0), op.input(1)], op.output(), axis=axis)


@TABLE.row("Tile", becomes="Tile", note="needs the rank to be known")
def tile(op: Operator, to: Writer) -> None:
    """Repeated along one axis."""
    op.refuse_more(3)
    x, rank = op.input(0), to.rank(op.input(0))
    times, axis = op.integer("tiles", 1), op.integer("axis", 0)
    if op.has_input(1):
        times = to.integers(op.input(1), "its second input, the number of tiles,")[0]
    if op.has_input(2):
        axis = to.integers(op.input(2), "its third input, the axis,")[0]
    if times < 0:
        raise Refused(f"its tiles are {times}")
    repeats = [1] * rank
    repeats[to.axis(x, axis)] = times
    to.node("Tile", [x, to.constant(repeats, np.int64)], op.output())


@TABLE.row("NumpyTile", becomes="Tile")
def numpy_tile(op: Operator, to: Writer) -> None:
    """Repeated along all axes."""
    op.refuse_more(2)
    repeats = to.integers(op.input(1), "its second input, the repeats,")
    to.node("Tile", [op.input(0), to.constant(repeats, np.int64)], op.output())


@TABLE.row("Expand", becomes="Expand")
def expand(op: Operator, to: Writer) -> None:
    """Broadcast to a shape, and the shape to it."""
    op.refuse_more(2)
    known = to.array(op.input(1))
    if known is not None:
        shape = to.constant([int(size) for size in known.reshape(-1)], np.int64)
    else:
        shape = to.node("Cast", [op.input(1)], to=7)  # 7: INT64
    to.node("Expand", [op.input(0), shape], op.output())
