"""The blobs of a net as values that are each given once.

Operators write blobs that were there before, often those that they read. What is drawn has edges
from the operator that wrote a blob last: its second value is called `x (2)`, then `x (3)`. A net
within an operator reads the blobs of the net around it as they are when the operator runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tensorkeep.message import Message
from tensorkeep.viewer.graphs.bounds import named


class Outer(NamedTuple):
    """An operator of a net, as what is around the nets that are in it."""

    blobs: Blobs
    at: int

    def value(self, name: str) -> str | None:
        """Give what a blob is called when the operator runs; None where there is none."""
        return self.blobs.at(name, self.at)


@dataclass(slots=True)
class _History:
    """The values of a blob: what it is called at first, and after each operator that writes it."""

    first: str | None
    at: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    count: int = 1

    @property
    def now(self) -> str | None:
        return self.names[-1] if self.names else self.first

    def before(self, place: int) -> str | None:
        found = bisect_left(self.at, place)
        return self.names[found - 1] if found else self.first


class Blobs:
    """Names for what the operators of a net read and write.

    Args:
        operators: in the order in which they run.
        inputs: the blobs that are given to the net.
        weights: those that are there at first, unless they are written before they are read.
        outer: what is around the net.

    `unmade` are those that are read before anything writes them, without those that are given.
    """

    def __init__(
        self,
        operators: Sequence[Message],
        inputs: Iterable[str],
        weights: Iterable[str] = (),
        outer: Outer | None = None,
    ) -> None:
        self._outer = outer
        self._ends = [(list(each.input), list(each.output)) for each in operators]
        self._of: list[tuple[list[str], list[str]]] = []
        self._blobs: dict[str, _History] = {name: _History(named(name)) for name in inputs}
        self.unmade: dict[str, None] = {}
        known, seen = set(weights), set(self._blobs)
        for read, written in self._ends:
            for name in read:
                if name not in seen:
                    seen.add(name)
                    first = named(name) if name in known else self._around(name)
                    self._blobs[name] = _History(first)
                    if name not in known:
                        self.unmade[name] = None
            seen.update(written)
        for name in known - seen:  # nets within this one may read them
            self._blobs[name] = _History(named(name))
        self._taken = {each.first for each in self._blobs.values()}
        self._raw = {named(name) for name in seen}
        for place in range(len(self._ends)):
            self._run(place)

    def _around(self, name: str) -> str:
        return (self._outer and self._outer.value(name)) or named(name)

    def at(self, name: str, place: int) -> str | None:
        """Give what a blob is called before an operator runs; None where it is not there yet."""
        history = self._blobs.get(name)
        known = None if history is None else history.before(place)
        if known is None and self._outer is not None:
            return self._outer.value(name)
        return known

    def _run(self, place: int) -> None:
        read, written = self._ends[place]
        inputs = [self._blobs[name].now or named(name) for name in read]
        outputs = [self._written(name, place) for name in written]
        self._of.append((inputs, outputs))

    def _written(self, name: str, place: int) -> str:
        history = self._blobs.get(name)
        whole = named(name)
        if history is None:
            history = self._blobs[name] = _History(None)
        fresh = whole
        if whole in self._taken or history.names or history.first is not None:
            while True:
                history.count += 1
                fresh = f"{whole} ({history.count})"
                if fresh not in self._taken and fresh not in self._raw:
                    break
        self._taken.add(fresh)
        history.at.append(place)
        history.names.append(fresh)
        return fresh

    def of(self, place: int) -> tuple[list[str], list[str]]:
        """Give what an operator reads and writes."""
        return self._of[place]

    def starts(self, name: str) -> bool:
        """Whether a blob is there at first, and not only after an operator has written it."""
        history = self._blobs.get(name)
        return history is not None and history.first is not None

    def last(self, name: str) -> str:
        """Give what a blob is called in the end."""
        history = self._blobs.get(name)
        if history is None:
            return self._around(name)
        return history.now or named(name)
