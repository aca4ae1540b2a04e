"""Columns of nested lists: what a row of them is, told by their names and lengths.

    a                   one value a row
    b:lengths           how many elements the list b of each row has
    b:values:lengths    how many elements each element of b has, which is a list itself
    b:values:values     all of those, one after another

A column `PREFIX:lengths` makes the columns whose names start with PREFIX those of a list: their
first axis runs over the elements of all its lists, one after another. The longest such prefix
counts. All columns of a list, and all columns of the rows themselves, are as long as one another.
Maps are lists of `PREFIX:keys` and `PREFIX:values`.

List 0 is the rows; list i + 1 is that of the i-th column of lengths, as Caffe2 counts offsets.

Facts: caffe2/operators/dataset_ops.{h,cc} (TreeIterator) of PyTorch 1.10.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import ArgumentError, CorruptError, UnsupportedError

Numbers = npt.NDArray[np.int64]
Read = Callable[[int, int, int], npt.NDArray[Any]]  # of a column, from one element up to another

LENGTHS = "lengths"
NO_LIMIT = 2**63 - 1
_DEEPEST = 64  # parts of a name
_HOLLOW = 1 << 24  # rows of a column that holds nothing, and so could claim any number


class Tree:
    """Which list each column belongs to, and which list that lies in.

    Args:
        fields: the names of the columns.
        where: names them in messages.

    Attributes:
        fields: the names of the columns.
        lengths: which columns are lengths; that of list i is `lengths[i - 1]`.
        lists: the list that each column belongs to.
        order: the lists, each behind the one that it lies in.

    Raises:
        ArgumentError: there is none, a name is there twice, or lists lie in one another.

    >>> tree = Tree(["b:lengths", "b:values:lengths", "b:values:values", "a"])
    >>> tree.lengths, tree.lists, tree.parent(2)
    ((0, 1), (0, 1, 2, 0), 1)
    """

    def __init__(self, fields: Sequence[str], where: str = "") -> None:
        self.fields = tuple(fields)
        parts = [tuple(name.split(":", _DEEPEST)) for name in self.fields]
        for name, split in zip(self.fields, parts, strict=True):
            if len(split) > _DEEPEST:
                raise ArgumentError(f"the column {name[:60]!r}... nests too deep", where=where)
        if not self.fields:
            raise ArgumentError("has no columns", where=where, cure="Name them in `fields`.")
        if len(set(self.fields)) < len(self.fields):
            twice = Counter(self.fields).most_common(1)[0][0]
            raise ArgumentError(f"the column {twice!r} is there twice", where=where)
        self.lengths = tuple(i for i, split in enumerate(parts) if split[-1] == LENGTHS)
        list_of = {parts[i][:-1]: n + 1 for n, i in enumerate(self.lengths) if len(parts[i]) > 1}
        self.lists = tuple(
            _innermost(parts[i], list_of, self.lengths, i) for i in range(len(parts))
        )
        self.order = self._order(where)

    def parent(self, number: int) -> int:
        """Give the list in which the lists of this number lie."""
        return self.lists[self.lengths[number - 1]]

    def length_name(self, number: int) -> str:
        """Give the name of the column that holds the lengths of a list."""
        return self.fields[self.lengths[number - 1]]

    def check_order(self, where: str) -> None:
        """Refuse lengths that stand behind a column of their list, as Caffe2's cursors do.

        Raises:
            ArgumentError: some do.
        """
        for i, number in enumerate(self.lists):
            if number and self.lengths[number - 1] > i:
                raise ArgumentError(
                    f"the field {self.fields[i]!r} stands before {self.length_name(number)!r}",
                    where=where,
                    cure="Name the lengths of a list before all else that is in it.",
                )

    def _order(self, where: str) -> tuple[int, ...]:
        order = [0]
        waiting: dict[int, list[int]] = {}
        for number in range(1, len(self.lengths) + 1):
            waiting.setdefault(self.parent(number), []).append(number)
        for number in order:  # which grows meanwhile
            order += waiting.get(number, ())
        if len(order) <= len(self.lengths):
            lost = min(set(range(1, len(self.lengths) + 1)) - set(order))
            raise ArgumentError(
                f"the list of {self.length_name(lost)!r} lies in itself", where=where
            )
        return tuple(order)


def _innermost(
    split: tuple[str, ...],
    list_of: dict[tuple[str, ...], int],
    lengths: tuple[int, ...],
    column: int,
) -> int:
    """Find the list with the longest name that a column's name starts with; 0 is the rows."""
    for size in range(len(split), 0, -1):
        number = list_of.get(split[:size], 0)
        if number and lengths[number - 1] != column:
            return number
    return 0


def limits_of(tree: Tree, sizes: Sequence[int]) -> list[int]:
    """Give how far each list can be read: to the end of its shortest column.

    Args:
        tree: the columns.
        sizes: the first axis of each.
    """
    found = [NO_LIMIT] * (len(tree.lengths) + 1)
    for number, size in zip(tree.lists, sizes, strict=True):
        found[number] = min(found[number], size)
    return found


def check_hollow(name: str, shape: Sequence[int], where: str) -> None:
    """Refuse a column that claims very many rows and holds not one element.

    Raises:
        UnsupportedError: it does.
    """
    if shape[0] > _HOLLOW and 0 in shape:
        raise UnsupportedError(
            f"the column {name!r} has {shape[0]:,} rows, and not one element", where=where
        )


def check_sizes(tree: Tree, sizes: Sequence[int], where: str) -> list[int]:
    """Give how long the columns of each list are; NO_LIMIT of a list without any.

    Raises:
        CorruptError: two columns of one list differ.
    """
    found = limits_of(tree, sizes)
    for name, number, size in zip(tree.fields, tree.lists, sizes, strict=True):
        if size != found[number]:
            raise CorruptError(
                f"{_shortest(tree, sizes, number)!r} has {found[number]:,} elements, and {name!r} "
                f"has {size:,}",
                where=where,
                cure="The columns of one list, and those of the rows, are as long as one another.",
            )
    return found


def whole_of(tree: Tree, read: Read, sizes: Sequence[int], where: str) -> list[Numbers]:
    """Give for each list where each row begins in it, and check that the last one ends at its end.

    Args:
        tree: the columns.
        read: gives the values of a column between two elements.
        sizes: how long the columns of each list are, as `check_sizes` gives them.
        where: names the data in messages.

    Raises:
        CorruptError: lengths are negative, or do not add up to the elements of their list.
    """
    starts = starts_of(tree, read, [0] * len(sizes), sizes, where)
    for number in tree.order[1:]:
        total = int(starts[number][-1])
        if total != sizes[number] != NO_LIMIT:
            raise _unequal(tree, number, f"{total:,}", sizes[number], where)
    return starts


def advance(
    tree: Tree,
    read: Read,
    offsets: Sequence[int],
    limits: Sequence[int],
    count: int,
    where: str = "",
) -> list[int]:
    """Give how many elements of each list the next `count` rows have; fewer at the end.

    Args:
        tree: the columns.
        read: gives the values of a column between two elements.
        offsets: where in each list the rows begin.
        limits: how far each list can be read.
        count: how many rows.
        where: names the data in messages.

    Raises:
        ArgumentError: an offset lies behind the end of its list.
        CorruptError: a length is negative, or goes behind the end of its list.
    """
    check_offsets(tree, offsets, limits, where)
    sizes = [0] * len(offsets)
    sizes[0] = min(limits[0] - offsets[0], count)
    for number in tree.order[1:]:
        parent = tree.parent(number)
        begin = offsets[parent]
        values = read(tree.lengths[number - 1], begin, begin + sizes[parent])
        left = limits[number] - offsets[number]
        sizes[number] = int(_ends(tree, number, values, left, where)[-1])
    return sizes


def starts_of(
    tree: Tree,
    read: Read,
    offsets: Sequence[int],
    limits: Sequence[int],
    where: str = "",
) -> list[Numbers]:
    """Give for each list where each of the rows left begins in it, and behind them where all end.

    Raises:
        ArgumentError: an offset lies behind the end of its list.
        CorruptError: a length is negative, or goes behind the end of its list.
    """
    check_offsets(tree, offsets, limits, where)
    starts = [np.arange(offsets[0], limits[0] + 1, dtype=np.int64)] * len(offsets)
    for number in tree.order[1:]:
        outer = starts[tree.parent(number)]
        values = read(tree.lengths[number - 1], int(outer[0]), int(outer[-1]))
        ends = _ends(tree, number, values, limits[number] - offsets[number], where)
        starts[number] = ends[outer - outer[0]] + offsets[number]
    return starts


def check_offsets(
    tree: Tree, offsets: Sequence[int], limits: Sequence[int], where: str = ""
) -> None:
    """Refuse a place that no reading of these columns comes to.

    Raises:
        ArgumentError: it has more or fewer offsets than there are lists, or one behind an end.
    """
    if len(offsets) != len(limits):
        raise ArgumentError(
            f"the cursor has {len(offsets)} offsets, and the dataset {len(limits)} lists",
            where=where,
            cure="Reset the cursor: it is that of a ReadRandomBatch, or of another dataset.",
        )
    for number, (offset, limit) in enumerate(zip(offsets, limits, strict=True)):
        if not 0 <= offset <= limit:
            name = f"in the list of {tree.length_name(number)!r}" if number else "of the rows"
            raise ArgumentError(
                f"the cursor is at {offset:,} {name}, which has {limit:,}",
                where=where,
                cure="Reset the cursor: it is that of another dataset.",
            )


def ranges(starts: Numbers, stops: Numbers) -> Numbers:
    """Give the numbers from each start up to its stop, one range behind the other.

    >>> ranges(np.array([5, 0, 7]), np.array([7, 0, 10])).tolist()
    [5, 6, 7, 8, 9]
    """
    counts = stops - starts
    ends = np.cumsum(counts)
    total = int(ends[-1]) if ends.size else 0
    return np.repeat(starts - ends + counts, counts) + np.arange(total, dtype=np.int64)


def _ends(tree: Tree, number: int, values: npt.NDArray[Any], limit: int, where: str) -> Numbers:
    """Give where each list ends, counted from 0, with a 0 before the first."""
    ends = np.zeros(values.size + 1, np.int64)
    if not values.size:
        return ends
    least, most = int(values.min()), int(values.max())
    if least < 0:
        problem = f"{tree.length_name(number)!r} has a length of {least:,}"
        raise CorruptError(problem, where=where)
    if most > limit:
        raise _unequal(tree, number, f"{most:,} or more", limit, where)
    np.cumsum(values, dtype=np.int64, out=ends[1:])
    # A sum that wraps around falls, since no length is larger than the limit.
    wraps = values.size > NO_LIMIT // max(most, 1) and bool((ends[1:] < ends[:-1]).any())
    if wraps or ends[-1] > limit:
        total = "more than 2^63" if wraps else f"{int(ends[-1]):,}"
        raise _unequal(tree, number, total, limit, where)
    return ends


def _unequal(tree: Tree, number: int, total: str, limit: int, where: str) -> CorruptError:
    of = next((n for n, other in zip(tree.fields, tree.lists, strict=True) if other == number), "")
    return CorruptError(
        f"{tree.length_name(number)!r} adds up to {total}, and {of!r} has {limit:,} elements",
        where=where,
        cure="A column was cut short, or is of another dataset.",
    )


def _shortest(tree: Tree, sizes: Sequence[int], number: int) -> str:
    columns = zip(sizes, tree.lists, tree.fields, strict=True)
    return min((size, name) for size, other, name in columns if other == number)[1]
