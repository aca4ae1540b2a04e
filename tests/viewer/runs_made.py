"""Runs to look at: a small network that really learns to read digits, and what can go wrong.

python tests/viewer/runs_made.py FOLDER     makes FOLDER/sound, FOLDER/damaged, FOLDER/diverging
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tensorkeep.checkpoint import Checkpointer
from tensorkeep.demo import network
from tensorkeep.demo.digits import training_and_held_out
from tensorkeep.demo.training import adam

STEPS = 20
EXPLODES = 14  # the step from which the learning rate of a diverging run grows
BROKEN = 16  # the first step whose weights are NaN
_BATCH = 64
_BATCHES = 2  # from one checkpoint to the next
_FROZEN = ("conv.weight", "conv.bias")


def make_run(
    folder: Path | str, *, steps: int = STEPS, diverging: bool = False, damaged: int | None = None
) -> None:
    """Train and keep a checkpoint of each step from 1 on.

    Args:
        folder: where they go; an URL of a bucket too.
        steps: how many.
        diverging: have the learning rate explode, so that weights are NaN from `BROKEN` on.
        damaged: the step in whose weights one bit is flipped.
    """
    with Checkpointer(folder, rng=False, durable=False) as checkpointer:
        for step, state, metrics in training(steps, diverging=diverging):
            checkpointer.save(step, state, metrics=metrics)
    if damaged is not None:
        flip_a_bit(Path(folder), damaged)


def training(
    steps: int, *, diverging: bool = False
) -> Iterator[tuple[int, dict[str, Any], dict[str, float]]]:
    """Give the state and the metrics after each step; the arrays go on changing."""
    rng = np.random.default_rng(8)
    trained, held_out = training_and_held_out()
    model = network.initial(rng)
    moving = {name: array for name, array in model.items() if name not in _FROZEN}
    start = {name: array.copy() for name, array in model.items()}  # one file that all steps share
    optimizer: dict[str, Any] = {
        "name": "adam",
        "learning_rate": 1e-3,
        "betas": (0.9, 0.999),
        "step": 0,
        "mean": {name: np.zeros_like(array) for name, array in moving.items()},
        "square": {name: np.zeros_like(array) for name, array in moving.items()},
    }
    for step in range(1, steps + 1):
        if diverging and step >= EXPLODES:
            optimizer["learning_rate"] *= 1e3
        if diverging and step >= BROKEN:
            optimizer["learning_rate"] = float("inf")
        loss = 0.0
        for _ in range(_BATCHES):
            chosen = rng.integers(0, len(trained), _BATCH)
            with np.errstate(all="ignore"):
                loss, gradients = network.loss_and_gradients(
                    model, trained.images[chosen], trained.labels[chosen]
                )
                adam(model, {name: gradients[name] for name in moving}, optimizer)
        with np.errstate(all="ignore"):
            accuracy = network.accuracy(model, held_out.images, held_out.labels)
        rate = optimizer["learning_rate"]
        metrics = {"loss": loss, "accuracy": accuracy, "learning_rate": rate}
        state = {"model": model, "start": start, "optimizer": optimizer, "epoch": step // 4}
        yield step, state, metrics


def flip_a_bit(folder: Path, step: int) -> None:
    """Damage model.hidden.weight of a step, and of no other that shares its file."""
    file = folder / f"step-{step:08}" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.unlink()  # a link to the same file in another step stays as it is
    file.write_bytes(data)


if __name__ == "__main__":
    made = Path(sys.argv[1])
    make_run(made / "sound")
    make_run(made / "damaged", damaged=11)
    make_run(made / "diverging", diverging=True)
