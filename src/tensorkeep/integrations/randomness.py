"""Restore now, and set the random generators later: at the place where the loop has to go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorkeep.checkpoint import Checkpointer, Restored
from tensorkeep.checkpoint.rng import capture_rng, restore_rng

Later = Callable[[], None]


def restore_apart(checkpointer: Checkpointer, like: Any = None) -> tuple[Restored | None, Later]:
    """Restore the newest checkpoint, but leave the global random generators.

    Returns:
        What was restored, and what sets the generators, once.

    >>> import random, tempfile
    >>> with Checkpointer(tempfile.mkdtemp()) as checkpointer:
    ...     _ = checkpointer.save(1, {"n": 1})
    ...     first = random.random()
    ...     _, later = restore_apart(checkpointer)
    >>> later()
    >>> random.random() == first
    True
    """
    before = capture_rng()
    restored = checkpointer.restore(like)
    kept = capture_rng()
    restore_rng(before, "")
    waiting = [kept] if kept != before else []

    def later() -> None:
        if waiting:
            restore_rng(waiting.pop(), restored.path if restored else "")

    return restored, later
