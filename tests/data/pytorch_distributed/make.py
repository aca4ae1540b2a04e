"""Make the folder `four_ranks` beside this file: what four processes saved with torch 2.13.

Run `python tests/data/pytorch_distributed/make.py`. The tests know the values by `value`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).with_name("four_ranks")
RANKS = 4

# Shape, type, and the axes that are divided: over all ranks, or over a grid of them.
SHARDED = {
    "rows": ((10, 3), "float32", (0,)),
    "columns": ((3, 8), "int16", (1,)),
    "deep": ((2, 6, 5), "float64", (1,)),
    "grid": ((6, 7), "float32", (0, 1)),
    "uneven": ((5, 2), "bfloat16", (0,)),
    "few": ((2,), "int64", (0,)),
}


def value(shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Count the elements."""
    return np.arange(int(np.prod(shape))).reshape(shape)


def save(rank: int, folder: str) -> None:
    """Save this rank's part."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29617")
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    line = init_device_mesh("cpu", (RANKS,))
    grid = init_device_mesh("cpu", (2, 2))
    state: dict[str, Any] = {}
    for name, (shape, kind, axes) in SHARDED.items():
        whole = torch.from_numpy(value(shape)).to(getattr(torch, kind))
        placements = [Shard(axis) for axis in axes]
        mesh = line if len(axes) == 1 else grid
        state[name] = distribute_tensor(whole, mesh, placements, src_data_rank=None)
    copied = distribute_tensor(torch.arange(4.0), line, [Replicate()], src_data_rank=None)
    state["copied"] = copied
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": 0.5, "on": (0, 1)}]}
    dcp.save({"model": state, "optim": optimizer, "step": 7}, checkpoint_id=folder)
    dist.destroy_process_group()


def main() -> None:
    import torch.multiprocessing

    shutil.rmtree(FOLDER, ignore_errors=True)
    torch.multiprocessing.spawn(save, (str(FOLDER),), nprocs=RANKS)


if __name__ == "__main__":
    main()
