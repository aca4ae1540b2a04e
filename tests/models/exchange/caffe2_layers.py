"""What Caffe2's operators on the CPU compute, in NumPy: layers and images.

Written from what Caffe2 1.10 does, and as strict about types, arguments, ranks and sizes.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from tests.models.exchange.caffe2_operators import Array, Run, operator


def _windows(
    x: Array,
    kernels: list[int],
    strides: list[int],
    pads: list[int],
    dilations: list[int],
    fill: float,
) -> Any:
    """Give the windows over an image, the elements of each in the last axis."""
    count = x.ndim - 2
    assert len(kernels) == len(strides) == len(dilations) == count
    assert len(pads) == 2 * count
    assert min(pads) >= 0
    assert min(*kernels, *strides, *dilations) > 0
    assert x.size
    padding = [(0, 0), (0, 0), *zip(pads[:count], pads[count:], strict=True)]
    padded = np.pad(x, padding, constant_values=fill)
    sizes = tuple(
        (size - ((k - 1) * d + 1)) // s + 1
        for size, k, s, d in zip(padded.shape[2:], kernels, strides, dilations, strict=True)
    )
    assert min(sizes) > 0
    parts = []
    for place in itertools.product(*map(range, kernels)):
        cut = [slice(None)] * 2
        for p, n, s, d in zip(place, sizes, strides, dilations, strict=True):
            cut.append(slice(p * d, p * d + (n - 1) * s + 1, s))
        parts.append(padded[tuple(cut)])
    return np.stack(parts, -1)


@operator("Conv", inputs=2, most=3)
def conv(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    kernels: list[int],
    strides: list[int],
    pads: list[int],
    dilations: list[int],
    group: int = 1,
) -> Any:
    assert list(w.shape[2:]) == kernels
    assert x.shape[1] == w.shape[1] * group
    windows = _windows(x, kernels, strides, pads, dilations, 0)
    made = []
    for part, weights in zip(np.split(windows, group, 1), np.split(w, group, 0), strict=True):
        flat = weights.reshape(*weights.shape[:2], -1)
        made.append(np.moveaxis(np.tensordot(part, flat, axes=([1, -1], [1, 2])), -1, 1))
    y = np.concatenate(made, 1)
    if bias is not None:
        assert bias.shape == (w.shape[0],)
        y = y + bias.reshape(-1, *(1,) * (x.ndim - 2))
    return y.astype(np.float32)


@operator("ConvTranspose", inputs=2, most=3)
def conv_transpose(
    x: Array,
    w: Array,
    bias: Array | None = None,
    *,
    kernels: list[int],
    strides: list[int],
    pads: list[int],
    adjs: list[int],
    group: int = 1,
) -> Any:
    n, channels, height, width = x.shape
    assert w.ndim == 4
    assert w.shape[0] == channels
    assert list(w.shape[2:]) == kernels
    assert all(0 <= more <= step for more, step in zip(adjs, strides, strict=True))
    assert min(pads) >= 0
    each = w.shape[1]
    sides = zip(x.shape[2:], strides, kernels, adjs, strict=True)
    full = [(size - 1) * step + length + more for size, step, length, more in sides]
    y = np.zeros((n, each * group, *full), np.float64)
    for c, i, j in itertools.product(range(channels), range(height), range(width)):
        first = c // (channels // group) * each
        top, left = i * strides[0], j * strides[1]
        place = slice(top, top + kernels[0]), slice(left, left + kernels[1])
        y[:, first : first + each, place[0], place[1]] += x[:, c, i, j, None, None, None] * w[c]
    y = y[:, :, pads[0] : full[0] - pads[2], pads[1] : full[1] - pads[3]]
    if bias is not None:
        y = y + bias.reshape(-1, 1, 1)
    return y.astype(np.float32)


def _pool(compute: Run, fill: float) -> Run:
    def run(
        x: Array,
        kernels: list[int] | None = None,
        strides: list[int] | None = None,
        pads: list[int] | None = None,
        global_pooling: int = 0,
        count_include_pad: int = 0,
    ) -> Any:
        if global_pooling:
            assert kernels is strides is pads is None
            flat = x.reshape(*x.shape[:2], -1)
            return compute(flat, np.ones_like(flat), -1).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
        assert kernels
        assert strides
        assert pads
        assert len(kernels) <= 3
        count = len(kernels)
        for k, head, tail in zip(kernels, pads[:count], pads[count:], strict=True):
            assert head < k
            assert tail < k
        windows = _windows(x, kernels, strides, pads, [1] * count, fill)
        inside = np.ones_like(x)
        counted = _windows(inside, kernels, strides, pads, [1] * count, count_include_pad)
        return compute(windows, counted, -1).astype(np.float32)

    return run


operator("MaxPool")(_pool(lambda x, _, axis: x.max(axis), -np.inf))
operator("AveragePool")(_pool(lambda x, n, axis: x.sum(axis) / n.sum(axis), 0.0))


@operator("FC", inputs=3)
def fc(x: Array, w: Array, bias: Array, axis: int = 1, axis_w: int = 1) -> Any:
    x, w = x.reshape(math.prod(x.shape[:axis]), -1), w.reshape(math.prod(w.shape[:axis_w]), -1)
    assert bias.shape == (w.shape[0],)
    return x @ w.T + bias


@operator("MatMul", inputs=2)
def matmul(a: Array, b: Array, trans_a: int = 0, trans_b: int = 0) -> Any:
    assert a.ndim == b.ndim == 2
    return (a.T if trans_a else a) @ (b.T if trans_b else b)


@operator("BatchMatMul", inputs=2)
def batch_matmul(a: Array, b: Array, broadcast: int = 0) -> Any:
    assert broadcast or a.ndim == b.ndim >= 2
    inner = min(len(a.shape[:-2]), len(b.shape[:-2]))
    assert a.shape[:-2][::-1][:inner] == b.shape[:-2][::-1][:inner]
    return np.matmul(a, b).reshape(1) if a.ndim == b.ndim == 1 else np.matmul(a, b)


def _channels(values: Array, rank: int) -> Any:
    return values.reshape(-1, *(1,) * (rank - 2))


@operator("SpatialBN", inputs=5)
def spatial_bn(
    x: Array, scale: Array, b: Array, mean: Array, var: Array, is_test: int, epsilon: float = 1e-5
) -> Any:
    assert is_test == 1
    assert epsilon > 0
    assert x.ndim >= 2
    assert scale.shape == b.shape == mean.shape == var.shape == (x.shape[1],)
    s, o, m, v = (_channels(each, x.ndim) for each in (scale, b, mean, var))
    return (x - m) / np.sqrt(v + np.float32(epsilon)) * s + o


@operator("InstanceNorm", inputs=3)
def instance_norm(x: Array, scale: Array, b: Array, epsilon: float = 1e-5) -> Any:
    assert x.ndim == 4
    assert epsilon >= 0
    m, v = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    return (x - m) / np.sqrt(v + epsilon) * _channels(scale, 4) + _channels(b, 4)


@operator("GroupNorm", inputs=3)
def group_norm(x: Array, scale: Array, b: Array, group: int = 32, epsilon: float = 1e-5) -> Any:
    assert scale.size == b.size == x.shape[1]
    assert x.shape[1] % group == 0
    flat = x.reshape(x.shape[0], group, -1)
    m, v = flat.mean(-1, keepdims=True), flat.var(-1, keepdims=True)
    y = ((flat - m) / np.sqrt(v + epsilon)).reshape(x.shape)
    return y * _channels(scale, x.ndim) + _channels(b, x.ndim)


@operator("LRN", outputs=2)
def lrn(x: Array, size: int, alpha: float, beta: float, bias: float) -> Any:
    assert x.ndim == 4
    assert size % 2 == 1
    half = (size - 1) // 2
    squares = np.pad(x.astype(np.float64) ** 2, [(0, 0), (half, half), (0, 0), (0, 0)])
    summed = np.sum([squares[:, i : i + x.shape[1]] for i in range(size)], 0)
    scale = (bias + alpha / size * summed).astype(np.float32)
    return x * scale ** -np.float32(beta), scale


@operator("Softmax")
def softmax(x: Array, axis: int = 1) -> Any:
    assert 0 <= axis < x.ndim
    flat = x.reshape(math.prod(x.shape[:axis]), -1)
    raised = np.exp(flat - flat.max(1, keepdims=True))
    return (raised / raised.sum(1, keepdims=True)).reshape(x.shape)


@operator("PadImage")
def pad_image(x: Array, pads: list[int], mode: str = "constant", value: float = 0.0) -> Any:
    assert x.ndim == 4
    assert len(pads) == 4
    pairs = [(0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])]
    if mode == "constant":
        return np.pad(x, pairs, constant_values=value)
    for axis in (2, 3):
        size = x.shape[axis]
        at = np.arange(-pairs[axis][0], size + pairs[axis][1])
        if mode == "reflect":
            at = np.abs(at)
            at = np.minimum(at, 2 * size - at - 2)
        else:
            assert mode == "edge"
            at = np.clip(at, 0, size - 1)
        assert at.min() >= 0
        x = np.take(x, at, axis)
    return x


@operator("ResizeNearest")
def resize_nearest(x: Array, height_scale: np.float32, width_scale: np.float32) -> Any:
    assert x.ndim == 4
    for axis, scale in ((2, height_scale), (3, width_scale)):
        size = np.float32(x.shape[axis])
        at = (np.arange(int(size * scale), dtype=np.float32) / scale).astype(int)
        x = np.take(x, np.minimum(at, x.shape[axis] - 1), axis)
    return x
