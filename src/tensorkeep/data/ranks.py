"""Which of several processes this one is, where a launcher or torch.distributed tells."""

from __future__ import annotations

import operator
import os
import sys
from typing import Any

from tensorkeep.errors import ArgumentError


def ranks(rank: int | None, world: int | None) -> tuple[int, int]:
    """Give the rank of this process and how many there are.

    Args:
        rank: as the caller says; None asks torch.distributed, where it runs, or else RANK and
            WORLD_SIZE of the environment, which torchrun and its kin set.
        world: likewise; both are given or neither.

    Raises:
        ArgumentError: one of them alone, or a rank that is not among so many.

    >>> ranks(1, 4)
    (1, 4)
    """
    if (rank is None) != (world is None):
        raise ArgumentError(
            f"rank is {rank} and world {world}",
            cure="Give both, or neither: then torch.distributed or torchrun is asked.",
        )
    if rank is None or world is None:
        rank, world = _asked()
    try:
        rank, world = operator.index(rank), operator.index(world)
    except TypeError:
        raise ArgumentError(f"rank {rank!r} of {world!r} are no whole numbers") from None
    if not 0 <= rank < world:
        raise ArgumentError(
            f"there is no rank {rank} of {world}", cure="Ranks go from 0 up to below world."
        )
    return rank, world


def _asked() -> tuple[int, int]:
    torch: Any = sys.modules.get("torch")
    distributed: Any = getattr(torch, "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    try:
        return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0, 1
