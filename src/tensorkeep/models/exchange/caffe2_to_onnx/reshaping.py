"""The same elements in another shape or order."""

from __future__ import annotations

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.convolutions import is_channels_last
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused


@TABLE.row("Reshape", becomes="Reshape")
def reshape(op: Operator, to: Writer) -> None:
    """Another shape: 0 keeps a size, -1 takes what is left; the old one comes out too."""
    op.refuse_more(2)
    x = op.input(0)
    if op.has("shape"):
        if op.has_input(1):
            raise Refused("it has both an argument shape and a second input")
        to.reshaped(x, _checked(op.integers("shape"), x, to), op.output())
    elif to.array(op.input(1)) is not None:
        sizes = to.integers(op.input(1), "its second input, the shape,")
        to.reshaped(x, _checked(sizes, x, to), op.output())
    else:
        shape = to.node("Cast", [op.input(1)], to=7)  # 7: INT64
        to.node("Reshape", [x, shape], op.output())
    if op.wanted(1):
        to.node("Shape", [x], op.output(1))


def _checked(shape: list[int], x: str, to: Writer) -> list[int]:
    dims = to.dims(x)
    kept = len(dims) if dims is not None else len(shape)
    if min(shape, default=0) < -1 or shape.count(-1) > 1 or 0 in shape[kept:]:
        raise Refused(f"its shape is {shape}, which is none")
    return shape


@TABLE.row("ResizeLike", becomes="Shape, Reshape")
def resize_like(op: Operator, to: Writer) -> None:
    """The shape of another tensor."""
    to.shaped_like(op.input(0), op.input(1), op.output())


@TABLE.row("Flatten", becomes="Flatten")
def flatten(op: Operator, to: Writer) -> None:
    """Two axes: those before one, and those from it on."""
    x, axis = op.input(0), op.integer("axis", 1)
    if axis < 0:
        raise Refused(f"its argument axis is {axis}, where Caffe2 counts from the front")
    to.node("Flatten", [x], op.output(), axis=to.axis(x, axis, 1))


@TABLE.row("FlattenToVec", becomes="Reshape")
def flatten_to_vec(op: Operator, to: Writer) -> None:
    """One axis."""
    to.reshaped(op.input(0), [-1], op.output())


@TABLE.row("Squeeze", becomes="Squeeze")
def squeeze(op: Operator, to: Writer) -> None:
    """Without axes of size 1."""
    x, axes = op.input(0), _axes(op)
    dims = to.dims(x)
    if dims is not None and (axes[-1] >= len(dims) or any(dims[a] not in (None, 1) for a in axes)):
        raise Refused(f"its argument dims is {axes}, and its input has the shape {list(dims)}")
    to.node("Squeeze", [x, to.constant(axes, np.int64)], op.output())


@TABLE.row("ExpandDims", becomes="Unsqueeze")
def expand_dims(op: Operator, to: Writer) -> None:
    """With axes of size 1, where they are in the result."""
    x, axes = op.input(0), _axes(op)
    dims = to.dims(x)
    if dims is not None and axes[-1] >= len(dims) + len(axes):
        raise Refused(f"its argument dims is {axes}, and its input has {len(dims)} axes")
    to.node("Unsqueeze", [x, to.constant(axes, np.int64)], op.output())


def _axes(op: Operator) -> list[int]:
    axes = sorted(set(op.integers("dims")))
    if not axes or axes[0] < 0:
        raise Refused(f"its argument dims is {op.integers('dims')}")
    return axes


@TABLE.row("Transpose", becomes="Transpose")
def transpose(op: Operator, to: Writer) -> None:
    """Axes in another order, reversed by default."""
    axes = op.integers("axes")
    dims = to.dims(op.input(0))
    if axes and dims is not None and len(axes) != len(dims):
        raise Refused(f"its argument axes is {axes}, and its input has {len(dims)} axes")
    if axes and sorted(axes) != list(range(len(axes))):
        raise Refused(f"its argument axes is {axes}, which is no order of axes")
    to.node("Transpose", [op.input(0)], op.output(), perm=axes or None)


@TABLE.row("NCHW2NHWC", becomes="Transpose", note="needs the rank to be known")
def to_channels_last(op: Operator, to: Writer) -> None:
    """The second axis last."""
    to.channels_last(op.input(0), op.output())


@TABLE.row("NHWC2NCHW", becomes="Transpose", note="needs the rank to be known")
def to_channels_first(op: Operator, to: Writer) -> None:
    """The last axis second."""
    x = op.input(0)
    rank = to.rank(x)
    to.transposed(x, [0, rank - 1, *range(1, rank - 1)], op.output())


@TABLE.row("ChannelShuffle", becomes="Reshape, Transpose, Reshape")
def channel_shuffle(op: Operator, to: Writer) -> None:
    """Channels in the order of their places within groups."""
    x, group = op.input(0), op.integer("group", 1)
    if is_channels_last(op):
        rank = to.rank(x)
        channels = to.shape(x, [rank - 1])[0]
        _check_groups(channels, group)
        split = to.reshaped(x, [0, -1, group, channels // group])
        turned = to.transposed(split, [0, 1, 3, 2])
    else:
        dims = to.dims(x)
        if dims is None or (channels_known := dims[1]) is None:
            to.shape(x)
            return
        _check_groups(channels_known, group)
        split = to.reshaped(x, [0, group, channels_known // group, -1])
        turned = to.transposed(split, [0, 2, 1, 3])
    to.shaped_like(turned, x, op.output())


def _check_groups(channels: int, group: int) -> None:
    if group < 1 or channels % group:
        raise Refused(f"its {channels} channels are not {group} groups")


@TABLE.row("MergeDim", becomes="Reshape", note="needs the shape behind the second axis")
def merge_dim(op: Operator, to: Writer) -> None:
    """The first two axes as one."""
    x = op.input(0)
    to.reshaped(x, [-1, *to.shape(x, range(2, to.rank(x)))], op.output())


@TABLE.row("PrependDim", becomes="Reshape", note="needs the shape behind the first axis")
def prepend_dim(op: Operator, to: Writer) -> None:
    """The first axis as two, the first of which has dim_size."""
    x, size = op.input(0), op.integer("dim_size")
    if size < 1:
        raise Refused(f"its argument dim_size is {size}")
    to.reshaped(x, [size, -1, *to.shape(x, range(1, to.rank(x)))], op.output())


@TABLE.row("Shape", becomes="Shape, Gather")
def shape(op: Operator, to: Writer) -> None:
    """The sizes of all axes, or of some."""
    axes = op.integers("axes")
    if not axes:
        to.node("Shape", [op.input(0)], op.output())
        return
    sizes = to.node("Shape", [op.input(0)])
    to.node("Gather", [sizes, to.constant(axes, np.int64)], op.output())


@TABLE.row("Size", becomes="Size")
def size(op: Operator, to: Writer) -> None:
    """The number of elements."""
    to.node("Size", [op.input(0)], op.output())
