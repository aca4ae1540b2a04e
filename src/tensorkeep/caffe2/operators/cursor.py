"""Cursors over column datasets: CreateTreeCursor and what reads with one.

A column dataset is one blob for each field of a schema, by flattened names: `a:lengths` says how
many of `a:values` each row has. The offsets of a cursor are the place to go on from; they are saved
and loaded with it. Threads may share a cursor.
Facts: caffe2/operators/dataset_ops.cc.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.caffe2.gradient import should_not_do_gradient
from tensorkeep.caffe2.operator import MANY, Operator, register
from tensorkeep.caffe2.rows import between, choose
from tensorkeep.caffe2.shuffle import shuffled
from tensorkeep.errors import ArgumentError
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.assemble import ChunkedSource, StringSource
from tensorkeep.wire.caffe2.columns import (
    Numbers,
    Tree,
    advance,
    check_hollow,
    limits_of,
    ranges,
    starts_of,
)
from tensorkeep.wire.caffe2.values import TENSOR, TREE_CURSOR, Blob, TreeCursor

_MOVING = threading.Lock()
_FARTHEST = 2**62  # rows that a cursor is moved by


@register("CreateTreeCursor")
class CreateTreeCursorOp(Operator):
    """Write a cursor over the columns `fields`, before the first row.

    Argument: fields, the flattened names of the columns; the lengths of a list before all else
    that is in it.

    >>> from tensorkeep.caffe2 import Workspace, create_operator
    >>> ws = Workspace()
    >>> ws.feed("lengths", np.array([2, 0, 1], np.int32))
    >>> ws.feed("values", np.array([4, 5, 6]))
    >>> fields = ["a:lengths", "a:values"]
    >>> ws.run(create_operator("CreateTreeCursor", [], ["cursor"], fields=fields))
    True
    >>> inputs, outputs = ["cursor", "lengths", "values"], ["some_lengths", "some_values"]
    >>> ws.run(create_operator("ReadNextBatch", inputs, outputs, batch_size=2))
    True
    >>> ws.fetch("some_lengths").tolist(), ws.fetch("some_values").tolist()
    ([2, 0], [4, 5])
    """

    takes = (0, 0)
    gives = (1, 1)

    def run(self) -> bool:
        fields = self.arguments.texts("fields")
        Tree(fields, self.where).check_order(self.where)
        self.write(0, Blob(TREE_CURSOR, TreeCursor(None, fields), self.device))
        return True


class CursorOp(Operator):
    """An operator whose first input is a cursor; columns stand behind it."""

    takes = (1, MANY)
    gives = (1, MANY)

    def cursor(self) -> TreeCursor:
        """Give the cursor.

        Raises:
            ArgumentError: the first input is none.
        """
        blob = self.input(0)
        if not isinstance(blob.value, TreeCursor):
            raise ArgumentError(
                f"the input {self.inputs[0]!r} is a {blob.kind}, not a TreeCursor",
                where=self.where,
                cure="Make one with CreateTreeCursor.",
            )
        return blob.value

    def place(self, lists: int) -> list[int]:
        """Give the offsets of the cursor; zeros, for a number of lists, of one that was not moved.

        Raises:
            ArgumentError: they are no integers.
        """
        offsets = self.cursor().offsets
        if offsets is None or not offsets.size:
            return [0] * lists
        if offsets.dtype.kind not in ("int", "uint"):
            raise ArgumentError(
                f"the offsets of the cursor are {offsets.dtype}, and no integers",
                where=self.where,
                cure="Reset the cursor.",
            )
        return [int(value) for value in offsets.numpy().reshape(-1)]

    def moved(self, offsets: Sequence[int] | Numbers | None) -> dict[str, Blob]:
        """Give the cursor at other offsets, by its name."""
        tensor = None if offsets is None else Tensor.of(np.array(offsets, np.int64))
        blob = self.input(0)
        cursor = TreeCursor(tensor, self.cursor().fields)
        return {self.inputs[0]: Blob(TREE_CURSOR, cursor, blob.device)}

    def columns(self, first: int) -> Columns:
        """Give the columns that stand from input `first` on.

        Raises:
            ArgumentError: there are more or fewer than the cursor has fields.
        """
        tree = _tree(tuple(self.cursor().fields), self.where)
        return Columns(self, tree, range(first, len(self.inputs)))

    def filled(self, tensors: Sequence[Tensor]) -> dict[str, Blob]:
        """Give the outputs by their names."""
        if len(tensors) != len(self.outputs):
            raise ArgumentError(
                f"has {len(self.outputs)} outputs for {len(tensors)} columns", where=self.where
            )
        blobs = (Blob(TENSOR, tensor, self.device) for tensor in tensors)
        return dict(zip(self.outputs, blobs, strict=True))


@lru_cache(64)
def _tree(fields: tuple[str, ...], where: str) -> Tree:
    tree = Tree(fields, where)
    tree.check_order(where)
    return tree


class Columns:
    """The inputs of an operator that are the columns of a dataset.

    Args:
        operator: whose inputs they are.
        tree: what they are.
        inputs: their numbers among the inputs.

    Raises:
        ArgumentError: there are too many or too few, one is no tensor or has no rows, or lengths
            are no int32.
        UnsupportedError: one has very many rows, and not one element.
    """

    def __init__(self, operator: Operator, tree: Tree, inputs: Sequence[int]) -> None:
        self.tree = tree
        self.where = operator.where
        if len(inputs) != len(tree.fields):
            problem = f"has {len(inputs)} columns for {len(tree.fields)} fields"
            raise ArgumentError(problem, where=self.where, cure="Give one for each field.")
        self.tensors = [self._tensor(operator, at, i) for i, at in enumerate(inputs)]
        self.sizes = [tensor.shape[0] for tensor in self.tensors]
        self.limits = limits_of(tree, self.sizes)

    def _tensor(self, operator: Operator, at: int, column: int) -> Tensor:
        blob, name = operator.input(at), self.tree.fields[column]
        value = blob.value
        if not isinstance(value, Tensor):
            raise ArgumentError(
                f"the column {name!r} is a {blob.kind}, not a tensor of numbers or text",
                where=self.where,
            )
        if not value.shape:
            raise ArgumentError(f"the column {name!r} is a scalar without rows", where=self.where)
        check_hollow(name, value.shape, self.where)
        is_lengths = column in self.tree.lengths
        if is_lengths and value.size and (value.dtype is not dtypes.INT32 or value.ndim != 1):
            raise ArgumentError(
                f"the lengths {name!r} are {value.dtype} of shape {value.shape}",
                where=self.where,
                cure="Lengths are int32, one for each list.",
            )
        return value

    def read(self, column: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Read some values of a column of lengths."""
        tensor = self.tensors[column]
        return tensor.elements(start, stop) if tensor.size else np.zeros(0, np.int32)


@register("ResetCursor")
class ResetCursorOp(CursorOp):
    """Move a cursor before the first row."""

    takes = (1, 1)
    gives = (0, 0)

    def run(self) -> bool:
        with _MOVING:
            self.workspace.update(self.moved(None))
        return True


@register("GetCursorOffset")
class GetCursorOffsetOp(CursorOp):
    """Write the offsets of a cursor as int32: of the rows, and of each list; none before a read."""

    takes = (1, 1)
    gives = (1, 1)

    def run(self) -> bool:
        values = self.place(0)
        if wrong := [value for value in values if not -(2**31) <= value < 2**31]:
            raise ArgumentError(f"an offset passes int32: {wrong[0]}", where=self.where)
        self.workspace.update(self.filled([Tensor.of(np.array(values, np.int32))]))
        return True


class BatchOp(CursorOp):
    """An operator that reads `batch_size` rows; with enforce_batch_size all of them or none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batch_size = self.arguments.integer("batch_size", 1)
        self.whole = self.arguments.flag("enforce_batch_size")
        if not 1 <= self.batch_size < 2**31:
            problem = f"the argument 'batch_size' is {self.batch_size}"
            raise ArgumentError(problem, where=self.where, cure="It is a number of rows.")


@register("ReadNextBatch")
class ReadNextBatchOp(BatchOp):
    """Write the next rows of a dataset, of every column its part, and move the cursor behind them.

    Inputs: the cursor, and a column for each of its fields. Outputs: as many. Arguments:
    batch_size (1), enforce_batch_size (0; a last batch that is short is given empty). Behind the
    last row batches are empty.

    Raises:
        ArgumentError: columns do not fit the cursor, or it is not of this dataset.
        CorruptError: lengths are negative, or add up to more than there is. The cursor stays.
    """

    def run(self) -> bool:
        with _MOVING:
            columns = self.columns(1)
            tree, limits = columns.tree, columns.limits
            offsets = self.place(len(limits))
            sizes = advance(tree, columns.read, offsets, limits, self.batch_size, self.where)
            moved = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
            if self.whole and sizes[0] < self.batch_size:
                sizes = [0] * len(sizes)
            parts = [
                between(tensor, offsets[number], offsets[number] + sizes[number])
                for tensor, number in zip(columns.tensors, tree.lists, strict=True)
            ]
            self.workspace.update(self.moved(moved) | self.filled(parts))
        return True


@register("ComputeOffset")
class ComputeOffsetOp(CursorOp):
    """Write where each row begins: int64, a line for each row and one for the end of the last.

    A line has the offset in the rows, and in each list. It is counted from where the cursor is, and
    moves that before the first row. Inputs: the cursor, and a column for each of its fields.

    Raises:
        ArgumentError: columns do not fit the cursor, or it is not of this dataset.
        CorruptError: lengths are negative, or add up to more than there is.
    """

    gives = (1, 1)

    def run(self) -> bool:
        with _MOVING:
            columns = self.columns(1)
            offsets = self.place(len(columns.limits))
            starts = starts_of(columns.tree, columns.read, offsets, columns.limits, self.where)
            lines = np.stack(starts, axis=1)
            if offsets[0]:  # as Caffe2: as many lines as there are rows, the last one repeated
                lines = np.concatenate([lines, np.repeat(lines[-1:], offsets[0], axis=0)])
            start = self.moved([0] * len(offsets))
            self.workspace.update(start | self.filled([Tensor.of(lines)]))
        return True


@register("SortAndShuffle")
class SortAndShuffleOp(CursorOp):
    """Write an order of the rows (int64): sorted by a field, shuffled in parts, then in batches.

    Inputs: the cursor, and a column for each of its fields. Arguments: sort_by_field_idx (1; -1
    does not sort), batch_size (1), shuffle_size (1; batches whose rows are shuffled together). Rows
    behind the last whole batch stay there. The order is that of Caffe2 on Linux, the same each
    time; but rows that sort alike stay in their order, which there depended on how many there are.

    Raises:
        ArgumentError: columns do not fit the cursor; a field to sort by that is not there, in a
            list, or no int32; sizes below 1.
    """

    gives = (1, 1)

    def run(self) -> bool:
        given = self.arguments
        batch, parts = given.integer("batch_size", 1), given.integer("shuffle_size", 1)
        if batch < 1 or parts < 1:
            problem = f"has a batch_size of {batch} and a shuffle_size of {parts}"
            raise ArgumentError(problem, where=self.where, cure="Both are 1 or more.")
        order = self._sorted(given.integer("sort_by_field_idx", 1))
        size = order.size
        if batch * parts > size:
            parts = size // batch
        part = batch * parts
        if part > 1:
            whole = (size - 1) // part * part  # a last part is left as it is, even a whole one
            order[:whole] = order[:whole].reshape(-1, part)[:, shuffled(part)].reshape(-1)
        batches = size // batch
        whole = batches * batch
        order[:whole] = order[:whole].reshape(batches, batch)[shuffled(batches)].reshape(-1)
        self.workspace.update(self.filled([Tensor.of(order)]))
        return True

    def _sorted(self, field: int) -> Numbers:
        columns = self.columns(1)
        if not -1 <= field < len(columns.tensors):
            raise ArgumentError(
                f"the argument 'sort_by_field_idx' is {field}, of {len(columns.tensors)} fields",
                where=self.where,
                cure="Give the number of a field from 0 on, or -1 not to sort.",
            )
        if field < 0:
            return np.arange(columns.sizes[0], dtype=np.int64)
        tensor, name = columns.tensors[field], columns.tree.fields[field]
        inside = columns.tree.lists[field] != 0
        if inside or tensor.dtype is not dtypes.INT32 or tensor.ndim != 1:
            kind = "in a list" if inside else f"{tensor.dtype} of shape {tensor.shape}"
            raise ArgumentError(
                f"the rows cannot be sorted by {name!r}, which is {kind}",
                where=self.where,
                cure="Sort by an int32 number of each row.",
            )
        return np.argsort(tensor.numpy(), kind="stable").astype(np.int64)


@register("ReadRandomBatch")
class ReadRandomBatchOp(BatchOp):
    """Write the next rows in an order, of every column its part, and move the cursor on.

    Inputs: the cursor, the order (int64, as of SortAndShuffle), the offsets of ComputeOffset, and a
    column for each field. Outputs: as many as columns. Arguments: batch_size (1),
    enforce_batch_size (0; rows behind the last whole batch are skipped), loop_over (0; behind the
    last row the first follows, in a new batch).

    Raises:
        ArgumentError: columns do not fit the cursor, or the order or the offsets the columns.
    """

    def run(self) -> bool:
        loops = self.arguments.flag("loop_over")
        with _MOVING:
            columns = self.columns(3)
            order, lines = self._integers(1, 1), self._integers(2, 2)
            at = self.place(1)[0]
            if not 0 <= at < _FARTHEST:
                problem = f"the cursor is at {at:,}, where no reading comes to"
                raise ArgumentError(problem, where=self.where, cure="Reset the cursor.")
            start = order.size if self.whole and at + self.batch_size > order.size else at
            if loops and start >= order.size:
                at = start = 0
            rows = order[max(start, 0) : max(start, 0) + self.batch_size]
            self._check(columns, rows, lines)
            parts = []
            for index, number in enumerate(columns.tree.lists):
                begins, ends = lines[rows, number], lines[rows + 1, number]
                parts.append(choose(self._resident(columns, index), ranges(begins, ends)))
            self.workspace.update(self.moved([at + self.batch_size]) | self.filled(parts))
        return True

    def _integers(self, index: int, axes: int) -> Numbers:
        value = self.input(index).value
        if not isinstance(value, Tensor) or value.dtype is not dtypes.INT64 or value.ndim != axes:
            found = f"{value.dtype} {value.shape}" if isinstance(value, Tensor) else "no tensor"
            raise ArgumentError(
                f"the input {self.inputs[index]!r} is {found}; int64 of {axes} axes is needed",
                where=self.where,
                cure="SortAndShuffle makes the order, and ComputeOffset the offsets.",
            )
        numbers: Numbers = value.numpy()
        return numbers

    def _check(self, columns: Columns, rows: Numbers, lines: Numbers) -> None:
        """Refuse offsets that are not those of the columns, before anything is read by them."""
        if lines.shape[1] != len(columns.limits):
            raise ArgumentError(
                f"the offsets are of {lines.shape[1]} lists, and the columns of "
                f"{len(columns.limits)}",
                where=self.where,
            )
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < len(lines) - 1:
            raise ArgumentError(
                f"the order has row {int(rows.max())}, and there are offsets of {len(lines) - 1}",
                where=self.where,
            )
        begins, ends = lines[rows], lines[rows + 1]
        if rows.size and ((begins < 0) | (ends < begins) | (ends > np.array(columns.limits))).any():
            raise ArgumentError(
                "the offsets are not those of these columns",
                where=self.where,
                cure="Compute them anew with ComputeOffset.",
            )

    def _resident(self, columns: Columns, index: int) -> Tensor:
        """Give a column; one that has to be decoded is kept so, since all of it is read."""
        tensor = columns.tensors[index]
        if not isinstance(tensor.source, ChunkedSource | StringSource):
            return tensor
        name, blob = self.inputs[index + 3], self.input(index + 3)
        tensor = between(tensor, 0, len(tensor)) if tensor.dtype is dtypes.STRING else tensor
        if isinstance(tensor.source, ChunkedSource):
            tensor = Tensor.of(tensor.numpy())
        self.workspace.set(name, Blob(blob.kind, tensor, blob.device))
        return tensor


should_not_do_gradient(
    *("CreateTreeCursor", "ResetCursor", "GetCursorOffset", "ReadNextBatch", "ComputeOffset"),
    *("SortAndShuffle", "ReadRandomBatch"),
)
