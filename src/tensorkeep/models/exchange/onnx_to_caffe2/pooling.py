"""Pools of windows and of whole planes, and images made larger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.models.exchange.onnx_to_caffe2.table import TABLE
from tensorkeep.models.exchange.onnx_to_caffe2.writer import FLOAT, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal
from tensorkeep.models.exchange.windows import windows_of


@TABLE.row("MaxPool", becomes="MaxPool", note="ceil_mode is more padding at the end")
@TABLE.row("AveragePool", becomes="AveragePool", note="likewise")
def _pool(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    if not 3 <= len(to.shape(node.input(0))) <= 5:
        raise Refused("Caffe2 pools one to three spatial axes")
    if to.is_used(node.output(1)):
        raise Refused("its indices are used, which Caffe2's MaxPool does not give")
    kernel = [int(length) for length in node.attributes["kernel_shape"]]
    out = to.shape(node.output())[2:]
    given = windows_of(node, to.shape(node.input(0))[2:], kernel)
    windows = given.fitted(out)
    if any(step != 1 for step in windows.dilations):
        raise Refused("it has dilations, which Caffe2's pools have not")
    counted = node.operator == "AveragePool" and node.attributes.get("count_include_pad", 0)
    extra = {}
    if counted and any(amount for pair in windows.padding for amount in pair):
        if windows != given:
            raise Refused("it has both ceil_mode and padding that counts (count_include_pad)")
        extra["count_include_pad"] = 1
    for length, pair in zip(kernel, windows.padding, strict=True):
        if max(pair) >= length:
            raise Refused(f"its padding {pair} is not smaller than its kernel {length}")
    if not windows.touch(out):
        raise Refused("one of its windows holds nothing but padding")
    heads, tails = zip(*windows.padding, strict=True)
    to.add(
        node.operator,
        [to.blob(node.input(0))],
        node.output(),
        kernels=kernel,
        strides=list(windows.strides),
        pads=[*heads, *tails],
        **extra,
    )


@TABLE.row("GlobalAveragePool", becomes="AveragePool", note="with global_pooling=1")
@TABLE.row("GlobalMaxPool", becomes="MaxPool", note="with global_pooling=1")
def _global_pool(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    if not 3 <= len(to.shape(node.input(0))) <= 5:
        raise Refused("Caffe2 pools one to three spatial axes")
    type = node.operator.removeprefix("Global")
    to.add(type, [to.blob(node.input(0))], node.output(), global_pooling=1)


@TABLE.row("Pad", becomes="PadImage", note="of the height and width of images")
def _pad(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    rank = len(to.shape(node.input(0)))
    mode = node.word("mode", "constant")
    if rank != 4 or mode not in ("constant", "reflect", "edge"):
        raise Refused(f"it pads {rank} axes by {mode}; Caffe2 pads images")
    if node.input(1):
        pads = to.model.integers(node.input(1), "pads")
    else:
        pads = [int(pad) for pad in _pads(node)]
    axes = to.model.axes(node, 3, rank) or list(range(rank))
    whole = [0] * (2 * rank)
    for place, axis in enumerate(axes):
        whole[axis], whole[axis + rank] = pads[place], pads[place + len(axes)]
    if any(whole[axis] or whole[axis + rank] for axis in (0, 1)) or min(whole) < 0:
        raise Refused("it pads the batch or the channels, or takes away")
    sizes = to.shape(node.input(0))
    if mode == "reflect" and any(
        pad >= sizes[axis % rank] for axis, pad in enumerate(whole) if axis % rank > 1
    ):
        raise Refused("it reflects more than there is")
    value = float(node.attributes.get("value", 0.0))
    if node.input(2):
        value = to.model.number(node.input(2), "the value")
    to.add(
        "PadImage",
        [to.blob(node.input(0))],
        node.output(),
        pads=[whole[2], whole[3], whole[6], whole[7]],
        mode=mode,
        value=value,
    )


@TABLE.row("Resize", becomes="ResizeNearest", note="where every pixel comes from the same place")
@TABLE.row("Upsample", becomes="ResizeNearest", note="likewise")
def _resize(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    size, out = to.shape(node.input(0)), to.shape(node.output())
    mode = node.word("mode", "nearest")
    if mode != "nearest":
        raise Refused(f"its mode is {mode!r}, and Caffe2's ResizeNearest has none")
    if len(size) != 4 or size[:2] != out[:2] or 0 in out:
        raise Refused("Caffe2 resizes the height and width of images")
    if max(out[2:]) > _MOST_PIXELS:
        raise Refused(f"what it makes has {max(out[2:]):,} pixels along an axis")
    policy = node.word("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        raise Refused(f"its sizes are {policy} than what is given")
    scales = [_scale(node, size[axis], out[axis], to, axis) for axis in (2, 3)]
    for axis, scale in zip((2, 3), scales, strict=True):
        made = int(np.float32(size[axis]) * np.float32(scale))
        if made != out[axis] or not np.array_equal(
            _taken(size[axis], out[axis], scale), _places(node, size[axis], out[axis], scale)
        ):
            raise Refused("it takes other pixels than Caffe2's ResizeNearest does")
    to.add(
        "ResizeNearest",
        [to.blob(node.input(0))],
        node.output(),
        height_scale=scales[0],
        width_scale=scales[1],
    )


def _scale(node: Node, size: int, out: int, to: Writer, axis: int) -> float:
    """Give how much larger an axis becomes, as the node says it."""
    given = node.input(1) if node.operator == "Upsample" or node.since < 11 else node.input(2)
    if "scales" in node.attributes:
        return float(node.attributes["scales"][axis])
    axes = [normal(int(each), 4) for each in node.attributes.get("axes", range(4))]
    if given and to.model.array(given, "scales").size and axis in axes:
        return float(to.model.array(given).reshape(-1)[axes.index(axis)])
    return out / size


def _taken(size: int, out: int, scale: float) -> npt.NDArray[Any]:
    """Give the pixel that each of the output is taken from, as Caffe2 has it."""
    places = np.arange(out, dtype=np.float32) / np.float32(scale)
    found: npt.NDArray[Any] = np.minimum(places.astype(int), size - 1)
    return found


def _places(node: Node, size: int, out: int, scale: float) -> npt.NDArray[Any]:
    """Give the pixel that each of the output is taken from, as ONNX has it."""
    at = np.arange(out, dtype=np.float64)
    old = node.operator == "Upsample" or node.since < 11
    way = "asymmetric" if old else node.word("coordinate_transformation_mode", "half_pixel")
    if way == "asymmetric":
        places = at / scale
    elif way == "pytorch_half_pixel" and out == 1:
        places = at * 0
    elif way in ("half_pixel", "pytorch_half_pixel"):
        places = (at + 0.5) / scale - 0.5
    else:
        raise Refused(f"its coordinates are {way}")
    rounding = "floor" if old else node.word("nearest_mode", "round_prefer_floor")
    found: npt.NDArray[Any] = np.clip(_ROUNDINGS[rounding](places), 0, size - 1).astype(int)
    return found


_MOST_PIXELS = 1 << 20  # along an axis
_ROUNDINGS: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda places: np.ceil(places - 0.5),
    "round_prefer_ceil": lambda places: np.floor(places + 0.5),
}


def _pads(node: Node) -> list[int]:
    """Read the attribute of older versions, which the first called paddings."""
    return list(node.attributes.get("pads") or node.attributes["paddings"])
