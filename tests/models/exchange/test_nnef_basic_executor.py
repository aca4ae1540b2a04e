"""NNEF's basic operations in ONNX, against what the nnef package's own executor computes."""

from pathlib import Path
from typing import Any

import nnef
import numpy as np
import numpy.typing as npt
from tests.models.exchange.nnef_texts import document_text, to_onnx

import tensorkeep as tk

RNG = np.random.default_rng(23)
INPUTS: dict[str, npt.NDArray[Any]] = {
    "x": RNG.standard_normal((2, 3, 4, 5)).astype(np.float32),
    "p": np.abs(RNG.standard_normal((2, 3)).astype(np.float32)) + np.float32(0.1),
    "u": RNG.uniform(-0.9, 0.9, (1, 3)).astype(np.float32),
    "h": np.array([[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.2, -0.7]], np.float32),
    "m": RNG.standard_normal((3, 4)).astype(np.float32),
    "n": RNG.standard_normal((5, 4)).astype(np.float32),
}
VARIABLES = {"w": RNG.standard_normal((1, 3)).astype(np.float32)}
UNARY = (
    *("exp", "sin", "cos", "sinh", "cosh", "tanh", "atan", "asinh", "abs", "sign", "neg"),
    *("floor", "ceil", "round", "sqr", "sigmoid", "relu", "silu", "softplus"),
)
EXPRESSIONS = [
    *(f"{name}(h)" for name in UNARY),
    *(f"{name}(u)" for name in ("tan", "asin", "acos", "atanh")),
    *(f"{name}(p)" for name in ("log", "log2", "rcp", "sqrt", "rsqr", "rsqrt")),
    "elu(x, alpha = 0.5)",
    "selu(x)",
    "leaky_relu(x, alpha = 0.1)",
    "add(x, p)",
    "sub(w, x)",
    "mul(x, w)",
    "div(x, p)",
    "pow(p, w)",
    "min(x, w)",
    "max(p, x)",
    "select(lt(x, p), x, w)",
    "select(ge(x, 0.0), x, 0.0)",
    "sum_reduce(x, axes = [1])",
    "sum_reduce(x, axes = [1], normalize = true)",
    "mean_reduce(x, axes = [2, 3])",
    "max_reduce(x, axes = [0])",
    "min_reduce(x, axes = [3])",
    "cast<scalar>(argmax_reduce(x, axes = [2]))",
    "cast<scalar>(argmin_reduce(x, axes = [1]))",
    "softmax(x)",
    "matmul(m, n, transposeB = true)",
    "linear(m, n)",
    "reshape(x, shape = [0, -1], axis_start = 1)",
    "transpose(x, axes = [1, 0, 3, 2])",
    "unsqueeze(p, axes = [0, 2])",
    "concat([x, x], axis = 2)",
    "stack([p, p], axis = 1)",
    "tile(p, repeats = [2, 3])",
    "slice(x, axes = [1, 3], begin = [1, 0], end = [0, 2])",
    "slice(x, axes = [3], begin = [-1], end = [0], stride = [-2])",
    "slice(x, axes = [3], begin = [4], end = [-6], stride = [-1])",
    "slice(x, axes = [2], begin = [0], end = [4], stride = [3])",
    *(
        f"pad(x, padding = [(0, 0), (0, 0), (1, 2), (3, 1)], border = '{border}')"
        for border in ("constant", "reflect", "replicate", "reflect-even")
    ),
    "gather(x, argmax_reduce(p, axes = [1]), axis = 1)",
]


def test_the_executor_computes_the_same(tmp_path: Path) -> None:
    outputs = [f"r{number}" for number in range(len(EXPRESSIONS))]
    lines = [f"r{number} = {each};" for number, each in enumerate(EXPRESSIONS)]
    text = document_text(lines, INPUTS, VARIABLES, outputs)
    (tmp_path / "graph.nnef").write_text(text)
    for name, array in VARIABLES.items():
        with (tmp_path / f"{name}.dat").open("wb") as file:
            nnef.write_tensor(file, array)
    with nnef.Session(str(tmp_path), lowered=[]) as session:
        expected = session(*INPUTS.values())
    given = tk.run(to_onnx(text, VARIABLES), INPUTS)
    for name, expression, array in zip(outputs, EXPRESSIONS, expected, strict=True):
        assert given[name].shape == array.shape, expression
        np.testing.assert_allclose(given[name], array, rtol=1e-5, atol=1e-5, err_msg=expression)
