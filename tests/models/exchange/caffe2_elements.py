"""What Caffe2's operators on the CPU compute, in NumPy: element by element.

Written from what Caffe2 1.10 does, and as strict about types, arguments, ranks and sizes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tests.models.exchange.caffe2_operators import (
    ANY,
    CASTS,
    COMPARED,
    FLOAT,
    NUMBERS,
    OPERATORS,
    Array,
    Run,
    operator,
)


def _each(name: str, compute: Run, types: tuple[str, ...] = FLOAT) -> None:
    operator(name, types=types)(compute)


_each("Relu", lambda x: np.maximum(x, 0))
_each("Sigmoid", lambda x: 1 / (1 + np.exp(-x)))
_each("Tanh", np.tanh)
_each("Softplus", lambda x: np.log(np.exp(x) + np.float32(1)))
_each("Softsign", lambda x: x / (1 + np.abs(x)))
_each("Reciprocal", lambda x: 1 / x)
_each("Erf", lambda x: np.vectorize(math.erf, otypes=["float32"])(x) if x.size else x)
_each("Negative", np.negative, NUMBERS)
_each("Sign", np.sign, NUMBERS)
_each("Not", np.logical_not, ("bool",))
_each("Copy", np.copy, ANY)
for _name in ("Exp", "Log", "Sqrt", "Abs", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Floor", "Ceil"):
    _each(_name, getattr(np, _name.lower()))
for _name in ("Asin", "Acos", "Atan"):
    _each(_name, getattr(np, f"arc{_name[1:].lower()}"))


@operator("Dropout")
def dropout(x: Array, is_test: int, ratio: float = 0.5) -> Any:
    assert is_test == 1
    assert 0 <= ratio < 1
    return x


@operator("LeakyRelu")
def leaky_relu(x: Array, alpha: float = 0.01) -> Any:
    return np.where(x > 0, x, x * np.float32(alpha))


@operator("Elu")
def elu(x: Array, alpha: float = 1.0) -> Any:
    return np.where(x > 0, x, np.float32(alpha) * (np.exp(x) - 1))


@operator("Selu")
def selu(x: Array, alpha: float, scale: float) -> Any:
    return np.float32(scale) * np.where(x > 0, x, alpha * np.exp(x) - alpha)


@operator("ThresholdedRelu")
def thresholded_relu(x: Array, alpha: float = 1.0) -> Any:
    return np.where(x > alpha, x, np.float32(0))


@operator("HardSigmoid")
def hard_sigmoid(x: Array, alpha: float = 0.2, beta: float = 0.5) -> Any:
    return np.clip(x * np.float32(alpha) + np.float32(beta), 0, 1)


@operator("Gelu")
def gelu(x: Array, fast_gelu: int = 0) -> Any:
    assert not fast_gelu
    return x * OPERATORS["Erf"][0](x / np.sqrt(np.float32(2))) / 2 + x / 2


@operator("PRelu", inputs=2)
def prelu(x: Array, slope: Array) -> Any:
    assert slope.ndim == 1
    assert slope.size in (1, x.shape[1])
    slope = slope.reshape(-1, *(1,) * (x.ndim - 2))
    return np.maximum(x, 0) + np.minimum(x, 0) * slope


@operator("Clip")
def clip(x: Array, min: float = -3.4028235e38, max: float = 3.4028235e38) -> Any:
    return np.minimum(np.maximum(x, np.float32(min)), np.float32(max))


@operator("Pow", inputs=1, most=2)
def power(x: Array, y: Array | None = None, exponent: float | None = None) -> Any:
    assert (y is None) != (exponent is None)
    assert y is None or (y.shape == x.shape and y.dtype == x.dtype)
    return np.power(x, np.float32(exponent) if y is None else y)


def _binary(name: str, compute: Any, types: tuple[str, ...]) -> None:
    def run(a: Array, b: Array, broadcast: int = 0, axis: int = -1) -> Any:
        assert a.dtype == b.dtype, name
        if broadcast and b.size == 1:
            return compute(a, b.reshape(()))
        if broadcast:
            start = axis if axis != -1 else a.ndim - b.ndim
            assert a.shape[start : start + b.ndim] == b.shape
            b = b.reshape(*b.shape, *(1,) * (a.ndim - b.ndim - start))
        return compute(a, b)

    operator(name, types=types, inputs=2)(run)


for _name, _compute in {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": lambda a, b: a / b if a.dtype.kind == "f" else np.fix(a / b).astype(a.dtype),
}.items():
    _binary(_name, _compute, NUMBERS)
for _name, _compute in {
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
}.items():
    _binary(_name, _compute, COMPARED)
for _name, _compute in {"And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor}.items():
    _binary(_name, _compute, ("bool",))


def _many(name: str, compute: Run, types: tuple[str, ...] = FLOAT) -> None:
    def run(*values: Array) -> Any:
        assert len({(value.shape, value.dtype) for value in values}) == 1
        made = values[0]
        for value in values[1:]:
            made = compute(made, value)
        return made

    operator(name, types=types, most=10**6)(run)


_many("Sum", np.add, ("float32", "int32"))
_many("Max", np.maximum, NUMBERS)
_many("Min", np.minimum, NUMBERS)


@operator("Mean", most=10**6)
def mean(*values: Array) -> Any:
    return sum(values[1:], values[0]) * np.float32(1 / len(values))


@operator("Where", types=("bool",), inputs=3)
def where(chosen: Array, a: Array, b: Array) -> Any:
    assert chosen.shape == a.shape == b.shape
    assert a.dtype == b.dtype
    assert a.dtype.name in COMPARED
    return np.where(chosen, a, b)


@operator("Cast", types=(*COMPARED, "uint8"))
def cast(x: Array, to: int) -> Any:
    return x.astype(CASTS[to])
