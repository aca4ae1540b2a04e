"""Files as MXNet of several versions wrote them (see tests/data/mxnet), and others made here."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.mxnet.make_mxnet import FILES, V2, dense, none, whole

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.errors import ArgumentError, CorruptError, UnsafeError, UnsupportedError
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore

DATA = Path(__file__).parent.parent / "data" / "mxnet"
SIX = [[0, 1, 2], [3, 4, 5]]


def at(data: bytes) -> Location:
    return Location(MemoryStore({"a.params": data}), "a.params")


@pytest.mark.parametrize("name", FILES)
def test_the_golden_files_are_those_of_the_script(name: str) -> None:
    assert (DATA / name).read_bytes() == FILES[name]
    assert formats.detect(Location(MemoryStore({"a": FILES[name]}), "a")).name == "mxnet"


def test_files_of_today() -> None:
    with tk.open(DATA / "today.params") as state:
        found = {name: tensor.numpy().tolist() for name, tensor in state.items()}
        kinds = {name: tensor.dtype.name for name, tensor in state.items()}
        assert state.metadata == {
            "mxnet": {
                "sparse": {
                    "arg:rows": {"storage": "row_sparse", "shape": [4, 2]},
                    "arg:csr": {"storage": "csr", "shape": [2, 3]},
                },
                "none": ["arg:none"],
            }
        }
    assert found == {
        "arg:fc1_weight": SIX,
        "arg:double": [1.5, -2],
        "aux:half": [1.5, -2],
        "arg:byte": [0, 1, 255],
        "arg:int32": [1, -2],
        "arg:int8": [1, -2],
        "arg:int64": [[1, -(2**40)]],
        "arg:bool": [True, False],
        "arg:bfloat16": [1.5, -2],
        "arg:rows.data": [[1, 2], [3, 4]],
        "arg:rows.indices": [1, 3],
        "arg:csr.data": [5, 6, 7],
        "arg:csr.indptr": [0, 1, 3],
        "arg:csr.indices": [2, 0, 1],
    }
    assert kinds["arg:bfloat16"] == "bfloat16"
    assert kinds["aux:half"] == "float16"


def test_files_with_numpy_shapes() -> None:
    with tk.open(DATA / "numpy.params") as state:
        assert {name: tensor.shape for name, tensor in state.items()} == {
            "scalar": (),
            "empty": (0, 3),
            "uint32": (2,),
        }
        assert state["scalar"].numpy() == 2.5
        assert state["uint32"].numpy().tolist() == [1, 2**31]
        assert state.metadata == {"mxnet": {"none": ["none"]}}


def test_older_files() -> None:
    assert {n: a.tolist() for n, a in tk.load(DATA / "old.params").items()} == {
        "w": SIX,
        "b": [1, -2],
    }
    assert tk.load(DATA / "oldest.params")["arg:w"].tolist() == SIX


def test_a_list_comes_back_as_a_list() -> None:
    first, second = tk.load(DATA / "list.params")
    assert (first.tolist(), second.tolist()) == (SIX, [7])
    assert tk.load(at(whole([], []))) == {}


def test_heads_are_all_that_opening_reads() -> None:
    arrays = [dense((1000, 100), 0, struct.pack("<f", i) * 100_000) for i in range(20)]
    store = CountingStore(MemoryStore({"a": whole(arrays, [f"w{i}" for i in range(20)])}))
    with tk.open(Location(store, "a")) as state:
        assert store.bytes_read < 20_000
        before = store.bytes_read
        assert state["w7"][5].tolist() == [7] * 100
        assert store.bytes_read - before == 400


def test_it_converts(tmp_path: Path) -> None:
    tk.convert(DATA / "today.params", tmp_path / "a.safetensors")
    with tk.open(tmp_path / "a.safetensors") as state:
        assert state["arg:csr.indptr"].numpy().tolist() == [0, 1, 3]
        assert "mxnet" in state.metadata


def test_it_is_only_read(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"is read here, not written.*MXNet"):
        tk.save({"w": np.ones(2)}, tmp_path / "a.params", format="mxnet")


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), max_size=5))
def test_arrays_of_any_shape(shapes: list[list[int]]) -> None:
    arrays = [
        np.arange(np.prod(shape), dtype=np.int32).reshape(shape) + place
        for place, shape in enumerate(shapes)
    ]
    rows = [dense(array.shape, 4, array.tobytes()) for array in arrays]
    found: Any = tk.load(at(whole(rows, [f"w{place}" for place in range(len(rows))])))
    assert len(found) == len(arrays)
    for place, array in enumerate(arrays):
        assert np.array_equal(found[f"w{place}"], array)


ONE = dense((1,), 3, b"\7")
LIES = {
    "names twice": (whole([ONE, ONE], ["w", "w"]), CorruptError, "'w' twice"),
    "too few names": (whole([ONE, ONE], ["w"]), CorruptError, "1 names are given to 2 arrays"),
    "more behind": (whole([ONE], ["w"]) + b"x", CorruptError, "1 bytes follow the last name"),
    "type": (whole([dense((1,), 13, b"\7")], ["w"]), UnsupportedError, "type 13; those known"),
    "negative type": (whole([dense((1,), -1, b"\7")], ["w"]), UnsupportedError, "type -1"),
    "storage": (whole([V2 + b"\3\0\0\0"], ["w"]), CorruptError, "stored in way 3"),
    "axes": (whole([V2 + bytes(4) + b"\x21\0\0\0"], ["w"]), CorruptError, "has 33 axes"),
    "old axes": (whole([b"\xc7\xfa\x93\xf9"], ["w"]), CorruptError, "has 4,187,224,775 axes"),
    "negative size": (whole([dense((-1,), 3, b"\7")], ["w"]), CorruptError, r"shape \(-1,\)"),
    "huge size": (whole([dense((2**62,), 3, b"\7")], ["w"]), CorruptError, "no array can have"),
    "long": (whole([dense((2**40,), 3, b"\7")], ["w"]), CorruptError, "but there are"),
    "many arrays": (struct.pack("<QQQ", 0x112, 0, 2**60), UnsafeError, "hold 1,152,921"),
    "some arrays": (struct.pack("<QQQ", 0x112, 0, 400_000), CorruptError, "do not fit"),
    "many names": (
        whole([ONE], [])[:-8] + struct.pack("<Q", 2**60),
        UnsafeError,
        "hold 1,152,921,504,606,846,976 names",
    ),
    "some names": (whole([ONE], [])[:-8] + struct.pack("<Q", 9), CorruptError, "do not fit"),
    "long name": (
        whole([ONE], [])[:-8] + struct.pack("<QQ", 1, 2**60),
        UnsafeError,
        "a name of 1,152,",
    ),
    "name beyond": (
        whole([ONE], [])[:-8] + struct.pack("<QQ", 1, 9) + b"w",
        CorruptError,
        "ends at byte",
    ),
    "folder": (whole([ONE], ["../w"]), UnsafeError, "has .. as a folder"),
    "half a letter": (
        whole([ONE], [])[:-8] + struct.pack("<QQ", 1, 1) + b"\xff",
        UnsafeError,
        "half a character",
    ),
    "cut": (struct.pack("<QQ", 0x112, 0), CorruptError, "ends at byte 16"),
}


@pytest.mark.parametrize(("data", "kind", "problem"), LIES.values(), ids=LIES)
def test_lies_are_found(data: bytes, kind: type[Exception], problem: str) -> None:
    with pytest.raises(kind, match=problem):
        tk.open(at(data))


def test_arrays_that_are_none_leave_a_gap() -> None:
    with tk.open(at(whole([none(), ONE], []))) as state:
        assert list(state) == ["1"]
        assert state.metadata == {"mxnet": {"none": ["0"]}}
        assert state.skeleton is None
