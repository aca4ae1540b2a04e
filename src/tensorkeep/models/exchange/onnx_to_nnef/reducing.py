"""Reductions: NNEF's keep the axes that they reduce, as ONNX's do unless keepdims is 0."""

from __future__ import annotations

import numpy as np

from tensorkeep.models.exchange.onnx_to_nnef.small_integers import SMALL
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import NUMBERS, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal
from tensorkeep.wire.nnef.operations import Reference

_EXACT = 1 << 24  # the count up to which every integer is a float32


class _Reduction:
    """A node that reduces: its operand, the axes, and how its result is given."""

    def __init__(self, node: Node, to: Writer) -> None:
        self.node, self.to = node, to
        shape = to.shape(node.input(0))
        axes = to.model.axes(node, 1, len(shape))
        empty = bool(node.attributes.get("noop_with_empty_axes", 0))
        if not axes:
            axes = [] if empty else list(range(len(shape)))
        self.axes = sorted(set(axes))
        self.keeps = bool(node.attributes.get("keepdims", 1))
        self.shape = [1 if axis in self.axes else size for axis, size in enumerate(shape)]
        self.squeezes = not self.keeps and bool(self.axes)

    def reduce(self, operation: str, value: Reference) -> Reference:
        """Reduce a value; over no axes it stays what it is."""
        if not self.axes:
            return value
        return self.to.apply(operation, value, axes=list(self.axes), shape=self.shape)

    def give(self, operation: str, value: Reference) -> None:
        """Reduce a value, which is the last thing to do but for dropping axes."""
        last = bool(self.axes) and not self.squeezes
        if last:
            self.to.apply(operation, value, axes=list(self.axes), output=self.node.output())
        else:
            self.finish(self.reduce(operation, value))

    def finish(self, value: Reference) -> None:
        """Drop the axes where the node does not keep them."""
        if self.squeezes:
            self.to.squeeze(value, self.axes, self.node.output())
        else:
            self.to.alias(self.node.output(), value)


def _operand(node: Node, to: Writer) -> Reference:
    to.need(node.input(0), *NUMBERS)
    return to.tensor(node.input(0))


_PLAIN = {"ReduceSum": "sum_reduce", "ReduceMean": "mean_reduce"}


def _plain(node: Node, to: Writer) -> None:
    _Reduction(node, to).give(_PLAIN[node.operator], _operand(node, to))


for _operator, _operation in _PLAIN.items():
    TABLE.row(_operator, becomes=_operation, note="squeeze where keepdims is 0")(_plain)


@TABLE.row("ReduceMax", becomes="max_reduce", note="any_reduce of logical values")
@TABLE.row("ReduceMin", becomes="min_reduce", note="all_reduce of logical values")
def _extreme(node: Node, to: Writer) -> None:
    reduction, kind = _Reduction(node, to), to.model.type(node.input(0))
    largest = node.operator == "ReduceMax"
    operation = "max_reduce" if largest else "min_reduce"
    if kind == "bool":
        made = "any_reduce" if largest else "all_reduce"
        reduction.give(made, to.tensor(node.input(0)))
    elif kind in SMALL:
        wide = to.cast(to.tensor(node.input(0)), "float32")
        reduction.finish(to.cast(reduction.reduce(operation, wide), kind))
    else:
        reduction.give(operation, _operand(node, to))


@TABLE.row("ReduceL1", becomes="abs, sum_reduce")
def _l1(node: Node, to: Writer) -> None:
    _Reduction(node, to).give("sum_reduce", to.apply("abs", _operand(node, to)))


@TABLE.row("ReduceSumSquare", becomes="sqr, sum_reduce")
def _sum_square(node: Node, to: Writer) -> None:
    _Reduction(node, to).give("sum_reduce", to.apply("sqr", _operand(node, to)))


@TABLE.row("ReduceL2", becomes="sqr, sum_reduce, sqrt")
def _l2(node: Node, to: Writer) -> None:
    reduction = _Reduction(node, to)
    total = reduction.reduce("sum_reduce", to.apply("sqr", _operand(node, to)))
    reduction.finish(to.apply("sqrt", total))


@TABLE.row("ReduceLogSum", becomes="sum_reduce, log")
def _log_sum(node: Node, to: Writer) -> None:
    reduction = _Reduction(node, to)
    reduction.finish(to.apply("log", reduction.reduce("sum_reduce", _operand(node, to))))


@TABLE.row("ReduceLogSumExp", becomes="max_reduce, sub, exp, sum_reduce, log, add")
def _log_sum_exp(node: Node, to: Writer) -> None:
    reduction, x = _Reduction(node, to), _operand(node, to)
    kind = np.dtype(to.model.type(node.input(0)))
    most = float(str(np.finfo(kind).max))
    # A largest value that is infinite would leave nothing but NaN.
    largest = to.apply("clamp", reduction.reduce("max_reduce", x), -most, most)
    risen = to.apply("exp", to.apply("sub", x, largest))
    total = to.apply("log", reduction.reduce("sum_reduce", risen))
    reduction.finish(to.apply("add", total, largest))


@TABLE.row("ReduceProd", becomes="slice, mul", note="halves multiplied until one is left")
def _product(node: Node, to: Writer) -> None:
    reduction, value = _Reduction(node, to), _operand(node, to)
    for axis in reduction.axes:
        value = _multiplied(to, value, axis)
    reduction.finish(value)


def _multiplied(to: Writer, value: Reference, axis: int) -> Reference:
    rest: list[Reference] = []
    while (size := to.shape_of(value)[axis]) > 1:
        half = size // 2
        if size % 2:
            rest.append(_part(to, value, axis, size - 1, size))
        first = _part(to, value, axis, 0, half)
        value = to.apply("mul", first, _part(to, value, axis, half, 2 * half))
    for other in rest:
        value = to.apply("mul", value, other)
    return value


def _part(to: Writer, value: Reference, axis: int, begin: int, end: int) -> Reference:
    shape = list(to.shape_of(value))
    shape[axis] = end - begin
    return to.apply("slice", value, axes=[axis], begin=[begin], end=[end], shape=shape)


@TABLE.row("ArgMax", becomes="argmax_reduce", note="the last one by gathering backward before")
@TABLE.row("ArgMin", becomes="argmin_reduce", note="the last one by gathering backward before")
def _arg_extreme(node: Node, to: Writer) -> None:
    kind, shape = to.model.type(node.input(0)), to.shape(node.input(0))
    to.need(node.input(0), *NUMBERS, *SMALL)
    axis = normal(node.attributes.get("axis", 0), len(shape))
    operation = "argmax_reduce" if node.operator == "ArgMax" else "argmin_reduce"
    value = to.tensor(node.input(0))
    if kind in SMALL:
        value = to.cast(value, "float32")
    kept = [1 if each == axis else size for each, size in enumerate(shape)]
    if not shape:
        value, kept = to.reshape(value, [1]), [1]
    last = bool(node.attributes.get("select_last_index", 0))
    if last:
        value = _reversed(to, value, axis)
    made = to.apply(operation, value, axes=[axis], shape=kept)
    if last:
        made = _counted_from_the_end(to, made, to.shape_of(value)[axis])
    if not shape:
        to.reshape(made, [], node.output())
    elif node.attributes.get("keepdims", 1):
        to.alias(node.output(), made)
    else:
        to.squeeze(made, [axis], node.output())


def _reversed(to: Writer, value: Reference, axis: int) -> Reference:
    size = to.shape_of(value)[axis]
    if size > _EXACT:
        raise Refused(f"it counts up to {size:,} from the end, more than scalars hold exactly")
    places = to.variable(np.arange(size - 1, -1, -1, dtype=np.int64), "reversed")
    return to.apply("gather", value, places, axis=axis, shape=to.shape_of(value))


def _counted_from_the_end(to: Writer, index: Reference, size: int) -> Reference:
    scalar = to.cast(index, "float32")
    return to.cast(to.apply("sub", float(size - 1), scalar), "int64")


@TABLE.row("CumSum", becomes="pad, slice, add", note="the axis has to be constant")
def _cumulative_sum(node: Node, to: Writer) -> None:
    axis = to.model.integers(node.input(1), "the axis")[0]
    _cumulated(node, to, axis, "add", 0.0)


@TABLE.row("CumProd", becomes="pad, slice, mul", note="the axis has to be constant")
def _cumulative_product(node: Node, to: Writer) -> None:
    axis = to.model.integers(node.input(1), "the axis")[0]
    _cumulated(node, to, axis, "mul", 1.0)


def _cumulated(node: Node, to: Writer, axis: int, operation: str, neutral: float) -> None:
    """Combine each with those 1, 2, 4, ... before it, which are combined already."""
    value, shape = _operand(node, to), to.shape(node.input(0))
    axis, backward = normal(axis, len(shape)), bool(node.attributes.get("reverse", 0))
    if node.attributes.get("exclusive", 0):
        value = _shifted(to, value, axis, 1, backward, neutral)
    step = 1
    while step < shape[axis]:
        value = to.apply(operation, value, _shifted(to, value, axis, step, backward, neutral))
        step *= 2
    to.alias(node.output(), value)


def _shifted(
    to: Writer, value: Reference, axis: int, step: int, backward: bool, neutral: float
) -> Reference:
    shape = to.shape_of(value)
    padding = [(0, 0)] * len(shape)
    padding[axis] = (0, step) if backward else (step, 0)
    longer = [*shape]
    longer[axis] += step
    padded = to.apply("pad", value, padding=padding, value=neutral, shape=longer)
    if backward:
        return _part(to, padded, axis, step, longer[axis])
    return _part(to, padded, axis, 0, shape[axis])
