from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tensorkeep.cli.statistics import histogram, statistics
from tensorkeep.dtypes import DTYPES, dtype


def measured(array: npt.NDArray[Any]) -> dict[str, int | float]:
    return statistics(array, dtype(array.dtype))


def test_numbers_over_many_pieces_are_those_of_all() -> None:
    array = np.random.default_rng(1).normal(5, 3, (700, 301)).astype(np.float32)
    array[3, 7] = 0
    found = measured(array)
    exact = array.astype(np.float64)
    assert found["count"] == array.size
    assert found["zeros"] == 1
    assert (found["min"], found["max"]) == (exact.min(), exact.max())
    assert found["mean"] == pytest.approx(exact.mean(), rel=1e-12)
    assert found["std"] == pytest.approx(exact.std(), rel=1e-12)
    assert measured(array[::2, ::-3])["mean"] == pytest.approx(exact[::2, ::-3].mean(), rel=1e-12)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    found = measured(np.array([math.nan, math.inf, -math.inf, 1, 3, 0]))
    assert (found["nan"], found["inf"], found["zeros"]) == (1, 2, 1)
    assert (found["min"], found["max"]) == (0, 3)
    assert found["mean"] == pytest.approx(4 / 3)
    nothing = measured(np.array([math.nan, math.inf]))
    assert nothing == {"count": 2, "zeros": 0, "nan": 1, "inf": 1}


def test_the_ends_of_64_bit_integers_are_exact() -> None:
    for kind in (np.int64, np.uint64):
        ends = np.iinfo(kind)
        found = measured(np.array([ends.min, ends.max], kind))
        assert (found["min"], found["max"]) == (ends.min, ends.max)
        spread = histogram(np.array([ends.min, ends.max], kind), ends.min, ends.max)
        assert sum(spread.counts) == 2


def test_empty_arrays() -> None:
    assert measured(np.zeros((0, 3))) == {"count": 0, "zeros": 0, "nan": 0, "inf": 0}
    assert statistics(np.zeros(0, object), DTYPES["string"]) == {"count": 0, "empty": 0}
    assert measured(np.zeros(0, bool)) == {"count": 0, "true": 0, "false": 0}


def test_small_whole_ranges_have_a_bin_for_each_number() -> None:
    spread = histogram(np.array([-2, 1, 1], np.int32), -2, 1)
    assert spread.edges == [-2, -1, 0, 1, 2]
    assert spread.counts == [1, 0, 0, 2]


def test_bins_hold_what_lies_between_their_edges() -> None:
    array = np.linspace(-1, 3, 1000)
    spread = histogram(array, -1, 3.0)
    expected, _ = np.histogram(array, bins=len(spread.counts))
    assert spread.counts == expected.tolist()


@given(
    arrays.arrays(
        st.sampled_from(["float64", "float32", "int64", "uint8", "complex128"]),
        arrays.array_shapes(min_dims=0, max_side=6),
    )
)
def test_any_finite_value_is_in_one_bin(array: npt.NDArray[Any]) -> None:
    found = measured(array)
    if "min" not in found:
        return
    assert found["min"] <= found["max"]
    spread = histogram(array, found["min"], found["max"])
    assert len(spread.edges) == len(spread.counts) + 1
    assert spread.edges == sorted(spread.edges)
    with np.errstate(all="ignore"):
        finite = np.isfinite(np.abs(array)) if array.dtype.kind == "c" else np.isfinite(array)
    assert sum(spread.counts) == np.count_nonzero(finite)
