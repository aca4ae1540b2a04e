"""Save a model in several files of limited size, the way large models are published."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import tensorkeep as tk


def main() -> None:
    rng = np.random.default_rng(0)
    model = {f"layers.{i}.weight": rng.standard_normal((512, 512), np.float32) for i in range(6)}
    model["head.weight"] = model["layers.0.weight"]  # tied: kept once, and tied again when loaded

    with tempfile.TemporaryDirectory() as folder:
        tk.save(model, Path(folder) / "model.safetensors", max_shard_size="2.5MB")
        for file in sorted(Path(folder).iterdir()):
            print(f"{file.stat().st_size:>10,} bytes  {file.name}")

        # The folder, or its index, is opened as one state.
        with tk.open(folder) as state:
            print(state)
        loaded = tk.load(folder, verify=True)
        print(f"equal: {all(np.array_equal(model[name], loaded[name]) for name in model)}")
        print(f"still tied: {loaded['head.weight'] is loaded['layers.0.weight']}")


if __name__ == "__main__":
    main()
