"""Tensors in another floating-point type, cast while they are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor

_PIECE = 1 << 16  # elements: the cast piece and what it is made of stay in the cache


def check_castable(to: DType) -> DType:
    """Refuse a type that nothing is cast to.

    Raises:
        ArgumentError: it is no floating-point type.
    """
    if to.kind != "float":
        raise ArgumentError(
            f"dtype casts to a floating-point type, not to {to}",
            cure="Load without it, and cast the arrays yourself.",
        )
    return to


def cast(tensor: Tensor, to: DType) -> Tensor:
    """Give a tensor in another floating-point type, cast as it is read.

    What does not fit becomes infinite, as `numpy.ndarray.astype` makes it.

    >>> from tensorkeep.dtypes import FLOAT16
    >>> cast(Tensor.of(np.array([1.5, 1e9])), FLOAT16).numpy().tolist()
    [1.5, inf]
    """
    if tensor.dtype is to:
        return tensor
    return Tensor(to, tensor.shape, _Cast(tensor, check_castable(to)))


class _Cast(Source):
    """The bytes of a tensor in another type."""

    __slots__ = ("_flat", "_to")

    def __init__(self, tensor: Tensor, to: DType) -> None:
        self._flat = Tensor(
            tensor.dtype, (tensor.size,), tensor.source, tensor.offset, tensor.nbytes
        )
        self._to = to
        super().__init__(to.nbytes(tensor.size), tensor.source.where)

    def _read(self, start: int, stop: int) -> memoryview:
        group, width = self._to.group
        first = start // width * group
        last = min(-(-stop // width) * group, self._flat.size)
        out = self._cast(first, last)
        data = dtypes.pack(out, self._to) if self._to.packed else out.view(np.uint8)
        skip = start - first // group * width
        return data.data[skip : skip + stop - start].toreadonly()

    def _cast(self, first: int, last: int) -> npt.NDArray[Any]:
        out = np.empty(last - first, self._to.numpy)
        with np.errstate(all="ignore"):
            step = _PIECE if self._flat.dtype.block == 1 else 16 * _PIECE  # of blocks, a few runs
            for at in range(first, last, step):
                end = min(at + step, last)
                out[at - first : end - first] = cast_array(self._flat[at:end], self._to)
        return out


def cast_array(values: npt.NDArray[Any], to: DType) -> npt.NDArray[Any]:
    """Give an array in another floating-point type; a copy in any case."""
    try:
        return values.astype(to.numpy)
    except TypeError:  # some pairs of narrow types have no cast of their own
        return values.astype(np.float32).astype(to.numpy)
