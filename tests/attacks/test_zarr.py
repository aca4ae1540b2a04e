"""zarr stores that declare what they do not hold, lead elsewhere or unpack without end."""

from __future__ import annotations

import bz2
import copy
import gzip
import json
import lzma
import struct
import zlib
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import (
    CorruptError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.wire.crc32c import crc32c

GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
ARRAY: dict[str, Any] = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [4],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4]}},
    "chunk_key_encoding": {"name": "default"},
    "fill_value": 0,
    "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
}


def store(chunk: bytes | None = None, path: str = "w", **changes: Any) -> dict[str, bytes]:
    nodes = {path: copy.deepcopy(ARRAY) | changes}
    root = {**GROUP, "consolidated_metadata": {"metadata": nodes}}
    files = {"zarr.json": json.dumps(root).encode()}
    return files if chunk is None else {**files, f"{path}/c/0": chunk}


def store_v2(chunk: bytes | None = None, **changes: Any) -> dict[str, bytes]:
    array = {
        "zarr_format": 2,
        "shape": [4],
        "chunks": [4],
        "dtype": "<f4",
        "compressor": None,
        "fill_value": 0,
        "order": "C",
        "filters": None,
    }
    files = {".zgroup": b'{"zarr_format": 2}', "w/.zarray": json.dumps(array | changes).encode()}
    return files if chunk is None else {**files, "w/0": chunk}


def load(files: dict[str, bytes]) -> Any:
    return tk.load(Location(MemoryStore(files), "zarr.json" if "zarr.json" in files else ""))


def refused(files: dict[str, bytes], kind: type[TensorKeepError], problem: str) -> None:
    with pytest.raises(kind, match=problem):
        load(files)


def chunked(*sizes: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(sizes)}}


def test_the_templates_are_sound() -> None:
    assert load(store(np.ones(4, "f4").tobytes()))["w"].tolist() == [1] * 4
    assert load(store_v2(np.ones(4, "f4").tobytes()))["w"].tolist() == [1] * 4


def test_four_terabytes_in_a_kilobyte() -> None:
    for chunks in (chunked(1 << 40), chunked(1 << 20), chunked(1 << 10)):
        files = store(shape=[1 << 40], chunk_grid=chunks)
        with tk.open(Location(MemoryStore(files))) as state:
            assert state["w"].nbytes == 1 << 42
            if chunks != chunked(1 << 40):
                assert state["w"][1 << 30 : (1 << 30) + 5].tolist() == [0] * 5
        refused(files, UnsafeError, "declares 4,398,046,511,104 bytes of arrays.*Read slices of it")
    refused(store_v2(shape=[1 << 40], chunks=[1 << 30]), UnsafeError, "Read slices")


def test_many_arrays_that_are_not_there() -> None:
    nodes = {
        f"w{i}": ARRAY | {"shape": [1 << 24], "chunk_grid": chunked(1 << 20)} for i in range(99)
    }
    root = {**GROUP, "consolidated_metadata": {"metadata": nodes}}
    refused({"zarr.json": json.dumps(root).encode()}, UnsafeError, "declares 6,643,777,536 bytes")


def test_grids_and_shapes_that_make_no_sense() -> None:
    cases: list[tuple[dict[str, Any], type[TensorKeepError], str]] = [
        ({"shape": [-4]}, CorruptError, "is no shape"),
        ({"shape": "4"}, CorruptError, "is no shape"),
        ({"shape": [1] * 65}, CorruptError, "is no shape"),
        ({"shape": [2**62, 2**62]}, CorruptError, "do not fit"),
        ({"shape": [2**62], "chunk_grid": chunked(2**62)}, CorruptError, "no array can have"),
        ({"shape": [2**62], "chunk_grid": chunked(1)}, CorruptError, "too many"),
        ({"chunk_grid": chunked(0)}, CorruptError, "do not fit"),
        ({"chunk_grid": chunked(2, 2)}, CorruptError, "do not fit"),
        ({"chunk_grid": {"name": "hexagons"}}, UnsupportedError, "is not regular"),
        ({"codecs": []}, CorruptError, "lists no codecs"),
        ({"codecs": [{"name": "rm -rf"}]}, UnsupportedError, "'rm -rf' is not known"),
        ({"codecs": [*ARRAY["codecs"], {"name": "pickle"}]}, UnsupportedError, "'pickle' is not"),
        ({"data_type": "object"}, UnsupportedError, "'object' is not known"),
        ({"data_type": {"name": "x"}}, UnsupportedError, "is not known"),
        ({"fill_value": "0xzz"}, CorruptError, "no fill value"),
        ({"fill_value": [1, 2]}, CorruptError, "no fill value"),
        ({"fill_value": {}}, CorruptError, "no fill value"),
        ({"chunk_key_encoding": {"name": "../"}}, CorruptError, "cannot be named"),
        (
            {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/../"}}},
            CorruptError,
            "cannot be named",
        ),
        ({"zarr_format": 4}, CorruptError, "zarr_format is not 3"),
        ({"node_type": "door"}, CorruptError, "neither an array nor a group"),
        ({"attributes": []}, CorruptError, "attributes are not an object"),
        ({"storage_transformers": [1]}, UnsupportedError, "storage transformers"),
    ]
    for changes, kind, problem in cases:
        refused(store(**changes), kind, problem)


def test_version_2_that_makes_no_sense() -> None:
    cases: list[tuple[dict[str, Any], type[TensorKeepError], str]] = [
        ({"dtype": "|O"}, UnsupportedError, "is not known"),
        ({"dtype": "|O", "filters": [{"id": "pickle"}]}, UnsupportedError, "is not known"),
        ({"dtype": [["a", "<f4"]]}, UnsupportedError, "is not known"),
        ({"dtype": "<f7"}, UnsupportedError, "is not known"),
        ({"dtype": "<U999999999"}, UnsupportedError, "is not known"),
        ({"filters": [{"id": "pickle"}]}, UnsupportedError, "'pickle' is not known"),
        ({"filters": 1}, CorruptError, "filters are not a list"),
        ({"compressor": {}}, CorruptError, "describes no codec"),
        ({"compressor": {"id": "os.system"}}, UnsupportedError, "'os.system' is not known"),
        ({"order": "Z"}, CorruptError, "its order is"),
        ({"dimension_separator": "/../../"}, CorruptError, "its separator"),
        ({"zarr_format": 3}, CorruptError, "is not 2"),
    ]
    for changes, kind, problem in cases:
        refused(store_v2(**changes), kind, problem)


@pytest.mark.parametrize("path", ["../w", "/etc/passwd", "a/../../w", "a//b", ".", "a\\b", "a\0b"])
def test_paths_that_lead_out(path: str) -> None:
    refused(store(path=path), UnsafeError, "is not inside its own folder")


def test_arrays_within_arrays() -> None:
    nodes = {"w": ARRAY, "w/v": ARRAY}
    root = {**GROUP, "consolidated_metadata": {"metadata": nodes}}
    refused({"zarr.json": json.dumps(root).encode()}, CorruptError, "lies within an array")
    deep = store(path="/".join(["a"] * 200))
    refused(deep, UnsupportedError, "nest deeper than 100 levels")


def test_names_that_lie() -> None:
    for name, problem in (("v", "two arrays are called 'v'"), ("../x", "as a folder")):
        nodes = {"v": ARRAY, "w": ARRAY | {"attributes": {"tensorkeep": {"name": name}}}}
        root = {**GROUP, "consolidated_metadata": {"metadata": nodes}}
        refused({"zarr.json": json.dumps(root).encode()}, TensorKeepError, problem)


def test_links_that_lead_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(16))
    tk.save({"w": np.ones(2)}, tmp_path / "a.zarr", checksums=False)
    chunk = tmp_path / "a.zarr/w/c/0"
    chunk.unlink()
    chunk.symlink_to(secret)
    with pytest.raises(UnsafeError, match="outside its own folder"):
        tk.load(tmp_path / "a.zarr")
    chunk.unlink()
    chunk.parent.rmdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "c/0").write_bytes(bytes(16))
    chunk.parent.symlink_to(tmp_path / "c")
    with pytest.raises(UnsafeError, match="outside its own folder"):
        tk.load(tmp_path / "a.zarr")


_NULLS = bytes(100 << 20)
BOMBS: dict[str, bytes] = {
    "gzip": gzip.compress(_NULLS),
    "zlib": zlib.compress(_NULLS),
    "bz2": bz2.compress(_NULLS),
    "lzma": lzma.compress(_NULLS[: 20 << 20], preset=0),
    "zstd": numcodecs.Zstd().encode(_NULLS),
    "blosc": numcodecs.Blosc().encode(_NULLS),
    "lz4": numcodecs.LZ4().encode(_NULLS),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str) -> None:
    refused(store_v2(BOMBS[name], compressor={"id": name}), UnsafeError, "more than the 16 bytes")
    if name in ("gzip", "zstd", "blosc"):
        codecs = [*ARRAY["codecs"], {"name": name}]
        refused(store(BOMBS[name], codecs=codecs), UnsafeError, "more than the 16 bytes")


def test_bombs_of_zstd_that_do_not_say_how_large_they_are() -> None:
    block = (0 | 1 << 1 | (128 << 10) << 3).to_bytes(3, "little") + b"\0"
    last = (1 | 1 << 1 | (128 << 10) << 3).to_bytes(3, "little") + b"\0"
    head = struct.pack("<I", 0xFD2FB528) + bytes([0, 0x58])
    bomb = head + block * 20_000 + last
    refused(store_v2(bomb, compressor={"id": "zstd"}), UnsafeError, "more than the 16 bytes")
    claims = struct.pack("<IB", 0xFD2FB528, 0xC0) + b"\x58" + struct.pack("<Q", 1 << 40) + last
    refused(
        store_v2(claims, shape=[1 << 38], chunks=[1 << 38], compressor={"id": "zstd"}),
        UnsafeError,
        "Read slices",
    )


def test_chunks_that_are_not_what_they_should_be() -> None:
    for name in BOMBS:
        for data in (b"", b"\0", b"garbage" * 10, BOMBS[name][:9]):
            with pytest.raises(TensorKeepError):
                load(store_v2(data, compressor={"id": name}))
    short = gzip.compress(bytes(12))
    refused(store_v2(short, compressor={"id": "gzip"}), CorruptError, "unpacks to 12 bytes, not 16")
    refused(store(bytes(15)), CorruptError, "has 15 bytes, not 16")
    refused(store(bytes(17)), CorruptError, "has 17 bytes, not 16")


def test_shards_that_lie() -> None:
    def sharded(table: list[int], body: bytes = bytes(16), crc: int | None = None) -> Any:
        index = struct.pack(f"<{len(table)}Q", *table)
        found = crc32c(index) if crc is None else crc
        codecs = {
            "name": "sharding_indexed",
            "configuration": {
                "chunk_shape": [2],
                "codecs": ARRAY["codecs"],
                "index_codecs": [*ARRAY["codecs"], {"name": "crc32c"}],
            },
        }
        return store(body + index + struct.pack("<I", found), codecs=[codecs])

    assert load(sharded([0, 8, 8, 8]))["w"].tolist() == [0] * 4
    assert load(sharded([2**64 - 1] * 4))["w"].tolist() == [0] * 4
    refused(sharded([0, 8, 1000, 8]), CorruptError, "bytes 1000 to 1008 were asked for")
    refused(sharded([0, 8, 2**64 - 9, 8]), CorruptError, "were asked for")
    refused(sharded([0, 2**63, 8, 8]), CorruptError, "were asked for")
    refused(sharded([0, 8, 8, 9]), CorruptError, "unpacks to 9 bytes, not 8")
    refused(sharded([0, 8, 8, 8], crc=1), CorruptError, "table of its chunks is damaged")
    refused(sharded([0], b""), CorruptError, "a shard of 2 chunks")


def test_strings_that_lie() -> None:
    vlen = [{"name": "vlen-utf8"}]
    for data, problem in (
        (b"", "has 0 strings, not 4"),
        (struct.pack("<I", 5), "has 5 strings"),
        (struct.pack("<5I", 4, 0, 0, 0, 1), "ends behind its chunk"),
        (struct.pack("<5I", 4, 2**32 - 1, 0, 0, 0), "ends behind its chunk"),
    ):
        refused(store(data, data_type="string", codecs=vlen, fill_value=""), CorruptError, problem)
    huge = store(data_type="string", codecs=vlen, shape=[1 << 40], fill_value="")
    refused(huge, UnsafeError, "strings are more than are read")
    bad = store_v2(b"\xff" * 16, dtype="<U1", fill_value="")
    refused(bad, CorruptError, "its strings are damaged")


def test_metadata_that_is_no_json() -> None:
    for data in (b"{", b'{"a": 1, "a": 2}', b"{" * 100_000, b"\xff"):
        with pytest.raises(TensorKeepError):
            tk.load(Location(MemoryStore({"zarr.json": data})))
    with pytest.raises(CorruptError, match="not a JSON object"):
        tk.load(Location(MemoryStore({"zarr.json": b"[]"})))


CRC = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
SHARDS = {"chunk_shape": [1], "codecs": CRC, "index_codecs": ["bytes", "crc32c"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [1 << 47], "chunk_grid": chunked(1), "codecs": CRC},
        {"shape": [1 << 26], "chunk_grid": chunked(1)},
        {"shape": [1 << 13, 1 << 13], "chunk_grid": chunked(1, 1)},
        {
            "shape": [1 << 40],
            "chunk_grid": chunked(1 << 20),
            "codecs": [{"name": "sharding_indexed", "configuration": SHARDS}],
        },
    ],
)
def test_more_chunks_than_can_be_looked_for(changes: dict[str, Any]) -> None:
    location = Location(MemoryStore(store(**changes)))
    tk.verify(location)
    with tk.open(location) as state:
        assert not state["w"][-1:].any()
        if state["w"].nbytes < 1 << 30:
            assert not state["w"].numpy().any()


def test_more_strings_than_can_be_held() -> None:
    texts: dict[str, Any] = {"data_type": "string", "fill_value": "", "codecs": ["vlen-utf8"]}
    for chunks in (chunked(1), chunked(1 << 25)):
        files = store(shape=[1 << 25], chunk_grid=chunks, **texts)
        refused(files, UnsafeError, "declares 33,554,432 strings or more, which it holds too")
    nodes = {f"w{i}": ARRAY | texts | {"shape": [1 << 18]} for i in range(9)}
    root = {**GROUP, "consolidated_metadata": {"metadata": nodes}}
    refused({"zarr.json": json.dumps(root).encode()}, UnsafeError, "strings or more")


def test_fill_values_that_are_none() -> None:
    refused(store(data_type="complex64", fill_value=["abc", 0]), CorruptError, "no fill value")
    refused(store(fill_value="0x" + "f" * 9), CorruptError, "no fill value")
    assert load(store(data_type="int32", fill_value="0x1"))["w"].tolist() == [1] * 4


@pytest.mark.parametrize("ending", ["tensors.pb", "msgpack"])
def test_converting_what_is_not_there(ending: str, tmp_path: Path) -> None:
    location = Location(MemoryStore(store(shape=[1 << 50], chunk_grid=chunked(1 << 50))))
    with pytest.raises(UnsafeError, match="declares"):
        tk.convert(location, tmp_path / f"a.{ending}", lossy=True)
    assert not list(tmp_path.iterdir())
