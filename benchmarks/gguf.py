"""Measure GGUF beside ggml's own Python package `gguf`: opening, loading, dequantizing, saving.

Both do each operation once a round, in turns; the first round is not counted. One file is a model
of `--size`, another has a vocabulary of 128,256 tokens and 280,147 merges, as current models have.
On a machine that others use, `--cpu` counts the processor's time instead of the clock's.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

import tensorkeep as tk
from benchmarks.measure import Pool, forget_freed_memory, log
from benchmarks.tables import table
from tensorkeep import blocks
from tensorkeep.blocks import LAYOUTS
from tensorkeep.wire.sizes import size_of

OURS, THEIRS = "tensorkeep", "gguf"
ELEMENTS = 16 << 20  # of the tensor that is dequantized
TOKENS, MERGES = 128_256, 280_147
_COLUMNS = 4096

_POOL = Pool(0)  # so that neither takes memory that the host has to give first
_CLOCK = [time.perf_counter]

Seconds = dict[str, dict[str, list[float]]]  # by operation and peer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gguf", description=__doc__)
    parser.add_argument("--size", default="256MiB", help="of the model's tensors")
    parser.add_argument("--rounds", type=int, default=5, help="the first is not counted")
    parser.add_argument("--threads", type=int, help="to dequantize with; as many as it uses")
    parser.add_argument("--cpu", action="store_true", help="count the processor's time")
    arguments = parser.parse_args()
    if arguments.cpu:
        _CLOCK[0] = time.process_time
    if arguments.threads:
        blocks._THREADS = arguments.threads
    size = size_of(arguments.size) or 0
    _POOL.size = 5 * size
    forget_freed_memory()
    folder = Path(tempfile.mkdtemp(prefix="gguf-"))
    try:
        files = measure_files(folder, size, arguments.rounds)
        print(report(files, "ms", 1e3))
        speeds = measure_dequantizing(arguments.rounds)
        print(report(speeds, "GB/s of float32", ELEMENTS * 4 / 1e9))
    finally:
        shutil.rmtree(folder)


def timed(seconds: Seconds, operation: str, turn: int, peers: dict[str, Callable[[], Any]]) -> None:
    names = list(peers) if turn % 2 else list(peers)[::-1]
    for peer in names:
        gc.collect()
        _POOL.fill()
        _POOL.drain()
        begin = _CLOCK[0]()
        peers[peer]()
        if turn:
            spent = _CLOCK[0]() - begin
            seconds.setdefault(operation, {}).setdefault(peer, []).append(spent)


def report(seconds: Seconds, unit: str, scale: float) -> str:
    """Give medians, and the median of the rounds' ratios."""

    def cell(values: list[float]) -> str:
        middle = statistics.median(values)
        return f"{scale / middle:,.2f}" if "/" in unit else f"{scale * middle:,.1f}"

    rows = []
    for operation, by in seconds.items():
        ratios = [b / a for a, b in zip(by[OURS], by[THEIRS], strict=True)]
        rows.append(
            [operation, cell(by[OURS]), cell(by[THEIRS]), f"{statistics.median(ratios):,.1f}"]
        )
    return table([unit, OURS, THEIRS, "times as fast"], rows)


# --- files --------------------------------------------------------------------------------------


def model(size: int) -> dict[str, np.ndarray[Any, Any]]:
    """Make the tensors of a model: raw Q8_0 blocks, and some float32 norms."""
    rows = 1024
    one = rows * _COLUMNS // 32 * 34
    draw = np.random.default_rng(0)
    state: dict[str, Any] = {}
    for i in range(max(1, size // one)):
        state[f"blk.{i}.weight"] = draw.integers(0, 60, (rows, one // rows), dtype=np.uint8)
        state[f"blk.{i}.norm"] = np.ones(_COLUMNS, np.float32)
    return state


def write_theirs(path: Path, state: dict[str, Any], vocabulary: bool) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    if vocabulary:
        writer.add_token_list([f"token {i}" for i in range(TOKENS)])
        writer.add_token_types([1] * TOKENS)
        writer.add_token_merges([f"merge {i}" for i in range(MERGES)])
    for name, array in state.items():
        raw = gguf.GGMLQuantizationType.Q8_0 if array.dtype == np.uint8 else None
        writer.add_tensor(name, array, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def measure_files(folder: Path, size: int, rounds: int) -> Seconds:
    state = model(size)
    small, large = folder / "small.gguf", folder / "large.gguf"
    write_theirs(small, state, False)
    write_theirs(large, {"w": np.ones(4, np.float32)}, True)
    name = "blk.0.weight"

    def ours_one() -> Any:
        with tk.open(small) as opened:
            return opened[name].numpy()

    def theirs_one() -> Any:
        found = next(t for t in gguf.GGUFReader(small).tensors if t.name == name)
        return gguf.dequantize(found.data, found.tensor_type)

    def ours_all() -> Any:
        return tk.load(small, dtype="float32")

    def theirs_all() -> Any:
        return {
            t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(small).tensors
        }

    values = {f"w{i}": np.ones((1024, _COLUMNS), np.float32) for i in range(max(1, size >> 24))}

    def ours_save() -> None:
        tk.save(values, folder / "ours.gguf", durable=False)

    def ours_bare() -> None:
        tk.save(values, folder / "ours.gguf", durable=False, checksums=False)

    def theirs_save() -> None:
        write_theirs(folder / "theirs.gguf", values, False)

    def ours_quantized() -> None:
        tk.save(values, folder / "ours.gguf", durable=False, checksums=False, quantize="q8_0")

    def theirs_quantized() -> None:
        kind = gguf.GGMLQuantizationType.Q8_0
        write_theirs(
            folder / "theirs.gguf", {n: gguf.quantize(v, kind) for n, v in values.items()}, False
        )

    seconds: Seconds = {}
    for turn in range(rounds):
        log(f"files: round {turn + 1} of {rounds}")
        for operation, mine, other in (
            ("open", lambda: tk.open(small).close(), lambda: gguf.GGUFReader(small)),
            ("open, vocabulary", lambda: tk.open(large).close(), lambda: gguf.GGUFReader(large)),
            ("load one as float32", ours_one, theirs_one),
            ("load all as float32", ours_all, theirs_all),
            ("save float32", ours_bare, theirs_save),
            ("save float32, with checksums", ours_save, theirs_save),
            ("save as Q8_0", ours_quantized, theirs_quantized),
        ):
            timed(seconds, operation, turn, {OURS: mine, THEIRS: other})
    return seconds


# --- dequantizing -------------------------------------------------------------------------------


def measure_dequantizing(rounds: int) -> Seconds:
    seconds: Seconds = {}
    for layout in LAYOUTS.values():
        if layout.dequantizer is None or layout.name == "q8_k":  # gguf has none for it
            continue
        kind = gguf.GGMLQuantizationType[layout.name.upper()]
        # Bytes below 60: no scale is infinite, subnormal or NaN, all of which take longer.
        size = ELEMENTS // layout.size * layout.nbytes
        data = np.random.default_rng(0).integers(0, 60, size, dtype=np.uint8)
        rows = data.reshape(-1, _COLUMNS // layout.size * layout.nbytes)
        log(layout.name)
        for turn in range(rounds):
            timed(
                seconds,
                layout.name,
                turn,
                {
                    OURS: lambda layout=layout, data=data: blocks.dequantize(layout, data),
                    THEIRS: lambda kind=kind, rows=rows: gguf.dequantize(rows, kind),
                },
            )
    return seconds


if __name__ == "__main__":
    main()
