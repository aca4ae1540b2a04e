"""Train on a data set on the disk, stop in the middle of an epoch, go on with other ranks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tensorkeep as tk

SAMPLES = 1000
GLOBAL_BATCH = 32  # of all ranks together
EPOCHS = 3
TRUE = np.arange(8, dtype=np.float32) / 8


def samples() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for number in range(SAMPLES):
        x = rng.standard_normal(8, dtype=np.float32)
        y = x @ TRUE + np.float32(rng.normal(scale=0.01))
        yield {"x": x, "y": y, "number": np.int64(number)}


def train(data: Path, folder: Path, world: int, seen: list[int], stop_at: int = 0) -> Any:
    """Fit a line with the mean gradient of several ranks; here they take turns in one process."""
    ranks = [
        tk.Batches(
            data, GLOBAL_BATCH // world, shuffle=True, seed=7, rank=rank, world=world, prefetch=0
        )
        for rank in range(world)
    ]
    weight = np.zeros(8, np.float32)
    with tk.Checkpointer(folder, every_steps=10) as checkpointer:
        # The place in the data is the same on every rank, so one is saved and all are restored.
        state: dict[str, Any] = {"weight": weight, "step": 0, "data": ranks[0]}
        restored = checkpointer.restore(like=state)
        step = restored.state["step"] if restored else 0
        place = ranks[0].state_dict()
        for batches in ranks:
            batches.load_state_dict(place)
        if restored:
            print(f"epoch {place['epoch']}, sample {place['sample']}: goes on with {world} ranks")
        for _ in range(ranks[0].epoch, EPOCHS):
            for parts in zip(*ranks, strict=True):
                x = np.concatenate([batch["x"] for batch in parts])
                y = np.concatenate([batch["y"] for batch in parts])
                seen += np.concatenate([batch["number"] for batch in parts]).tolist()
                weight -= 0.1 * x.T @ (x @ weight - y) / len(x)
                step += 1
                checkpointer.step(step, {"weight": weight, "step": step, "data": ranks[0]})
                if step == stop_at:
                    break
            if step == stop_at:
                break
    for batches in ranks:
        batches.close()
    return weight


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tk.data.write(samples(), folder / "train.lmdb")
        tk.data.write(samples(), folder / "train.tar")
        with tk.data.open(folder / "train.lmdb") as a, tk.data.open(folder / "train.tar") as b:
            print(f"{len(a):,} samples, {', '.join(sorted(a.fields))}")
            same = all(np.array_equal(a[17][name], b[17][name]) for name in a.fields)
            print(f"the same sample in LMDB and in the tar: {same}")

        data, whole, parts = folder / "train.lmdb", list[int](), list[int]()
        expected = train(data, folder / "whole", 1, whole)
        train(data, folder / "parts", 1, parts, stop_at=50)
        found = train(data, folder / "parts", 4, parts)

        print(f"the same samples in the same order as without the stop: {parts == whole}")
        print(f"each of them once in an epoch: {sorted(parts[:SAMPLES]) == list(range(SAMPLES))}")
        print(f"the same weights: {np.allclose(found, expected)}")


if __name__ == "__main__":
    main()
