"""Which ranks have come how far, told through the store of a process group; and what that means."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

from tensorkeep.errors import StoreError, TensorKeepError

STAGES = {
    "came": "come to the save",
    "planned": "said what to write",
    "wrote": "written its part",
}
_LEFT = "left"
_GRACE = 2.0  # seconds in which all that are alive have left a collective that failed

_groups: WeakKeyDictionary[Any, dict[float, Any]] = WeakKeyDictionary()
_turns: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


class Roll:
    """Who of a group has come how far with one save.

    Args:
        group: the process group.
    """

    def __init__(self, group: Any) -> None:
        import torch.distributed as dist

        self._store = group.get_group_store()
        self.rank = dist.get_rank(group)
        self.ranks = dist.get_world_size(group)
        self._began = time.monotonic()
        self._turn = _turns[group] = _turns.get(group, 0) + 1

    def mark(self, stage: str) -> None:
        """Say that this rank has come so far."""
        self._store.set(self._key(stage, self.rank), str(self._turn))

    def missing(self, stage: str) -> list[int]:
        """List the ranks that have not come so far."""
        return [rank for rank in range(self.ranks) if not self._has(stage, rank)]

    def _has(self, stage: str, rank: int) -> bool:
        key = self._key(stage, rank)
        return bool(self._store.check([key])) and int(self._store.get(key)) >= self._turn

    def _key(self, stage: str, rank: int) -> str:
        return f"tensorkeep/{stage}/{rank}"

    def complaint(self, where: str, error: BaseException) -> StoreError:
        """Say which ranks a collective failed for."""
        reason = str(error).strip().partition("\n")[0]
        cure = "The checkpoint before is still the newest; restart the ranks."
        waited = time.monotonic() - self._began
        until = time.monotonic() + _GRACE
        stage, missing = self._behind()
        while len(missing) > 1 and time.monotonic() < until:
            time.sleep(0.05)
            stage, missing = self._behind()
        if not missing:
            return StoreError(f"the ranks lost one another: {reason}", where=where, cure=cure)
        has = "has" if len(missing) == 1 else "have"
        return StoreError(
            f"{name_ranks(missing)} of {self.ranks} {has} not {STAGES[stage]} after {waited:.1f} s",
            where=where,
            cure=cure,
        )

    def _behind(self) -> tuple[str, list[int]]:
        """Find the first stage that some have not come to, and who; not who is here to complain."""
        try:
            self.mark(_LEFT)
            lost = self.missing(_LEFT)
            for stage in STAGES:
                if missing := [rank for rank in self.missing(stage) if rank in lost]:
                    return stage, missing
        except Exception:  # the store was in the first rank's process, which is gone
            pass
        return "", []


def name_ranks(ranks: Iterable[int]) -> str:
    """Name ranks, many of them by the first few.

    >>> name_ranks([3]), name_ranks([1, 2, 5])
    ('rank 3', 'ranks 1, 2 and 5')
    """
    names = [str(rank) for rank in ranks]
    if len(names) == 1:
        return f"rank {names[0]}"
    if len(names) > 8:
        return f"ranks {', '.join(names[:8])} and {len(names) - 8} others"
    return f"ranks {', '.join(names[:-1])} and {names[-1]}"


def bounded(group: Any, timeout: float) -> Any:
    """Give a gloo group of the same ranks whose collectives fail after `timeout` seconds."""
    import torch.distributed as dist

    made = _groups.setdefault(group, {})
    if timeout not in made:
        made[timeout] = dist.new_group(
            dist.get_process_group_ranks(group),
            timeout=timedelta(seconds=timeout),
            backend="gloo",
            use_local_synchronization=True,
        )
    return made[timeout]


def named(error: Any, where: str, *, alone: bool = False) -> BaseException:
    """Turn what DCP raises for failures of ranks into an error of ours that names them.

    Interrupts stay what they are.

    Args:
        error: the CheckpointException.
        where: names the checkpoint, in messages that do not name anything.
        alone: there is no other rank.
    """
    failures = {rank: found[0] for rank, found in sorted(error.failures.items())}
    if any(not isinstance(found, Exception) for found in failures.values()):
        return error  # type: ignore[no-any-return]
    own = [rank for rank, found in failures.items() if isinstance(found, TensorKeepError)]
    rank = next(iter(own or failures))
    first = failures.pop(rank)
    also = f" ({name_ranks(failures)} failed too)" if failures else ""
    if isinstance(first, TensorKeepError):
        problem = first.problem if alone else f"rank {rank}: {first.problem}{also}"
        told = type(first)(problem, where=first.where, cure=first.cure)
    else:
        problem = f"rank {rank} failed: {type(first).__name__}: {first}{also}"
        told = StoreError(problem, where=where)
    told.__cause__ = first
    return told
