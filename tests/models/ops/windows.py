"""References for what looks through windows: convolutions, pools and what undoes them."""

from __future__ import annotations

import itertools

import numpy as np
from tests.models.ops.feeds import Array


def windows(x: Array, kernel: int, stride: int) -> Array:
    """Give N, C, the output's axes, and the flattened window."""
    axes = tuple(range(2, x.ndim))
    seen = np.lib.stride_tricks.sliding_window_view(x, (kernel,) * len(axes), axes)
    picked = seen[(slice(None), slice(None), *[slice(None, None, stride)] * len(axes))]
    flat: Array = picked.reshape(*picked.shape[: x.ndim], -1)
    return flat


def conv(x: Array, w: Array, pad: int = 0) -> Array:
    padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    seen = windows(padded, w.shape[-1], 1)
    return np.asarray(np.einsum("nchwk,ock->nohw", seen, w.reshape(*w.shape[:2], -1)))


def conv_transpose(x: Array, w: Array, stride: int) -> Array:
    size, kernel = x.shape[-1], w.shape[-1]
    whole = np.zeros((x.shape[0], w.shape[1], *[(size - 1) * stride + kernel] * 2))
    for i, j in itertools.product(range(size), repeat=2):
        part = np.einsum("nc,cohw->nohw", x[:, :, i, j], w)
        whole[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel] += part
    return whole


def max_places(x: Array, kernel: int, stride: int) -> Array:
    """Give where the greatest of each window lies, counted within its image."""
    numbers = np.broadcast_to(np.arange(x[0, 0].size).reshape(x.shape[2:]), x.shape)
    best = windows(x, kernel, stride).argmax(-1)
    found: Array = np.take_along_axis(windows(numbers, kernel, stride), best[..., None], -1)[..., 0]
    return found


def max_pool_gradient(x: Array, gradient: Array, kernel: int) -> Array:
    places = max_places(x, kernel, 1)
    result = np.zeros(x.shape, np.float64).reshape(*x.shape[:2], -1)
    for n, c in np.ndindex(*x.shape[:2]):
        np.add.at(result[n, c], places[n, c].ravel(), gradient[n, c].ravel())
    return result.reshape(x.shape)
