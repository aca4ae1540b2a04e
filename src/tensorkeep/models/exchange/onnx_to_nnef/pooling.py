"""Pools: of windows, and of whole planes.

Padding of a maximum is never taken (`ignore`); of an average it counts as zeros (`constant`) or
does not count. What a window reaches beyond the padding, which ceil_mode brings, never counts.
"""

from __future__ import annotations

from typing import Any

from tensorkeep.models.exchange.onnx_to_nnef.locating import locate
from tensorkeep.models.exchange.onnx_to_nnef.operands import floats, is_used, number
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node
from tensorkeep.models.exchange.windows import Windows, windows_of
from tensorkeep.wire.nnef.operations import Reference


@TABLE.row(
    "MaxPool",
    becomes="max_pool",
    note="border 'ignore'; ceil_mode is more padding at the end; Indices of argmax_pool",
)
def _max_pool(node: Node, to: Writer) -> None:
    floats(to, node.input(0))
    windows = _windows(node, to).fitted(to.shape(node.output())[2:])
    _touching(windows, to.shape(node.output()))
    arguments = _arguments(to.tensor(node.input(0)), windows, "ignore")
    to.emit("max_pool", arguments, node.output())
    if is_used(to, node.output(1)):
        locate(node, to, arguments, windows)


@TABLE.row(
    "AveragePool",
    becomes="avg_pool",
    note="border 'constant' where count_include_pad is 1, else 'ignore'",
)
def _average_pool(node: Node, to: Writer) -> None:
    floats(to, node.input(0))
    x, given = to.tensor(node.input(0)), _windows(node, to)
    out = to.shape(node.output())
    windows = given.fitted(out[2:])
    if not node.attributes.get("count_include_pad", 0):
        _touching(windows, out)
        _pool(to, "avg_pool", x, windows, "ignore", output=node.output())
    elif windows == given:
        _pool(to, "avg_pool", x, windows, "constant", output=node.output())
    else:
        # The padding counts, but not what is beyond it: zeros are put in, so that it is inside.
        padding = [(0, 0), (0, 0), *given.padding]
        shape = [sum(pair) + size for pair, size in zip(padding, to.shape_of(x), strict=True)]
        padded = to.emit("pad", {"input": x, "padding": padding}, shape=shape)
        rest = [
            (0, after - before)
            for (_, before), (_, after) in zip(given.padding, windows.padding, strict=True)
        ]
        if any(after < 0 for _, after in rest):
            raise Refused("its ceil_mode gives fewer windows than there is padding for")
        within = Windows(
            tuple(shape[2:]), windows.kernel, windows.strides, windows.dilations, tuple(rest)
        )
        _touching(within, out)
        _pool(to, "avg_pool", padded, within, "ignore", output=node.output())
        to.report.add(
            "expanded", str(node), "ceil_mode with count_include_pad needs a pad of its own"
        )


@TABLE.row("LpPool", becomes="pow(box(pow(abs(x), p)), 1 / p)")
def _lp_pool(node: Node, to: Writer) -> None:
    floats(to, node.input(0))
    windows = _windows(node, to).fitted(to.shape(node.output())[2:])
    _touching(windows, to.shape(node.output()))
    power = _power(node)
    raised = _raised(to, to.tensor(node.input(0)), power)
    sums = _pool(to, "box", raised, windows, "constant", shape=to.shape(node.output()))
    _rooted(to, sums, power, node.output())


@TABLE.row("GlobalMaxPool", becomes="max_reduce")
def _global_max_pool(node: Node, to: Writer) -> None:
    to.emit("max_reduce", _planes(node, to), node.output())


@TABLE.row("GlobalAveragePool", becomes="mean_reduce")
def _global_average_pool(node: Node, to: Writer) -> None:
    to.emit("mean_reduce", _planes(node, to), node.output())


@TABLE.row("GlobalLpPool", becomes="pow(sum_reduce(pow(abs(x), p)), 1 / p)")
def _global_lp_pool(node: Node, to: Writer) -> None:
    planes, power = _planes(node, to), _power(node)
    raised = _raised(to, to.tensor(node.input(0)), power)
    shape = to.shape(node.output())
    sums = to.emit("sum_reduce", {**planes, "input": raised}, shape=shape)
    _rooted(to, sums, power, node.output())


def _windows(node: Node, to: Writer) -> Windows:
    kernel = [int(length) for length in node.attributes["kernel_shape"]]
    return windows_of(node, to.shape(node.input(0))[2:], kernel)


def _touching(windows: Windows, out: tuple[int, ...]) -> None:
    if not windows.touch(out[2:]):
        raise Refused("it has windows of nothing but padding, whose result is not defined")


def _pool(
    to: Writer,
    operation: str,
    x: Reference,
    windows: Windows,
    border: str,
    *,
    output: str | None = None,
    shape: tuple[int, ...] | None = None,
) -> Reference:
    return to.emit(operation, _arguments(x, windows, border), output, shape=shape)


def _arguments(x: Reference, windows: Windows, border: str) -> dict[str, Any]:
    found: dict[str, Any] = {"input": x, "size": [1, 1, *windows.kernel]}
    if border != "constant":
        found["border"] = border
    return {**found, **windows.arguments(leading=2)}


def _planes(node: Node, to: Writer) -> dict[str, object]:
    floats(to, node.input(0))
    rank = to.model.rank(node.input(0))
    if rank < 3:
        raise Refused(f"its input has {rank} axes, none of them spatial")
    return {"input": to.tensor(node.input(0)), "axes": list(range(2, rank))}


def _power(node: Node) -> float:
    power = number(float(node.attributes.get("p", 2)))
    if power <= 0:
        raise Refused(f"its p is {power:g}, which makes no norm")
    return power


def _raised(to: Writer, x: Reference, power: float) -> Reference:
    if power == 2:
        return to.apply("sqr", x)
    magnitude = to.apply("abs", x)
    return magnitude if power == 1 else to.apply("pow", magnitude, power)


def _rooted(to: Writer, sums: Reference, power: float, output: str) -> Reference:
    if power == 1:
        return to.apply("copy", sums, output=output)
    if power == 2:
        return to.apply("sqrt", sums, output=output)
    return to.apply("pow", sums, 1.0 / power, output=output)
