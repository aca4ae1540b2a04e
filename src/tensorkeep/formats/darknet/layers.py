"""What arrays each layer of a Darknet network has, in the order of the file.

A layer's arrays depend on the channels that reach it, so that sizes are followed through all
layers. Facts: parser.c of Darknet, both of the original and of the fork that YOLOv4 comes from;
where the two differ (recurrent layers with gates), the layer is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from tensorkeep.errors import UnsupportedError
from tensorkeep.formats.darknet.config import Section

_MOST = 2**31 - 1

Shape = tuple[int, ...]
Rows = list[tuple[str, Shape]]


class Volume(NamedTuple):
    """What a layer gives on: height, width and channels."""

    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        """The numbers in it."""
        return math.prod(self)


class Layer(NamedTuple):
    """The arrays of a layer, and what it gives on."""

    rows: Rows
    out: Volume


def follow(sections: list[Section], *, biases: bool) -> list[Layer]:
    """Give the layers of a network.

    Args:
        sections: the network, then its layers.
        biases: whether the [batchnorm] layers have biases, as those of the fork do.

    Raises:
        CorruptError: an option makes no sense.
        UnsupportedError: a kind of layer that is not known, or not the same everywhere.
    """
    net, *rest = sections
    height, width = net.number("height", 0), net.number("width", 0)
    channels = net.number("channels", 0)
    volume = Volume(height, width, channels)
    if not volume.size:
        volume = Volume(1, 1, net.number("inputs", volume.size))
    layers: list[Layer] = []
    for section in rest:
        if section.kind == "batchnorm":
            layer = Layer(_norm(volume.channels, biases=biases), volume)
        elif section.kind in _SAME:
            layer = Layer([], volume)
        elif section.kind in _BY_KIND:
            layer = _BY_KIND[section.kind](section, volume, layers)
        else:
            raise _unsupported(section, "is not known here")
        if section.number("dontload", 0):
            layer = layer._replace(rows=[])
        layers.append(layer)
        volume = layer.out
        if max(volume) > _MOST:
            raise section.problem(f"gives on more than {_MOST:,} along an axis")
    return layers


def _unsupported(section: Section, text: str) -> UnsupportedError:
    return UnsupportedError(f"line {section.line}: [{section.kind}] {text}", where=section.where)


def _norm(channels: int, *, biases: bool) -> Rows:
    rows = [(name, (channels,)) for name in ("scale", "rolling_mean", "rolling_var")]
    return [("bias", (channels,)), *rows] if biases else list(rows)


def _with_norm(section: Section, channels: int) -> Rows:
    """Give scales, means and variances, if the layer has them."""
    if not section.number("batch_normalize", 0) or section.number("dontloadscales", 0):
        return []
    return _norm(channels, biases=False)


def _padding(section: Section, size: int) -> int:
    return size // 2 if section.number("pad", 0) else section.number("padding", 0)


def _slid(length: int, size: int, stride: int, padding: int) -> int:
    """Give in how many places a window of `size` is put along an axis."""
    return max(0, (length + padding - size) // stride + 1)


def _filters(section: Section, into: int, groups: int, filters: int, size: int) -> Rows:
    if into % groups or filters % groups:
        raise section.problem(f"divides {into} channels and {filters} filters by {groups} groups")
    weight = ("weight", (filters, into // groups, size, size))
    return [("bias", (filters,)), *_with_norm(section, filters), weight]


def _convolutional(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    if section.number("flipped", 0):
        raise _unsupported(section, "has flipped=1: its weights are transposed")
    filters, size = section.number("filters", 1, 1), section.number("size", 1, 1)
    stride = section.number("stride", 1, 1)
    across, down = section.number("stride_x", stride, 1), section.number("stride_y", stride, 1)
    padding = 2 * _padding(section, size)
    shared = section.number("share_index", -1, -1) != -1  # it has the weights of another layer
    rows = _filters(section, volume.channels, section.number("groups", 1, 1), filters, size)
    out = Volume(
        _slid(volume.height, size, down, padding),
        _slid(volume.width, size, across, padding),
        filters,
    )
    return Layer([] if shared else rows, out)


def _deconvolutional(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    filters, size = section.number("filters", 1, 1), section.number("size", 1, 1)
    stride, padding = section.number("stride", 1, 1), _padding(section, size)
    weight = ("weight", (volume.channels, filters, size, size))
    rows: Rows = [("bias", (filters,)), *_with_norm(section, filters), weight]
    height, width = (
        max(0, (length - 1) * stride + size - 2 * padding)
        for length in (volume.height, volume.width)
    )
    return Layer(rows, Volume(height, width, filters))


def _dense(section: Section, inputs: int, outputs: int, name: str = "") -> Rows:
    rows: Rows = [("bias", (outputs,)), ("weight", (outputs, inputs))]
    return [(name + row, shape) for row, shape in rows + _with_norm(section, outputs)]


def _connected(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    outputs = section.number("output", 1, 1)
    return Layer(_dense(section, volume.size, outputs), Volume(1, 1, outputs))


def _local(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    filters, size = section.number("filters", 1, 1), section.number("size", 1, 1)
    stride = section.number("stride", 1, 1)
    less = 1 if section.number("pad", 0) else size
    height, width = (
        max(0, (length - less) // stride + 1) for length in (volume.height, volume.width)
    )
    out = Volume(height, width, filters)
    weight = (height * width, filters, volume.channels, size, size)
    return Layer([("bias", (out.size,)), ("weight", weight)], out)


def _rnn(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    outputs = section.number("output", 1, 1)
    hidden = section.number("hidden", outputs, 1)
    rows = [
        *_dense(section, volume.size, hidden, "input."),
        *_dense(section, hidden, hidden, "self."),
        *_dense(section, hidden, outputs, "output."),
    ]
    return Layer(rows, Volume(1, 1, outputs))


def _maxpool(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    stride = section.number("stride", 1, 1)
    size = section.number("size", stride, 1)
    across, down = section.number("stride_x", stride, 1), section.number("stride_y", stride, 1)
    padding = section.number("padding", size - 1)
    deep = section.number("maxpool_depth", 0)
    out = Volume(
        _slid(volume.height, size, down, padding),
        _slid(volume.width, size, across, padding),
        section.number("out_channels", 1, 1) if deep else volume.channels,
    )
    return Layer([], volume._replace(channels=out.channels) if deep else out)


def _avgpool(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    return Layer([], Volume(1, 1, volume.channels))


def _upsample(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    stride = section.number("stride", 2, -64)
    if not stride:
        raise section.problem("has stride=0")
    height, width = (n * stride if stride > 0 else n // -stride for n in volume[:2])
    return Layer([], Volume(height, width, volume.channels))


def _reorg(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    stride = section.number("stride", 1, 1)
    height, width, channels = volume
    if section.number("reverse", 0):
        return Layer([], Volume(height * stride, width * stride, channels // stride**2))
    return Layer([], Volume(height // stride, width // stride, channels * stride**2))


def _crop(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    height, width = section.number("crop_height", 1, 1), section.number("crop_width", 1, 1)
    return Layer([], Volume(height, width, volume.channels))


def _of(section: Section, layers: list[Layer], index: int) -> Volume:
    """Give what an earlier layer gives on; a negative index counts from this one."""
    place = index + len(layers) if index < 0 else index
    if not 0 <= place < len(layers):
        raise section.problem(f"names layer {index}, of {len(layers)} before it")
    return layers[place].out


def _route(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    outs = [_of(section, layers, index) for index in section.numbers("layers")]
    groups = section.number("groups", 1, 1)
    channels = sum(out.channels // groups for out in outs)
    return Layer([], outs[0]._replace(channels=channels))


def _shortcut(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    others = [_of(section, layers, index) for index in section.numbers("from")]
    weights = section.options.get("weights_type", "none")
    each = {"none": 0, "per_feature": 1, "per_layer": 1, "per_channel": volume.channels}
    if weights not in each:
        raise section.problem(f"has weights_type={weights[:40]}")
    rows: Rows = [("weight", (len(others) + 1, each[weights]))]
    return Layer(rows if each[weights] else [], volume)


def _scale_channels(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    return Layer([], _of(section, layers, section.numbers("from")[0]))


def _refused(section: Section, volume: Volume, layers: list[Layer]) -> Layer:
    raise _unsupported(section, "has its arrays in another order in each version of Darknet")


# Layers without arrays that give on what they take.
_SAME = frozenset(
    {
        *("dropout", "cost", "softmax", "yolo", "gaussian_yolo", "region", "detection"),
        *("activation", "logistic", "logxent", "l2norm", "normalization", "iseg", "empty"),
        *("silence", "noise", "contrastive"),
    }
)

_BY_KIND: dict[str, Callable[[Section, Volume, list[Layer]], Layer]] = {
    "convolutional": _convolutional,
    "deconvolutional": _deconvolutional,
    "connected": _connected,
    "local": _local,
    "rnn": _rnn,
    "lstm": _refused,
    "gru": _refused,
    "maxpool": _maxpool,
    "avgpool": _avgpool,
    "upsample": _upsample,
    "reorg": _reorg,
    "reorg3d": _reorg,
    "crop": _crop,
    "route": _route,
    "shortcut": _shortcut,
    "scale_channels": _scale_channels,
    "sam": _scale_channels,
}
