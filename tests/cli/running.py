"""What the tests of the command line share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

# Clears the screen and renames the window of a terminal that obeys.
ESCAPE = "\x1b[2J\x1b]0;gotcha\x07"


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What stdout holds, which has to be one strict JSON document in ASCII."""
        assert self.out.isascii()
        return json.loads(self.out, parse_constant=_refuse)


Run = Callable[..., Ran]


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def is_safe(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def state(step: int = 3) -> dict[str, Any]:
    return {
        "encoder": {
            "w": np.arange(24, dtype=np.float32).reshape(4, 6) / 8,
            "b": np.array([0.5, -1, 2], ml_dtypes.bfloat16),
        },
        "optimizer": {"lr": 0.01, "betas": (0.9, 0.99), "step": step},
        "mask": np.array([True, False, True]),
        "codes": np.array([-8, 7, 0, 1], ml_dtypes.int4),
        "z": np.array([3 + 4j, 0]),
        "words": np.array(["hello", "wörld", ""]),
        "seed": np.uint64(2**64 - 1),
        "note": "plain",
        "loss": float("nan"),
    }
