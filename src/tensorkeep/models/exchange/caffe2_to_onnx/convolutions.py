"""Convolutions, and the arguments that they share with pooling.

Windows are given in three spellings: kernel, kernel_h with kernel_w, or kernels; strides, pads and
dilations likewise. The single and the paired ones mean two axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused

NOTSET, VALID, SAME, CAFFE = 0, 1, 2, 3  # caffe2_legacy.proto's LegacyPadding
_LARGEST = 1 << 31


@dataclass(slots=True)
class Windows:
    """How windows lie: pads are those at the heads of all axes, then those at their tails."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]
    legacy: int
    auto_pad: str | None = None

    @property
    def count(self) -> int:
        """The number of axes that they slide along."""
        return len(self.kernel)

    def attributes(self) -> dict[str, Any]:
        """Give the attributes of an ONNX node."""
        padding: dict[str, Any] = {"pads": self.pads}
        if self.auto_pad is not None:
            padding = {"auto_pad": self.auto_pad}
        return {"kernel_shape": self.kernel, "strides": self.strides, **padding}

    def settle(self, sizes: Sequence[int | None]) -> None:
        """Turn older ways to pad into pads, given the sizes of the axes as far as they are known.

        Raises:
            Refused: one needs a size that is not known.
        """
        if self.legacy in (NOTSET, VALID):
            return
        if any(step != 1 for step in self.dilations):
            raise Refused("it has both legacy_pad and a dilation")
        known = [size for size in sizes if size is not None]
        if self.legacy == SAME:
            if any(k < s for k, s in zip(self.kernel, self.strides, strict=True)):
                raise Refused("legacy_pad SAME has a kernel smaller than its stride")
            if len(known) < self.count:
                self.auto_pad = "SAME_UPPER"
                return
        elif len(known) < self.count:
            raise _SizesNeeded("legacy_pad 3 (Caffe's rounding up) needs the size of the image")
        for i, size in enumerate(known):
            head = self.pads[i]
            kernel, stride = self.kernel[i], self.strides[i]
            if self.legacy == SAME:
                needed = (-(-size // stride) - 1) * stride + kernel - size
                if needed < 0:
                    raise Refused("legacy_pad SAME takes away what it should add")
                self.pads[i], self.pads[self.count + i] = needed // 2, needed - needed // 2
            else:
                self.pads[self.count + i] = _tail(size, head, kernel, stride)


class _SizesNeeded(Refused):
    """Raised where legacy padding needs the size of the image."""


def _tail(size: int, pad: int, kernel: int, stride: int) -> int:
    """Give the padding that the last window needs where Caffe, which rounds up, has one more."""
    windows = -(-(size + 2 * pad - kernel) // stride) + 1
    if pad and (windows - 1) * stride >= size + pad:
        windows -= 1
    tail = max((windows - 1) * stride + kernel - size - pad, 0)
    if tail >= kernel:
        raise Refused("legacy_pad 3 has its last window outside of the image")
    return tail


def read_windows(op: Operator) -> Windows:
    """Read the arguments of a convolution or of pooling.

    Raises:
        Refused: they contradict one another.
    """
    kernel = _spelled(op, "kernel")
    legacy = op.integer("legacy_pad", NOTSET)
    if legacy not in (NOTSET, VALID, SAME, CAFFE):
        raise Refused(f"its argument legacy_pad is {legacy}, and 0 to 3 are known")
    pads = op.integers("pads")
    single = op.integer("pad") if op.has("pad") else None
    sides = [op.has(name) for name in ("pad_t", "pad_l", "pad_b", "pad_r")]
    if single is not None:
        pads = [*pads, *[single] * 4][:4]
    elif all(sides):
        pads = pads + [op.integer(name) for name in ("pad_t", "pad_l", "pad_b", "pad_r")]
    elif any(sides) and not pads:
        raise Refused("it has some of pad_t, pad_l, pad_b and pad_r, which Caffe2 then ignores")
    count = len(kernel) or 2
    strides = _spelled(op, "stride") or [1] * count
    dilations = _spelled(op, "dilation") or [1] * count
    if legacy in (VALID, SAME):
        if any(pads):
            raise Refused("it has both pads and a legacy_pad that sets them")
        pads = []
    pads = pads or [0] * (2 * count)
    if not len(strides) == len(dilations) == count or len(pads) != 2 * count:
        raise Refused(
            f"its kernel, strides, dilations and pads are {kernel}, {strides}, {dilations} and "
            f"{pads}, which do not fit together"
        )
    if any(not 0 < n < _LARGEST for n in (*kernel, *strides, *dilations)):
        raise Refused("a kernel, stride or dilation is not above zero")
    if any(not 0 <= n < _LARGEST for n in pads):
        raise Refused(f"its pads are {pads}, which are no sizes")
    return Windows(kernel, strides, dilations, pads, legacy)


def _spelled(op: Operator, name: str) -> list[int]:
    """Read sizes that are one number for both axes, one for each of two, or a list."""
    listed = op.integers(f"{name}s")
    if op.has(name):
        return [*listed, *[op.integer(name)] * 2][:2]  # the list counts where there are both
    if op.has(f"{name}_h") and op.has(f"{name}_w"):
        return [*listed, op.integer(f"{name}_h"), op.integer(f"{name}_w")]
    return listed


def spatial_sizes(x: str, count: int, to: Writer) -> Sequence[int | None]:
    """Give the sizes behind batch and channels, None for what is not known."""
    dims = to.dims(x)
    if dims is None:
        return [None] * count
    if len(dims) != count + 2:
        raise Refused(f"its windows have {count} axes, and its input has {len(dims)}")
    return dims[2:]


def settle(windows: Windows, x: str, to: Writer) -> None:
    """Turn older ways to pad into pads."""
    try:
        windows.settle(spatial_sizes(x, windows.count, to))
    except _SizesNeeded as refused:
        to.shape(x)  # which says how to give it
        raise Refused(refused.reason) from None


def is_channels_last(op: Operator) -> bool:
    """Whether the channels are the last axis.

    Raises:
        Refused: the argument order says neither.
    """
    order = op.text("order", "NCHW")
    if order not in ("NCHW", "NHWC"):
        raise Refused(f"its argument order is {order!r}, and NCHW and NHWC are known")
    return order == "NHWC"


def first(x: str, count: int, to: Writer) -> str:
    """Put channels that are last second, of a tensor with so many spatial axes."""
    return to.transposed(x, [0, count + 1, *range(1, count + 1)])


def last(x: str, count: int, output: str, to: Writer) -> None:
    """Put channels that are second last."""
    to.transposed(x, [0, *range(2, count + 2), 1], output)


@TABLE.row("Conv", "Conv1D", "Conv2D", "Conv3D", becomes="Conv", note="NHWC by Transpose nodes")
def conv(op: Operator, to: Writer) -> None:
    """A convolution; the filter is (out, in/group, kernel...), with NHWC (out, kernel..., in)."""
    op.refuse_more(3)
    windows = read_windows(op)
    if not windows.kernel:
        raise Refused("it has no kernel")
    count, channels_last = windows.count, is_channels_last(op)
    x, weights = op.input(0), op.input(1)
    if channels_last:
        x, weights = first(x, count, to), first(weights, count, to)
    settle(windows, x, to)
    filter_dims = to.dims(weights)
    if filter_dims is not None and (
        len(filter_dims) != count + 2
        or any(a not in (None, b) for a, b in zip(filter_dims[2:], windows.kernel, strict=False))
    ):
        raise Refused(f"its filter has the shape {filter_dims}, and its kernel is {windows.kernel}")
    inputs = [x, weights, *([op.input(2)] if op.has_input(2) else [])]
    made = to.node(
        "Conv",
        inputs,
        None if channels_last else op.output(),
        group=op.integer("group", 1),
        dilations=windows.dilations,
        **windows.attributes(),
    )
    if channels_last:
        last(made, count, op.output(), to)


@TABLE.row("ConvTranspose", becomes="ConvTranspose")
def conv_transpose(op: Operator, to: Writer) -> None:
    """A transposed convolution; the filter is (in, out/group, kernel...); adj pads the output."""
    op.refuse_more(3)
    windows = read_windows(op)
    if not windows.kernel or windows.legacy:
        raise Refused("it has a legacy_pad, or no kernel")
    if any(step != 1 for step in windows.dilations):
        raise Refused("it has a dilation, which Caffe2 does not use")
    count, channels_last = windows.count, is_channels_last(op)
    adjusted = _spelled(op, "adj") or [0] * count
    if len(adjusted) != count:
        raise Refused(f"its adj is {adjusted}, and its kernel {windows.kernel}")
    x, weights = op.input(0), op.input(1)
    if channels_last:
        x, weights = first(x, count, to), first(weights, count, to)
    spatial_sizes(x, count, to)
    inputs = [x, weights, *([op.input(2)] if op.has_input(2) else [])]
    made = to.node(
        "ConvTranspose",
        inputs,
        None if channels_last else op.output(),
        group=op.integer("group", 1),
        output_padding=adjusted if any(adjusted) else None,
        **windows.attributes(),
    )
    if channels_last:
        last(made, count, op.output(), to)
