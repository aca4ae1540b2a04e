"""Turn an index into the few runs of a flattened array that have to be read for it."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import ArgumentError

# What starting one more read costs, in elements that might be read needlessly instead.
_RUN_COST = 1024


@dataclass(frozen=True, slots=True)
class Selection:
    """Element ranges to read in order, the shape they fill, and the index still to apply."""

    runs: list[tuple[int, int]]
    box: tuple[int, ...]
    rest: tuple[int | slice, ...]

    def finish(self, box: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Apply what is left of the index to the array that was read."""
        return np.asarray(box[self.rest])


def select(index: Any, shape: tuple[int, ...]) -> Selection | None:
    """Plan the reads for a basic index; None where NumPy has to index the whole array.

    Raises:
        ArgumentError: an index out of range, or more indices than axes.

    >>> select((slice(1, 3), 0), (4, 2000)).runs
    [(2000, 2001), (4000, 4001)]
    >>> select(slice(1, 3), (4, 5)).runs
    [(5, 15)]
    """
    parts = expand(index, len(shape))
    if parts is None:
        return None
    # Per axis: the positions chosen, in rising order, and the index that picks from them.
    chosen: list[range] = []
    picks: list[int | slice] = []
    for part, length in zip(parts, shape, strict=True):
        if isinstance(part, slice):
            wanted = range(*part.indices(length))
            chosen.append(wanted if wanted.step > 0 else wanted[::-1])
            picks.append(slice(None, None, 1 if wanted.step > 0 else -1))
        else:
            at = part + length if part < 0 else part
            if not 0 <= at < length:
                raise ArgumentError(f"index {part} is out of range for an axis of length {length}")
            chosen.append(range(at, at + 1))
            picks.append(0)
    if not shape:
        return Selection([(0, 1)], (), ())
    if any(len(positions) == 0 for positions in chosen):
        counts = tuple(len(positions) for positions in chosen)
        return Selection([(0, 0)], counts, tuple(picks))

    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    # Axes before `split` are enumerated, `split` is read from its first to its last position,
    # and axes after it are read whole.
    split = min(range(len(shape)), key=lambda axis: _cost(chosen, strides, axis))
    low, high = chosen[split][0], chosen[split][-1] + 1
    runs: list[tuple[int, int]] = []
    for outer in itertools.product(*chosen[:split]):
        base = sum(map(operator.mul, outer, strides))
        start, stop = base + low * strides[split], base + high * strides[split]
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], stop)
        else:
            runs.append((start, stop))
    box = (*(len(p) for p in chosen[:split]), high - low, *shape[split + 1 :])
    step = chosen[split].step
    across = picks[split]
    if isinstance(across, slice):
        across = slice(None, None, step * across.step)
    return Selection(runs, box, (*picks[:split], across, *parts[split + 1 :]))


def neighbours(runs: list[tuple[int, int]], gap: int, most: int) -> Iterator[list[tuple[int, int]]]:
    """Put runs together between which `gap` elements lie at most, up to `most` elements in all.

    >>> list(neighbours([(0, 2), (3, 5), (9, 10)], 1, 100))
    [[(0, 2), (3, 5)], [(9, 10)]]
    """
    together = runs[:1]
    for run in runs[1:]:
        if run[0] - together[-1][1] <= gap and run[1] - together[0][0] <= most:
            together.append(run)
        else:
            yield together
            together = [run]
    yield together


def _cost(chosen: list[range], strides: list[int], split: int) -> int:
    runs = math.prod(len(positions) for positions in chosen[:split])
    span = chosen[split][-1] + 1 - chosen[split][0]
    return runs * (_RUN_COST + span * strides[split])


def expand(index: Any, ndim: int) -> list[int | slice] | None:
    """Spell an index out to one int or slice per axis; None where it is not that simple."""
    given = index if isinstance(index, tuple) else (index,)
    parts: list[int | slice] = []
    if sum(part is Ellipsis for part in given) > 1:
        raise ArgumentError("an index can have one ellipsis, not several")
    for part in given:
        if part is Ellipsis:
            parts += [slice(None)] * (ndim - len(given) + 1)
        elif isinstance(part, slice):
            parts.append(part)
        elif isinstance(part, int | np.integer) and not isinstance(part, bool):
            parts.append(operator.index(part))
        else:
            return None
    if len(parts) > ndim:
        raise ArgumentError(f"{len(parts)} indices for a tensor of {ndim} axes")
    return parts + [slice(None)] * (ndim - len(parts))
