"""Move a network through NNEF, Caffe2 and readable JSON and back; it stays the same."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tensorkeep as tk
from tensorkeep import models

# Where each dialect keeps the model; Caffe2 keeps its weights in an init_net.pb beside it.
WAYS = {"NNEF": "digits.nnef.tgz", "Caffe2": "predict_net.pb", "JSON": "digits.arch.json"}


def network() -> tk.State:
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> models.Symbol:
        return models.initializer(rng.standard_normal(shape).astype("float32") / 4, name)

    image = models.input("image", "float32", [1, 1, 12, 12])
    filters, shift = weight("conv.filter", 8, 1, 3, 3), weight("conv.bias", 8)
    y = models.node("Conv", image, filters, shift, pads=[1, 1, 1, 1], name="conv")
    y = models.node("Relu", y)
    y = models.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = models.node("Flatten", y)
    y = models.node("Gemm", y, weight("dense.w", 10, 288), weight("dense.bias", 10), transB=1)
    return models.model({"digit": models.node("Softmax", y, axis=1)}, name="digits")


def main() -> None:
    image = np.random.default_rng(1).random((1, 1, 12, 12), np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tk.save(network(), folder / "digits.onnx")
        expected = tk.run(folder / "digits.onnx", image)["digit"]
        weights: dict[str, Any] = tk.load(folder / "digits.onnx")

        for dialect, file in WAYS.items():
            tk.convert(folder / "digits.onnx", folder / file)
            tk.convert(folder / file, folder / f"from {dialect}.onnx")
            found = tk.run(folder / f"from {dialect}.onnx", image)["digit"]
            returned = tk.load(folder / f"from {dialect}.onnx")
            same = all(np.array_equal(returned[name], weights[name]) for name in weights)
            print(f"{dialect:<6} the same numbers: {np.allclose(found, expected, atol=1e-6)}")
            print(f"{dialect:<6} the same weights under their names: {same}")

        # What cannot be said in a dialect is refused before anything is written.
        x = models.input("x", "float32", ["N", 4])
        odd = models.model([models.node("NonZero", x)], name="odd")
        try:
            models.translate(odd, "nnef", shapes={"x": (2, 4)})
        except tk.TensorKeepError as error:
            print(f"{type(error).__name__}: {error.problem}")


if __name__ == "__main__":
    main()
