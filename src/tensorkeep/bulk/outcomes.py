"""What became of each item, and of all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from tensorkeep.bulk.attempts import Answer
from tensorkeep.bulk.items import Item

Status = Literal["done", "damaged", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one item.

    Args:
        item: which.
        status: "done"; "damaged" where it is not what was saved; "failed" where that could not be
            told; "skipped" where it was done before, or there was nothing to do.
        problem: one line that says why it is not done; empty where it is.
        result: what the task gave, or had given when it was done before.
        error: what the task raised: "kind", "problem", "message", "where", "cure"; else empty.
        tries: how often it was tried; 0 where it was done before.
        seconds: how long the last try took.
    """

    item: Item
    status: Status
    problem: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] = field(default_factory=dict)
    tries: int = 1
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of all items, in their order.

    Args:
        outcomes: one for each item.
        seconds: how long all of it took.
    """

    outcomes: list[Outcome]
    seconds: float

    @property
    def counts(self) -> dict[Status, int]:
        """How many are done, damaged, failed and skipped."""
        found = Counter(outcome.status for outcome in self.outcomes)
        order: tuple[Status, ...] = ("done", "damaged", "failed", "skipped")
        return {status: found[status] for status in order}

    @property
    def bytes(self) -> int:
        """The bytes of the items that were worked on."""
        return sum(_bytes(outcome) for outcome in self.outcomes if outcome.status != "skipped")

    @property
    def failures(self) -> list[Outcome]:
        """Those that are damaged, or failed."""
        return [outcome for outcome in self.outcomes if outcome.status in ("damaged", "failed")]

    @property
    def ok(self) -> bool:
        """True where nothing is damaged and nothing failed."""
        return not self.failures


def _bytes(outcome: Outcome) -> int:
    told = outcome.result.get("bytes", outcome.item.size)
    return told if isinstance(told, int) else 0


def judge(item: Item, answer: Answer, tries: int, sent: Item) -> Outcome:
    """Say what an answer means.

    Args:
        item: which item it is about.
        answer: see `attempt`.
        tries: how many there were.
        sent: the item as the task knew it, by absolute paths perhaps.
    """
    seconds = round(answer["seconds"], 6)
    error = {
        name: text.replace(sent.where, item.where) if isinstance(text, str) else text
        for name, text in answer.get("error", {}).items()
        if name not in ("damage", "passing")
    }
    if error:
        status: Status = "damaged" if answer["error"]["damage"] else "failed"
        problem = " ".join(f"{_inside(error['where'], item.where)}{error['problem']}".split())
        return Outcome(item, status, problem, {}, error, tries, seconds)
    result = answer["result"]
    if problem := result.get("skipped", ""):
        return Outcome(item, "skipped", str(problem), result, {}, tries, seconds)
    if problem := result.get("problem", ""):
        return Outcome(item, "damaged", str(problem), result, {}, tries, seconds)
    return Outcome(item, "done", "", result, {}, tries, seconds)


def _inside(where: str, item: str) -> str:
    """Say where in an item something is, to begin a message with."""
    if where in ("", item):
        return ""
    return f"{where.removeprefix(item.rstrip('/') + '/')}: "
