"""What Caffe2's operators on images compute, written as loops over windows and places."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Pads = Sequence[tuple[int, int]]


def windows(
    image: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> dict[tuple[int, ...], Array]:
    """Cut the windows out of the last axes of a padded image, by their places."""
    count = len(kernel)
    sizes = image.shape[-count:]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    counts = [(n - r) // s + 1 for n, r, s in zip(sizes, reach, strides, strict=True)]
    found = {}
    for place in itertools.product(*map(range, counts)):
        cut = tuple(
            slice(p * s, p * s + r, d)
            for p, s, r, d in zip(place, strides, reach, dilations, strict=True)
        )
        index: tuple[Any, ...] = (..., *cut)
        found[place] = image[index]
    return found


def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    strides: Sequence[int] | None = None,
    pads: Pads | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
) -> Array:
    """A convolution of (n, c, ...) by (out, c / group, kernel...)."""
    count = w.ndim - 2
    strides, dilations = strides or [1] * count, dilations or [1] * count
    padded = np.pad(x, [(0, 0), (0, 0), *(pads or [(0, 0)] * count)])
    cut = windows(padded, w.shape[2:], strides, dilations)
    sizes = [max(p[i] for p in cut) + 1 for i in range(count)]
    y = np.zeros((x.shape[0], w.shape[0], *sizes))
    share, filters = x.shape[1] // group, w.shape[0] // group
    for place, window in cut.items():
        for n, o in itertools.product(range(x.shape[0]), range(w.shape[0])):
            start = o // filters * share
            y[(n, o, *place)] = (window[n, start : start + share] * w[o]).sum()
    if b is not None:
        y += b.reshape(-1, *[1] * count)
    return y.astype(np.float32)


def conv_transpose(
    x: Array, w: Array, strides: Sequence[int], pads: Pads, adj: Sequence[int], group: int = 1
) -> Array:
    """A transposed convolution of (n, c, h, w) by (c, out / group, kh, kw)."""
    n, c, height, width = x.shape
    filters, (kh, kw) = w.shape[1], w.shape[2:]
    full = [
        (size - 1) * s + k + max(a, 0)
        for size, s, k, a in zip(x.shape[2:], strides, (kh, kw), adj, strict=True)
    ]
    y = np.zeros((n, filters * group, *full))
    share = c // group
    for i, k, row, col in itertools.product(range(n), range(c), range(height), range(width)):
        first = k // share * filters
        top, left = row * strides[0], col * strides[1]
        y[i, first : first + filters, top : top + kh, left : left + kw] += x[i, k, row, col] * w[k]
    (top, bottom), (left, right) = pads
    return y[:, :, top : full[0] - bottom, left : full[1] - right].astype(np.float32)


def pool(
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Pads,
    reduce: Callable[..., Array] = np.nanmax,
    include: bool = False,
) -> Array:
    """Pool windows; pads are not numbers, which the reductions that are used leave out."""
    outside = 0.0 if include else np.nan
    padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=outside)
    cut = windows(padded, kernel, strides, [1] * len(kernel))
    sizes = [max(p[i] for p in cut) + 1 for i in range(len(kernel))]
    y = np.zeros((*x.shape[:2], *sizes), np.float32)
    axes = tuple(range(2, x.ndim))
    for place, window in cut.items():
        index: tuple[Any, ...] = (..., *place)
        y[index] = reduce(window, axis=axes)
    return y


def caffe_sizes(size: int, pad: int, kernel: int, stride: int) -> int:
    """Give how many windows Caffe has: it rounds up, and none starts behind the image."""
    count = int(np.ceil((size + 2 * pad - kernel) / stride)) + 1
    if pad and (count - 1) * stride >= size + pad:
        count -= 1
    return count


def lrn_scale(x: Array, size: int, alpha: float, bias: float) -> Array:
    """What LRN divides by, of (n, c, h, w)."""
    scale = np.full(x.shape, bias)
    for c, other in itertools.product(range(x.shape[1]), repeat=2):
        if abs(c - other) <= size // 2:
            scale[:, c] += alpha / size * x[:, other].astype(np.float64) ** 2
    return scale.astype(np.float32)


def bilinear(x: Array, heights: int, widths: int) -> Array:
    """Interpolate between the four nearest, the corners on the corners."""
    y = np.zeros((*x.shape[:2], heights, widths), np.float32)
    steps = [
        (n - 1) / (m - 1) if m > 1 else 0.0
        for n, m in zip(x.shape[2:], (heights, widths), strict=True)
    ]
    for i, j in itertools.product(range(heights), range(widths)):
        row, col = i * steps[0], j * steps[1]
        top, left = int(row), int(col)
        down, right = min(top + 1, x.shape[2] - 1), min(left + 1, x.shape[3] - 1)
        a, b = row - top, col - left
        y[:, :, i, j] = (1 - a) * ((1 - b) * x[:, :, top, left] + b * x[:, :, top, right]) + a * (
            (1 - b) * x[:, :, down, left] + b * x[:, :, down, right]
        )
    return y


def nearest(x: Array, heights: float, widths: float) -> Array:
    """Take each element from the nearest one before it."""
    rows = [min(int(i / heights), x.shape[2] - 1) for i in range(int(x.shape[2] * heights))]
    cols = [min(int(j / widths), x.shape[3] - 1) for j in range(int(x.shape[3] * widths))]
    return x[:, :, rows][:, :, :, cols]


def flat_softmax(x: Array, axis: int) -> Array:
    """Softmax over all axes from one on."""
    flat = x.reshape(int(np.prod(x.shape[:axis])), -1).astype(np.float64)
    powers = np.exp(flat - flat.max(1, keepdims=True))
    shares: Array = powers / powers.sum(1, keepdims=True)
    return shares.reshape(x.shape).astype(np.float32)


def last(x: Array) -> Array:
    """Put the second axis last."""
    return np.moveaxis(x, 1, -1)
