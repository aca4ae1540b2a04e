"""Pad: by NNEF's own where that says it, else by concat and gather."""

from __future__ import annotations

import math

import numpy as np

from tensorkeep.models.exchange.onnx_to_nnef.shaping import taken, zero
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import NUMBERS, Operand, Writer, literal
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal
from tensorkeep.wire.nnef.operations import Reference

_BORDERS = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}
_NUMPY = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
Pads = list[tuple[int, int]]


@TABLE.row(
    "Pad",
    becomes="pad",
    note="concat of what is no finite number; gather of integers, and to wrap; slice to cut off",
)
def _pad(node: Node, to: Writer) -> None:
    mode = node.word("mode", "constant")
    shape = to.shape(node.input(0))
    pads, value = _pads(node, to), to.tensor(node.input(0))
    if any(each < 0 for pair in pads for each in pair):
        if mode != "constant":
            raise Refused(f"it cuts off and fills up by {mode!r}, whose order ONNX does not say")
        value, pads = _cut(to, value, pads)
    if not any(map(any, pads)):
        to.alias(node.output(), value)
    elif mode == "constant":
        _fill(node, to, value, pads)
    elif mode not in _NUMPY:
        raise Refused(f"its mode is {mode!r}, which is none of ONNX's")
    elif mode == "reflect" and any(
        max(pair) >= size for pair, size in zip(pads, shape, strict=True)
    ):
        raise Refused("it reflects more than there is")
    elif mode in _BORDERS and to.model.type(node.input(0)) in NUMBERS:
        arguments = {"input": value, "padding": list(pads), "border": _BORDERS[mode]}
        to.emit("pad", arguments, node.output())
    else:
        _gather(node, to, value, pads, mode)


def _pads(node: Node, to: Writer) -> Pads:
    """Give the padding at both ends of each axis."""
    rank = to.model.rank(node.input(0))
    if node.input(1):
        flat = to.model.integers(node.input(1), "pads")
    else:
        flat = list(node.attributes.get("pads") or node.attributes.get("paddings") or [])
    axes = list(range(rank))
    if node.input(3):
        axes = [normal(axis, rank) for axis in to.model.integers(node.input(3), "axes")]
    pads = [(0, 0)] * rank
    count = len(axes)
    if len(flat) != 2 * count:
        raise Refused(f"it has {len(flat)} pads for {count} axes")
    for axis, begin, end in zip(axes, flat[:count], flat[count:], strict=True):
        pads[axis] = (begin, end)
    return pads


def _cut(to: Writer, value: Reference, pads: Pads) -> tuple[Reference, Pads]:
    """Cut off what negative pads say."""
    shape = to.shape_of(value)
    axes = [axis for axis, pair in enumerate(pads) if min(pair) < 0]
    begin = [max(-pads[axis][0], 0) for axis in axes]
    end = [shape[axis] - max(-pads[axis][1], 0) for axis in axes]
    if any(first >= last for first, last in zip(begin, end, strict=True)):
        raise Refused("it cuts off all there is")
    kept = list(shape)
    for axis, first, last in zip(axes, begin, end, strict=True):
        kept[axis] = last - first
    made = to.apply("slice", value, axes=axes, begin=begin, end=end, shape=kept)
    return made, [(max(before, 0), max(after, 0)) for before, after in pads]


def _fill(node: Node, to: Writer, value: Reference, pads: Pads) -> None:
    number = _filling(node, to)
    if isinstance(number, float) and to.model.type(node.input(0)) in NUMBERS:
        arguments = {"input": value, "padding": list(pads)}
        if number:
            arguments["value"] = number
        to.emit("pad", arguments, node.output())
        return
    axes = [axis for axis, pair in enumerate(pads) if any(pair)]
    for index, axis in enumerate(axes):
        output = node.output() if index == len(axes) - 1 else None
        value = _beside(to, value, axis, pads[axis], number, output)


def _filling(node: Node, to: Writer) -> Operand:
    """Give what it fills up with: a number where text can say it."""
    if not node.input(2):
        given = node.attributes.get("value")
        found = literal(np.asarray(given, np.float32)) if given is not None else zero(to, node)
        return found if found is not None else to.variable(np.array(given, np.float32), "filling")
    name = node.input(2)
    found = literal(to.model.constants[name].numpy()) if to.model.is_constant(name) else None
    return found if found is not None else to.tensor(name)


def _beside(
    to: Writer,
    value: Reference,
    axis: int,
    pair: tuple[int, int],
    number: Operand,
    output: str | None,
) -> Reference:
    """Put blocks of one number before and after a tensor."""
    shape = list(to.shape_of(value))
    values = [value]
    for size, place in zip(pair, (0, 1), strict=True):
        if size:
            block = [size if each == axis else extent for each, extent in enumerate(shape)]
            values.insert(place * len(values), _block(to, number, block, to.type_of(value)))
    shape[axis] += sum(pair)
    return to.emit("concat", {"values": values, "axis": axis}, output, shape=shape)


def _block(to: Writer, number: Operand, shape: list[int], kind: str) -> Reference:
    ones = [1] * len(shape)
    if isinstance(number, Reference):
        held = to.shape_of(number)
        one = number if list(held) == ones else to.reshape(number, ones)
    else:
        one = to.variable(np.full(ones, number, kind), "filling")
    if math.prod(shape) == 1:
        return one
    return to.emit("tile", {"input": one, "repeats": shape}, shape=shape)


def _gather(node: Node, to: Writer, value: Reference, pads: Pads, mode: str) -> None:
    axes = [axis for axis, pair in enumerate(pads) if any(pair)]
    for index, axis in enumerate(axes):
        to.affordable(to.shape_of(value)[axis] + sum(pads[axis]))
        places = np.arange(to.shape_of(value)[axis])
        wider = np.pad(places, pads[axis], mode=_NUMPY[mode])  # type: ignore[call-overload]
        output = node.output() if index == len(axes) - 1 else None
        value = taken(to, value, axis, wider.tolist(), output)
