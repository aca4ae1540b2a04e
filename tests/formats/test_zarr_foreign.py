"""Stores that zarr-python and TensorStore wrote, and what zarr-python reads of ours."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

import tensorkeep as tk
from tensorkeep.errors import TensorKeepError, UnsupportedError
from tensorkeep.formats.zarr import grid
from tensorkeep.testing import assert_equal_states


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Let zarr-python warn of types that its next version may name otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


_RNG = np.random.default_rng(0)
ARRAYS: dict[str, Any] = {
    "f": _RNG.random((7, 5)).astype("f4"),
    "cube": _RNG.random((4, 6, 5)),
    "i": np.arange(-50, 50, dtype="i2"),
    "u": np.arange(9, dtype="u8").reshape(3, 3),
    "half": _RNG.random(6).astype("f2"),
    "c": np.array([1 + 2j, -1j]),
    "b": np.array([True, False, True]),
    "scalar": np.array(3.5),
    "none": np.zeros((0, 3)),
    "nan": np.array([np.nan, np.inf, -np.inf, -0.0]),
}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("consolidated", [False, True])
def test_what_zarr_python_writes(version: int, consolidated: bool, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    group.attrs["epoch"] = 3
    for name, array in ARRAYS.items():
        chunks = tuple(max(1, (axis + 1) // 2) for axis in array.shape)
        group.create_array(f"x/{name}", data=array, chunks=chunks or "auto")
    group.create_group("empty")
    if consolidated:
        zarr.consolidate_metadata(group.store)
    found = tk.load(tmp_path / "a.zarr")
    assert_equal_states(found, {"x": ARRAYS, "empty": {}})
    with tk.open(tmp_path / "a.zarr") as state:
        assert state.metadata == {"epoch": 3}
        assert np.array_equal(state["x.cube"][1:3, ::2, -1], ARRAYS["cube"][1:3, ::2, -1])
        for stop in range(8):
            assert np.array_equal(state["x.f"][stop // 2 : stop], ARRAYS["f"][stop // 2 : stop])


COMPRESSORS: dict[str, Any] = {
    "zlib": numcodecs.Zlib(),
    "gzip": numcodecs.GZip(),
    "bz2": numcodecs.BZ2(),
    "lzma": numcodecs.LZMA(),
    "zstd": numcodecs.Zstd(),
    "zstd-checksum": numcodecs.Zstd(checksum=True),
    "blosc": numcodecs.Blosc(),
    "blosc-zstd": numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE),
    "lz4": numcodecs.LZ4(),
}


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_compressors_of_version_2(name: str, order: Any, tmp_path: Path) -> None:
    array = np.arange(120, dtype=">i4").reshape(10, 12)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array(
        "w",
        data=array,
        chunks=(4, 5),
        compressors=COMPRESSORS[name],
        order=order,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    group.create_array(
        "d",
        data=array,
        chunks=(4, 12),
        compressors=COMPRESSORS[name],
        filters=[numcodecs.Delta(">i4"), numcodecs.Shuffle(4)],
    )
    assert_equal_states(tk.load(tmp_path / "a.zarr"), {"w": array, "d": array})


CODECS: dict[str, dict[str, Any]] = {
    "raw": {"compressors": None},
    "big": {"compressors": None, "serializer": zarr.codecs.BytesCodec(endian="big")},
    "gzip": {"compressors": zarr.codecs.GzipCodec()},
    "zstd": {"compressors": zarr.codecs.ZstdCodec(level=3, checksum=True)},
    "blosc": {"compressors": zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle")},
    "crc32c": {"compressors": [zarr.codecs.GzipCodec(), zarr.codecs.Crc32cCodec()]},
    "transpose": {"filters": zarr.codecs.TransposeCodec(order=(2, 0, 1))},
    "sharded": {"shards": (4, 6, 4)},
    "sharded-start": {
        "compressors": None,
        "shards": zarr.core.array.ShardsConfigParam(shape=(4, 6, 4), index_location="start"),
    },
    "dots": {"chunk_key_encoding": {"name": "default", "separator": "."}},
    "v2 keys": {"chunk_key_encoding": {"name": "v2", "separator": "."}},
}


@pytest.mark.parametrize("name", CODECS)
def test_codecs_of_version_3(name: str, tmp_path: Path) -> None:
    array = np.arange(5 * 6 * 7, dtype="f4").reshape(5, 6, 7)
    for kind in ("f4", "c16", "u1"):
        data = array.astype(kind)
        group = zarr.open_group(tmp_path / "a.zarr", mode="w")
        group.create_array("w", data=data, chunks=(2, 3, 4), **CODECS[name])
        assert_equal_states(tk.load(tmp_path / "a.zarr"), {"w": data})
        with tk.open(tmp_path / "a.zarr") as state:
            assert np.array_equal(state["w"][3, 1:4, ::3], data[3, 1:4, ::3])


def test_a_store_that_is_one_array(tmp_path: Path) -> None:
    for version in (2, 3):
        array = np.arange(6).reshape(2, 3)
        stored = zarr.create_array(
            tmp_path / f"{version}.zarr", data=array, zarr_format=version, attributes={"a": 1}
        )
        assert stored.shape == (2, 3)
        assert_equal_states(tk.load(tmp_path / f"{version}.zarr"), array)
        with tk.open(tmp_path / f"{version}.zarr") as state:
            assert state.metadata == {"a": 1}


@pytest.mark.parametrize("version", [2, 3])
def test_fill_values(version: int, tmp_path: Path) -> None:
    fills: dict[str, tuple[str, Any]] = {
        "nan": ("f4", np.nan),
        "inf": ("f8", -np.inf),
        "one": ("i2", -7),
        "on": ("b1", True),
        "c": ("c8", 1 - 2j),
        "none": ("f4", 0),
    }
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    expected = {}
    for name, (kind, fill) in fills.items():
        made = group.create_array(name, shape=(5, 3), chunks=(2, 3), dtype=kind, fill_value=fill)
        made[0] = 1
        expected[name] = np.asarray(made[:])
    assert_equal_states(tk.load(tmp_path / "a.zarr"), expected)


def test_fill_values_in_hex(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("w", shape=(2,), dtype="f4")
    path = tmp_path / "a.zarr/w/zarr.json"
    document = json.loads(path.read_text())
    document["fill_value"] = "0x7fc00001"
    path.write_text(json.dumps(document))
    assert tk.load(tmp_path / "a.zarr")["w"].view("u4").tolist() == [0x7FC00001] * 2


@pytest.mark.parametrize("version", [2, 3])
def test_strings(version: int, tmp_path: Path) -> None:
    texts = {
        "u": np.array([["ab", "ü"], ["", "xyz"]], "<U3"),
        "s": np.array([b"ab", b"c"], "|S4"),
    }
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
    for name, array in texts.items():
        group.create_array(name, data=array, chunks=(1,) * array.ndim)
    variable = np.array(["a", "bcd", "ü" * 50], np.dtypes.StringDType())
    group.create_array("v", data=variable, chunks=(2,))
    found = tk.load(tmp_path / "a.zarr")
    assert_equal_states({k: found[k] for k in texts}, texts)
    assert found["v"].tolist() == variable.tolist()


def test_types_that_are_refused(tmp_path: Path) -> None:
    for version in (2, 3):
        group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=version)
        group.create_array("t", data=np.array(["2020-01-01"], "M8[s]"))
        with pytest.raises(UnsupportedError, match=r"t: the data type .* is not known here"):
            tk.open(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"version": 2},
        {"checksums": False},
        {"compression": "gzip"},
        {"compression": "zstd", "crc32c": True},
        {"compression": "zstd", "version": 2},
        {"chunks": 64, "version": 2},
        {"chunks": (3, 2)},
    ],
    ids=str,
)
def test_zarr_python_reads_what_we_write(options: dict[str, Any], tmp_path: Path) -> None:
    texts = np.array(["a", "bü", ""], object)
    state = {"x": ARRAYS, "t": texts, "w": ARRAYS["f"].astype(">f8")}
    tk.save(state, tmp_path / "a.zarr", metadata={"epoch": 3}, **options)
    group: Any = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert group.attrs["epoch"] == 3
    for name, array in ARRAYS.items():
        found = np.asarray(group[f"x/{name}"][...])
        assert found.dtype == array.dtype
        assert found.tobytes() == array.tobytes()
    assert list(group["t"][:]) == texts.tolist()
    assert np.array_equal(group["w"][:], ARRAYS["f"])
    assert sorted(group.group_keys()) == ["x"]
    assert group["x/cube"].shape == (4, 6, 5)
    assert len(list(group.members(max_depth=None))) == len(ARRAYS) + 3


def test_zarr_python_changes_what_we_write(tmp_path: Path) -> None:
    tk.save({"w": np.zeros((4, 3))}, tmp_path / "a.zarr", checksums=False, chunks=(2, 3))
    group: Any = zarr.open_group(tmp_path / "a.zarr", mode="r+")
    group["w"][2:] = 7
    group.attrs["note"] = "changed"
    with tk.open(tmp_path / "a.zarr") as state:
        assert state["w"][:, 0].tolist() == [0, 0, 7, 7]
        assert state.metadata == {"note": "changed"}


def test_types_that_zarr_python_lacks_leave_the_others_readable(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    state = {"w": np.ones(2), "b": np.ones(2, ml_dtypes.bfloat16)}
    for version in (2, 3):
        tk.save(state, tmp_path / "a.zarr", version=version)
        group: Any = zarr.open_group(tmp_path / "a.zarr", mode="r")
        assert group["w"][:].tolist() == [1, 1]
        with pytest.raises(Exception, match="bfloat16"):
            group["b"]
        assert_equal_states(tk.load(tmp_path / "a.zarr", verify=True), state)


@pytest.mark.parametrize("version", [2, 3])
def test_zip_stores(version: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    with zarr.storage.ZipStore(path, mode="w") as store:
        group = zarr.open_group(store, mode="w", zarr_format=version)
        for name, array in ARRAYS.items():
            group.create_array(f"x/{name}", data=array)
    assert_equal_states(tk.load(path), {"x": ARRAYS})
    with tk.open(path) as state:
        assert state.format == "zarr"
        assert np.array_equal(state["x.f"][2:4], ARRAYS["f"][2:4])
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(TensorKeepError):
            tk.load(path)


@pytest.mark.parametrize("layout", ["v2", "v2-folders", "v3", "shards"])
def test_few_chunks_of_very_many(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "_MANY", 20)
    monkeypatch.setattr(grid, "_FEW", 5)
    options: dict[str, Any] = {"chunks": (1, 1)}
    if layout == "v2-folders":
        options["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    if layout == "shards":
        options["shards"] = (2, 2)
    path = tmp_path / "a.zarr"
    group = zarr.create_group(path, zarr_format=2 if layout.startswith("v2") else 3)
    array = group.create_array("w", shape=(31, 21), dtype="i2", fill_value=-3, **options)
    array[10:15, 5:8] = 9
    array[30, 20] = 5
    expected = array[...]
    with tk.open(path) as state:
        assert state["w"][14:16, 4:6].tolist() == [[-3, 9], [-3, -3]]
        assert np.array_equal(state["w"].numpy(), expected)
        assert np.array_equal(state["w"][9:], expected[9:])
        assert state["w"][14:16, 4:6].tolist() == [[-3, 9], [-3, -3]]
