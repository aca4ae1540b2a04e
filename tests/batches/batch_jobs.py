"""Functions that worker processes of the tests find by their names."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np


def noisy(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    return sample | {"drawn": rng.random(), "name": f"n{sample['x']}"}


def doubled(batch: dict[str, Any]) -> dict[str, Any]:
    return batch | {"twice": batch["x"] * 2}


def fails_at_seven(sample: dict[str, Any]) -> dict[str, Any]:
    if sample["x"] == 7:
        raise ValueError("no sevens")
    return sample


def dies_at_seven(sample: dict[str, Any]) -> dict[str, Any]:
    if sample["x"] == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return sample
