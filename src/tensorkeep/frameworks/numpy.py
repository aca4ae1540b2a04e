"""NumPy: the framework every other one is translated to and from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import ArgumentError
from tensorkeep.framework import Framework
from tensorkeep.tensor import Tensor


def owns(value: Any) -> bool:
    """A plain array or a map of a file; subclasses that mean more are not arrays here."""
    return type(value) in (np.ndarray, np.memmap, Tensor)


def to_numpy(value: Any, where: str) -> npt.NDArray[Any]:
    """Give the array itself."""
    return np.asarray(value)


def from_numpy(array: npt.NDArray[Any], device: str | None, where: str) -> npt.NDArray[Any]:
    """Give the array itself.

    Raises:
        ArgumentError: a device other than the CPU is asked for.
    """
    if device not in (None, "cpu"):
        raise ArgumentError(
            f"NumPy arrays cannot be placed on {device!r}", cure='Say framework="torch" or "jax".'
        )
    return array


FRAMEWORK = Framework("numpy", "numpy", owns, to_numpy, from_numpy)
