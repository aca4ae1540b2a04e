"""Pooling by the largest or the mean, in windows or over the whole image."""

from __future__ import annotations

from tensorkeep.models.exchange.caffe2_to_onnx.convolutions import (
    first,
    is_channels_last,
    last,
    read_windows,
    settle,
)
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused


@TABLE.row(
    "MaxPool",
    "MaxPool1D",
    "MaxPool2D",
    "MaxPool3D",
    becomes="MaxPool, GlobalMaxPool",
    note="legacy_pad 3 needs the size of the image",
)
def max_pool(op: Operator, to: Writer) -> None:
    """The largest of each window; pads count as minus infinity."""
    _pool(op, to, "MaxPool")


@TABLE.row(
    "AveragePool",
    "AveragePool1D",
    "AveragePool2D",
    "AveragePool3D",
    becomes="AveragePool, GlobalAveragePool",
    note="legacy_pad 3 needs the size of the image",
)
def average_pool(op: Operator, to: Writer) -> None:
    """The mean of each window, of what is inside the image unless count_include_pad is 1."""
    _pool(op, to, "AveragePool")


def _pool(op: Operator, to: Writer, operator: str) -> None:
    op.refuse_more(1)
    op.refuse_outputs(1)
    x = op.input(0)
    channels_last = is_channels_last(op)
    whole = op.flag("global_pooling")
    if whole:
        for name in ("kernel", "kernel_h", "kernel_w", "kernels", "count_include_pad"):
            op.has(name)
        _refuse_windows(op)
        dims = to.dims(x)
        count = len(op.integers("kernels")) or (2 if dims is None else len(dims) - 2)
    else:
        windows = read_windows(op)
        if not windows.kernel:
            raise Refused("it has no kernel")
        if any(step != 1 for step in windows.dilations):
            raise Refused("it has a dilation, which pooling does not know")
        if any(pad >= windows.kernel[i % windows.count] for i, pad in enumerate(windows.pads)):
            raise Refused("a pad is not smaller than the kernel")
        count = windows.count
    if channels_last:
        x = first(x, count, to)
    output = None if channels_last else op.output()
    if whole:
        made = to.node(f"Global{operator}", [x], output)
    else:
        settle(windows, x, to)
        included = None
        if operator == "AveragePool":
            included = op.integer("count_include_pad", 0)
        made = to.node(operator, [x], output, count_include_pad=included, **windows.attributes())
    if channels_last:
        last(made, count, op.output(), to)


def _refuse_windows(op: Operator) -> None:
    """Refuse what global pooling cannot have, as Caffe2 does."""
    for name in ("stride", "stride_h", "stride_w", "dilation", "dilation_h", "dilation_w"):
        if op.has(name) and op.integer(name) != 1:
            raise Refused(f"it has global_pooling and {name}={op.integer(name)}")
    for name in ("pad", "pad_t", "pad_l", "pad_b", "pad_r", "legacy_pad"):
        if op.has(name) and op.integer(name):
            raise Refused(f"it has global_pooling and {name}={op.integer(name)}")
    if any(n != 1 for n in op.integers("strides") + op.integers("dilations")):
        raise Refused("it has global_pooling and strides or dilations")
    if any(op.integers("pads")):
        raise Refused("it has global_pooling and pads")
