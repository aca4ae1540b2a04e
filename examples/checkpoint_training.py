"""Train with a Checkpointer: saved in the background, interrupted, resumed as if never stopped."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

import tensorkeep as tk

STEPS = 60


def train(folder: str, stop_at: int = 0) -> Any:
    """Fit a line, from the newest sound checkpoint on if there is one."""
    weights, velocity = np.zeros(2), np.zeros(2)
    state: dict[str, Any] = {
        "model": {"w": weights},
        "optimizer": {"velocity": velocity, "rate": 0.03},
    }
    rules = tk.keep(last=2, best="loss", every=20)
    with tk.Checkpointer(folder, every_steps=5, keep=rules, background=True) as checkpointer:
        # Arrays are filled in place, and NumPy's global generator goes on where it was.
        restored = checkpointer.restore(like=state)
        if restored is not None:
            print(f"resumed at step {restored.step}, loss {restored.metrics['loss']:.4f}")
        done = restored.step if restored else 0
        for step in range(done + 1, STEPS + 1):
            x = np.random.standard_normal(32)
            errors = weights[0] + weights[1] * x - (3 - 2 * x)
            velocity *= 0.5
            velocity += [errors.mean(), (errors * x).mean()]
            weights -= state["optimizer"]["rate"] * velocity
            # Returns once the state is copied; the copy is written by a thread.
            checkpointer.step(step, state, metrics={"loss": (errors**2).mean()})
            if step == stop_at:
                raise KeyboardInterrupt
    return weights


def main() -> None:
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as parts:
        np.random.seed(0)
        expected = train(whole)

        np.random.seed(0)
        try:
            train(parts, stop_at=33)
        except KeyboardInterrupt:
            print("interrupted at step 33")
        np.random.seed(1)  # a new process would begin with another seed
        found = train(parts)

        print(f"the same weights as without the stop: {np.array_equal(found, expected)}")
        kept = ", ".join(str(row.step) for row in tk.checkpoints(parts))
        print(f"kept: {kept}")


if __name__ == "__main__":
    main()
