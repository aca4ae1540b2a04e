from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep.diff import Change, Comparison, Difference, diff_states, scalars
from tensorkeep.dtypes import DTYPES, STRING
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.source import MemorySource
from tensorkeep.stores.memory import MemoryStore

INF = math.inf
NAN = math.nan


def stored(value: Any, **options: Any) -> tk.Location:
    location = tk.Location(MemoryStore(), "x.safetensors")
    tk.save(value, location, **options)
    # Saved and opened through different stores, so that nothing is remembered.
    data = location.store.get("x.safetensors")
    return tk.Location(MemoryStore({"x.safetensors": bytes(data.read(0, data.size))}), location.key)


def diff(a: Any, b: Any, **options: Any) -> Difference:
    return tk.diff(stored(a), stored(b), **options)


def compare(a: npt.ArrayLike, b: npt.ArrayLike, **options: Any) -> Comparison:
    [found] = diff({"t": np.asarray(a)}, {"t": np.asarray(b)}, **options).tensors
    return found


def of(name: str, values: list[Any]) -> npt.NDArray[Any]:
    exact = np.array(values, name) if name in ("int64", "uint64") else np.array(values)
    return exact.astype(DTYPES[name].numpy)


# --- what differs -------------------------------------------------------------------------------


def test_equal_files_are_identical() -> None:
    state = {"a": np.arange(6.0).reshape(2, 3), "n": [np.ones(2), 3, "x", None, NAN]}
    found = diff(state, state)
    assert found.equal
    assert [t.identical for t in found.tensors] == [True, True]
    assert [t.differing for t in found.tensors] == [0, 0]
    assert found.tensors[0].max_absolute_at is None
    assert (found.only_in_a, found.only_in_b, found.values) == ([], [], [])


def test_names_on_one_side_only() -> None:
    found = diff({"x": np.ones(2), "y": np.ones(2)}, {"y": np.ones(2), "z": np.ones(2)})
    assert (found.only_in_a, found.only_in_b) == (["x"], ["z"])
    assert [t.name for t in found.tensors] == ["y"]
    assert not found.equal


def test_a_part_is_not_equal_to_the_whole() -> None:
    part, whole = {"x": np.ones(2)}, {"x": np.ones(2), "y": np.ones(2)}
    assert not diff(part, whole).equal
    assert not diff(whole, part).equal


def test_shapes_differ() -> None:
    found = compare(np.ones((2, 3)), np.ones(6))
    assert found.shapes == ((2, 3), (6,))
    assert found.differing is None
    assert not found.equal
    assert not found.identical


def test_the_place_and_the_size_of_the_largest_differences() -> None:
    a = np.zeros((3, 4, 5), np.float32)
    b = np.full((3, 4, 5), 100, np.float32)
    a[:] = b
    a[1, 2, 3] += 8  # the largest absolute one
    b[2, 0, 4] = 0.5
    a[2, 0, 4] = 1  # the largest relative one
    found = compare(a, b)
    assert found.differing == 2
    assert (found.max_absolute, found.max_absolute_at) == (8, (1, 2, 3))
    assert (found.max_relative, found.max_relative_at) == (1, (2, 0, 4))
    assert found.size == 60


def test_a_scalar_tensor_differs_at_the_empty_index() -> None:
    found = compare(np.float32(2), np.float32(3))
    assert (found.differing, found.max_absolute_at) == (1, ())


def test_a_difference_beyond_the_first_piece_is_found_at_its_place() -> None:
    a = np.zeros((700, 300), np.int16)
    b = a.copy()
    b[699, 299] = 5
    b[300, 7] = -9
    found = compare(a, b)
    assert (found.differing, found.max_absolute, found.max_absolute_at) == (2, 9, (300, 7))
    assert found.max_relative_at == (300, 7)


def test_empty_tensors_are_equal() -> None:
    assert compare(np.zeros((0, 3)), np.zeros((0, 3))).identical


def test_one_flipped_bit_is_a_difference_of_one_element(tmp_path: Path) -> None:
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    tk.save({"u": np.zeros(9, np.uint8), "w": np.arange(9, dtype=np.float32)}, a)
    data = bytearray(a.read_bytes())
    with tk.open(a) as state:
        data[state["w"].offset + 4 * 4 + 3] ^= 0x80  # the sign of 4.0
    b.write_bytes(data)
    # The digests stored in both headers are equal still: the bytes are what is compared.
    found = tk.diff(a, b)
    assert [t.name for t in found.tensors if not t.equal] == ["w"]
    assert [t.max_absolute_at for t in found.tensors if not t.equal] == [(4,)]
    assert not found.equal


# --- values -------------------------------------------------------------------------------------


def test_nan_equals_nan_at_the_same_place_only() -> None:
    assert compare([NAN, 1.0], [NAN, 1.0]).equal
    other_bits = np.array([0x7FC00001], np.uint32).view(np.float32)
    found = compare(other_bits, np.array([NAN], np.float32))
    assert found.equal
    assert not found.identical
    found = compare([NAN, 1.0], [1.0, NAN], rtol=1.0, atol=1e9)
    assert (found.differing, found.max_absolute) == (2, INF)


def test_infinities_differ_whatever_the_tolerance() -> None:
    assert compare([INF, -INF], [INF, -INF]).equal
    found = compare([INF, INF, 1.0], [-INF, 1.0, INF], rtol=1.0, atol=1.0)
    assert (found.differing, found.max_absolute) == (3, INF)


def test_zeros_of_both_signs_are_equal_but_not_identical() -> None:
    found = compare([0.0], [-0.0])
    assert found.equal
    assert not found.identical


@pytest.mark.parametrize(
    ("a", "b", "rtol", "atol", "equal"),
    [
        (1.0, 1.25, 0.0, 0.25, True),
        (1.0, 1.25, 0.0, 0.2499, False),
        (1.0, 1.25, 0.2, 0.0, True),
        (1.25, 1.0, 0.2, 0.0, False),  # relative to b
        (1.25, 1.0, 0.2, 0.05, True),
        (100, 103, 0.0, 3, True),
        (100, 103, 0.0, 2.5, False),
    ],
)
def test_tolerances(a: float, b: float, rtol: float, atol: float, equal: bool) -> None:
    found = compare(a, b, rtol=rtol, atol=atol)
    assert found.equal is equal
    assert found.max_absolute == abs(a - b)
    assert not found.identical


@pytest.mark.parametrize("bad", [-1.0, NAN])
def test_a_tolerance_that_makes_no_sense(bad: float) -> None:
    with pytest.raises(ArgumentError):
        compare([1.0], [1.0], rtol=bad)
    with pytest.raises(ArgumentError):
        compare([1.0], [1.0], atol=bad)


INTEGERS = [name for name, kind in DTYPES.items() if kind.kind in ("int", "uint")]


def ends(name: str) -> list[int]:
    kind = DTYPES[name]
    low = -(2 ** (kind.bits - 1)) if kind.kind == "int" else 0
    return [low, low + 1, 0, 1, low + 2**kind.bits - 2, low + 2**kind.bits - 1]


@pytest.mark.parametrize(("x", "y"), list(itertools.product(INTEGERS, INTEGERS)))
def test_integers_are_compared_exactly(x: str, y: str) -> None:
    pairs = list(itertools.product(ends(x), ends(y)))
    found = compare(of(x, [p[0] for p in pairs]), of(y, [p[1] for p in pairs]))
    assert found.differing == sum(p != q for p, q in pairs)
    assert found.max_absolute == max(abs(p - q) for p, q in pairs)
    assert found.equal is (x == y and found.differing == 0)


def test_large_integers_are_not_rounded() -> None:
    a, b = np.array([2**63 - 1]), np.array([2**63 - 2])
    assert compare(a, b).max_absolute == 1
    assert compare(a, b.astype(np.uint64)).differing == 1
    assert compare(a, a.astype(np.uint64)).differing == 0


def test_different_element_types_are_compared_as_values() -> None:
    exact = np.array([1.5, -2.0, 0.25], np.float32)
    found = compare(of("bfloat16", [1.5, -2.0, 0.25]), exact)
    assert (found.differing, found.identical, found.equal) == (0, False, False)
    assert [kind.name for kind in found.dtypes] == ["bfloat16", "float32"]
    assert compare(of("bfloat16", [0.1]), np.array([0.1], np.float32)).differing == 1
    assert compare(of("float8_e5m2", [2.0]), np.array([2])).differing == 0
    assert compare(np.array([True, False]), np.array([1, 0])).differing == 0
    assert compare(np.array([1j]), np.array([1.0])).max_absolute == math.sqrt(2)


def test_complex_numbers_differ_by_magnitude() -> None:
    found = compare([3 + 4j, 1j], [0j, 1j])
    assert (found.differing, found.max_absolute) == (1, 5)
    assert compare([complex(NAN, 1)], [complex(NAN, 1)]).equal
    assert compare([complex(NAN, 1)], [0j]).differing == 1
    assert compare([complex(INF, 1)], [complex(INF, 2)]).differing == 1


@pytest.mark.parametrize("name", [n for n, k in DTYPES.items() if k is not STRING])
def test_every_element_type_tells_one_changed_element(name: str) -> None:
    a = of(name, [1, 1, 1, 1, 1, 1, 1])
    b = a.copy()
    b[5] = of(name, [0.5 if "e8m0" in name else 0])[0]
    assert compare(a, a).identical
    found = compare(a, b)
    assert (found.differing, found.max_absolute_at) == (1, (5,))


def test_texts_are_compared() -> None:
    found = compare(np.array(["a", "bc", ""]), np.array(["a", "bd", ""]))
    assert (found.differing, found.max_absolute_at) == (1, (1,))
    assert not compare(np.array(["a"]), np.array(["b"]), rtol=1.0, atol=INF).equal
    assert compare(np.array(["1"]), np.array([1])).differing is None


@given(
    pairs=st.lists(
        st.tuples(st.floats(width=32), st.floats(width=32))
        | st.floats(width=32).map(lambda x: (x, x)),
        min_size=1,
        max_size=20,
    ),
    rtol=st.sampled_from([0.0, 1e-3, 2.0]),
    atol=st.sampled_from([0.0, 0.5]),
)
def test_any_floats_as_one_at_a_time(
    pairs: list[tuple[float, float]], rtol: float, atol: float
) -> None:
    def gap(x: float, y: float) -> float:
        if x == y or (math.isnan(x) and math.isnan(y)):
            return 0.0
        return abs(x - y) if math.isfinite(x) and math.isfinite(y) else INF

    a, b = (np.array(side, np.float32) for side in zip(*pairs, strict=True))
    found = compare(a, b, rtol=rtol, atol=atol)
    gaps = [gap(x, y) for x, y in pairs]
    beyond = [
        g > 0 and not (g < INF and g <= atol + rtol * abs(y))
        for g, (_, y) in zip(gaps, pairs, strict=True)
    ]
    assert found.differing == sum(beyond)
    assert found.max_absolute == max(gaps)
    if found.max_absolute_at is not None:
        assert gaps[found.max_absolute_at[0]] == max(gaps)


# --- values beside the tensors ------------------------------------------------------------------


def test_values_of_the_nesting_and_their_places() -> None:
    a = {"step": 3, "opt": {"betas": (0.9, 0.99), "name": "adam"}, "w": np.ones(1), "z": NAN}
    b = {"step": 4, "opt": {"betas": (0.9, 0.98), "name": "adam"}, "w": np.ones(1), "z": NAN}
    assert diff(a, b).values == [Change("step", "3", "4"), Change("opt.betas.1", "0.99", "0.98")]
    assert not diff(a, b).equal
    assert scalars(tk.open(stored(a)))["opt.name"] == "adam"


def test_numbers_of_the_nesting_have_the_tolerances_too() -> None:
    a, b = {"loss": 1.0, "epoch": 1, "s": [INF]}, {"loss": 1.1, "epoch": 1, "s": [INF]}
    assert not diff(a, b).equal
    assert diff(a, b, atol=0.2).equal
    for x, y in ((INF, 1.0), (1.0, INF), (-INF, INF)):
        assert not diff({"loss": x}, {"loss": y}, rtol=1.0).equal


def test_types_of_values_and_containers_count() -> None:
    assert diff({"x": 1}, {"x": 1.0}).values == [Change("x", "1", "1.0")]
    assert diff({"x": 1}, {"x": True}).values
    assert diff({"x": None}, {"y": 1}).values == [
        Change("x", "None", "absent"),
        Change("y", "absent", "1"),
    ]
    found = diff({"l": [np.ones(1)], "s": 1}, {"l": (np.ones(1),), "s": 1})
    assert found.values == [Change("l", "list of 1", "tuple of 1")]


def test_ties_count() -> None:
    w = np.ones(3)
    tied, single = {"a": w, "b": w, "s": 1}, {"a": w, "s": 1}
    assert diff(tied, single).values == [Change("b", "a", "absent")]


def test_a_nesting_against_flat_names_is_no_difference_but_its_values_are() -> None:
    flat = {"m.w": np.ones(1), "m.l.0": np.zeros(1)}
    nested = {"m": {"w": np.ones(1), "l": [np.zeros(1)]}}
    assert diff(flat, nested).equal
    assert diff({**nested, "step": 1}, flat).values == [Change("step", "1", "absent")]


def test_metadata() -> None:
    w = {"w": np.ones(1)}
    a = stored(w, metadata={"epoch": 3, "by": {"x": 1, "y": 2}})
    b = stored(w, metadata={"by": {"y": 2, "x": 1}, "epoch": 4, "note": "hi"})
    found = tk.diff(a, b)
    assert found.values == [
        Change("metadata.epoch", "3", "4"),
        Change("metadata.note", "absent", "'hi'"),
    ]
    assert not found.equal
    assert tk.diff(a, a).equal


# --- the call -----------------------------------------------------------------------------------


def test_names_limit_what_is_compared() -> None:
    a = {"d.x": np.ones(1), "d.y": np.ones(1), "e": np.ones(1), "step": 1}
    b = {"d.x": np.ones(1), "d.z": np.ones(1), "e": np.zeros(1), "step": 2}
    found = diff(a, b, names="d.*")
    assert [t.name for t in found.tensors] == ["d.x"]
    assert (found.only_in_a, found.only_in_b, found.values) == (["d.y"], ["d.z"], [])
    assert diff(a, b, names=["d.x"]).equal
    with pytest.raises(MissingError, match="nothing"):
        diff(a, b, names="nothing.here")


def test_formats_do_not_matter(tmp_path: Path) -> None:
    state = {"w": of("bfloat16", [1, 2.5]), "q": of("int4", [-8, 7, 1]), "l": [np.ones(2), 1]}
    tk.save(state, tmp_path / "a.safetensors")
    tk.save(state, tmp_path / "b.npz")
    found = tk.diff(tmp_path / "a.safetensors", tmp_path / "b.npz")
    assert found.equal
    assert all(t.identical for t in found.tensors)
    assert (found.a, found.b) == (str(tmp_path / "a.safetensors"), str(tmp_path / "b.npz"))


def test_progress_reaches_the_total() -> None:
    a = {"t": np.zeros(200_000, np.uint8), "u": np.ones((2, 2)), "e": np.zeros(0)}
    b = {"t": np.zeros(200_000, np.uint8), "u": np.ones(4), "e": np.zeros(0)}
    steps: list[tuple[int, int]] = []
    diff(a, b, progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (200_032, 200_032)
    assert len(steps) > 4
    assert steps == sorted(steps)


def test_the_mean_of_the_differences() -> None:
    assert compare([1, 2, 3.5], [1, 4, 3.0]).mean_absolute == pytest.approx(2.5 / 3)
    assert compare(np.zeros(200_000), np.ones(200_000)).mean_absolute == 1
    assert compare([1.0, NAN, INF], [2.0, 0, INF]).mean_absolute == 0.5  # of the finite ones
    assert compare([1.7e308] * 3, [0.0] * 3).mean_absolute == pytest.approx(1.7e308)
    assert compare([2**63], of("int64", [-5])).mean_absolute == 2.0**63 + 5
    assert compare([], []).mean_absolute == 0
    assert compare(["a"], ["b"]).mean_absolute == 0


def test_angles_are_found_where_asked_for() -> None:
    with tk.open(stored({"t": np.array([3.0, 4])})) as a, tk.open(stored({"t": [1, 2]})) as b:
        assert diff_states(a, a).tensors[0].cosine is None
        assert diff_states(a, a, angles=True).tensors[0].cosine == 1
        assert diff_states(a, b, names="t", angles=True).only_in_b == []


def test_digests_are_trusted_where_told() -> None:
    with tk.open(stored({"t": np.zeros(4)})) as a, tk.open(stored({"t": np.ones(4)})) as b:
        lying = b.replace(digests=a.digests)
        assert diff_states(a, lying).tensors[0].differing == 4
        assert diff_states(a, lying, trust_digests=True).tensors[0].identical


def test_reads_are_small_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    read = MemorySource._read

    def measured(self: MemorySource, start: int, stop: int) -> memoryview:
        nonlocal largest
        largest = max(largest, stop - start)
        return read(self, start, stop)

    a, b = stored({"t": np.zeros(3_000_000)}), stored({"t": np.ones(3_000_000)})
    monkeypatch.setattr(MemorySource, "_read", measured)
    assert tk.diff(a, b).tensors[0].differing == 3_000_000
    assert 0 < largest <= 1 << 20
