"""Operators of Caffe2 element by element, against NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.models.exchange.caffe2_nets import check, model, op, translated

from tensorkeep.errors import TranslationError

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)


def single(values: Any) -> Any:
    return np.asarray(values, np.float32)


def test_functions_of_one_tensor() -> None:
    wide = X.astype(np.float64)
    plain = {
        "Relu": np.maximum(wide, 0),
        "Sigmoid": 1 / (1 + np.exp(-wide)),
        "Tanh": np.tanh(wide),
        "Softplus": np.log1p(np.exp(wide)),
        "Softsign": wide / (1 + np.abs(wide)),
        "Exp": np.exp(wide),
        "Abs": np.abs(wide),
        "Negative": -wide,
        "Floor": np.floor(wide),
        "Ceil": np.ceil(wide),
        "Sign": np.sign(wide),
        "Erf": np.vectorize(math.erf)(wide),
        "Sin": np.sin(wide),
        "Cos": np.cos(wide),
        "Tan": np.tan(wide),
        "Atan": np.arctan(wide),
        "Sinh": np.sinh(wide),
        "Cosh": np.cosh(wide),
        "Sqr": wide**2,
        "Cube": wide**3,
        "Cbrt": np.cbrt(wide),
        "Swish": wide / (1 + np.exp(-wide)),
        "Copy": wide,
        "StopGradient": wide,
        "CopyGPUToCPU": wide,
    }
    ops = [op(kind, "x", kind) for kind in plain]
    check(model(*ops), {"x": X}, {kind: single(array) for kind, array in plain.items()})


def test_functions_of_positive_numbers() -> None:
    small = POSITIVE / POSITIVE.max()
    plain = {
        "Log": np.log(POSITIVE),
        "Sqrt": np.sqrt(POSITIVE),
        "Rsqrt": 1 / np.sqrt(POSITIVE),
        "Reciprocal": 1 / POSITIVE,
    }
    ops = [op(kind, "x", kind) for kind in plain]
    ops += [op("Asin", "s", "asin"), op("Acos", "s", "acos")]
    expected = {**plain, "asin": np.arcsin(small), "acos": np.arccos(small)}
    expected = {name: single(array) for name, array in expected.items()}
    check(model(*ops), {"x": POSITIVE, "s": small}, expected)


def test_functions_with_arguments() -> None:
    wide = X.astype(np.float64)
    below = np.exp(np.minimum(wide, 0)) - 1
    inner = np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)
    ops = [
        op("LeakyRelu", "x", "leaky"),
        op("LeakyRelu", "x", "leaky2", alpha=0.3),
        op("Elu", "x", "elu", alpha=0.7),
        op("Selu", "x", "selu", alpha=1.5, scale=1.1),
        op("ThresholdedRelu", "x", "threshold", alpha=0.4),
        op("HardSigmoid", "x", "hard"),
        op("ReluN", "x", "reluN", n=0.5),
        op("Clip", "x", "clip", min=-0.5, max=0.25),
        op("Clip", "x", "above", min=-0.1),
        op("Gelu", "x", "gelu"),
        op("Gelu", "x", "fast", fast_gelu=1),
        op("Glu", "x", "glu", dim=2),
        op("StumpFunc", "x", "stump", threshold=0.2, low_value=-1.0, high_value=3.0),
        op("Scale", "x", "scaled", scale=2.5),
        op("Pow", "p", "power", exponent=1.7),
        op("Dropout", "x", "drop mask", ratio=0.5, is_test=1),
        op("PRelu", "x slope", "prelu"),
    ]
    expected = {
        "leaky": np.where(wide > 0, wide, 0.01 * wide),
        "leaky2": np.where(wide > 0, wide, 0.3 * wide),
        "elu": np.where(wide > 0, wide, 0.7 * below),
        "selu": 1.1 * np.where(wide > 0, wide, 1.5 * below),
        "threshold": np.where(wide > 0.4, wide, 0),
        "hard": np.clip(0.2 * wide + 0.5, 0, 1),
        "reluN": np.clip(wide, 0, 0.5),
        "clip": np.clip(wide, -0.5, 0.25),
        "above": np.maximum(wide, -0.1),
        "gelu": wide * (1 + np.vectorize(math.erf)(wide / np.sqrt(2))) / 2,
        "fast": wide * (1 + np.tanh(inner)) / 2,
        "glu": wide[..., :2] / (1 + np.exp(-wide[..., 2:])),
        "stump": np.where(np.float32(0.2) < X, 3.0, -1.0),
        "scaled": 2.5 * wide,
        "power": POSITIVE**1.7,
        "drop": wide,
        "prelu": np.where(wide > 0, wide, 0.5 * wide),
    }
    expected = {name: single(array) for name, array in expected.items()}
    weights = {"slope": single([0.5])}
    state = model(*ops, weights=weights, outputs=" ".join(expected))
    check(state, {"x": X, "p": POSITIVE}, expected)


def test_rounding_takes_halves_away_from_zero() -> None:
    x = single([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999997, -0.2, 8388609.0])
    y = single([-3, -2, -1, 1, 2, 3, 0, 0, 8388609])
    check(model(op("Round", "x", "y")), {"x": x}, {"y": y})


def test_what_is_not_a_number_is_replaced() -> None:
    x = single([1, np.nan, np.inf])
    state = model(op("ReplaceNaN", "x", "y", value=2.0))
    check(state, {"x": x}, {"y": single([1, 2, np.inf])})


def test_softmax_takes_the_axes_behind_as_one() -> None:
    from tests.models.exchange.caffe2_references import flat_softmax

    x4 = RANDOM.normal(size=(2, 3, 1, 1)).astype(np.float32)
    ops = [
        op("Softmax", "x", "one"),
        op("Softmax", "x", "two", axis=2),
        op("Softmax", "x4", "four"),
        op("LogSoftmax", "x", "log"),
    ]
    expected = {"one": flat_softmax(X, 1), "two": flat_softmax(X, 2), "four": flat_softmax(x4, 1)}
    expected["log"] = np.log(flat_softmax(X, 1))
    check(model(*ops), {"x": X, "x4": x4}, expected)


def test_the_older_broadcasting() -> None:
    middle, end, one = single(RANDOM.normal(size=3)), single(RANDOM.normal(size=4)), single([[2]])
    ops = [
        op("Mul", "x m", "mul", broadcast=1, axis=1),
        op("Add", "x e", "add", broadcast=1),
        op("Sub", "x one", "sub", broadcast=1),
        op("Div", "x m", "div", broadcast=1, axis_str="C"),
        op("GT", "x m", "gt", broadcast=1, axis=1),
        op("Pow", "p m", "pow", broadcast=1, axis=1),
        op("Mul", "v big", "scaled", broadcast=1, axis=0),
    ]
    column = middle.reshape(-1, 1)
    big = single([[[[3]]]])
    expected = {
        "mul": X * column,
        "add": X + end,
        "sub": X - 2,
        "div": X / column,
        "gt": column < X,
        "pow": POSITIVE**column,
        "scaled": end * 3,
    }
    weights = {"m": middle, "e": end, "one": one, "big": big}
    feeds = {"x": X, "p": POSITIVE, "v": end}
    check(model(*ops, weights=weights), feeds, expected, needs="rank")


def test_numpy_broadcasting_and_logic() -> None:
    y = RANDOM.normal(size=(3, 1)).astype(np.float32)
    a, b = X > 0, X > 0.5
    ops = [
        *(op(kind, "x y", kind) for kind in ("Add", "Sub", "Mul", "Div")),
        *(op(kind, "x y", kind) for kind in ("EQ", "NE", "LT", "LE", "GT", "GE")),
        *(op(kind, "a b", kind) for kind in ("And", "Or", "Xor")),
        op("Not", "a", "Not"),
        op("BitwiseXor", "a b", "bits"),
        op("BitwiseAnd", "i i2", "and"),
        op("Where", "a x z", "Where"),
        op("Conditional", "rows x z", "Conditional"),
    ]
    z, rows = -X, np.array([True, False])
    expected: dict[str, npt.NDArray[Any]]
    expected = {"Add": X + y, "Sub": X - y, "Mul": X * y, "Div": X / y}
    expected |= {"EQ": y == X, "NE": y != X, "LT": y > X, "LE": y >= X, "GT": y < X, "GE": y <= X}
    expected |= {"And": a & b, "Or": a | b, "Xor": a ^ b, "Not": ~a, "Where": np.where(a, X, z)}
    whole = np.array([6, 3], np.int32)
    expected |= {"bits": a ^ b, "and": whole & whole[::-1]}
    expected["Conditional"] = np.where(rows.reshape(2, 1, 1), X, z)
    feeds = {"x": X, "y": y, "a": a, "b": b, "z": z, "rows": rows}
    feeds |= {"i": whole, "i2": whole[::-1].copy()}
    check(model(*ops), feeds, expected, needs="shape")


def test_many_tensors_and_integers() -> None:
    whole = np.array([[-7, 5, 9]], np.int64)
    ops = [
        op("Sum", "x y x", "sum"),
        op("Mean", "x y", "mean"),
        op("Max", "x y", "max"),
        op("Min", "x y", "min"),
        op("Sum", "x", "alone"),
        op("SumRelu", "x y", "relu"),
        op("Sum", "i i i", "three"),
        op("Mod", "i", "c", divisor=4),
        op("Mod", "i", "python", divisor=4, sign_follow_divisor=1),
        op("WeightedSum", "x w y v", "weighted"),
        op("Add", "i i", "twice"),
    ]
    y = X[::-1].copy()
    expected = {
        "sum": X + y + X,
        "mean": (X + y) / 2,
        "max": np.maximum(X, y),
        "min": np.minimum(X, y),
        "alone": X,
        "relu": np.maximum(X + y, 0),
        "three": whole * 3,
        "c": np.fmod(whole, 4),
        "python": whole % 4,
        "weighted": single(2 * X + 3 * y),
        "twice": whole * 2,
    }
    weights = {"w": single([2]), "v": single([3])}
    check(model(*ops, weights=weights), {"x": X, "y": y, "i": whole}, expected)


def test_element_types() -> None:
    x = single([-1.5, 0.0, 2.75])
    ops = [
        op("Cast", "x", "int", to=2),
        op("Cast", "x", "long", to="int64"),
        op("Cast", "x", "truth", to=5),
        op("Cast", "x", "double", to=13),
        op("FloatToHalf", "x", "half"),
        op("HalfToFloat", "half", "back"),
    ]
    expected = {
        "int": np.array([-1, 0, 2], np.int32),
        "long": np.array([-1, 0, 2]),
        "truth": np.array([True, False, True]),
        "double": x.astype(np.float64),
        "half": x.astype(np.float16),
        "back": x,
    }
    check(model(*ops, outputs=" ".join(expected)), {"x": x}, expected)


def test_fills() -> None:
    x = np.zeros((2, 3), np.float32)
    ops = [
        op("GivenTensorInt64Fill", "", "s", shape=[2], values=[2, 1]),
        op("ConstantFill", "", "c", shape=[2, 2], value=1.5),
        op("ConstantFill", "x", "like", value=3, dtype=2),
        op("ConstantFill", "x", "more", value=0.5, extra_shape=[4]),
        op("ConstantFill", "s", "shaped", value=7.0, input_as_shape=1),
        op("GivenTensorFill", "", "given", shape=[3], values=[1.0, 2.0, 3.0]),
        op("Range", "stop", "r"),
        op("Range", "start stop step", "by"),
    ]
    expected = {
        "c": np.full((2, 2), 1.5, np.float32),
        "like": np.full((2, 3), 3, np.int32),
        "more": np.full((2, 3, 4), 0.5, np.float32),
        "shaped": np.full((2, 1), 7, np.float32),
        "given": single([1, 2, 3]),
        "r": np.arange(5, dtype=np.int32),
        "by": np.arange(1, 5, 2, dtype=np.int32),
    }
    counts = {"start": [1], "stop": [5], "step": [2]}
    weights = {name: np.array(value, np.int32) for name, value in counts.items()}
    check(model(*ops, weights=weights), {"x": x}, expected)


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (op("Dropout", "x", "y mask", "drop1", ratio=0.5), "Dropout at drop1: it is in training"),
        (op("Clip", "x", "y", min="low"), "Clip at y: its argument 'min' is not a float"),
        (op("Mod", "x", "y"), "its argument divisor is 0"),
        (op("Cast", "x", "y", to=4), "its argument to is no element type that there is in ONNX"),
        (op("ReluN", "x", "y", n=-1.0), "its argument n is -1, where more than 0 is needed"),
        (op("Mul", "x", "y"), "Mul at y: it has 1 input, and needs 2"),
        (op("UniformFill", "", "y", shape=[1]), "it draws at random. Give the weights of"),
        (op("Softmax", "x", "y", axis=3), "its axis is 3, and 'x' has 3 axes"),
        (op("Glu", "odd", "y"), "its axis 0 has 3 elements, which have no halves"),
        (op("Mul", "x odd", "y", broadcast=1, axis=3), "broadcast=1 at axis 3 does not fit 3 axes"),
        (op("Fantasy", "x", "y", "f"), "Fantasy at f: there is no translation of this operator"),
    ],
)
def test_what_is_refused(operator: Any, words: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {"x": (2, 3, 4)} if "x" in operator.input else {}
    shapes |= {"odd": (3,)} if "odd" in operator.input else {}
    with pytest.raises(TranslationError) as caught:
        translated(model(operator, outputs="y"), shapes)
    assert words in str(caught.value)
