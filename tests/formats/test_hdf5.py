"""hdf5 as it is written here: what h5py reads of it, and what comes back."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.formats.hdf5 import plain
from tensorkeep.formats.hdf5.decoded import boxes
from tensorkeep.formats.hdf5.naming import names_of, paths_of, renamed
from tensorkeep.store import Location, join
from tensorkeep.stores import locate
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import (
    assert_equal_states,
    check_bit_flips,
    check_round_trip,
    sample,
)

WEIGHTS = np.arange(12, dtype=np.float32).reshape(3, 4)
NESTED = {"encoder": [{"w": WEIGHTS, "b": np.arange(3, dtype=np.int8)}], "step": 7, "on": True}
COMPRESSED: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "level": 9, "shuffle": True, "fletcher32": True},
    "lzf": {"compression": "lzf", "chunks": 2},
    "chunks": {"chunks": 1},
}


def at(data: bytes, key: str = "a.h5") -> Location:
    return Location(MemoryStore({key: data}), key)


def saved(value: Any, **options: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, "a.h5"), **options)
    return store.data["a.h5"]


def seen_by_h5py(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def look(path: str, thing: Any) -> None:
        if isinstance(thing, h5py.Dataset):
            found[path] = thing[()]

    with h5py.File(io.BytesIO(data)) as file:
        file.visititems(look)
    return found


def test_h5py_reads_what_is_written() -> None:
    arrays: dict[str, Any] = {
        "a.w": WEIGHTS,
        "a.i": np.array([[-1, 2]], np.int64),
        "h": np.array([0.5, np.inf], np.float16),
        "c": np.array([1 - 2j], np.complex64),
        "b": np.array([True, False]),
        "s": np.array(["x", "ü", ""], object),
        "e": np.zeros((0, 3)),
        "n": np.float64(2.5),
    }
    found = seen_by_h5py(saved(arrays))
    assert len(found) == len(arrays)
    for name, array in arrays.items():
        there = found[name.replace(".", "/")]
        if name == "s":
            assert [text.decode() for text in there] == array.tolist()
        else:
            assert_equal_states(there, array)
    assert found["b"].dtype == bool


def test_narrow_floats_are_floats_to_h5py() -> None:
    values = [0.0, 1.0, -2.5, 0.25]
    for name in ("bfloat16", "float8_e5m2"):
        array = np.array(values, getattr(ml_dtypes, name))
        data = saved({"w": array})
        assert seen_by_h5py(data)["w"].tolist() == [float(value) for value in array]
        assert_equal_states(tk.load(at(data)), {"w": array})


def test_what_hdf5_has_no_type_for_says_what_it_is() -> None:
    array = np.array([[1, -2, 3]], ml_dtypes.int4)
    with h5py.File(io.BytesIO(saved({"w": array, "f": array.astype("float8_e4m3fn")}))) as file:
        assert file["w"].attrs["dtype"] == "int4"
        assert file["w"].attrs["shape"].tolist() == [1, 3]
        assert file["f"].attrs["dtype"] == "float8_e4m3fn"
        assert file["f"].shape == (1, 3)
        assert file["f"].dtype == np.uint8


@pytest.mark.parametrize("options", COMPRESSED.values(), ids=COMPRESSED)
def test_compressed_files(options: dict[str, Any]) -> None:
    check_round_trip(plain.FORMAT, **options)
    arrays: dict[str, Any] = {
        "a.w": np.arange(6000.0).reshape(60, 100),
        "b": np.float32(1),
        "s": np.array(["x"]),
    }
    data = saved(arrays, **options)
    assert data == saved(arrays, **options)
    assert_equal_states(tk.load(at(data), verify=True), arrays)
    assert np.array_equal(seen_by_h5py(data)["a/w"], arrays["a.w"])
    with tk.open(at(data)) as state:
        assert np.array_equal(state["a.w"][7, 3:90], arrays["a.w"][7, 3:90])
        assert np.array_equal(state["a.w"][:, -1], arrays["a.w"][:, -1])
        assert state.remarks["a.w"].startswith("chunks of ")


def test_compression_is_seen_in_the_file() -> None:
    with h5py.File(io.BytesIO(saved({"w": np.zeros((99, 999))}, **COMPRESSED["gzip"]))) as file:
        w = file["w"]
        assert (w.compression, w.compression_opts, w.shuffle, w.fletcher32) == (
            "gzip",
            9,
            True,
            True,
        )
        assert w.id.get_storage_size() < 10_000


def test_damage_to_compressed_files() -> None:
    value = {"w": np.arange(4, dtype=np.int16)}
    check_bit_flips(plain.FORMAT, value, **COMPRESSED["gzip"])


@pytest.mark.parametrize(
    "options", [{"compression": "zip"}, {"level": 10}, {"level": 1.5}, {"chunks": -1}, {"chunk": 1}]
)
def test_options_that_are_none(options: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        saved({"w": WEIGHTS}, **options)


def test_the_size_is_known_and_elements_are_aligned() -> None:
    state = tk.State({f"t{i}.w": tk.Tensor.of(np.arange(i)) for i in range(40)})
    for checksums in (True, False):
        (stream,) = plain.encode(state, at(b""), checksums=checksums)
        data = join(stream.chunks or [])
        assert stream.size == len(data)
        with tk.open(at(data)) as found:
            assert all(t.offset % 64 == 0 for t in found.values() if t.nbytes)
            assert list(found) == list(state)


def test_equal_states_give_equal_bytes_whenever_they_are_saved() -> None:
    kinds: list[dict[str, Any]] = [{}, COMPRESSED["gzip"]]
    before = [saved(NESTED, metadata={"epoch": 3, "x": "y"}, **options) for options in kinds]
    time.sleep(1.1)  # the library notes seconds, unless it is told not to
    after = [saved(NESTED, metadata={"epoch": 3, "x": "y"}, **options) for options in kinds]
    assert before == after


def test_metadata_is_in_attributes_where_they_hold_it() -> None:
    metadata = {"epoch": 3, "rate": 0.5, "note": "ünï", "on": True, "nul": "\0", "big": 2**70}
    metadata |= {"list": [1, {"a": None}], "tensorkeep": "mine", "": "x", "long": "x" * 100_000}
    data = saved({"w": WEIGHTS}, metadata=metadata)
    with tk.open(at(data)) as state:
        assert_equal_states(state.metadata, metadata)
    with h5py.File(io.BytesIO(data)) as file:
        assert set(file.attrs) == {"epoch", "rate", "note", "on", "tensorkeep"}
        assert file.attrs["note"] == "ünï"


NAMES = ["", "a", "a.b", "a/b", "a/b.c", "x.y", "x", "..", ".", "a..b", "é.ü", ".a", "b.", "/", "%"]


def test_names() -> None:
    arrays = {name: np.full(2, i) for i, name in enumerate(NAMES) if name not in ("..",)}
    assert_equal_states(tk.load(at(saved(arrays))), arrays)
    assert paths_of(["a.b", "c/d"]) == {"a.b": "a/b", "c/d": "c/d"}
    deep = ".".join(["x"] * 200)
    assert paths_of([deep]) == {deep: deep}


@given(st.lists(st.text("ab./", max_size=7), unique=True, max_size=12))
def test_any_name_has_a_path_of_its_own(names: list[str]) -> None:
    paths = paths_of(names)
    given = renamed(names, paths)
    found = names_of(paths.values()) | given
    assert [found[paths[name]] for name in names] == names
    groups = {path[:i] for path in paths.values() for i, c in enumerate(path) if c == "/"}
    assert groups.isdisjoint(paths.values())


@given(st.lists(st.integers(1, 5), max_size=4).map(tuple), st.data())
def test_boxes_cover_a_range_in_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    count = int(np.prod(shape))
    first = data.draw(st.integers(0, count))
    last = data.draw(st.integers(first, count))
    values = np.arange(count).reshape(shape)
    found: list[Any] = []
    for start, size in boxes(shape, first, last):
        found.extend(values[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))].flat)
    assert found == list(range(first, last))


def test_verify_finds_a_flipped_bit_and_the_structure_is_always_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    tk.save({"w": np.ones(1000), "v": np.zeros(10)}, path)
    assert tk.verify(path).checked == 2
    with tk.open(path) as state:
        there = state["w"].offset + 5000
    data = bytearray(path.read_bytes())
    data[there] ^= 1
    path.write_bytes(data)
    assert tk.load(path)["w"].shape == (1000,)
    assert [name for name, _ in tk.verify(path).damaged] == ["w"]
    with pytest.raises(CorruptError, match="'w' is damaged"):
        tk.load(path, verify=True)
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="its structure is damaged"):
        tk.load(path)


def test_without_checksums_there_are_none_of_tensors() -> None:
    data = saved({"w": WEIGHTS}, checksums=False)
    assert tk.verify(at(data)).unchecked == ["w"]
    with pytest.raises(UnsupportedError, match=r"no digests|without"):
        tk.load(at(data), verify=True)


def test_a_file_that_h5py_changed_has_no_checksums_any_more(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    tk.save(NESTED, path, metadata={"epoch": 3})
    with h5py.File(path, "r+") as file:
        file["encoder/0/w"][1, 1] = 99
        file.attrs["epoch"] = 4
    assert tk.load(path)["encoder"][0]["w"][1, 1] == 99
    with tk.open(path) as state:
        assert state.metadata == {"epoch": 4}
        assert not state.digests
    assert tk.verify(path).ok
    assert formats.detect(at(path.read_bytes())).name == "hdf5"


def test_a_tensor_that_changed_is_not_written_under_a_new_digest() -> None:
    data = bytearray(saved({"w": WEIGHTS}))
    with tk.open(at(bytes(data))) as state:
        data[state["w"].offset] ^= 1
    with tk.open(at(bytes(data))) as state, pytest.raises(CorruptError, match="'w'"):
        saved(state)


def test_names_of_keras_in_a_file_of_ours() -> None:
    arrays = {"layers.dense.vars.0": WEIGHTS, "layer_names": np.arange(3)}
    for options in ({}, {"compression": "gzip"}):
        data = saved(arrays, metadata={"layer_names": "x", "model_config": "{}"}, **options)
        assert formats.detect(at(data)).name == "hdf5"
        assert_equal_states(tk.load(at(data)), arrays)


def test_every_type_in_a_file_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "all.hdf5"
    arrays = {name: sample(dtype, (5, 3)).numpy() for name, dtype in DTYPES.items()}
    tk.save(arrays, path)
    assert_equal_states(tk.load(path, copy=True, verify=True), arrays)
    assert tk.verify(path).ok


def test_closing(tmp_path: Path) -> None:
    kinds: list[dict[str, Any]] = [{}, COMPRESSED["gzip"]]
    for options in kinds:
        tk.save({"w": np.ones((100, 100))}, tmp_path / "a.h5", **options)
        state = tk.open(tmp_path / "a.h5")
        state.close()
        with pytest.raises(TensorKeepError, match="closed"):
            state["w"].numpy()


def test_a_state_that_is_never_closed_does_no_harm_at_exit(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    tk.save({"w": np.ones(100)}, path, compression="gzip")
    code = "import sys, tensorkeep as tk; s = tk.open(sys.argv[1]); print(s['w'][3])"
    made = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (made.returncode, made.stdout) == (0, "1.0\n")


def test_threads_read_a_compressed_file(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    arrays = {f"t{i}": np.random.default_rng(i).random((300, 70)) for i in range(12)}
    tk.save(arrays, tmp_path / "a.h5", compression="gzip", level=1)
    with tk.open(tmp_path / "a.h5") as state, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: state[name].numpy(), list(arrays) * 3))
    for array, name in zip(found, list(arrays) * 3, strict=True):
        assert np.array_equal(array, arrays[name])


def test_tensors_are_found_by_their_names_without_listing_all(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for at in range(40):
            file[f"layers/{at}/attn.q/weight"] = np.full((2, 3), at, np.float32)
        file["a.b/w"] = np.zeros(1)
        file["a/b.w"] = np.ones(1)
        file["alias"] = h5py.SoftLink("/layers/7/attn.q/weight")
        file["out"] = h5py.ExternalLink("other.h5", "/w")
    found = plain.FORMAT.pick(locate(path), ["layers.7.attn.q.weight", "alias"])
    assert found is not None
    assert list(found) == ["layers.7.attn.q.weight", "alias"]
    assert found["alias"].numpy().tolist() == [[7.0] * 3] * 2
    for name in (
        "a.b.w",
        "layers.7",
        "layers.7.attn",
        "nothing",
        "a/b.w",
        "layers.7.attn.q.weight.x",
    ):
        assert plain.FORMAT.pick(locate(path), [name]) is None  # the whole list has to tell
    with pytest.raises(UnsafeError, match="external link"):
        plain.FORMAT.pick(locate(path), ["out"])


def test_the_framework_of_what_was_saved_is_known_to_tensors_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    tk.save({"m": {"w": np.arange(3)}, "a.b": np.ones(2)}, path)
    assert tk.load(path, names="m.w")["m.w"].tolist() == [0, 1, 2]
    assert tk.load(path, names=["a.b"], verify=True)["a.b"].tolist() == [1, 1]
    with pytest.raises(MissingError, match=r"m\.w"):
        tk.load(path, names="m.v")
