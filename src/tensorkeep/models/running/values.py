"""Arrays <-> what ONNX Runtime takes and gives, element types that NumPy lacks included."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.graph import KINDS, NUMBERS
from tensorkeep.models.running.handing import bits
from tensorkeep.source import MemorySource
from tensorkeep.tensor import Tensor

# Those of NumPy's own that ONNX Runtime takes and gives as arrays.
_PLAIN = frozenset(
    row
    for row in dtypes.DTYPES.values()
    if row.kind == "bool"
    or (row.bits >= 8 and row.numpy.kind in "iuf" and row.numpy.isbuiltin == 1)
)


def is_plain(kind: DType | None) -> bool:
    """Whether arrays of a type go in and come out as they are; text does, too.

    >>> is_plain(dtypes.FLOAT16), is_plain(dtypes.BFLOAT16), is_plain(dtypes.INT4)
    (True, False, False)
    """
    return kind is None or kind in _PLAIN or kind is dtypes.STRING


def hand_in(ort: Any, array: npt.NDArray[Any]) -> Any:
    """Give an array as ONNX Runtime takes it: native, in C order, narrow types as their bits."""
    kind = dtypes.of_numpy(array.dtype) if array.dtype != object else dtypes.STRING
    if kind is dtypes.STRING:
        return Tensor.of(array).numpy()  # bytes and fixed widths become str
    if kind in _PLAIN:
        return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)
    return as_value(ort, bits(Tensor.of(array)), NUMBERS[kind])


def as_value(ort: Any, array: npt.NDArray[Any], number: int) -> Any:
    """Give the bits of a tensor as an OrtValue, which looks at the same memory."""
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, number)


def take_out(value: Any) -> npt.NDArray[Any]:
    """Give the array of an OrtValue that is a tensor."""
    kind = KINDS[value.element_type()]
    if is_plain(kind):
        return np.asarray(value.numpy())
    shape = tuple(value.shape())
    size = kind.nbytes(dtypes.count_of(shape))
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return Tensor(kind, shape, MemorySource(data), 0, size).numpy().copy()
