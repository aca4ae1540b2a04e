"""NNEF's operations on shapes in ONNX, against NumPy."""

import numpy as np
import pytest
from tests.models.exchange.nnef_texts import check_cases, document_text, to_onnx

import tensorkeep as tk
from tensorkeep.errors import TranslationError

X = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
M = X % 3 == 0
I = (X * 7 % 11).astype(np.int64)  # noqa: E741
INPUTS = {"x": X, "m": M, "i": I}


def test_reshape_and_transpose() -> None:
    check_cases(
        [
            ("reshape(x, shape = [6, 20])", lambda x: x.reshape(6, 20)),
            ("reshape(x, shape = [0, -1])", lambda x: x.reshape(2, 60)),
            ("reshape(x, shape = [-1])", lambda x: x.reshape(-1)),
            ("reshape(x, shape = [0, 0, 20])", lambda x: x.reshape(2, 3, 20)),
            (
                "reshape(x, shape = [-1], axis_start = 1, axis_count = 2)",
                lambda x: x.reshape(2, 12, 5),
            ),
            (
                "reshape(x, shape = [2, 0, -1], axis_start = 2)",
                lambda x: x.reshape(2, 3, 2, 5, 2),
            ),
            (
                "reshape(x, shape = [1, 1], axis_start = 4, axis_count = 0)",
                lambda x: x.reshape(2, 3, 4, 5, 1, 1),
            ),
            (
                "reshape(x, shape = [1], axis_start = 1, axis_count = 0)",
                lambda x: x.reshape(2, 1, 3, 4, 5),
            ),
            ("reshape(m, shape = [120])", lambda m: m.reshape(120)),
            ("transpose(x, axes = [0, 2, 3, 1])", lambda x: x.transpose(0, 2, 3, 1)),
            ("transpose(x, axes = [1, 0])", lambda x: x.transpose(1, 0, 2, 3)),
            ("transpose(i, axes = [])", lambda i: i),
            ("squeeze(o, axes = [0, 2])", lambda o: o[0, :, 0]),
            ("squeeze(o, axes = [2])", lambda o: o[:, :, 0]),
            ("squeeze(o, axes = [])", lambda o: o),
            ("unsqueeze(x, axes = [0, 2, 6])", lambda x: x.reshape(1, 2, 1, 3, 4, 5, 1)),
            ("unsqueeze(x, axes = [])", lambda x: x),
            ("tile(x, repeats = [1, 2, 1, 3])", lambda x: np.tile(x, (1, 2, 1, 3))),
            ("tile(m, repeats = [2, 1, 1, 1])", lambda m: np.tile(m, (2, 1, 1, 1))),
        ],
        INPUTS | {"o": X[:1, :, :1]},
    )


def test_joining_and_cutting() -> None:
    check_cases(
        [
            ("concat([x, x, y], axis = 1)", lambda x, y: np.concatenate([x, x, y], 1)),
            ("concat([i, i], axis = 3)", lambda i: np.concatenate([i, i], 3)),
            ("stack([x, x], axis = 0)", lambda x: np.stack([x, x], 0)),
            ("stack([x, x], axis = 4)", lambda x: np.stack([x, x], 4)),
            ("slice(x, axes = [1], begin = [1], end = [0])", lambda x: x[:, 1:]),
            ("slice(x, axes = [1, 3], begin = [0, 1], end = [2, 3])", lambda x: x[:, :2, :, 1:3]),
            ("slice(x, axes = [3], begin = [-2], end = [0])", lambda x: x[..., -2:]),
            ("slice(x, axes = [3], begin = [1], end = [-1])", lambda x: x[..., 1:-1]),
            ("slice(x, axes = [3], begin = [0], end = [99])", lambda x: x),
            (
                "slice(x, axes = [3], begin = [0], end = [5], stride = [2])",
                lambda x: x[..., 0:5:2],
            ),
            (
                "slice(x, axes = [2, 3], begin = [-1, 4], end = [-5, 1], stride = [-1, -2])",
                lambda x: x[:, :, ::-1, 4:1:-2],
            ),
            (
                "slice(x, axes = [2], begin = [3], end = [0], stride = [-1])",
                lambda x: x[:, :, 3:0:-1],
            ),
            ("slice(m, axes = [], begin = [], end = [])", lambda m: m),
            ("gather(x, j)", lambda x, j: x[j]),
            ("gather(x, j, axis = 2)", lambda x, j: np.take(x, j, 2)),
            (
                "gather(i, argmax_reduce(x, axes = [0]), axis = 1)",
                lambda i, x: i[:, x.argmax(0)[None]],
            ),
        ],
        INPUTS | {"y": X[:, :2]},
        {"j": np.array([[1, 0], [0, 1]])},
    )


def test_arrays_of_tensors() -> None:
    lines = [
        "[a, b] = split(x, axis = 3, ratios = [2, 3]);",
        "[c, d] = split(x, axis = 2, ratios = [1, 1]);",
        "[g, h, k] = unstack(x, axis = 1);",
        "[p, q] = copy_n(m, times = 2);",
    ]
    names = list("abcdghkpq")
    inputs = {"x": X, "m": M}
    model = to_onnx(document_text(lines, inputs, {}, names))
    assert not tk.models.check(model)
    given = tk.run(model, inputs)
    expected = [X[..., :2], X[..., 2:], X[:, :, :2], X[:, :, 2:], X[:, 0], X[:, 1], X[:, 2], M, M]
    for name, array in zip(names, expected, strict=True):
        np.testing.assert_array_equal(given[name], array)


def test_padding() -> None:
    padding = "padding = [(0, 0), (1, 2), (2, 1), (0, 3)]"
    pairs = [(0, 0), (1, 2), (2, 1), (0, 3)]
    check_cases(
        [
            (f"pad(x, {padding})", lambda x: np.pad(x, pairs)),
            (f"pad(x, {padding}, value = 2.5)", lambda x: np.pad(x, pairs, constant_values=2.5)),
            (f"pad(x, {padding}, border = 'reflect')", lambda x: np.pad(x, pairs, "reflect")),
            (f"pad(x, {padding}, border = 'replicate')", lambda x: np.pad(x, pairs, "edge")),
            (
                f"pad(x, {padding}, border = 'reflect-even')",
                lambda x: np.pad(x, pairs, "symmetric"),
            ),
            ("pad(x, padding = [(0, 0), (0, 0), (0, 0), (0, 0)])", lambda x: x),
            (
                "pad(x, padding = [(0, 0), (3, 3), (0, 0), (5, 5)], border = 'reflect-even')",
                lambda x: np.pad(x, [(0, 0), (3, 3), (0, 0), (5, 5)], "symmetric"),
            ),
        ],
        INPUTS,
    )


def test_casts_and_constants() -> None:
    check_cases(
        [
            ("cast<integer>(x)", lambda x: x.astype(np.int64)),
            ("cast<scalar>(i)", lambda i: i.astype(np.float32)),
            ("cast<scalar>(m)", lambda m: m.astype(np.float32)),
            ("cast<logical>(x)", lambda x: x != 0),
            ("cast<integer>(m)", lambda m: m.astype(np.int64)),
            (
                "constant(shape = [2, 2], value = [1.0, 2.0, 3.0, 4.0])",
                lambda: np.array([[1, 2], [3, 4]], np.float32),
            ),
            ("constant(shape = [2, 3], value = [0.5])", lambda: np.full((2, 3), np.float32(0.5))),
            ("constant(shape = [], value = [0.5])", lambda: np.float32(0.5)),
            ("constant<integer>(shape = [3], value = [1, -2, 3])", lambda: np.array([1, -2, 3])),
            (
                "constant<logical>(shape = [2], value = [true, false])",
                lambda: np.array([True, False]),
            ),
            ("constant(shape = [40, 50], value = [2.0])", lambda: np.full((40, 50), np.float32(2))),
        ],
        INPUTS,
    )


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("reshape(x, shape = [7, -1])", "[7, -1], which has not as many elements"),
        ("reshape(x, shape = [-1, -1])", "[-1, -1], which is none"),
        ("reshape(x, shape = [2], axis_start = 9)", "axis_start = 9 of 4 axes"),
        ("transpose(x, axes = [0, 0])", "no order of the first axes"),
        ("squeeze(x, axes = [1])", "takes away axis 1, whose size is 3"),
        ("squeeze(x, axes = [7])", "axis 7 is not one of 4"),
        ("unsqueeze(x, axes = [1, 0])", "not in order. Sort them."),
        ("concat([x, reshape(x, shape = [120])], axis = 0)", "joins shapes [2, 3, 4, 5] and [120]"),
        ("stack([x, slice(x, axes = [0], begin = [0], end = [1])], axis = 0)", "different shapes"),
        ("slice(x, axes = [1], begin = [2], end = [1])", "cuts 2 to 1 by 1 of an axis of 3"),
        ("slice(x, axes = [1], begin = [0], end = [0], stride = [2])", "Write end = 3."),
        ("slice(x, axes = [1], begin = [0], end = [1], stride = [0])", "a stride of 0"),
        ("tile(x, repeats = [1, 0, 1, 1])", "has repeats [1, 0, 1, 1]"),
        ("pad(x, padding = [(0, 0)])", "padding for 1 axes, where there are 4"),
        ("pad(x, padding = [(0,0), (0,0), (0,0), (0,5)], border = 'reflect')", "reflects 5 of"),
        ("pad(x, padding = [(0,0), (0,0), (0,0), (0,-1)])", "cannot be negative"),
        ("pad(x, padding = [(0,0), (0,0), (0,0), (0,1)], border = 'wrap')", "border = wrap"),
        ("gather(x, i, axis = 4)", "axis 4 is not one of 4"),
        ("matmul(x, reshape(x, shape = [120, 1]))", "multiplies shapes"),
        ("matmul(x, x)", "matrices of 4 x 5 and 4 x 5"),
        ("linear(x, x)", "by a filter of"),
        ("add(x, reshape(x, shape = [3, 40]))", "do not fit one another"),
        ("constant(shape = [3], value = [1.0, 2.0])", "has 2 values for shape [3]"),
        ("constant(shape = [0], value = [1.0])", "0 is no size"),
        ("argmax_reduce(x, axes = [1, 2])", "finds a place over axes [1, 2]"),
        ("prelu(x, reshape(x, shape = [2, 3, 4, 5, 1]))", "has slopes of shape"),
        ("tile(" * 9 + "x" + ", repeats = [2000000000, 1, 1, 1])" * 9, "which no array can have"),
    ],
)
def test_what_contradicts_itself_is_refused(expression: str, told: str) -> None:
    with pytest.raises(TranslationError) as caught:
        to_onnx(document_text([f"y = {expression};"], INPUTS, {}, ["y"]))
    assert told in str(caught.value)
