"""NNEF's convolutions in ONNX, against loops in NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.nnef_texts import document_text, to_onnx
from tests.models.exchange.window_references import check, conv, deconv

import tensorkeep as tk
from tensorkeep.errors import TranslationError
from tensorkeep.models.opening import graph_of

RNG = np.random.default_rng(7)


def numbers(*shape: int) -> np.ndarray:
    return RNG.integers(-4, 5, shape).astype(np.float32)


X, Y, Z = numbers(2, 4, 7), numbers(1, 4, 5, 6), numbers(1, 2, 3, 4, 3)
WEIGHTS = {
    "w": numbers(6, 4, 3),
    "v": numbers(6, 2, 4),  # two groups
    "d": numbers(8, 1, 3),  # planes, twice as many
    "w2": numbers(3, 4, 3, 2),
    "d2": numbers(4, 1, 2, 3),
    "p2": numbers(6, 2, 1, 1),  # points, two groups
    "w3": numbers(2, 2, 2, 1, 3),
    "b": numbers(1, 6),
    "b1": numbers(6),
    "b2": numbers(1, 3),
    "one": numbers(1, 1),
}
INPUTS = {"x": X, "y": Y, "z": Z}


def test_convolutions_on_one_axis() -> None:
    check(
        [
            ("conv(x, w)", lambda x, w: conv(x, w)),
            ("conv(x, w, b)", lambda x, w, b: conv(x, w, b)),
            ("conv(x, w, b1, padding = [(0, 0)])",
             lambda x, w, b1: conv(x, w, b1, padding=[(0, 0)])),
            ("conv(x, w, 1.5, stride = [2])", lambda x, w: conv(x, w, 1.5, stride=[2])),
            ("conv(x, v, groups = 2)", lambda x, v: conv(x, v, groups=2)),
            ("conv(x, v, b, groups = 2, dilation = [2])",
             lambda x, v, b: conv(x, v, b, groups=2, dilation=[2])),
            ("conv(x, d, groups = 0)", lambda x, d: conv(x, d, groups=0)),
            ("conv(x, w, padding = [(4, 3)], stride = [2])",
             lambda x, w: conv(x, w, padding=[(4, 3)], stride=[2])),
            ("conv(x, w, padding = [(-1, 2)])", lambda x, w: conv(x, w, padding=[(-1, 2)])),
        ],
        INPUTS,
        WEIGHTS,
    )  # fmt: skip


def test_convolutions_on_several_axes() -> None:
    check(
        [
            ("conv(y, w2)", lambda y, w2: conv(y, w2)),
            ("conv(y, w2, b2, stride = [2, 1], padding = [(1, 0), (0, 1)], dilation = [1, 2])",
             lambda y, w2, b2: conv(y, w2, b2, stride=[2, 1], padding=[(1, 0), (0, 1)],
                                    dilation=[1, 2])),
            ("conv(y, d2, groups = 0)", lambda y, d2: conv(y, d2, groups=0)),
            ("conv(z, w3)", lambda z, w3: conv(z, w3)),
            ("conv(z, w3, stride = [1, 2, 2])", lambda z, w3: conv(z, w3, stride=[1, 2, 2])),
        ],
        INPUTS,
        WEIGHTS,
    )  # fmt: skip


def test_borders() -> None:
    def of(border: str) -> Callable[..., np.ndarray]:
        return lambda y, w2: conv(y, w2, border=border, padding=[(2, 1), (1, 0)], stride=[2, 2])

    check(
        [
            (f"conv(y, w2, border = '{border}', padding = [(2, 1), (1, 0)], stride = [2, 2])",
             of(border))
            for border in ("constant", "ignore", "replicate", "reflect", "reflect-even")
        ]
        + [
            ("conv(x, w, border = 'replicate', padding = [(-2, 3)])",
             lambda x, w: conv(x, w, border="replicate", padding=[(-2, 3)])),
            ("conv(x, w, border = 'reflect-even')", lambda x, w: conv(x, w, border="reflect-even")),
        ],
        INPUTS,
        WEIGHTS,
    )  # fmt: skip


def test_separable_convolutions() -> None:
    def split(y: np.ndarray, e: np.ndarray, p: np.ndarray, b: np.ndarray) -> Any:
        return conv(conv(y, e, groups=0, stride=[2, 1], dilation=[1, 2]), p, b)

    def spread(y: np.ndarray, d2: np.ndarray, q: np.ndarray, b4: np.ndarray) -> Any:
        planes = deconv(y, q)
        return deconv(planes, d2, b4, groups=0, stride=[2, 3], output_shape=[1, 4, 9, 16])

    variables = {"e": WEIGHTS["d2"][:, :, :, :2], "p": numbers(6, 4, 1, 1), "b": WEIGHTS["b"]}
    variables |= {"d2": WEIGHTS["d2"], "q": numbers(4, 4, 1, 1), "b4": numbers(1, 4)}
    separable = "separable_conv(y, e, p, b, stride = [2, 1], dilation = [1, 2])"
    back = "separable_deconv(y, d2, q, b4, stride = [2, 3], output_shape = [1, 4, 9, 16])"
    check([(separable, split), (back, spread)], INPUTS, variables)
    p2 = WEIGHTS["p2"]
    lines = ["r = separable_conv(y, d2, p2, groups = 2);"]
    weights = {"d2": WEIGHTS["d2"], "p2": p2}
    given = tk.run(to_onnx(document_text(lines, {"y": Y}, weights, ["r"]), weights), {"y": Y})
    expected = conv(conv(Y, WEIGHTS["d2"], groups=0), p2, groups=2)
    np.testing.assert_allclose(given["r"], expected, rtol=1e-5)


def test_deconvolutions() -> None:
    check(
        [
            ("deconv(s, w)", lambda s, w: deconv(s, w)),
            ("deconv(s, w, stride = [2])", lambda s, w: deconv(s, w, stride=[2])),
            ("deconv(s, w, stride = [5])", lambda s, w: deconv(s, w, stride=[5])),
            ("deconv(s, w, b4, stride = [5], dilation = [2])",
             lambda s, w, b4: deconv(s, w, b4, stride=[5], dilation=[2])),
            ("deconv(s, w, 0.5, padding = [(0, 0)])",
             lambda s, w: deconv(s, w, 0.5, padding=[(0, 0)])),
            ("deconv(s, w, padding = [(-2, 1)], stride = [2])",
             lambda s, w: deconv(s, w, padding=[(-2, 1)], stride=[2])),
            ("deconv(s, w, b4, padding = [(-2, 1)], stride = [2])",
             lambda s, w, b4: deconv(s, w, b4, padding=[(-2, 1)], stride=[2])),
            ("deconv(s, w, padding = [(1, 1)], stride = [2], output_shape = [2, 4, 8])",
             lambda s, w: deconv(s, w, padding=[(1, 1)], stride=[2], output_shape=[2, 4, 8])),
            ("deconv(s, w, stride = [2], output_shape = [2, 4, 7])",
             lambda s, w: deconv(s, w, stride=[2], output_shape=[2, 4, 7])),
            ("deconv(s, v, groups = 2, dilation = [2])",
             lambda s, v: deconv(s, v, groups=2, dilation=[2])),
        ],
        {"s": numbers(2, 6, 4)},
        {key: WEIGHTS[key] for key in ("w", "v")} | {"b4": numbers(1, 4)},
    )  # fmt: skip


def test_deconvolutions_on_several_axes() -> None:
    check(
        [
            ("deconv(y, d2, groups = 0, stride = [2, 2])",
             lambda y, d2: deconv(y, d2, groups=0, stride=[2, 2])),
            ("deconv(t, w2, padding = [(0, 1), (1, 0)], stride = [2, 3])",
             lambda t, w2: deconv(t, w2, padding=[(0, 1), (1, 0)], stride=[2, 3])),
            ("deconv(z, w3, stride = [2, 1, 1])", lambda z, w3: deconv(z, w3, stride=[2, 1, 1])),
        ],
        {"y": Y, "z": Z, "t": numbers(1, 3, 2, 3)},
        {key: WEIGHTS[key] for key in ("d2", "w2", "w3")},
    )  # fmt: skip


def test_planes_merged_by_a_deconvolution_follow_the_output_shape() -> None:
    """As many channels as the output has are the groups, where the input has more."""
    x, d = numbers(1, 8, 3), WEIGHTS["d"]
    lines = ["r = deconv(x, d, groups = 0, output_shape = [1, 4, 3]);"]
    model = to_onnx(document_text(lines, {"x": x}, {"d": d}, ["r"]), {"d": d})
    expected = deconv(x, d, groups=0, output_shape=[1, 4, 3])
    np.testing.assert_allclose(tk.run(model, {"x": x})["r"], expected, rtol=1e-5)


def test_a_bias_of_one_number_is_added_to_all() -> None:
    x, w, one = X[:, :, :5], WEIGHTS["w"], np.array([[2.5]], np.float32)
    lines = ["r = conv(x, w, one, stride = [3]);", "t = deconv(r, w, one, stride = [2]);"]
    text = document_text(lines, {"x": x}, {"w": w, "one": one}, ["r", "t"])
    given = tk.run(to_onnx(text, {"w": w, "one": one}), {"x": x})
    np.testing.assert_allclose(given["r"], conv(x, w, one, stride=[3]), rtol=1e-5)
    np.testing.assert_allclose(given["t"], deconv(given["r"], w, one, stride=[2]), rtol=1e-5)


def test_a_plain_convolution_is_one_node() -> None:
    w, b = WEIGHTS["w2"], WEIGHTS["b2"]
    lines = ["r = conv(y, w, b, padding = [(1, 1), (0, 0)]);"]
    model = to_onnx(document_text(lines, {"y": Y}, {"w": w, "b": b}, ["r"]), {"w": w, "b": b})
    (node,) = graph_of(model).model.graph.node
    assert (node.op_type, list(node.input), list(node.output)) == ("Conv", ["y", "w", "b"], ["r"])
    assert model["b"].shape == (3,)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("conv(x, w, groups = 3)", "4 channels and a filter of [6, 4, 3] in 3 groups"),
        ("conv(x, w, b2)", "a bias of shape [1, 3], where [1, 6] is expected"),
        ("conv(x, w2)", "an input of shape [2, 4, 7] and a filter of [3, 4, 3, 2]"),
        ("conv(x, w, stride = [0])", "stride = [0], which is not positive"),
        ("conv(x, w, stride = [1, 1])", "2 in stride, where 1 are expected"),
        ("conv(x, w, dilation = [9], padding = [(0, 0)])", "[3] that does not fit into [7]"),
        ("conv(x, w, padding = [(-9, 0)])", "that does not fit"),
        ("conv(x, w, border = 'mirror')", "border = mirror"),
        ("conv(x, w, border = 'reflect', padding = [(7, 0)])", "reflects 7 elements"),
        ("deconv(x, w)", "4 channels and a filter of [6, 4, 3] in 1 groups"),
        ("deconv(x, w9, border = 'replicate')", "border 'replicate', which is not defined"),
        ("deconv(x, w9, output_shape = [2, 5, 9])", "[2, 2] come first"),
        ("deconv(x, w9, output_shape = [2, 2, 90])", "where there are [7]"),
    ],
)
def test_refused(line: str, reason: str) -> None:
    weights = WEIGHTS | {"w9": numbers(4, 2, 3)}
    text = document_text([f"r = {line};"], {"x": X}, weights, ["r"])
    with pytest.raises(TranslationError) as caught:
        to_onnx(text, weights)
    assert reason in str(caught.value)
