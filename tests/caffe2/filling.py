"""Running one fill, and looking at what it wrote."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.caffe2 import Workspace, create_operator
from tensorkeep.message import Message
from tensorkeep.wire.caffe2.schema import DEVICE

Array = npt.NDArray[Any]


def fill(
    type: str, *inputs: Any, seed: int | None = None, strict: bool = True, **arguments: Any
) -> Any:
    """Run one fill, whose inputs are given as values, and fetch what it wrote."""
    ws = Workspace(strict=strict)
    names = [f"in{index}" for index in range(len(inputs))]
    for name, value in zip(names, inputs, strict=True):
        ws.feed(name, value)
    device = None if seed is None else Message(DEVICE, device_type=0, random_seed=seed)
    assert ws.run(create_operator(type, names, ["Y"], device=device, **arguments))
    return ws.fetch("Y")


def int64(*values: int) -> Array:
    return np.array(values, np.int64)


def int32(*values: int) -> Array:
    return np.array(values, np.int32)


def float32(*values: float) -> Array:
    return np.array(values, np.float32)


def same(found: Array, dtype: str, values: Any) -> None:
    expected = np.array(values, dtype)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tolist() == expected.tolist()
