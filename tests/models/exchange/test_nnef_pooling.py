"""NNEF's pools in ONNX, over any axes, against loops in NumPy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.nnef_texts import Case, document_text, to_onnx
from tests.models.exchange.window_references import (
    argmax_pool,
    box,
    check,
    max_pool,
    sample,
    unpool,
)

import tensorkeep as tk
from tensorkeep.errors import TranslationError
from tensorkeep.models.opening import graph_of

RNG = np.random.default_rng(11)
BORDERS = ("constant", "ignore", "replicate", "reflect", "reflect-even")


def numbers(*shape: int) -> np.ndarray:
    return RNG.integers(-9, 5, shape).astype(np.float32)


X, Y, P, Q = numbers(2, 3, 5), numbers(2, 3, 5, 4), numbers(6, 5), numbers(1, 2, 3, 4, 3)
INPUTS = {"x": X, "y": Y, "p": P, "q": Q}
# size, and padding, stride and dilation where they are given
WINDOWS: list[tuple[str, dict[str, Any]]] = [
    ("x", {"size": [1, 1, 2]}),
    ("x", {"size": [1, 1, 2], "stride": [1, 1, 2]}),
    ("x", {"size": [1, 1, 3], "padding": [(0, 0), (0, 0), (1, 2)], "stride": [1, 1, 2]}),
    ("x", {"size": [1, 3, 1]}),
    ("x", {"size": [2, 2, 2], "stride": [2, 1, 1]}),
    ("y", {"size": [1, 1, 3, 3], "stride": [1, 1, 2, 2]}),
    ("y", {"size": [1, 1, 2, 2], "padding": [(0, 0), (0, 0), (0, 1), (1, 0)]}),
    ("y", {"size": [1, 1, 2, 3], "dilation": [1, 1, 3, 2]}),
    ("y", {"size": [1, 1, 1, 2], "padding": [(0, 0), (0, 0), (0, 0), (3, 2)]}),
    ("y", {"size": [1, 1, 2, 2], "padding": [(0, 0), (0, 0), (-1, 1), (0, -1)]}),
    ("y", {"size": [1, 2, 1, 3], "dilation": [1, 2, 1, 1]}),
    ("y", {"size": [2, 3, 2, 2]}),
    ("y", {"size": [1, 1, 1, 1], "stride": [1, 1, 2, 3]}),
    ("y", {"size": [1, 1, 1, 1]}),
    ("p", {"size": [2, 3], "stride": [2, 2]}),
    ("q", {"size": [1, 1, 2, 2, 2]}),
    ("q", {"size": [1, 2, 2, 3, 2], "stride": [1, 1, 2, 1, 2]}),
]


def named(operation: str, name: str, given: dict[str, Any], **more: Any) -> str:
    words = "".join(f", {key} = {value!r}" for key, value in (given | more).items())
    return f"{operation}({name}{words.replace('True', 'true').replace('False', 'false')})"


def cases_of(operation: str, reference: Callable[..., np.ndarray], **more: Any) -> list[Case]:
    """Give a case for each window, with a function whose argument is called as the tensor."""
    cases = []
    for name, given in WINDOWS:
        if more.get("border") in ("reflect", "reflect-even") and max(given["size"]) == 1:
            continue
        if more.get("border") == "ignore" and given.get("padding", [])[2:] == [(0, 0), (3, 2)]:
            continue  # nothing of it is in the tensor
        if more.get("border") == "reflect" and given.get("padding", [])[2:] == [(0, 0), (3, 2)]:
            continue
        if more.get("border") == "reflect" and name in ("y", "x") and given["size"][0] == 2:
            continue
        scope = {"reference": reference, "given": given | more}
        cases.append(
            (
                named(operation, name, given, **more),
                eval(f"lambda {name}: reference({name}, **given)", scope),
            )
        )
    return cases


@pytest.mark.parametrize("border", BORDERS)
def test_maxima(border: str) -> None:
    check(cases_of("max_pool", max_pool, border=border), INPUTS)


@pytest.mark.parametrize("border", BORDERS)
def test_places_of_maxima(border: str) -> None:
    check(cases_of("argmax_pool", argmax_pool, border=border), INPUTS)


@pytest.mark.parametrize("border", BORDERS)
def test_sums(border: str) -> None:
    check(cases_of("box", box, border=border, normalize=False), INPUTS)


@pytest.mark.parametrize("border", BORDERS)
def test_means(border: str) -> None:
    check(cases_of("box", box, border=border, normalize=True), INPUTS)


def test_named_pools() -> None:
    around = "size = [1, 1, 3, 3], border = 'ignore', stride = [1, 1, 2, 1]"
    given: dict[str, Any] = {
        "size": [1, 1, 3, 3],
        "border": "ignore",
        "stride": [1, 1, 2, 1],
        "normalize": True,
    }
    check(
        [
            (f"avg_pool(y, {around})", lambda y: box(y, **given)),
            (f"rms_pool(y, {around})", lambda y: np.sqrt(box(y * y, **given))),
            ("avg_pool(y, size = [1, 1, 2, 2])", lambda y: box(y, [1, 1, 2, 2], normalize=True)),
            ("rms_pool(p, size = [3, 1])", lambda p: np.sqrt(box(p * p, [3, 1], normalize=True))),
        ],
        INPUTS,
    )


def test_maxima_with_their_places() -> None:
    lines = ["m, i = max_pool_with_index(y, size = [1, 1, 2, 2], border = 'ignore');"]
    lines += ["s = sample(y, i, size = [1, 1, 2, 2], border = 'ignore');"]
    model = to_onnx(document_text(lines, {"y": Y}, {}, ["m", "i", "s"]))
    given = tk.run(model, {"y": Y})
    np.testing.assert_array_equal(given["m"], max_pool(Y, [1, 1, 2, 2], "ignore"))
    np.testing.assert_array_equal(given["i"], argmax_pool(Y, [1, 1, 2, 2], "ignore"))
    np.testing.assert_array_equal(given["s"], given["m"])


def test_the_first_of_equal_elements_is_the_greatest() -> None:
    x = np.zeros((1, 1, 4), np.float32)
    lines = ["i = argmax_pool(x, size = [1, 1, 3], padding = [(0, 0), (0, 0), (1, 1)]);"]
    lines += [lines[0].replace("i =", "j =").replace("size", "border = 'ignore', size")]
    given = tk.run(to_onnx(document_text(lines, {"x": x}, {}, ["i", "j"])), {"x": x})
    assert given["i"].tolist() == [[[0, 0, 0, 0]]]
    assert given["j"].tolist() == [[[1, 0, 0, 0]]]


SAMPLED: list[tuple[str, dict[str, Any]]] = [
    ("x", {"size": [1, 1, 3], "stride": [1, 1, 2]}),
    ("x", {"size": [2, 1, 2], "padding": [(0, 0), (0, 0), (1, 1)], "stride": [2, 1, 2]}),
    ("y", {"size": [1, 1, 2, 3], "stride": [1, 1, 2, 2], "dilation": [1, 1, 2, 1]}),
    ("y", {"size": [1, 3, 2, 2], "padding": [(0, 0), (0, 0), (-1, 0), (0, 2)]}),
    ("y", {"size": [1, 1, 1, 1]}),
    ("p", {"size": [2, 2], "stride": [2, 2], "padding": [(0, 0), (0, 1)]}),
]


def test_samples() -> None:
    lines, inputs, expected = [], {}, {}
    for number, (name, given) in enumerate(SAMPLED):
        for border in ("constant", "replicate"):
            out, index = f"r{number}{border[0]}", f"i{number}{border[0]}"
            narrow = argmax_pool(INPUTS[name], border=border, **given).shape
            inputs[index] = RNG.integers(0, np.prod(given["size"]), narrow)
            inputs[name] = INPUTS[name]
            lines.append(named(f"{out} = sample", f"{name}, {index}", given, border=border) + ";")
            expected[out] = sample(INPUTS[name], inputs[index], border=border, **given)
    model = to_onnx(document_text(lines, inputs, {}, list(expected)))
    given = tk.run(model, inputs)
    for out, array in expected.items():
        np.testing.assert_array_equal(given[out], array, err_msg=out)


SPREAD: list[tuple[str, dict[str, Any]]] = [
    ("x", {"size": [1, 1, 2], "stride": [1, 1, 2]}),
    ("x", {"size": [1, 1, 3], "stride": [1, 1, 2], "padding": [(0, 0), (0, 0), (1, 1)]}),
    ("x", {"size": [1, 1, 2], "stride": [1, 1, 3], "output_shape": [2, 3, 14]}),
    ("x", {"size": [2, 2, 2], "padding": [(0, 0), (0, 1), (-1, 1)]}),
    ("y", {"size": [1, 1, 2, 3], "stride": [1, 1, 2, 3], "dilation": [1, 1, 2, 1]}),
    ("y", {"size": [1, 1, 1, 1]}),
    ("p", {"size": [2, 2], "stride": [2, 1], "padding": [(0, 0), (0, 1)]}),
]


def test_sums_spread_out() -> None:
    cases = []
    for name, given in SPREAD:
        scope = {"unpool": unpool, "given": given, "count": np.float32(np.prod(given["size"]))}
        plain = eval(f"lambda {name}: unpool({name}, **given)", scope)
        mean = eval(f"lambda {name}: unpool({name}, **given) / count", scope)
        cases.append((named("debox", name, given), plain))
        cases.append((named("debox", name, given, border="ignore"), plain))
        cases.append((named("debox", name, given, normalize=True), mean))
    check(cases, INPUTS)


def test_samples_put_back() -> None:
    lines, inputs, expected = [], {}, {}
    for number, (name, given) in enumerate(SPREAD):
        index = f"i{number}"
        inputs[index] = RNG.integers(0, np.prod(given["size"]), INPUTS[name].shape)
        inputs[name] = INPUTS[name]
        lines.append(named(f"r{number} = desample", f"{name}, {index}", given) + ";")
        expected[f"r{number}"] = unpool(INPUTS[name], index=inputs[index], **given)
    model = to_onnx(document_text(lines, inputs, {}, list(expected)))
    given = tk.run(model, inputs)
    for out, array in expected.items():
        np.testing.assert_array_equal(given[out], array, err_msg=out)
        assert {v.name: v.axes for v in graph_of(model).outputs}[out] == array.shape


def test_a_plain_pool_is_one_node() -> None:
    lines = ["r = max_pool(y, size = [1, 1, 2, 2], border = 'ignore', stride = [1, 1, 2, 2]);"]
    lines += ["s = avg_pool(y, size = [1, 1, 2, 2], padding = [(0, 0), (0, 0), (0, 1), (1, 0)]);"]
    model = to_onnx(document_text(lines, {"y": Y}, {}, ["r", "s"]))
    kinds = [(node.op_type, *node.output) for node in graph_of(model).model.graph.node]
    assert kinds == [("MaxPool", "r"), ("AveragePool", "s")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("max_pool(x, size = [2, 2])", "size = [2, 2] for an input of shape [2, 3, 5]"),
        ("box(x, size = [1, 1, 0])", "size = [1, 1, 0], which is not positive"),
        ("box(x, size = [1, 1, 9], padding = [(0, 0), (0, 0), (0, 0)])", "does not fit into"),
        ("box(x, size = [1, 1, 3], padding = [(1, 1)])", "1 in padding, where 3 are expected"),
        ("max_pool(x, size = [1, 1, 3], border = 'wrap')", "border = wrap"),
        (
            "max_pool(x, size = [1, 1, 2], border = 'ignore', padding = [(0, 0), (0, 0), (2, 0)])",
            "windows that are all beyond an ignored border",
        ),
        ("debox(x, size = [1, 1, 3], border = 'reflect')", "is not defined for what enlarges"),
        ("debox(x, size = [1, 1, 3], border = 'ignore', normalize = true)", "leaves open"),
        ("debox(x, size = [1, 1, 99999999])", "a constant of 99,999,999 elements"),
        ("sample(x, i, size = [1, 1, 2], stride = [1, 1, 2])", "where [2, 3, 3] is expected"),
        ("argmax_pool(x, size = [1, 1, 99999999])", "a constant of 499,999,995 elements"),
    ],
)
def test_refused(line: str, reason: str) -> None:
    inputs = {"x": X, "i": np.zeros(X.shape, np.int64)}
    text = document_text([f"r = {line};"], inputs, {}, ["r"])
    with pytest.raises(TranslationError) as caught:
        to_onnx(text)
    assert reason in str(caught.value)
