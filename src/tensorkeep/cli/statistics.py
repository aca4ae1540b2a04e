"""Statistics and histograms of arrays of any element type, in float64 and a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.dtypes import DType

_PIECE = 1 << 16
_BINS = 16

Array = npt.NDArray[Any]
Statistics = dict[str, int | float]
Report = Callable[[int], None]


def _ignore(count: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie from each edge up to the next; the last edge belongs to the last bin."""

    edges: list[float]
    counts: list[int]


def statistics(array: Array, kind: DType, report: Report = _ignore) -> Statistics:
    """Count and measure values; minimum, maximum, mean and deviation are of the finite ones.

    Complex numbers are measured by their magnitude, texts by their length in characters.

    >>> from tensorkeep.dtypes import FLOAT32
    >>> found = statistics(np.array([0, 1, 2, np.nan], "float32"), FLOAT32)
    >>> found["count"], found["zeros"], found["nan"], found["max"], found["mean"]
    (4, 1, 1, 2.0, 1.0)
    """
    if kind.kind == "string":
        lengths = [len(text) for text in array.reshape(-1)]
        found: Statistics = {"count": array.size, "empty": lengths.count(0)}
        return found | {"shortest": min(lengths), "longest": max(lengths)} if lengths else found
    if kind.kind == "bool":
        true = int(np.count_nonzero(array))
        return {"count": array.size, "true": true, "false": array.size - true}
    running = _Running()
    for piece in _numbers(array, report):
        running.add(piece)
    found = {"count": array.size, "zeros": running.zeros}
    if kind.kind in ("float", "complex"):
        found |= {"nan": running.nan, "inf": running.inf}
    if running.finite:
        deviation = math.sqrt(running.squares / running.finite)
        found |= {"min": running.low, "max": running.high}
        found |= {"mean": running.mean, "std": deviation}
    return found


class _Running:
    """Sums that take one piece after another."""

    def __init__(self) -> None:
        self.zeros = self.nan = self.inf = self.finite = 0
        self.low: int | float = math.inf
        self.high: int | float = -math.inf
        self.mean = self.squares = 0.0  # squares: of the distances from the mean, summed

    def add(self, piece: Array) -> None:
        self.zeros += piece.size - int(np.count_nonzero(piece))
        if piece.dtype == np.float64:
            nan = int(np.count_nonzero(np.isnan(piece)))
            finite = piece[np.isfinite(piece)]
            self.nan += nan
            self.inf += piece.size - nan - finite.size
            piece = finite
        if not piece.size:
            return
        self.low = min(self.low, piece.min().item())
        self.high = max(self.high, piece.max().item())
        with np.errstate(over="ignore", invalid="ignore"):
            values = piece.astype(np.float64)
            mean = float(values.mean())
            squares = float(np.square(values - mean).sum())
            # Chan, Golub and LeVeque's way to join two parts' variances.
            apart = mean - self.mean
            count = self.finite + values.size
            self.squares += squares + apart * apart * (self.finite * values.size / count)
            self.mean += apart * (values.size / count)
            self.finite = count


def histogram(array: Array, low: float, high: float, report: Report = _ignore) -> Histogram:
    """Count finite values in bins of equal width between the smallest and the largest.

    The number of bins grows with the number of values as Sturges proposed, up to 16.

    >>> histogram(np.array([1, 1, 2, 4], "int8"), 1, 4)
    Histogram(edges=[1, 2, 3, 4, 5], counts=[2, 1, 0, 1])
    """
    whole = isinstance(low, int) and isinstance(high, int) and high - low < _BINS
    bins = min(array.size.bit_length() + 1, _BINS) if high > low else 1
    if whole:
        bins = int(high - low) + 1
    counts = np.zeros(bins, np.int64)
    # Halves: the distance between the extremes of float64 is over its largest number.
    width = 1.0 if whole else high / 2 - low / 2
    for piece in _numbers(array, report):
        if whole:
            at = (piece - low).astype(np.int64)
        else:
            values = piece.astype(np.float64)
            values = values[np.isfinite(values)]
            scaled = (values / 2 - low / 2) * (bins / width) if width else np.zeros(len(values))
            at = np.clip(scaled.astype(np.int64), 0, bins - 1)
        counts += np.bincount(at, minlength=bins)
    if whole:
        edges: list[float] = [low + i for i in range(bins + 1)]
    else:
        edges = [low + 2 * (i / bins) * width for i in range(bins)] + [high]
    return Histogram(edges, counts.tolist())


def _numbers(array: Array, report: Report) -> Iterator[Array]:
    """Give the values in pieces as int64, uint64 or float64 (of complex numbers, the magnitude)."""
    flags: list[Any] = ["external_loop", "buffered", "zerosize_ok"]
    with np.nditer(array, flags=flags, buffersize=_PIECE) as pieces:
        for view in pieces:
            piece = np.asarray(view)
            report(piece.nbytes)
            if piece.dtype.kind == "c":
                with np.errstate(over="ignore"):
                    yield np.abs(piece.astype(np.complex128))
            elif piece.dtype == np.uint64 or _is_integer(piece.dtype):
                yield piece.astype(np.uint64 if piece.dtype == np.uint64 else np.int64)
            else:
                yield piece.astype(np.float64)


def _is_integer(kind: np.dtype[Any]) -> bool:
    return kind.kind in "iu" or kind.name in ("int2", "int4", "uint2", "uint4")
