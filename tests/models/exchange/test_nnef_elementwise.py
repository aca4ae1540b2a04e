"""NNEF's elementwise operations, activations and reductions in ONNX, against NumPy."""

from math import erf
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.models.exchange.nnef_texts import check_cases, document_text, left, to_onnx

import tensorkeep as tk
from tensorkeep import State
from tensorkeep.wire.nnef.document import Document

RNG = np.random.default_rng(20)


def normal(*shape: int) -> npt.NDArray[Any]:
    return RNG.standard_normal(shape).astype(np.float32)


def document_of(state: State) -> Document:
    """Give a state's NNEF document, which must be there."""
    assert isinstance(state.document, Document)
    return state.document


X = normal(2, 3, 4, 5)
Y = normal(2, 3, 4, 5)
P = np.abs(normal(2, 3)) + 0.1
U = np.tanh(normal(2, 3)) * 0.9
C = np.array([[[True]], [[False]]])
A = normal(2, 3, 4) > 0
B = normal(2, 3) > 0
HALVES = np.array([-2.5, -1.5, -0.5, -0.3, 0, 0.49999997, 0.5, 1.5, 2.5, 3.2], np.float32)
CHANNELS = normal(1, 3)
FIRST = normal(2)
ONE = np.float32(3.0).reshape(())
INPUTS = {"x": X, "y": Y, "p": P, "u": U, "c": C, "a": A, "b": B, "h": HALVES, "one": ONE}
VARIABLES = {"v": CHANNELS, "w": FIRST, "z": normal(2, 3, 1, 5)}


def test_unary_operations() -> None:
    check_cases(
        [
            ("exp(x)", lambda x: np.exp(x)),
            ("log(p)", lambda p: np.log(p)),
            ("sin(x)", lambda x: np.sin(x)),
            ("cos(x)", lambda x: np.cos(x)),
            ("tan(u)", lambda u: np.tan(u)),
            ("sinh(x)", lambda x: np.sinh(x)),
            ("cosh(x)", lambda x: np.cosh(x)),
            ("tanh(x)", lambda x: np.tanh(x)),
            ("asin(u)", lambda u: np.arcsin(u)),
            ("acos(u)", lambda u: np.arccos(u)),
            ("atan(x)", lambda x: np.arctan(x)),
            ("asinh(x)", lambda x: np.arcsinh(x)),
            ("acosh(add(p, 1.0))", lambda p: np.arccosh(p + np.float32(1))),
            ("atanh(u)", lambda u: np.arctanh(u)),
            ("abs(x)", lambda x: np.abs(x)),
            ("sign(h)", lambda h: np.sign(h)),
            ("rcp(p)", lambda p: 1 / p),
            ("neg(x)", lambda x: -x),
            ("copy(x)", lambda x: x),
            ("copy(a)", lambda a: a),
            ("floor(h)", lambda h: np.floor(h)),
            ("ceil(h)", lambda h: np.ceil(h)),
            ("round(h)", lambda h: np.array([-3, -2, -1, 0, 0, 0, 1, 2, 3, 3], np.float32)),
            ("sqr(x)", lambda x: x * x),
            ("sqrt(p)", lambda p: np.sqrt(p)),
            ("rsqr(p)", lambda p: 1 / (p * p)),
            ("rsqrt(p)", lambda p: 1 / np.sqrt(p)),
            ("log2(p)", lambda p: np.log2(p)),
            ("not(a)", lambda a: ~a),
            ("neg(one)", lambda one: -one),
        ],
        INPUTS,
    )


def test_binary_operations_lay_operands_at_their_first_axes() -> None:
    check_cases(
        [
            ("add(x, y)", lambda x, y: x + y),
            ("sub(x, p)", lambda x, p: x - left(p, 4)),
            ("sub(p, x)", lambda x, p: left(p, 4) - x),
            ("mul(x, v)", lambda x, v: x * left(v, 4)),
            ("add(v, w)", lambda v, w: v + left(w, 2)),
            ("add(x, w)", lambda x, w: x + left(w, 4)),
            ("mul(z, x)", lambda z, x: z * x),
            ("div(x, one)", lambda x, one: x / one),
            ("div(1.0, p)", lambda p: 1 / p),
            ("sub(2.0, x)", lambda x: np.float32(2) - x),
            ("pow(p, x)", lambda p, x: left(p, 4) ** x),
            ("pow(2.0, x)", lambda x: np.float32(2) ** x),
            ("pow(x, 3.0)", lambda x: x**3),
            ("min(x, p)", lambda x, p: np.minimum(x, left(p, 4))),
            ("max(x, 0.25)", lambda x: np.maximum(x, np.float32(0.25))),
            ("lt(x, y)", lambda x, y: x < y),
            ("gt(p, x)", lambda x, p: left(p, 4) > x),
            ("le(h, 0.5)", lambda h: h <= 0.5),
            ("ge(h, 0.5)", lambda h: h >= 0.5),
            ("eq(h, 1.5)", lambda h: h == 1.5),
            ("ne(h, 1.5)", lambda h: h != 1.5),
            ("ne(x, v)", lambda x, v: x != left(v, 4)),
            ("and(a, b)", lambda a, b: a & left(b, 3)),
            ("or(b, a)", lambda a, b: a | left(b, 3)),
            ("and(a, true)", lambda a: a),
            ("select(a, p, y)", lambda a, p, y: np.where(left(a, 4), left(p, 4), y)),
            ("select(c, x, 0.0)", lambda c, x: np.where(left(c, 4), x, np.float32(0))),
            ("select(c, a, b)", lambda c, a, b: np.where(c, a, left(b, 3))),
            ("select(b, 1.0, -1.0)", lambda b: np.where(b, np.float32(1), np.float32(-1))),
            ("select(b, 16777217, 0)", lambda b: np.where(b, np.int64(16777217), np.int64(0))),
            ("clamp(x, -0.5, 0.5)", lambda x: np.clip(x, np.float32(-0.5), np.float32(0.5))),
            ("clamp(x, 0.5, -0.5)", lambda x: np.full_like(x, 0.5)),
            ("clamp(x, w, v)", lambda x, w, v: np.maximum(np.minimum(x, left(v, 4)), left(w, 4))),
            ("add_n([x, y, x])", lambda x, y: x + y + x),
            ("add_n([x])", lambda x: x),
            ("mul(add(x, 1.0), sub(y, 1.0))", lambda x, y: (x + 1) * (y - 1)),
        ],
        INPUTS,
        VARIABLES,
    )


def test_activations() -> None:
    slopes = {"s": np.abs(normal(1, 3)), "t": np.array([0.3], np.float32)}
    check_cases(
        [
            ("relu(x)", lambda x: np.maximum(x, 0)),
            ("sigmoid(x)", lambda x: 1 / (1 + np.exp(-x))),
            ("softabs(x, epsilon = 0.1)", lambda x: np.sqrt(x * x + np.float32(0.1))),
            ("softplus(x)", lambda x: np.log(np.exp(x) + 1)),
            ("elu(x)", lambda x: np.where(x < 0, np.exp(x) - 1, x)),
            (
                "elu(x, alpha = 0.3)",
                lambda x: np.where(x < 0, np.float32(0.3) * (np.exp(x) - 1), x),
            ),
            ("selu(x)", lambda x: selu(x, 1.67326319, 1.05070102)),
            ("selu(x, alpha = 0.5, lambda = 2.0)", lambda x: selu(x, 0.5, 2)),
            ("gelu(x)", lambda x: (x * 0.5 * (1 + np.vectorize(erf)(x / 2**0.5))).astype("f4")),
            ("silu(x)", lambda x: x / (1 + np.exp(-x))),
            ("prelu(x, s)", lambda x, s: np.where(x < 0, left(s, 4) * x, x)),
            ("prelu(x, t)", lambda x, t: np.where(x < 0, t * x, x)),
            ("prelu(x, 0.2)", lambda x: np.where(x < 0, np.float32(0.2) * x, x)),
            ("leaky_relu(x, alpha = 0.1)", lambda x: np.where(x < 0, np.float32(0.1) * x, x)),
            ("softmax(x)", lambda x: softmax(x, 1)),
            ("softmax(x, axes = [3])", lambda x: softmax(x, 3)),
            ("softmax(x, axes = [2, 1])", lambda x: softmax(x, (1, 2))),
            ("softmax(x, axes = [])", lambda x: np.ones_like(x)),
        ],
        INPUTS,
        slopes,
    )


def selu(x: npt.NDArray[Any], alpha: float, gamma: float) -> npt.NDArray[Any]:
    return (gamma * np.where(x < 0, alpha * (np.exp(x) - 1), x)).astype(np.float32)


def softmax(x: npt.NDArray[Any], axes: int | tuple[int, ...]) -> npt.NDArray[Any]:
    powers = np.exp(x - x.max(axes, keepdims=True))
    shares: npt.NDArray[Any] = powers / powers.sum(axes, keepdims=True)
    return shares


def test_reductions_keep_their_axes() -> None:
    ties = np.array([[3, 1, 3], [0, 0, 0]], np.float32)
    check_cases(
        [
            ("sum_reduce(x, axes = [1])", lambda x: x.sum(1, keepdims=True)),
            ("sum_reduce(x, axes = [3, 0])", lambda x: x.sum((0, 3), keepdims=True)),
            (
                "sum_reduce(x, axes = [2], normalize = true)",
                lambda x: x.mean(2, keepdims=True),
            ),
            ("sum_reduce(x, axes = [])", lambda x: x),
            ("mean_reduce(x, axes = [2, 3])", lambda x: x.mean((2, 3), keepdims=True)),
            ("max_reduce(x, axes = [0, 1, 2, 3])", lambda x: x.max(keepdims=True)),
            ("min_reduce(x, axes = [1])", lambda x: x.min(1, keepdims=True)),
            ("max_reduce(x, axes = [])", lambda x: x),
            ("any_reduce(a, axes = [2])", lambda a: a.any(2, keepdims=True)),
            ("all_reduce(a, axes = [0, 2])", lambda a: a.all((0, 2), keepdims=True)),
            ("any_reduce(a, axes = [])", lambda a: a),
            ("argmax_reduce(x, axes = [2])", lambda x: x.argmax(2, keepdims=True)),
            ("argmin_reduce(x, axes = [0])", lambda x: x.argmin(0, keepdims=True)),
            ("argmax_reduce(ties, axes = [1])", lambda ties: np.array([[0], [0]])),
            ("argmin_reduce(ties, axes = [1])", lambda ties: np.array([[1], [0]])),
            ("argmax_reduce(c, axes = [1, 0])", lambda c: c.argmax(0, keepdims=True)),
        ],
        {"x": X, "a": A, "ties": ties, "c": normal(5, 1)},
    )


def test_moments() -> None:
    text = document_text(["m, v = moments(x, axes = [0, 2]);"], {"x": X}, {}, ["m", "v"])
    given = tk.run(to_onnx(text), {"x": X})
    np.testing.assert_allclose(given["m"], X.mean((0, 2), keepdims=True), atol=1e-6)
    np.testing.assert_allclose(given["v"], X.var((0, 2), keepdims=True), atol=1e-6)


def test_products_of_matrices() -> None:
    a, b = normal(2, 3, 4), normal(2, 4, 5)
    m, n, v = normal(3, 4), normal(4, 5), normal(5)
    inputs = {"a": a, "b": b, "m": m, "n": n}
    turned = {"at": a.swapaxes(1, 2).copy(), "bt": b.swapaxes(1, 2).copy(), "nt": n.T.copy()}
    check_cases(
        [
            ("matmul(a, b)", lambda a, b: a @ b),
            ("matmul(m, n)", lambda m, n: m @ n),
            ("matmul(at, b, transposeA = true)", lambda a, b: a @ b),
            ("matmul(a, bt, transposeB = true)", lambda a, b: a @ b),
            ("matmul(at, bt, transposeA = true, transposeB = true)", lambda a, b: a @ b),
            ("matmul(m, nt, transposeB = true)", lambda m, n: m @ n),
            ("matmul(n, m, transposeA = true, transposeB = true)", lambda m, n: n.T @ m.T),
            ("matmul(a, one)", lambda a, one: a @ one),
            ("linear(m, nt)", lambda m, n: m @ n),
            ("linear(m, nt, bias)", lambda m, n, bias: m @ n + bias),
            ("linear(m, nt, v)", lambda m, n, v: m @ n + v),
            ("linear(m, nt, 2.0)", lambda m, n: m @ n + 2),
        ],
        inputs | turned,
        {"bias": normal(1, 5), "v": v, "one": normal(1, 4, 2)},
    )


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_literals_take_the_type_of_what_they_are_used_with(dtype: str) -> None:
    x, w = X.astype(dtype), CHANNELS.astype(dtype)
    text = document_text(
        ["y = max(mul(add(x, w), 0.5), 0.25);", "c = lt(x, 0.5);"], {"x": x}, {"w": w}, ["y", "c"]
    )
    from tests.models.exchange.nnef_texts import read  # whose document is told the types

    state = read(text, {"w": w})
    document_of(state).types.update(x=dtype, y=dtype)
    from tensorkeep.models.exchange.nnef_to_onnx import translate
    from tensorkeep.models.exchange.report import Report

    model = translate(state, Report("nnef", "onnx"))
    given = tk.run(model, {"x": x})
    assert given["y"].dtype == dtype
    expected = np.maximum((x + left(w, 4)) * x.dtype.type(0.5), x.dtype.type(0.25))
    np.testing.assert_allclose(given["y"], expected, rtol=1e-3)
    np.testing.assert_array_equal(given["c"], x < 0.5)
