"""Pooling: sums, means and maxima of windows that slide over any axes of a tensor.

ONNX's pools slide over the axes after the first two, and ONNX Runtime's over three at most. A
window over other axes slides over a tensor that is laid out anew, and one over more of them over
three at a time, which gives the same: a maximum of maxima, a sum of sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tensorkeep.models.exchange.nnef_to_onnx.chain import Chain
from tensorkeep.models.exchange.nnef_to_onnx.convolution import spread_out
from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader
from tensorkeep.models.exchange.nnef_to_onnx.sampling import unfolded
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.nnef_to_onnx.windows import (
    Window,
    bordered,
    check_made,
    unwindow_of,
    window_of,
)
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation

_MOST_AXES = 3  # that a pool of ONNX Runtime slides over

Pool = Callable[[Chain, Window], object]


@TABLE.row("max_pool", becomes="MaxPool", note="over any axes; a border is a Pad")
def _max_pool(op: Operation, reader: Reader) -> None:
    chain, window, dtype = _start(op, reader)
    maximum(chain, window)
    reader.give(reader.reference(op), chain.end(reader.result(op)), window.narrow, dtype)


@TABLE.row("max_pool_with_index", becomes="MaxPool, ArgMax")
def _max_pool_with_index(op: Operation, reader: Reader) -> None:
    chain, window, dtype = _start(op, reader)
    maximum(chain, window)
    output = chain.end(reader.result(op, "output"))
    reader.give(reader.reference(op, "output"), output, window.narrow, dtype)
    _argmax(op, reader, "index")


@TABLE.row("argmax_pool", becomes="Gather, ArgMax", note="the first of equal ones")
def _argmax_pool(op: Operation, reader: Reader) -> None:
    _argmax(op, reader, "index")


@TABLE.row("box", becomes="AveragePool, Mul", note="over any axes")
def _box(op: Operation, reader: Reader) -> None:
    _boxed(op, reader, normalize=reader.flag(op, "normalize"))


@TABLE.row("avg_pool", becomes="AveragePool", note="over any axes")
def _avg_pool(op: Operation, reader: Reader) -> None:
    _boxed(op, reader, normalize=True)


@TABLE.row("rms_pool", becomes="Mul, AveragePool, Sqrt", note="over any axes")
def _rms_pool(op: Operation, reader: Reader) -> None:
    chain, window, dtype = _start(op, reader)
    chain.then("Mul", chain.value)
    total(chain, window, dtype, normalize=True)
    chain.then("Sqrt")
    reader.give(reader.reference(op), chain.end(reader.result(op)), window.narrow, dtype)


@TABLE.row("debox", becomes="ConvTranspose", note="border constant, or ignore without normalize")
def _debox(op: Operation, reader: Reader) -> None:
    _deboxed(op, reader, normalize=reader.flag(op, "normalize"))


@TABLE.row("avg_unpool", becomes="ConvTranspose", note="border constant")
def _avg_unpool(op: Operation, reader: Reader) -> None:
    _deboxed(op, reader, normalize=True)


def maximum(chain: Chain, window: Window) -> Chain:
    """Add what gives the maximum of each window."""
    if window.border != "ignore" or not _plain(window):
        fill = None
        if window.border == "ignore":
            fill = chain.to.constant(-np.inf, chain.to.types.get(chain.value, "float32"))
        bordered(chain, window, fill)
        window = window.unpadded()

    def pool(chain: Chain, part: Window) -> None:
        chain.then(
            "MaxPool",
            kernel_shape=list(part.size),
            strides=list(part.strides),
            dilations=list(part.dilations),
            pads=part.pads,
        )

    return _over(chain, window, pool)


def total(chain: Chain, window: Window, dtype: str, *, normalize: bool) -> Chain:
    """Add what gives the sum of each window, or its mean.

    The mean is over all of the window, or over what is not beyond an ignored border.
    """
    counted = window.border != "ignore"
    whole = window
    dilated = any(window.dilations[a] != 1 for a in window.active() if window.size[a] != 1)
    if window.border not in ("constant", "ignore") or not _plain(window) or dilated:
        bordered(chain, window)
        window = window.unpadded()

    def pool(chain: Chain, part: Window) -> None:
        chain.then(
            "AveragePool",
            kernel_shape=list(part.size),
            strides=list(part.strides),
            dilations=list(part.dilations) if dilated else None,
            pads=part.pads,
            count_include_pad=1 if counted or not normalize else 0,
        )

    _over(chain, window, pool)
    if not normalize and window.volume != 1:
        chain.then("Mul", chain.to.constant(window.volume, dtype))
    if normalize and not counted and window.padded != whole.padded:
        _recount(chain, whole, dtype)
    return chain


def _recount(chain: Chain, window: Window, dtype: str) -> None:
    """Have means over windows be those over what of them is not beyond the borders."""
    for axis in window.active():
        inside = window.inside(axis)
        if (inside == window.size[axis]).all():
            continue
        factors = window.size[axis] / inside
        shape = [-1 if each == axis else 1 for each in range(window.rank)]
        chain.then("Mul", chain.to.constant(factors.reshape(shape).astype(dtype)))


def _start(op: Operation, reader: Reader, *, sums: bool = False) -> tuple[Chain, Window, str]:
    """Give the input of a pool, its window, and its element type.

    Raises:
        Refused: there is nothing in a window, of which only a sum is defined.
    """
    given = op.arguments.get("input")
    dtype = reader.common_number(given)
    shape = reader.shape(given)
    size = reader.integers(op, "size")
    if len(size) != len(shape):
        raise Refused(f"has size = {size} for an input of shape {list(shape)}")
    window = window_of(op, reader, size, shape)
    ignored = window.border == "ignore" and window.padded and not sums
    if ignored and not all(window.inside(axis).all() for axis in window.active()):
        raise Refused("has windows that are all beyond an ignored border")
    value = reader.value(given)
    reader.to.types.setdefault(value, dtype)
    return Chain(reader.to, value), window, dtype


def _boxed(op: Operation, reader: Reader, *, normalize: bool) -> None:
    chain, window, dtype = _start(op, reader, sums=not normalize)
    total(chain, window, dtype, normalize=normalize)
    reader.give(reader.reference(op), chain.end(reader.result(op)), window.narrow, dtype)


def _argmax(op: Operation, reader: Reader, which: str) -> None:
    chain, window, dtype = _start(op, reader)
    fill = reader.to.constant(-np.inf, dtype) if window.border == "ignore" else None
    unfolded(chain, window, fill)
    chain.then("ArgMax", axis=window.rank, keepdims=0)
    value = chain.end(reader.result(op, which))
    reader.give(reader.reference(op, which), value, window.narrow, "int64")


def _deboxed(op: Operation, reader: Reader, *, normalize: bool) -> None:
    given = op.arguments.get("input")
    dtype = reader.common_number(given)
    shape = reader.shape(given)
    size = reader.integers(op, "size")
    if len(size) != len(shape):
        raise Refused(f"has size = {size} for an input of shape {list(shape)}")
    wanted = (
        reader.integers(op, "output_shape", len(shape)) if "output_shape" in op.arguments else []
    )
    window = unwindow_of(op, reader, size, shape, wanted)
    if normalize and window.border == "ignore":
        raise Refused(
            "divides what windows give by how much of them is not ignored, which NNEF leaves open",
            "Take border = 'constant', or divide it before.",
        )
    chain = Chain(reader.to, reader.value(given))

    def pool(chain: Chain, part: Window) -> None:
        check_made(part.volume)
        factor = 1 / part.volume if normalize else 1.0
        kernel = chain.to.constant(np.full((1, 1, *part.size), factor, dtype))
        spread_out(chain, part, kernel)

    _over(chain, window, pool, enlarging=True)
    reader.give(reader.reference(op), chain.end(reader.result(op)), window.wide, dtype)


def _over(chain: Chain, window: Window, pool: Pool, *, enlarging: bool = False) -> Chain:
    """Slide a window over its axes, as many at a time as a pool can.

    Args:
        chain: gives the tensor.
        window: over all of its axes.
        pool: adds what pools over the axes after the first two.
        enlarging: whether it makes the tensor larger.
    """
    active = window.active()
    rank = window.rank
    if not active:
        return chain
    if 3 <= rank <= 2 + _MOST_AXES and active[0] >= 2 and not enlarging:
        pool(chain, window.of(range(2, rank)))
        return chain
    before, after = (window.narrow, window.wide) if enlarging else (window.wide, window.narrow)
    sizes = list(before)
    for start in range(0, len(active), _MOST_AXES):
        axes = active[start : start + _MOST_AXES]
        others = [axis for axis in range(rank) if axis not in axes]
        order = [*others, *axes]
        chain.transposed(order)
        kept = [sizes[axis] for axis in others]
        chain.shaped([math.prod(kept), 1, *[sizes[axis] for axis in axes]])
        pool(chain, window.of(axes))
        for axis in axes:
            sizes[axis] = after[axis]
        chain.shaped([*kept, *[sizes[axis] for axis in axes]])
        chain.transposed([order.index(axis) for axis in range(rank)])
    return chain


def _plain(window: Window) -> bool:
    """Whether ONNX Runtime pools with the padding as it is: it takes less than the size."""
    rows = zip(window.padding, window.size, strict=True)
    return all(0 <= each < size for pair, size in rows for each in pair)
