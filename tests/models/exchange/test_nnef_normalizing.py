"""NNEF's normalizations in ONNX, against NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.models.exchange.nnef_texts import document_text, to_onnx
from tests.models.exchange.window_references import box, check

from tensorkeep.errors import TranslationError
from tensorkeep.models.opening import graph_of

RNG = np.random.default_rng(5)


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


INPUTS = {"x": numbers(2, 6, 3, 4), "y": numbers(2, 5), "z": numbers(1, 3, 2, 2, 3)}
VARIABLES = {
    "m": numbers(1, 6),
    "v": np.abs(numbers(1, 6)) + 0.1,
    "o": numbers(1, 6),
    "s": numbers(1, 6),
    "m4": numbers(1, 6, 1, 1),
    "v5": np.abs(numbers(1, 5)) + 0.1,
    "plane": numbers(1, 6, 3),
}


def mean(x: np.ndarray, size: Sequence[int]) -> Any:
    return box(x, size, normalize=True)


def response(
    x: np.ndarray, size: Sequence[int], alpha: float = 1.0, beta: float = 0.5, bias: float = 1.0
) -> Any:
    return x / (bias + alpha * mean(x * x, size)) ** np.float32(beta)


def by_deviation(
    x: np.ndarray, size: Sequence[int], bias: float = 0.0, epsilon: float = 0.0
) -> Any:
    return x / np.maximum(np.sqrt(mean(x * x, size)) + np.float32(bias), np.float32(epsilon))


def contrast(x: np.ndarray, size: Sequence[int], bias: float = 0.0, epsilon: float = 0.0) -> Any:
    return by_deviation(x - mean(x, size), size, bias, epsilon)


def test_by_what_is_around() -> None:
    lrn = "local_response_normalization"
    check(
        [
            (f"{lrn}(x, size = [1, 5, 1, 1])", lambda x: response(x, [1, 5, 1, 1])),
            (f"{lrn}(x, size = [1, 3, 1, 1], alpha = 0.01, beta = 0.75, bias = 2.0)",
             lambda x: response(x, [1, 3, 1, 1], 0.01, 0.75, 2.0)),
            (f"{lrn}(x, size = [1, 4, 1, 1])", lambda x: response(x, [1, 4, 1, 1])),
            (f"{lrn}(x, size = [1, 1, 3, 3], alpha = 2.0)",
             lambda x: response(x, [1, 1, 3, 3], 2.0)),
            (f"{lrn}(z, size = [1, 3, 1, 1, 1])", lambda z: response(z, [1, 3, 1, 1, 1])),
            (f"{lrn}(y, size = [1, 3])", lambda y: response(y, [1, 3])),
            ("local_mean_normalization(x, size = [1, 1, 3, 2])",
             lambda x: x - mean(x, [1, 1, 3, 2])),
            ("local_mean_normalization(y, size = [2, 1])", lambda y: y - mean(y, [2, 1])),
            ("local_variance_normalization(x, size = [1, 1, 3, 3])",
             lambda x: by_deviation(x, [1, 1, 3, 3])),
            ("local_variance_normalization(x, size = [1, 3, 1, 1], bias = 0.5, epsilon = 1.2)",
             lambda x: by_deviation(x, [1, 3, 1, 1], 0.5, 1.2)),
            ("local_contrast_normalization(x, size = [1, 3, 1, 3], bias = 0.5)",
             lambda x: contrast(x, [1, 3, 1, 3], 0.5)),
            ("local_contrast_normalization(z, size = [1, 1, 2, 2, 2], epsilon = 0.9)",
             lambda z: contrast(z, [1, 1, 2, 2, 2], 0.0, 0.9)),
        ],
        INPUTS,
    )  # fmt: skip


def test_by_norms() -> None:
    def l1(x: np.ndarray, axes: Sequence[int], bias: float = 0.0, epsilon: float = 0.0) -> Any:
        norm = np.abs(x).sum(tuple(axes), keepdims=True) + np.float32(bias)
        return x / np.maximum(norm, np.float32(epsilon))

    def l2(x: np.ndarray, axes: Sequence[int], bias: float = 0.0, epsilon: float = 0.0) -> Any:
        norm = np.sqrt((x * x).sum(tuple(axes), keepdims=True)) + np.float32(bias)
        return x / np.maximum(norm, np.float32(epsilon))

    check(
        [
            ("l1_normalization(x, axes = [1])", lambda x: l1(x, [1])),
            ("l1_normalization(x, axes = [2, 3], bias = 0.5)", lambda x: l1(x, [2, 3], 0.5)),
            ("l1_normalization(x, axes = [])", lambda x: x / np.abs(x)),
            ("l1_normalization(y, axes = [0], epsilon = 2.0)", lambda y: l1(y, [0], 0.0, 2.0)),
            ("l2_normalization(x, axes = [1])", lambda x: l2(x, [1])),
            ("l2_normalization(x, axes = [1, 3], bias = -2.5, epsilon = 0.001)",
             lambda x: l2(x, [1, 3], -2.5, 0.001)),
            ("l2_normalization(z, axes = [0, 1, 2, 3, 4])", lambda z: l2(z, range(5))),
        ],
        INPUTS,
    )  # fmt: skip


def test_by_statistics() -> None:
    def laid(array: npt.ArrayLike, x: np.ndarray) -> Any:
        return np.reshape(array, (*np.shape(array), *[1] * (x.ndim - np.ndim(array))))

    def batch(
        x: np.ndarray,
        mean: npt.ArrayLike,
        variance: npt.ArrayLike,
        offset: npt.ArrayLike,
        scale: npt.ArrayLike,
        epsilon: float,
    ) -> Any:
        m, v, o, s = (
            laid(np.asarray(each, np.float32), x) for each in (mean, variance, offset, scale)
        )
        return (o + s * (x - m) / np.sqrt(v + np.float32(epsilon))).astype(np.float32)

    check(
        [
            ("batch_normalization(x, m, v, o, s, epsilon = 0.001)",
             lambda x, m, v, o, s: batch(x, m, v, o, s, 0.001)),
            ("batch_normalization(x, m4, v, 0.0, 1.0, epsilon = 0.25)",
             lambda x, m4, v: batch(x, m4, v, 0.0, 1.0, 0.25)),
            ("batch_normalization(x, plane, v, o, 2.0, epsilon = 0.0)",
             lambda x, plane, v, o: batch(x, plane, v, o, 2.0, 0.0)),
            ("batch_normalization(y, 0.5, v5, 0.25, 2.0, epsilon = 0.001)",
             lambda y, v5: batch(y, 0.5, v5, 0.25, 2.0, 0.001)),
            ("batch_normalization(y, 0.5, 4.0, 0.25, 2.0, epsilon = 0.0)",
             lambda y: batch(y, 0.5, 4.0, 0.25, 2.0, 0.0)),
        ],
        INPUTS,
        VARIABLES,
    )  # fmt: skip


def test_statistics_of_channels_are_one_node_and_initializers_of_one_axis() -> None:
    weights = {key: VARIABLES[key] for key in "mvos"}
    lines = ["r = batch_normalization(x, m, v, o, s, epsilon = 0.001);"]
    model = to_onnx(document_text(lines, {"x": INPUTS["x"]}, weights, ["r"]), weights)
    (node,) = graph_of(model).model.graph.node
    assert (node.op_type, list(node.input)) == ("BatchNormalization", ["x", "s", "o", "m", "v"])
    assert model["m"].shape == (6,)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("local_mean_normalization(y, size = [3])", "size = [3] for an input of shape [2, 5]"),
        ("local_response_normalization(y, size = [0, 3])", "which is not positive"),
        ("l2_normalization(y, axes = [2])", "axis 2 is not one of 2"),
        ("batch_normalization(y, m, 1.0, 0.0, 1.0, epsilon = 0.0)", "do not fit"),
        ("batch_normalization(y, plane, 1.0, 0.0, 1.0, epsilon = 0.0)", "do not fit"),
    ],
)
def test_refused(line: str, reason: str) -> None:
    text = document_text([f"r = {line};"], INPUTS, VARIABLES, ["r"])
    with pytest.raises(TranslationError) as caught:
        to_onnx(text, VARIABLES)
    assert reason in str(caught.value)
