"""Operators that change or check a column dataset, and those that pack its rows.

Facts: caffe2/operators/dataset_ops.cc and atomic_ops.cc.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from tensorkeep import dtypes
from tensorkeep.caffe2.gradient import should_not_do_gradient
from tensorkeep.caffe2.operator import MANY, Operator, register
from tensorkeep.caffe2.operators.cursor import Columns
from tensorkeep.caffe2.rows import between, check_alike, join
from tensorkeep.errors import ArgumentError, CorruptError, UnsupportedError
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.columns import NO_LIMIT, Tree, check_sizes, starts_of, whole_of
from tensorkeep.wire.caffe2.values import MUTEX, TENSOR, TENSOR_VECTOR, Blob, NestedBlobs

_APPENDING = threading.Lock()


class FieldsOp(Operator):
    """An operator on columns whose names are its argument `fields`."""

    takes = (1, MANY)
    gives = (0, MANY)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tree = Tree(self.arguments.texts("fields"), self.where)
        self.tree.check_order(self.where)


@register("CheckDatasetConsistency")
class CheckDatasetConsistencyOp(FieldsOp):
    """Fail unless the lengths of the columns fit one another and what they are the lengths of.

    Raises:
        CorruptError: they do not; it names both columns and how long they are.
        ArgumentError: there is not one column for each field.
    """

    gives = (0, 0)

    def run(self) -> bool:
        columns = Columns(self, self.tree, range(len(self.inputs)))
        tree, where = self.tree, self.where
        sizes = check_sizes(tree, columns.sizes, where)
        for number in range(1, len(sizes)):
            if sizes[number] == NO_LIMIT:
                problem = f"{tree.length_name(number)!r} are the lengths of nothing"
                raise CorruptError(problem, where=where)
        whole_of(tree, columns.read, sizes, where)
        return True


@register("TrimDataset")
class TrimDatasetOp(FieldsOp):
    """Drop the last rows, in place, so that their number is a multiple of `multiple_of` (1).

    Raises:
        ArgumentError: outputs that are not the inputs, or a multiple_of below 1.
        CorruptError: lengths are negative, or add up to more than there is.
    """

    gives = (1, MANY)

    def run(self) -> bool:
        multiple = self.arguments.integer("multiple_of", 1)
        if multiple < 1:
            raise ArgumentError(f"the argument 'multiple_of' is {multiple}", where=self.where)
        if self.outputs != self.inputs:
            raise ArgumentError("trims in place: its outputs are its inputs", where=self.where)
        columns = Columns(self, self.tree, range(len(self.inputs)))
        rows = columns.limits[0]
        kept = rows // multiple * multiple
        if kept == rows:
            return True
        limits = [kept, *columns.limits[1:]]
        starts = starts_of(self.tree, columns.read, [0] * len(limits), limits, self.where)
        found = {}
        for index, number in enumerate(self.tree.lists):
            trimmed = between(columns.tensors[index], 0, int(starts[number][-1]))
            found[self.outputs[index]] = Blob(TENSOR, trimmed, self.input(index).device)
        self.workspace.update(found)  # all of them or, where one is damaged, none
        return True


@register("Append")
class AppendOp(Operator):
    """Put the rows of the second input behind those of the first, which is the output too.

    Raises:
        ArgumentError: the output is not the first input; an input is no tensor, or a scalar.
        UnsupportedError: their types or the shapes of their rows differ.
    """

    takes = (2, 2)
    gives = (1, 1)

    def run(self) -> bool:
        self.workspace.update(appended(self, [(0, 1)]))
        return True


@register("AtomicAppend")
class AtomicAppendOp(Operator):
    """Append to several columns under a mutex: to all of them or, if one does not fit, to none.

    Inputs: the mutex (CreateMutex), the columns, and as many that are put behind them. Outputs: the
    columns.

    Raises:
        ArgumentError: no mutex; the outputs are not the columns; an input is no tensor.
        UnsupportedError: types, or the shapes of rows, differ.
    """

    takes = (3, MANY)
    gives = (1, MANY)

    def run(self) -> bool:
        if self.input(0).kind != MUTEX:
            raise ArgumentError(
                f"the input {self.inputs[0]!r} is a {self.input(0).kind}, not a mutex",
                where=self.where,
                cure="Make one with CreateMutex.",
            )
        count, rest = divmod(len(self.inputs) - 1, 2)
        if rest or count != len(self.outputs):
            raise ArgumentError(
                f"has {len(self.inputs) - 1} columns for {len(self.outputs)} outputs",
                where=self.where,
                cure="Give each output twice as input: what is there, and what to append.",
            )
        with _APPENDING:
            pairs = [(1 + i, 1 + count + i) for i in range(count)]
            self.workspace.update(appended(self, pairs))
        return True


def appended(operator: Operator, pairs: Sequence[tuple[int, int]]) -> dict[str, Blob]:
    """Give the outputs of an operator: of each pair of inputs the second one behind the first."""
    found: dict[str, Blob] = {}
    for (base, more), name in zip(pairs, operator.outputs, strict=True):
        old, new = (tensor_of(operator, index) for index in (base, more))
        if old.shape[0] == 0:  # takes any type and shape, and then has those
            found[name] = Blob(TENSOR, new, operator.input(base).device)
            continue
        if name != operator.inputs[base]:
            raise ArgumentError(
                f"appends to {operator.inputs[base]!r} in place, but its output is {name!r}",
                where=operator.where,
            )
        check_alike(old, new, operator.where)
    for (base, more), name in zip(pairs, operator.outputs, strict=True):
        if name not in found:
            tensors = [tensor_of(operator, base), tensor_of(operator, more)]
            joined = join(tensors, operator.where) if tensors[1].shape[0] else tensors[0]
            found[name] = Blob(TENSOR, joined, operator.input(base).device)
    return found


def tensor_of(operator: Operator, index: int) -> Tensor:
    """Give an input that has rows.

    Raises:
        ArgumentError: it is no tensor, or a scalar.
    """
    value = operator.input(index).value
    if not isinstance(value, Tensor) or not value.shape:
        kind = "a scalar" if isinstance(value, Tensor) else f"a {operator.input(index).kind}"
        raise ArgumentError(
            f"the input {operator.inputs[index]!r} is {kind}, and has no rows",
            where=operator.where,
        )
    return value


@register("PackRecords")
class PackRecordsOp(FieldsOp):
    """Write the rows as one tensor with an element for each: the tensors of its fields.

    Such a tensor cannot be saved, of which Caffe2 wrote nothing either; UnPackRecords gives the
    columns back. In Python an element is a Blob whose value is a tuple of Tensors.

    Raises:
        ArgumentError: there is not one column for each field.
        CorruptError: lengths are negative, or add up to more than there is.
    """

    gives = (1, 1)

    def run(self) -> bool:
        columns = Columns(self, self.tree, range(len(self.inputs)))
        lists = self.tree.lists
        zeros = [0] * len(columns.limits)
        starts = starts_of(self.tree, columns.read, zeros, columns.limits, self.where)
        bounds = [found.tolist() for found in starts]
        tensors = [
            Tensor.of(tensor.numpy()) if tensor.dtype is not dtypes.STRING else tensor
            for tensor in columns.tensors
        ]
        rows = [
            tuple(
                between(tensor, bounds[number][row], bounds[number][row + 1])
                for tensor, number in zip(tensors, lists, strict=True)
            )
            for row in range(columns.limits[0])
        ]
        packed = NestedBlobs((len(rows),), [Blob(TENSOR_VECTOR, row) for row in rows])
        self.write(0, Blob(TENSOR, packed, self.device))
        return True


@register("UnPackRecords")
class UnPackRecordsOp(FieldsOp):
    """Write the columns of packed rows.

    Inputs: what PackRecords wrote, and, needed where it has no rows, a tensor like each column.
    Outputs: the columns.

    Raises:
        ArgumentError: the first input is not packed, or came from a file; numbers that differ.
        UnsupportedError: rows differ in the types or shapes of their fields.
    """

    gives = (1, MANY)

    def run(self) -> bool:
        count = len(self.tree.fields)
        if len(self.outputs) != count or len(self.inputs) not in (1, 1 + count):
            raise ArgumentError(
                f"has {len(self.inputs)} inputs and {len(self.outputs)} outputs for {count} fields",
                where=self.where,
                cure="Give one output for each field, and no other inputs or as many more.",
            )
        rows = self._rows()
        likes = [tensor_of(self, index) for index in range(1, len(self.inputs))]
        if not rows and not likes:
            raise ArgumentError(
                "nothing is packed, and nothing says of what type it would be",
                where=self.where,
                cure="Give a tensor like each column as further inputs.",
            )
        found = {}
        for index in range(count):
            parts = [row[index] for row in rows]
            if likes:
                parts.insert(0, between(likes[index], 0, 0))
            joined = join(parts, f"{self.where}: {self.tree.fields[index]!r}")
            found[self.outputs[index]] = Blob(TENSOR, joined, self.device)
        self.workspace.update(found)
        return True

    def _rows(self) -> list[tuple[Tensor, ...]]:
        value = self.input(0).value
        packed = isinstance(value, NestedBlobs)
        if not packed or any(blob.kind != TENSOR_VECTOR for blob in value.blobs):
            raise ArgumentError(
                f"the input {self.inputs[0]!r} is not what PackRecords makes", where=self.where
            )
        for blob in value.blobs:
            if blob.value is None:
                raise UnsupportedError(
                    f"the rows in {self.inputs[0]!r} are empty: Caffe2 saves nothing of them",
                    where=self.where,
                    cure="Save the columns, and pack them once they are loaded.",
                )
            if len(blob.value) != len(self.tree.fields):
                raise ArgumentError(
                    f"a packed row has {len(blob.value)} fields, of {len(self.tree.fields)}",
                    where=self.where,
                )
        return [blob.value for blob in value.blobs]


should_not_do_gradient(
    *("CheckDatasetConsistency", "TrimDataset", "Append", "AtomicAppend"),
    *("PackRecords", "UnPackRecords"),
)
