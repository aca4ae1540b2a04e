"""Convolutions: Conv and ConvTranspose, of any number of spatial axes."""

from __future__ import annotations

from typing import Any

from tensorkeep.models.exchange.onnx_to_nnef.operands import floats
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node
from tensorkeep.models.exchange.windows import Windows, windows_of


@TABLE.row("Conv", becomes="conv", note="auto_pad becomes explicit padding")
def _conv(node: Node, to: Writer) -> None:
    floats(to, *node.inputs[:3])
    x, filters = to.shape(node.input(0)), to.shape(node.input(1))
    groups = _groups(node, x, filters)
    if filters[0] % groups or filters[1] * groups != x[1]:
        raise Refused(f"its filter {filters} in {groups} groups does not fit an input of {x}")
    windows = windows_of(node, x[2:], filters[2:])
    arguments = {**_operands(node, to), **windows.arguments()}
    if groups != 1:
        arguments["groups"] = groups
    to.emit("conv", arguments, node.output())


@TABLE.row("ConvTranspose", becomes="deconv", note="output_padding becomes less padding at the end")
def _conv_transpose(node: Node, to: Writer) -> None:
    floats(to, *node.inputs[:3])
    x, filters = to.shape(node.input(0)), to.shape(node.input(1))
    groups = _groups(node, x, filters)
    if filters[0] != x[1] or x[1] % groups:
        raise Refused(f"its filter {filters} in {groups} groups does not fit an input of {x}")
    windows = windows_of(node, x[2:], filters[2:])
    pads, sizes = _transposed(node, windows)
    channels = filters[1] * groups
    if to.shape(node.output()) != (x[0], channels, *sizes):
        raise Refused(f"its output is {to.shape(node.output())}, not {(x[0], channels, *sizes)}")
    missing = [max(-after, 0) for _, after in pads]
    if any(lack >= stride for lack, stride in zip(missing, windows.strides, strict=True)):
        raise Refused(f"its output of {sizes} is larger than what its windows reach")
    arguments = {**_operands(node, to), **windows.arguments()}
    arguments["padding"] = [(before, max(after, 0)) for before, after in pads]
    if any(missing):
        arguments["output_shape"] = [x[0], channels, *sizes]
    if groups != 1:
        arguments["groups"] = groups
    to.emit("deconv", arguments, node.output())


def _transposed(node: Node, windows: Windows) -> tuple[list[tuple[int, int]], list[int]]:
    """Give the padding that leaves just the output, which may be less than none at the end."""
    rank = len(windows.size)
    more = [int(value) for value in node.attributes.get("output_padding", ()) or (0,) * rank]
    wanted = list(node.attributes.get("output_shape", ()))[-rank:]
    automatic = node.word("auto_pad", "NOTSET")
    if len(more) != rank or (wanted and len(wanted) != rank):
        raise Refused(f"output_padding or output_shape are not of {rank} spatial axes")
    pads, sizes = [], []
    for axis in range(rank):
        stride, spread = windows.strides[axis], windows.spread[axis]
        whole = (windows.size[axis] - 1) * stride + spread  # without any padding
        before, after = windows.padding[axis]
        if wanted or automatic.startswith("SAME"):
            out = int(wanted[axis]) if wanted else windows.size[axis] * stride
            total = max(whole + more[axis] - out, 0)
            before = total // 2 if automatic == "SAME_UPPER" else total - total // 2
        else:
            out = whole + more[axis] - before - after
        pads.append((before, whole - before - out))
        sizes.append(out)
    if any(before < 0 for before, _ in pads) or any(out < 1 for out in sizes):
        raise Refused(f"its output of {sizes} cannot be padded to")
    return pads, sizes


def _groups(node: Node, x: tuple[int, ...], filters: tuple[int, ...]) -> int:
    groups = int(node.attributes.get("group", 1))
    if len(x) < 3 or len(filters) != len(x) or groups < 1:
        raise Refused(f"its input {x}, filter {filters} and {groups} groups make no convolution")
    return groups


def _operands(node: Node, to: Writer) -> dict[str, Any]:
    """Refer to input, filter and bias, which NNEF wants as [1, channels]."""
    found: dict[str, Any] = {
        "input": to.tensor(node.input(0)),
        "filter": to.tensor(node.input(1)),
    }
    if node.input(2):
        found["bias"] = to.unsqueeze(to.tensor(node.input(2)), [0])
    return found
