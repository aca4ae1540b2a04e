"""Arrays of any library, numbers, text and lists as the constants of a model, read when written."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from tensorkeep import dtypes, frameworks
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.graph import NUMBERS
from tensorkeep.models.building.symbols import Constant, Symbol
from tensorkeep.models.building.types import Type
from tensorkeep.tensor import Tensor

_USUAL = {"f": dtypes.FLOAT32, "i": dtypes.INT64, "b": dtypes.BOOL}


def initializer(value: Any, name: str = "", dtype: DType | str | None = None) -> Symbol:
    """Give an array as a value of the model, under a name of its own.

    Arrays are not copied: their bytes are read when the model is written. The same array given
    twice is one initializer.

    Args:
        value: an array of NumPy, PyTorch or JAX, a Tensor, a number, text, or a list of these.
        name: what it is called in the model; empty names it after the first node that takes it.
        dtype: the element type of Python numbers, which are float32, int64 or bool otherwise.

    Raises:
        ArgumentError: it is none of these.
        UnsupportedError: it is of an element type that ONNX does not have.

    >>> initializer([1.0, 2.0], name="scale")
    <scale: float32[2]>
    """
    kind = None if dtype is None else dtypes.dtype(dtype)
    if kind is not None and is_array(value):
        raise ArgumentError("dtype is for Python numbers; an array has one already")
    tensor = tensor_of(value, kind)
    held = Constant(tensor, _identity(value, tensor), name, keeps=value)
    return Symbol(held, 0, Type("tensor", tensor.dtype, tensor.shape))


def is_array(value: Any) -> bool:
    """Whether a value is an array with an element type of its own."""
    if isinstance(value, Tensor | np.generic):
        return True
    return any(framework.recognises(value) for framework in frameworks.FRAMEWORKS.values())


def tensor_of(value: Any, dtype: DType | None = None) -> Tensor:
    """Give an array, a number, text or a list of these as a tensor.

    Raises:
        ArgumentError: it is none of these.
        UnsupportedError: it is of an element type that ONNX does not have.
    """
    tensor = value if isinstance(value, Tensor) else Tensor.of(_array(value, dtype))
    if tensor.dtype not in NUMBERS:
        raise UnsupportedError(
            f"ONNX has no element type {tensor.dtype}",
            cure='Unpack it with dtype="float32" or "float16".',
        )
    return tensor


def _array(value: Any, dtype: DType | None) -> Any:
    if isinstance(value, np.generic):
        return np.asarray(value)
    found = frameworks.to_array(value, "the array")
    if found is not None:
        return found[1]
    if not isinstance(value, bool | int | float | str | bytes | list | tuple):
        raise ArgumentError(
            f"a {type(value).__name__} is neither a value of the model nor an array",
            cure="Give a symbol, an array, a number, text or a list of numbers.",
        )
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        array = np.array(None)
    if array.dtype.kind == "S":
        array = array.astype(object)
    if array.dtype.kind in "UO" and array.size and not _all_text(array):
        raise ArgumentError(
            "a list is of numbers or of text, in rows of one length",
            cure="Give several inputs one by one, as in node(op_type, *values).",
        )
    if array.dtype.kind in "UO":
        return array
    kind = dtype or _USUAL.get(array.dtype.kind)
    if not array.size and dtype is None:
        kind = dtypes.INT64 if array.dtype.kind == "i" else dtypes.FLOAT32
    if kind is None or kind is dtypes.STRING:
        raise ArgumentError(f"{value!r} cannot be {dtype or array.dtype}")
    with np.errstate(all="ignore"):
        cast = array.astype(kind.numpy)
        if kind.kind in ("float", "complex"):
            exact = bool(np.all(np.isfinite(cast) == np.isfinite(array)))
        else:
            exact = bool(np.all(cast.astype(array.dtype) == array))
    if not exact:
        raise ArgumentError(f"{value!r} is not all {kind}", cure="Give an array of the type meant.")
    return cast


def _all_text(array: Any) -> bool:
    return all(isinstance(item, str | bytes) for item in array.reshape(-1))


def _identity(value: Any, tensor: Tensor) -> Hashable:
    """Tell arrays apart by their memory, and what is no array by what it is."""
    if isinstance(value, Tensor):
        return id(value.source), value.offset, value.nbytes, value.dtype, value.shape
    for framework in frameworks.FRAMEWORKS.values():
        if framework.recognises(value):
            return framework.name, framework.identity(value, "the array")
    return tensor.dtype, tensor.shape, bytes(tensor.read())
