"""What each example has to give, by NumPy alone, in double precision where that matters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tests.models.ops.feeds import Array, Feeds
from tests.models.ops.recurrent import gru, lstm, rnn, sigmoid
from tests.models.ops.windows import (
    conv,
    conv_transpose,
    max_places,
    max_pool_gradient,
    windows,
)

Reference = Callable[[Feeds], Sequence[Any]]

_erf = np.vectorize(math.erf)
INDICES = np.array([[2, 0, 1]])


def _x(make: Callable[[Array], Any]) -> Reference:
    return lambda given: [make(given["X"].astype(np.float64))]


def _ab(make: Callable[[Array, Array], Any]) -> Reference:
    return lambda given: [make(given["A"], given["B"])]


def _softmax(x: Array, axis: int = -1) -> Array:
    raised = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis, keepdims=True))


def _normal(x: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(
        (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    )


def _batch_norm(given: Feeds) -> Sequence[Array]:
    scale, b, mean, var = (given[n][:, None] for n in ("scale", "B", "mean", "var"))
    return [(given["X"] - mean) / np.sqrt(var + 1e-5) * scale + b]


def _put(given: Feeds, add: bool) -> Sequence[Array]:
    made = given["X"].copy()
    for column, row in enumerate(INDICES[0]):
        made[row, column] = given["U"][0, column] + (made[row, column] if add else 0)
    return [made]


def _attention(given: Feeds) -> Sequence[Array]:
    scores = given["Q"] @ given["K"].swapaxes(-1, -2) / np.sqrt(given["Q"].shape[-1])
    return [_softmax(scores) @ given["V"]]


def _dynamic_quantize(given: Feeds) -> Sequence[Array]:
    x = given["X"]
    low, high = min(0, x.min()), max(0, x.max())
    scale = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return [np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), scale, np.uint8(zero)]


def _quantized(x: Array, scale: float, zero: int) -> Array:
    rounded = np.rint(np.float32(x) / np.float32(scale)) + zero
    return np.asarray(np.clip(rounded, 0, 255), np.uint8)


def _whole(x: Array, scale: float, zero: int) -> Array:
    return np.asarray((x.astype(np.float32) - zero) * np.float32(scale))


def _q_linear(operation: Callable[[Array, Array], Array]) -> Reference:
    def run(given: Feeds) -> Sequence[Array]:
        made = operation(_whole(given["A"], 0.1, 120), _whole(given["B"], 0.05, 120))
        return [_quantized(made, 0.2, 120)]

    return run


def _unpool(given: Feeds) -> Sequence[Array]:
    made = np.zeros(16)
    made[[5, 7, 13, 15]] = given["X"].ravel()
    return [made.reshape(1, 1, 4, 4)]


def _scatter_rows(given: Feeds) -> Sequence[Array]:
    made = given["X"].copy()
    made[[3, 1]] = given["U"]
    return [made]


def _group_norm(given: Feeds) -> Sequence[Array]:
    x = given["X"].reshape(2, 2, 2, 3).astype(np.float64)
    made = _normal(x, (2, 3)).reshape(2, 4, 3)
    return [made * given["scale"][:, None] + given["B"][:, None]]


def _cross_entropy(given: Feeds) -> Sequence[Array]:
    log = np.log(_softmax(given["scores"].astype(np.float64)))
    return [-log[np.arange(3), given["labels"]].mean()]


def _divergence(given: Feeds) -> Sequence[Any]:
    t, log = given["target"].astype(np.float64), given["log_probability"]
    kept = t > 0
    return [(t[kept] * (np.log(t[kept]) - log[kept])).sum() / len(t)]


def _sigmoid_loss(given: Feeds) -> Sequence[Any]:
    p, t = sigmoid(given["logits"].astype(np.float64)), given["target"]
    return [-(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()]


def _smooth(given: Feeds) -> Sequence[Any]:
    d = np.abs(given["input"].astype(np.float64) - given["target"])
    return [np.where(d < 0.5, d * d, d - 0.25).mean()]


def _softmax_gradient(given: Feeds) -> Sequence[Array]:
    dy, y = given["dY"], given["Y"]
    return [np.stack([(np.diag(r) - np.outer(r, r)) @ d for d, r in zip(dy, y, strict=True)])]


def _log_softmax_gradient(given: Feeds) -> Sequence[Array]:
    pairs = zip(given["dY"], np.exp(given["Y"]), strict=True)
    return [np.stack([d - p * d.sum() for d, p in pairs])]


def _decompress(given: Feeds) -> Sequence[Array]:
    made = np.zeros((2, 4))
    made[given["condition"]] = given["values"]
    return [made]


def _quantized_lstm(given: Feeds) -> Sequence[Array]:
    plain = {name: given[name] for name in ("X", "B")}
    for name in ("W", "R"):
        plain[name] = given[name].swapaxes(1, 2).astype(np.float64) * 0.01
    return lstm(plain)[:1]


def _argmax(given: Feeds) -> Sequence[Array]:
    x = given["X"]
    places = max_places(x, 2, 2)
    channels = np.arange(3)[:, None, None]
    return [windows(x, 2, 2).max(-1), places * 3 + channels]


def _padded_transpose(given: Feeds) -> Sequence[Array]:
    top, left, bottom, right = given["pads"]
    whole = conv_transpose(given["X"], given["W"], 2)
    return [whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]]


def _instance_gradient(given: Feeds) -> Sequence[Array]:
    """Differentiate numerically: sum(dY * InstanceNormalization(X)) by each element of X."""
    dy, x = given["dY"].astype(np.float64), given["X"].astype(np.float64)
    scale = given["scale"][:, None, None]
    gradient, step = np.zeros_like(x), 1e-5
    for place in np.ndindex(*x.shape):
        moved = x.copy()
        moved[place] += step
        above = (dy * _normal(moved, (2, 3)) * scale).sum()
        moved[place] -= 2 * step
        gradient[place] = (above - (dy * _normal(moved, (2, 3)) * scale).sum()) / (2 * step)
    return [gradient, (dy * _normal(x, (2, 3))).sum((0, 2, 3)), dy.sum((0, 2, 3))]


def _qr(given: Feeds) -> Sequence[Array]:
    q, r = np.linalg.qr(given["A"].astype(np.float64))
    sign = np.sign(np.diag(r))
    return [q * sign, r * sign[:, None]]


def _scan(given: Feeds) -> Sequence[Array]:
    sums = given["start"] + np.cumsum(given["X"], 0)
    return [sums[-1], sums]


REFERENCES: dict[str, Reference] = {
    "Conv": lambda g: [conv(g["X"], g["W"], 1) + g["B"][:, None, None]],
    "MaxPool": _x(lambda x: windows(x, 2, 2).max(-1)),
    "AveragePool": _x(lambda x: windows(x, 2, 2).mean(-1)),
    "GlobalAveragePool": _x(lambda x: x.mean((2, 3), keepdims=True)),
    "Relu": _x(lambda x: x.clip(0)),
    "Softmax": _x(_softmax),
    "Dropout": _x(lambda x: x),
    "BatchNormalization": _batch_norm,
    "Gemm": lambda g: [0.5 * g["A"] @ g["B"] + 2 * g["C"]],
    "MatMul": _ab(lambda a, b: a @ b),
    "Flatten": _x(lambda x: x.reshape(2, 12)),
    "Concat": _ab(lambda a, b: np.concatenate([a, b], 1)),
    "Add": _ab(lambda a, b: a + b),
    "Mul": _ab(lambda a, b: a * b),
    "Sigmoid": _x(sigmoid),
    "Tanh": _x(np.tanh),
    "Softplus": _x(lambda x: np.log1p(np.exp(x))),
    "LeakyRelu": _x(lambda x: np.where(x < 0, 0.1 * x, x)),
    "Elu": _x(lambda x: np.where(x < 0, 0.5 * np.expm1(x), x)),
    "ThresholdedRelu": _x(lambda x: np.where(x > 0.5, x, 0)),
    "LpNormalization": _x(lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)),
    "Upsample": _x(lambda x: x.repeat(2, 2).repeat(3, 3)),
    "Reshape": _x(lambda x: x.reshape(3, 2)),
    "Slice": _x(lambda x: x[1:3, ::2]),
    "Pad": _x(lambda x: np.pad(x, [(0, 0), (1, 2)])),
    "ReduceSum": _x(lambda x: x.sum(1, keepdims=True)),
    "ReduceMean": _x(lambda x: x.mean(1, keepdims=True)),
    "ReduceL1": _x(lambda x: abs(x).sum(1, keepdims=True)),
    "ReduceL2": _x(lambda x: np.sqrt((x * x).sum(1, keepdims=True))),
    "ReduceLogSum": _x(lambda x: np.log(x.sum(1, keepdims=True))),
    "ReduceLogSumExp": _x(lambda x: np.log(np.exp(x).sum(1, keepdims=True))),
    "ReduceProd": _x(lambda x: x.prod(1, keepdims=True)),
    "Cast": _x(lambda x: x.astype(np.int32)),
    "Split": lambda g: [g["X"][:1], g["X"][1:]],
    "Transpose": _x(lambda x: x.T),
    "TopK": lambda g: [-np.sort(-g["X"])[:, :2], np.argsort(-g["X"])[:, :2]],
    "Gather": _x(lambda x: x[[3, 0]]),
    "Scatter": lambda g: _put(g, False),
    "GatherElements": _x(lambda x: np.take_along_axis(x, INDICES, 0)),
    "ScatterElements": lambda g: _put(g, True),
    "OneHot": lambda g: [np.where(np.eye(4, dtype=bool)[g["I"]], 2.0, -1.0)],
    "NonMaxSuppression": lambda g: [np.array([[0, 0, 0], [0, 0, 2]])],
    "Tile": _x(lambda x: np.tile(x, (1, 2))),
    "Range": lambda g: [np.arange(1, 4, 0.5)],
    "Loop": lambda g: [g["X"] * 8, np.stack([g["X"] * 2, g["X"] * 4, g["X"] * 8])],
    "Resize": _x(lambda x: x.repeat(2, 2).repeat(2, 3)),
    "InstanceNormalization": lambda g: [
        _normal(g["X"], (2,)) * g["scale"][:, None] + g["B"][:, None]
    ],
    "Constant": lambda g: [np.array([1.5, -2])],
    "Identity": _x(lambda x: x),
    "Scan": _scan,
    "RNN": rnn,
    "GRU": gru,
    "LSTM": lstm,
    "Attention": _attention,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "DequantizeLinear": lambda g: [_whole(g["X"], g["scale"].item(), 120)],
    "QLinearConv": lambda g: [
        _quantized(conv(_whole(g["X"], 0.1, 128), _whole(g["W"], 0.05, 128)), 0.4, 128)
    ],
    "QLinearMatMul": _ab(
        lambda a, b: _quantized(_whole(a, 0.1, 128) @ _whole(b, 0.05, 128), 0.4, 128)
    ),
    "QuantizeLinear": lambda g: [_quantized(g["X"], g["scale"].item(), 120)],
    "Compress": lambda g: [g["X"][g["condition"]]],
    "BitShift": lambda g: [g["X"] << g["by"]],
    "IsInf": _x(np.isinf),
    "IsNaN": _x(np.isnan),
    "Erf": _x(_erf),
    "Acosh": _x(np.arccosh),
    "Asinh": _x(np.arcsinh),
    "Atanh": _x(np.arctanh),
    "Pow": lambda g: [g["X"] ** g["exponent"]],
    "SplitToSequence": _x(lambda x: x[2:]),
    "SequenceAt": _ab(lambda a, b: b),
    "SequenceConstruct": _ab(lambda a, b: np.concatenate([a, b])),
    "SequenceEmpty": lambda g: [0],
    "SequenceErase": _ab(lambda a, b: b),
    "SequenceInsert": _ab(lambda a, b: b),
    "SequenceLength": lambda g: [2],
    "GatherND": _x(lambda x: x[[0, 2], [1, 3]]),
    "ScatterND": _scatter_rows,
    "Einsum": _ab(lambda a, b: a @ b.T),
    "SoftmaxCrossEntropyLoss": _cross_entropy,
    "Gelu": _x(lambda x: x / 2 * (1 + _erf(x / math.sqrt(2)))),
    "MaxRoiPool": _x(lambda x: windows(x[:, :, :4, :4], 2, 2).max(-1)),
    "MaxUnpool": _unpool,
    "ConvTranspose": lambda g: [conv_transpose(g["X"], g["W"], 2)],
    "Expand": _x(lambda x: np.broadcast_to(x, (2, 3, 4))),
    "GroupNormalization": _group_norm,
    "EyeLike": _x(lambda x: np.eye(3, 4, 1)),
    "Det": _x(np.linalg.det),
    "ArgMax": _x(lambda x: x.argmax(1)),
    "ArgMin": _x(lambda x: x.argmin(1)),
    "Affine": _x(lambda x: 2 * x + 0.5),
    "QLinearAdd": _q_linear(lambda a, b: a + b),
    "QLinearMul": _q_linear(lambda a, b: a * b),
    "Decompress": _decompress,
    "Erfc": _x(np.vectorize(math.erfc)),
    "IdentityLoss": _x(lambda x: x.mean()),
    "KLDivergenceLoss": _divergence,
    "SigmoidCrossEntropyLoss": _sigmoid_loss,
    "SmoothL1Loss": _smooth,
    "SoftmaxGrad": _softmax_gradient,
    "LogSoftmaxGrad": _log_softmax_gradient,
    "TanhGrad": lambda g: [g["dY"] * (1 - g["Y"] ** 2)],
    "LeakyReluGrad": lambda g: [np.where(g["Y"] > 0, g["dY"], 0.2 * g["dY"])],
    "DynamicSlice": _x(lambda x: x[1:3]),
    "DynamicAdd": _ab(lambda a, b: a + b),
    "DynamicSub": _ab(lambda a, b: a - b),
    "DynamicMul": _ab(lambda a, b: a * b),
    "DynamicDiv": _ab(lambda a, b: a / b),
    "DynamicEqual": _ab(lambda a, b: a == b),
    "DynamicLess": _ab(lambda a, b: a < b),
    "DynamicGreater": _ab(lambda a, b: a > b),
    "DynamicClip": _x(lambda x: x.clip(-0.5, 0.5)),
    "DynamicQuantizeLSTM": _quantized_lstm,
    "DynamicRNN": rnn,
    "DynamicGRU": gru,
    "DynamicLSTM": lstm,
    "MaxPoolWithArgmax": _argmax,
    "MaxPoolGrad": lambda g: [max_pool_gradient(g["X"], g["dY"], 3)],
    "ConvTransposeWithDynamicPadding": _padded_transpose,
    "MaxPool2D": _x(lambda x: windows(x, 2, 2).max(-1)),
    "AveragePool2D": _x(lambda x: windows(x, 2, 2).mean(-1)),
    "GlobalMaxPool2D": _x(lambda x: x.max((2, 3), keepdims=True)),
    "GlobalAveragePool2D": _x(lambda x: x.mean((2, 3), keepdims=True)),
    "MaxPool3D": _x(lambda x: windows(x, 2, 2).max(-1)),
    "AveragePool3D": _x(lambda x: windows(x, 2, 2).mean(-1)),
    "GlobalMaxPool3D": _x(lambda x: x.max((2, 3, 4), keepdims=True)),
    "GlobalAveragePool3D": _x(lambda x: x.mean((2, 3, 4), keepdims=True)),
    "InstanceNormalizationGrad": _instance_gradient,
    "Triu": _x(lambda x: np.triu(x, 1)),
    "Tril": _x(np.tril),
    "QR": _qr,
    "RangeFill": lambda g: [np.arange(6.0).reshape(2, 3)],
}
