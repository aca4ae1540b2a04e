"""Two states side by side, against plain NumPy."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import tensorkeep as tk
from tensorkeep.diff import diff_states
from tensorkeep.dtypes import FLOAT32
from tensorkeep.errors import CorruptError
from tensorkeep.source import MemorySource
from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.viewer import comparing
from tensorkeep.viewer.answers import Diff, DiffRow
from tensorkeep.viewer.comparing import compare, overlay

Array = npt.NDArray[Any]


def _state(**arrays: Any) -> State:
    return State({name: Tensor.of(array) for name, array in arrays.items()})


def _compare(a: State, b: State) -> Diff:
    found = compare(a, b, lambda done, total: None)
    json.dumps(asdict(found), allow_nan=False)
    return found


def _row(a: Any, b: Any) -> DiffRow:
    return _compare(_state(w=a), _state(w=b)).tensors[0]


def test_rows_by_how_much_they_differ() -> None:
    a = {"same": np.ones(2), "little": np.ones(2), "much": np.ones(2), "nan": np.ones(2)}
    b = {"much": np.array([1, 9]), "little": np.array([1, 1.5]), "nan": np.array([1, np.nan])}
    found = _compare(_state(shape=np.ones(3), **a), _state(same=np.ones(2), shape=np.ones(4), **b))
    assert [row.name for row in found.tensors] == ["shape", "nan", "much", "little", "same"]
    assert [row.max for row in found.tensors] == [None, None, 8.0, 0.5, 0.0]
    assert [row.mean for row in found.tensors] == [None, 0.0, 4.0, 0.25, 0.0]
    assert [row.differing for row in found.tensors] == [None, 1, 1, 1, 0]
    assert [row.identical for row in found.tensors] == [False] * 4 + [True]
    assert [(row.a, row.b) for row in found.tensors] == [(0, 1), (4, 4), (3, 2), (2, 3), (1, 0)]
    assert not found.equal
    assert found.left_out == 0


def test_what_only_one_has_and_what_is_beside_them() -> None:
    a = State({"x": Tensor.of(np.ones((2, 3), "int8"))}, metadata={"epoch": 3, "inf": math.inf})
    b = State({"y": Tensor.of(["text"])}, metadata={"epoch": 4, "inf": math.inf})
    found = _compare(a, b)
    assert [asdict(row) for row in found.only_a] == [
        {"name": "x", "index": 0, "dtype": "int8", "shape": [2, 3]}
    ]
    assert [asdict(row) for row in found.only_b] == [
        {"name": "y", "index": 0, "dtype": "string", "shape": [1]}
    ]
    assert [(row.place, row.a, row.b) for row in found.values] == [("metadata.epoch", "3", "4")]


@pytest.mark.parametrize(
    "name",
    ["bfloat16", "float16", "float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "int4", "uint2"],
)
def test_narrow_types(name: str) -> None:
    kind = getattr(ml_dtypes, name, None) or np.dtype(name)
    a = np.array([0, 1, 2, 3, 1, 0, 2], kind)
    b = np.array([1, 1, 2, 1, 1, 3, 2], kind)
    row = _row(a, b)
    x, y = a.astype(float), b.astype(float)
    assert (row.differing, row.max) == (3, 3.0)
    assert row.mean == pytest.approx(np.abs(x - y).mean())
    assert row.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_bool_complex_text_empty_and_scalar() -> None:
    row = _row(np.array([True, False, True]), np.array([True, True, True]))
    assert (row.differing, row.max) == (1, 1.0)
    assert row.mean == pytest.approx(1 / 3)
    assert row.cosine == pytest.approx(2 / math.sqrt(6))
    z = np.array([1 + 1j, 2])
    row = _row(z, z * 1j)
    assert row.max == pytest.approx(2 * math.sqrt(2))
    assert row.cosine == pytest.approx(0)
    row = _row(["a", "b"], ["a", "c"])
    assert (row.differing, row.max, row.mean, row.cosine) == (1, None, None, None)
    row = _row(["a", "b"], ["a", "b"])
    assert (row.identical, row.max, row.mean, row.cosine) == (True, 0.0, 0.0, None)
    row = _row(np.zeros((0, 3)), np.zeros((0, 3)))
    assert (row.identical, row.differing, row.max, row.cosine) == (True, 0, 0.0, None)
    row = _row(np.float32(3), np.float32(-3))
    assert (row.differing, row.max, row.mean, row.cosine) == (1, 6.0, 6.0, -1.0)
    row = _row(np.ones(2, "float32"), np.ones(2, "float64"))
    assert (row.identical, row.equal, row.differing) == (False, False, 0)
    row = _row(["1"], np.ones(1))
    assert (row.differing, row.max, row.mean, row.cosine) == (None, None, None, None)


def test_integers_that_float64_does_not_hold() -> None:
    row = _row(np.array([2**63 - 1, 0]), np.array([2**63 - 2, 0]))
    assert (row.max, row.mean, row.cosine) == (1.0, 0.5, 1.0)
    row = _row(np.array([2**64 - 1], np.uint64), np.array([-(2**63)], np.int64))
    assert row.max == pytest.approx(3 * 2.0**63)


def test_extreme_floats() -> None:
    huge = np.array([1.7e308, -1.7e308])
    row = _row(huge, -huge)
    assert (row.differing, row.max) == (2, None)  # their difference is over the largest float64
    row = _row(np.array([1.7e308, 1.7e308]), np.array([0.0, 0.0]))
    assert (row.max, row.mean, row.cosine) == (1.7e308, 1.7e308, None)


_FLOATS = st.floats(-1e6, 1e6, width=32) | st.just(math.nan) | st.just(math.inf)
_PAIRS = npst.array_shapes(max_dims=3, max_side=6).flatmap(
    lambda shape: st.tuples(
        npst.arrays(np.float32, shape, elements=_FLOATS),
        npst.arrays(np.float32, shape, elements=_FLOATS),
    )
)


@given(_PAIRS)
def test_as_numpy_says(pair: tuple[Array, Array]) -> None:
    row = _row(*pair)
    x, y = (side.astype(np.float64).reshape(-1) for side in pair)
    with np.errstate(invalid="ignore"):
        gap = np.abs(x - y)
    gap[(x == y) | (np.isnan(x) & np.isnan(y))] = 0
    gap[np.isnan(gap)] = np.inf
    assert row.differing == np.count_nonzero(gap)
    assert row.max == (gap.max() if np.isfinite(gap.max()) else None)
    finite = gap[np.isfinite(gap)]
    assert row.mean == pytest.approx(finite.mean() if finite.size else 0)
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    product = np.linalg.norm(x) * np.linalg.norm(y)
    if row.identical:
        assert row.cosine == 1.0
    elif product > 1e-30:
        assert row.cosine == pytest.approx(x @ y / product, abs=1e-9)
    elif not product:
        assert row.cosine is None


def test_many_pieces_and_parts_that_are_equal() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal(300_000)
    b = a.copy()
    b[200_000:] += rng.standard_normal(100_000)
    row = _row(a, b)
    assert row.mean == pytest.approx(np.abs(a - b).mean())
    assert row.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


class _Unreadable(MemorySource):
    def _read(self, start: int, stop: int) -> memoryview:
        raise AssertionError("was read")


def test_equal_digests_are_believed_unread() -> None:
    def state(digest: str, shape: tuple[int, ...] = (2,)) -> State:
        tensor = Tensor(tk.dtype("float32"), shape, _Unreadable(bytes(8)))
        return State({"w": tensor}, digests={"w": digest})

    row = _compare(state("aa"), state("aa")).tensors[0]
    assert (row.identical, row.equal, row.differing, row.cosine) == (True, True, 0, 1.0)
    reshaped = _compare(state("aa"), state("aa", (1, 2))).tensors[0]
    assert (reshaped.identical, reshaped.differing) == (False, None)
    with pytest.raises(AssertionError, match="was read"):
        _compare(state("aa"), state("bb"))
    with pytest.raises(AssertionError, match="was read"):
        diff_states(state("aa"), state("aa"))


def test_the_bytes_done_reach_their_total(tmp_path: Path) -> None:
    tk.save({"w": np.ones(1000), "s": ["a", "b"]}, tmp_path / "a.safetensors")
    told: list[tuple[int, int]] = []
    with tk.open(tmp_path / "a.safetensors") as a, tk.open(tmp_path / "a.safetensors") as b:
        compare(a, b, lambda done, total: told.append((done, total)))
        assert told[-1] == (a.nbytes, a.nbytes)
    assert told == sorted(told)


def test_long_lists_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "_MOST_ROWS", 3)
    names = [f"w{at}" for at in range(5)]
    a = State({name: Tensor.of(np.zeros(1)) for name in names}, metadata={"text": "x" * 9_999})
    b = State({name: Tensor.of(np.full(1, at)) for at, name in enumerate(names)})
    found = _compare(a, b)
    assert [row.name for row in found.tensors] == ["w4", "w3", "w2"]
    assert found.left_out == 2
    assert len(found.values[0].a) == 2_001
    assert _compare(a, _state()).left_out == 2


# --- histograms ---------------------------------------------------------------------------------


def test_both_are_counted_in_the_same_bins() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal(5000), rng.standard_normal(3000) + 2
    found = overlay(Tensor.of(a), Tensor.of(b))
    assert found.exact
    assert found.edges[0] == min(a.min(), b.min())
    assert found.edges[-1] == max(a.max(), b.max())
    for values, counts in ((a, found.a), (b, found.b)):
        assert counts == np.histogram(values, found.edges)[0].tolist()


def test_a_sample_of_large_ones() -> None:
    a, b = np.arange(400_000, dtype=np.float32), np.arange(10, dtype=np.float32)
    found = overlay(Tensor.of(a), Tensor.of(b))
    assert not found.exact
    assert sum(found.b) == 10
    assert min(found.a) > 0


@pytest.mark.parametrize(
    ("a", "b", "total"),
    [
        (np.zeros((0, 3)), np.zeros(0), (0, 0)),
        (np.float32(2), np.float32(2), (1, 1)),
        (np.array([np.nan, np.inf]), np.array([1.0]), (0, 1)),
        (np.array([1.7e308]), np.array([-1.7e308, 0]), (1, 2)),
        (np.array([0.0, 5e-324]), np.array([0.0]), (2, 1)),
        (np.array([1e16, 1e16 + 2]), np.array([1e16]), (2, 1)),
        (np.array([True, False]), np.array([True]), (2, 1)),
        (np.array([3 + 4j]), np.array([5j]), (1, 1)),
        (["a", "bcd"], [""], (2, 1)),
        (np.array([2**64 - 1], np.uint64), np.array([-(2**63)]), (1, 1)),
        (np.array([-8, 7, 7], ml_dtypes.int4), np.ones(1, ml_dtypes.float8_e4m3fn), (3, 1)),
    ],
)
def test_odd_values(a: Any, b: Any, total: tuple[int, int]) -> None:
    found = overlay(Tensor.of(a), Tensor.of(b))
    json.dumps(asdict(found), allow_nan=False)
    assert (sum(found.a), sum(found.b)) == total
    assert found.edges == sorted(set(found.edges))
    assert len(found.a) == len(found.b) == max(0, len(found.edges) - 1)


def test_a_bin_for_each_of_few_integers() -> None:
    found = overlay(Tensor.of(np.array([1, 1, 3])), Tensor.of(np.array([2], np.int8)))
    assert (found.edges, found.a, found.b) == ([0.5, 1.5, 2.5, 3.5], [2, 0, 1], [0, 1, 0])


def test_damage_is_an_error_of_ours() -> None:
    text = Tensor(tk.dtype("string"), (1,), MemorySource(b"\xff" * 16), 0, 16)
    with pytest.raises(CorruptError):
        overlay(text, text)


def test_the_extremes_of_integers() -> None:
    low, high = np.int64(-(2**63)), np.uint64(2**64 - 1)
    for a, b in ((high, high), (low, low), (low, high), (np.int64(2**53), np.int64(2**53 + 1))):
        found = overlay(Tensor.of(a), Tensor.of(b))
        assert (sum(found.a), sum(found.b), found.exact) == (1, 1, True)
        assert found.edges == sorted(set(found.edges))


def test_odd_complex_numbers_compare_without_a_warning() -> None:
    signalling = np.array([0x7F800001, 0x3F800000], "<u4").view("<c8")
    _compare(_state(x=signalling), _state(x=signalling))


def test_a_file_that_is_cut_short_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tk.save({"w": np.ones(1 << 20, "float32")}, path)
    other = _state(w=np.zeros(1 << 20, "float32"))
    with tk.open(path) as a, pytest.raises(CorruptError, match="shorter now"):
        compare(a, other, lambda done, total: os.truncate(path, 0))


def test_a_place_of_any_length() -> None:
    found = _compare(State({}, metadata={"k" * 1_000_000: 1}), State({}))
    assert len(found.values[0].place) < 3_000


def test_no_map_is_looked_at() -> None:
    class Mapped(MemorySource):
        @property
        def mapped(self) -> bool:
            return True

        def read(self, start: int, stop: int) -> memoryview:
            raise AssertionError("a program that cuts the file short would end this one")

        def _readinto(self, start: int, buffer: memoryview) -> None:
            buffer[:] = super()._read(start, start + buffer.nbytes)

    state = State({"w": Tensor(FLOAT32, (100_000,), Mapped(bytes(400_000)))})
    assert _compare(state, _state(w=np.ones(100_000, "float32"))).tensors[0].differing == 100_000
