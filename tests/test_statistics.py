from __future__ import annotations

import bisect
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tensorkeep.dtypes import DTYPES, dtype
from tensorkeep.statistics import Grid, Histogram, Running, Summary, histogram, statistics


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


def run_over(array: npt.NDArray[Any], size: int = 7, kind: str = "") -> Summary:
    running = Running(DTYPES[kind] if kind else dtype(array.dtype))
    flat = array.reshape(-1)
    for start in range(0, flat.size, size):
        running.add(flat[start : start + size])
    return running.summary()


NUMBERS = [name for name, row in DTYPES.items() if row.kind != "string"]


@pytest.mark.parametrize("name", NUMBERS)
def test_pieces_of_each_type_give_the_figures_of_all(name: str) -> None:
    row = DTYPES[name]
    random = np.random.default_rng(5)
    codes = random.integers(0, 1 << min(row.bits, 8), 501 * max(row.bits // 8, 1), np.uint8)
    array = (codes > 100) if row.kind == "bool" else codes.view(row.numpy)
    with np.errstate(all="ignore"):
        if row.kind == "complex":
            plain = np.abs(array.astype(np.complex128))
        else:
            plain = array.astype(np.float64)
        finite = plain[np.isfinite(plain)].astype(np.longdouble)
        found = run_over(array)
        assert found.count == 501
        assert found.nan == np.count_nonzero(np.isnan(plain))
        assert found.inf == np.count_nonzero(np.isinf(plain))
        assert found.zeros == np.count_nonzero(plain == 0)
        assert (found.low, found.high) == (finite.min(), finite.max()) or row.bits == 64
        if (mean := float(finite.mean())) and found.mean is not None and math.isfinite(mean):
            assert found.mean == pytest.approx(mean, rel=1e-9)
    assert sum(found.histogram.counts) == finite.size
    assert len(found.histogram.edges) == len(found.histogram.counts) + 1


@given(
    arrays.arrays(
        st.sampled_from(["float64", "float32", "float16", "int64", "uint64", "int8", "uint32"]),
        st.integers(0, 60),
        elements=None,
    ),
    st.integers(1, 20),
    st.randoms(use_true_random=False),
)
def test_bins_depend_on_the_values_alone(array: npt.NDArray[Any], size: int, random: Any) -> None:
    found = run_over(array, size)
    values = [value for value in array.tolist() if math.isfinite(value)]
    spread = found.histogram
    assert sum(spread.counts) == len(values)
    assert len(spread.counts) <= 64
    assert all(math.isfinite(edge) for edge in spread.edges)
    assert sorted(set(spread.edges)) == spread.edges
    if len(set(values)) > 1:
        places = [bisect.bisect_right(spread.edges, value) - 1 for value in values]
        last = len(spread.counts) - 1  # the edge over the largest of all numbers is that number
        expected = [0] * len(spread.counts)
        for place in places:
            expected[min(place, last)] += 1
        assert spread.counts == expected
        assert 0 not in (spread.counts[0], spread.counts[-1])
    shuffled = array.tolist()
    random.shuffle(shuffled)
    again = run_over(np.array(shuffled, array.dtype), 60)
    assert again.histogram == spread
    assert (again.low, again.high, again.zeros) == (found.low, found.high, found.zeros)


def test_a_few_whole_numbers_have_a_bin_each_and_many_share() -> None:
    assert run_over(np.arange(-3, 4)).histogram == Histogram(list(range(-3, 5)), [1] * 7)
    assert run_over(np.array([True, False, True])).histogram == Histogram([0, 1, 2], [1, 2])
    spread = run_over(np.arange(1000)).histogram
    assert spread.edges[:3] == [0, 16, 32]
    assert spread.counts[:2] == [16, 16]


def test_values_that_are_all_the_same_have_a_bin_around_them() -> None:
    assert run_over(np.full(5, 3.0)).histogram == Histogram([1.5, 4.5], [5])
    assert run_over(np.zeros(5, np.float32)).histogram == Histogram([-0.5, 0.5], [5])
    assert run_over(np.full(5, 3)).histogram == Histogram([3, 4], [5])


def test_one_value_far_away_takes_nothing_from_the_counts() -> None:
    array = np.random.default_rng(2).normal(size=100_000).astype(np.float32)
    array[77_777] = 1e30
    spread = run_over(array, 8192).histogram
    assert (sum(spread.counts), spread.counts[-1]) == (100_000, 1)


def test_the_ends_of_float64_stay_finite() -> None:
    most = float(np.finfo(np.float64).max)
    found = run_over(np.array([-most, most, 5e-324, -5e-324, 0.0]))
    assert (found.low, found.high) == (-most, most)
    assert found.std is None
    assert all(math.isfinite(edge) for edge in found.histogram.edges)
    tiny = run_over(np.array([0.0, 5e-324, 1e-320])).histogram
    assert sum(tiny.counts) == 3


def test_of_nothing_nothing_is_known() -> None:
    for found in (run_over(np.zeros(0)), run_over(np.array([math.nan]))):
        assert (found.low, found.high, found.mean, found.std) == (None,) * 4
        assert found.histogram == Histogram([], [])


def test_texts_are_measured_by_their_length() -> None:
    found = run_over(np.array(["", "ä", "abc"], object), kind="string")
    assert (found.count, found.zeros, found.low, found.high) == (3, 1, 0, 3)
    assert found.histogram == Histogram([0, 1, 2, 3, 4], [1, 1, 0, 1])


def test_grids_that_cover_the_same_have_the_same_bins() -> None:
    one, other = Grid(), Grid()
    one.add(np.array([0.1, 0.2]))
    other.add(np.array([5.0, 3.0]))
    for grid in (one, other):
        grid.cover(0.1, 5.0)
    assert one.histogram().edges == other.histogram().edges
    assert sum(one.histogram().counts) == sum(other.histogram().counts) == 2
