"""What takes several elements to one, or chooses among them."""

from __future__ import annotations

from tensorkeep.models.exchange.onnx_to_caffe2.table import TABLE
from tensorkeep.models.exchange.onnx_to_caffe2.writer import FLOAT, INTEGERS, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal

_REDUCE = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2")


def _reduce(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    rank = len(to.shape(node.input(0)))
    axes = to.model.axes(node, 1, rank)
    if not axes:
        if node.attributes.get("noop_with_empty_axes", 0):
            alone = "Abs" if node.operator in ("ReduceL1", "ReduceL2") else "Copy"
            to.add(alone, [to.blob(node.input(0))], node.output())
            return
        axes = list(range(rank))
    if rank == 0:
        raise Refused("it reduces a number")
    keep = int(node.attributes.get("keepdims", 1))
    to.add(node.operator, [to.blob(node.input(0))], node.output(), axes=sorted(axes), keepdims=keep)


for _name in _REDUCE:
    TABLE.row(_name, becomes=_name)(_reduce)


@TABLE.row("ArgMax", becomes="ArgMax")
@TABLE.row("ArgMin", becomes="ArgMin")
def _arg(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT, *INTEGERS)
    if node.attributes.get("select_last_index", 0):
        raise Refused("it chooses the last of equal ones, and Caffe2 the first")
    axis = normal(int(node.attributes.get("axis", 0)), len(to.shape(node.input(0))))
    keep = int(node.attributes.get("keepdims", 1))
    to.add(node.operator, [to.blob(node.input(0))], node.output(), axis=axis, keepdims=keep)


@TABLE.row("TopK", becomes="TopK", note="the largest, sorted")
def _top(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    rank = len(to.shape(node.input(0)))
    axis = normal(int(node.attributes.get("axis", -1)), rank)
    if not node.attributes.get("largest", 1):
        raise Refused("it gives the smallest, and Caffe2's gives the largest")
    k = int(node.attributes["k"]) if "k" in node.attributes else 0
    if node.input(1):
        (k,) = to.model.integers(node.input(1), "k")
    outputs = [name or to.fresh("topk") for name in (node.output(0), node.output(1))]
    to.add("TopK", [to.blob(node.input(0))], outputs, k=k, axis=axis)
