"""PyTorch tensors: shared with NumPy without a copy, whatever their element type."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, MissingDependencyError, UnsupportedError
from tensorkeep.framework import Framework

# Element types that torch has and its NumPy bridge has not, and a type of the same width it knows.
_BRIDGE = {
    "bfloat16": "int16",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
    "float8_e8m0fnu": "uint8",
}


def owns(value: Any) -> bool:
    """A tensor or a parameter."""
    return isinstance(value, sys.modules["torch"].Tensor)


def to_numpy(value: Any, where: str) -> npt.NDArray[Any]:
    """Share a tensor's memory as an array; one on another device is copied once.

    Raises:
        UnsupportedError: a sparse, quantized, nested or storage-less tensor, or an element type
            without an equal here.
    """
    torch = sys.modules["torch"]
    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        kind = "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")
        raise UnsupportedError(
            f"is a {kind} tensor", where=where, cure="Keep its dense form or its parts."
        )
    if value.device.type == "meta":
        raise UnsupportedError("is on the meta device and has no values", where=where)
    plain = value.detach().cpu().resolve_conj().resolve_neg()
    name = str(plain.dtype).removeprefix("torch.")
    if name in _BRIDGE:
        array = plain.view(getattr(torch, _BRIDGE[name])).numpy()
        return _view(array, dtypes.DTYPES[name].numpy)
    try:
        return np.asarray(plain.numpy())
    except (TypeError, RuntimeError) as error:
        raise UnsupportedError(
            f"is a tensor of {plain.dtype}: {error}",
            where=where,
            cure="Convert it to another dtype.",
        ) from None


def from_numpy(array: npt.NDArray[Any], device: str | None, where: str) -> Any:
    """Wrap a writable array as a tensor that shares its memory, and place it.

    Raises:
        MissingDependencyError: torch is not installed.
        UnsupportedError: torch has no such element type.
        ArgumentError: torch knows no such device.
    """
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(
            "PyTorch is not installed",
            where=where,
            cure='Install torch, or load with framework="numpy".',
        ) from None
    name = dtypes.dtype(array.dtype).name
    try:
        if name in _BRIDGE:
            bits = torch.from_numpy(_view(array, np.dtype(_BRIDGE[name])))
            tensor = bits.view(getattr(torch, name))
        else:
            tensor = torch.from_numpy(array)
    except (TypeError, AttributeError):
        raise UnsupportedError(
            f"PyTorch has no element type {name}",
            where=where,
            cure='Load it with framework="numpy".',
        ) from None
    if device is None:
        return tensor
    try:
        return tensor.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(f"PyTorch cannot place tensors on {device!r}: {reason}") from error


def _view(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Reinterpret elements as another type of the same width; works for any strides."""
    return array.view(dtype)


FRAMEWORK = Framework("torch", "torch", owns, to_numpy, from_numpy)
