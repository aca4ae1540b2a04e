"""HDF5 files that h5py wrote: every kind of dataset, link and attribute."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.errors import CorruptError, MissingDependencyError, UnsupportedError
from tensorkeep.source import FileSource, MemorySource
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore, assert_equal_states

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)
RANDOM = np.random.default_rng(0).random((50, 60))


def at(data: bytes, key: str = "a.h5") -> Location:
    return Location(MemoryStore({key: data}), key)


def made(fill: Callable[[Any], object], **options: Any) -> bytes:
    out = io.BytesIO()
    with h5py.File(out, "w", **options) as file:
        fill(file)
    return out.getvalue()


def opened(fill: Callable[[Any], object], **options: Any) -> tk.State:
    return tk.open(at(made(fill, **options)))


ARRAYS: dict[str, Any] = {
    "f2": np.array([1, np.nan, -0.0], np.float16),
    "f4": WEIGHTS,
    "f8": RANDOM,
    "i": np.array([-1, 2], np.int16),
    "u": np.array([2**64 - 1], np.uint64),
    "c": np.array([1 - 2j, 3], np.complex128),
    "b": np.array([[True], [False]]),
    "big": np.arange(6, dtype=">i4").reshape(2, 3),
    "big-complex": np.array([1 - 2j], ">c8"),
    "scalar": np.float32(2.5),
    "none": np.zeros((0, 3), np.int8),
    "columns": np.asfortranarray(WEIGHTS),
}


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
def test_arrays(libver: str) -> None:
    data = made(
        lambda file: [file.create_dataset(k, data=v) for k, v in ARRAYS.items()], libver=libver
    )
    found = tk.load(at(data))
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        native = np.asarray(array)
        assert_equal_states(found[name], native.astype(native.dtype.newbyteorder("=")))


CHUNKED: dict[str, dict[str, Any]] = {
    "chunks": {"chunks": (7, 9)},
    "one chunk": {"chunks": (50, 60)},
    "gzip": {"chunks": (7, 9), "compression": "gzip", "shuffle": True, "fletcher32": True},
    "lzf": {"chunks": (50, 7), "compression": "lzf"},
    "resizable": {"maxshape": (None, None)},
}


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<i2", "bool", "c8"])
@pytest.mark.parametrize("options", CHUNKED.values(), ids=CHUNKED)
def test_chunks(options: dict[str, Any], dtype: str) -> None:
    array = (RANDOM * 100).astype(dtype)
    with opened(lambda file: file.create_dataset("w", data=array, **options)) as state:
        expected = array.astype(array.dtype.newbyteorder("="))
        assert_equal_states(state["w"].numpy(), expected)
        for index in (slice(3, 9), (-1, slice(5, 50)), (slice(None), 7), (slice(0, 0),)):
            assert_equal_states(state["w"][index], expected[index])
        assert "chunks of" in state.remarks["w"]


def test_scaleoffset_and_other_filters() -> None:
    whole = np.arange(3000).reshape(50, 60)
    with opened(lambda file: file.create_dataset("w", data=whole, scaleoffset=0)) as state:
        assert np.array_equal(state["w"].numpy(), whole)
        assert "scaleoffset" in state.remarks["w"]


def test_filters_of_hdf5plugin() -> None:
    hdf5plugin = pytest.importorskip("hdf5plugin")
    zstd = hdf5plugin.Zstd()
    with opened(lambda file: file.create_dataset("w", data=RANDOM, **zstd)) as state:
        assert np.array_equal(state["w"].numpy(), RANDOM)


def test_a_filter_that_is_not_there() -> None:
    def fill(file: Any) -> None:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((10,))
        plan.set_filter(500, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((10,))
        h5py.h5d.create(file.id, b"odd", h5py.h5t.IEEE_F32LE, space, plan)
        file["w"] = WEIGHTS

    with opened(fill) as state:
        assert np.array_equal(state["w"].numpy(), WEIGHTS)
        with pytest.raises(UnsupportedError, match="number 500"):
            state["odd"].numpy()


def test_what_is_in_one_piece_is_a_window_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_bytes(
        made(lambda file: file.create_dataset("a/w", data=RANDOM), userblock_size=1024)
    )
    with tk.open(path) as state:
        assert isinstance(state["a.w"].source, FileSource)
        assert np.array_equal(state["a.w"].numpy(), RANDOM)
    loaded = tk.load(path)["a.w"]
    loaded[0] = 1
    assert np.array_equal(tk.load(path)["a.w"], RANDOM)


def test_opening_reads_the_structure_alone() -> None:
    large = np.zeros((1000, 1000))
    data = made(lambda file: [file.create_dataset(f"{i}/w", data=large) for i in range(4)])
    store = CountingStore(MemoryStore({"a.h5": data}))
    with tk.open(Location(store, "a.h5")) as state:
        assert store.bytes_read < 100_000
        before = store.bytes_read
        assert not state["2.w"][10, 5:15].any()
        assert store.bytes_read - before < 200


def test_strings() -> None:
    def fill(file: Any) -> None:
        file["vlen"] = ["a", "bü", ""]
        file["ascii"] = np.array([[b"ab", b"c"]], h5py.string_dtype("ascii"))
        file["fixed"] = np.array([b"ab", b"c\0d", b"\xff"])
        file["scalar"] = "hello"
        file.create_dataset("chunked", data=["x", "yy"] * 50, chunks=(7,), compression="gzip")
        file["none"] = np.zeros((0,), h5py.string_dtype())
        file.create_dataset("unset", (3,), h5py.string_dtype())

    with opened(fill) as state:
        assert state["vlen"].numpy().tolist() == ["a", "bü", ""]
        assert state["ascii"].numpy().tolist() == [["ab", "c"]]
        assert state["fixed"].numpy().tolist() == ["ab", "c\0d", "\udcff"]
        assert state["scalar"].numpy()[()] == "hello"
        assert state["chunked"].numpy().tolist() == ["x", "yy"] * 50
        assert state["none"].shape == (0,)
        assert state["unset"].numpy().tolist() == ["", "", ""]


def test_narrow_floats_that_attributes_name() -> None:
    array = np.array([1, -2.5, 3], ml_dtypes.bfloat16)

    def fill(file: Any) -> None:
        for name, values in (("opaque", array), ("uint16", array.view(np.uint16))):
            file[name] = values
            file[name].attrs["dtype"] = "bfloat16"
        file["untold"] = array
        file["wrong"] = np.zeros(3)
        file["wrong"].attrs["dtype"] = "bfloat16"
        file["byte"] = array.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        file["byte"].attrs["dtype"] = "float8_e4m3fn"

    with opened(fill) as state:
        assert_equal_states(state["opaque"].numpy(), array)
        assert_equal_states(state["uint16"].numpy(), array)
        assert state["untold"].shape == (3, 2)
        assert state.remarks["untold"] == "opaque, 2 bytes each"
        assert str(state["wrong"].dtype) == "float64"
        assert_equal_states(state["byte"].numpy(), array.astype(ml_dtypes.float8_e4m3fn))
        assert "attributes" not in state.metadata


def test_narrow_floats_by_their_bits() -> None:
    """The datatypes that HDF5 2.0 calls H5T_FLOAT_BFLOAT16LE, F8E4M3 and F8E5M2, made by hand."""
    rows = {
        "bfloat16": ((15, 7, 8, 0, 7), 127),
        "float8_e4m3fn": ((7, 3, 4, 0, 3), 7),
        "float8_e5m2": ((7, 2, 5, 0, 2), 15),
    }

    def fill(file: Any) -> None:
        for name, (fields, bias) in rows.items():
            array = np.array([1, -2.5, 0.25], getattr(ml_dtypes, name))
            kind = h5py.h5t.IEEE_F32LE.copy()
            kind.set_fields(*fields)
            kind.set_size(array.itemsize)
            kind.set_ebias(bias)
            dataset = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple((3,)))
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, array.view(f"u{array.itemsize}"), kind)

    with opened(fill) as state:
        for name in rows:
            expected = np.array([1, -2.5, 0.25], getattr(ml_dtypes, name))
            assert_equal_states(state[name].numpy(), expected)


def test_what_no_tensor_holds_is_listed_and_refused_when_read() -> None:
    def fill(file: Any) -> None:
        file["w"] = WEIGHTS
        file["records"] = np.zeros(2, [("x", "<i4"), ("y", "<f4")])
        file["references"] = file["w"].ref
        file.create_dataset("lists", (2,), h5py.vlen_dtype(np.int32))
        file["long"] = np.zeros(2, np.longdouble)

    data = made(fill)
    with tk.open(at(data)) as state:
        assert state.remarks["records"] == "holds records of the fields x, y"
        assert set(state.remarks) == {"records", "references", "lists", "long"}
    with pytest.raises(UnsupportedError, match=r"lists.*names="):
        tk.load(at(data))
    assert_equal_states(tk.load(at(data), names="w"), {"w": WEIGHTS})
    with pytest.raises(UnsupportedError, match="names="):
        tk.convert(at(data), Location(MemoryStore(), "b.safetensors"))


def test_kept_with_a_remark() -> None:
    def fill(file: Any) -> None:
        file["enum"] = np.array([1, 2], h5py.enum_dtype({"A": 1, "B": 2}, "i2"))
        file["inner"] = np.zeros(3, np.dtype(("<f4", (2, 2))))
        file["opaque"] = np.array([b"abcde"], "V5")
        file["empty"] = h5py.Empty("f4")
        file.create_dataset("unset", (4, 4), "f4", fillvalue=7)

    with opened(fill) as state:
        assert_equal_states(state["enum"].numpy(), np.array([1, 2], np.int16))
        assert state.remarks["enum"] == "an enumeration: A=1, B=2"
        assert state["inner"].shape == (3, 2, 2)
        assert bytes(state["opaque"].read()) == b"abcde"
        assert (state["empty"].shape, state.remarks["empty"]) == ((0,), "empty")
        assert_equal_states(state["unset"].numpy(), np.full((4, 4), 7, np.float32))


def test_attributes_become_metadata() -> None:
    def fill(file: Any) -> None:
        file["a/w"] = WEIGHTS
        file["a"].attrs["kind"] = "dense"
        file["a/w"].attrs["axes"] = ["in", "out"]
        values = {"i": 1, "f": np.float32(0.5), "s": "ü", "b": b"x", "list": np.arange(3)}
        file.attrs.update(values | {"on": True, "nan": np.nan, "ref": file["a"].ref})
        file.attrs["none"] = h5py.Empty("f4")

    data = made(fill)
    with tk.open(at(data)) as state:
        assert state.metadata == {
            "i": 1,
            "f": 0.5,
            "s": "ü",
            "b": "x",
            "list": [0, 1, 2],
            "on": True,
            "nan": {"not JSON": "nan"},
            "ref": {"not JSON": "<HDF5 object reference>"},
            "none": None,
            "attributes": {"a": {"kind": "dense"}, "a/w": {"axes": ["in", "out"]}},
        }
        store = MemoryStore()
        tk.save(state, Location(store, "b.h5"))
        with tk.open(Location(store, "b.h5")) as again:
            assert_equal_states(again.metadata, state.metadata)


def test_soft_and_hard_links_are_other_names() -> None:
    def fill(file: Any) -> None:
        file["a/w"] = WEIGHTS
        file["a/soft"] = h5py.SoftLink("w")
        file["soft"] = h5py.SoftLink("/a/./soft")
        file["hard"] = file["a/w"]
        file["b"] = h5py.SoftLink("/a")

    with opened(fill) as state:
        assert set(state) == {"a.w", "a.soft", "soft", "hard", "b.w", "b.soft"}
        assert len({tensor.offset for tensor in state.values()}) == 1


def test_names_with_dots() -> None:
    names = {"layer.0.w": "layer.0.w", "a/b": "a/b", "a.b": "a.b", "c/d.e": "c.d.e"}

    def fill(file: Any) -> None:
        for i, path in enumerate(names):
            file[path] = np.full(2, i)

    expected = {name: np.full(2, i) for i, name in enumerate(names.values())}
    assert_equal_states(tk.load(at(made(fill))), expected)


def test_an_order_that_was_kept() -> None:
    def fill(file: Any) -> None:
        for name in "cab":
            file[name] = WEIGHTS

    assert list(opened(fill, track_order=True)) == ["c", "a", "b"]
    assert list(opened(fill)) == ["a", "b", "c"]


def test_cut_short() -> None:
    data = made(lambda file: file.create_dataset("w", data=RANDOM))
    with pytest.raises(CorruptError, match=r"its superblock says [0-9,]+\. It is cut short"):
        tk.load(at(data[:-100]))
    for length in range(0, len(data), 97):
        with pytest.raises(tk.errors.TensorKeepError):
            tk.load(at(data[:length]))


def test_named_datatypes_hold_nothing() -> None:
    def fill(file: Any) -> None:
        file["kind"] = np.dtype("<f4")
        file.create_dataset("w", data=WEIGHTS, dtype=file["kind"])

    assert_equal_states(tk.load(at(made(fill))), {"w": WEIGHTS})


def test_without_h5py(monkeypatch: pytest.MonkeyPatch) -> None:
    data = made(lambda file: file.create_dataset("w", data=WEIGHTS))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"tensorkeep\[hdf5\]"):
        tk.load(at(data))
    with pytest.raises(MissingDependencyError, match=r"tensorkeep\[hdf5\]"):
        tk.save({"w": WEIGHTS}, Location(MemoryStore(), "a.h5"))


def test_acceptance() -> None:
    data = made(lambda file: file.create_dataset("w", data=WEIGHTS), userblock_size=512)
    assert formats.detect(at(data, "any.bin")).name == "hdf5"
    assert isinstance(MemorySource(data).read(0, 1), memoryview)
