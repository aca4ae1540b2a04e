"""Sampling: taking one element of each window by its place in the window, and the reverse.

A place is counted in the window's own elements, the last axis fastest.
"""

from __future__ import annotations

import math

import numpy as np

from tensorkeep.models.exchange.nnef_to_onnx.chain import Chain
from tensorkeep.models.exchange.nnef_to_onnx.reader import INTEGERS, Reader
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.nnef_to_onnx.windows import (
    Window,
    bordered,
    check_made,
    unwindow_of,
    window_of,
)
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation, Value


@TABLE.row("sample", becomes="Gather, GatherElements")
def _sample(op: Operation, reader: Reader) -> None:
    given, index = op.arguments.get("input"), op.arguments.get("index")
    dtype = reader.common_number(given)
    shape = reader.shape(given)
    window = window_of(op, reader, _size(op, reader, len(shape)), shape)
    if reader.shape(index) != window.narrow:
        raise Refused(
            f"has an index of shape {list(reader.shape(index))}, where {list(window.narrow)} is "
            "expected"
        )
    chain = unfolded(Chain(reader.to, reader.value(given)), window, None)
    last = reader.to.constant([window.rank], "int64", "axes")
    place = reader.to.node("Unsqueeze", [_places(reader, index), last])
    chain.then("GatherElements", place, axis=window.rank).then("Squeeze", last)
    reader.give(reader.reference(op), chain.end(reader.result(op)), window.narrow, dtype)


@TABLE.row(
    "desample",
    "max_unpool",
    becomes="ScatterElements",
    note="border constant or ignore; what falls on one place is added up",
)
def _desample(op: Operation, reader: Reader) -> None:
    given, index = op.arguments.get("input"), op.arguments.get("index")
    dtype = reader.common_number(given)
    shape = reader.shape(given)
    if reader.shape(index) != shape:
        raise Refused(
            f"has an index of shape {list(reader.shape(index))}, where {list(shape)} is expected"
        )
    wanted = (
        reader.integers(op, "output_shape", len(shape)) if "output_shape" in op.arguments else []
    )
    window = unwindow_of(op, reader, _size(op, reader, len(shape)), shape, wanted)
    reached = [
        (narrow - 1) * stride + window.spread(axis)
        for axis, (narrow, stride) in enumerate(zip(window.narrow, window.strides, strict=True))
    ]
    places = _flat_places(reader, window, _places(reader, index), reached)
    to = reader.to
    zeros = to.node(
        "Expand", [to.constant(0, dtype), to.constant([math.prod(reached)], "int64", "shape")]
    )
    values = Chain(to, reader.value(given)).shaped([-1]).value
    chain = Chain(to, zeros)
    apart = all(each >= window.spread(axis) for axis, each in enumerate(window.strides))
    reduction = None if apart else "add"
    chain.then("ScatterElements", places, values, axis=0, reduction=reduction).shaped(reached)
    cut = [-before for before, _ in window.padding]
    rows = zip(window.wide, window.padding, reached, strict=True)
    cut += [wide + before - reach for wide, (before, _), reach in rows]
    if any(cut):
        chain.then("Pad", to.constant(cut, "int64", "pads"), mode="constant")
    reader.give(reader.reference(op), chain.end(reader.result(op)), window.wide, dtype)


def unfolded(chain: Chain, window: Window, fill: str | None) -> Chain:
    """Add what lays the elements of each window on an axis at the end of the tensor.

    Args:
        chain: gives the tensor.
        window: over all of its axes.
        fill: the constant that is beyond a constant or ignored border; zero if it is None.
    """
    bordered(chain, window, fill)
    window = window.unpadded()
    active = window.active()
    for axis in reversed(active):  # those behind it are where they were
        places = chain.to.constant(window.positions(axis), "int64", "places")
        chain.then("Gather", places, axis=axis)
    ahead = {axis: axis + sum(each < axis for each in active) for axis in range(window.rank)}
    chain.transposed([*ahead.values(), *[ahead[axis] + 1 for axis in active]])
    return chain.shaped([*window.narrow, window.volume])


def _flat_places(reader: Reader, window: Window, index: str, reached: list[int]) -> str:
    """Name where, in the flat result, each element goes."""
    to = reader.to
    total = ""
    for axis in range(window.rank):
        step = math.prod(reached[axis + 1 :])
        check_made(window.narrow[axis])
        starts = np.arange(window.narrow[axis], dtype=np.int64) * window.strides[axis] * step
        shape = [-1 if each == axis else 1 for each in range(window.rank)]
        if window.narrow[axis] > 1:
            start = to.constant(starts.reshape(shape))
            total = to.node("Add", [total, start]) if total else start
        if window.size[axis] > 1:
            chain = Chain(to, index)
            behind = math.prod(window.size[axis + 1 :])
            if behind > 1:
                chain.then("Div", to.constant(behind, "int64"))
            if window.size[axis] != window.volume // behind:
                chain.then("Mod", to.constant(window.size[axis], "int64"))
            if window.dilations[axis] * step > 1:
                chain.then("Mul", to.constant(window.dilations[axis] * step, "int64"))
            total = to.node("Add", [total, chain.value]) if total else chain.value
    shape_of_all = to.constant(list(window.narrow), "int64", "shape")
    total = to.node("Expand", [total or to.constant(0, "int64"), shape_of_all])
    return Chain(to, total).shaped([-1]).value


def _places(reader: Reader, index: Value) -> str:
    """Name an index as int64."""
    if reader.type(index) not in INTEGERS or reader.type(index) == "uint64":
        raise Refused(f"has an index of {reader.type(index)}, where integers are expected")
    return reader.value(index, "int64")


def _size(op: Operation, reader: Reader, rank: int) -> list[int]:
    size = reader.integers(op, "size")
    if len(size) != rank:
        raise Refused(f"has size = {size} for an input of {rank} axes")
    return size
