from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.errors import ArgumentError, CorruptError, StoreError, TensorKeepError
from tensorkeep.formats.zarr import files as store_files
from tensorkeep.formats.zarr.hierarchy import NODES
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore, assert_equal_states, sample
from tensorkeep.wire.elements import boxes

OPTIONS: list[dict[str, Any]] = [
    {},
    {"version": 2},
    {"checksums": False},
    {"compression": "gzip"},
    {"compression": "zstd"},
    {"compression": "gzip", "version": 2},
    {"compression": "zstd", "version": 2},
    {"chunks": 16},
    {"chunks": (2, 2), "crc32c": True},
    {"chunks": [1, 2, 3], "compression": "gzip", "crc32c": True},
    {"chunks": (2, 2), "version": 2},
]
each_option = pytest.mark.parametrize("options", OPTIONS, ids=str)

NESTED = {
    "layer": {"w": np.arange(35, dtype="f4").reshape(7, 5), "b": np.ones(3)},
    "deep": {"er": {"c": np.array([1 + 2j, 3]), "t": np.array(["a", "ünï", ""], object)}},
    "cube": np.arange(60, dtype=">i2").reshape(3, 4, 5),
    "on": np.array([True, False]),
    "scalar": np.array(1.5),
    "none": np.zeros((0, 3)),
}


def saved(value: Any, **options: Any) -> dict[str, bytes]:
    store = MemoryStore()
    tk.save(value, Location(store, "a.zarr"), **options)
    return store.data


def at(files: dict[str, bytes]) -> Location:
    return Location(MemoryStore(files), "a.zarr")


@each_option
def test_round_trips(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    values: list[Any] = [
        NESTED,
        {"step": 3, "l": [np.ones(2), (np.zeros(1),)], "e": {}, "n": None},
        np.arange(6).reshape(2, 3),
        {},
    ]
    for value in values:
        tk.save(value, path, metadata={"epoch": 3, "tensorkeep": [1.5]}, **options)
        verify = options.get("checksums", True)
        assert_equal_states(tk.load(path, verify=verify), value)
        with tk.open(path) as state:
            assert state.metadata == {"epoch": 3, "tensorkeep": [1.5]}
        assert [entry for entry in os.listdir(tmp_path) if entry != "a.zarr"] == []


@pytest.mark.parametrize("kind", DTYPES.values(), ids=str)
def test_every_type(kind: DType) -> None:
    arrays = {str(shape): sample(kind, shape).numpy() for shape in [(), (0,), (3,), (5, 3, 4)]}
    for options in ({}, {"version": 2}, {"chunks": (2, 2, 3)}, {"compression": "gzip"}):
        assert_equal_states(tk.load(at(saved(arrays, **options)), verify=True), arrays)


def test_dicts_are_groups_and_need_no_notes() -> None:
    files = saved(NESTED, checksums=False)
    assert "a.zarr/layer/w/c/0/0" in files
    document = json.loads(files["a.zarr/zarr.json"])
    assert document["attributes"] == {}
    assert json.loads(files["a.zarr/layer/zarr.json"])["node_type"] == "group"
    kept = document["consolidated_metadata"]["metadata"]
    assert kept["layer/w"] == json.loads(files["a.zarr/layer/w/zarr.json"])


NAMES = ["a.b", "a", "", ".", "x/y", "zarr.json", ".zattrs", "__x", "c", "é" * 200, "a*", "$x", "A"]


def test_any_name_and_collisions() -> None:
    flat = {name: np.full(2, i) for i, name in enumerate(NAMES)}
    files = saved(flat)
    assert_equal_states(tk.load(at(files)), flat)
    assert not any(".." in key or "*" in key or "//" in key for key in files)
    clash = {"a.b": np.ones(1), "a": {"b": np.zeros(1), "b.c": np.ones(2)}, "tensor-1": np.ones(3)}
    assert_equal_states(tk.load(at(saved(clash))), clash)
    state = tk.State({"a": tk.Tensor.of(np.ones(1)), "a.b": tk.Tensor.of(np.zeros(2))})
    assert_equal_states(tk.load(at(saved(state))), {"a": np.ones(1), "a.b": np.zeros(2)})
    ties = dict.fromkeys(("p", "q"), np.arange(3))
    found = tk.load(at(saved(ties)))
    assert found["p"] is found["q"]


def test_types_that_zarr_python_lacks_keep_the_others_readable() -> None:
    files = saved({"w": np.ones(2), "b": np.ones(2, ml_dtypes.bfloat16)})
    document = json.loads(files["a.zarr/zarr.json"])
    assert "consolidated_metadata" not in document
    assert document["attributes"][NODES]["b"]["data_type"] == "bfloat16"


# --- laziness ------------------------------------------------------------------------------------


def test_a_slice_reads_the_chunks_it_overlaps() -> None:
    large = np.arange(200_000, dtype="f4").reshape(400, 500)
    files = saved({"w": large}, chunks=(100, 500), checksums=False)
    store = CountingStore(MemoryStore(files))
    with tk.open(Location(store, "a.zarr")) as state:
        before = store.bytes_read
        assert np.array_equal(state["w"][150:152, 3:9], large[150:152, 3:9])
        assert store.bytes_read - before <= 2 * 2000
    for options in ({"compression": "gzip"}, {"crc32c": True}):
        files = saved({"w": large}, chunks=(100, 500), checksums=False, **options)
        store = CountingStore(MemoryStore(files))
        with tk.open(Location(store, "a.zarr")) as state:
            before = store.bytes_read
            for row in range(100, 200, 10):
                assert np.array_equal(state["w"][row], large[row])
            assert store.bytes_read - before == len(files["a.zarr/w/c/1/0"])


def test_one_chunk_is_a_window_on_its_file(tmp_path: Path) -> None:
    tk.save(NESTED, tmp_path / "a.zarr")
    with tk.open(tmp_path / "a.zarr") as state:
        assert state["layer.w"].source.mapped
        kept = state["layer.w"].numpy()
    assert kept[6, 4] == 34
    loaded = tk.load(tmp_path / "a.zarr")
    loaded["layer"]["w"][:] = -1
    assert_equal_states(tk.load(tmp_path / "a.zarr", verify=True), NESTED)
    assert_equal_states(tk.load(tmp_path / "a.zarr", copy=True), NESTED)


def test_closing(tmp_path: Path) -> None:
    each: list[dict[str, Any]] = [{}, {"compression": "gzip"}]
    for options in each:
        tk.save(NESTED, tmp_path / "a.zarr", **options)
        state = tk.open(tmp_path / "a.zarr")
        state.close()
        with pytest.raises(TensorKeepError, match="closed"):
            state["layer.w"].numpy()


def test_more_arrays_than_a_process_may_open(tmp_path: Path) -> None:
    arrays = {f"w{i}": np.full(100, i) for i in range(1500)}
    tk.save(arrays, tmp_path / "a.zarr", durable=False)
    assert_equal_states(tk.load(tmp_path / "a.zarr", verify=True), arrays)


def test_boxes_cover_each_range_once() -> None:
    shape = (3, 2, 4)
    numbers = np.arange(24).reshape(shape)
    for start in range(25):
        for stop in range(start, 25):
            found: list[int] = []
            for origin, extent in boxes(shape, start, stop):
                index = tuple(slice(o, o + e) for o, e in zip(origin, extent, strict=True))
                found += numbers[index].reshape(-1).tolist()
            assert found == list(range(start, stop))


# --- replacing -----------------------------------------------------------------------------------


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    tk.save({"old": np.ones(2), "both": np.ones(3)}, path)
    opened = tk.open(path)

    class StoppedError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        tk.save({"new": np.ones(4)}, path, progress=stop)
    assert_equal_states(tk.load(path), {"old": np.ones(2), "both": np.ones(3)})
    assert os.listdir(tmp_path) == ["a.zarr"]
    kept = opened["old"].numpy()
    tk.save(opened, path)  # over what it is read from
    tk.save({"new": np.ones(4)}, path)
    assert sorted(os.listdir(path)) == ["new", "zarr.json"]
    assert kept.tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_folders_of_other_files_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    tk.save({"w": np.ones(1)}, tmp_path / "a.zarr")  # an empty one is
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr/photo.jpg").write_bytes(b"x")
    with pytest.raises(ArgumentError, match="folder of other files"):
        tk.save({"w": np.ones(1)}, tmp_path / "b.zarr")
    (tmp_path / "c.zarr").write_bytes(b"x")
    with pytest.raises(StoreError, match="is a file"):
        tk.save({"w": np.ones(1)}, tmp_path / "c.zarr")
    with pytest.raises(ArgumentError, match="is a folder"):
        tk.save({"w": np.ones(1)}, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.zarr", "c.zarr"]


def test_in_memory_what_is_old_goes() -> None:
    store = MemoryStore({"b": b"kept"})
    tk.save({"x": np.ones(1)}, Location(store, "a.zarr"))
    tk.save({"y": np.ones(1)}, Location(store, "a.zarr"))
    assert "a.zarr/x/c/0" not in store.data
    assert store.data["b"] == b"kept"


def test_options_that_make_no_sense() -> None:
    for options, problem in (
        ({"version": 4}, "no version 4"),
        ({"version": 2, "crc32c": True}, "no crc32c"),
        ({"compression": "rar"}, "not written with 'rar'"),
        ({"chunks": 0}, "are no chunks"),
        ({"chunks": (1, -1)}, "are no chunks"),
    ):
        with pytest.raises(ArgumentError, match=problem):
            saved({"w": np.ones(2)}, **options)


# --- what is accepted, and damage ----------------------------------------------------------------


def test_acceptance(tmp_path: Path) -> None:
    tk.save({"w": np.ones(2)}, tmp_path / "a.zarr")
    for target in (tmp_path / "a.zarr", tmp_path, tmp_path / "a.zarr/zarr.json"):
        with tk.open(target) as state:
            assert state.format == "zarr"
            assert list(state) == ["w"]
    tk.save({"w": np.ones(2)}, tmp_path / "b.zarr", version=2)
    with pytest.raises(tk.errors.UnknownFormatError):
        tk.open(tmp_path)
    assert formats.detect(Location(MemoryStore(saved({"w": np.ones(1)})))).name == "zarr"


def test_a_missing_or_short_chunk_is_damage() -> None:
    for options in ({}, {"chunks": (4, 5)}, {"compression": "gzip"}):
        files = saved({"layer": {"w": np.ones((7, 5))}}, **options)
        key = "a.zarr/layer/w/c/0/0"
        gone = {k: v for k, v in files.items() if k != key}
        with pytest.raises(CorruptError, match="the chunk is missing"):
            tk.load(at(gone))
        with pytest.raises(CorruptError, match=r"not|cut short"):
            tk.load(at({**files, key: files[key][:-1]}))


def test_verify_finds_flipped_bits() -> None:
    files = saved({"w": np.ones(50)}, checksums=False, crc32c=True)
    key = "a.zarr/w/c/0"
    assert_equal_states(tk.load(at(files), verify=True), {"w": np.ones(50)})
    files[key] = files[key][:9] + b"\1" + files[key][10:]
    with pytest.raises(CorruptError, match="CRC-32C is"):
        tk.load(at(files))
    files = saved({"w": np.ones(50)})
    files[key] = files[key][:9] + b"\1" + files[key][10:]
    tk.load(at(files))
    with pytest.raises(CorruptError, match="XXH3-128"):
        tk.load(at(files), verify=True)


def test_attributes_that_others_changed() -> None:
    files = saved({"w": np.ones(2)}, metadata={"a": 1})
    key = "a.zarr/zarr.json"
    files[key] = files[key].replace(b'"a":1', b'"a":2')
    with pytest.raises(CorruptError, match="If another tool has changed its attributes, remove"):
        tk.load(at(files))
    document = json.loads(files[key])
    document["attributes"] = {"a": 2}
    files[key] = json.dumps(document).encode()
    assert_equal_states(tk.load(at(files)), {"w": np.ones(2)})


def test_converting_does_not_replace_what_is_there(tmp_path: Path) -> None:
    from tensorkeep.cli import main

    def run(*arguments: str) -> Any:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        return ended.value.code

    tk.save({"w": np.ones(2)}, tmp_path / "a.npz")
    tk.save({"v": np.ones(2)}, tmp_path / "a.zarr")
    command = ["convert", str(tmp_path / "a.npz"), str(tmp_path / "a.zarr")]
    assert run(*command) != 0
    assert list(tk.load(tmp_path / "a.zarr")) == ["v"]
    assert run(*command, "--force") == 0
    assert list(tk.load(tmp_path / "a.zarr")) == ["w"]


@pytest.mark.parametrize("version", [2, 3])
def test_a_spare_name_is_no_group(version: int) -> None:
    value = {"tensor-1": {"x": np.ones(1)}, "a*": np.zeros(2), "b*": np.ones(3)}
    assert_equal_states(tk.load(at(saved(value, version=version))), value)


def test_long_and_deep_paths(tmp_path: Path) -> None:
    deep: Any = np.ones(1)
    for _ in range(101):
        deep = {"k": deep}
    long: Any = np.ones(2)
    for _ in range(40):
        long = {"k" * 100: long}
    value = {"long": long}
    tk.save(value, tmp_path / "a.zarr", durable=False)
    assert_equal_states(tk.load(tmp_path / "a.zarr"), value)
    tk.save(deep, tmp_path / "b.zarr", durable=False)
    assert_equal_states(tk.load(tmp_path / "b.zarr"), deep)


def test_a_new_folder_may_end_in_a_slash(tmp_path: Path) -> None:
    for _ in range(2):
        tk.save({"w": np.ones(2)}, f"{tmp_path}/a.zarr/", durable=False)
        assert tk.load(tmp_path / "a.zarr")["w"].tolist() == [1, 1]


def test_zeros_that_were_compressed_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_files, "_FREE", 1 << 20)
    zeros = {"w": np.zeros(64 << 20, np.int8)}
    assert not tk.load(at(saved(zeros, compression="gzip")))["w"].any()
    pytest.importorskip("numcodecs")
    assert not tk.load(at(saved(zeros, compression="zstd")))["w"].any()
