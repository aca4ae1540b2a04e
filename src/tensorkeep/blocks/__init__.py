"""Block-quantized element types: how ggml packs runs of 32 to 256 elements into blocks of bytes.

A block holds its elements' codes of a few bits each, and the scales that turn them into numbers;
multi-byte fields are little-endian. A row of a tensor is a whole number of blocks.

    dequantize(layout, blocks)     float32 of the blocks, on several threads where that pays
    quantize(layout, values)       the blocks of float32 values, for Q8_0 and Q4_0

Layouts from ggml's ggml-common.h; the results are those of its Python package `gguf`, bit for bit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tensorkeep.blocks import grid_quants, k_quants, quantizing, simple
from tensorkeep.blocks.parts import Bytes, Floats, Scratch
from tensorkeep.errors import UnsupportedError

_CHUNK = 1 << 18  # elements worked on at a time, so that they stay in cache
_SCRATCH = 6  # bytes of scratch memory for each of them
_WORTH_THREADS = 1 << 21  # elements
_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a block type is stored.

    Args:
        name: what it is called.
        size: the elements of a block.
        nbytes: the bytes of a block.
        dequantizer: fills float32 rows of `size` from rows of `nbytes` bytes; None where the bytes
            are only kept.
        words: where the 2-byte fields of a block start; None where files of the other byte order
            do not agree on it.
        quantizer: fills rows of `nbytes` bytes from float32 rows of `size`.
    """

    name: str
    size: int
    nbytes: int
    dequantizer: Callable[[Bytes, Floats, Scratch], None] | None
    words: tuple[int, ...] | None = None
    quantizer: Callable[[Floats, Bytes, Scratch], None] | None = None


LAYOUTS: dict[str, Layout] = {
    row.name: row
    for row in (
        Layout("q4_0", 32, 18, simple.q4_0, (0,), quantizing.q4_0),
        Layout("q4_1", 32, 20, simple.q4_1, (0, 2)),
        Layout("q5_0", 32, 22, simple.q5_0, (0,)),
        Layout("q5_1", 32, 24, simple.q5_1, (0, 2)),
        Layout("q8_0", 32, 34, simple.q8_0, (0,), quantizing.q8_0),
        Layout("q1_0", 128, 18, None, (0,)),
        Layout("q2_k", 256, 84, k_quants.q2_k, (80, 82)),
        Layout("q3_k", 256, 110, k_quants.q3_k, (108,)),
        Layout("q4_k", 256, 144, k_quants.q4_k, (0, 2)),
        Layout("q5_k", 256, 176, k_quants.q5_k, (0, 2)),
        Layout("q6_k", 256, 210, k_quants.q6_k, (208,)),
        Layout("q8_k", 256, 292, k_quants.q8_k),
        Layout("iq1_s", 256, 50, grid_quants.iq1_s),
        Layout("iq1_m", 256, 56, grid_quants.iq1_m),
        Layout("iq2_xxs", 256, 66, grid_quants.iq2_xxs),
        Layout("iq2_xs", 256, 74, grid_quants.iq2_xs),
        Layout("iq2_s", 256, 82, grid_quants.iq2_s, (0,)),
        Layout("iq3_xxs", 256, 98, grid_quants.iq3_xxs),
        Layout("iq3_s", 256, 110, grid_quants.iq3_s, (0,)),
        Layout("iq4_nl", 32, 18, simple.iq4_nl, (0,)),
        Layout("iq4_xs", 256, 136, k_quants.iq4_xs, (0, 2)),
        Layout("tq1_0", 256, 54, simple.tq1_0, (52,)),
        Layout("tq2_0", 256, 66, simple.tq2_0, (64,)),
        Layout("mxfp4", 32, 17, simple.mxfp4, ()),
        Layout("nvfp4", 64, 36, simple.nvfp4, ()),
    )
}


def dequantize(layout: Layout, blocks: Bytes) -> Floats:
    """Turn blocks into the float32 values that they stand for.

    Args:
        layout: of the blocks.
        blocks: uint8 in one dimension, whole blocks.

    Returns:
        float32 in one dimension.

    Raises:
        UnsupportedError: what the bytes of the type mean is not known here.

    >>> dequantize(LAYOUTS["q8_0"], np.array([0, 60, *range(32)], np.uint8))[:4].tolist()
    [0.0, 1.0, 2.0, 3.0]
    """
    fill = layout.dequantizer
    if fill is None:
        raise UnsupportedError(
            f"elements of the type {layout.name} cannot be turned into numbers here",
            cure="Their bytes can be read, copied and compared.",
        )
    rows = blocks.reshape(-1, layout.nbytes)
    out = np.empty((len(rows), layout.size), np.float32)
    _in_chunks(fill, rows, out, layout.size)
    return out.reshape(-1)


def quantize(layout: Layout, values: Floats) -> Bytes:
    """Turn float32 values into blocks, rounded to what they can stand for.

    Args:
        layout: of the blocks.
        values: float32 in one dimension, whole blocks.

    Returns:
        uint8 in one dimension.

    Raises:
        UnsupportedError: blocks of that type are not made here.

    >>> quantize(LAYOUTS["q8_0"], np.full(32, 127, np.float32))[:4].tolist()
    [0, 60, 127, 127]
    """
    fill = layout.quantizer
    if fill is None:
        made = ", ".join(row.name for row in LAYOUTS.values() if row.quantizer)
        raise UnsupportedError(
            f"nothing is quantized to {layout.name} here", cure=f"Choose one of {made}."
        )
    rows = values.reshape(-1, layout.size)
    out = np.empty((len(rows), layout.nbytes), np.uint8)
    _in_chunks(fill, rows, out, layout.size)
    return out.reshape(-1)


def _in_chunks(fill: Callable[[Any, Any, Scratch], None], rows: Any, out: Any, size: int) -> None:
    step = max(1, _CHUNK // size)
    own = threading.local()  # each thread works in memory of its own

    def run(start: int) -> None:
        if not hasattr(own, "scratch"):
            own.scratch = Scratch(min(step, len(rows)) * size * _SCRATCH)
        own.scratch.clear()
        with np.errstate(all="ignore"):  # a scale may be infinite or NaN, and so the values are
            fill(rows[start : start + step], out[start : start + step], own.scratch)

    starts = range(0, len(rows), step)
    if len(rows) * size < _WORTH_THREADS or _THREADS == 1:
        for start in starts:
            run(start)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        for _ in pool.map(run, starts):
            pass
