"""Engine: makes attempts somewhere, several at a time."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from tensorkeep.bulk.attempts import Answer
from tensorkeep.bulk.items import Item


class Engine(ABC):
    """Makes attempts at one task; their answers come as they are finished.

    Attributes:
        room: how many attempts it can have at once.
        far: whether they may be made in another folder, or on another machine.
    """

    room: int = 1
    far: bool = False

    @abstractmethod
    def start(self, number: int, item: Item) -> None:
        """Begin an attempt, of which the answer will come under a number."""

    @abstractmethod
    def finished(self, patience: float | None) -> list[tuple[int, Answer]]:
        """Wait until an answer is there, or so many seconds, and give all that are."""

    @abstractmethod
    def close(self) -> None:
        """End what is being done still; nothing is left running."""


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
