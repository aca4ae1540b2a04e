"""Operations that take tensors apart and put them together: concat, split, slice, stack, gather."""

from __future__ import annotations

from tensorkeep.models.exchange.emitting import Shape
from tensorkeep.models.exchange.nnef_to_onnx.arguments import check_axis
from tensorkeep.models.exchange.nnef_to_onnx.reader import INTEGERS, Reader
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation, Reference, Value

_BEFORE_ALL = -(2**62)  # where a slice that runs backwards ends before the first element


@TABLE.row("concat", becomes="Concat")
def _concat(op: Operation, reader: Reader) -> None:
    values, first = _tensors(op, reader)
    axis = reader.axis(op, len(first))
    together = list(first)
    together[axis] = 0
    for value in values:
        shape = list(reader.shape(value))
        if len(shape) != len(first) or shape[:axis] + shape[axis + 1 :] != (
            together[:axis] + together[axis + 1 :]
        ):
            raise Refused(f"joins shapes {list(first)} and {shape} at axis {axis}")
        together[axis] += shape[axis]
    dtype = reader.common(*values)
    names = [reader.value(value, dtype) for value in values]
    reader.make(op, "Concat", names, together, dtype, axis=axis)


@TABLE.row("stack", becomes="Unsqueeze and Concat")
def _stack(op: Operation, reader: Reader) -> None:
    values, first = _tensors(op, reader)
    axis = check_axis(reader.integer(op, "axis"), len(first) + 1)
    if any(reader.shape(value) != first for value in values):
        raise Refused("stacks tensors of different shapes")
    dtype = reader.common(*values)
    axes = reader.to.constant([axis], "int64")
    rows = [reader.to.node("Unsqueeze", [reader.value(each, dtype), axes]) for each in values]
    shape = (*first[:axis], len(values), *first[axis:])
    reader.make(op, "Concat", rows, shape, dtype, axis=axis)


@TABLE.row("split", becomes="Split", note="its ratios become sizes")
def _split(op: Operation, reader: Reader) -> None:
    value = op.arguments.get("value")
    given = reader.shape(value)
    axis, ratios = reader.axis(op, len(given)), reader.integers(op, "ratios")
    if not ratios or min(ratios) < 1 or given[axis] % sum(ratios):
        raise Refused(f"splits {given[axis]} elements by ratios {ratios}")
    parts = reader.references(op)
    if len(parts) != len(ratios):
        raise Refused(f"gives {len(ratios)} parts to {len(parts)} tensors")
    unit = given[axis] // sum(ratios)
    sizes = [unit * ratio for ratio in ratios]
    names = [reader.name_of(part.name) for part in parts]
    inputs = [reader.value(value), reader.to.constant(sizes, "int64")]
    reader.to.nodes("Split", inputs, names, axis=axis)
    for part, name, size in zip(parts, names, sizes, strict=True):
        reader.give(part, name, (*given[:axis], size, *given[axis + 1 :]), reader.type(value))


@TABLE.row("unstack", becomes="Split and Squeeze")
def _unstack(op: Operation, reader: Reader) -> None:
    value = op.arguments.get("value")
    given = reader.shape(value)
    axis, parts = reader.axis(op, len(given)), reader.references(op)
    if len(parts) != given[axis]:
        raise Refused(f"gives {given[axis]} parts to {len(parts)} tensors")
    axes = reader.to.constant([axis], "int64")
    sizes = reader.to.constant([1] * len(parts), "int64")
    rows = reader.to.nodes("Split", [reader.value(value), sizes], [None] * len(parts), axis=axis)
    for part, row in zip(parts, rows, strict=True):
        name = reader.to.node("Squeeze", [row, axes], reader.name_of(part.name))
        reader.give(part, name, (*given[:axis], *given[axis + 1 :]), reader.type(value))


@TABLE.row("slice", becomes="Slice", note="end = 0 is the end where the stride is 1")
def _cut(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("input")
    given = reader.shape(x)
    axes = reader.axes(op, len(given))
    begin, end = reader.integers(op, "begin"), reader.integers(op, "end")
    stride = reader.integers(op, "stride", len(axes)) or [1] * len(axes)
    if len(begin) != len(axes) or len(end) != len(axes):
        raise Refused(f"has {len(begin)} begins and {len(end)} ends for {len(axes)} axes")
    shape = list(given)
    spans = []
    for axis, first, last, step in zip(axes, begin, end, stride, strict=True):
        first, last = span(given[axis], first, last, step)
        shape[axis] = len(range(first, last, step))
        # ONNX counts a negative end from the back; the one before the first is far below it.
        spans.append((first, last if last >= 0 else _BEFORE_ALL))
    value, dtype = reader.value(x), reader.type(x)
    if not axes:
        reader.make(op, "Identity", [value], shape, dtype)
        return
    rows = [[low for low, _ in spans], [high for _, high in spans], axes, stride]
    inputs = [value, *(reader.to.constant(row, "int64") for row in rows)]
    reader.make(op, "Slice", inputs, shape, dtype)


def span(size: int, first: int, last: int, step: int) -> tuple[int, int]:
    """Give where a slice of an axis begins and ends; -1 is before its first element.

    Raises:
        Refused: it is empty, or runs the wrong way.

    >>> span(5, 1, 0, 1), span(5, -1, -6, -1)
    ((1, 5), (4, -1))
    """
    if step == 0:
        raise Refused("has a stride of 0")
    if last == 0 and step > 1:
        raise Refused(
            f"has end = 0 with a stride of {step}, which readers take differently",
            f"Write end = {size}.",
        )
    if last == 0 and step == 1:
        last = size
    elif last < 0:
        last = max(last + size, -1)
    first = max(first + size, -1) if first < 0 else first
    first, last = min(first, size), min(last, size)
    low, high = (first, last) if step > 0 else (last + 1, first + 1)
    if not 0 <= low < high <= size:
        raise Refused(f"cuts {first} to {last} by {step} of an axis of {size}, which is nothing")
    return first, last


@TABLE.row("gather", becomes="Gather")
def _gather(op: Operation, reader: Reader) -> None:
    x, indices = op.arguments.get("input"), op.arguments.get("indices")
    given, places = reader.shape(x), reader.shape(indices)
    axis = reader.axis(op, len(given))
    if isinstance(indices, Reference):
        index = _indices(reader, indices)
    else:
        index = reader.value(indices, "int64")
    shape = (*given[:axis], *places, *given[axis + 1 :])
    reader.make(op, "Gather", [reader.value(x), index], shape, reader.type(x), axis=axis)


def _indices(reader: Reader, indices: Reference) -> str:
    dtype = reader.type(indices)
    if dtype not in INTEGERS or dtype == "uint64":
        raise Refused(f"has indices of {dtype}")
    return reader.value(indices, None if dtype == "int32" else "int64")


def _tensors(op: Operation, reader: Reader) -> tuple[list[Value], Shape]:
    values = reader.items(op, "values")
    if not values:
        raise Refused("joins no tensors")
    return values, reader.shape(values[0])
