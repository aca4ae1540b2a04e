"""Tensors of block-quantized types: made of floats, and unpacked for formats that hold none.

What is read of a quantized tensor is quantized as it is read. See tensorkeep.blocks.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from tensorkeep import blocks, dtypes
from tensorkeep.casting import cast
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.source import Source
from tensorkeep.state import State
from tensorkeep.tensor import Tensor


def quantized(tensor: Tensor, dtype: DType) -> Tensor:
    """Give a float tensor as blocks, rounded to what they can stand for; nothing is read.

    Args:
        tensor: of the kind "float", its last axis whole blocks.
        dtype: "q8_0" or "q4_0".

    Raises:
        ArgumentError: the tensor is no float, or its rows are not whole blocks.
        UnsupportedError: blocks of that type are not made here.

    >>> quantized(Tensor.of(np.ones((2, 64))), dtypes.BLOCKS["q8_0"])
    Tensor(q8_0, (2, 64))
    """
    if tensor.dtype.kind != "float" or not tensor.ndim or tensor.shape[-1] % dtype.block:
        raise ArgumentError(
            f"{tensor.dtype} of shape {tensor.shape} cannot be quantized to {dtype}",
            where=tensor.source.where,
            cure=f"It takes floats in rows of a multiple of {dtype.block}.",
        )
    if dtype.block == 1 or blocks.LAYOUTS[dtype.name].quantizer is None:
        raise UnsupportedError(
            f"nothing is quantized to {dtype} here", cure="Choose one of q4_0, q8_0."
        )
    return Tensor(dtype, tensor.shape, _Quantized(tensor, dtype))


class _Quantized(Source):
    """The blocks of a float tensor; only what is read of them is made."""

    __slots__ = ("_dtype", "_tensor")

    def __init__(self, tensor: Tensor, dtype: DType) -> None:
        super().__init__(dtype.nbytes(tensor.size), tensor.source.where)
        self._tensor = tensor
        self._dtype = dtype

    def _read(self, start: int, stop: int) -> memoryview:
        if start == stop:
            return memoryview(b"")
        group, width = self._dtype.group
        first, last = start // width, -(-stop // width)
        with np.errstate(all="ignore"):  # what a float32 does not hold becomes infinite
            values = self._tensor.elements(first * group, last * group)
            values = values.astype(np.float32, copy=False)
        data = blocks.quantize(blocks.LAYOUTS[self._dtype.name], values).data
        return data[start - first * width : stop - first * width].toreadonly()


def misfits(state: State, holds: Collection[DType]) -> list[str]:
    """List the tensors of block types that a format does not hold.

    >>> misfits(State({"w": Tensor.of(np.ones(3))}), [dtypes.FLOAT32])
    []
    """
    return [n for n, t in state.items() if t.dtype.kind == "blocks" and t.dtype not in holds]


def fitted(state: State, holds: Collection[DType]) -> State:
    """Give a state with those tensors dequantized, to float32."""
    names = set(misfits(state, holds))
    if not names:
        return state
    return state.replace(
        tensors={n: cast(t, dtypes.FLOAT32) if n in names else t for n, t in state.items()},
        digests={n: digest for n, digest in state.digests.items() if n not in names},
    )


def told(state: State, holds: Collection[DType], format: str) -> list[str]:
    """Say that a format does not hold those tensors, in a sentence, and how they can be kept."""
    names = misfits(state, holds)
    if not names:
        return []
    kinds = sorted({state[name].dtype.name for name in names})
    some = f"{len(names)} tensors are" if len(names) > 1 else f"the tensor {names[0]!r} is"
    cure = 'dtype="float32" (or "float16", "bfloat16") dequantizes'
    return [f"{some} quantized ({', '.join(kinds)}), which {format} does not hold; {cure}"]
