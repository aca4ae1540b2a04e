"""Sharded checkpoints for tests: any partition of arrays into boxes, put by any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.distributed import Part, SharedSave, new_token
from tensorkeep.formats.safetensors.manifest import Manifest
from tensorkeep.tensor import Tensor

Shape = tuple[int, ...]
Cut = tuple[Shape, Shape]  # offsets and sizes of a box
Array = npt.NDArray[Any]


def grid(shape: Shape, counts: Shape) -> list[Cut]:
    """Cut a shape as even as frameworks do: chunks of the same size, the last one smaller."""
    cuts: list[Cut] = [((), ())]
    for size, count in zip(shape, counts, strict=True):
        step = max(1, -(-size // count))
        rows = [(at, min(step, size - at)) for at in range(0, size, step)] or [(0, 0)]
        cuts = [((*o, at), (*s, length)) for o, s in cuts for at, length in rows]
    return cuts


def part(name: str, array: Array, cut: Cut) -> Part:
    """Give a box of an array."""
    offsets, sizes = cut
    box = tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))
    return Part(name, Tensor.of(array[box]), offsets, array.shape)


def save_sharded(
    path: Path | str,
    arrays: Mapping[str, Array],
    cuts: Mapping[str, list[Cut]],
    *,
    ranks: int = 4,
    skeleton: dict[str, Any] | None = None,
    max_shard_size: int | str | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Manifest:
    """Save arrays, their boxes dealt out to ranks in turn; those without cuts go to one rank."""
    token = new_token()
    saves = [
        SharedSave(
            path,
            rank=rank,
            ranks=ranks,
            token=token,
            durable=False,
            max_shard_size=max_shard_size,
            overwrite=overwrite,
        )
        for rank in range(ranks)
    ]
    saves[0].open()
    parts: list[list[Part]] = [[] for _ in saves]
    for number, (name, array) in enumerate(arrays.items()):
        whole = [((0,) * array.ndim, array.shape)]
        for place, cut in enumerate(cuts.get(name, whole)):
            parts[(number + place) % ranks].append(part(name, array, cut))
    for save, held in zip(saves, parts, strict=True):
        save.put(held, skeleton=skeleton)
    return saves[0].commit(skeleton=skeleton, order=list(arrays), **options)


def matrices() -> dict[str, Array]:
    """Give some arrays of a model."""
    rng = np.random.default_rng(7)
    return {
        "model.rows": rng.standard_normal((10, 6)).astype(np.float32),
        "model.columns": rng.standard_normal((5, 16)),
        "model.grid": rng.integers(0, 1 << 15, (9, 7, 4), np.int16),
        "model.whole": np.arange(5, dtype=np.int64),
        "model.empty": np.zeros((0, 3), np.float16),
        "model.scalar": np.array(2.5),
    }


CUTS = {
    "model.rows": grid((10, 6), (4, 1)),
    "model.columns": grid((5, 16), (1, 4)),
    "model.grid": grid((9, 7, 4), (2, 2, 1)),
}
TREE = {"tree": {"model": {name.partition(".")[2]: "$" for name in matrices()}, "step": 3}}
