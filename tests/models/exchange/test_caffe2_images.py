"""Operators of Caffe2 on images, against loops over windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import data, integers, lists
from tests.models.exchange.caffe2_nets import check, model, op, outputs_of, translated
from tests.models.exchange.caffe2_references import (
    bilinear,
    caffe_sizes,
    conv,
    conv_transpose,
    last,
    lrn_scale,
    nearest,
    pool,
)

from tensorkeep.errors import TranslationError

RANDOM = np.random.default_rng(7)
X = RANDOM.normal(size=(2, 4, 7, 6)).astype(np.float32)
LAST = np.ascontiguousarray(last(X))


def numbers(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


W, B = numbers(6, 4, 3, 2), numbers(6)
GROUPED = numbers(6, 2, 3, 3)


def test_convolutions_in_their_three_spellings() -> None:
    ops = [
        op("Conv", "x w b", "single", kernel_h=3, kernel_w=2, stride=2, pad=1),
        op("Conv", "x w", "sides", kernels=[3, 2], pad_t=1, pad_l=0, pad_b=2, pad_r=1),
        op("Conv", "x g b", "lists", kernel=3, group=2, strides=[2, 1], pads=[0, 1, 1, 2]),
        op("Conv2D", "x w", "dilated", kernels=[3, 2], dilation=2),
    ]
    expected = {
        "single": conv(X, W, B, [2, 2], [(1, 1), (1, 1)]),
        "sides": conv(X, W, None, None, [(1, 2), (0, 1)]),
        "lists": conv(X, GROUPED, B, [2, 1], [(0, 1), (1, 2)], group=2),
        "dilated": conv(X, W, dilations=[2, 2]),
    }
    check(model(*ops, weights={"w": W, "b": B, "g": GROUPED}), {"x": X}, expected)


def test_convolutions_of_channels_last() -> None:
    weights = {"w": np.ascontiguousarray(last(W)), "b": B, "t": np.ascontiguousarray(last(T))}
    ops = [
        op("Conv", "x w b", "y", kernels=[3, 2], pad=1, order="NHWC"),
        op("ConvTranspose", "x t", "z", kernels=[3, 2], stride=2, order="NHWC"),
        op("MaxPool", "x", "m", kernel=2, stride=2, order="NHWC"),
        op("AveragePool", "x", "a", global_pooling=1, order="NHWC"),
    ]
    whole = X.mean((2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    expected = {
        "y": last(conv(X, W, B, None, [(1, 1), (1, 1)])),
        "z": last(conv_transpose(X, T, [2, 2], [(0, 0), (0, 0)], [0, 0])),
        "m": last(pool(X, [2, 2], [2, 2], [(0, 0), (0, 0)])),
        "a": last(whole),
    }
    check(model(*ops, weights=weights), {"x": LAST}, expected)


def test_convolutions_along_one_and_three_axes() -> None:
    line, solid = numbers(1, 2, 9), numbers(1, 2, 4, 5, 6)
    w1, w3 = numbers(3, 2, 4), numbers(3, 2, 2, 3, 2)
    ops = [
        op("Conv1D", "line w1", "y1", kernels=[4], strides=[2], pads=[1, 2]),
        op("Conv3D", "solid w3", "y3", kernels=[2, 3, 2], pads=[0, 1, 0, 1, 1, 0]),
        op("MaxPool1D", "line", "m1", kernels=[3], strides=[2], pads=[1, 1]),
        op("AveragePool3D", "solid", "a3", kernels=[2, 2, 2], strides=[2, 2, 2]),
    ]
    expected = {
        "y1": conv(line, w1, None, [2], [(1, 2)]),
        "y3": conv(solid, w3, None, None, [(0, 1), (1, 1), (0, 0)]),
        "m1": pool(line, [3], [2], [(1, 1)]),
        "a3": pool(solid, [2, 2, 2], [2, 2, 2], [(0, 0)] * 3, np.nanmean),
    }
    check(model(*ops, weights={"w1": w1, "w3": w3}), {"line": line, "solid": solid}, expected)


T = numbers(4, 5, 3, 2)


def test_transposed_convolutions() -> None:
    grouped = numbers(4, 3, 2, 2)
    ops = [
        op("ConvTranspose", "x t", "y", kernels=[3, 2], strides=[2, 3], adj=1),
        op(
            "ConvTranspose",
            "x t",
            "p",
            kernels=[3, 2],
            stride=2,
            pad_t=1,
            pad_l=0,
            pad_b=2,
            pad_r=1,
        ),
        op("ConvTranspose", "x g", "q", kernel=2, stride=2, group=2, adjs=[0, 1]),
    ]
    expected = {
        "y": conv_transpose(X, T, [2, 3], [(0, 0), (0, 0)], [1, 1]),
        "p": conv_transpose(X, T, [2, 2], [(1, 2), (0, 1)], [0, 0]),
        "q": conv_transpose(X, grouped, [2, 2], [(0, 0), (0, 0)], [0, 1], 2),
    }
    check(model(*ops, weights={"t": T, "g": grouped}), {"x": X}, expected)


def test_pooling() -> None:
    ops = [
        op("MaxPool", "x", "most", kernel=3, stride=2, pad=1),
        op("AveragePool", "x", "mean", kernel=3, stride=2, pad=1),
        op("AveragePool", "x", "padded", kernel=3, stride=2, pad=1, count_include_pad=1),
        op("MaxPool", "x", "all", global_pooling=1, kernel=5),
        op("AveragePool", "x", "valid", kernel_h=3, kernel_w=2, stride=2, legacy_pad=1),
        op("MaxPool", "x", "sides", kernels=[2, 2], pad_t=0, pad_l=0, pad_b=1, pad_r=1, stride=2),
    ]
    ones = [(1, 1), (1, 1)]
    expected = {
        "most": pool(X, [3, 3], [2, 2], ones),
        "mean": pool(X, [3, 3], [2, 2], ones, np.nanmean),
        "padded": pool(X, [3, 3], [2, 2], ones, np.mean, include=True),
        "all": X.max((2, 3), keepdims=True),
        "valid": pool(X, [3, 2], [2, 2], [(0, 0), (0, 0)], np.nanmean),
        "sides": pool(X, [2, 2], [2, 2], [(0, 1), (0, 1)]),
    }
    check(model(*ops), {"x": X}, expected)


def test_legacy_pad_same_needs_no_sizes() -> None:
    ops = [
        op("MaxPool", "x", "most", kernel=3, stride=2, legacy_pad=2),
        op("AveragePool", "x", "mean", kernel=2, stride=1, legacy_pad=2),
        op("Conv", "x w", "y", kernels=[3, 2], stride=2, legacy_pad=2),
    ]
    expected = {
        "most": pool(X, [3, 3], [2, 2], [(1, 1), (0, 1)]),
        "mean": pool(X, [2, 2], [1, 1], [(0, 1), (0, 1)], np.nanmean),
        "y": conv(X, W, None, [2, 2], [(1, 1), (0, 0)]),
    }
    check(model(*ops, weights={"w": W}), {"x": X}, expected)


@pytest.mark.parametrize(
    ("size", "pad", "kernel", "stride"), [(7, 0, 2, 2), (6, 1, 3, 2), (5, 1, 2, 2), (8, 0, 3, 2)]
)
def test_legacy_pad_of_caffe_rounds_up(size: int, pad: int, kernel: int, stride: int) -> None:
    image = numbers(1, 2, size, size)
    arguments: dict[str, Any] = {"kernel": kernel, "stride": stride, "pad": pad, "legacy_pad": 3}
    ops = [op("MaxPool", "x", "m", **arguments), op("AveragePool", "x", "a", **arguments)]
    count = caffe_sizes(size, pad, kernel, stride)
    tail = max((count - 1) * stride + kernel - size - pad, 0)
    pads = [(pad, tail), (pad, tail)]
    expected = {
        "m": pool(image, [kernel] * 2, [stride] * 2, pads),
        "a": pool(image, [kernel] * 2, [stride] * 2, pads, np.nanmean),
    }
    check(model(*ops), {"x": image}, expected, needs="shape")


def test_legacy_pad_of_caffe_says_what_it_needs() -> None:
    state = model(op("MaxPool", "x", "m", "pool1", kernel=3, stride=2, legacy_pad=3))
    with pytest.raises(TranslationError) as caught:
        translated(state)
    assert "MaxPool at pool1: the shape of 'x' is needed" in str(caught.value)
    assert "--shape x=1,3,224,224" in str(caught.value)


@settings(max_examples=25, deadline=None)
@given(data())
def test_windows_of_any_size(draw: Any) -> None:
    def sizes(least: int, most: int) -> list[int]:
        drawn: list[int] = draw.draw(lists(integers(least, most), min_size=2, max_size=2))
        return drawn

    kernel, strides, image = sizes(1, 4), sizes(1, 3), sizes(4, 9)
    pads = [draw.draw(integers(0, k - 1)) for k in kernel * 2]
    both = [(pads[0], pads[2]), (pads[1], pads[3])]
    x, w = numbers(1, 2, *image), numbers(3, 2, *kernel)
    arguments: dict[str, Any] = {"kernels": kernel, "strides": strides, "pads": pads}
    ops = [
        op("Conv", "x w", "c", **arguments),
        op("MaxPool", "x", "m", **arguments),
        op("AveragePool", "x", "a", **arguments),
    ]
    found = outputs_of(model(*ops, weights={"w": w}), {"x": x}, {"x": x.shape})
    expected = {
        "c": conv(x, w, None, strides, both),
        "m": pool(x, kernel, strides, both),
        "a": pool(x, kernel, strides, both, np.nanmean),
    }
    for name, wanted in expected.items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-4, atol=1e-5, err_msg=name)


def test_lrn_gives_its_scale_too() -> None:
    ops = [
        op("LRN", "x", "y scale", size=3, alpha=0.5, beta=0.75, bias=2.0),
        op("LRN", "l", "z", size=5, alpha=0.25, beta=0.5, order="NHWC"),
    ]
    scale, other = lrn_scale(X, 3, 0.5, 2.0), lrn_scale(X, 5, 0.25, 1.0)
    expected = {"y": X * scale**-0.75, "scale": scale, "z": last(X * other**-0.5)}
    state = model(*ops, outputs="y scale z")
    check(state, {"x": X, "l": LAST}, expected, needs="rank")


def test_resizing() -> None:
    ops = [
        op("ResizeNearest", "x", "n", width_scale=1.5, height_scale=2.0),
        op("ResizeNearest", "l", "nl", width_scale=0.5, height_scale=1.3, order="NHWC"),
        op("UpsampleNearest", "x", "u", scale=3),
        op("ResizeNearest3D", "v", "w", temporal_scale=2.0, width_scale=1.5),
        op("UpsampleBilinear", "x", "b", width_scale=2.0, height_scale=1.5),
        op("ResizeNearest", "x s", "c"),
    ]
    expected = {
        "n": nearest(X, 2.0, 1.5),
        "nl": last(nearest(X, 1.3, 0.5)),
        "u": X.repeat(3, 2).repeat(3, 3),
        "w": nearest(X.reshape(8, 1, 7, 6), 1.0, 1.5).reshape(2, 4, 1, 7, 9).repeat(2, 2),
        "b": bilinear(X, 10, 12),
        "c": nearest(X, 2.0, 3.0),
    }
    state = model(*ops, weights={"s": np.array([2.0, 3.0], np.float32)})
    check(state, {"x": X, "l": LAST, "v": X.reshape(2, 4, 1, 7, 6)}, expected)


def test_padding() -> None:
    ops = [
        op("PadImage", "x", "c", pad=2, value=0.5),
        op("PadImage", "x", "r", pad_t=1, pad_l=2, pad_b=0, pad_r=3, mode="reflect"),
        op("PadImage", "l", "e", pad=1, mode="edge", order="NHWC"),
    ]
    expected = {
        "c": np.pad(X, [(0, 0), (0, 0), (2, 2), (2, 2)], constant_values=0.5),
        "r": np.pad(X, [(0, 0), (0, 0), (1, 0), (2, 3)], "reflect"),
        "e": np.pad(LAST, [(0, 0), (1, 1), (1, 1), (0, 0)], "edge"),
    }
    check(model(*ops), {"x": X, "l": LAST}, expected)


def test_channels() -> None:
    scale, bias = numbers(4), numbers(4)
    ops = [
        op("ChannelShuffle", "x", "s", group=2),
        op("ChannelShuffle", "l", "t", group=2, order="NHWC"),
        op("AffineChannel", "x scale bias", "a"),
        op("AffineChannel", "l scale bias", "b", order="NHWC"),
        op("NCHW2NHWC", "x", "c"),
        op("NHWC2NCHW", "l", "d"),
        op("PRelu", "x scale", "p"),
        op("PRelu", "l scale", "q", order="NHWC"),
    ]
    shuffled = X[:, [0, 2, 1, 3]]
    affine = X * scale.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)
    sloped = np.where(X > 0, X, X * scale.reshape(-1, 1, 1))
    expected = {"s": shuffled, "t": last(shuffled), "a": affine, "b": last(affine)}
    expected |= {"c": LAST, "d": X, "p": sloped, "q": last(sloped)}
    weights = {"scale": scale, "bias": bias}
    check(model(*ops, weights=weights), {"x": X, "l": LAST}, expected, needs="shape")


def test_normalizing_images() -> None:
    scale, bias, mean, variance = numbers(4), numbers(4), numbers(4), np.abs(numbers(4))
    parameters = {"s": scale, "b": bias, "m": mean, "v": variance}
    ops = [
        op("SpatialBN", "x s b m v", "bn", is_test=1, epsilon=1e-3),
        op("SpatialBN", "l s b m v", "bnl", is_test=1, order="NHWC"),
        op("InstanceNorm", "x s b", "i", epsilon=1e-4),
        op("InstanceNorm", "l s b", "il", order="NHWC"),
        op("GroupNorm", "x s b", "g", group=2),
        op("GroupNorm", "l s b", "gl", group=4, order="NHWC"),
    ]

    def normal(x: Any, axes: tuple[int, ...], epsilon: float) -> Any:
        wide = x.astype(np.float64)
        centered = wide - wide.mean(axes, keepdims=True)
        return centered / np.sqrt(wide.var(axes, keepdims=True) + epsilon)

    def affine(x: Any) -> Any:
        return (x * scale.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)).astype(np.float32)

    def batch(epsilon: float) -> Any:
        centered = X - mean.reshape(-1, 1, 1)
        return affine(centered / np.sqrt(variance + epsilon).reshape(-1, 1, 1))

    pairs = normal(X.reshape(2, 2, 2, 7, 6), (2, 3, 4), 1e-5).reshape(X.shape)
    singles = normal(X, (2, 3), 1e-5)
    expected = {"bn": batch(1e-3), "bnl": last(batch(1e-5))}
    expected |= {"i": affine(normal(X, (2, 3), 1e-4)), "il": last(affine(singles))}
    expected |= {"g": affine(pairs), "gl": last(affine(singles))}
    check(model(*ops, weights=parameters), {"x": X, "l": LAST}, expected, needs="rank")


def test_arguments_that_caffe2_overlooks() -> None:
    """A list before a single number; an order that an operator does not know."""
    ops = [
        op("MaxPool", "x", "pooled", kernel=5, kernels=[3, 2], pad=9, pads=[0] * 4),
        op("UpsampleNearest", "x", "larger", order="NHWC"),
        op("Concat", "x x", "joined", add_axis=1),
    ]
    expected = {
        "pooled": pool(X, [3, 2], [1, 1], [(0, 0), (0, 0)]),
        "larger": X.repeat(2, 2).repeat(2, 3),
        "joined": np.concatenate([X, X], 1),
    }
    check(model(*ops, outputs=" ".join(expected)), {"x": X}, expected)


def test_an_image_too_small_to_grow() -> None:
    """2 * 1.25 is 2, and the second element is at 1 / 1.25, which is in the first one."""
    x = X[:, :, :2, :3]
    scales: dict[str, Any] = {"height_scale": 1.25, "width_scale": 1.0}
    taken = np.ascontiguousarray(x[:, :, [0, 0]])
    ops = [op("ResizeNearest", "x", "y", **scales)]
    check(model(*ops, outputs="y"), {"x": x}, {"y": taken}, needs="shape")
    ops = [op("ResizeNearest", "x", "y", order="NHWC", **scales)]
    kept = np.ascontiguousarray(last(x))
    check(model(*ops, outputs="y"), {"x": kept}, {"y": last(taken)}, needs="shape")
