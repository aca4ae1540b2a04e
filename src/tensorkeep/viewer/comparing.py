"""Two states side by side."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.api import ProgressReport
from tensorkeep.diff import Comparison, diff_states
from tensorkeep.dtypes import STRING
from tensorkeep.sampling import glance
from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.viewer.answers import Change, Diff, DiffRow, Only, Overlay

_MOST_ROWS = 20_000  # of each list: a page shows no more
_LONGEST = 2_000  # characters of a value that differs
_BINS = 64
_EXACT = 2.0**52  # from which on float64 has no halves between integers


def compare(a: State, b: State, report: ProgressReport) -> Diff:
    """Compare two states, tensor by tensor; those that differ most come first, identical ones last.

    Tensors whose stored digests are equal are not read. A difference that no number tells, as
    between NaN and a number, is None, and comes before all others; so do tensors that cannot be
    compared element by element, before those.

    Raises:
        CorruptError: one of the two is damaged.
    """
    found = diff_states(a, b, progress=report, angles=True, trust_digests=True)
    places_a, places_b = ({name: at for at, name in enumerate(state)} for state in (a, b))
    ordered = sorted(found.tensors, key=_urgency)
    lists = (ordered, found.only_in_a, found.only_in_b, found.values)
    return Diff(
        equal=found.equal,
        only_a=[_only(a[name], name, places_a[name]) for name in found.only_in_a[:_MOST_ROWS]],
        only_b=[_only(b[name], name, places_b[name]) for name in found.only_in_b[:_MOST_ROWS]],
        tensors=[_row(row, places_a, places_b) for row in ordered[:_MOST_ROWS]],
        values=[
            Change(_short(row.place), _short(row.a), _short(row.b))
            for row in found.values[:_MOST_ROWS]
        ],
        left_out=sum(max(0, len(rows) - _MOST_ROWS) for rows in lists),
    )


def _urgency(row: Comparison) -> tuple[int, float]:
    if row.differing is None:
        return 0, 0.0
    if row.identical:
        return 3, 0.0
    return (2 if row.equal else 1), -float(row.max_absolute)


def _only(tensor: Tensor, name: str, index: int) -> Only:
    return Only(name, index, tensor.dtype.name, list(tensor.shape))


def _row(row: Comparison, places_a: dict[str, int], places_b: dict[str, int]) -> DiffRow:
    measured = row.differing is not None
    # Of text, and of blocks whose meaning is not known, only that they differ can be told.
    told = not any(kind is STRING or kind.opaque for kind in row.dtypes)
    cosine = row.cosine
    if row.identical and told and row.size:
        cosine = 1.0
    return DiffRow(
        name=row.name,
        a=places_a[row.name],
        b=places_b[row.name],
        dtypes=[kind.name for kind in row.dtypes],
        shapes=[list(shape) for shape in row.shapes],
        identical=row.identical,
        equal=row.equal,
        differing=row.differing,
        max=_finite(row.max_absolute) if measured and (told or row.identical) else None,
        mean=_finite(row.mean_absolute) if measured and (told or row.identical) else None,
        cosine=cosine,
    )


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


# --- histograms ---------------------------------------------------------------------------------


def overlay(a: Tensor, b: Tensor) -> Overlay:
    """Count both tensors' values in the same bins; of large ones, a sample's.

    Complex numbers count by their magnitude, text by its length; NaN and infinities do not count.

    Raises:
        UnsupportedError: what the elements of one mean is not known.
        CorruptError: one of the two is damaged.
    """
    seen = glance(a), glance(b)
    exact = seen[0].size == a.size and seen[1].size == b.size
    one, other = map(_finite_numbers, seen)
    both = np.concatenate([one, other])
    if not both.size:
        return Overlay([], [], [], exact)
    low, high = float(both.min()), float(both.max())
    edges = _edges(low, high, whole=all(t.dtype.kind in ("bool", "int", "uint") for t in (a, b)))
    return Overlay(edges.tolist(), _counted(one, edges), _counted(other, edges), exact)


def _edges(low: float, high: float, *, whole: bool) -> npt.NDArray[np.float64]:
    if whole and high - low < _BINS and max(-low, high) < _EXACT:  # a bin for each integer
        return np.arange(low, high + 2) - 0.5
    if low == high:
        return np.array([low, math.nextafter(low, math.inf)])
    shares = np.arange(_BINS + 1) / _BINS
    edges = low * (1 - shares) + high * shares  # their distance may be over the largest float64
    edges[-1] = high
    if np.all(np.diff(edges) > 0):
        return edges
    return np.array([low, high])


def _counted(values: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> list[int]:
    at = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    counts: list[int] = np.bincount(at, minlength=len(edges) - 1).tolist()
    return counts


def _finite_numbers(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if values.dtype == object:
        return np.array([len(text) for text in values], np.float64)
    with np.errstate(all="ignore"):
        if values.dtype.kind == "c":
            values = np.abs(values.astype(np.complex128))
        numbers = values.astype(np.float64)
    finite: npt.NDArray[np.float64] = numbers[np.isfinite(numbers)]
    return finite
