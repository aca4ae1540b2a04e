"""What makes a batch: samples are read, changed by the caller's functions and stacked."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tensorkeep.data.dataset import Batch, Dataset, Rows, json_in
from tensorkeep.data.stacking import stack
from tensorkeep.errors import ArgumentError, SampleError

_SHOWN = 8  # samples that a message names


class Task(NamedTuple):
    """One batch: the epoch, the position of its step, and the samples of this rank."""

    epoch: int
    start: int
    rank: int
    rows: Rows
    empty: bool = False  # the sample is read for its fields only


class Function(NamedTuple):
    """A function of the caller's, and whether it takes a generator of random numbers."""

    name: str
    call: Callable[..., Any]
    takes_rng: bool


@dataclass(frozen=True)
class Maker:
    """Makes the batch of a task, in whatever thread or process.

    Args:
        dataset: where samples are read.
        each: called with every sample.
        transform: called with every batch.
        seed: what generators are drawn by.
    """

    dataset: Dataset
    each: Function | None
    transform: Function | None
    seed: int

    def __call__(self, task: Task) -> Batch:
        """Make it.

        Raises:
            SampleError: a function of the caller's failed; the message names the samples.
            CorruptError: a sample is damaged.
        """
        rows, dataset = task.rows, self.dataset
        if self.each is None:
            batch = dataset.gather(rows)
        else:
            names = [dataset.name(row) for row in rows.tolist()]
            samples = [
                self._call(self.each, sample, name, (task.epoch, row))
                for sample, name, row in zip(
                    dataset.samples(rows), names, rows.tolist(), strict=True
                )
            ]
            batch = stack(samples, names, dataset.where, json_in(dataset.fields))
        if task.empty:
            batch = {name: values[:0] for name, values in batch.items()}
        if self.transform is not None:
            key = (task.epoch, task.start, task.rank)
            batch = self._call(self.transform, batch, self.describe(task), key)
            if not isinstance(batch, dict):
                raise SampleError(
                    f"transform gave a {type(batch).__name__} for {self.describe(task)}",
                    where=dataset.where,
                    cure="It has to give a dict of arrays.",
                )
        return batch

    def _call(self, function: Function, value: Any, name: str, key: tuple[int, ...]) -> Any:
        try:
            if function.takes_rng:
                return function.call(value, rng=np.random.default_rng((self.seed, *key)))
            return function.call(value)
        except Exception as error:
            raise SampleError(
                f"{function.name} failed for {name}: {type(error).__name__}: {error}",
                where=self.dataset.where,
            ) from error

    def describe(self, task: Task) -> str:
        """Say in messages which samples a batch is made of."""
        rows = task.rows.tolist()
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        shown = ", ".join(map(str, rows[:_SHOWN]))
        return f"samples {shown}{more} (epoch {task.epoch}, from position {task.start})"


def makes_what(name: str, function: Any) -> Function | None:
    """Look at a function of the caller's; None where there is none.

    Raises:
        ArgumentError: it is no function.

    >>> makes_what("each", lambda sample, rng: sample).takes_rng
    True
    """
    if function is None:
        return None
    if not callable(function):
        raise ArgumentError(f"{name} is a function, not {function!r}")
    try:
        takes = "rng" in inspect.signature(function).parameters
    except (TypeError, ValueError):  # built in
        takes = False
    return Function(name, function, takes)
