"""The order of an epoch: a permutation that gives any position of it by itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorkeep.data.order import Order, Permutation

SHUFFLED = [7, 6, 1, 9, 4, 11, 5, 8, 10, 0, 3, 2]
NEXT = [1, 8, 5, 9, 11, 7, 10, 0, 4, 6, 2, 3]
BLOCKS = [
    *[26, 12, 13, 4, 18, 11, 38, 6, 14, 17, 24, 27, 35, 9, 7, 39, 15, 10, 8, 31],
    *[5, 37, 32, 25, 19, 33, 2, 16, 36, 34, 3, 30, 20, 28, 21, 29, 0, 22, 23, 1],
]
FAR = [13448842944107, 100458229772881]


def _all(order: Order) -> list[int]:
    numbers: list[int] = order.at(np.arange(order.count)).tolist()
    return numbers


@given(count=st.integers(1, 3000), key=st.tuples(st.integers(0, 2**130), st.integers(0, 99)))
@settings(max_examples=40, deadline=None)
def test_a_permutation_has_every_number_once_and_an_inverse(
    count: int, key: tuple[int, int]
) -> None:
    permutation = Permutation(count, key)
    numbers = permutation.at(np.arange(count))
    assert np.array_equal(np.sort(numbers), np.arange(count))
    assert np.array_equal(permutation.place(numbers), np.arange(count))


@given(
    count=st.integers(0, 700),
    seed=st.integers(0, 2**64),
    epoch=st.integers(0, 5),
    block=st.sampled_from([0, 1, 2, 3, 7, 16, 1000]),
    pick=st.lists(st.integers(0, 10**6), max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_any_positions_are_those_of_the_whole_order(
    count: int, seed: int, epoch: int, block: int, pick: list[int]
) -> None:
    order = Order(count, seed, epoch, block)
    whole = _all(order)
    assert sorted(whole) == list(range(count))
    if count:
        positions = np.array([number % count for number in pick], np.int64)
        assert order.at(positions).tolist() == [whole[at] for at in positions]


def test_the_order_is_the_same_for_ever() -> None:
    """It is part of what a saved place means: other numbers here lose everybody's place."""
    assert _all(Order(12, seed=7, epoch=0)) == SHUFFLED
    assert _all(Order(12, seed=7, epoch=1)) == NEXT
    assert _all(Order(40, seed=7, epoch=0, block=2)) == BLOCKS
    far = Permutation(10**15, (2**70, 3)).at(np.array([0, 10**15 - 1]))
    assert far.tolist() == FAR


def test_every_order_of_a_few_samples_comes_as_often_as_any_other() -> None:
    orders = Counter(tuple(_all(Order(4, seed, 0))) for seed in range(6000))
    assert len(orders) == 24
    # 250 are expected; chi squared of 23 degrees of freedom is above 59 once in 50,000 times.
    assert sum((found - 250) ** 2 / 250 for found in orders.values()) < 59


def test_positions_and_neighbours_are_not_correlated() -> None:
    order = Order(100_000, seed=1, epoch=2).at(np.arange(100_000))
    correlation = np.corrcoef(order, np.arange(100_000))[0, 1]
    assert abs(correlation) < 0.02
    steps = np.abs(np.diff(order))
    assert abs(steps.mean() / 100_000 - 1 / 3) < 0.01  # as far apart as two random numbers


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(_all(Order(50, seed, epoch))) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_blocks_keep_neighbours_in_one_window() -> None:
    order = Order(10_000, seed=3, epoch=0, block=10)
    numbers = order.at(np.arange(10_000))
    for start in range(0, 9_600, 160):  # each window holds 16 whole blocks, shuffled
        inside = numbers[start : start + 160] // 10
        assert len(set(inside.tolist())) <= 17
    assert abs(np.corrcoef(numbers, np.arange(10_000))[0, 1]) < 0.1


@pytest.mark.parametrize("block", [0, 1, 64])
def test_a_position_of_very_much_data_costs_nothing(block: int) -> None:
    order = Order(10**14, seed=0, epoch=0, block=block)
    last = order.at(np.array([10**14 - 1, 0, 5 * 10**13]))
    assert last.min() >= 0
    assert last.max() < 10**14
    assert len(set(last.tolist())) == 3
