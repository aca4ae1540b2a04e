"""What takes a path takes an URL, or says what to do instead."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.servers import FileServer

import tensorkeep as tk
from tensorkeep import dtypes, errors, testing
from tensorkeep.models.labels import read_labels
from tensorkeep.store import Location
from tensorkeep.stores.object import ObjectStore


@pytest.mark.parametrize("ending", [".safetensors", ".npz", ".npy", ".pt", ".gguf", ".h5", ".json"])
def test_files_of_each_kind(http: FileServer, tmp_path: Path, ending: str) -> None:
    values = np.arange(300_000, dtype=np.float32)
    path = tmp_path / f"state{ending}"
    tk.save(values if ending == ".npy" else {"w": values, "b": values[:9]}, path)
    http.files[path.name] = path.read_bytes()
    here, there = tk.load(path, framework="numpy"), tk.load(http.url(path.name), framework="numpy")
    assert (
        np.array_equal(np.asarray(here), np.asarray(there))
        if ending == ".npy"
        else (here.keys() == there.keys() and all(np.array_equal(here[n], there[n]) for n in here))
    )
    assert tk.diff(http.url(path.name), path).equal
    assert tk.verify(http.url(path.name)).ok


def test_arrays_of_training_data(http: FileServer, tmp_path: Path) -> None:
    rows = {"x": np.arange(2000.0).reshape(100, 20), "y": np.arange(100) % 7}
    tk.save(rows, tmp_path / "set.npz")
    http.files["set.npz"] = (tmp_path / "set.npz").read_bytes()
    dataset = tk.data.open(http.url("set.npz"))
    wanted = np.array([5, 90, 3])
    for opened in (dataset, pickle.loads(pickle.dumps(dataset))):
        assert np.array_equal(opened.gather(wanted)["x"], rows["x"][wanted])
        opened.close()


@pytest.mark.parametrize("name", ["set.tar", "set-*.tar", "set-{0..3}.tar"])
def test_other_training_data_is_to_be_copied(http: FileServer, name: str) -> None:
    http.files["set.tar"] = bytes(10240)
    with pytest.raises(errors.UnsupportedError, match="tensorkeep copy"):
        tk.data.open(http.url() + name)
    with pytest.raises(errors.UnsupportedError, match="'images' is read from a disk alone"):
        tk.data.open(http.url("pictures"), kind="images")
    with pytest.raises(errors.MissingError, match=r"there is no such object$"):
        tk.data.open(http.url("nothing.npz"))


@pytest.mark.parametrize("url", ["s3://bucket/m.lmdb", "lmdb:s3://bucket/m", "gs://b/a.sqlite"])
def test_databases_are_to_be_copied(url: str) -> None:
    with pytest.raises(errors.UnsupportedError, match=r"on a disk alone.*tensorkeep copy"):
        tk.open(url)
    with pytest.raises(errors.UnsupportedError, match="on a disk alone"):
        tk.save({"w": np.zeros(3)}, url)


def test_labels_of_classes(http: FileServer) -> None:
    http.files["labels.txt"] = b"cat\ndog\n"
    assert read_labels(http.url("labels.txt")) == {0: "cat", 1: "dog"}
    with pytest.raises(errors.MissingError):
        read_labels(http.url("none.txt"))


def test_pictures(http: FileServer) -> None:
    pillow = pytest.importorskip("PIL.Image")
    from tensorkeep.models.images import Shape, read_image

    file = io.BytesIO()
    pillow.fromarray(np.full((8, 8, 3), 7, np.uint8)).save(file, "PNG")
    http.files["p.png"] = file.getvalue()
    shape = Shape("nhwc", 3, 8, 8, dtypes.UINT8)
    assert read_image(http.url("p.png"), shape).mean() == 7


def _zarr(count: int, **more: Any) -> dict[str, Any]:
    """Give the metadata of an array of int32, each in a chunk of its own."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [count],
        "data_type": "int32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
        **more,
    }


@pytest.mark.parametrize("path", ["x.zarr", "x.zarr/", "x.zarr/zarr.json"])
def test_chunks_that_a_web_server_does_not_list(http: FileServer, path: str) -> None:
    http.files["x.zarr/zarr.json"] = json.dumps(_zarr(20_000)).encode()
    for place in range(20_000):
        http.files[f"x.zarr/c/{place}"] = np.int32(place + 1).tobytes()
    with tk.open(http.url(path)) as state:
        (array,) = state.values()
        assert array[5:9].tolist() == [6, 7, 8, 9]
        assert np.array_equal(array[1000:1150], np.arange(1001, 1151))


def test_arrays_that_a_web_server_does_not_list(http: FileServer) -> None:
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    http.files["g.zarr/zarr.json"] = json.dumps(group).encode()
    http.files["g.zarr/a/zarr.json"] = json.dumps(_zarr(2)).encode()
    for look in (tk.open, tk.verify):
        with pytest.raises(errors.StoreError, match="no consolidated metadata, and a web server"):
            look(http.url("g.zarr"))


def test_one_chunk_in_a_store_that_declares_much(http: FileServer) -> None:
    size = 2 << 20
    chunk = {"name": "regular", "configuration": {"chunk_shape": [size // 4]}}
    known = {
        "a": _zarr(size // 4, chunk_grid=chunk),
        "b": _zarr(1 << 40, chunk_grid=chunk),
    }
    told = {"kind": "inline", "must_understand": False, "metadata": known}
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {},
        "consolidated_metadata": told,
    }
    http.files["m.zarr/zarr.json"] = json.dumps(group).encode()
    http.files["m.zarr/a/c/0"] = b"\1\0\0\0" * (size // 4)
    assert tk.load(http.url("m.zarr"), names="a")["a"].sum() == size // 4
    with tk.open(http.url("m.zarr")) as state:
        assert state["b"][7:9].tolist() == [0, 0]
        with pytest.raises(errors.UnsafeError, match="a web server does not list"):
            state["b"][: 1 << 20]


def test_shards_in_a_folder_of_a_web_server(http: FileServer, tmp_path: Path) -> None:
    state = {"a": np.arange(1000.0), "b": np.arange(2000.0)}
    tk.save(state, tmp_path / "m.safetensors", max_shard_size=9000)
    for file in tmp_path.iterdir():
        http.files[f"dir/{file.name}"] = file.read_bytes()
    index = Location(ObjectStore(http.url("").rstrip("/")), "dir/m.safetensors.index.json")
    testing.assert_equal_states(tk.load(index), state)
