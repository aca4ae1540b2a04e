"""Look into a file without reading it: names, shapes and slices cost only the bytes they need."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

import tensorkeep as tk


def main() -> None:
    rng = np.random.default_rng(0)
    embedding = rng.standard_normal((32_000, 256), np.float32)
    model = {
        "embedding": {"weight": embedding},
        "layers": [{"weight": rng.standard_normal((256, 256), np.float32)} for _ in range(4)],
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        tk.save(model, file, metadata={"trained on": "noise", "epochs": 3}, durable=False)

        began = time.perf_counter()
        with tk.open(file) as state:
            milliseconds = 1000 * (time.perf_counter() - began)
            print(f"{state} opened in {milliseconds:.1f} ms")
            print(f"metadata: {state.metadata}")
            for name, tensor in state.items():
                print(f"  {name:<18} {tensor.dtype} {tensor.shape} {tensor.nbytes:>12,} bytes")

            # One row of 32,000: a kilobyte is read.
            row = state["embedding.weight"][17]
            print(f"row 17 starts with {row[:3]}")
            print(f"it is what was saved: {np.array_equal(row, embedding[17])}")

        layers = tk.load(file, names="layers.*", dtype="float16")
        size = sum(array.nbytes for array in layers.values())
        print(f"layers alone, as float16: {len(layers)} tensors, {size:,} bytes")


if __name__ == "__main__":
    main()
