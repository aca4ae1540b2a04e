"""Every format that is written: saved to a bucket, opened from there, equal; and onto itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from tests.models.running.making import model, save, tensor, value
from tests.servers import Bucket, FileServer, Proxy, Server
from tests.stores.objects import MB, store_of, unfinished

import tensorkeep as tk
from tensorkeep import errors, testing
from tensorkeep.format import Format
from tensorkeep.formats import WRITTEN
from tensorkeep.store import Location

WEIGHTS = np.arange(24, dtype=np.float32).reshape(4, 6)
BIAS = np.array([-1, 7, 3], np.int8)
NESTED = {"layer": {"w": WEIGHTS, "b": BIAS}, "step": 7, "name": "ünï"}
every_format = pytest.mark.parametrize("format", WRITTEN.values(), ids=WRITTEN)


@pytest.fixture(scope="module")
def bucket(s3: Server) -> Bucket:
    return s3.bucket()


def at(bucket: Bucket, key: str, **options: Any) -> Location:
    return tk.remote(bucket.url(key), **bucket.options, **options)


def small(format: Format) -> Any:
    return testing.fitting(format, NESTED, {"w": WEIGHTS, "b": BIAS}, WEIGHTS)


@every_format
def test_what_is_saved_comes_back(bucket: Bucket, format: Format, tmp_path: Path) -> None:
    key = f"matrix/{format.name}/a b{format.suffixes[0]}"
    needed = testing.needed(format)
    tk.save(small(format), at(bucket, key), format=format.name, **needed)
    found = tk.load(at(bucket, key))
    testing.assert_equal_states(found, small(format), format.name)
    with tk.open(at(bucket, key)) as state:
        assert state.format == format.name
        assert state.where.startswith(bucket.url(key))
    # The same bytes as on the disk.
    path = tmp_path / f"a b{format.suffixes[0]}"
    tk.save(small(format), path, format=format.name, **needed)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    store = store_of(bucket, f"matrix/{format.name}")
    for file in files:
        source = store.get(file.relative_to(tmp_path).as_posix())
        assert bytes(source.read(0, source.size)) == file.read_bytes()
    assert len(list(store.keys())) == len([p for p in tmp_path.rglob("*") if p.is_file()])


@every_format
def test_a_file_is_replaced_by_itself(bucket: Bucket, format: Format) -> None:
    """What is read lazily of a key is saved to the same key, with one more fact."""
    key = f"itself/{format.name}/a{format.suffixes[0]}"
    needed = testing.needed(format)
    tk.save(small(format), at(bucket, key), format=format.name, **needed)
    with tk.open(at(bucket, key)) as state:
        tk.save(state, at(bucket, key), format=format.name)
    testing.assert_equal_states(tk.load(at(bucket, key)), small(format), format.name)
    assert unfinished(bucket) == []


def test_a_large_file_is_replaced_by_itself(bucket: Bucket) -> None:
    """Its upload begins while the old one is still read, of which nothing may be lost."""
    value = {f"w{n}": np.full((1 << 20,), n, np.float32) for n in range(6)}
    tk.save(value, at(bucket, "large.safetensors"))
    with tk.open(at(bucket, "large.safetensors")) as state:
        tk.save(state, at(bucket, "large.safetensors"))
    testing.assert_equal_states(tk.load(at(bucket, "large.safetensors"), verify=True), value)


def test_shards(bucket: Bucket) -> None:
    value = {f"w{n}": np.full((1 << 18,), n, np.float32) for n in range(6)}
    where = "shards/model.safetensors"
    tk.save(value, at(bucket, where), max_shard_size="2MB")
    store = store_of(bucket, "shards")
    assert len(list(store.keys())) >= 4  # an index among them
    for found in (where, f"{where}.index.json", "shards/"):
        testing.assert_equal_states(tk.load(at(bucket, found)), value)
    tk.save({"w": WEIGHTS}, at(bucket, where))  # one file again, which is then what is read
    testing.assert_equal_states(tk.load(at(bucket, where)), {"w": WEIGHTS})


def test_a_folder_is_replaced_whole(bucket: Bucket) -> None:
    where = "folder/a.zarr"
    tk.save({"a": {"w": WEIGHTS, "b": BIAS}, "gone": BIAS}, at(bucket, where))
    tk.save({"a": {"w": WEIGHTS + 1}}, at(bucket, where))
    testing.assert_equal_states(tk.load(at(bucket, where)), {"a": {"w": WEIGHTS + 1}})
    assert not [key for key in store_of(bucket, where).keys() if "gone" in key or "/b/" in key]


def test_each_array_of_a_folder_is_one_request(bucket: Bucket, s3: Server) -> None:
    value = {f"w{n}": np.full((20, 20), n, np.float32) for n in range(12)}
    tk.save(value, at(bucket, "requests.zarr"))
    with Proxy(s3.port) as proxy:
        found = tk.load(tk.remote(bucket.url("requests.zarr"), **bucket.through(proxy).options))
        assert proxy.count() <= 12 + 7
    testing.assert_equal_states(found, value)


def test_a_model_with_data_beside_it(bucket: Bucket, tmp_path: Path) -> None:
    weights = tensor("w", np.ones((64, 64), np.float32))
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    made = model([node], [value("x", ("N", 64))], [value("y", ("N", 64))], [weights])
    with tk.open(save(made, tmp_path / "m.onnx")) as state:
        tk.save(state, at(bucket, "onnx/m.onnx"), external="weights of m.bin")
        assert sorted(store_of(bucket, "onnx").keys()) == ["m.onnx", "weights of m.bin"]
        with tk.open(at(bucket, "onnx/m.onnx")) as found:
            testing.assert_equal_states(found, state)
            tk.save(found, at(bucket, "onnx/m.onnx"))
        with tk.open(at(bucket, "onnx/m.onnx")) as found:
            testing.assert_equal_states(found, state)


@pytest.mark.parametrize("name", ["rclone_s3", "azure"])
def test_other_servers(request: pytest.FixtureRequest, name: str) -> None:
    server: Server = request.getfixturevalue(name)
    bucket = server.bucket()
    value = {"w": np.arange(3 * MB, dtype=np.float32), **NESTED}  # 12 MB, in two parts
    tk.save(value, at(bucket, "run/model.safetensors"))
    found = tk.load(at(bucket, "run/model.safetensors", whole=not server.ranges), verify=True)
    testing.assert_equal_states(found, value)


@every_format
def test_reading_over_http(http: FileServer, format: Format) -> None:
    if format.folder:
        pytest.skip("a folder cannot be listed over HTTP")
    name = f"a{format.suffixes[0]}"
    http.files = testing.encoded(format, small(format))
    http.files = {key.replace("state", "a"): data for key, data in http.files.items()}
    if len(http.files) > 1:
        pytest.skip("names its other files")
    testing.assert_equal_states(tk.load(http.url(name)), small(format), format.name)


def test_a_damaged_download_is_found_out(bucket: Bucket, http: FileServer) -> None:
    data = bytearray(testing.encoded(WRITTEN["safetensors"], {"w": WEIGHTS})["state.safetensors"])
    data[-5] ^= 1
    http.files["a.safetensors"] = bytes(data)
    with pytest.raises(errors.CorruptError, match="w"):
        tk.load(http.url("a.safetensors"), verify=True)


def test_a_gigabyte_is_opened_by_two_requests(s3: Server) -> None:
    """Scaled down: what opening costs does not depend on the size of the tensors."""
    bucket = s3.bucket()
    value = {f"w{n:03}": np.zeros(1 << 16, np.float32) for n in range(64)}
    tk.save(value, at(bucket, "a.safetensors"))
    with Proxy(s3.port) as proxy:
        where = tk.remote(bucket.url("a.safetensors"), **bucket.through(proxy).options)
        with tk.open(where) as state:
            assert proxy.count() <= 2
            assert proxy.received() < MB
            proxy.forget()
            assert state["w040"][100:200].nbytes == 400
            assert proxy.count() == 1
            assert proxy.received() < MB // 2  # with some of what is around it
