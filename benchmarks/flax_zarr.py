"""Compare Flax and zarr files: load all, load one array, save; ours against Flax and zarr-python.

    python -m benchmarks.flax_zarr --size 256MiB --rounds 3

Prints a table in Markdown. Files are in the page cache; each figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tensorkeep as tk

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_ROW = 1024


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="256MiB")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    size = int(given.size[:-3]) * _UNITS[given.size[-3:]]
    warnings.simplefilter("ignore")
    print("| what | theirs (s) | ours (s) | ours is |")
    print("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, theirs, ours in _cases(_state(size), Path(folder)):
            one, other = _median(theirs, given.rounds), _median(ours, given.rounds)
            print(f"| {name} | {one:.3f} | {other:.3f} | {one / other:.1f}x as fast |", flush=True)


def _state(size: int) -> dict[str, Any]:
    """Make layers of float32 of about 16 MiB each."""
    rng = np.random.default_rng(0)
    layers = max(1, size >> 24)
    rows = size // layers // 4 // _ROW
    return {
        f"layer{i}": {"kernel": rng.random((rows, _ROW), np.float32), "bias": np.ones(_ROW, "f4")}
        for i in range(layers)
    }


def _median(run: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _cases(
    state: dict[str, Any], folder: Path
) -> list[tuple[str, Callable[[], Any], Callable[[], Any]]]:
    from flax import serialization

    flax, flax_ours = folder / "theirs.msgpack", folder / "ours.msgpack"
    zarrs, zarrs_ours = folder / "theirs.zarr", folder / "ours.zarr"
    gz, gz_ours = folder / "theirs-gz.zarr", folder / "ours-gz.zarr"

    def touched(nested: Any) -> float:
        return sum(float(layer["kernel"].sum()) for layer in nested.values())

    def restore() -> Any:
        return serialization.msgpack_restore(flax.read_bytes())

    def one(path: Path) -> Any:
        with tk.open(path) as opened:
            return opened["layer0.kernel"].numpy().sum()

    small = {"layer0": state["layer0"]}
    _zarr_save(zarrs, state)
    flax.write_bytes(serialization.to_bytes(state))
    _zarr_save(gz, small, compressed=True)
    return [
        (
            "Flax: save",
            lambda: flax.write_bytes(serialization.to_bytes(state)),
            lambda: tk.save(state, flax_ours, durable=False),
        ),
        (
            "Flax: load all, and sum",
            lambda: touched(restore()),
            lambda: touched(tk.load(flax_ours)),
        ),
        (
            "Flax: load one array, and sum",
            lambda: restore()["layer0"]["kernel"].sum(),
            lambda: one(flax_ours),
        ),
        (
            "zarr: save",
            lambda: _zarr_save(zarrs, state),
            lambda: tk.save(state, zarrs_ours, durable=False),
        ),
        (
            "zarr: load all, and sum",
            lambda: touched(_zarr_load(zarrs)),
            lambda: touched(tk.load(zarrs_ours)),
        ),
        (
            "zarr: load all of zarr-python's, and sum",
            lambda: touched(_zarr_load(zarrs)),
            lambda: touched(tk.load(zarrs)),
        ),
        ("zarr: load one array, and sum", lambda: _zarr_one(zarrs).sum(), lambda: one(zarrs_ours)),
        (
            "zarr, zstd: save one layer",
            lambda: _zarr_save(gz, small, compressed=True),
            lambda: tk.save(small, gz_ours, compression="zstd", durable=False),
        ),
        (
            "zarr, zstd: load one layer, and sum",
            lambda: touched(_zarr_load(gz)),
            lambda: touched(tk.load(gz)),
        ),
    ]


def _zarr_save(path: Path, state: dict[str, Any], *, compressed: bool = False) -> None:
    import zarr

    shutil.rmtree(path, ignore_errors=True)
    group = zarr.open_group(path, mode="w")
    packing: dict[str, Any] = {} if compressed else {"compressors": None}
    for layer, arrays in state.items():
        for name, array in arrays.items():
            group.create_array(f"{layer}/{name}", data=array, chunks=array.shape, **packing)
    zarr.consolidate_metadata(group.store)


def _zarr_load(path: Path) -> dict[str, dict[str, Any]]:
    import zarr

    group: Any = zarr.open_group(path, mode="r")
    return {
        layer: {name: array[:] for name, array in arrays.arrays()}
        for layer, arrays in group.groups()
    }


def _zarr_one(path: Path) -> Any:
    import zarr

    group: Any = zarr.open_group(path, mode="r")
    return group["layer0/kernel"][:]


if __name__ == "__main__":
    main()
