"""What the nnef package's own executor computes, and ONNX Runtime after the translation."""

from pathlib import Path

import nnef
import numpy as np
from tests.models.exchange.nnef_texts import document_text, to_onnx

import tensorkeep as tk

RNG = np.random.default_rng(17)


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


INPUTS = {
    "x": numbers(2, 4, 7, 6),
    "w": numbers(6, 4, 3, 2),
    "g": numbers(6, 2, 3, 3),
    "d": numbers(8, 1, 3, 3),
    "t": numbers(4, 3, 3, 3),
    "b": numbers(1, 6),
    "y": numbers(1, 3, 8),
}
EXPRESSIONS = [
    "conv(x, w, b)",
    "conv(x, w, 0.5, stride = [2, 3], dilation = [2, 1])",
    "conv(x, g, b, groups = 2, padding = [(1, 0), (0, 2)])",
    "conv(x, d, groups = 0, stride = [2, 1])",
    "deconv(x, t, stride = [2, 3])",
    "deconv(x, t, 0.25, padding = [(1, 1), (0, 1)], stride = [2, 1], dilation = [1, 2])",
    "box(x, size = [1, 1, 3, 2])",
    "box(x, size = [1, 3, 1, 1], normalize = true)",
    "avg_pool(x, size = [1, 1, 3, 3], stride = [1, 1, 2, 2], border = 'ignore')",
    "avg_pool(x, size = [1, 2, 2, 2], border = 'constant')",
    "avg_pool(x, size = [1, 1, 3, 3], dilation = [1, 1, 2, 2], border = 'ignore')",
    "max_pool(x, size = [1, 1, 3, 3], stride = [1, 1, 2, 2], border = 'ignore')",
    "max_pool(x, size = [2, 3, 2, 2], border = 'constant')",
    "debox(x, size = [1, 1, 2, 3], stride = [1, 1, 2, 3])",
    "debox(x, size = [1, 1, 3, 3], stride = [1, 1, 2, 2])",
    "multilinear_upsample(x, factor = [2, 2], method = 'symmetric', border = 'replicate')",
    "multilinear_upsample(x, factor = [2, 2], method = 'symmetric', border = 'constant')",
    "multilinear_upsample(x, factor = [2, 2], method = 'asymmetric', border = 'constant')",
    "multilinear_upsample(x, factor = [2, 2], method = 'asymmetric', border = 'replicate')",
    "multilinear_upsample(y, factor = [2])",
    "nearest_upsample(x, factor = [3, 2])",
    "area_downsample(y, factor = [2])",
    "local_mean_normalization(x, size = [1, 1, 3, 3])",
    "local_response_normalization(x, size = [1, 3, 1, 1], alpha = 0.5, beta = 0.75)",
    "l2_normalization(x, axes = [1])",
    "separable_conv(x, d, p, 1.0, stride = [1, 2])",
    "linear_quantize(y, -1.0, 1.0, bits = 4)",
]
# What the executor has no code for, and takes apart instead.
LOWERED = [
    "clamp",
    "nearest_upsample",
    "area_downsample",
    "local_mean_normalization",
    "local_response_normalization",
    "l2_normalization",
    "separable_conv",
    "linear_quantize",
    "min_max_linear_quantize",
]


def test_both_give_the_same(tmp_path: Path) -> None:
    inputs = INPUTS | {"p": numbers(5, 8, 1, 1)}
    outputs = [f"r{number}" for number in range(len(EXPRESSIONS))]
    lines = [f"{name} = {text};" for name, text in zip(outputs, EXPRESSIONS, strict=True)]
    text = document_text(lines, inputs, {}, outputs)
    (tmp_path / "graph.nnef").write_text(text)
    with nnef.Session(str(tmp_path), lowered=LOWERED) as session:
        executed = session(*inputs.values())
    given = tk.run(to_onnx(text), inputs)
    for name, expression, expected in zip(outputs, EXPRESSIONS, executed, strict=True):
        assert given[name].shape == expected.shape, expression
        np.testing.assert_allclose(given[name], expected, rtol=2e-5, atol=2e-5, err_msg=expression)
