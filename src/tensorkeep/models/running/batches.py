"""A batch in pieces: which inputs are split, and how the outputs of the pieces are joined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import ArgumentError
from tensorkeep.graph import Value
from tensorkeep.models.running.feeding import Fed, name_of

Axis = int | str | None
_WHOLE = "Run it without a batch size, or ask for other outputs."


class Plan(NamedTuple):
    """How a batch is cut: `rows` in all, `size` of a piece, and the inputs that are split.

    `axis` is how the model calls the first axis of those. Where it is a number, every piece has to
    have so many rows: the last one is filled up with copies of its last row.
    """

    rows: int
    size: int
    axis: Axis
    split: frozenset[str]

    def pieces(self, *, uneven: bool = False) -> Iterator[tuple[int, int]]:
        """Give the rows of each piece; an empty batch is one piece.

        Args:
            uneven: have one be of another size, so that an output which has not a row for each of
                the piece, but as many by chance, shows.
        """
        alike = not isinstance(self.axis, int) and self.rows > self.size > 1
        short = uneven and alike and self.rows % self.size == 0
        start, stop = 0, min(self.size - short, self.rows)
        yield start, stop
        while stop < self.rows:
            start, stop = stop, min(stop + self.size, self.rows)
            yield start, stop

    def is_of_rows(self, value: Value) -> bool:
        """Whether the model says that an output has a row for each of the batch."""
        return isinstance(self.axis, str) and (value.axes or (None,))[0] == self.axis

    @property
    def whole(self) -> bool:
        """Whether all of it is one piece, which need not be filled up."""
        return self.rows == self.size or (self.rows < self.size and not isinstance(self.axis, int))

    def take(self, fed: Fed, start: int, stop: int) -> npt.NDArray[Any]:
        """Read the rows of a piece."""
        array = fed.read(start, stop)
        if not isinstance(self.axis, int) or stop - start == self.size:
            return array
        return np.concatenate([array, np.repeat(array[-1:], self.size - (stop - start), axis=0)])


def plan(fed: Sequence[Fed], batch_size: Any) -> Plan:
    """Say how to cut inputs along the axis that the model calls alike in all of them.

    Inputs whose first axis the model fixes, or calls otherwise, are given whole to each piece.

    Raises:
        ArgumentError: no input has rows, they have different numbers, or the model fixes another.
    """
    whole = isinstance(batch_size, int | np.integer) and not isinstance(batch_size, bool)
    if not whole or batch_size < 1:
        raise ArgumentError(f"batch_size cannot be {batch_size!r}", cure="Give 1 or more.")
    with_rows = [each for each in fed if each.shape and each.value.axes != ()]
    free = [each for each in with_rows if not isinstance(_first(each), int)]
    if not with_rows:
        raise ArgumentError("has no input with an axis to split", cure="Leave batch_size out.")
    lead = (free or with_rows)[0]
    axis, rows = _first(lead), lead.shape[0]
    alike = [each for each in (free or with_rows) if _first(each) == axis]
    if not isinstance(axis, str):  # no name tells which belong together
        alike = [each for each in alike if each.shape[0] == rows]
    for each in alike:
        if each.shape[0] != rows:
            raise ArgumentError(
                f"has {each.shape[0]:,} rows, but {lead.value.name!r} has {rows:,}",
                where=name_of(each.value),
            )
    if isinstance(axis, int):
        if batch_size != axis:
            raise ArgumentError(
                f"takes {lead.value}, so that every piece has {axis} rows, not {batch_size}",
                where=name_of(lead.value),
                cure=f"Say batch_size={axis}.",
            )
        if not rows:
            raise ArgumentError("has no rows", where=name_of(lead.value))
    return Plan(rows, int(batch_size), axis, frozenset(each.value.name for each in alike))


def _first(fed: Fed) -> Axis:
    return fed.value.axes[0] if fed.value.axes else None


class Joined:
    """The rows of an output, piece after piece.

    Args:
        value: what the model says of the output.
        cut: how the batch is cut.
        bound: the names of axes of the inputs that are not the batch's.
    """

    def __init__(self, value: Value, cut: Plan, bound: frozenset[str]) -> None:
        self._value = value
        self._cut = cut
        self._out: Any = None
        axes = value.axes
        if axes is not None:
            first = axes[0] if axes else 0
            odd = first in bound if isinstance(first, str) else first is not None
            if value.kind == "tensor" and first != cut.axis and odd:
                raise self._refuse()

    def _refuse(self) -> ArgumentError:
        return ArgumentError(
            f"gives {self._value}, which does not have a row for each of the batch",
            where=f"output {self._value.name!r}",
            cure=_WHOLE,
        )

    def add(self, part: Any, start: int, stop: int) -> None:
        """Take the output of a piece; rows that only filled it up are left out.

        Raises:
            ArgumentError: it does not have as many rows as the piece.
        """
        count = self._cut.size if isinstance(self._cut.axis, int) else stop - start
        if isinstance(part, list):
            if len(part) != count:
                raise self._refuse()
            self._out = (self._out or []) + part[: stop - start]
            return
        if not isinstance(part, np.ndarray) or part.shape[:1] != (count,):
            raise self._refuse()
        if self._out is None:
            self._out = np.empty((self._cut.rows, *part.shape[1:]), part.dtype)
        if part.shape[1:] != self._out.shape[1:]:
            raise ArgumentError(
                f"has rows of shape {part.shape[1:]} after those of {self._out.shape[1:]}",
                where=f"output {self._value.name!r}",
                cure=_WHOLE,
            )
        self._out[start:stop] = part[: stop - start]

    @property
    def result(self) -> Any:
        """All rows."""
        return self._out
