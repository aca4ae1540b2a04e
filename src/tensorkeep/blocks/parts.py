"""What the dequantizers have in common: bytes of blocks -> codes and scales."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int8]
Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.integer[Any]]

_ALIGN = 64


class Scratch:
    """Memory that is used anew for every chunk of blocks: fresh pages cost more than the work."""

    def __init__(self, nbytes: int) -> None:
        self._memory = np.empty(nbytes, np.uint8)
        self._used = 0

    def clear(self) -> None:
        """Take back all that was handed out."""
        self._used = 0

    def empty(self, *shape: int) -> Bytes:
        """Hand out bytes of a shape; fresh ones where there are not enough."""
        start, size = self._used, math.prod(shape)
        if start + size > self._memory.size:
            return np.empty(shape, np.uint8)
        self._used = -(-(start + size) // _ALIGN) * _ALIGN
        return self._memory[start : start + size].reshape(shape)

    def copy(self, part: Bytes) -> Bytes:
        """Give a part of every block without what lies between."""
        out = self.empty(*part.shape)
        out[...] = part
        return out


def half(blocks: Bytes, at: int) -> Floats:
    """Give the float16 at a byte of every block, as a column of float32."""
    return blocks[:, at : at + 2].view(np.float16).astype(np.float32)


def words(blocks: Bytes, start: int, stop: int, kind: str) -> Words:
    """Give bytes `start` to `stop` of every block as little-endian words."""
    return np.ascontiguousarray(blocks[:, start:stop]).view(kind)


def nibbles(packed: Bytes, run: int, scratch: Scratch) -> Bytes:
    """Unpack 4-bit codes: of each `run` bytes the low halves stand before the high ones.

    >>> nibbles(np.array([[0x21, 0x43]], np.uint8), 2, Scratch(64)).tolist()
    [[1, 3, 2, 4]]
    """
    return planes(packed, run, 4, scratch)


def planes(packed: Bytes, run: int, bits: int, scratch: Scratch, at: int = 0) -> Bytes:
    """Unpack codes of 1, 2 or 4 bits: of each `run` bytes first all lowest ones, then the next.

    Args:
        packed: the same part of every block.
        run: bytes whose lowest codes stand together.
        bits: of a code.
        scratch: what the result lies in.
        at: the bit of a byte to put the codes at.

    >>> planes(np.array([[0b0110, 0b1101]], np.uint8), 2, 2, Scratch(64))[:, :4].tolist()
    [[2, 1, 1, 3]]
    """
    count, size = packed.shape
    flat = scratch.copy(packed)
    each = scratch.empty(count, size)
    out = scratch.empty(count, size // run, 8 // bits, run)
    for place in range(8 // bits):
        up = at - place * bits
        shift = np.left_shift if up > 0 else np.right_shift
        shift(flat, abs(up), out=each)
        each &= ((1 << bits) - 1) << at
        out[:, :, place] = each.reshape(count, -1, run)
    return out.reshape(count, -1)


def fields(values: Words, shifts: range, mask: int) -> Words:
    """Take several fields of each word, lowest first.

    >>> fields(np.array([[0x4321]], np.uint16), range(0, 16, 4), 15).tolist()
    [[1, 2, 3, 4]]
    """
    out = np.empty((*values.shape, len(shifts)), values.dtype)
    for place, shift in enumerate(shifts):
        out[:, :, place] = values >> shift & mask
    return out.reshape(len(values), -1)


def scaled(codes: npt.NDArray[np.integer[Any]], scales: Floats, out: Floats) -> Floats:
    """Fill `out` with scales times codes; every scale is that of an equal run of a block's codes.

    Returns:
        `out` as blocks, runs and their elements.
    """
    np.copyto(out, codes.reshape(out.shape), casting="unsafe")
    runs = out.reshape(len(out), scales.shape[1], -1)
    # The scale is the first factor: of two NaNs the first one's bits stay.
    np.multiply(scales[:, :, None], runs, out=runs)
    return runs
