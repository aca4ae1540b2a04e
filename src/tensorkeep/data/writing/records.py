"""Where samples come from: anything that gives dicts, one after the other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tensorkeep import dtypes, frameworks
from tensorkeep.data.dataset import Dataset, Field, Sample
from tensorkeep.data.stacking import MASKED, TWO_ARRAYS
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.tensor import Tensor

# What gives samples; a function is given how many are there already.
Records = Iterable[Mapping[str, Any]] | Dataset | Mapping[str, Any]
Given = Records | Callable[[int], Iterable[Mapping[str, Any]]]

_TOGETHER = 8 << 20  # bytes of samples that are read together
_MOST_ROWS = 1024
_CURE = "Give an iterable of dicts, a dataset, a dict of equally long arrays, or a function of the "
_CURE += "number of samples that are there already."


def open_records(records: Given, start: int) -> tuple[Iterator[Mapping[str, Any]], int]:
    """Give the samples from a number on, and how many there are in all; 0 where nobody knows.

    Args:
        records: what gives samples.
        start: how many to leave out.

    Raises:
        ArgumentError: it gives no samples, or has fewer than `start`.

    >>> samples, total = open_records({"x": [1, 2, 3]}, 1)
    >>> list(samples), total
    ([{'x': 2}, {'x': 3}], 3)
    """
    if isinstance(records, Dataset):
        return _of_dataset(records, _check(start, len(records))), len(records)
    if isinstance(records, Mapping):
        columns, total = _columns(records)
        return _of_columns(columns, _check(start, total), total), total
    if isinstance(records, str | bytes | os.PathLike):
        raise ArgumentError(
            f"records are samples, not the path {os.fspath(records)!r}",
            cure="Open it first, with tensorkeep.data.open.",
        )
    if callable(records) and not hasattr(records, "__iter__"):
        found = records(start)
        if not isinstance(found, Iterable):
            raise ArgumentError(
                f"the function of records gave a {type(found).__name__}, not samples",
                cure="Have it yield dicts.",
            )
        return iter(found), 0
    if hasattr(records, "__len__") and hasattr(records, "__getitem__"):
        sequence: Any = records
        total = len(sequence)
        return (sequence[i] for i in range(_check(start, total), total)), total
    if isinstance(records, Iterable):
        return _behind(iter(records), start), 0
    raise ArgumentError(f"a {type(records).__name__} gives no samples", cure=_CURE)


def _check(start: int, total: int) -> int:
    if start > total:
        raise _too_few(total, start)
    return start


def _too_few(found: int, start: int) -> ArgumentError:
    return ArgumentError(
        f"records have {found:,} samples, and {start:,} were written already",
        cure="Go on with the same records as before, or write anew without resume.",
    )


def _behind(samples: Iterator[Mapping[str, Any]], start: int) -> Iterator[Mapping[str, Any]]:
    skipped = sum(1 for _ in itertools.islice(samples, start))
    if skipped < start:
        raise _too_few(skipped, start)
    yield from samples


def _of_dataset(dataset: Dataset, start: int) -> Iterator[Sample]:
    rows = _rows_together(dataset.fields, dataset.block)
    while start < len(dataset):
        stop = min(start // rows * rows + rows, len(dataset))  # whole blocks
        yield from dataset.samples(dataset.check(np.arange(start, stop)))
        start = stop


def _rows_together(fields: Mapping[str, Field], block: int) -> int:
    sizes = [
        dtypes.DTYPES[field.dtype].nbytes(dtypes.count_of(field.shape))
        for field in fields.values()
        if field.shape is not None and field.dtype in dtypes.DTYPES
    ]
    fitting = min(_MOST_ROWS, _TOGETHER // max(1, sum(sizes))) if sizes else 32
    return max(1, fitting // block) * block


def _columns(records: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    columns: dict[str, Any] = {}
    for name, values in records.items():
        if isinstance(values, Tensor) and values.shape and values.dtype is not dtypes.STRING:
            columns[name] = values  # read block by block
            continue
        if isinstance(values, np.ma.MaskedArray):
            raise UnsupportedError(f"the field {name!r} is a {MASKED}", cure=TWO_ARRAYS)
        known = frameworks.to_array(values, f"the field {name!r}")
        if known is None and (isinstance(values, str | bytes) or not hasattr(values, "__len__")):
            raise ArgumentError(
                f"the field {name!r} is a {type(values).__name__}, where a dict of arrays has one "
                "value for each sample",
                cure="To write one sample, give [sample].",
            )
        columns[name] = values if known is None else known[1]
        if getattr(columns[name], "shape", (1,)) == ():
            raise ArgumentError(f"the field {name!r} is a scalar", cure="Give an array of samples.")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name!r} has {length:,}" for name, length in lengths.items())
        raise ArgumentError(
            f"arrays of samples are equally long, and {listed}",
            cure="Give the same number of each.",
        )
    return columns, next(iter(lengths.values()), 0)


def _of_columns(columns: Mapping[str, Any], start: int, total: int) -> Iterator[Sample]:
    sizes = [getattr(values, "nbytes", 0) // max(1, total) for values in columns.values()]
    rows = max(1, min(_MOST_ROWS, _TOGETHER // max(1, sum(sizes))))
    for first in range(start, total, rows):
        stop = min(first + rows, total)
        parts = {name: values[first:stop] for name, values in columns.items()}
        for i in range(stop - first):
            yield {name: part[i] for name, part in parts.items()}
