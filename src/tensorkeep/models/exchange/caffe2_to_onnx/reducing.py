"""Reductions along axes, and where the largest and smallest lie."""

from __future__ import annotations

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused

_MOST_AXES = 64


@TABLE.row(
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceProd",
    becomes="the same",
)
def reduce(op: Operator, to: Writer) -> None:
    """Over the axes of an argument, or over all of them."""
    op.refuse_more(1)
    x = op.input(0)
    if op.type == "ReduceMean" and to.types.get(x, "").startswith("int"):
        raise Refused("it is the mean of integers, which Caffe2 multiplies by 1/n rounded to 0")
    inputs = [x]
    if axes := [to.axis(x, axis) for axis in op.integers("axes")]:
        inputs.append(to.constant(axes, np.int64))
    to.node(op.type, inputs, op.output(), keepdims=int(op.flag("keepdims", True)))


def _register() -> None:
    for kind in ("Sum", "Mean", "Max", "Min"):
        for end in ("Front", "Back"):
            TABLE.row(f"Reduce{end}{kind}", becomes=f"Reduce{kind}")(_ends)


def _ends(op: Operator, to: Writer) -> None:
    """Over the first or the last axes."""
    op.refuse_more(1)  # a second one tells how many rows count
    end, kind = ("Front", op.type[11:]) if "Front" in op.type else ("Back", op.type[10:])
    count = op.integer("num_reduce_dim", 1)
    if not 1 <= count <= _MOST_AXES:
        raise Refused(f"its argument num_reduce_dim is {count}")
    axes = list(range(count)) if end == "Front" else list(range(-count, 0))
    inputs = [op.input(0), to.constant(axes, np.int64)]
    to.node(f"Reduce{kind}", inputs, op.output(), keepdims=0)


_register()


@TABLE.row("RowwiseMax", "ColwiseMax", becomes="ReduceMax")
def matrix_max(op: Operator, to: Writer) -> None:
    """The largest of each row, or of each column, of a batch of matrices."""
    axis = 2 if op.type == "RowwiseMax" else 1
    inputs = [op.input(0), to.constant([axis], np.int64)]
    to.node("ReduceMax", inputs, op.output(), keepdims=0)


@TABLE.row("SumElements", becomes="ReduceSum, ReduceMean")
def sum_elements(op: Operator, to: Writer) -> None:
    """The sum, or the mean, of all elements, as a scalar."""
    operator = "ReduceMean" if op.flag("average") else "ReduceSum"
    to.node(operator, [op.input(0)], op.output(), keepdims=0)


@TABLE.row("ArgMax", "ArgMin", becomes="the same")
def arg(op: Operator, to: Writer) -> None:
    """Where the largest or smallest lies along an axis; the first of several."""
    x = op.input(0)
    axis, keeps = to.axis(x, op.integer("axis", -1)), op.flag("keepdims", True)
    to.node(op.type, [x], op.output(), axis=axis, keepdims=int(keeps))


@TABLE.row("TopK", becomes="TopK", note="not with its third output")
def top_k(op: Operator, to: Writer) -> None:
    """The k largest along an axis, sorted, and where they lie."""
    op.refuse_more(2)
    op.refuse_outputs(2)
    if op.has_input(1):
        k = to.reshaped(to.node("Cast", [op.input(1)], to=7), [1])  # 7: INT64
    elif op.has("k"):
        k = to.constant([op.integer("k")], np.int64)
    else:
        raise Refused("it has no k")
    x, indices = op.input(0), op.output(1) if len(op.outputs) > 1 else ""
    axis, dims, most = to.axis(x, op.integer("axis", -1)), to.dims(x), to.array(k)
    if dims is not None and most is not None and most[0] > (size := dims[axis] or most[0]):
        raise Refused(f"its k is {most[0]}, and its axis has {size}; Caffe2 adds zeros")
    to.nodes("TopK", [x, k], [op.output(), indices], axis=axis)
