"""Segments of rows, given by lengths, as numbers that ONNX can scatter by."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.boxes import INT64, counted, part, size_of, within
from tensorkeep.models.exchange.caffe2_to_onnx.sizes import Size
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.emitting import number_of
from tensorkeep.models.exchange.report import Refused


def check_vector(value: str, what: str, to: Writer) -> None:
    """Check that a value can be a vector of integers.

    Raises:
        Refused: it has other axes, or another type.
    """
    dims, kind = to.dims(value), to.type(value)
    if dims is not None and len(dims) != 1:
        raise Refused(f"{what} have {len(dims)} axes, where a vector is expected")
    if kind not in ("int32", "int64"):
        raise Refused(f"{what} are of {kind}, where integers are expected")


class Segments:
    """Segments behind one another.

    Attributes:
        lengths: of each, as int64.
    """

    def __init__(self, lengths: str, to: Writer) -> None:
        check_vector(lengths, "its lengths", to)
        self._to = to
        self._given = lengths
        self.lengths = to.node("Cast", [lengths], to=INT64)

    @cached_property
    def number(self) -> str:
        """How many there are, as a vector of one."""
        return size_of(self._given, 0, self._to)

    @cached_property
    def total(self) -> str:
        """How many rows there are, as a vector of one."""
        axis = self._to.constant([0], np.int64)
        return self._to.node("ReduceSum", [self.lengths, axis], keepdims=1)

    @cached_property
    def starts(self) -> str:
        """Where each segment starts."""
        ends = self._to.node("CumSum", [self.lengths, self._to.constant(0, np.int64)])
        return self._to.node("Sub", [ends, self.lengths])

    @cached_property
    def _ids(self) -> str:
        to, one = self._to, self._to.constant(1, np.int64)
        room = to.node("Add", [self.total, one])  # empty segments at the end start behind the rows
        marks = to.node("Expand", [to.constant(0, np.int64), room])
        ones = to.node("Expand", [one, self.number])
        marks = to.node("ScatterElements", [marks, self.starts, ones], axis=0, reduction="add")
        started = to.node("CumSum", [marks, to.constant(0, np.int64)])
        return to.node("Sub", [part(started, 0, -1, to, 0), one])

    def ids(self) -> str:
        """Give the number of the segment of each row."""
        return self._ids

    def places(self) -> str:
        """Give how far each row is from the start of its segment."""
        to = self._to
        starts = to.node("Gather", [self.starts, self._ids], axis=0)
        return to.node("Sub", [counted(self.total, to), starts])


def weighted(rows: str, weights: str, rank: int, to: Writer) -> str:
    """Multiply each row by its weight."""
    dims = to.dims(weights)
    if dims is not None and len(dims) != 1:
        raise Refused(f"its weights have {len(dims)} axes, where a vector is expected")
    return to.node("Mul", [rows, to.reshaped(weights, [-1, *[1] * (rank - 1)])])


def reduce_rows(
    rows: str, rank: int, ids: str, number: str, how: str, output: str, to: Writer
) -> None:
    """Take rows of the same number together.

    Args:
        rows: (row, ...), of so many axes.
        rank: of the rows.
        ids: the number of each row.
        number: how many numbers there are, as a vector of one.
        how: "Sum", "Mean" or "Max".
        output: the name of what is made.
        to: takes the nodes.
    """
    if rank < 1:
        raise Refused("its rows have no axes")
    kind = np.dtype(to.type(rows))
    rest = part(to.node("Shape", [rows]), 1, np.iinfo(np.int64).max, to, 0)
    shape = to.node("Concat", [number, rest], axis=0)
    start = to.constant(-math.inf if how == "Max" else 0, kind)
    room = to.node("Expand", [start, shape])
    reduction = "max" if how == "Max" else "add"
    whole = how == "Sum"
    made = to.node(
        "ScatterND",
        [room, within(ids, 1, to), rows],
        output if whole else None,
        reduction=reduction,
    )
    if not whole:
        counts = _counts(ids, number, rank, to)
        if how == "Mean":
            many = to.node("Max", [counts, to.constant(1, np.int64)])
            made = to.node("Div", [made, to.node("Cast", [many], to=number_of(kind.name))], output)
        else:
            some = to.node("Greater", [counts, to.constant(0, np.int64)])
            made = to.node("Where", [some, made, to.constant(0, kind)], output)
    dims: tuple[Size, ...] = to.dims(rows) or (None,) * rank
    count = to.array(number)
    to.know(made, kind.name, (None if count is None else int(count[0]), *dims[1:]))


def _counts(ids: str, number: str, rank: int, to: Writer) -> str:
    """Give how many rows each number has, along the first of so many axes."""
    zeros = to.node("Expand", [to.constant(0, np.int64), number])
    ones = to.node("Expand", [to.constant(1, np.int64), to.node("Shape", [ids])])
    counts = to.node("ScatterElements", [zeros, ids, ones], axis=0, reduction="add")
    return to.reshaped(counts, [-1, *[1] * (rank - 1)])
