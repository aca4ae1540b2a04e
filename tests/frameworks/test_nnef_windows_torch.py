"""NNEF's windows in ONNX, against what PyTorch computes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.nnef_texts import document_text, to_onnx

import tensorkeep as tk

pytestmark = pytest.mark.frameworks

RNG = np.random.default_rng(23)
ARRAYS = {
    "x": (1, 4, 6, 7),
    "w": (6, 2, 3, 3),
    "t": (4, 3, 3, 3),
    "z": (1, 2, 3, 4, 5),
    "k": (2, 3, 2, 3, 2),
    "m": (1, 4),
    "o": (1, 4),
}
INPUTS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in ARRAYS.items()}
LRN = "alpha = 0.1, beta = 0.75, bias = 2.0"
AROUND = "padding = [(0, 0), (0, 0), (1, 1), (1, 1)]"


def cases() -> list[tuple[str, Callable[..., Any]]]:
    """Give expressions of NNEF, and what PyTorch says of the same."""
    import torch
    from torch.nn import functional

    return [
        ("conv(x, w, padding = [(1, 1), (2, 2)], stride = [2, 1], groups = 2)",
         lambda x, w, **_: functional.conv2d(x, w, padding=(1, 2), stride=(2, 1), groups=2)),
        ("conv(z, c, padding = [(0, 0), (1, 1), (1, 1)], dilation = [1, 1, 2])",
         lambda z, c, **_: functional.conv3d(z, c, padding=(0, 1, 1), dilation=(1, 1, 2))),
        ("deconv(x, t, padding = [(1, 1), (1, 1)], stride = [2, 2], output_shape = [1, 3, 12, 14])",
         lambda x, t, **_: functional.conv_transpose2d(
             x, t, padding=1, stride=2, output_padding=1)),
        ("deconv(z, k, padding = [(0, 0), (0, 0), (0, 0)], stride = [1, 2, 3])",
         lambda z, k, **_: functional.conv_transpose3d(z, k, stride=(1, 2, 3))),
        (f"max_pool(x, size = [1, 1, 3, 3], stride = [1, 1, 2, 2], {AROUND}, border = 'ignore')",
         lambda x, **_: functional.max_pool2d(x, 3, 2, 1)),
        (f"avg_pool(x, size = [1, 1, 3, 2], {AROUND}, border = 'ignore')",
         lambda x, **_: functional.avg_pool2d(x, (3, 2), 1, 1, count_include_pad=False)),
        (f"avg_pool(x, size = [1, 1, 3, 2], {AROUND})",
         lambda x, **_: functional.avg_pool2d(x, (3, 2), 1, 1)),
        ("multilinear_upsample(x, factor = [3, 2], method = 'symmetric')",
         lambda x, **_: functional.interpolate(x, scale_factor=(3, 2), mode="bilinear")),
        ("multilinear_upsample(x, factor = [3, 2], method = 'aligned')",
         lambda x, **_: functional.interpolate(
             x, scale_factor=(3, 2), mode="bilinear", align_corners=True)),
        ("multilinear_upsample(z, factor = [2, 1, 3], method = 'symmetric')",
         lambda z, **_: functional.interpolate(z, scale_factor=(2, 1, 3), mode="trilinear")),
        ("nearest_upsample(x, factor = [2, 3])",
         lambda x, **_: functional.interpolate(x, scale_factor=(2, 3), mode="nearest")),
        (f"local_response_normalization(x, size = [1, 3, 1, 1], {LRN})",
         lambda x, **_: functional.local_response_norm(x, 3, 0.1, 0.75, 2.0)),
        ("batch_normalization(x, m, 2.0, o, 1.0, epsilon = 0.01)",
         lambda x, m, o, **_: functional.batch_norm(
             x, m[0], torch.full((4,), 2.0), None, o[0], eps=0.01)),
    ]  # fmt: skip


def test_windows() -> None:
    import torch

    listed = cases()
    inputs = INPUTS | {"c": RNG.normal(size=(3, 2, 2, 3, 2)).astype(np.float32)}
    given: dict[str, Any] = {name: torch.from_numpy(array) for name, array in inputs.items()}
    outputs = [f"r{number}" for number in range(len(listed))]
    lines = [f"{name} = {text};" for name, (text, _) in zip(outputs, listed, strict=True)]
    found = tk.run(to_onnx(document_text(lines, inputs, {}, outputs)), inputs)
    for name, (text, reference) in zip(outputs, listed, strict=True):
        expected = reference(**given).numpy()
        np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-5, err_msg=text)


def test_what_was_pooled_is_put_back() -> None:
    import torch
    from torch.nn import functional

    x = INPUTS["x"][:, :, :, :6]
    lines = [
        "m, i = max_pool_with_index(x, size = [1, 1, 2, 3], stride = [1, 1, 2, 3]);",
        "y = desample(m, i, size = [1, 1, 2, 3], stride = [1, 1, 2, 3]);",
    ]
    found = tk.run(to_onnx(document_text(lines, {"x": x}, {}, ["m", "y"])), {"x": x})
    pooled, places = functional.max_pool2d(torch.from_numpy(x), (2, 3), (2, 3), return_indices=True)
    np.testing.assert_array_equal(found["m"], pooled.numpy())
    unpooled = functional.max_unpool2d(pooled, places, (2, 3), (2, 3))
    np.testing.assert_array_equal(found["y"], unpooled.numpy())
