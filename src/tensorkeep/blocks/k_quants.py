"""K-quants: blocks of 256 whose runs of 16 or 32 have scales of their own, quantized again."""

from __future__ import annotations

import numpy as np

from tensorkeep.blocks.parts import (
    Bytes,
    Floats,
    Scratch,
    fields,
    half,
    nibbles,
    planes,
    scaled,
    words,
)
from tensorkeep.blocks.simple import UNEVEN, looked_up


def q2_k(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """16 scales and minima (4 + 4 bits), 64 bytes, scale of both (f16)."""
    parts = blocks[:, :16]
    least = half(blocks, 82) * (parts >> 4).astype(np.float32)
    scales = half(blocks, 80) * (parts & 15).astype(np.float32)
    runs = scaled(planes(blocks[:, 16:80], 32, 2, scratch), scales, out)
    runs -= least[:, :, None]


def q3_k(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """32 bytes of third bits, 64 bytes, 16 scales of 6 bits, scale (f16)."""
    codes = planes(blocks[:, 32:96], 32, 2, scratch)
    codes |= planes(blocks[:, :32], 32, 1, scratch, 2)
    signed = codes.view(np.int8)
    signed -= 4  # a third bit that is not set subtracts 4
    low = nibbles(blocks[:, 96:104], 8, scratch)
    high = planes(blocks[:, 104:108], 4, 2, scratch, 4)
    parts = (low | high).view(np.int8) - np.int8(32)
    scaled(signed, half(blocks, 108) * parts.astype(np.float32), out)


def q4_k(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale of scales and of minima (f16), 8 of both (6 bits), 128 bytes."""
    scales, least = _six_bits(blocks)
    runs = scaled(nibbles(blocks[:, 16:], 32, scratch), scales, out)
    runs -= least[:, :, None]


def q5_k(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """As q4_k, with 32 bytes of fifth bits before the 128."""
    scales, least = _six_bits(blocks)
    codes = nibbles(blocks[:, 48:], 32, scratch)
    codes |= planes(blocks[:, 16:48], 32, 1, scratch, 4)
    runs = scaled(codes, scales, out)
    runs -= least[:, :, None]


def _six_bits(blocks: Bytes) -> tuple[Floats, Floats]:
    """Give the 8 scales and 8 minima; the last four of each have their bits in two places."""
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([first & 63, rest & 15 | first >> 2 & 48], axis=1)
    least = np.concatenate([second & 63, rest >> 4 | second >> 2 & 48], axis=1)
    return half(blocks, 0) * scales.astype(np.float32), half(blocks, 2) * least.astype(np.float32)


def q6_k(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """128 bytes of the low four bits, 64 of the high two, 16 scales (int8), scale (f16)."""
    codes = nibbles(blocks[:, :128], 64, scratch)
    codes |= planes(blocks[:, 128:192], 32, 2, scratch, 4)
    signed = codes.view(np.int8)
    signed -= 32
    parts = blocks[:, 192:208].view(np.int8).astype(np.float32)
    scaled(signed, half(blocks, 208) * parts, out)


def q8_k(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f32), 256 bytes, 16 sums of them, which are not needed: code * scale."""
    np.copyto(out, blocks[:, 4:260].view(np.int8))
    out *= blocks[:, :4].view(np.float32)


def iq4_xs(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f16), 8 scales of 6 bits (their high bits first), 128 bytes of uneven values."""
    high = fields(words(blocks, 2, 4, "<u2"), range(0, 16, 2), 3).astype(np.uint8)
    low = nibbles(blocks[:, 4:8], 1, scratch)
    parts = (low | high << 4).view(np.int8) - np.int8(32)
    scales = half(blocks, 0) * parts.astype(np.float32)
    scaled(looked_up(blocks[:, 8:], 16, UNEVEN, scratch), scales, out)
