"""What each rank does, in tests of many processes; it imports little, as each of them does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from tests.distributed.sharding import part

import tensorkeep as tk
from tensorkeep.distributed import Part, SharedSave
from tensorkeep.errors import StoreError
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor

RANKS = 4


def expected(step: int) -> dict[str, Any]:
    rows = np.arange(RANKS * 6, dtype=np.float32).reshape(RANKS * 2, 3) + step
    return {"model": {"w": rows, "b": np.full(3, step)}, "step": step}


def parts_of(rank: int, step: int) -> list[Part]:
    model = expected(step)["model"]
    found = [part("model.w", model["w"], ((2 * rank, 0), (2, 3)))]
    if rank == 1:
        found.append(part("model.b", model["b"], ((0,), (3,))))
    return found


def skeleton(objects: dict[str, Any]) -> dict[str, Any]:
    return {"tree": {"model": {"w": "$", "b": "$"}, "step": objects["step"]}}


def save_of(run: Path, rank: int, step: int, token: str, **options: Any) -> SharedSave:
    path = run / f"step-{step}"
    options = {"durable": False, "timeout": 0.3, **options}
    return SharedSave(path, rank=rank, ranks=RANKS, token=token, **options)


class Killing(Source):
    """Bytes whose reading kills the process."""

    def _read(self, start: int, stop: int) -> memoryview:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def run_ranks(run: Path, ranks: tuple[int, ...], tokens: list[str], barrier: Any) -> None:
    """Be several ranks, one after the other: processes are expensive."""
    saves = [save_of(run, rank, 1, tokens[0], timeout=60.0, durable=True) for rank in ranks]
    if 0 in ranks:
        saves[0].open()
    barrier.wait(60)
    for rank, save in zip(ranks, saves, strict=True):
        save.put(parts_of(rank, 1), objects={"step": 1} if rank == 2 else {})
    if 0 in ranks:
        saves[0].commit(skeleton=skeleton, metrics={"loss": 0.5}, reason="test")
    barrier.wait(60)
    saves = [save_of(run, rank, 2, tokens[1], timeout=1.0) for rank in ranks]
    if 0 in ranks:
        saves[0].open()
    barrier.wait(60)
    for rank, save in zip(ranks, saves, strict=True):
        parts = parts_of(rank, 2)
        if rank == 3:
            parts.append(Part("x", Tensor(tk.dtypes.UINT8, (9,), Killing(9, "x")), (0,), (9,)))
        save.put(parts)
    if 0 in ranks:
        try:
            saves[0].commit()
        except StoreError as error:
            (run / "told").write_text(str(error))
