"""Training that can be killed at any instant: it leaves a checkpoint every few steps.

Whoever starts it again goes on from the newest, with the very next batch, and ends with the very
weights, to the last bit, that an uninterrupted training ends with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tensorkeep.checkpoint import Checkpointer
from tensorkeep.data.batches import Batches
from tensorkeep.demo import network
from tensorkeep.demo.digits import Digits, training_and_held_out

_KEEP = "last=2,best=accuracy:max"
EVERY = 16  # steps, which no epoch is a multiple of
_BATCH = 64
_SEED = 1998
_AVERAGING = 0.02  # how far the average moves towards the weights at each step
_TINY = 1e-8  # keeps Adam from dividing by nothing

State = dict[str, Any]


def train(folder: Path, data: Path, epochs: int, report: Callable[[State], None]) -> State:
    """Train to the given epoch from the newest checkpoint, or from the start where there is none.

    Args:
        folder: where the checkpoints are kept.
        data: the digits to train on.
        epochs: when to stop.
        report: called with the state at the end of each epoch.
    """
    _, measured_on = training_and_held_out()
    with (
        read(data) as batches,
        # The order of the digits follows from where `batches` is; no global generator is used.
        Checkpointer(folder, every_steps=EVERY, keep=_KEEP, rng=False) as checkpointer,
    ):
        state = start(batches)
        restored = checkpointer.restore(like={**state, "losses": None, "history": None})
        if restored:
            state = restored.state

        def save(loss: float) -> None:
            metrics = {"loss": loss, "accuracy": _accuracy(state, measured_on)}
            step = state["optimizer"]["step"]
            checkpointer.save(step, state, metrics=metrics, overwrite=True)

        for epoch in batches.epochs(epochs):
            for batch in batches:
                train_step(state, batch)
                if checkpointer.due(state["optimizer"]["step"]):
                    save(state["losses"][-1])
            loss = float(np.mean(state["losses"]))
            entry = {"epoch": epoch + 1, "loss": loss, "accuracy": _accuracy(state, measured_on)}
            state["history"].append(entry)
            state["losses"].clear()
            if epoch + 1 == epochs:
                save(loss)
            report(state)
    return state


def read(data: Path) -> Batches:
    """Open the digits to train on, in batches whose order is drawn anew for each epoch."""
    return Batches(data, _BATCH, shuffle=True, seed=_SEED)


def start(batches: Batches) -> State:
    """Make the state that a training starts with.

    `losses` are those of the steps of this epoch, `history` has an entry for each one before.
    """
    model = network.initial(np.random.default_rng(_SEED))
    return {
        "model": model,
        "average": {name: array.copy() for name, array in model.items()},
        "optimizer": {
            "name": "adam",
            "learning_rate": 1e-3,
            "betas": (0.9, 0.999),
            "step": 0,
            "mean": {name: np.zeros_like(array) for name, array in model.items()},
            "square": {name: np.zeros_like(array) for name, array in model.items()},
        },
        "data": batches,
        "losses": [],
        "history": [],
    }


def train_step(state: State, batch: dict[str, Any]) -> None:
    """Learn from one batch: move the weights, and their average a little towards them."""
    model = state["model"]
    loss, gradients = network.loss_and_gradients(model, batch["image"], batch["label"])
    adam(model, gradients, state["optimizer"])
    for name, average in state["average"].items():
        average += _AVERAGING * (model[name] - average)
    state["losses"].append(loss)


def _accuracy(state: State, digits: Digits) -> float:
    return network.accuracy(state["average"], digits.images, digits.labels)


def adam(model: network.Weights, gradients: network.Weights, optimizer: State) -> None:
    """Move the weights one step of Adam (Kingma and Ba, 2014), in place."""
    optimizer["step"] += 1
    keep, keep_square = optimizer["betas"]
    step = optimizer["step"]
    rate = optimizer["learning_rate"] * math.sqrt(1 - keep_square**step) / (1 - keep**step)
    for name, gradient in gradients.items():
        mean, square = optimizer["mean"][name], optimizer["square"][name]
        mean += (1 - keep) * (gradient - mean)
        square += (1 - keep_square) * (gradient * gradient - square)
        model[name] -= rate * mean / (np.sqrt(square) + _TINY)
