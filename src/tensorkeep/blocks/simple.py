"""Blocks of 32 with one scale, blocks of ternary digits, and blocks of 4-bit floats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tensorkeep.blocks.parts import Bytes, Codes, Floats, Scratch, half, nibbles, planes, scaled

# The eight bits of a byte, lowest first, as eight bytes of 0 or 16 in one word.
_FIFTH_BITS = np.unpackbits(np.arange(256, dtype=np.uint8), bitorder="little").view(np.uint64) << 4


def q4_0(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f16), 16 bytes: scale * (code - 8)."""
    codes = nibbles(blocks[:, 2:], 16, scratch).view(np.int8)
    codes -= 8
    scaled(codes, half(blocks, 0), out)


def q4_1(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale, minimum (f16), 16 bytes: scale * code + minimum."""
    runs = scaled(nibbles(blocks[:, 4:], 16, scratch), half(blocks, 0), out)
    runs += half(blocks, 2)[:, :, None]


def q5_0(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f16), 4 bytes of fifth bits, 16 bytes: scale * (code - 16)."""
    codes = _with_fifth(blocks[:, 2:], scratch).view(np.int8)
    codes -= 16
    scaled(codes, half(blocks, 0), out)


def q5_1(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale, minimum (f16), 4 bytes of fifth bits, 16 bytes: scale * code + minimum."""
    runs = scaled(_with_fifth(blocks[:, 4:], scratch), half(blocks, 0), out)
    runs += half(blocks, 2)[:, :, None]


def _with_fifth(packed: Bytes, scratch: Scratch) -> Bytes:
    codes = nibbles(packed[:, 4:], 16, scratch)
    codes |= _FIFTH_BITS.take(packed[:, :4]).view(np.uint8)
    return codes


def q8_0(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f16), 32 bytes: code * scale."""
    np.copyto(out, blocks[:, 2:].view(np.int8))
    out *= half(blocks, 0)


def tq1_0(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """48 bytes of five ternary digits, 4 bytes of four, scale (f16): scale * (digit - 1)."""
    codes = scratch.empty(*out.shape).view(np.int8)
    at = start = 0
    for run, digits in ((32, 5), (16, 5), (4, 4)):
        packed = scratch.copy(blocks[:, start : start + run])
        each, other = scratch.empty(*packed.shape), scratch.empty(*packed.shape)
        for _ in range(digits):
            # A byte is a fraction of 256 in base 3: its first digit is 0, 1 from 86, 2 from 171.
            np.greater_equal(packed, 86, out=each.view(np.bool_))
            np.greater_equal(packed, 171, out=other.view(np.bool_))
            each += other
            codes[:, at : at + run] = each.view(np.int8)
            packed *= 3
            at += run
        start += run
    codes -= 1
    scaled(codes, half(blocks, 52), out)


def tq2_0(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """64 bytes of four 2-bit digits, scale (f16): scale * (digit - 1)."""
    codes = planes(blocks[:, :64], 32, 2, scratch).view(np.int8)
    codes -= 1
    scaled(codes, half(blocks, 64), out)


def iq4_nl(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Scale (f16), 16 bytes: scale * one of 16 uneven values."""
    scaled(looked_up(blocks[:, 2:], 16, UNEVEN, scratch), half(blocks, 0), out)


def mxfp4(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Exponent (E8M0), 16 bytes: 2 ** exponent * FP4."""
    scaled(looked_up(blocks[:, 1:], 16, _E2M1, scratch), _HALF_E8M0.take(blocks[:, :1]), out)


def nvfp4(blocks: Bytes, out: Floats, scratch: Scratch) -> None:
    """Four scales (E4M3 without a sign), four times 8 bytes: scale * FP4."""
    scaled(looked_up(blocks[:, 4:], 8, _E2M1, scratch), _HALF_E4M3.take(blocks[:, :4]), out)


def looked_up(packed: Bytes, run: int, pairs: npt.NDArray[np.uint16], scratch: Scratch) -> Codes:
    """Unpack 4-bit codes as `nibbles` does, and give the values that they stand for."""
    codes = nibbles(packed, run, scratch).view(np.uint16)
    values = scratch.empty(len(packed), 2 * packed.shape[1]).view(np.uint16)
    return pairs.take(codes, out=values, mode="clip").view(np.int8)


def _pairs(values: list[int]) -> npt.NDArray[np.uint16]:
    """Make a table of 16 values one that is asked for two of them at once."""
    table = np.zeros((16, 256, 2), np.int8)
    table[:, :16, 0] = values
    table[:, :, 1] = np.array(values)[:, None]
    return table.reshape(-1).view(np.uint16)


# What the 16 codes of IQ4_NL and IQ4_XS stand for.
UNEVEN = _pairs([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
# Twice the values of FP4 (E2M1).
_E2M1 = _pairs([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])


def _half_e8m0() -> Floats:
    """Half of 2 ** (code - 127), as bits: the two smallest are subnormal."""
    codes = np.arange(256, dtype=np.uint32)
    bits = np.where(codes < 2, np.uint32(0x00200000) << codes, (codes - 1) << 23)
    return bits.astype(np.uint32).view(np.float32)


def _half_e4m3() -> Floats:
    codes = np.arange(256)
    exponent, mantissa = codes >> 3 & 15, codes & 7
    small, large = mantissa / 512, (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    values: npt.NDArray[np.float64] = np.where(exponent == 0, small, large) / 2
    values[[0, 0x7F]] = 0  # the latter is NaN in E4M3, and no scale
    return values.astype(np.float32)


_HALF_E8M0 = _half_e8m0()
_HALF_E4M3 = _half_e4m3()
