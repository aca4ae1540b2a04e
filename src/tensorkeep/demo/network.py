"""A small convolutional network in plain NumPy: convolution, max pooling and two dense layers.

Weights have the shapes and names that PyTorch and ONNX give them. Arrays are channels first:
(images, channels, height, width).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Weights = dict[str, Array]

_CHANNELS = 16
_KERNEL = 3
_POOLED = 4  # pixels along an edge after pooling
_HIDDEN = 512
_CLASSES = 10


def initial(rng: np.random.Generator) -> Weights:
    """Draw the weights to start from, scaled so that activations keep their size.

    >>> {name: array.shape for name, array in initial(np.random.default_rng(0)).items()
    ...     if name.endswith("weight")}
    {'conv.weight': (16, 1, 3, 3), 'hidden.weight': (512, 256), 'output.weight': (10, 512)}
    """
    shapes = {
        "conv": (_CHANNELS, 1, _KERNEL, _KERNEL),
        "hidden": (_HIDDEN, _CHANNELS * _POOLED**2),
        "output": (_CLASSES, _HIDDEN),
    }
    weights: Weights = {}
    for layer, shape in shapes.items():
        scale = np.sqrt(2 / np.prod(shape[1:]))
        weights[f"{layer}.weight"] = (scale * rng.standard_normal(shape)).astype(np.float32)
        weights[f"{layer}.bias"] = np.zeros(shape[0], np.float32)
    return weights


@dataclass(frozen=True, slots=True)
class _Pass:
    """What the layers gave on the way forward, which the way back needs."""

    patches: Array
    windows: Array
    chosen: Array
    pooled: Array
    hidden: Array
    scores: Array


def scores(weights: Weights, images: Array) -> Array:
    """Score every digit for every image, shape (count, 10); the largest is the answer."""
    return _forward(weights, images).scores


def accuracy(weights: Weights, images: Array, labels: Array) -> float:
    """Give the share of images whose digit is recognised."""
    return float(np.mean(scores(weights, images).argmax(axis=1) == labels))


def _forward(weights: Weights, images: Array) -> _Pass:
    count = len(images)
    patches = _patches(images)
    kernels = weights["conv.weight"].reshape(_CHANNELS, -1)
    maps = np.maximum(patches @ kernels.T + weights["conv.bias"], 0)
    windows = _windows(maps.reshape(count, 2 * _POOLED, 2 * _POOLED, _CHANNELS))
    chosen = windows.argmax(axis=-1, keepdims=True)
    pooled = np.take_along_axis(windows, chosen, axis=-1).reshape(count, -1)
    hidden = np.maximum(pooled @ weights["hidden.weight"].T + weights["hidden.bias"], 0)
    out = hidden @ weights["output.weight"].T + weights["output.bias"]
    return _Pass(patches, windows, chosen, pooled, hidden, out)


def loss_and_gradients(weights: Weights, images: Array, labels: Array) -> tuple[float, Weights]:
    """Give the mean cross-entropy and its derivative by every weight."""
    count = len(images)
    done = _forward(weights, images)
    shares = np.exp(done.scores - done.scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    rows = np.arange(count)
    loss = -float(np.mean(np.log(shares[rows, labels])))
    shares[rows, labels] -= 1
    by_scores = shares / count
    by_hidden = by_scores @ weights["output.weight"] * (done.hidden > 0)
    by_pooled = (by_hidden @ weights["hidden.weight"]).reshape(done.chosen.shape)
    by_windows = np.zeros_like(done.windows)
    np.put_along_axis(by_windows, done.chosen, by_pooled, axis=-1)
    by_maps = _unwindow(by_windows * (done.windows > 0)).reshape(-1, _CHANNELS)
    by_kernels = by_maps.T @ done.patches.reshape(len(by_maps), -1)
    return loss, {
        "conv.weight": by_kernels.reshape(weights["conv.weight"].shape),
        "conv.bias": by_maps.sum(axis=0),
        "hidden.weight": by_hidden.T @ done.pooled,
        "hidden.bias": by_hidden.sum(axis=0),
        "output.weight": by_scores.T @ done.hidden,
        "output.bias": by_scores.sum(axis=0),
    }


def _patches(images: Array) -> Array:
    """Give the 3 x 3 surroundings of every pixel, zeros outside: (count, pixels, 9)."""
    edge = _KERNEL // 2
    padded = np.pad(images, ((0, 0), (edge, edge), (edge, edge)))
    views = np.lib.stride_tricks.sliding_window_view(padded, (_KERNEL, _KERNEL), axis=(1, 2))
    return views.reshape(len(images), -1, _KERNEL**2)


def _windows(maps: Array) -> Array:
    """Cut maps (count, 8, 8, channels) into windows of 2 x 2: (count, channels, 4, 4, 4)."""
    blocks = maps.reshape(-1, _POOLED, 2, _POOLED, 2, _CHANNELS)
    return blocks.transpose(0, 5, 1, 3, 2, 4).reshape(-1, _CHANNELS, _POOLED, _POOLED, 4)


def _unwindow(windows: Array) -> Array:
    """Undo `_windows`."""
    blocks = windows.reshape(-1, _CHANNELS, _POOLED, _POOLED, 2, 2)
    return blocks.transpose(0, 2, 4, 3, 5, 1).reshape(-1, 2 * _POOLED, 2 * _POOLED, _CHANNELS)
