"""Convert weights between formats, and see that nothing was lost, or exactly what was."""

from __future__ import annotations

import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

import tensorkeep as tk


def main() -> None:
    rng = np.random.default_rng(0)
    weights = {
        "encoder.weight": rng.standard_normal((128, 64), np.float32),
        "encoder.bias": np.zeros(128, ml_dtypes.bfloat16),
        "vocabulary": np.array(["<pad>", "hello", "world"]),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tk.save(weights, folder / "model.safetensors")
        tk.convert(folder / "model.safetensors", folder / "model.npz")
        tk.convert(folder / "model.npz", folder / "model.json")

        # Two conversions later, every tensor has its type and all its bits.
        found = tk.diff(folder / "model.safetensors", folder / "model.json")
        for tensor in found.tensors:
            print(f"{tensor.name:<16} {tensor.dtypes[1]!s:<10} identical: {tensor.identical}")
        print(f"equal: {found.equal}")

        # A format that cannot hold the state says so before anything is written.
        try:
            tk.convert(folder / "model.safetensors", folder / "model.npy")
        except tk.TensorKeepError as error:
            print(f"{type(error).__name__}: {error.problem}")
        print(f"written: {', '.join(sorted(file.name for file in folder.iterdir()))}")

        # A difference is named, measured and placed.
        weights["encoder.weight"][3, 5] += 0.25
        tk.save(weights, folder / "changed.safetensors")
        found = tk.diff(folder / "model.safetensors", folder / "changed.safetensors")
        for tensor in found.tensors:
            if not tensor.equal:
                place = tensor.max_absolute_at
                print(f"{tensor.name} differs by {tensor.max_absolute:.2f} at {place}")


if __name__ == "__main__":
    main()
