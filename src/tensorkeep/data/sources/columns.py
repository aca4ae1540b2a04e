"""Column datasets: a column for each field of a nested schema, and the lengths of its lists.

    a:lengths int32 (5,)     a:values int64 (7,)     b float32 (5,)

are five samples, of which each has a list `a` and a number `b`. Caffe2 kept datasets so (Dataset,
DBFileReader), saved as blobs of these names; any file of tensors that are called so is read: lists
in lists `a:values:lengths`, maps `a:keys` and `a:values`. See `tensorkeep.wire.caffe2.columns`.

A batch is flat, as ReadNextBatch gives it: columns of the samples have one row each, those of a
list all its elements, one sample's behind the other's, which the lengths tell apart. Lengths are
read and checked when it is opened; values stay in the file until a batch needs them.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import api, dtypes
from tensorkeep.data.dataset import Batch, Dataset, Field, Progress, Rows, Sample
from tensorkeep.data.fingerprint import combine
from tensorkeep.data.sources.chosen import absolute
from tensorkeep.data.sources.gathering import gather, take
from tensorkeep.data.sources.tensors import by_fields, check, seen
from tensorkeep.database import Database
from tensorkeep.errors import MissingError, TensorKeepError, UnsupportedError
from tensorkeep.similar import did_you_mean
from tensorkeep.state import State
from tensorkeep.stores import locate
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.columns import (
    LENGTHS,
    Numbers,
    Tree,
    check_hollow,
    check_sizes,
    ranges,
    whole_of,
)

_KEPT = 4 << 20  # bytes of a column that is kept once it was decoded
_KEPT_FOR_ROWS = 256 << 20  # likewise, where rows are read in no order: many parts for a few values
_ENDING = f":{LENGTHS}"


class ColumnsDataset(Dataset):
    """Samples that are the rows of columns.

    Args:
        state: the columns, and what else there may be.
        fields: which to give; all by default. The lengths they need are read anyway.
        kind: what they are kept in.
        where: names them in messages.
        path: the file that all of it is in, where there is one.
        reopen: gives it in another process; the columns themselves are sent where it is None.
        own: close the state with the dataset.

    Raises:
        CorruptError: lengths are negative, or do not add up to what they are the lengths of.
        MissingError: there is no such field.
        UnsupportedError: a column is a scalar or quantized, or lengths are no integers.
        ArgumentError: the names make no schema.
    """

    def __init__(
        self,
        state: State,
        fields: Sequence[str] | None = None,
        *,
        kind: str,
        where: str,
        path: str = "",
        reopen: Callable[[], Dataset] | None = None,
        own: bool = False,
    ) -> None:
        names = _checked(state, fields, where)
        tree = Tree(_needed(tuple(state), names, where), where)
        tensors = {name: _column(state[name], name, where) for name in tree.fields}
        columns = list(tensors.values())
        sizes = check_sizes(tree, [tensor.shape[0] for tensor in columns], where)
        lengths = {i: _lengths(columns[i], tree.fields[i], where) for i in tree.lengths}
        starts = whole_of(tree, lambda column, i, j: lengths[column][i:j], sizes, where)
        self._lists = {name: tree.lists[tree.fields.index(name)] for name in names}
        self._starts = {number: starts[number] for number in set(self._lists.values()) if number}
        self._state = state
        self._tensors = {name: tensors[name] for name in names}
        self._held: dict[str, npt.NDArray[Any]] = {
            tree.fields[i]: values for i, values in lengths.items() if tree.fields[i] in names
        }
        self._needs = tensors
        self._path = path
        self._reopen = reopen
        self._own = own
        known = {
            name: Field(tensor.dtype.name, None if self._lists[name] else tensor.shape[1:])
            for name, tensor in self._tensors.items()
        }
        super().__init__(sizes[0], known, where=where, kind=kind)

    @property
    def flat(self) -> frozenset[str]:
        """The fields that are in lists."""
        return frozenset(name for name, number in self._lists.items() if number)

    def gather(self, rows: Rows) -> Batch:
        """Give rows as one flat batch: of a list all its elements, for all rows together.

        Raises:
            CorruptError: they are damaged, or the file has become shorter since it was opened.
        """
        together = bool(rows.size) and bool((np.diff(rows) == 1).all())
        elements: dict[int, tuple[int, int] | Numbers] = {0: rows}
        if together:
            elements[0] = int(rows[0]), int(rows[-1]) + 1
        for number, starts in self._starts.items():
            if together:
                elements[number] = int(starts[rows[0]]), int(starts[rows[-1] + 1])
            else:
                elements[number] = ranges(starts[rows], starts[rows + 1])
        return {name: self._read(name, elements[number]) for name, number in self._lists.items()}

    def samples(self, rows: Rows) -> list[Sample]:
        """Give samples one by one: of a list an array of the sample's own elements."""
        batch = self.gather(rows)
        found: list[Sample] = [{} for _ in rows]
        for name, number in self._lists.items():
            values: Any = batch[name]
            if number:
                starts = self._starts[number]
                ends = np.cumsum(starts[rows + 1] - starts[rows])
                values = np.split(values, ends[:-1]) if rows.size else ()
            for sample, value in zip(found, values, strict=True):
                sample[name] = value
        return found

    def _read(self, name: str, elements: tuple[int, int] | Numbers) -> npt.NDArray[Any]:
        """Give elements of a column, from one up to another or by their numbers, as a new array."""
        tensor, array = self._tensors[name], self._held.get(name)
        most = _KEPT if isinstance(elements, tuple) else _KEPT_FOR_ROWS
        if array is None and not tensor.source.mapped and 0 < tensor.nbytes <= most:
            array = self._held[name] = tensor.numpy()
        if not isinstance(elements, tuple):
            return gather(tensor, elements) if array is None else np.array(take(array, elements))
        start, stop = elements
        if array is not None:
            return np.array(array[start:stop])
        if tensor.dtype is dtypes.STRING:
            return gather(tensor, np.arange(start, stop, dtype=np.int64))
        inner = math.prod(tensor.shape[1:])
        values = tensor.elements(start * inner, stop * inner)
        return np.array(values.reshape(stop - start, *tensor.shape[1:]))

    def _digest(self) -> str:
        told: list[str | bytes | int] = [len(self)]
        for name, tensor in self._tensors.items():
            told += [name, tensor.dtype.name, str(tensor.shape)]
        return combine(*told, *seen(self._state, self._needs, self._path))

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Check each column by the digest or checksum that came with it, or else read it all."""
        return by_fields(self, self._problems, self._tensors, progress)

    def _problems(self, name: str) -> list[str]:
        tensor = self._tensors[name]
        try:
            if not check(self._state, name, tensor):
                deque(tensor.pieces(), maxlen=0)
        except TensorKeepError as error:
            return [f"{self.where}: the column {name!r} is damaged: {error.problem}"]
        return []

    def close(self) -> None:
        """Close what the columns are read from, where it was opened here."""
        super().close()
        if self._own:
            self._state.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopen is not None:
            return self._reopen, ()
        arrays = {name: tensor.numpy() for name, tensor in self._needs.items()}
        return _of_memory, (arrays, list(self._tensors), self.kind, self.where)


def open_columns(path: str, fields: Sequence[str] | None = None) -> ColumnsDataset:
    """Open a file or database of columns.

    Raises:
        CorruptError: lengths do not fit what they are the lengths of.
        MissingError: there is nothing there, or no such field.
        UnknownFormatError: no format recognises it.
    """
    state = api.open(path)
    try:
        return ColumnsDataset(
            state,
            fields,
            kind="columns",
            where=state.where or path,
            path=path if os.path.isfile(path) else "",
            reopen=partial(open_columns, absolute(path), fields),
            own=True,
        )
    except BaseException:
        state.close()
        raise


def of_columns(
    columns: State | Mapping[str, npt.NDArray[Any]], fields: Sequence[str] | None = None
) -> ColumnsDataset:
    """Take tensors of a state, or arrays, as columns; closing the dataset leaves a state open.

    >>> lengths, values = np.array([2, 0, 1]), np.array([4, 5, 6])
    >>> dataset = of_columns({"a:lengths": lengths, "a:values": values})
    >>> {name: batch.tolist() for name, batch in dataset.gather(np.array([2, 0])).items()}
    {'a:lengths': [1, 2], 'a:values': [6, 4, 5]}
    >>> dataset[0]["a:values"].tolist()
    [4, 5]
    """
    if isinstance(columns, State):
        where = columns.where or "the state"
        return ColumnsDataset(columns, fields, kind="columns", where=where)
    return _of_memory(columns, fields, "columns", "the columns")


def _of_memory(
    arrays: Mapping[str, npt.NDArray[Any]], fields: Sequence[str] | None, kind: str, where: str
) -> ColumnsDataset:
    tensors = {name: Tensor.of(array, where) for name, array in arrays.items()}
    return ColumnsDataset(State(tensors, where=where), fields, kind=kind, where=where)


def recognises(path: str) -> bool:
    """Say whether a file or database holds columns with lengths, by the names of its tensors."""
    try:
        if not os.path.isfile(path) and not isinstance(locate(path).store, Database):
            return False
        with api.open(path) as state:
            return are_columns(state)
    except TensorKeepError:
        return False


def are_columns(tensors: Mapping[str, Tensor]) -> bool:
    """Say whether tensors are called as columns are: some are the lengths of others.

    >>> are_columns({"a:lengths": Tensor.of(np.array([1])), "a:values": Tensor.of(np.array([2]))})
    True
    """
    names = tuple(tensors)
    if not any(name.endswith(_ENDING) for name in names):
        return False
    try:
        tree = Tree(names)
    except TensorKeepError:
        return False
    lists = {names[tree.lengths[number - 1]] for number in tree.lists if number}
    return bool(lists) and all(
        tensors[name].ndim == 1 and tensors[name].dtype.kind in ("int", "uint") for name in lists
    )


def _checked(state: State, fields: Sequence[str] | None, where: str) -> list[str]:
    """Give the names of the fields to give."""
    names = list(state) if fields is None else list(dict.fromkeys(fields))
    for name in names:
        if name not in state:
            has = f"It has {', '.join(list(state)[:8])}{' and more' if len(state) > 8 else ''}."
            cure = did_you_mean(name, list(state)) or has
            raise MissingError(f"has no field {name!r}", where=where, cure=cure)
    return names


def _needed(names: tuple[str, ...], chosen: Sequence[str], where: str) -> list[str]:
    """Give the chosen columns, and the lengths of the lists that they are in, in stored order."""
    tree = Tree(names, where)
    column = {name: i for i, name in enumerate(names)}
    needed = set()
    waiting = [column[name] for name in chosen]
    while waiting:
        i = waiting.pop()
        if i not in needed:
            needed.add(i)
            if tree.lists[i]:
                waiting.append(tree.lengths[tree.lists[i] - 1])
    return [names[i] for i in sorted(needed)]


def _column(tensor: Tensor, name: str, where: str) -> Tensor:
    if not tensor.shape or tensor.dtype.kind == "blocks":
        kind = "quantized" if tensor.shape else "a scalar"
        raise UnsupportedError(
            f"{name!r} is {kind}, and so has no rows",
            where=where,
            cure="Leave it out: name the columns with fields=[...].",
        )
    check_hollow(name, tensor.shape, where)
    return tensor


def _lengths(tensor: Tensor, name: str, where: str) -> npt.NDArray[Any]:
    if tensor.ndim != 1 or tensor.dtype.kind not in ("int", "uint"):
        raise UnsupportedError(
            f"{name!r} is {tensor.dtype} of shape {tensor.shape}, and no lengths",
            where=where,
            cure="Lengths are integers, one for each list.",
        )
    return tensor.numpy()
