"""Casts that lose no value: floats are rounded, and all else stays exactly what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import casting, dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import LossError


def cast_exactly(array: npt.NDArray[Any], to: DType, where: str) -> npt.NDArray[Any]:
    """Cast an array; of floats to narrower floats only the range is kept, not every digit.

    Raises:
        LossError: a value would become another one, or infinite.

    >>> from tensorkeep.dtypes import FLOAT32, INT8
    >>> cast_exactly(np.array([1, 2]), FLOAT32, "x").tolist()
    [1.0, 2.0]
    >>> cast_exactly(np.array([300]), INT8, "x")
    Traceback (most recent call last):
    tensorkeep.errors.LossError: x: holds 300, which is no int8. Give it as int8.
    """
    kind = dtypes.STRING if array.dtype == object else dtypes.of_numpy(array.dtype)
    if dtypes.STRING in (kind, to):
        raise LossError(f"is {kind}, which is not cast to {to}", where=where, cure=_cure(to))
    with np.errstate(all="ignore"):
        out = casting.cast_array(array, to)
        if kind.kind == to.kind == "float":
            lost = np.isfinite(array.astype(np.float64)) & ~np.isfinite(out.astype(np.float64))
        elif kind.kind == "bool" or (kind.kind, to.kind) == ("float", "complex"):
            return out
        else:  # there and back
            lost = _differ(array, out, to)
    if lost.any():
        raise LossError(f"holds {array[lost][0]}, which is no {to}", where=where, cure=_cure(to))
    return out


def _differ(array: npt.NDArray[Any], out: npt.NDArray[Any], to: DType) -> npt.NDArray[np.bool_]:
    back = out.astype(array.dtype)
    lost: npt.NDArray[np.bool_] = np.asarray(back != array)
    if to.kind in ("int", "uint") and array.dtype.kind in "iu":
        lost |= (out < 0) != (array < 0)  # the same bits, read with and without a sign
    return lost


def _cure(to: DType) -> str:
    return f"Give it as {to}."
