"""Reductions over axes, which keep the axes with a size of 1."""

from __future__ import annotations

from tensorkeep.models.exchange.emitting import Shape
from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation, Reference


@TABLE.row("sum_reduce", becomes="ReduceSum, or ReduceMean where it is normalized")
def _sum_reduce(op: Operation, reader: Reader) -> None:
    _reduce(op, reader, "ReduceMean" if reader.flag(op, "normalize") else "ReduceSum")


@TABLE.row("mean_reduce", becomes="ReduceMean")
def _mean_reduce(op: Operation, reader: Reader) -> None:
    _reduce(op, reader, "ReduceMean")


@TABLE.row("max_reduce", becomes="ReduceMax")
def _max_reduce(op: Operation, reader: Reader) -> None:
    _reduce(op, reader, "ReduceMax")


@TABLE.row("min_reduce", becomes="ReduceMin")
def _min_reduce(op: Operation, reader: Reader) -> None:
    _reduce(op, reader, "ReduceMin")


@TABLE.row("any_reduce", becomes="ReduceMax")
def _any_reduce(op: Operation, reader: Reader) -> None:
    _reduce_logical(op, reader, "ReduceMax")


@TABLE.row("all_reduce", becomes="ReduceMin")
def _all_reduce(op: Operation, reader: Reader) -> None:
    _reduce_logical(op, reader, "ReduceMin")


@TABLE.row("argmax_reduce", becomes="ArgMax", note="over one axis; the first of equal ones")
def _argmax_reduce(op: Operation, reader: Reader) -> None:
    _place(op, reader, "ArgMax")


@TABLE.row("argmin_reduce", becomes="ArgMin", note="over one axis; the first of equal ones")
def _argmin_reduce(op: Operation, reader: Reader) -> None:
    _place(op, reader, "ArgMin")


@TABLE.row("moments", becomes="ReduceMean, twice")
def _moments(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("input")
    value, dtype = reader.number(x), reader.type(x)
    axes, shape = _over(op, reader)
    to, over = reader.to, reader.to.constant(axes, "int64")
    empty = 1 if not axes else None
    mean = reader.make(
        op, "ReduceMean", [value, over], shape, dtype, keepdims=1, noop_with_empty_axes=empty
    )
    away = to.node("Sub", [value, mean])
    square = to.node("Mul", [away, away])
    reader.make(
        op,
        "ReduceMean",
        [square, over],
        shape,
        dtype,
        which=1,
        keepdims=1,
        noop_with_empty_axes=empty,
    )


def _reduce(op: Operation, reader: Reader, operator: str) -> None:
    x = op.arguments.get("input")
    _reduce_value(op, reader, operator, reader.number(x))


def _reduce_logical(op: Operation, reader: Reader, operator: str) -> None:
    x = op.arguments.get("input")
    _reduce_value(op, reader, operator, reader.logical(x))


def _reduce_value(op: Operation, reader: Reader, operator: str, value: str) -> None:
    axes, shape = _over(op, reader)
    dtype = reader.type(op.arguments.get("input"))
    if not axes:  # which ONNX takes for all of them
        reader.make(op, "Identity", [value], shape, dtype)
        return
    over = reader.to.constant(axes, "int64")
    reader.make(op, operator, [value, over], shape, dtype, keepdims=1)


def _place(op: Operation, reader: Reader, operator: str) -> None:
    x = op.arguments.get("input")
    value = reader.number(x)
    axes, shape = _over(op, reader)
    long = [axis for axis in axes if reader.shape(x)[axis] > 1] or axes[:1]
    if len(long) != 1:
        raise Refused(f"finds a place over axes {axes}, where ONNX does over one", "Reshape first.")
    reader.make(op, operator, [value], shape, "int64", axis=long[0], keepdims=1)


def _over(op: Operation, reader: Reader) -> tuple[list[int], Shape]:
    """Give the axes and the shape that is left."""
    x = op.arguments.get("input")
    if not isinstance(x, Reference):
        raise Refused("takes a number, which has no axes")
    shape = reader.shape(x)
    axes = sorted(reader.axes(op, len(shape)))
    return axes, tuple(1 if axis in axes else size for axis, size in enumerate(shape))
