"""What the tests of worker processes have them make: a process of its own imports this."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import ml_dtypes
import numpy as np

from tensorkeep.errors import CorruptError

Task = tuple[str, int]


class Strange(Exception):  # noqa: N818
    """An error that cannot be rebuilt from its arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def make(task: Task) -> Any:
    """Do what the task is called, with its number."""
    job, number = task
    return globals()[job](number)


def counted(number: int) -> Any:
    return {"number": np.array([number]), "by": np.array([os.getpid()])}


def large(number: int) -> Any:
    return {"x": np.full(300_000, number % 256, np.uint8), "y": np.arange(number % 7)}


def growing(number: int) -> Any:
    return {"x": np.full(number, number, np.int64)}


def varied(number: int) -> Any:
    words = np.array([["a", b"\0b"], ["", "é"]], object)
    record = np.array([(1, 2.5)], [("i", "<i4"), ("f", ">f8")])
    return {
        "bfloat16": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
        "bool": np.array([True, False]),
        "turned": np.arange(12).reshape(3, 4).T[::-1],
        "still": np.broadcast_to(np.float32(3), (2, 2)),
        "words": words,
        "none": np.zeros((0, 4), np.float32),
        "scalar": np.float64(2.5),
        "number": number,
        "record": record,
        "text": np.array(["abc", "é"]),
        "noword": np.zeros((0, 2), object),
    }


def nothing(number: int) -> Any:
    return {}


def slow_when_even(number: int) -> Any:
    time.sleep(0.02 if number % 2 == 0 else 0)
    return counted(number)


def sleepy(number: int) -> Any:
    time.sleep(number)
    return counted(number)


def corrupt(number: int) -> Any:
    raise CorruptError(f"sample {number} is damaged", where="train.tar", cure="Copy it again.")


def wrong(number: int) -> Any:
    return {0: number}[number]


def strange(number: int) -> Any:
    raise Strange(number, number)


def leaves(number: int) -> Any:
    raise SystemExit(number)


def exits(number: int) -> Any:
    os._exit(number)


def killed(number: int) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def listed(number: int) -> Any:
    return [number]


def odd_field(number: int) -> Any:
    return {"x": [number]}


def odd_element(number: int) -> Any:
    return {"x": np.array([{1}, "a"], object)}


def odd_type(number: int) -> Any:
    return {"x": np.array(["a"], np.dtypes.StringDType())}
