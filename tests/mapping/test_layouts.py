from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep.mapping.layouts import cut, joined, permuted, reshaped
from tensorkeep.tensor import Tensor

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def tensor(shape: tuple[int, ...], dtype: object = "float32") -> Tensor:
    return Tensor.of(np.arange(math.prod(shape)).reshape(shape).astype(dtype))  # type: ignore[call-overload]


@given(SHAPES, st.randoms(use_true_random=False), st.sampled_from(["int16", ml_dtypes.int4]))
def test_axes_as_numpy_orders_them(shape: tuple[int, ...], random: object, dtype: object) -> None:
    axes = list(range(len(shape)))
    random.shuffle(axes)  # type: ignore[attr-defined]
    given = tensor(shape, dtype)
    found = permuted(given, axes, "w")
    expected = given.numpy().transpose(axes)
    assert found.dtype is given.dtype
    assert np.array_equal(found.numpy(), expected)
    if math.prod(found.shape):
        assert np.array_equal(
            found[-1:] if shape else found[()], expected[-1:] if shape else expected
        )


def test_a_tensor_is_read_again_after_its_end_was_read() -> None:
    found = permuted(tensor((300, 200)), [1, 0], "w")
    for _ in range(2):
        assert b"".join(found.pieces(1000)) == tensor((300, 200)).numpy().T.tobytes()
    assert found.source.read(4, 8) == found.numpy().reshape(-1)[1:2].tobytes()


@pytest.mark.parametrize("axes", [[0], [0, 0], [0, 2], [1, 0, 2], [-1, 0]])
def test_axes_that_are_none(axes: list[int]) -> None:
    with pytest.raises(ValueError, match="do not name each of the 2 axes of 'w' once"):
        permuted(tensor((2, 3)), axes, "w")


@pytest.mark.parametrize(
    ("shape", "wanted", "found"),
    [
        ((2, 3, 4), [0, -1], (2, 12)),
        ((2, 3, 4), [-1, 0], (8, 3)),
        ((2, 3, 4), [-1], (24,)),
        ((), [1, 1], (1, 1)),
        ((0, 3), [3, 0, 0], None),
        ((2, 3), [4, -1], None),
        ((2, 3), [-1, -1], None),
        ((2, 3), [0, 0, 1], (2, 3, 1)),
        ((0, 3), [0, -1], None),  # -1 could be anything
    ],
)
def test_shapes(shape: tuple[int, ...], wanted: list[int], found: tuple[int, ...] | None) -> None:
    given = tensor(shape)
    if found is None:
        with pytest.raises(ValueError, match="'w' of shape"):
            reshaped(given, wanted, "w")
        return
    made = reshaped(given, wanted, "w")
    assert made.shape == found
    assert made.source is given.source


@given(st.integers(0, 2), st.integers(1, 4))
def test_cutting_undoes_joining(axis: int, count: int) -> None:
    parts = [Tensor.of(np.random.default_rng(i).random((2, 3, 4))) for i in range(count)]
    whole = joined(parts, axis, "w")
    assert np.array_equal(whole.numpy(), np.concatenate([p.numpy() for p in parts], axis))
    for part, again in zip(parts, cut(whole, axis, count, "w"), strict=True):
        assert np.array_equal(part.numpy(), again.numpy())


def test_strings_are_laid_out_too() -> None:
    words = Tensor.of(np.array([["a", "bcd"], ["ü", ""]]))
    assert permuted(words, [1, 0], "w").numpy().tolist() == [["a", "ü"], ["bcd", ""]]
    assert joined([words, words], 0, "w").shape == (4, 2)
    assert cut(words, 0, 2, "w")[1].numpy().tolist() == [["ü", ""]]


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="cannot be joined along axis 0"):
        joined([tensor((2, 3)), tensor((2, 4))], 0, "w")
    with pytest.raises(ValueError, match="cannot be joined along axis 0"):
        joined([tensor((2, 3)), tensor((2, 3), "int8")], 0, "w")
    with pytest.raises(ValueError, match="has no axis 2"):
        joined([tensor((2, 3))], 2, "w")
    with pytest.raises(ValueError, match="cannot be cut into 2 along axis 1"):
        cut(tensor((2, 3)), 1, 2, "w")
