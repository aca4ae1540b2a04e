"""Where maxima were: MaxPool's Indices, of NNEF's.

NNEF counts within the window, ONNX from the start of the tensor. Where a window begins, and how far
each of its elements is from there, is constant: the two are added, as scalars, which is exact as
long as the tensor has not more elements than float32 counts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node
from tensorkeep.models.exchange.windows import Windows

_EXACT = 1 << 24


def locate(node: Node, to: Writer, pool: dict[str, Any], windows: Windows) -> None:
    """Give MaxPool's second output; `pool` are the arguments of the first."""
    shape, out = to.shape(node.input(0)), to.shape(node.output())
    if math.prod(shape) > _EXACT:
        raise Refused(f"its Indices count {math.prod(shape):,} elements, NNEF's scalars to 2^24")
    steps = _steps(node, windows.size)
    within = to.emit("argmax_pool", pool, shape=out)
    table = to.variable(_offsets(windows, steps), f"{node.output()}_offsets")
    offset = to.emit("gather", {"input": table, "indices": within}, shape=out, type="float32")
    begin = to.variable(_begins(windows, steps, out[2:]), f"{node.output()}_windows")
    planes = np.arange(math.prod(shape[:2]), dtype=np.float32) * math.prod(shape[2:])
    starts = to.variable(planes.reshape(shape[:2]), f"{node.output()}_planes")
    made = to.apply("add", to.apply("add", offset, begin), starts)
    to.cast(made, "int64", node.output(1))
    text = "its Indices are computed from where the maxima are in their windows"
    to.report.add("expanded", str(node), text)


def _steps(node: Node, size: Sequence[int]) -> list[int]:
    """Give how far neighbours along each spatial axis are apart, as Indices count."""
    rows = [math.prod(size[axis + 1 :]) for axis in range(len(size))]
    if not node.attributes.get("storage_order", 0) or len(size) == 1:
        return rows
    if len(size) > 2:
        raise Refused("its Indices count columns first (storage_order is 1) of more than two axes")
    return [1, size[0]]


def _offsets(windows: Windows, steps: Sequence[int]) -> Any:
    """Give how far each element of a window is from its first one."""
    apart = [step * dilation for step, dilation in zip(steps, windows.dilations, strict=True)]
    taps = itertools.product(*map(range, windows.kernel))
    return np.array([np.dot(tap, apart) for tap in taps], np.float32)


def _begins(windows: Windows, steps: Sequence[int], out: Sequence[int]) -> Any:
    """Give where windows begin in their plane [1, 1, ...], before it where there is padding."""
    total = np.zeros((1,) * len(out), np.float32)
    for axis, length in enumerate(out):
        first = np.arange(length) * windows.strides[axis] - windows.padding[axis][0]
        along = [1] * len(out)
        along[axis] = length
        total = total + (first * steps[axis]).astype(np.float32).reshape(along)
    return total[np.newaxis, np.newaxis]
