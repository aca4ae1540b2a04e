"""What the random fills draw, as Caffe2 (PyTorch 1.10) does with the same seed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from tests.caffe2.filling import fill, float32, int32, int64, same

from tensorkeep.caffe2 import Workspace, create_operator
from tensorkeep.errors import ArgumentError

# Made by Caffe2 itself: type, seed, arguments, element type, start of the SHA-256, first values.
DRAWN = [
    ("UniformFill", 42, {"shape": [50]}, "f4", "d3cb8c702ffa5a8b", 0.8822692632675171),
    (
        "UniformFill",
        42,
        {"shape": [50], "min": -0.3, "max": 1.7},
        "f4",
        "22be7e2e4238c997",
        1.464538,
    ),
    (
        "UniformFill",
        7,
        {"shape": [1000], "min": -3.0, "max": 2.0},
        "f4",
        "b5c37ae82f8ac3ee",
        -0.325387,
    ),
    ("UniformFill", 0, {"shape": [10]}, "f4", "d15f972d88b1089f", 0.496257),
    ("UniformFill", 2**32 - 1, {"shape": [10]}, "f4", "080ae16d5736c92d", 0.993799),
    ("UniformIntFill", 42, {"shape": [50], "min": -5, "max": 100}, "i4", "8d0e864589d77268", 87),
    (
        "UniformIntFill",
        42,
        {"shape": [50], "min": -(2**31), "max": 2**31 - 1},
        "i4",
        "ece2d01f551570c3",
        -538846106,
    ),
    ("GaussianFill", 42, {"shape": [51]}, "f4", "c601004b1387427e", 1.6401296),
    (
        "GaussianFill",
        42,
        {"shape": [50], "mean": 0.7, "std": 0.2},
        "f4",
        "3282f92dc4920742",
        1.028026,
    ),
    (
        "GaussianFill",
        7,
        {"shape": [1001], "mean": 1.0, "std": 2.0},
        "f4",
        "1d0a7af2b6cc6174",
        -0.299683,
    ),
    ("XavierFill", 42, {"shape": [7, 5]}, "f4", "9276db08222ecaa8", 0.592209),
    ("MSRAFill", 42, {"shape": [7, 5]}, "f4", "b4044433779d7f32", 0.876686),
    ("MSRAFill", 7, {"shape": [16, 3, 5, 5]}, "f4", "e121e955e2d3ddf3", -0.045951),
    (
        "Float16UniformFill",
        42,
        {"shape": [7], "min": -1.0, "max": 2.0},
        "f2",
        "b0f1695c8f1dc4df",
        1.646,
    ),
    (
        "Float16UniformFill",
        7,
        {"shape": [33, 3], "min": -1.0, "max": 2.0},
        "f2",
        "f3e205667003f386",
        0.605,
    ),
]


@pytest.mark.parametrize(("type", "seed", "arguments", "dtype", "digest", "first"), DRAWN)
def test_a_seed_draws_the_numbers_that_caffe2_drew(
    type: str, seed: int, arguments: dict[str, Any], dtype: str, digest: str, first: float
) -> None:
    found = fill(type, seed=seed, **arguments)
    assert (found.dtype, found.shape) == (np.dtype(dtype), tuple(arguments["shape"]))
    assert found.flat[0] == pytest.approx(first, rel=1e-3)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == digest


def test_without_a_seed_numbers_differ_and_keep_to_their_distribution() -> None:
    one, other = fill("GaussianFill", shape=[20_000]), fill("GaussianFill", shape=[20_000])
    assert not np.array_equal(one, other)
    assert abs(one.mean()) < 0.05
    assert abs(one.std() - 1) < 0.05
    uniform = fill("UniformFill", shape=[20_000], min=2.0, max=4.0)
    assert uniform.min() >= 2
    assert uniform.max() <= 4
    assert abs(uniform.mean() - 3) < 0.05
    whole = fill("UniformIntFill", shape=[20_000], min=-1, max=1)
    assert {*whole.tolist()} == {-1, 0, 1}
    xavier = fill("XavierFill", shape=[100, 3, 2])
    assert abs(abs(xavier).max() - 0.5**0.5) < 0.05
    msra = fill("MSRAFill", shape=[8, 500, 5])
    assert abs(msra.std() - (2 / 40) ** 0.5) < 0.05


def test_drawn_numbers_stay_as_they_are() -> None:
    ws = Workspace()
    ws.run(create_operator("UniformFill", [], ["Y"], shape=[3]))
    assert ws.fetch("Y").tolist() == ws.fetch("Y").tolist()


def test_bounds_of_random_numbers_may_be_inputs() -> None:
    low, high = float32(1), float32(2)
    found = fill("UniformFill", int64(3, 2), low, high, input_as_shape=1, seed=42)
    assert found.tolist() == (1 + fill("UniformFill", shape=[3, 2], seed=42)).tolist()
    same(fill("UniformFill", int64(2), low, low, input_as_shape=1), "f4", [1, 1])
    assert fill("UniformFill", int64(3, 2), high, low, input_as_shape=1).shape == (0, 2)
    found = fill("UniformIntFill", int64(2), int32(7), int32(7), input_as_shape=1)
    same(found, "i4", [7, 7])


def test_a_block_of_random_numbers_goes_on_where_the_last_one_ended() -> None:
    whole = fill("GaussianFill", shape=[(1 << 20) + 4], seed=3)
    generator = np.random.RandomState(3)
    generator.randint(0, 2**32, size=1 << 20, dtype=np.uint32)
    words = generator.randint(0, 2**32, size=4, dtype=np.uint32)
    first, second = (words & 0xFFFFFF)[2:] / 2**24
    expected = np.sqrt(-2 * np.log(1 - second)) * np.cos(2 * np.pi * first)
    assert whole[-2] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("seed", "arguments", "dtype", "values"),
    [
        (1, {"shape": [5], "min": 0, "max": 9}, "i4", [5, 9, 4, 8, 3]),
        (7, {"shape": [10], "min": 0, "max": 9}, "i4", [5, 2, 1, 6, 3, 7, 9, 8, 0, 4]),
        (3, {"shape": [2, 3], "min": -5, "max": 100}, "i4", [[59, 23, 58], [12, 9, 21]]),
        (5, {"shape": [6], "min": 0, "max": 9, "dtype": 10}, "i8", [1, 4, 7, 5, 6, 0]),
        (5, {"shape": [], "min": 0, "max": 9}, "i4", 1),
        (
            5,
            {"shape": [4], "min": 2**40, "max": 2**40 + 50, "dtype": 10},
            "i8",
            [1099511627823, 1099511627794, 1099511627783, 1099511627800],
        ),
        (
            5,
            {"shape": [4], "min": 0, "max": 2**35, "dtype": 10},
            "i8",
            [13002717026, 33167826112, 27221060346, 3713508759],
        ),
    ],
)
def test_unique_numbers_are_those_of_caffe2(
    seed: int, arguments: dict[str, Any], dtype: str, values: Any
) -> None:
    same(fill("UniqueUniformFill", seed=seed, **arguments), dtype, values)


def test_unique_numbers_leave_out_those_of_an_input() -> None:
    given: dict[str, Any] = {"min": 0, "max": 9, "input_as_shape": 1}
    type = "UniqueUniformFill"
    found = fill(type, int64(6), int32(1, 2, 3), seed=5, **given)
    same(found, "i4", [4, 7, 5, 6, 0, 8])
    found = fill(type, int64(6), int64(1, 2, 3), seed=5, dtype=10, **given)
    same(found, "i8", [4, 7, 5, 6, 0, 8])
    found = fill(type, int64(7), int32(100, 200), seed=5, **given)
    same(found, "i4", [1, 4, 7, 5, 6, 0, 2])
    with pytest.raises(ArgumentError, match="leaves 8"):  # as Caffe2 counts
        fill(type, int64(9), int32(100, 200), **given)
    for wrong in (int64(1), int32(1, 1)):
        with pytest.raises(ArgumentError, match="without repeats"):
            fill(type, int64(3), wrong, **given)
    every = fill(type, shape=[3000], min=1, max=3000)
    assert sorted(every.tolist()) == list(range(1, 3001))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"max": 9}, "needs the argument 'min'"),
        ({"min": 0}, "needs the argument 'max'"),
        ({"min": 5, "max": 5}, "not above"),
        ({"min": 0, "max": 1.5}, "an integer is expected"),
        ({"min": 0, "max": 2**40}, "does not fit int32"),
        ({"min": 0, "max": 9, "dtype": 1}, "dtype 1"),
        ({"min": 0, "max": 1, "shape": [3]}, "leaves 2"),
    ],
)
def test_unique_numbers_need_sound_bounds(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        fill("UniqueUniformFill", **{"shape": [1], **arguments})
