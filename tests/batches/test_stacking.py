"""Samples one by one, made into a batch that has what each of them has."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tensorkeep import errors
from tensorkeep.data.stacking import stack
from tensorkeep.data.workers import transfer

JSON: list[Any] = [{"a": [1, None]}, [1, 2], [3, 4], None, "text", 1.5]
NAMES = ["sample 7", "sample 9"]


def pair(one: Any, two: Any) -> Any:
    return stack([{"x": one}, {"x": two}], NAMES)["x"]


@pytest.mark.parametrize(
    ("one", "two", "dtype"),
    [
        (1, 2.5, "float64"),
        (True, 2, "int64"),
        (np.uint8(255), np.int64(-1), "int64"),
        (np.float16(1), np.int32(70_000), "float64"),
        (np.zeros(2, ml_dtypes.int4), np.ones(2, np.int8), "int8"),
        ("a", np.str_("bc"), "object"),
        (b"a", bytearray(b"bc"), "object"),
        ([1, 2], (3, 4), "int64"),
        (["a", "b"], ["cd", "e"], "<U2"),
        (1, 1 << 63, "float64"),  # which both have a float64 of their own
    ],
)
def test_types_that_one_type_holds(one: Any, two: Any, dtype: str) -> None:
    column = pair(one, two)
    assert column.dtype == dtype
    for found, value in zip(column.tolist(), (one, two), strict=True):
        assert np.array_equal(found, value) or found == value
        assert type(found) in (int, float, list, str, bytes)


@pytest.mark.parametrize(
    ("one", "two", "problem"),
    [
        ("a", 5, "is a str in sample 7 and a int in sample 9"),
        ("a", None, "is a str in sample 7 and a NoneType in sample 9"),
        (b"a", np.arange(2), "is a bytes in sample 7 and of int64 in sample 9"),
        (5, "a", "is of int64 in sample 7 and of <U1 in sample 9"),
        (np.array(["a"]), np.array([1]), "is of <U1 in sample 7 and of int64 in sample 9"),
        (np.array(["a"]), np.array([b"a"]), "is of <U1 in sample 7 and of .S1 in sample 9"),
        (2**53 + 1, 0.5, "is of int64 in sample 7 and of float64 in sample 9"),
        (2**64 - 1, -1, "is of uint64 in sample 7 and of int64 in sample 9"),
        (np.zeros(1, ml_dtypes.bfloat16), np.zeros(1, np.int64), "is of bfloat16 in sample 7"),
        (np.zeros(1, [("a", "i4")]), np.zeros(1, "i4"), "and of int32 in sample 9"),
        (1, np.datetime64("2020"), "is of int64 in sample 7"),
        ([1, 2**63 + 1], [1, 2], "of sample 7 is a list, which makes no array"),
        ([2**53 + 1, 0.5], [1, 2], "of sample 7 is a list, which makes no array"),
        ([[1], [2, 3]], [[1], [2, 3]], "of sample 7 is a list, which makes no array"),
        ([1, "a"], [2, "b"], "of sample 7 is a list, which makes no array"),
        (np.array(["a", None], object), np.array(["a", "b"], object), "of sample 7 is a ndarray"),
        (1.5, None, "of sample 9 is a NoneType"),
        ({"a": 1}, {"a": 2}, "of sample 7 is a dict"),
    ],
)
def test_nothing_is_changed_to_make_a_batch(one: Any, two: Any, problem: str) -> None:
    with pytest.raises(errors.UnsupportedError, match=problem):
        pair(one, two)


def test_json_stays_what_it_is() -> None:
    names = [f"sample {i}" for i in range(len(JSON))]
    column = stack([{"x": value} for value in JSON], names, json=["x"])["x"]
    assert column.dtype == object
    assert column.tolist() == JSON
    lists = stack([{"x": [1]}, {"x": [2]}], NAMES, json=["x"])["x"]
    assert lists.dtype == object
    assert lists.tolist() == [[1], [2]]
    assert stack([{"x": 1}, {"x": 2}], NAMES, json=["x"])["x"].dtype == np.int64


def test_json_goes_from_process_to_process() -> None:
    column = np.empty((2, 3), object)
    for at, value in enumerate(JSON):
        column.flat[at] = value
    fields, arrays, size = transfer.lay_out({"x": column})
    transfer.put(fields, arrays, None)
    found = transfer.take(fields, np.zeros(size, np.uint8))["x"]
    assert found.shape == (2, 3)
    assert found.tolist() == column.tolist()


def test_json_that_stands_in_many_places_goes_quickly() -> None:
    value: list[Any] = []
    for _ in range(80):
        value = [value, value]
    column = np.empty(1, object)
    column[0] = value
    assert transfer.lay_out({"x": column})[0][0].place == [value]


def test_what_does_not_go_from_process_to_process() -> None:
    nested: list[Any] = []
    for _ in range(5000):
        nested = [nested]
    for value, problem in [({"a": {1}}, "has a set in it"), (nested, "over 100 levels")]:
        column = np.empty(1, object)
        column[0] = value
        with pytest.raises(errors.UnsupportedError, match=problem):
            transfer.lay_out({"x": column})
