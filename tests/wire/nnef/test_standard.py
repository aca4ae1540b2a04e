"""The standard operations against those of the nnef package: signatures, and their bodies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nnef
import numpy as np
import pytest
from tests.wire.nnef.flat import Flat, graph, ours, theirs

from tensorkeep.wire.nnef.fragments import has_body, standard
from tensorkeep.wire.nnef.syntax import Fragment, holds_tensors

_SAMPLES = {
    "tensor<scalar>": "x", "tensor<logical>": "b", "tensor<integer>": "i", "tensor<?>": "x",
    "tensor<>": "x", "tensor<?>[]": "[x, x]", "tensor<scalar>[]": "[x, x]", "integer": "2",
    "integer[]": "[1, 2]", "(integer,integer)[]": "[(0, 1)]", "string": "'s'", "scalar": "0.5",
    "logical": "true", "?[]": "[1.0]",
}  # fmt: skip
_DECLARED = (
    "v = variable(shape = [2, 3], label = 'v'); b = x < x; i = argmax_reduce(x, axes = [1]);"
)


def _call(fragment: Fragment, number: int, required: bool) -> str:
    given = [
        f"{each.name} = {_SAMPLES[str(each.type)]}"
        for each in fragment.parameters
        if each.required or not required
    ]
    dtype = "<scalar>" if fragment.name == "cast" else ""
    names = [f"{each.name}_{number}" for each in fragment.results]
    if str(fragment.results[0].type).endswith("[]"):
        names = [f"[{names[0]}, {names[0]}b]"]
    arguments = ", ".join(given).replace("variable = x", "variable = v")
    return f"{', '.join(names)} = {fragment.name}{dtype}({arguments}); "


@pytest.mark.parametrize("required", [True, False])
def test_all_signatures_are_those_of_the_nnef_package(required: bool) -> None:
    fragments = [each for each in standard().values() if each.name != "external"]
    body = "".join(_call(each, place, required) for place, each in enumerate(fragments))
    text = graph(f"{_DECLARED} {body} y = copy(x);")
    assert ours(text) == theirs(text)


def test_no_operation_is_missing() -> None:
    missing = set(nnef.StandardOperations) - set(standard())
    assert missing == {"avg_unpool", "max_unpool"}  # which have no signature there either


@pytest.mark.parametrize(
    "call",
    [
        "nearest_downsample(x, factor = [2, 3])",
        "area_downsample(x, factor = [2, 3])",
        "nearest_upsample(x, factor = [2])",
        "max_pool(x, size = [1, 1, 2, 2], border = 'ignore', stride = [1, 1, 2, 2])",
        "avg_pool(x, size = [1, 2], padding = [(0, 0), (1, 1)])",
        "rms_pool(x, size = [1, 2], dilation = [1, 2])",
        "separable_conv(x, x, x, x, stride = [2, 1], groups = 2)",
        "separable_deconv(x, x, x, output_shape = [1, 2], dilation = [2, 2])",
        "linear(x, x, x)",
        "mean_reduce(x, axes = [1])",
        "clamp(x, 0.0, x)",
        "local_contrast_normalization(x, size = [1, 3])"
    ],
)  # fmt: skip
def test_what_is_moved_about_is_made_of_the_same(call: str) -> None:
    text = graph(f"y = {call};")
    name = call.partition("(")[0]
    expand = [name, "max_pool_with_index", "avg_pool"]
    if name == "local_contrast_normalization":
        assert [each[0] for each in ours(text, [name])] == [
            each[0] for each in theirs(text, [name])
        ]
        return
    assert ours(text, expand) == theirs(text, expand)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "pow": np.power,
    "exp": np.exp, "log": np.log, "abs": np.abs, "sign": np.sign, "neg": np.negative,
    "round": np.round, "ceil": np.ceil, "lt": np.less, "gt": np.greater, "copy": np.copy,
    "cast": np.asarray,
}  # fmt: skip


def _run(operations: Flat, x: np.ndarray) -> np.ndarray:
    """Run flat operations; the box, which needs a window, is some function of its input."""
    values: dict[str, Any] = {}

    def value(given: Any) -> Any:
        return values.get(given, given) if isinstance(given, str) else given

    for name, arguments, results, _ in operations:
        key = next(iter(results.values()))
        if name == "external":
            values[key] = x + len(values)
        elif name in _FUNCTIONS:
            values[key] = _FUNCTIONS[name](*map(value, [arguments[k] for k in sorted(arguments)]))
        elif name == "select":
            given = (arguments[k] for k in ("condition", "true_value", "false_value"))
            values[key] = np.where(*map(value, given))
        elif name == "box":
            values[key] = value(arguments["input"]) * 0.37 + 0.11
        elif name == "constant":
            values[key] = np.reshape(arguments["value"], arguments["shape"])
        else:
            assert name.endswith("_reduce")
            reduce: Any = np.max if name == "max_reduce" else np.sum
            reduce = np.mean if arguments.get("normalize") else reduce
            axes = tuple(arguments["axes"])
            values[key] = reduce(value(arguments["input"]), axis=axes, keepdims=True)
    return np.asarray(values[key])


_FORMULAS = [
    "sqr(x)", "sqrt(x)", "rsqr(x)", "rsqrt(x)", "log2(x)", "relu(x)", "sigmoid(x)", "softplus(x)",
    "silu(x)", "gelu(x)",
    "min(x, z)", "max(x, z)", "clamp(x, 0.2, 0.6)", "softabs(x, epsilon = 0.1)", "softmax(x)",
    "softmax(x, axes = [0, 1])", "elu(x - 0.5)", "elu(x - 0.5, alpha = 0.3)", "selu(x - 0.5)",
    "prelu(x - 0.5, z)", "leaky_relu(x - 0.5, alpha = 0.3)", "mean_reduce(x, axes = [1])",
    "local_response_normalization(x, size = [1, 3], alpha = 0.4, beta = 0.7, bias = 2.0)",
    "local_mean_normalization(x, size = [1, 3])",
    "local_variance_normalization(x, size = [1, 3], bias = 0.2, epsilon = 0.6)",
    "local_contrast_normalization(x, size = [1, 3], bias = 0.2)",
    "l1_normalization(x, axes = [1], bias = 0.1, epsilon = 0.3)",
    "l2_normalization(x, axes = [1], bias = 0.1)",
    "batch_normalization(x, z, x, z, x, epsilon = 0.01)",
    "linear_quantize(x, 0.0, 0.7, bits = 3)",
    "min_max_linear_quantize(x, 0.1, 0.7, bits = 3, signed = false, symmetric = false)",
    "logarithmic_quantize(x, 1.0, bits = 2)",
    "add_n([x, z, x])", "add_n([x])",
]  # fmt: skip


@pytest.mark.parametrize("call", _FORMULAS)
def test_what_computes_is_made_so_that_it_computes_the_same(call: str) -> None:
    text = graph(f"y = {call};", "x, z")
    compounds = [name for name in standard() if has_body(name)]
    x = np.random.default_rng(5).uniform(0.05, 0.95, (2, 3))
    found, expected = (_run(read(text, compounds), x) for read in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_moments_are_mean_and_variance() -> None:
    text = graph("m, v = moments(x, axes = [1]); y = m + v;")
    x = np.random.default_rng(6).uniform(-1, 1, (2, 3))
    found = _run(ours(text, list(standard())), x)
    np.testing.assert_allclose(found, (x.mean(1) + x.var(1))[:, None])


@pytest.mark.parametrize(
    ("signed", "symmetric", "least", "most"),
    [(True, False, -8, 7), (True, True, -7, 7), (False, False, 0, 15)],
)
def test_a_zero_point_is_within_the_range_of_its_bits(
    signed: bool, symmetric: bool, least: int, most: int
) -> None:
    flags = f"signed = {str(signed).lower()}, symmetric = {str(symmetric).lower()}"
    text = graph(f"y = zero_point_linear_quantize(x, 3, 0.1, bits = 4, {flags});")
    x = np.linspace(-2, 2, 6).reshape(2, 3)
    expected = (np.clip(np.round(x / 0.1) + 3, least, most) - 3) * 0.1
    compounds = [name for name in standard() if has_body(name)]
    np.testing.assert_allclose(_run(ours(text, compounds), x), expected, atol=1e-12)


def test_regions_are_sampled_and_pooled() -> None:
    text = graph(
        "i = argmax_reduce(x, axes = [1]);"
        "y = avg_roi_align(x, x, i, output_size = [3, 4], sampling_rate = [2, 5]);"
    )
    names = ours(text, ["avg_roi_align"])
    assert [each[0] for each in names[-2:]] == ["roi_resample", "avg_pool"]
    assert names[-2][1]["output_size"] == [6, 20]
    assert names[-1][1]["stride"] == [1, 1, 2, 5]


def test_many_tensors_are_added_without_nesting() -> None:
    text = graph("y = add_n([x] * 1000);")
    assert [each[0] for each in ours(text, ["add_n"])] == ["external", *["add"] * 999]


def test_all_that_is_attribute_has_a_name() -> None:
    assert all(
        holds_tensors(result.type) for each in standard().values() for result in each.results
    )
