"""JAX arrays."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import (
    ArgumentError,
    LossError,
    MissingDependencyError,
    UnsupportedError,
)
from tensorkeep.framework import Framework


def owns(value: Any) -> bool:
    """A concrete array."""
    return isinstance(value, sys.modules["jax"].Array)


def to_numpy(value: Any, where: str) -> npt.NDArray[Any]:
    """Share an array's memory where it is on the CPU; gather it from its devices otherwise.

    Raises:
        UnsupportedError: a traced value, a typed random key, or an array that other processes hold
            parts of.
    """
    jax = sys.modules["jax"]
    if isinstance(value, jax.core.Tracer):
        raise UnsupportedError(
            "is a value inside a JAX transformation",
            where=where,
            cure="Save outside jit, grad and vmap.",
        )
    if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
        raise UnsupportedError(
            f"is a JAX array of {value.dtype}", where=where, cure="Keep jax.random.key_data(key)."
        )
    if not value.is_fully_addressable:
        raise UnsupportedError("has parts in other processes", where=where)
    return np.asarray(value)


def from_numpy(array: npt.NDArray[Any], device: str | None, where: str) -> Any:
    """Give a JAX array of the same values and element type.

    Raises:
        MissingDependencyError: jax is not installed.
        LossError: JAX would narrow 64-bit values to 32 bits.
        ArgumentError: JAX knows no such device.
    """
    try:
        import jax
    except ImportError:
        raise MissingDependencyError(
            "JAX is not installed",
            where=where,
            cure='Install jax, or load with framework="numpy".',
        ) from None
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise LossError(
            f"JAX would narrow {array.dtype} to {jax.dtypes.canonicalize_dtype(array.dtype)}",
            where=where,
            cure='Set jax.config.update("jax_enable_x64", True), or load with dtype=....',
        )
    if device is None:
        return jax.device_put(array)
    platform, _, index = device.partition(":")
    try:
        return jax.device_put(array, jax.devices(platform)[int(index or 0)])
    except (RuntimeError, IndexError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(f"JAX has no device {device!r}: {reason}") from error


FRAMEWORK = Framework("jax", "jax", owns, to_numpy, from_numpy)
