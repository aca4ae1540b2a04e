"""Operations that lay elements out anew: reshape, transpose, squeeze, unsqueeze, tile, pad."""

from __future__ import annotations

import math

from tensorkeep.models.exchange.emitting import Shape
from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation, Value

_BEFORE_ALL = -(2**62)  # where a slice that runs backwards ends before the first element
_BORDERS = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}


@TABLE.row("reshape", becomes="Reshape", note="to a fixed shape")
def _reshape(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("input")
    start, count = reader.integer(op, "axis_start"), reader.integer(op, "axis_count")
    shape = reshaped(reader.shape(x), reader.integers(op, "shape"), start, count)
    axes = reader.to.constant(list(shape), "int64")
    reader.make(op, "Reshape", [reader.value(x), axes], shape, reader.type(x), allowzero=1)


def reshaped(given: Shape, wanted: list[int], start: int, count: int) -> Shape:
    """Give the shape once some axes are others: 0 keeps the size of an axis, -1 is what is left.

    Raises:
        Refused: it does not have as many elements.

    >>> reshaped((2, 3, 4, 5), [0, -1], 1, 3)
    (2, 3, 20)
    """
    if not 0 <= start <= len(given):
        raise Refused(f"has axis_start = {start} of {len(given)} axes")
    count = len(given) - start if count == -1 else count
    if not 0 <= count <= len(given) - start:
        raise Refused(f"has axis_count = {count} from {start} on, of {len(given)} axes")
    span, sizes = given[start : start + count], list(wanted)
    for axis, size in enumerate(sizes):
        if size < -1 or sizes.count(-1) > 1:
            raise Refused(f"has shape {wanted}, which is none")
        if size == 0:
            if axis >= len(span):
                raise Refused(f"has shape {wanted}, but axes {list(span)} to keep the size of")
            sizes[axis] = span[axis]
    whole, known = math.prod(span), math.prod(size for size in sizes if size != -1)
    if -1 in sizes and known and whole % known == 0:
        sizes[sizes.index(-1)] = whole // known
    if -1 in sizes or math.prod(sizes) != whole:
        raise Refused(f"makes axes {list(span)} into {wanted}, which has not as many elements")
    return (*given[:start], *sizes, *given[start + count :])


@TABLE.row("transpose", becomes="Transpose", note="axes that are not named stay at the end")
def _transpose(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("input")
    given, axes = reader.shape(x), reader.integers(op, "axes")
    if sorted(axes) != list(range(len(axes))) or len(axes) > len(given):
        raise Refused(f"has axes {axes}, which are no order of the first axes of {len(given)}")
    order = [*axes, *range(len(axes), len(given))]
    shape = tuple(given[axis] for axis in order)
    if not order:
        reader.make(op, "Identity", [reader.value(x)], shape, reader.type(x))
        return
    reader.make(op, "Transpose", [reader.value(x)], shape, reader.type(x), perm=order)


@TABLE.row("squeeze", becomes="Squeeze")
def _squeeze(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("input")
    given = reader.shape(x)
    axes = reader.axes(op, len(given))
    for axis in axes:
        if given[axis] != 1:
            raise Refused(f"takes away axis {axis}, whose size is {given[axis]}")
    shape = tuple(size for axis, size in enumerate(given) if axis not in axes)
    _axes_node(op, reader, "Squeeze", axes, shape)


@TABLE.row("unsqueeze", becomes="Unsqueeze")
def _unsqueeze(op: Operation, reader: Reader) -> None:
    given = list(reader.shape(op.arguments.get("input")))
    count = len(reader.integers(op, "axes"))
    axes = reader.axes(op, len(given) + count)
    if axes != sorted(axes):
        raise Refused(f"adds axes {axes}, which are not in order", "Sort them.")
    for axis in axes:
        given.insert(axis, 1)
    _axes_node(op, reader, "Unsqueeze", axes, tuple(given))


def _axes_node(op: Operation, reader: Reader, operator: str, axes: list[int], shape: Shape) -> None:
    x = op.arguments.get("input")
    value, dtype = reader.value(x), reader.type(x)
    if not axes:  # which ONNX's Squeeze takes for all
        reader.make(op, "Identity", [value], shape, dtype)
        return
    reader.make(op, operator, [value, reader.to.constant(axes, "int64")], shape, dtype)


@TABLE.row("tile", becomes="Tile")
def _tile(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("input")
    given = reader.shape(x)
    repeats = reader.integers(op, "repeats")
    if len(repeats) != len(given) or any(times < 1 for times in repeats):
        raise Refused(f"has repeats {repeats} of shape {list(given)}")
    shape = tuple(size * times for size, times in zip(given, repeats, strict=True))
    times = reader.to.constant(repeats, "int64")
    reader.make(op, "Tile", [reader.value(x), times], shape, reader.type(x))


@TABLE.row(
    "pad",
    becomes="Pad; Slice and Concat where it reflects the edge too (reflect-even)",
    note="not negative",
)
def _pad(op: Operation, reader: Reader) -> None:
    x = op.arguments.get("input")
    reader.common_number(x)
    given = reader.shape(x)
    padding = reader.pairs(op, "padding")
    border = reader.word(op, "border", *_BORDERS, "reflect-even")
    if len(padding) != len(given):
        raise Refused(f"has padding for {len(padding)} axes, where there are {len(given)}")
    fill = op.arguments.get("value") if border == "constant" else None
    value, shape = padded(reader, x, padding, border, fill)
    reader.give(reader.reference(op), value, shape, reader.type(x))


def padded(
    reader: Reader,
    argument: Value,
    padding: list[tuple[int, int]],
    border: str,
    fill: Value = None,
) -> tuple[str, Shape]:
    """Pad a tensor; gives the ONNX value and its shape.

    Args:
        reader: the document's.
        argument: a tensor.
        padding: before and after, for each axis.
        border: "constant", "reflect", "replicate" or "reflect-even".
        fill: the number that a constant border has; zero otherwise.

    Raises:
        Refused: it is negative, or reflects more than there is.
    """
    given, value = reader.shape(argument), reader.value(argument)
    room = {"reflect": 1, "reflect-even": 0}.get(border)
    for (before, after), size in zip(padding, given, strict=True):
        if min(before, after) < 0:
            raise Refused(f"pads by {(before, after)}, where it cannot be negative")
        if room is not None and max(before, after) > size - room:
            raise Refused(f"reflects {max(before, after)} of an axis of {size}")
    shape = tuple(b + size + a for (b, a), size in zip(padding, given, strict=True))
    if shape == given:
        return value, shape
    if border == "reflect-even":
        return _mirrored(reader, value, padding), shape
    sides = [pair[0] for pair in padding] + [pair[1] for pair in padding]
    pads = reader.to.constant(sides, "int64")
    number = None if fill is None else reader.value(fill, reader.type(argument))
    return reader.to.node("Pad", [value, pads, number], mode=_BORDERS[border]), shape


def _mirrored(reader: Reader, value: str, padding: list[tuple[int, int]]) -> str:
    """Pad each axis by its own elements, the outermost first."""
    to = reader.to
    for axis, (before, after) in enumerate(padding):
        pieces = [value]
        for count, first in ((before, before - 1), (after, -1)):
            if count:
                last = _BEFORE_ALL if first >= 0 else first - count
                rows = [[first], [last], [axis], [-1]]
                limits = [to.constant(row, "int64") for row in rows]
                piece = to.node("Slice", [value, *limits])
                pieces.insert(0 if first >= 0 else len(pieces), piece)
        if len(pieces) > 1:
            value = to.node("Concat", pieces, axis=axis)
    return value
