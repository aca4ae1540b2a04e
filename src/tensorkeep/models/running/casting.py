"""Casts that lose no value: floats are rounded, and all else stays exactly what it is."""

from __future__ import annotations

from typing import Any

import ml_dtypes
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
    if kind.kind == "complex" and to.kind != "complex":
        lost = np.asarray(array.imag != 0)
        if lost.any():
            raise LossError(_problem(array[lost][0], to), where=where, cure=_cure(to))
        return cast_exactly(array.real, to, where)
    with np.errstate(all="ignore"):
        out = casting.cast_array(array, to)
        if kind.kind == "float" and to.kind in ("float", "complex"):
            lost = _leave_the_range(array.astype(np.float64), out, to)
        elif kind.kind == "bool":
            return out
        else:  # there and back
            lost = _differ(array, out, to)
    if lost.any():
        raise LossError(_problem(array[lost][0], to), where=where, cure=_cure(to))
    return out


def _leave_the_range(
    wide: npt.NDArray[np.float64], out: npt.NDArray[Any], to: DType
) -> npt.NDArray[np.bool_]:
    """Tell where a number became infinite or none, or what is neither a number."""
    narrow = out.real.astype(np.float64)
    lost = (np.isfinite(wide) != np.isfinite(narrow)) | (np.isnan(wide) != np.isnan(narrow))
    if to.packed:  # which have no infinity: what is beyond the largest becomes that
        lost |= np.abs(wide) > float(ml_dtypes.finfo(to.numpy).max)  # type: ignore[no-untyped-call]
    return np.asarray(lost)


def _differ(array: npt.NDArray[Any], out: npt.NDArray[Any], to: DType) -> npt.NDArray[np.bool_]:
    back = out.astype(array.dtype)
    lost: npt.NDArray[np.bool_] = np.asarray(back != array)
    if to.kind in ("int", "uint") and array.dtype.kind in "iu":
        lost |= (out < 0) != (array < 0)  # the same bits, read with and without a sign
    return lost


def _problem(value: object, to: DType) -> str:
    return f"holds {value}, which is no {to}"


def _cure(to: DType) -> str:
    return f"Give it as {to}."
