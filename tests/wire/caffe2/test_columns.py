"""Nested lengths, against lists of Python that hold the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorkeep.errors import ArgumentError, CorruptError
from tensorkeep.wire.caffe2.columns import (
    NO_LIMIT,
    Tree,
    advance,
    check_sizes,
    limits_of,
    ranges,
    starts_of,
    whole_of,
)

CAFFE2 = ["a", "b:lengths", "b:values:lengths", "b:values:values"]
CAFFE2 += ["c:lengths", "c:c1", "c:c2:lengths", "c:c2:values"]


def reader(columns: list[Any]) -> Any:
    arrays = [np.array(column, np.int32) for column in columns]
    return lambda column, start, stop: arrays[column][start:stop]


def test_the_schema_of_caffe2s_manual() -> None:
    tree = Tree(CAFFE2)
    assert tree.lengths == (1, 2, 4, 6)
    assert tree.lists == (0, 0, 1, 2, 0, 3, 3, 4)
    assert [tree.parent(number) for number in range(1, 5)] == [0, 1, 0, 3]
    tree.check_order("")


@pytest.mark.parametrize(
    ("fields", "lists"),
    [
        (["m:keys", "m:lengths", "m:values"], (1, 0, 1)),
        (["b", "b:lengths"], (1, 0)),
        (["lengths", "x"], (0, 0)),
        (["ab:x", "a:lengths"], (0, 0)),
        (["a:b:x", "a:b:lengths"], (1, 0)),
        (["a:lengths:x", "a:lengths"], (1, 0)),
        (["a::x", "a::lengths"], (1, 0)),
    ],
)
def test_prefixes(fields: list[str], lists: tuple[int, ...]) -> None:
    assert Tree(fields).lists == lists


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ([], "has no columns"),
        (["a", "b", "a"], "'a' is there twice"),
        (["q:lengths", "q:lengths:lengths"], "lies in itself"),
        (["a:" * 100 + "b"], "nests too deep"),
    ],
)
def test_names_that_make_no_tree(fields: list[str], problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem):
        Tree(fields, "x.db")


def test_lengths_stand_first() -> None:
    with pytest.raises(ArgumentError, match="'m:keys' stands before 'm:lengths'"):
        Tree(["m:keys", "m:lengths"]).check_order("")


# By name "leaf", or the schema of a list's elements.
schemas = st.recursive(
    st.just("leaf"),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=6,
).filter(lambda schema: schema != "leaf")


@st.composite
def datasets(draw: st.DrawFn) -> tuple[list[str], list[dict[str, list[int]]]]:
    """Give column names, and of some rows what each column has."""
    schema = draw(schemas)
    names: list[str] = []
    count = draw(st.integers(0, 5))
    rows: list[dict[str, list[int]]] = [{} for _ in range(count)]

    def fill(inner: Any, prefix: str, sizes: list[int]) -> None:
        for name, part in inner.items():
            own = f"{prefix}{name}"
            if part == "leaf":
                names.append(own)
                for row, size in zip(rows, sizes, strict=True):
                    row[own] = draw(st.lists(st.integers(0, 99), min_size=size, max_size=size))
                continue
            names.append(f"{own}:lengths")
            totals = []
            for row, size in zip(rows, sizes, strict=True):
                lengths = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
                row[f"{own}:lengths"] = lengths
                totals.append(sum(lengths))
            fill(part, f"{own}:", totals)

    fill(schema, "", [1] * count)
    return names, rows


def columns_of(names: list[str], rows: list[dict[str, list[int]]]) -> list[list[int]]:
    return [[value for row in rows for value in row[name]] for name in names]


@given(datasets(), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_random_schemas(dataset: Any, batch: int) -> None:
    names, rows = dataset
    tree = Tree(names)
    tree.check_order("")
    columns = columns_of(names, rows)
    read, sizes = reader(columns), check_sizes(tree, list(map(len, columns)), "")
    starts = whole_of(tree, read, sizes, "")
    for index, (name, number) in enumerate(zip(names, tree.lists, strict=True)):
        bounds = starts[number]
        for i, row in enumerate(rows):
            assert columns[index][bounds[i] : bounds[i + 1]] == row[name]
    offsets, at = [0] * len(sizes), 0
    while at <= len(rows):
        assert offsets == [int(found[min(at, len(rows))]) for found in starts]
        left = starts_of(tree, read, offsets, sizes)
        assert [found.tolist() for found in left] == [found[at:].tolist() for found in starts]
        moved = advance(tree, read, offsets, sizes, batch)
        assert moved[0] == min(batch, len(rows) - at)
        if not moved[0]:
            break
        offsets = [offset + size for offset, size in zip(offsets, moved, strict=True)]
        at = offsets[0]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5))))
def test_ranges(spans: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in spans], np.int64)
    stops = starts + np.array([size for _, size in spans], np.int64)
    expected = [i for start, size in spans for i in range(start, start + size)]
    assert ranges(starts, stops).tolist() == expected


@pytest.mark.parametrize(
    ("lengths", "values", "problem"),
    [
        ([1, 2], 4, "'a:lengths' adds up to 3, and 'a:values' has 4 elements"),
        ([1, 2], 2, "'a:lengths' adds up to 3, and 'a:values' has 2 elements"),
        ([1, 9], 2, "adds up to 9 or more, and 'a:values' has 2"),
        ([3, -1], 2, "'a:lengths' has a length of -1"),
        ([2**31 - 1] * 5, 2**33, "adds up to 10,737,418,235, and"),
    ],
)
def test_lengths_that_do_not_add_up(lengths: list[int], values: int, problem: str) -> None:
    tree = Tree(["a:lengths", "a:values"])
    with pytest.raises(CorruptError, match=problem):
        whole_of(tree, reader([lengths, []]), [len(lengths), values], "x.db")


def test_sums_that_wrap_around() -> None:
    tree = Tree(["a:lengths", "a:values"])
    lengths = np.full(4, 2**62, np.int64)
    with pytest.raises(CorruptError, match=r"more than 2\^63"):
        whole_of(tree, lambda column, start, stop: lengths[start:stop], [4, NO_LIMIT - 1], "")
    alone = Tree(["a:lengths"])
    with pytest.raises(CorruptError, match=r"more than 2\^63"):
        advance(alone, lambda column, i, j: lengths[i:j], [0, 0], [4, NO_LIMIT], 4)


def test_columns_of_one_list_differ() -> None:
    tree = Tree(["a:lengths", "a:x", "a:y", "b"])
    with pytest.raises(CorruptError, match="'a:y' has 2 elements, and 'a:x' has 3"):
        check_sizes(tree, [2, 3, 2, 2], "x.db")
    assert limits_of(tree, [2, 3, 2, 1]) == [1, 2]
    with pytest.raises(CorruptError, match="'b' has 1 elements, and 'a:lengths' has 2"):
        check_sizes(tree, [2, 3, 3, 1], "x.db")


@pytest.mark.parametrize(
    ("offsets", "problem"),
    [
        ([0], "has 1 offsets, and the dataset 2 lists"),
        ([3, 0], "is at 3 of the rows, which has 2"),
        ([0, -1], "is at -1 in the list of 'a:lengths', which has 3"),
    ],
)
def test_offsets_of_another_dataset(offsets: list[int], problem: str) -> None:
    tree = Tree(["a:lengths", "a:values"])
    for work in (
        lambda: advance(tree, reader([[1, 2], []]), offsets, [2, 3], 1),
        lambda: starts_of(tree, reader([[1, 2], []]), offsets, [2, 3]),
    ):
        with pytest.raises(ArgumentError, match=problem):
            work()
