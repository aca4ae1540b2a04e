"""Training that can be killed at any instant: it leaves a checkpoint after every epoch.

Whoever starts it again goes on from the newest, and ends with the very weights, to the last bit,
that an uninterrupted training ends with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tensorkeep.checkpoint import Checkpointer
from tensorkeep.demo import network
from tensorkeep.demo.digits import Digits, training_and_held_out

_KEEP = "last=2,best=accuracy:max"
_BATCH = 64
_SEED = 1998
_AVERAGING = 0.02  # how far the average moves towards the weights at each step
_TINY = 1e-8  # keeps Adam from dividing by nothing

State = dict[str, Any]


def train(folder: Path, epochs: int, report: Callable[[State], None]) -> State:
    """Train to the given epoch from the newest checkpoint, or from the start where there is none.

    Args:
        folder: where the checkpoints are kept.
        epochs: when to stop.
        report: called with the state each time it has been saved.
    """
    training, held_out = training_and_held_out()
    # The generator that orders the digits is part of the state; no global one is used.
    with Checkpointer(folder, keep=_KEEP, rng=False) as checkpointer:
        restored = checkpointer.restore()
        state: State = restored.state if restored else start()
        while state["epoch"] < epochs:
            loss = train_epoch(state, training)
            score = network.accuracy(state["average"], held_out.images, held_out.labels)
            entry = {"epoch": state["epoch"], "loss": loss, "accuracy": score}
            state["history"].append(entry)
            checkpointer.save(state["epoch"], state, metrics={"loss": loss, "accuracy": score})
            report(state)
    return state


def start() -> State:
    """Make the state that a training starts with.

    >>> sorted(start())
    ['average', 'epoch', 'history', 'model', 'optimizer', 'rng']
    """
    rng = np.random.default_rng(_SEED)
    model = network.initial(rng)
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
        "rng": rng.bit_generator.state,
        "epoch": 0,
        "history": [],
    }


def train_epoch(state: State, digits: Digits) -> float:
    """Show every digit once, in an order drawn from the state's generator; give the mean loss."""
    rng = np.random.default_rng()
    rng.bit_generator.state = state["rng"]
    order = rng.permutation(len(digits))
    losses = []
    for at in range(0, len(order), _BATCH):
        batch = order[at : at + _BATCH]
        loss, gradients = network.loss_and_gradients(
            state["model"], digits.images[batch], digits.labels[batch]
        )
        adam(state["model"], gradients, state["optimizer"])
        for name, average in state["average"].items():
            average += _AVERAGING * (state["model"][name] - average)
        losses.append(loss)
    state["rng"] = rng.bit_generator.state
    state["epoch"] += 1
    return float(np.mean(losses))


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
