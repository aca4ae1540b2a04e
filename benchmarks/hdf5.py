"""Measure HDF5 files of weights beside h5py: python -m benchmarks.hdf5 --size 256MiB --rounds 3.

Both do each operation once a round, in turns, on a file that h5py wrote (in one piece per dataset)
and that is in the page cache. "load" ends when every byte is in fresh memory of the process: for
tensorkeep that is `load(copy=True)`. Neither syncs what it saves.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import tensorkeep as tk

TENSORS = 300
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def states(size: int) -> dict[str, Any]:
    each = max(1, size // TENSORS // 4 // 256)
    rng = np.random.default_rng(0)
    return {f"model.layers.{i}.weight": rng.random((each, 256), np.float32) for i in range(TENSORS)}


def save(arrays: dict[str, Any], path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name.replace(".", "/"), data=array)


def list_all(path: Path) -> int:
    found: list[Any] = []
    with h5py.File(path) as file:
        file.visititems(lambda name, thing: found.append((name, getattr(thing, "shape", None))))
    return len(found)


def load_all(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def look(name: str, thing: Any) -> None:
        if isinstance(thing, h5py.Dataset):
            found[name] = thing[()]

    with h5py.File(path) as file:
        file.visititems(look)
    return found


def load_one(path: Path) -> Any:
    with h5py.File(path) as file:
        return file["model/layers/150/weight"][()]


def list_ours(path: Path) -> int:
    with tk.open(path) as state:
        return len([(name, tensor.shape) for name, tensor in state.items()])


def cases(folder: Path, size: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Give each operation as ours and h5py's."""
    arrays, path, out = states(size), folder / "weights.h5", folder / "out"
    save(arrays, path)
    one = "model.layers.150.weight"
    bare = {"durable": False, "checksums": False}
    return {
        "open, list": (lambda: list_ours(path), lambda: list_all(path)),
        "load, mapped": (lambda: tk.load(path), lambda: load_all(path)),
        "load, copied": (lambda: tk.load(path, copy=True), lambda: load_all(path)),
        "load one of 300": (
            lambda: tk.load(path, names=one, copy=True),
            lambda: load_one(path),
        ),
        "save": (
            lambda: tk.save(arrays, f"{out}1.h5", durable=False),
            lambda: save(arrays, Path(f"{out}2.h5")),
        ),
        "save, no checksums": (
            lambda: tk.save(arrays, f"{out}1.h5", **bare),  # type: ignore[arg-type]
            lambda: save(arrays, Path(f"{out}2.h5")),
        ),
    }


def timed(operation: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    result = operation()
    taken = time.perf_counter() - begin
    del result
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="256MiB")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    size = int(chosen.size[:-3]) * UNITS[chosen.size[-3:]]
    print(f"| {chosen.size} in {TENSORS} tensors | tensorkeep, ms | h5py, ms | times as fast |")
    print("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, pair in cases(Path(folder), size).items():
            rounds = [[timed(operation) for operation in pair] for _ in range(chosen.rounds + 1)]
            ours, theirs = (
                1000 * statistics.median(column) for column in zip(*rounds[1:], strict=True)
            )
            print(f"| {name} | {ours:.1f} | {theirs:.1f} | {theirs / ours:.2f} |")


if __name__ == "__main__":
    main()
