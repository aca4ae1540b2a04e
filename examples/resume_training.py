"""Save a NumPy training loop as it runs, stop it anywhere, and go on as if nothing had happened."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import tensorkeep as tk

DATA = np.random.default_rng(0)
INPUTS = DATA.normal(size=(512, 8))
TARGETS = INPUTS @ DATA.normal(size=8)


def start() -> dict[str, Any]:
    rng = np.random.default_rng(42)
    return {
        "model": {"weight": rng.normal(size=8)},
        "optimizer": {"velocity": np.zeros(8), "learning_rate": 0.05, "momentum": 0.9},
        "rng": rng.bit_generator.state,
        "step": 0,
    }


def train(state: dict[str, Any], steps: int) -> float:
    """Take steps of stochastic gradient descent with momentum; give the last loss."""
    rng = np.random.default_rng()
    rng.bit_generator.state = state["rng"]
    weight, optimizer = state["model"]["weight"], state["optimizer"]
    for _ in range(steps):
        batch = rng.integers(len(INPUTS), size=32)
        error = INPUTS[batch] @ weight - TARGETS[batch]
        gradient = INPUTS[batch].T @ error / len(batch)
        optimizer["velocity"] *= optimizer["momentum"]
        optimizer["velocity"] -= optimizer["learning_rate"] * gradient
        weight += optimizer["velocity"]
    state["rng"] = rng.bit_generator.state
    state["step"] += steps
    return float(np.mean((INPUTS @ weight - TARGETS) ** 2))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "training.safetensors"

        state = start()
        loss = train(state, 40)
        tk.save(state, file)
        print(f"saved at step {state['step']}, loss {loss:.2e}, {file.stat().st_size} bytes")

        # Another day, another process: everything comes back, nested as it was.
        resumed = tk.load(file)
        print(f"resumed at step {resumed['step']}, keys {', '.join(resumed)}")
        loss = train(resumed, 60)
        print(f"step {resumed['step']}, loss {loss:.2e}")

        train(state, 60)
        same = np.array_equal(state["model"]["weight"], resumed["model"]["weight"])
        print(f"the same weights as without the stop: {same}")


if __name__ == "__main__":
    main()
