"""float32 -> blocks of Q8_0 and Q4_0, as the reference implementation rounds."""

from __future__ import annotations

import numpy as np

from tensorkeep.blocks.parts import Bytes, Floats, Scratch


def q8_0(values: Floats, out: Bytes, scratch: Scratch) -> None:
    """Fill blocks of 34 bytes from rows of 32 values."""
    scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    codes = values * _inverse(scale)
    size = np.abs(codes)
    whole = np.floor(size)
    size -= whole  # halves are rounded away from zero
    size *= 2
    whole += np.floor(size, out=size)
    out[:, :2] = scale.astype(np.float16).view(np.uint8)
    np.copysign(whole, codes, out=whole)
    out[:, 2:] = whole.astype(np.int8).view(np.uint8)


def q4_0(values: Floats, out: Bytes, scratch: Scratch) -> None:
    """Fill blocks of 18 bytes from rows of 32 values; the largest in size becomes code 0."""
    largest = np.abs(values).argmax(axis=1, keepdims=True)
    scale = np.take_along_axis(values, largest, axis=1) / np.float32(-8)
    codes = values * _inverse(scale)
    codes += np.float32(8.5)
    whole = np.trunc(codes, out=codes).astype(np.uint8)
    np.minimum(whole, 15, out=whole)
    out[:, :2] = scale.astype(np.float16).view(np.uint8)
    out[:, 2:] = whole[:, :16] | whole[:, 16:] << 4


def _inverse(scale: Floats) -> Floats:
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
