"""NNEF's up- and downsampling in ONNX, against NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.nnef_texts import document_text, to_onnx
from tests.models.exchange.window_references import check

from tensorkeep.errors import TranslationError

RNG = np.random.default_rng(3)
INPUTS = {
    "x": RNG.normal(size=(2, 3, 6)).astype(np.float32),
    "y": RNG.normal(size=(1, 2, 4, 6)).astype(np.float32),
    "z": RNG.normal(size=(1, 2, 2, 4, 2)).astype(np.float32),
    "u": RNG.normal(size=(1, 1, 1, 3)).astype(np.float32),
}


def along(array: np.ndarray, axis: int, factor: int, method: str, border: str) -> Any:
    """Interpolate on one axis."""
    size = array.shape[axis]
    rows = np.moveaxis(array, axis, 0).astype(np.float64)
    made = []
    for at in range(size * factor):
        if method == "symmetric":
            x = (at + 0.5) / factor - 0.5
        elif method == "asymmetric":
            x = at / factor
        else:
            x = at * (size - 1) / (size * factor - 1) if size * factor > 1 else 0.0
        low = int(np.floor(x))
        total = 0.0
        for index, weight in ((low, low + 1 - x), (low + 1, x - low)):
            if 0 <= index < size:
                total = total + weight * rows[index]
            elif border == "replicate":
                total = total + weight * rows[min(max(index, 0), size - 1)]
        made.append(total + np.zeros_like(rows[0]))
    return np.moveaxis(np.stack(made), 0, axis)


def upsample(
    array: np.ndarray, factors: Sequence[int], method: str = "symmetric", border: str = "replicate"
) -> Any:
    for axis, factor in enumerate(factors, 2):
        if factor > 1:
            array = along(array, axis, factor, method, border)
    return array.astype(np.float32)


def repeated(array: np.ndarray, factors: Sequence[int]) -> Any:
    for axis, factor in enumerate(factors, 2):
        array = np.repeat(array, factor, axis)
    return array


def test_nearest_and_area() -> None:
    check(
        [
            ("nearest_downsample(x, factor = [3])", lambda x: x[:, :, ::3]),
            ("nearest_downsample(y, factor = [2, 3])", lambda y: y[:, :, ::2, ::3]),
            ("nearest_downsample(z, factor = [1, 2, 2])", lambda z: z[:, :, :, ::2, ::2]),
            ("area_downsample(x, factor = [2])", lambda x: x.reshape(2, 3, 3, 2).mean(-1)),
            ("area_downsample(y, factor = [2, 3])",
             lambda y: y.reshape(1, 2, 2, 2, 2, 3).mean((3, 5))),
            ("area_downsample(z, factor = [1, 1, 1])", lambda z: z),
            ("nearest_upsample(x, factor = [3])", lambda x: repeated(x, [3])),
            ("nearest_upsample(y, factor = [2, 3])", lambda y: repeated(y, [2, 3])),
            ("nearest_upsample(z, factor = [2, 1, 3])", lambda z: repeated(z, [2, 1, 3])),
            ("nearest_upsample(y, factor = [7, 5])", lambda y: repeated(y, [7, 5])),
        ],
        INPUTS,
    )  # fmt: skip


@pytest.mark.parametrize("border", ["replicate", "constant"])
@pytest.mark.parametrize("method", ["symmetric", "asymmetric", "aligned"])
def test_multilinear(method: str, border: str) -> None:
    cases = []
    for name, factors in [
        ("x", [2]),
        ("x", [3]),
        ("y", [2, 2]),
        ("y", [3, 4]),
        ("y", [1, 5]),
        ("y", [1, 1]),
        ("z", [2, 2, 2]),
        ("z", [3, 1, 2]),
        ("u", [2, 2]),
    ]:
        words = f"factor = {factors}, method = '{method}', border = '{border}'"
        scope = {"upsample": upsample, "given": (factors, method, border)}
        function = eval(f"lambda {name}: upsample({name}, *given)", scope)
        cases.append((f"multilinear_upsample({name}, {words})", function))
    check(cases, INPUTS)


def test_the_default_is_symmetric_and_replicated() -> None:
    check([("multilinear_upsample(y, factor = [2, 3])", lambda y: upsample(y, [2, 3]))], INPUTS)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("nearest_upsample(x, factor = [2, 2])", "factor = [2, 2] for an input of shape"),
        ("nearest_upsample(x, factor = [0])", "factor = [0] for an input of shape"),
        ("nearest_downsample(x, factor = [4])", "factor = [4], which does not divide [6]"),
        ("area_downsample(x, factor = [4])", "which does not divide [6]"),
        ("multilinear_upsample(x, factor = [2], method = 'cubic')", "method = cubic"),
        ("multilinear_upsample(x, factor = [2], border = 'reflect')", "border = reflect"),
        ("multilinear_upsample(w, factor = [2, 2, 2, 2])", "interpolates on 4 axes"),
    ],
)
def test_refused(line: str, reason: str) -> None:
    inputs = INPUTS | {"w": np.zeros((1, 1, 2, 2, 2, 2), np.float32)}
    with pytest.raises(TranslationError) as caught:
        to_onnx(document_text([f"r = {line};"], inputs, {}, ["r"]))
    assert reason in str(caught.value)
