"""What samples are written to: each kind read back, with the same values."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16, int4
from tests.batches.writing.samples import IMAGES, check, samples, tree

import tensorkeep as tk
from tensorkeep.data import sources
from tensorkeep.data.writing import write
from tensorkeep.source import MemorySource
from tensorkeep.stores import open_database
from tensorkeep.wire.caffe2.protos import decode_record, encode_record

DATABASES = ["lmdb", "leveldb", "rocksdb", "sqlite", "minidb"]
ARRAYS = ["npz", "safetensors", "h5", "zarr", "json", "pt", "gguf", "onnx", "tensors.pb"]


@pytest.mark.parametrize("ending", ["tar", *DATABASES, *ARRAYS])
def test_one_file(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"train.{ending}"
    for count in (3, 7):  # the second one replaces the first
        written = write(samples(count), path, durable=count == 7)
        assert (written.samples, written.files, written.skipped) == (count, (str(path),), 0)
        assert os.listdir(tmp_path) == [path.name]
        assert written.bytes == sum(map(len, tree(tmp_path).values()))
        if ending not in ("pt", "gguf", "onnx", "tensors.pb"):
            check(path, count)
    if ending in ARRAYS:
        found = tk.load(path, framework="numpy")
        assert np.array_equal(found["image"], IMAGES[:7])
        assert found["label"].tolist() == [i * 7 % 10 for i in range(7)]


@pytest.mark.parametrize("ending", ["tar", "lmdb", "minidb", "npz", "zarr"])
def test_several_files(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"train.{ending}"
    written = write(samples(), path, shard_samples=3)
    names = [f"train-{i:05d}.{ending}" for i in range(3)]
    assert [os.path.basename(file) for file in written.files] == names
    assert sorted(os.listdir(tmp_path)) == sorted([*names, f"train.{ending}.index.json"])
    check(path)
    for name, count in zip(names, (3, 3, 1), strict=True):
        with sources.open(tmp_path / name) as shard:
            assert len(shard) == count


@pytest.mark.parametrize("kind", DATABASES)
def test_records_of_a_database(kind: str, tmp_path: Path) -> None:
    """Keys are numbers in order, values the messages that encode_record gives."""
    values: list[dict[str, Any]] = [
        {
            "f32": np.arange(6, dtype=np.float32).reshape(2, 3) + i,
            "f64": np.array([0.1 * i, np.nan]),
            "u8": IMAGES[i].T,
            "i8": np.arange(-3, 3, dtype=np.int8),
            "b": np.array([True, False, i > 0]),
            "none": np.zeros((0, 3), np.float32),
            "big": np.arange(4, dtype=">f4"),
            "scalar": np.float64(i),
            "label": i,
            "flag": i == 1,
            "text": "é" * i,
            "raw": b"\xff\0" * i,
        }
        for i in range(3)
    ]
    path = tmp_path / f"a.{kind}"
    write(values, path)
    with open_database(kind, path) as database:
        records = {key: bytes(source.read(0, source.size)) for key, source in database.records()}
    assert sorted(records) == ["0000000000", "0000000001", "0000000002"]
    for value, record in zip(values, records.values(), strict=True):
        assert record == encode_record({**value, "big": value["big"].astype("<f4")})
        found = dict(decode_record(MemorySource(record), 0, len(record), "record"))
        assert list(found) == list(value)
        for name in ("f32", "f64", "u8", "i8", "b", "none", "big"):
            assert np.array_equal(found[name].numpy(), value[name], equal_nan=name == "f64"), name


def test_numbers_and_texts_of_a_database(tmp_path: Path) -> None:
    """Alike values are encoded together; each record is still what encode_record gives."""
    bounds = [(1 << k) + more for k in (0, 7, 8, 14, 21, 28, 31, 32, 56, 63) for more in (-1, 0)]
    values: list[Any] = []
    for dtype in ("int8", "uint8", "int16", "uint16", "int32", "int64"):
        known = np.iinfo(dtype)
        fitting = [n for n in (*bounds, *(-n for n in bounds)) if known.min <= n <= known.max]
        values += [np.dtype(dtype).type(n) for n in fitting]
    values += [np.dtype(d).type(x) for d in ("f2", "f4", "f8") for x in (0, -0.0, 0.1, np.nan)]
    values += [np.True_, np.False_, np.float64(7), np.arange(3.0), np.arange(3.0) + 1]
    values += ["", "a", "b", "é", "éa", "a" * 3000, "b" * 3000, b"\xff\0", b"\0\xff", b"", "a\0"]
    write([{"n": value} for value in values], tmp_path / "a.minidb", durable=False)
    with open_database("minidb", tmp_path / "a.minidb") as database:
        records = [bytes(source.read(0, source.size)) for _, source in database.records()]
    assert records == [encode_record({"n": value}) for value in values]


def test_members_of_a_tar(tmp_path: Path) -> None:
    given = {
        "image": IMAGES[0].T,
        "label": np.int32(-7),
        "large": 2**63,
        "score": 0.5,
        "flag": np.True_,
        "text": "zwölf",
        "raw": b"\0\1",
        "meta": {"a": [1, None]},
        "list": [1, "b"],
        "half": np.arange(3, dtype=bfloat16),
        "jpeg": b"\xff\xd8",
        "note": "hi",
    }
    path = tmp_path / "a.tar"
    write([given] * 2, path, endings={"jpeg": "jpg", "note": ".md"})
    assert path.stat().st_size % 10240 == 0
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        found = {m.name: tar.extractfile(m).read() for m in members}  # type: ignore[union-attr]
    assert list(found)[:3] == [
        "0000000000.image.npy",
        "0000000000.label.cls",
        "0000000000.large.npy",
    ]
    assert len(found) == 2 * len(given)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}
    of_second = {name.removeprefix("0000000001."): data for name, data in found.items()}
    assert np.array_equal(np.load(io.BytesIO(of_second["image.npy"])), IMAGES[0].T)
    assert of_second["label.cls"] == b"-7"
    assert np.load(io.BytesIO(of_second["large.npy"])) == 2**63
    assert np.load(io.BytesIO(of_second["score.npy"])).shape == ()
    assert np.load(io.BytesIO(of_second["flag.npy"])).dtype == bool
    assert of_second["text.txt"].decode() == "zwölf"
    assert of_second["raw.bin"] == b"\0\1"
    assert json.loads(of_second["meta.json"]) == {"a": [1, None]}
    assert json.loads(of_second["list.json"]) == [1, "b"]
    assert of_second["jpeg.jpg"] == b"\xff\xd8"
    assert of_second["note.md"] == b"hi"


def test_a_tar_reads_back_equal(tmp_path: Path) -> None:
    def given(i: int) -> dict[str, Any]:
        return {
            "a": np.full((i, 2), i, np.int16),
            "half": np.arange(i, dtype=bfloat16),
            "n": i - 5,
            "x": float(i) / 3,
            "t": f"text {i}",
            "raw": bytes([i] * 1000),
            "meta": {"i": i},
        }

    write(map(given, range(12)), tmp_path / "a.tar")
    with sources.open(tmp_path / "a.tar") as dataset:
        for i, found in enumerate(dataset.samples(dataset.check(np.arange(12)))):
            expected = given(i)
            assert list(found) == list(expected)
            for name, value in expected.items():
                assert np.array_equal(np.asarray(found[name]), np.asarray(value)), (i, name)
            assert np.asarray(found["half"]).dtype == bfloat16


def test_the_same_samples_make_the_same_bytes(tmp_path: Path) -> None:
    trees = []
    for name in "ab":
        (tmp_path / name).mkdir()
        for ending in ("tar", "minidb", "npz", "safetensors"):
            write(samples(), tmp_path / name / f"train.{ending}", shard_samples=4)
        trees.append(tree(tmp_path / name))
    assert trees[0] == trees[1]


def test_narrow_types_and_text_as_arrays(tmp_path: Path) -> None:
    given = [
        {
            "four": np.array([i, -1, 7], int4),
            "half": np.full(2, i, bfloat16),
            "text": "é" * i,
            "pair": np.array(["a", "b" * i]),
        }
        for i in range(5)
    ]
    write(given, tmp_path / "a.safetensors")
    found = tk.load(tmp_path / "a.safetensors")
    assert found["four"].dtype == int4
    assert found["four"].astype(int).tolist() == [[i, -1, 7] for i in range(5)]
    assert found["half"].astype(float).tolist() == [[i, i] for i in range(5)]
    assert list(found["text"]) == ["é" * i for i in range(5)]
    assert found["pair"].tolist() == [["a", "b" * i] for i in range(5)]


def test_bytes_as_arrays_where_that_is_accepted(tmp_path: Path) -> None:
    write([{"raw": b"\xff\0"}, {"raw": b"ab"}], tmp_path / "a.npz", lossy=True)
    found = tk.load(tmp_path / "a.npz")["raw"]
    assert [text.encode("utf-8", "surrogateescape") for text in found] == [b"\xff\0", b"ab"]


def test_one_field_as_npy(tmp_path: Path) -> None:
    write(({"x": image} for image in IMAGES), tmp_path / "a.npy")
    assert np.array_equal(np.load(tmp_path / "a.npy"), IMAGES)


def test_formats_by_name_and_options(tmp_path: Path) -> None:
    write(samples(), tmp_path / "one", format="tar")
    check(tmp_path / "one")
    write(samples(), tmp_path / "two", format="lmdb", map_size=1 << 24)
    check(tmp_path / "two")
    write(samples(), tmp_path / "a.npz", compress=True)
    check(tmp_path / "a.npz")


def test_an_empty_folder_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "a.lmdb").mkdir()
    write(samples(), tmp_path / "a.lmdb")
    check(tmp_path / "a.lmdb")


def test_a_database_that_is_read_while_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.lmdb"
    write(samples(3), path)
    with sources.open(path) as before:
        write(samples(7), path)
        assert np.array_equal(before[2]["image"], IMAGES[2])
    check(path)
