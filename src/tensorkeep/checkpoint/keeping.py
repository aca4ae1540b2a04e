"""What to keep: a union of simple rules over the checkpoints that are there."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tensorkeep.errors import ArgumentError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BEST = re.compile(r"([^:=,+]+)(?::(min|max))?(?::([1-9][0-9]{0,8}))?")
_CURE = 'Write such as "last=3,best=loss,best=accuracy:max:2,every=1000,younger=2d".'


class Kept(Protocol):
    """What a rule looks at of a checkpoint."""

    @property
    def step(self) -> int: ...
    @property
    def time(self) -> float: ...
    @property
    def metrics(self) -> dict[str, float | str]: ...


@dataclass(frozen=True, slots=True)
class Best:
    """The `count` checkpoints of the lowest (or highest) value of a metric."""

    metric: str
    highest: bool = False
    count: int = 1


@dataclass(frozen=True, slots=True)
class Keep:
    """Rules that a checkpoint is kept by; one that fits is enough. `|` joins two.

    Args:
        last: how many of the newest.
        best: those of the best values of a metric.
        every: those whose step is a multiple of one of these.
        younger: those not older than this many seconds.
    """

    last: int = 0
    best: tuple[Best, ...] = ()
    every: tuple[int, ...] = ()
    younger: float = 0.0

    def __or__(self, other: Keep) -> Keep:
        return Keep(
            max(self.last, other.last),
            tuple(dict.fromkeys(self.best + other.best)),
            tuple(dict.fromkeys(self.every + other.every)),
            max(self.younger, other.younger),
        )

    def chosen(self, checkpoints: Sequence[Kept], now: float | None = None) -> set[int]:
        """Give the steps to keep of checkpoints in the order of their steps.

        >>> from types import SimpleNamespace as Row
        >>> rows = [Row(step=n, time=0.0, metrics={"loss": 9 - n % 4}) for n in range(8)]
        >>> sorted(keep(last=2, best="loss").chosen(rows))
        [6, 7]
        >>> sorted(keep(every=4).chosen(rows))
        [0, 4]
        >>> sorted(keep(last=9).chosen(rows)) == list(range(8))
        True
        """
        now = time.time() if now is None else now
        chosen = {row.step for row in checkpoints[max(0, len(checkpoints) - self.last) :]}
        chosen |= {row.step for row in checkpoints if any(row.step % n == 0 for n in self.every)}
        chosen |= {row.step for row in checkpoints if now - row.time < self.younger}
        for best in self.best:
            chosen |= {row.step for row in _ranked(best, checkpoints)[: best.count]}
        return chosen


def keep(
    last: int = 0,
    best: str | Iterable[str] = (),
    every: int = 0,
    younger: float | str = 0,
) -> Keep:
    """Say which checkpoints to keep; all that fit one of the rules are.

    Args:
        last: how many of the newest.
        best: metrics whose best values are kept: "loss" (the lowest), "accuracy:max" (the highest),
            "loss:min:3" (the three lowest); one or several.
        every: those whose step is a multiple of this.
        younger: those not older than this: seconds, or such as "30m", "12h", "2d".

    Raises:
        ArgumentError: a rule that makes no sense, or none at all.

    >>> keep(last=3, best="loss:min:2")
    Keep(last=3, best=(Best(metric='loss', highest=False, count=2),), every=(), younger=0.0)
    """
    texts = [best] if isinstance(best, str) else list(best)
    steps = (_count("every", every),) if every else ()
    rules = Keep(_count("last", last), tuple(map(_best, texts)), steps, _seconds(younger))
    if rules == Keep():
        raise ArgumentError("keeps nothing", cure="Give at least one rule, such as keep(last=3).")
    return rules


def parse_keep(text: str) -> Keep:
    """Read rules as the command line spells them.

    Raises:
        ArgumentError: they are not spelt so.

    >>> parse_keep("last=3,best=accuracy:max,younger=2h").younger
    7200.0
    """
    found: dict[str, str] = {}
    best: list[str] = []
    for part in text.split(","):
        rule, equals, value = part.strip().partition("=")
        if rule == "best" and equals:
            best.append(value)
        elif rule in ("last", "every", "younger") and value and rule not in found:
            found[rule] = value
        else:
            raise ArgumentError(f"{part!r} is no rule of what to keep", cure=_CURE)
    try:
        counts = {rule: int(found[rule]) for rule in ("last", "every") if rule in found}
    except ValueError as error:
        raise ArgumentError(f"{text!r}: {error}", cure=_CURE) from None
    return keep(**counts, best=best, younger=found.get("younger", 0))


def _count(rule: str, value: object) -> int:
    if type(value) is not int or value < 0:
        raise ArgumentError(f"{rule}={value!r} is no number of checkpoints or steps", cure=_CURE)
    return value


def _best(text: object) -> Best:
    match = _BEST.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ArgumentError(f"best={text!r} names no metric", cure=_CURE)
    return Best(match[1], match[2] == "max", int(match[3] or 1))


def _seconds(value: object) -> float:
    if isinstance(value, str):
        number = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhdw]?)", value)
        if number is not None:
            return float(number[1]) * _UNITS[number[2] or "s"]
    elif isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(value)
    raise ArgumentError(f"younger={value!r} is no time", cure=_CURE)


def _ranked(best: Best, checkpoints: Sequence[Kept]) -> list[Kept]:
    """Order checkpoints that have a metric from the best on; of equal ones the newer is better."""
    rows = []
    for row in checkpoints:
        value = row.metrics.get(best.metric)
        # Not math.isfinite, which refuses integers that are no float.
        if isinstance(value, int | float) and value == value and abs(value) != math.inf:
            rows.append((-value if best.highest else value, -row.step, row))
    return [row for _, _, row in sorted(rows, key=lambda row: row[:2])]
