"""How long a model takes: loading, the first run, and those after it."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tensorkeep.cli.terminal import say


class Times:
    """Seconds that were measured."""

    def __init__(self) -> None:
        self.load = 0.0
        self.first = 0.0
        self.runs: list[float] = []

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Measure what is done within as loading."""
        start = time.perf_counter()
        yield
        self.load = time.perf_counter() - start

    def described(self) -> dict[str, float | int]:
        """Give the figures for JSON."""
        return {
            "load": self.load,
            "first": self.first,
            "repeats": len(self.runs),
            "mean": statistics.fmean(self.runs),
            "median": statistics.median(self.runs),
            "p95": percentile(self.runs, 0.95),
        }


def time_runs(once: Callable[[], dict[str, Any]], times: Times, repeat: int) -> dict[str, Any]:
    """Run once, then as often as is asked, each measured; gives what the first run gave."""
    start = time.perf_counter()
    results = once()
    times.first = time.perf_counter() - start
    for _ in range(repeat):
        start = time.perf_counter()
        once()
        times.runs.append(time.perf_counter() - start)
    return results


def percentile(values: list[float], part: float) -> float:
    """Give the least value that this part of all do not exceed.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    2.0
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def say_times(times: Times) -> None:
    """Write the figures to stdout."""
    figures = times.described()
    seconds = {key: _show(figures[key]) for key in ("load", "first", "mean", "median", "p95")}
    say(
        f"load {seconds['load']}, first run {seconds['first']}, then {figures['repeats']:,} runs: "
        f"mean {seconds['mean']}, median {seconds['median']}, p95 {seconds['p95']}"
    )


def _show(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"
