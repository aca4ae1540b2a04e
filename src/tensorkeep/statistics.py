"""Statistics and histograms of arrays of any element type, in float64 and a piece at a time.

`statistics` and `histogram` measure an array that is there. `Running` measures one that is not, in
a single pass over its pieces. Its bins are a power of two wide and start at whole multiples of that
width, so bins never have to be cut: where the values do not fit any longer, pairs of bins become
one. What comes out depends on the values alone, not on their order or on how they were cut.
"""

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
_CACHED = 1 << 15  # elements that stay in a processor's cache through all steps
_MOST_BINS = 64  # of a grid

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
    running = Moments()
    for piece in _numbers(array, report):
        running.add(piece)
    found = {"count": array.size, "zeros": running.zeros}
    if kind.kind in ("float", "complex"):
        found |= {"nan": running.nan, "inf": running.inf}
    if running.finite:
        found |= {"min": running.low, "max": running.high}
        found |= {"mean": running.mean, "std": running.deviation}
    return found


class _Room:
    """Memory for what lies between two steps, which is used again for each piece."""

    def __init__(self) -> None:
        self._held: dict[str, Array] = {}

    def __call__(self, size: int, kind: str) -> Array:
        held = self._held.get(kind)
        if held is None or held.size < size:
            held = self._held[kind] = np.empty(size, kind)
        return held[:size]


class Moments:
    """Sums that take one piece after another: of int64, uint64, float64 or float32."""

    def __init__(self) -> None:
        self._room = _Room()
        self.zeros = self.nan = self.inf = self.finite = 0
        self.low: int | float = math.inf
        self.high: int | float = -math.inf
        self.mean = self.squares = 0.0  # squares: of the distances from the mean, summed

    @property
    def deviation(self) -> float:
        """The standard deviation of all finite values; there has to be one."""
        return math.sqrt(self.squares / self.finite)

    def add(self, piece: Array) -> Array:
        """Take a piece, and give what is finite of it."""
        self.zeros += int(np.count_nonzero(np.equal(piece, 0, self._room(piece.size, "?"))))
        if not piece.size:
            return piece
        low, high = piece.min().item(), piece.max().item()
        if not (math.isfinite(low) and math.isfinite(high)):
            nan = int(np.count_nonzero(np.isnan(piece)))
            finite = piece[np.isfinite(piece)]
            self.nan += nan
            self.inf += piece.size - nan - finite.size
            piece = finite
            if not piece.size:
                return piece
            low, high = piece.min().item(), piece.max().item()
        self.low, self.high = min(self.low, low), max(self.high, high)
        with np.errstate(over="ignore", invalid="ignore"):
            values = self._room(piece.size, "f8")
            values[:] = piece
            mean = float(values.mean())
            values -= mean
            np.square(values, out=values)
            self._join(piece.size, mean, float(values.sum()))
        return piece

    def add_counted(self, values: Array, counts: Array) -> None:
        """Take finite values, each as often as counted; there has to be one."""
        self.low, self.high = values.min().item(), values.max().item()
        wide = values.astype(np.float64)
        size = int(counts.sum())
        mean = float((wide * counts).sum()) / size
        self._join(size, mean, float((np.square(wide - mean) * counts).sum()))

    def _join(self, size: int, mean: float, squares: float) -> None:
        # Chan, Golub and LeVeque's way to join two parts' variances.
        apart = mean - self.mean
        count = self.finite + size
        self.squares += squares + apart * apart * (self.finite * size / count)
        self.mean += apart * (size / count)
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


class Grid:
    """A histogram of finite values, made in one pass: up to 64 bins, a power of two wide.

    A value belongs to the bin whose lower edge is the nearest at or below it. Whole numbers get a
    bin each where there are few.

    >>> grid = Grid()
    >>> grid.add(np.array([0.0, 0.5])), grid.add(np.array([100.0]))
    (None, None)
    >>> found = grid.histogram()
    >>> found.edges[:2], found.edges[-2:], found.counts[0], found.counts[-1]
    ([0.0, 2.0], [100.0, 102.0], 2, 1)
    """

    def __init__(self) -> None:
        self._room = _Room()
        self.low: int | float = math.inf
        self.high: int | float = -math.inf
        self._whole = False  # integers, no finer than 1
        self._power = -1074  # bins are 2 ** power wide
        self._first = 0  # the first of them starts at this multiple of that
        self._counts: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, values: Array, times: Array | None = None) -> None:
        """Count finite values of int64, uint64, float64 or float32, each once or so many times."""
        if values.size:
            self.cover(values.min().item(), values.max().item())
            self.count(values, times)

    def count(self, values: Array, times: Array | None = None) -> None:
        """Count values as `add` does; all of them are covered."""
        counts = np.bincount(self._places(values), times, minlength=len(self._counts))
        self._counts += counts.astype(np.int64, copy=False)

    def cover(self, low: int | float, high: int | float) -> None:
        """Make room for values from `low` to `high`; the values of a grid are of one type.

        Two grids that cover the same have the same edges.
        """
        if self.low <= low and high <= self.high:
            return
        self._whole = isinstance(low, int)
        self.low, self.high = min(self.low, low), max(self.high, high)
        power = max(self._power, _least_power(self.low, self.high))
        while True:
            first, last = _multiple(self.low, power), _multiple(self.high, power)
            if last - first < _MOST_BINS:
                break
            power += 1
        counts = np.zeros(last - first + 1, np.int64)
        if self._counts.size:
            shift = power - self._power
            for i in np.flatnonzero(self._counts).tolist():
                counts[((self._first + i) >> shift) - first] += self._counts[i]
        self._power, self._first, self._counts = power, first, counts

    def _places(self, values: Array) -> npt.NDArray[np.int64]:
        """Say in which bin each value lies."""
        power, first = self._power, self._first
        if self._whole:
            # The difference first: where it wraps around, that of uint64 is the one that is meant.
            offset = np.uint64(((first << power) - _low_end(values)) & _WORD)
            near = _unsigned(values) - offset
            return (near >> np.uint64(power)).astype(np.int64)
        narrow = values.dtype == np.float32 and -_NARROW <= power <= 0
        kind, whole, fraction = ("f4", "i4", 23) if narrow else ("f8", "i8", 52)
        scaled = self._room(values.size, kind)
        with np.errstate(under="ignore"):
            np.multiply(values, scaled.dtype.type(2.0**-power), out=scaled)
        np.floor(scaled, out=scaled)
        if power > 0:  # what is too small to be scaled became -0
            np.minimum(scaled, -1, out=scaled, where=values < 0)
        # The fraction of a float that is large enough is a whole number: no conversion is needed.
        scaled += 2**fraction - first
        at = scaled.view(whole)
        at &= (1 << fraction) - 1
        if not narrow:
            return at
        out = self._room(values.size, "i8")
        out[:] = at
        return out

    def histogram(self) -> Histogram:
        """Give the edges and counts so far; of values that are all the same, a bin around them."""
        if not self._counts.size:
            return Histogram([], [])
        counts = self._counts.tolist()
        if self._whole:
            width = 1 << self._power
            return Histogram([(self._first + i) * width for i in range(len(counts) + 1)], counts)
        if self.low == self.high:
            around = abs(self.low) / 2 or 0.5
            return Histogram([self.low - around, _finite(self.high + around)], [sum(counts)])
        ends = range(self._first, self._first + len(counts) + 1)
        return Histogram([_edge(i, self._power) for i in ends], counts)


_WORD = (1 << 64) - 1
_NARROW = 120  # the least power of two that float32 scales by without a loss
_LEAST = -1000  # and of float64
_MAX = float(np.finfo(np.float64).max)


def _least_power(low: int | float, high: int | float) -> int:
    """Give the finest width that is sensible for values of that size."""
    if isinstance(low, int):
        return max(0, (int(high) - int(low)).bit_length() - _MOST_BINS.bit_length())
    # Halves, as the distance may be over the largest number; 22 bits: a float32 has 24.
    half, largest = high / 2 - low / 2, max(abs(low), abs(high))
    apart = math.frexp(half)[1] + 1 - _MOST_BINS.bit_length() if half else _LEAST
    return max(_LEAST, apart, math.frexp(largest)[1] - 22 if largest else _LEAST)


def _multiple(value: int | float, power: int) -> int:
    """Give the largest multiple of 2 ** power that is not over a value, divided by it."""
    if isinstance(value, int):
        return value >> power
    top, bottom = value.as_integer_ratio()
    return (top << -power) // bottom if power < 0 else top // (bottom << power)


def _edge(multiple: int, power: int) -> float:
    try:
        edge = math.ldexp(multiple, power)
    except OverflowError:
        edge = math.copysign(math.inf, multiple)
    return _finite(edge)


def _finite(value: float) -> float:
    return min(max(value, -_MAX), _MAX)


def _low_end(values: Array) -> int:
    return int(np.iinfo(values.dtype).min)


def _unsigned(values: Array) -> npt.NDArray[np.uint64]:
    """Move whole numbers up so that the least of their type is 0."""
    if values.dtype == np.uint64:
        return values
    return values.view(np.uint64) ^ np.uint64(1 << 63)


@dataclass(frozen=True, slots=True)
class Summary:
    """What is known of values: those from `low` on are of the finite ones, and None without any.

    Of complex numbers they are those of the magnitude, of texts those of the length.
    """

    count: int
    zeros: int
    nan: int
    inf: int
    low: int | float | None
    high: int | float | None
    mean: float | None
    std: float | None
    histogram: Histogram


class Running:
    """Measure values that come a piece at a time, of any element type.

    >>> from tensorkeep.dtypes import INT8
    >>> running = Running(INT8)
    >>> running.add(np.array([1, 2], "int8")), running.add(np.array([2], "int8"))
    (None, None)
    >>> running.summary().high, running.summary().histogram
    (2, Histogram(edges=[1, 2, 3], counts=[1, 2]))
    """

    def __init__(self, kind: DType) -> None:
        self._kind = kind
        self._count = 0
        self._moments = Moments()
        self._grid = Grid()
        self._codes: Array | None = None  # how often each code occurs, of types that have few
        if kind.numpy.itemsize <= 2:
            self._codes = np.zeros(1 << 8 * kind.numpy.itemsize, np.int64)

    def add(self, values: Array) -> None:
        """Take a piece: 1-D, of the array type of the element type."""
        self._count += values.size
        if self._codes is not None:
            self._codes += _count_codes(np.ascontiguousarray(values))
            return
        if self._kind.kind == "string":
            values = np.fromiter(map(len, values), np.int64, len(values))
        with np.errstate(all="ignore"):
            for start in range(0, values.size, _CACHED):
                self._add(values[start : start + _CACHED])

    def _add(self, part: Array) -> None:
        if part.dtype.kind == "c":
            part = np.abs(part.astype(np.complex128))
        elif part.dtype.kind in "iu" and part.dtype.itemsize < 8:
            part = part.astype(np.int64)
        part = self._moments.add(part)
        if part.size:
            self._grid.cover(self._moments.low, self._moments.high)
            self._grid.count(part)

    def summary(self) -> Summary:
        """Give what is known so far."""
        moments, grid = self._moments, self._grid
        if self._codes is not None:
            moments, grid = self._counted(self._codes)
        known = moments.finite > 0
        return Summary(
            count=self._count,
            zeros=moments.zeros,
            nan=moments.nan,
            inf=moments.inf,
            low=moments.low if known else None,
            high=moments.high if known else None,
            mean=_or_none(moments.mean) if known else None,
            std=_or_none(moments.deviation) if known else None,
            histogram=grid.histogram(),
        )

    def _counted(self, codes: Array) -> tuple[Moments, Grid]:
        """Measure values by how often each occurs."""
        kind = self._kind
        found = np.flatnonzero(codes)
        counts = codes[found]
        with np.errstate(all="ignore"):
            values = found.astype(f"u{kind.numpy.itemsize}").view(kind.numpy)
            if kind.kind == "bool":
                values = found != 0
            values = values.astype(np.float64 if kind.kind == "float" else np.int64)
            moments, grid = Moments(), Grid()
            moments.zeros = int(counts[values == 0].sum())
            moments.nan = int(counts[np.isnan(values)].sum())
            finite = np.isfinite(values)
            moments.inf = int(counts[~finite].sum()) - moments.nan
            if finite.any():
                moments.add_counted(values[finite], counts[finite])
                grid.add(values[finite], counts[finite])
        return moments, grid


def _count_codes(values: Array) -> npt.NDArray[np.int64]:
    """Count how often each code of one or two bytes occurs; of one byte, two at a time."""
    codes = values.view(f"u{values.dtype.itemsize}")
    if codes.itemsize == 2:
        return np.bincount(codes, minlength=1 << 16)
    even = codes.size // 2 * 2
    pairs = np.bincount(codes[:even].view("u2"), minlength=1 << 16).reshape(256, 256)
    counts = np.asarray(pairs.sum(0) + pairs.sum(1))
    counts[codes[even:]] += 1
    return counts


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
