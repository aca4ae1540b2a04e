"""Write a convolutional network (LeNet-5) node by node, run it, and compare it with NumPy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tensorkeep as tk
from tensorkeep import models


def weights() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {
        "conv1.weight": (6, 1, 5, 5),
        "conv2.weight": (16, 6, 5, 5),
        "fc1.weight": (120, 400),
        "fc2.weight": (84, 120),
        "fc3.weight": (10, 84),
    }
    named = {}
    for name, shape in shapes.items():
        spread = np.sqrt(2 / np.prod(shape[1:]))
        named[name] = (rng.standard_normal(shape) * spread).astype("float32")
        named[name.replace("weight", "bias")] = rng.standard_normal(shape[0]).astype("float32")
    return named


def lenet(arrays: dict[str, Any]) -> tk.State:
    own = {name: models.initializer(array, name) for name, array in arrays.items()}

    def layer(op_type: str, x: models.Symbol, name: str, **attributes: Any) -> models.Symbol:
        y = models.node(
            op_type, x, own[f"{name}.weight"], own[f"{name}.bias"], name=name, **attributes
        )
        return models.node("Relu", y)

    def pool(x: models.Symbol) -> models.Symbol:
        return models.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    image = models.input("image", "float32", ["N", 1, 28, 28])
    x = pool(layer("Conv", image, "conv1", pads=[2, 2, 2, 2]))
    x = pool(layer("Conv", x, "conv2"))
    x = models.node("Flatten", x)
    x = layer("Gemm", x, "fc1", transB=1)
    x = layer("Gemm", x, "fc2", transB=1)
    x = models.node("Gemm", x, own["fc3.weight"], own["fc3.bias"], name="fc3", transB=1)
    facts: dict[str, Any] = {"author": "the examples", "version": 1, "training.epochs": 0}
    return models.model(
        {"probabilities": models.node("Softmax", x, axis=1)}, name="lenet", metadata=facts
    )


def by_numpy(arrays: dict[str, Any], x: Any) -> Any:
    def convolve(x: Any, name: str) -> Any:
        windows = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (2, 3))
        y = np.einsum("ncyxij,ocij->noyx", windows, arrays[f"{name}.weight"])
        y = np.maximum(y + arrays[f"{name}.bias"][:, None, None], 0)
        n, channels, height, width = y.shape
        return y.reshape(n, channels, height // 2, 2, width // 2, 2).max((3, 5))

    def connect(x: Any, name: str) -> Any:
        return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]

    x = convolve(np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2))), "conv1")
    x = convolve(x, "conv2").reshape(len(x), -1)
    x = np.maximum(connect(np.maximum(connect(x, "fc1"), 0), "fc2"), 0)
    raised = np.exp(connect(x, "fc3"))
    return raised / raised.sum(1, keepdims=True)


def main() -> None:
    arrays = weights()
    images = np.random.default_rng(1).random((3, 1, 28, 28), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lenet.onnx"
        tk.save(lenet(arrays), file, durable=False)
        with tk.open(file) as state:
            print(state.graph)
            facts = models.metadata(state)
            print(f"{facts['name']} by {facts['author']}, opset {facts['opset']}")
        found = models.run(file, {"image": images})["probabilities"]
    print(f"the same numbers as NumPy: {np.allclose(found, by_numpy(arrays, images), atol=1e-5)}")


if __name__ == "__main__":
    main()
