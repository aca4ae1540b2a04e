"""Int8 operators of Caffe2, against loops over integers."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.arrays import floats
from tests.models.exchange.caffe2_nets import model, op, outputs_of, translated

import tensorkeep as tk
from tensorkeep.errors import TranslationError
from tensorkeep.message import Message
from tensorkeep.state import State

RANDOM = np.random.default_rng(11)
SCALE, ZERO = 0.05, 117
X = RANDOM.normal(size=(2, 6, 5, 4)).astype(np.float32) * 2
BYTES = np.clip(np.rint(X / np.float32(SCALE)) + ZERO, 0, 255).astype(np.uint8)
START = op("Int8Quantize", "data", "x", Y_scale=SCALE, Y_zero_point=ZERO)


def whole(*operators: Message, outputs: str, **weights: tuple[Any, float, int]) -> State:
    """Make a net that quantizes its input first, with Int8 weights: values, scale, zero point."""
    made = model(START, *operators, weights={k: v[0] for k, v in weights.items()}, outputs=outputs)
    details = {k: {"scale": scale, "zero_point": zero} for k, (_, scale, zero) in weights.items()}
    return made.replace(metadata={"caffe2": {"details": details}})


def quantized(values: Any, scale: float, zero: int, least: int = 0) -> Any:
    return np.clip(np.rint(values / scale) + zero, least, 255).astype(np.uint8)


def near(found: Any, expected: Any) -> None:
    """Compare bytes, which may be one step apart."""
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert int(np.abs(found.astype(int) - expected.astype(int)).max()) <= 1


def convolved(x: Any, w: Any, bias: Any, stride: int, pad: int) -> Any:
    """Sum up the integers of a convolution of channels that are last."""
    _, kh, kw, _ = w.shape
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    n, h, width = x.shape[:3]
    rows, cols = (h + 2 * pad - kh) // stride + 1, (width + 2 * pad - kw) // stride + 1
    made = np.zeros((n, rows, cols, len(w)), np.int64)
    for i, r, c, o in product(range(n), range(rows), range(cols), range(len(w))):
        window = padded[i, r * stride : r * stride + kh, c * stride : c * stride + kw]
        made[i, r, c, o] = (window * w[o]).sum() + bias[o]
    return made


def test_convolutions_and_products() -> None:
    w = RANDOM.integers(0, 256, (3, 3, 3, 4)).astype(np.uint8)
    b = RANDOM.integers(-3000, 3000, 3).astype(np.int32)
    f = RANDOM.integers(0, 256, (5, 120)).astype(np.uint8)
    g = RANDOM.integers(-3000, 3000, 5).astype(np.int32)
    state = whole(
        op("Int8Conv", "x w b", "c", kernel=3, pad=1, order="NHWC", Y_scale=1.1, Y_zero_point=99),
        op(
            "Int8ConvRelu",
            "x w b",
            "r",
            kernel=3,
            stride=2,
            order="NHWC",
            Y_scale=0.9,
            Y_zero_point=30,
        ),
        op("Int8FC", "x f g", "p", Y_scale=2.5, Y_zero_point=120),
        outputs="c r p",
        w=(w, 0.02, 131),
        b=(b, SCALE * 0.02, 0),
        f=(f, 0.03, 127),
        g=(g, 1.0, 0),  # which nothing reads
    )
    found = outputs_of(state, {"data": X}, {"data": X.shape})
    x, w, f = BYTES.astype(int) - ZERO, w.astype(int) - 131, f.astype(int) - 127
    near(found["c"], quantized(convolved(x, w, b, 1, 1) * (SCALE * 0.02), 1.1, 99))
    near(found["r"], quantized(convolved(x, w, b, 2, 0) * (SCALE * 0.02), 0.9, 30, least=30))
    near(found["p"], quantized((x.reshape(2, -1) @ f.T + g) * (SCALE * 0.03), 2.5, 120))


def test_elementwise() -> None:
    same: dict[str, Any] = {"Y_scale": SCALE, "Y_zero_point": ZERO}
    unit: dict[str, Any] = {"Y_scale": 1 / 256, "Y_zero_point": 0}
    state = whole(
        op("Int8LeakyRelu", "x", "leaky", alpha=0.2, Y_scale=0.03, Y_zero_point=60),
        op("Int8Relu", "x", "relu", **same),
        op("Int8Sigmoid", "x", "sigmoid", **unit),
        op("Int8Softmax", "x", "soft", **unit),
        op("Int8Add", "x leaky", "sum", Y_scale=0.08, Y_zero_point=110),
        op("Int8SumRelu", "x leaky", "sumrelu", Y_scale=0.08, Y_zero_point=20),
        op("Int8Dequantize", "x", "back"),
        outputs="leaky relu sigmoid soft sum sumrelu back x",
    )
    found = outputs_of(state, {"data": X}, {"data": X.shape})
    x = (BYTES.astype(int) - ZERO) * SCALE
    np.testing.assert_array_equal(found["x"], BYTES)
    np.testing.assert_allclose(found["back"], x, rtol=1e-6)
    near(found["leaky"], quantized(np.where(x > 0, x, x * 0.2), 0.03, 60))
    np.testing.assert_array_equal(found["relu"], np.maximum(BYTES, ZERO))
    near(found["sigmoid"], quantized(1 / (1 + np.exp(-x)), 1 / 256, 0))
    powers = np.exp(x.reshape(2, -1))
    soft = (powers / powers.sum(1, keepdims=True)).reshape(x.shape)
    near(found["soft"], quantized(soft, 1 / 256, 0))
    leaky = (found["leaky"].astype(int) - 60) * 0.03
    near(found["sum"], quantized(x + leaky, 0.08, 110))
    near(found["sumrelu"], quantized(x + leaky, 0.08, 20, least=20))


def test_pooling_and_what_moves_bytes() -> None:
    same: dict[str, Any] = {"Y_scale": SCALE, "Y_zero_point": ZERO}
    state = whole(
        op("Int8MaxPool", "x", "most", kernel=2, stride=2, pad=1, order="NHWC", **same),
        op("Int8MaxPoolRelu", "x", "mostrelu", kernel=2, order="NHWC", **same),
        op("Int8AveragePool", "x", "mean", kernel=2, stride=1, order="NHWC", **same),
        op("Int8AveragePool", "x", "all", global_pooling=1, order="NHWC", **same),
        op("Int8Concat", "x x", "cat", order="NHWC", **same),
        op("Int8Concat", "x x", "front", **same),
        op("Int8Reshape", "x", "shaped old", shape=[0, -1], **same),
        op("Int8Flatten", "x", "flat", axis=2, **same),
        op("Int8Transpose", "x", "turned", axes=[0, 3, 1, 2], **same),
        op("Int8Slice", "x", "cut", starts=[0, 1, 0, 0], ends=[-1, 3, -1, -2], **same),
        op("Int8Slice", "x", "part", dim=2, start_idx=1, end_idx=-1, **same),
        op("Int8ResizeNearest", "x", "big", height_scale=2.0, width_scale=1.5, **same),
        op("Int8ChannelShuffle", "x", "mixed", group=2, order="NHWC", **same),
        outputs="most mostrelu mean all cat front shaped flat turned cut part big mixed",
    )
    found = outputs_of(state, {"data": X}, {"data": X.shape})
    padded = np.pad(BYTES, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2, 2), (1, 2))[:, ::2, ::2]
    inner = np.lib.stride_tricks.sliding_window_view(BYTES, (2, 2), (1, 2)).astype(int)
    np.testing.assert_array_equal(found["most"], windows.max((-2, -1)))
    np.testing.assert_array_equal(found["mostrelu"], np.maximum(inner.max((-2, -1)), ZERO))
    near(found["mean"], (inner.sum((-2, -1)) + 2) // 4)
    near(found["all"], (BYTES.sum((1, 2), dtype=int, keepdims=True) + 15) // 30)
    rows, cols = np.arange(12) // 2, (np.arange(7) / 1.5).astype(int)
    expected = {
        "cat": np.concatenate([BYTES] * 2, 3),
        "front": np.concatenate([BYTES] * 2),
        "shaped": BYTES.reshape(2, -1),
        "flat": BYTES.reshape(12, -1),
        "turned": BYTES.transpose(0, 3, 1, 2),
        "cut": BYTES[:, 1:3, :, :-1],
        "part": BYTES[:, :, 1:],
        "big": BYTES[:, rows][:, :, cols],
        "mixed": BYTES.reshape(2, 6, 5, 2, 2).swapaxes(3, 4).reshape(BYTES.shape),
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_weights_that_the_net_itself_fills() -> None:
    fill = op("Int8GivenTensorFill", "", "w", shape=[2, 2], Y_scale=0.5, Y_zero_point=3)
    values = fill.add("arg", name="values")
    values["s"] = bytes([1, 3, 5, 255])
    state = model(fill, op("Int8Dequantize", "w", "y"), outputs="y")
    found = tk.run(translated(state)[0], {})
    np.testing.assert_array_equal(found["y"], floats([[-1, 0], [1, 126]]))


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        (op("Int8Relu", "x", "y"), "its Y_scale and Y_zero_point are 1 and 0, and those of its"),
        (op("Int8Softmax", "x", "y", Y_scale=0.1), "where Caffe2 wants 1/256 and 0"),
        (op("Int8MaxPool", "x", "y", kernel=2), "its argument order is not NHWC"),
        (
            op("Int8AveragePool", "x", "y", kernel=2, pad=1, order="NHWC"),
            "its pads are [1, 1, 1, 1], which releases of Caffe2 count differently",
        ),
        (op("Int8Dequantize", "data", "y"), "the scale and zero point of its input 'data' are"),
        (op("Int8Quantize", "data", "y", Y_scale=-1.0), "its scale is -1 and its zero point 0"),
        (op("Int8Quantize", "data", "y", Y_zero_point=300), "and its zero point 300"),
        (op("Int8ConvTranspose", "x x x", "y"), "there is no translation"),
    ],
)
def test_refusals(operator: Message, reason: str) -> None:
    with pytest.raises(TranslationError) as caught:
        translated(whole(operator, outputs="y"), {"data": (1, 2, 2, 1)})
    assert reason in str(caught.value)
