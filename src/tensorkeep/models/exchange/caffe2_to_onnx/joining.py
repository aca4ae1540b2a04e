"""Joining tensors and taking them apart: Concat, Split."""

from __future__ import annotations

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused


def axis_of(op: Operator) -> int:
    """Give the axis of an argument, or that of the channels."""
    if op.has("axis"):
        return op.integer("axis")
    order = op.text("order", "NCHW")
    if order not in ("NCHW", "NHWC"):
        raise Refused(f"its argument order is {order!r}, and NCHW and NHWC are known")
    return 1 if order == "NCHW" else 3


@TABLE.row(
    "Concat",
    "DepthConcat",
    becomes="Concat",
    note="where the second output, the sizes, is used, they have to be known",
)
def concat(op: Operator, to: Writer) -> None:
    """Tensors behind one another along an axis, or along a new one."""
    adds, inputs = op.has("axis") and op.flag("add_axis"), op.inputs
    axis = to.axis(op.input(0), axis_of(op), int(adds))
    if adds:
        place = to.constant([axis], np.int64)
        inputs = [to.node("Unsqueeze", [x, place]) for x in inputs]
    to.node("Concat", inputs, op.output(), axis=axis)
    if op.wanted(1):
        sizes = [1 if adds else to.shape(x, [axis])[0] for x in op.inputs]
        to.node("Identity", [to.constant(sizes, np.int32)], op.output(1))


@TABLE.row("Split", "DepthSplit", becomes="Split")
def split(op: Operator, to: Writer) -> None:
    """Parts along an axis: equal ones, or those that an argument or a second input tells."""
    op.refuse_more(2)
    x, count = op.input(0), len(op.outputs)
    axis = to.axis(x, axis_of(op))
    sizes = op.integers("split")
    if op.has_input(1):
        sizes = to.integers(op.input(1), "its second input, the sizes of the parts,")
    if sizes and len(sizes) != count:
        raise Refused(f"it has {count} outputs, and {len(sizes)} sizes of parts")
    dims = to.dims(x)
    if dims is not None and (whole := dims[axis]) is not None:
        if sizes and sum(sizes) != whole:
            raise Refused(f"its parts have {sum(sizes)} elements, and its axis {whole}")
        if whole % count and not sizes:
            raise Refused(f"its axis has {whole} elements, which {count} outputs do not share")
    removes = op.has("axis") and op.flag("add_axis")
    outputs = [None] * count if removes else list(op.outputs)
    if sizes:
        made = to.nodes("Split", [x, to.constant(sizes, np.int64)], outputs, axis=axis)
    else:
        made = to.nodes("Split", [x], outputs, axis=axis, num_outputs=count)
    if removes:
        for part, output in zip(made, op.outputs, strict=True):
            to.node("Squeeze", [part, to.constant([axis], np.int64)], output)
