"""What the examples are run on: random numbers, and for some operators what they can take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

KINDS = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 9: np.bool_}


def feeds(name: str, model: Any) -> Feeds:
    """Fill each input of a parsed model, the same at every call."""
    random = np.random.default_rng(7)
    made = {}
    for value in model.graph.input:
        kind = KINDS[value.type.tensor_type.elem_type]
        shape = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        if kind is np.float32:
            made[value.name] = random.normal(size=shape).astype(kind)
        elif kind in (np.uint8, np.int8):
            made[value.name] = random.integers(np.iinfo(kind).min, 127, shape).astype(kind)
        else:
            made[value.name] = random.integers(0, 2, shape).astype(kind)
    return made | {key: value for key, value in CHOSEN.get(name, dict)().items() if key in made}


def _of(**arrays: Any) -> Callable[[], Feeds]:
    return lambda: {name: np.asarray(value) for name, value in arrays.items()}


def _floats(*values: float) -> Array:
    return np.array(values, np.float32)


def _probabilities() -> Array:
    return np.array([[0.2, 0.8, 0], [0.5, 0.25, 0.25]], np.float32)


def _boxes() -> Array:
    return np.array([[[0, 0, 1, 1], [0, 0.05, 1, 1.05], [2, 2, 3, 3]]], np.float32)


_SCALE, _ZERO = np.float32(0.1), np.uint8(120)
CHOSEN: dict[str, Callable[[], Feeds]] = {
    "BatchNormalization": _of(var=_floats(0.5, 1, 2)),
    "ReduceLogSum": _of(X=np.arange(1, 7, dtype=np.float32).reshape(2, 3)),
    "OneHot": _of(I=np.array([1, 3, -1], np.int64)),
    "NonMaxSuppression": _of(boxes=_boxes(), scores=np.array([[[0.9, 0.8, 0.7]]], np.float32)),
    "Range": _of(start=np.float32(1), limit=np.float32(4), delta=np.float32(0.5)),
    "Loop": _of(count=np.int64(3)),
    "DequantizeLinear": _of(scale=_SCALE, zero=_ZERO),
    "QuantizeLinear": _of(scale=_SCALE, zero=_ZERO, X=_floats(-0.25, 0.25, 3.14, 100)),
    "Compress": _of(condition=np.array([True, False, True])),
    "BitShift": _of(X=np.array([1, 3, 200], np.uint8), by=np.array([1, 2, 1], np.uint8)),
    "IsInf": _of(X=_floats(1, np.inf, -np.inf, np.nan)),
    "IsNaN": _of(X=_floats(1, np.inf, -np.inf, np.nan)),
    "Acosh": _of(X=_floats(1, 1.5, 10, 1e5)),
    "Atanh": _of(X=_floats(-0.9, 0, 0.5, 0.99)),
    "Pow": _of(X=np.arange(1, 7, dtype=np.float32).reshape(2, 3), exponent=_floats(2, 0.5, -1)),
    "SoftmaxCrossEntropyLoss": _of(labels=np.array([4, 0, 2], np.int64)),
    "Decompress": _of(condition=np.array([[1, 0, 0, 1], [0, 0, 1, 0]], bool)),
    "Erfc": _of(X=_floats(-2, 0, 0.5, 3)),
    "KLDivergenceLoss": _of(target=_probabilities()),
    "SigmoidCrossEntropyLoss": _of(target=_probabilities()),
    "DynamicSlice": _of(starts=np.array([1], np.int64), ends=np.array([3], np.int64)),
    "DynamicEqual": _of(A=np.array([[1, 2, 3], [3, 2, 1]], np.float32), B=_floats(1, 2, 2)),
    "DynamicClip": _of(low=np.float32(-0.5), high=np.float32(0.5)),
    "DynamicRNN": _of(lengths=np.array([3, 1], np.int32)),
    "DynamicGRU": _of(lengths=np.array([3, 1], np.int32)),
    "DynamicLSTM": _of(lengths=np.array([3, 1], np.int32)),
    "ConvTransposeWithDynamicPadding": _of(pads=np.array([1, 0, 2, 1], np.int64)),
}
