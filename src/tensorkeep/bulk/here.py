"""Items one after the other, in this process."""

from __future__ import annotations

from tensorkeep.bulk.attempts import Answer, Task, attempt
from tensorkeep.bulk.engine import Engine
from tensorkeep.bulk.items import Item


class Here(Engine):
    """Makes each attempt when it is asked for its answer."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._waiting: list[tuple[int, Item]] = []

    def start(self, number: int, item: Item) -> None:
        self._waiting.append((number, item))

    def finished(self, patience: float | None) -> list[tuple[int, Answer]]:
        done = [(number, attempt(self._task, item)) for number, item in self._waiting]
        self._waiting.clear()
        return done

    def close(self) -> None:
        self._waiting.clear()
