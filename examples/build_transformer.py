"""Write a transformer block: GELU as a function of its own, attention in plain operators."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tensorkeep as tk
from tensorkeep import models

WIDTH, HEADS, INNER = 16, 4, 32


def weights() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {
        "norm1.scale": (WIDTH,),
        "norm1.bias": (WIDTH,),
        "qkv": (WIDTH, 3 * WIDTH),
        "out": (WIDTH, WIDTH),
        "norm2.scale": (WIDTH,),
        "norm2.bias": (WIDTH,),
        "up": (WIDTH, INNER),
        "down": (INNER, WIDTH),
    }
    return {
        name: rng.standard_normal(shape).astype("float32") / 3 for name, shape in shapes.items()
    }


def gelu() -> models.Function:
    x = models.input("x", "float32")
    return models.function("Gelu", [x], [x * (models.node("Erf", x / math.sqrt(2)) + 1.0) * 0.5])


def block(arrays: dict[str, Any]) -> tk.State:
    own = {name: models.initializer(array, name) for name, array in arrays.items()}

    def norm(x: models.Symbol, name: str) -> models.Symbol:
        return models.node("LayerNormalization", x, own[f"{name}.scale"], own[f"{name}.bias"])

    def by_head(x: models.Symbol, perm: list[int]) -> models.Symbol:
        parts = models.node("Reshape", x, [0, 0, HEADS, WIDTH // HEADS])
        return models.node("Transpose", parts, perm=perm)

    x = models.input("x", "float32", ["N", "T", WIDTH])
    q, k, v = models.node("Split", norm(x, "norm1") @ own["qkv"], outputs=3, axis=2)
    scores = by_head(q, [0, 2, 1, 3]) @ by_head(k, [0, 2, 3, 1]) / math.sqrt(WIDTH // HEADS)
    mixed = models.node("Softmax", scores, axis=-1) @ by_head(v, [0, 2, 1, 3])
    joined = models.node("Transpose", mixed, perm=[0, 2, 1, 3])
    x = x + models.node("Reshape", joined, [0, 0, WIDTH]) @ own["out"]
    x = x + gelu()(norm(x, "norm2") @ own["up"]) @ own["down"]
    return models.model({"y": x.typed("float32", ["N", "T", WIDTH])}, name="block")


def by_numpy(arrays: dict[str, Any], x: Any) -> Any:
    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * arrays[f"{name}.scale"] + arrays[f"{name}.bias"]

    parts = np.split(norm(x, "norm1") @ arrays["qkv"], 3, axis=2)
    q, k, v = (part.reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3) for part in parts)
    raised = np.exp(q @ k.transpose(0, 1, 3, 2) / math.sqrt(WIDTH // HEADS))
    mixed = raised / raised.sum(-1, keepdims=True) @ v
    x = x + mixed.transpose(0, 2, 1, 3).reshape(x.shape) @ arrays["out"]
    inner = norm(x, "norm2") @ arrays["up"]
    inner = inner * (np.vectorize(math.erf)(inner / math.sqrt(2)) + 1) / 2
    return x + inner @ arrays["down"]


def main() -> None:
    arrays = weights()
    x = np.random.default_rng(1).standard_normal((2, 5, WIDTH)).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "block.onnx"
        tk.save(block(arrays), file, durable=False)
        with tk.open(file) as state:
            assert state.graph is not None
            print(state.graph)
            print(f"opset {state.graph.opsets['']}, for LayerNormalization")
        found = models.run(file, x)["y"]
    print(f"the same numbers as NumPy: {np.allclose(found, by_numpy(arrays, x), atol=1e-4)}")


if __name__ == "__main__":
    main()
