"""JAX arrays."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import ArgumentError, LossError, UnsupportedError
from tensorkeep.framework import Framework, library


def owns(value: Any) -> bool:
    """An array, or the tracer of one, which `to_numpy` refuses."""
    # Another thread may be importing jax just now.
    return isinstance(value, getattr(sys.modules["jax"], "Array", ()))


def to_numpy(value: Any, where: str) -> npt.NDArray[Any]:
    """Share an array's memory where it is on the CPU; gather it from its devices otherwise.

    Raises:
        UnsupportedError: a traced value, a typed random key, an array that was deleted or donated,
            or one that other processes hold parts of.
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
            f"is a JAX array of {value.dtype}",
            where=where,
            cure="Keep jax.random.key_data(it); jax.random.wrap_key_data makes a key of it again.",
        )
    if value.is_deleted():
        raise UnsupportedError(
            "is a JAX array that was deleted or donated",
            where=where,
            cure="Save what the function returned in its place.",
        )
    if not value.is_fully_addressable:
        raise UnsupportedError(
            "is a JAX array with parts in other processes",
            where=where,
            cure="Keep jax.experimental.multihost_utils.process_allgather(it).",
        )
    return np.asarray(value)


def from_numpy(array: npt.NDArray[Any], device: Any, where: str) -> Any:
    """Give a JAX array of the same values and element type.

    On the CPU it shares the memory where JAX finds that aligned, and keeps it alive; nobody else
    has the NumPy array, so nobody can write to it.

    Args:
        array: the values.
        device: "cpu", "gpu:1" and the like, or a device or sharding of JAX's own.
        where: names the file in messages.

    Raises:
        MissingDependencyError: jax is not installed.
        LossError: JAX would narrow 64-bit values to 32 bits.
        UnsupportedError: JAX has no such element type.
        ArgumentError: JAX knows no such device.
    """
    jax = library("jax", where)
    target = _device(jax, device) if isinstance(device, str) else device
    kept = jax.dtypes.canonicalize_dtype(array.dtype)
    if kept != array.dtype:
        raise LossError(
            f"JAX would narrow {array.dtype} to {kept}",
            where=where,
            cure='Set jax.config.update("jax_enable_x64", True), or load with framework="numpy".',
        )
    try:
        return jax.device_put(array, target)
    except (TypeError, ValueError, jax.errors.JaxRuntimeError) as error:
        reason = str(error).partition("\n")[0]
        if target is not None and device is target:  # not looked up here, so it may be no device
            raise ArgumentError(f"JAX cannot place arrays on {device!r}: {reason}") from error
        raise UnsupportedError(
            f"JAX cannot hold {array.dtype} of shape {array.shape}: {reason}",
            where=where,
            cure='Load it with framework="numpy".',
        ) from error


def _device(jax: Any, name: str) -> Any:
    platform, _, index = name.partition(":")
    try:
        return jax.devices(platform)[int(index or 0)]
    except (RuntimeError, IndexError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise ArgumentError(f"JAX has no device {name!r}: {reason}") from error


FRAMEWORK = Framework("jax", "jax", owns, to_numpy, from_numpy)
