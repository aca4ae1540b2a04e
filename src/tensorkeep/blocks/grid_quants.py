"""IQ types: blocks of 256 whose codes name rows of a grid, with signs and scales beside them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tensorkeep.blocks.grids import even_signs, grid, signs
from tensorkeep.blocks.parts import (
    Bytes,
    Codes,
    Floats,
    Scratch,
    Words,
    fields,
    half,
    nibbles,
    scaled,
    words,
)


def iq2_xxs(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f16), 8 times 4 bytes of codes and 4 of signs (4 times 7 bits) and a scale (4)."""
    pairs = words(blocks, 2, 66, "<u4").reshape(len(blocks), 8, 2)
    codes = np.ascontiguousarray(pairs[:, :, 0]).view(np.uint8)
    rest = pairs[:, :, 1]
    values = _signed("iq2_xxs", codes, even_signs(), _sevens(rest), scratch)
    scaled(values, _quarters(blocks, rest >> 28), out)


def iq2_xs(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f16), 32 words of a code (9 bits) and signs (7), 16 scales (4)."""
    both = words(blocks, 2, 66, "<u2")
    values = _signed("iq2_xs", both & 511, even_signs(), both >> 9, scratch)
    scaled(values, _quarters(blocks, nibbles(blocks[:, 66:], 1, scratch)), out)


def iq2_s(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f16), 32 bytes of codes, 32 of signs, 8 of the codes' high bits, 16 scales (4)."""
    high = fields(blocks[:, 66:74], range(0, 8, 2), 3)
    codes = blocks[:, 2:34] | high.astype(np.uint16) << 8
    values = _signed("iq2_s", codes, signs(), blocks[:, 34:66], scratch)
    scaled(values, _quarters(blocks, nibbles(blocks[:, 74:], 1, scratch)), out)


def iq3_xxs(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f16), 64 bytes of codes, 8 words of signs (4 times 7 bits) and a scale (4)."""
    rest = words(blocks, 66, 98, "<u4")
    scales = half(blocks, 0) * (np.float32(0.5) + (rest >> 28).astype(np.float32)) * np.float32(0.5)
    values = _signed("iq3_xxs", blocks[:, 2:66], even_signs(), _sevens(rest), scratch)
    scaled(values, scales, out)


def iq3_s(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f16), 64 bytes of codes, 8 of their ninth bits, 32 of signs, 8 scales (4)."""
    high = fields(blocks[:, 66:74], range(8), 1)
    codes = blocks[:, 2:66] | high.astype(np.uint16) << 8
    parts = 1 + 2 * nibbles(blocks[:, 106:], 1, scratch)
    values = _signed("iq3_s", codes, signs(), blocks[:, 74:106], scratch)
    scaled(values, half(blocks, 0) * parts.astype(np.float32), out)


def iq1_s(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f16), 32 bytes of codes, 8 words: 4 times 3 high bits, a scale (3), a sign."""
    rest = words(blocks, 34, 50, "<u2")
    codes = blocks[:, 2:34] | fields(rest, range(0, 12, 3), 7) << 8
    scales = half(blocks, 0) * (2 * (rest >> 12 & 7) + 1).astype(np.float32)
    values = _shifted(codes, np.repeat(rest >> 15, 4, axis=1), scratch)
    scaled(values, scales * _EIGHTH, out)


def iq1_m(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """32 bytes of codes, 16 of twice 3 high bits and a sign, 4 words: 4 scales (3), 4 bits each.

    Those last four bits together are the scale (f16).
    """
    tail = words(blocks, 48, 56, "<u2")
    bits = tail >> 12 << np.arange(0, 16, 4, dtype=np.uint16)
    whole = np.bitwise_or.reduce(bits, axis=1, keepdims=True).view(np.float16).astype(np.float32)
    scales = whole * (2 * fields(tail, range(0, 12, 3), 7) + 1).astype(np.float32)
    high = nibbles(blocks[:, 32:48], 1, scratch)
    codes = blocks[:, :32] | (high & 7).astype(np.uint16) << 8
    scaled(_shifted(codes, high >> 3, scratch), scales * _EIGHTH, out)


_EIGHTH = np.float32(0.125)


def _rows(table: Words, codes: Words, scratch: Scratch) -> Codes:
    """Look codes up in a table of words; gives the bytes of them, one after the other."""
    width = table.itemsize * codes.shape[1]
    out = scratch.empty(len(codes), width).view(table.dtype)
    return table.take(codes, out=out, mode="clip").view(np.int8)


def _signed(
    name: str, codes: Words, table: npt.NDArray[np.uint64], at: Words, scratch: Scratch
) -> Codes:
    values = _rows(grid(name), codes, scratch)
    values *= _rows(table, at, scratch)
    return values


def _shifted(codes: Words, signs: Words, scratch: Scratch) -> Codes:
    """Shift every value of a row by 1/8, up or down; gives eighths, which are whole numbers."""
    at = signs.astype(np.uint16)
    at <<= 11
    at |= codes
    return _rows(grid("iq1_s"), at, scratch)


def _sevens(rest: Words) -> Words:
    return fields(rest, range(0, 28, 7), 127)


def _quarters(blocks: Bytes, scales: Words) -> Floats:
    return half(blocks, 0) * (np.float32(0.5) + scales.astype(np.float32)) * np.float32(0.25)
