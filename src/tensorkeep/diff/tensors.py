"""How two tensors of one name compare, read side by side in small pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.dtypes import STRING, UINT64, DType, count_of
from tensorkeep.sampling import unmapped
from tensorkeep.tensor import Tensor

_PIECE = 1 << 16  # elements compared at a time: what is computed from them stays in cache
_WHOLE = ("bool", "int", "uint")
Array = npt.NDArray[Any]


@dataclass(slots=True)
class Comparison:
    """How a tensor of one file compares with the tensor of the same name in the other.

    Args:
        name: its name.
        dtypes: its element type in the one and in the other.
        shapes: its shape in the one and in the other.
        identical: the same type, shape and bits.
        differing: how many elements differ by more than the tolerances; None where the shapes
            differ, or text meets numbers, so that no element has a counterpart.
        max_absolute: the largest difference; infinite where no number tells it, as between NaN
            and a number or between two texts.
        max_absolute_at: the index of that element; None where no values differ.
        max_relative: the largest difference relative to the other file's value, where that is
            finite and not 0.
        max_relative_at: the index of that element.
        mean_absolute: the mean of the differences that are finite.
        cosine: of the angle between both, as vectors, over the elements that are finite in both;
            None where nobody asked for it, or where one of them has no direction.
    """

    name: str
    dtypes: tuple[DType, DType]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    identical: bool = False
    differing: int | None = None
    max_absolute: int | float = 0
    max_absolute_at: tuple[int, ...] | None = None
    max_relative: float = 0.0
    max_relative_at: tuple[int, ...] | None = None
    mean_absolute: float = 0.0
    cosine: float | None = None

    @property
    def size(self) -> int:
        """The number of elements in the one file."""
        return count_of(self.shapes[0])

    @property
    def equal(self) -> bool:
        """True where type and shape are the same and all values are, within the tolerances."""
        return self.differing == 0 and self.dtypes[0] is self.dtypes[1]


def compare_tensors(
    name: str,
    a: Tensor,
    b: Tensor,
    rtol: float,
    atol: float,
    report: Callable[[int], None],
    angles: bool,
) -> Comparison:
    """Compare two tensors as `diff` does; `report` takes the bytes of `a` that were compared."""
    result = Comparison(name, (a.dtype, b.dtype), (a.shape, b.shape))
    if a.shape != b.shape or (a.dtype is STRING) != (b.dtype is STRING):
        report(a.nbytes)
        return result
    a, b = unmapped(a), unmapped(b)
    result.identical = a.dtype is b.dtype
    result.differing = 0
    if a.dtype is b.dtype and a.dtype.kind == "blocks":  # their bytes say whether they are equal
        result.identical = all(x == y for x, y in zip(a.pieces(), b.pieces(), strict=True))
        if result.identical or a.dtype.opaque:
            result.differing = 0 if result.identical else a.size
            report(a.nbytes)
            return result
    mean = _Mean()
    angle = _Angle() if angles and a.dtype is not STRING else None
    for start, x, y in _side_by_side(a, b):
        if _same_bits(a.dtype, b.dtype, x, y):
            mean.add_zeros(len(x))
        else:
            result.identical = False
            result.differing += _measure(result, start, x, y, rtol, atol, mean)
        if angle is not None:
            angle.add(x, y)
        report(a.nbytes * len(x) // max(a.size, 1))
    result.mean_absolute = mean.value
    result.cosine = None if angle is None else angle.cosine
    return result


class _Mean:
    """The mean of the finite differences, piece by piece: of sums, the largest would overflow."""

    def __init__(self) -> None:
        self.value, self._count = 0.0, 0

    def add_zeros(self, count: int) -> None:
        self._join(0.0, count)

    def add(self, gaps: npt.NDArray[np.float64]) -> None:
        with np.errstate(over="ignore"):
            mean = float(gaps.mean())
        if not math.isfinite(mean):
            gaps = gaps[np.isfinite(gaps)]
            mean = float((gaps / max(len(gaps), 1)).sum())
        self._join(mean, len(gaps))

    def _join(self, mean: float, count: int) -> None:
        self._count += count
        if count:
            self.value += (mean - self.value) * (count / self._count)


class _Angle:
    """The angle between two vectors, piece by piece; of complex ones, its real cosine."""

    def __init__(self) -> None:
        self._dot, self._a, self._b = 0.0, 0.0, 0.0

    def add(self, x: Array, y: Array) -> None:
        one, other = _real(x), _real(y)
        with np.errstate(all="ignore"):
            dot, a, b = _dot(one, other), _dot(one, one), _dot(other, other)
            if not (math.isfinite(a) and math.isfinite(b)):
                both = np.isfinite(one) & np.isfinite(other)
                one, other = one[both], other[both]
                dot, a, b = _dot(one, other), _dot(one, one), _dot(other, other)
        self._dot, self._a, self._b = self._dot + dot, self._a + a, self._b + b

    @property
    def cosine(self) -> float | None:
        product = math.sqrt(self._a) * math.sqrt(self._b)
        if not 0 < product < math.inf or not math.isfinite(self._dot):
            return None
        return max(-1.0, min(1.0, self._dot / product))


def _dot(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    return float(np.einsum("i,i->", x, y))  # x @ y wakes threads, which costs more than it saves


def _real(values: Array) -> npt.NDArray[np.float64]:
    """Give elements as a vector of float64: a complex one is two of them."""
    with np.errstate(all="ignore"):
        if values.dtype.kind == "c":
            return values.astype(np.complex128).view(np.float64)
        return values.astype(np.float64)


def _side_by_side(a: Tensor, b: Tensor) -> Iterator[tuple[int, Array, Array]]:
    """Give the elements of two tensors of one shape piece by piece, after where each starts."""
    flat_a, flat_b = _flat(a), _flat(b)
    step = max(a.size, 1) if a.dtype is STRING else _PIECE
    for start in range(0, a.size, step):
        yield start, flat_a[start : start + step], flat_b[start : start + step]


def _flat(tensor: Tensor) -> Tensor:
    return Tensor(tensor.dtype, (tensor.size,), tensor.source, tensor.offset, tensor.nbytes)


def _same_bits(a: DType, b: DType, x: Array, y: Array) -> bool:
    if a is not b:
        return False
    if a is STRING:
        return bool(np.array_equal(x, y))
    return bool(np.array_equal(x.view(np.uint8), y.view(np.uint8)))


def _measure(
    result: Comparison, start: int, x: Array, y: Array, rtol: float, atol: float, mean: _Mean
) -> int:
    """Note the largest differences of the piece that starts at `start`; count those that matter."""
    gap, size = _gaps(*result.dtypes, x, y)
    loose = gap.astype(np.float64)
    mean.add(loose)
    with np.errstate(all="ignore"):
        within = (loose <= atol + rtol * size) & (loose < np.inf)
        relative = np.where((size > 0) & (size < np.inf), loose / size, 0.0)
    shape = result.shapes[0]
    at = int(np.argmax(gap))
    if gap[at] > result.max_absolute:
        result.max_absolute, result.max_absolute_at = gap.item(at), _index(start + at, shape)
    at = int(np.argmax(relative))
    if relative[at] > result.max_relative:
        result.max_relative, result.max_relative_at = relative.item(at), _index(start + at, shape)
    return len(gap) - int(np.count_nonzero(within | (gap == 0)))


def _gaps(a: DType, b: DType, x: Array, y: Array) -> tuple[Array, npt.NDArray[np.float64]]:
    """Give how far elements lie apart, exactly where they are integers, and the size of `y`'s."""
    if a is STRING:
        return np.where(x != y, np.inf, 0.0), np.zeros(len(y))
    if a.kind in _WHOLE and b.kind in _WHOLE:
        return _integer_gaps(a, b, x, y)
    common = np.complex128 if "complex" in (a.kind, b.kind) else np.float64
    with np.errstate(all="ignore"):
        x, y = x.astype(common), y.astype(common)
        gap = np.abs(x - y)
        gap[x == y] = 0  # of two infinities the difference is NaN
        unknown = np.isnan(gap)
        gap[unknown] = np.where(np.isnan(x[unknown]) & np.isnan(y[unknown]), 0, np.inf)
        return gap, np.abs(y)


def _integer_gaps(a: DType, b: DType, x: Array, y: Array) -> tuple[Array, npt.NDArray[np.float64]]:
    if a.kind != "int" and b.kind != "int":
        x, y = x.astype(np.uint64), y.astype(np.uint64)
    elif UINT64 not in (a, b):
        x, y = x.astype(np.int64), y.astype(np.int64)
    else:  # no type of NumPy holds both
        x, y = x.astype(object), y.astype(object)
        return abs(x - y), abs(y).astype(np.float64)
    # Taken modulo 2**64 the difference is right even where it does not fit in an int64.
    gap = np.maximum(x, y).view(np.uint64) - np.minimum(x, y).view(np.uint64)
    return gap, np.abs(y.astype(np.float64))


def _index(at: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(at, shape)))
