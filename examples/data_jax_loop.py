"""Train with JAX on batches that are placed on its device ahead of time; stop, and go on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import tensorkeep as tk

STEPS = 45


def write(file: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((640, 4), dtype=np.float32)
    y = x @ np.float32([1, -2, 3, 0.5])
    tk.data.write(({"x": a, "y": b} for a, b in zip(x, y, strict=True)), file)


@jax.jit
def update(weight: Any, x: Any, y: Any) -> Any:
    return weight - 0.1 * jax.grad(lambda w: jnp.mean((x @ w - y) ** 2))(weight)


def train(data: Path, folder: Path, stop_at: int = 0) -> Any:
    state: dict[str, Any] = {"weight": jnp.zeros(4)}
    with (
        tk.Batches(data, 32, shuffle=True, framework="jax") as batches,
        tk.Checkpointer(folder, every_steps=15) as checkpointer,
    ):
        state["data"] = batches
        restored = checkpointer.restore(like=state)
        step = restored.step if restored else 0
        if restored:
            state = restored.state
            print(f"resumed at step {step}: epoch {batches.epoch}, sample {batches.sample}")
        while step < STEPS:
            for batch in batches:
                state["weight"] = update(state["weight"], batch["x"], batch["y"])
                step += 1
                checkpointer.step(step, state)
                if step in (stop_at, STEPS):
                    return state["weight"]
    return state["weight"]


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = folder / "train.safetensors"
        write(data)
        expected = train(data, folder / "whole")
        train(data, folder / "parts", stop_at=31)
        found = train(data, folder / "parts")
        print(f"the same weights as without the stop: {bool((found == expected).all())}")


if __name__ == "__main__":
    main()
