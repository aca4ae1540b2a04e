"""NNEF's quantizations in ONNX: as operations, and as graph.quant says them of tensors."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.models.exchange.nnef_texts import check_model, document_text, read, to_onnx
from tests.models.exchange.window_references import check

import tensorkeep as tk
from tensorkeep import State
from tensorkeep.errors import TranslationError
from tensorkeep.models.exchange.nnef_to_onnx import translate
from tensorkeep.models.exchange.report import Report
from tensorkeep.models.opening import graph_of
from tensorkeep.wire.nnef.document import Document
from tensorkeep.wire.nnef.operations import Quantization, Reference

RNG = np.random.default_rng(13)
X = np.concatenate(
    [
        RNG.normal(scale=3, size=20).astype(np.float32),
        np.array([0, 0.25, -0.25, 0.75, 1.25, -1.25, 100, -100, 1.5, 2.5], np.float32),
    ]
).reshape(2, 3, 5)
S = X * np.float32(0.9137)  # nothing of it is half way between levels of a range
LOW = np.array([[-1.0, -2.0, 0.0]], np.float32)
HIGH = np.array([[1.0, 3.0, 4.0]], np.float32)
SCALE = np.array([[0.1, 0.25, 0.5]], np.float32)
ZERO = np.array([[0, 3, -2]], np.int64)
VARIABLES: dict[str, np.ndarray] = {"low": LOW, "high": HIGH, "scale": SCALE, "zero": ZERO}


def halves_away(x: np.ndarray) -> Any:
    return np.sign(x) * np.floor(np.abs(x) + np.float32(0.5))


def laid(given: npt.ArrayLike) -> Any:
    array = np.asarray(given, np.float32)
    return array.reshape(*array.shape, *[1] * (3 - array.ndim)) if array.ndim else array


def by_range(
    x: np.ndarray,
    low: Any,
    high: Any,
    bits: int,
    signed: bool = False,
    symmetric: bool = False,
    rounded: Callable[..., Any] = halves_away,
) -> Any:
    low, high = laid(low), laid(high)
    steps = np.float32(2**bits - 1 - (signed and symmetric))
    level = rounded((np.clip(x, low, high) - low) / (high - low) * steps)
    return (level / steps * (high - low) + low).astype(np.float32)


def by_zero_point(
    x: np.ndarray,
    zero: Any,
    scale: Any,
    bits: int,
    signed: bool,
    symmetric: bool,
    rounded: Callable[..., Any] = halves_away,
) -> Any:
    zero, scale = laid(zero), laid(scale)
    most = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    least = (-most if symmetric else -most - 1) if signed else 0
    level = np.clip(rounded(x / scale) + zero, least, most)
    return ((level - zero) * scale).astype(np.float32)


def logarithmic(x: np.ndarray, high: Any, bits: int) -> Any:
    most = np.ceil(np.log2(laid(high).astype(np.float64)))
    with np.errstate(divide="ignore"):
        level = halves_away(np.clip(np.log2(np.abs(x)), most - (2**bits - 1), most))
    return (np.sign(x) * 2.0**level).astype(np.float32)


def test_by_a_range() -> None:
    minmax = "min_max_linear_quantize"
    check(
        [
            ("linear_quantize(x, -2.0, 3.0, bits = 8)", lambda x: by_range(x, -2, 3, 8)),
            ("linear_quantize(x, low, high, bits = 4)",
             lambda x, low, high: by_range(x, low, high, 4)),
            ("linear_quantize(x, -1.0, high, bits = 2)", lambda x, high: by_range(x, -1, high, 2)),
            (f"{minmax}(x, low, high, bits = 8, signed = true, symmetric = true)",
             lambda x, low, high: by_range(x, low, high, 8, True, True)),
            (f"{minmax}(x, -4.0, 4.0, bits = 3, signed = true, symmetric = false)",
             lambda x: by_range(x, -4, 4, 3, True, False)),
            (f"{minmax}(x, 0.0, 5.0, bits = 16, signed = false, symmetric = true)",
             lambda x: by_range(x, 0, 5, 16, False, True)),
        ],
        {"x": S},
        VARIABLES,
    )  # fmt: skip


def test_by_a_zero_point() -> None:
    name = "zero_point_linear_quantize"
    check(
        [
            (f"{name}(x, 0, 0.5, bits = 8, signed = true, symmetric = false)",
             lambda x: by_zero_point(x, 0, 0.5, 8, True, False)),
            (f"{name}(x, 3, 0.5, bits = 8, signed = false, symmetric = false)",
             lambda x: by_zero_point(x, 3, 0.5, 8, False, False)),
            (f"{name}(x, zero, scale, bits = 5, signed = true, symmetric = true)",
             lambda x, zero, scale: by_zero_point(x, zero, scale, 5, True, True)),
            (f"{name}(x, zero, 0.25, bits = 2, signed = true, symmetric = false)",
             lambda x, zero: by_zero_point(x, zero, 0.25, 2, True, False)),
        ],
        {"x": X},
        VARIABLES,
    )  # fmt: skip


def test_by_powers_of_two() -> None:
    powers = np.array([[4.0, 5.0, 8.001]], np.float32)
    check(
        [
            ("logarithmic_quantize(x, 4.0, bits = 3)", lambda x: logarithmic(x, 4, 3)),
            ("logarithmic_quantize(x, 5.0, bits = 2)", lambda x: logarithmic(x, 5, 2)),
            ("logarithmic_quantize(x, 0.3, bits = 8)", lambda x: logarithmic(x, 0.3, 8)),
            ("logarithmic_quantize(x, p, bits = 4)", lambda x, p: logarithmic(x, p, 4)),
        ],
        {"x": X},
        {"p": powers},
    )


def test_a_tensor_that_holds_the_greatest_power_of_two_is_not_rounded_up() -> None:
    """For whatever logarithms miss, above and below."""
    highs = (2.0 ** np.arange(-20, 22)).astype(np.float32)
    highs = np.stack([highs, np.nextafter(highs, np.float32(0)), np.nextafter(highs, np.inf)])
    x = np.full(highs.shape, 1e9, np.float32)
    check(
        [("logarithmic_quantize(y, p, bits = 8)", lambda y, p: 2.0 ** exact(p))],
        {"y": x},
        {"p": highs},
    )


def exact(highs: np.ndarray) -> Any:
    fractions, exponents = np.frexp(highs)
    return (exponents - (fractions == 0.5)).astype(np.float32)


def quantized(
    name: str,
    arguments: dict[str, Any],
    line: str = "y = copy(x);",
    variables: Mapping[str, np.ndarray] | None = None,
) -> tuple[State, Report]:
    """Translate a graph of which graph.quant says how a tensor is quantized."""
    text = document_text([line], {"x": X}, variables or {}, ["y"])
    state = read(text, variables or {})
    assert isinstance(state.document, Document)
    state.document.quantization["y"] = Quantization(name, arguments)
    report = Report("nnef", "onnx")
    model = translate(state, report)
    check_model(model)
    return model, report


def operators(model: State) -> list[str]:
    return [node.op_type for node in graph_of(model).model.graph.node]


RANGES = [
    ("linear_quantize", {"min": 0.0, "max": 5.0, "bits": 8}, True),
    ("linear_quantize", {"min": -2.0, "max": 3.0, "bits": 8}, True),
    ("linear_quantize", {"min": -2.11, "max": 3.0, "bits": 8}, False),
    ("linear_quantize", {"min": 1.0, "max": 3.0, "bits": 8}, False),
    ("linear_quantize", {"min": 0.0, "max": 5.0, "bits": 4}, False),
    ("min_max_linear_quantize",
     {"min": -4.0, "max": 4.0, "bits": 8, "signed": True, "symmetric": True}, True),
    ("min_max_linear_quantize",
     {"min": -4.0, "max": 4.0, "bits": 8, "signed": True, "symmetric": False}, False),
    ("min_max_linear_quantize",
     {"min": -4.0, "max": 0.0, "bits": 16, "signed": True, "symmetric": False}, True),
    ("zero_point_linear_quantize",
     {"zero_point": 5, "scale": 0.25, "bits": 8, "signed": False, "symmetric": False}, True),
    ("zero_point_linear_quantize",
     {"zero_point": 0, "scale": 0.25, "bits": 8, "signed": True, "symmetric": True}, True),
    ("zero_point_linear_quantize",
     {"zero_point": 0, "scale": 0.01, "bits": 16, "signed": True, "symmetric": False}, True),
    ("zero_point_linear_quantize",
     {"zero_point": 300, "scale": 0.01, "bits": 8, "signed": True, "symmetric": False}, False),
    ("logarithmic_quantize", {"max": 5.0, "bits": 8}, False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "plain"), RANGES)
def test_a_tensor_is_quantized_as_graph_quant_says(
    name: str, arguments: dict[str, Any], plain: bool
) -> None:
    model, report = quantized(name, arguments)
    given, x = dict(arguments), X if "scale" in arguments else S
    rounded = np.rint if plain else halves_away
    if name == "logarithmic_quantize":
        expected = logarithmic(x, 5, 8)
    elif "scale" in given:
        zero, scale = given.pop("zero_point"), given.pop("scale")
        expected = by_zero_point(x, zero, scale, **given, rounded=rounded)
    else:
        low, high = given.pop("min"), given.pop("max")
        expected = by_range(x, low, high, **given, rounded=rounded)
    np.testing.assert_allclose(tk.run(model, {"x": x})["y"], expected, rtol=1e-4, atol=1e-4)
    assert ("QuantizeLinear" in operators(model)) == plain
    assert any("halves become even" in str(remark) for remark in report.remarks) == plain
    assert [value.name for value in graph_of(model).outputs] == ["y"]


STORED = [
    ("linear_quantize", {"min": -2.0, "max": 3.0, "bits": 8}, "uint8", True),
    ("linear_quantize", {"min": 0.5, "max": 3.0, "bits": 8}, "uint8", False),
    ("linear_quantize", {"min": 0.0, "max": 3.0, "bits": 8}, "int64", False),
    ("min_max_linear_quantize",
     {"min": -4.0, "max": 4.0, "bits": 8, "signed": True, "symmetric": True}, "int8", True),
    ("zero_point_linear_quantize",
     {"zero_point": 5, "scale": 0.25, "bits": 8, "signed": True, "symmetric": False}, "int8", True),
    ("zero_point_linear_quantize",
     {"zero_point": 5, "scale": 0.25, "bits": 8, "signed": True, "symmetric": False}, "int32",
     False),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "dtype", "plain"), STORED)
def test_stored_integers_are_what_they_stand_for(
    name: str, arguments: dict[str, Any], dtype: str, plain: bool
) -> None:
    levels = np.array([0, 1, 50, 127], dtype)
    x = X[0, 0, :4]
    text = document_text(["y = add(x, v);"], {"x": x}, {"v": x}, ["y"])
    state = read(text, {"v": levels})
    assert isinstance(state.document, Document)
    state.document.quantization["v"] = Quantization(name, arguments)
    model = translate(state, Report("nnef", "onnx"))
    if "scale" in arguments:
        means = (levels.astype(np.float32) - 5) * np.float32(0.25)
    else:
        low, high = arguments["min"], arguments["max"]
        first, steps = (127, 254) if arguments.get("signed") else (0, 255)
        means = (levels.astype(np.float32) + first) / steps * (high - low) + low
    given = tk.run(model, {"x": x})["y"]
    np.testing.assert_allclose(given, x + means, rtol=1e-5, atol=1e-5)
    assert ("DequantizeLinear" in operators(model)) == plain
    assert model["v"].dtype.name == dtype


def test_numbers_for_channels_are_computed_with() -> None:
    variables = {"scale": SCALE}
    arguments = {"zero_point": 1, "scale": Reference("scale"), "bits": 8}
    arguments |= {"signed": True, "symmetric": False}
    model, _ = quantized(
        "zero_point_linear_quantize", arguments, line="y = mul(x, scale);", variables=variables
    )
    expected = by_zero_point(X * laid(SCALE), 1, SCALE, 8, True, False)
    np.testing.assert_allclose(tk.run(model, {"x": X})["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("linear_quantize(x, 1.0, 1.0, bits = 8)", "min = 1.0 and max = 1.0, between which"),
        ("linear_quantize(x, 0.0, 1.0, bits = 0)", "bits = 0, where 1 to 32 are expected"),
        ("linear_quantize(x, 0.0, 1.0, bits = 33)", "bits = 33"),
        ("linear_quantize(x, w, 1.0, bits = 8)", "shapes [2, 3, 5] and [1, 4] do not fit"),
        ("logarithmic_quantize(x, 0.0, bits = 8)", "max = 0.0, which has no logarithm"),
        ("min_max_linear_quantize(x, 0.0, 1.0, bits = 1, signed = true, symmetric = false)",
         "bits = 1"),
    ],
)  # fmt: skip
def test_refused(line: str, reason: str) -> None:
    variables = {"w": np.zeros((1, 4), np.float32)}
    text = document_text([f"r = {line};"], {"x": X}, variables, ["r"])
    with pytest.raises(TranslationError) as caught:
        to_onnx(text, variables)
    assert reason in str(caught.value)


def test_refused_of_graph_quant() -> None:
    with pytest.raises(
        TranslationError, match="quantized by round_quantize, which is no operation"
    ):
        quantized("round_quantize", {})
    with pytest.raises(TranslationError, match="has none in bits, where an integer"):
        quantized("linear_quantize", {"min": 0.0, "max": 1.0})
    with pytest.raises(TranslationError, match="has scale = None, where a number is expected"):
        quantized(
            "zero_point_linear_quantize",
            {"zero_point": 0, "bits": 8, "signed": True, "symmetric": False},
        )
    range_ = {"min": 0.0, "max": 1.0, "bits": 8}
    with pytest.raises(TranslationError, match="is quantized, but gives int64"):
        quantized("linear_quantize", range_, line="y = argmax_reduce(x, axes = [1]);")


def test_what_graph_quant_names_in_vain_is_told() -> None:
    state = read(document_text(["y = copy(x);"], {"x": X}, {}, ["y"]))
    assert isinstance(state.document, Document)
    state.document.quantization["z"] = Quantization("linear_quantize", {})
    report = Report("nnef", "onnx")
    translate(state, report)
    assert [(remark.kind, remark.name) for remark in report.remarks] == [("dropped", "z")]
