"""What a path, a pattern, a list or a manifest opens as; and what is said where it does not."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import checksum
from tensorkeep.data.dataset import Field
from tensorkeep.data.sources import open
from tensorkeep.data.sources.joined import JoinedDataset
from tensorkeep.data.sources.sharded import is_pattern, paths_of
from tensorkeep.data.writing.manifest import Manifest, Shard
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    CorruptError,
    MissingError,
    TensorKeepError,
    UnknownFormatError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.tensor import Tensor


def _shards(folder: Path, count: int, rows: int = 4) -> list[Path]:
    paths = [folder / f"train-{number:05}.npz" for number in range(count)]
    for number, path in enumerate(paths):
        np.savez(path, x=np.arange(rows) + rows * number, y=np.zeros((rows, 2), np.uint8))
    return paths


def _manifest(folder: Path, count: int = 3) -> Path:
    """Write a dataset train.npz in several files."""
    rows = [
        Shard(
            path.name,
            4,
            path.stat().st_size,
            checksum.digest(Tensor.of(np.frombuffer(path.read_bytes(), np.uint8))),
        )
        for path in _shards(folder, count)
    ]
    fields = {"x": Field("int64", ()), "y": Field("uint8", (2,))}
    manifest = Manifest("npz", fields, tuple(rows))
    manifest.write(str(folder / "train.npz.index.json"), durable=False)
    return folder / "train.npz"


def test_patterns(tmp_path: Path) -> None:
    _shards(tmp_path, 12)
    np.savez(tmp_path / "extra.npz", x=np.arange(2), y=np.zeros((2, 2), np.uint8))
    for pattern, count in {
        "train-*.npz": 48,
        "train-0000[0-3].npz": 16,
        "train-{00000..00011}.npz": 48,
        "train-{00009..00011}.npz": 12,
        "train-{00011..00009}.npz": 12,
        "{extra,train-00003}.npz": 6,
        "{extra,train-*}.npz": 50,
        "extra.np?": 2,
    }.items():
        with open(f"{tmp_path}/{pattern}") as dataset:
            assert len(dataset) == count, pattern
    with open(f"{tmp_path}/train-{{00002..00001}}.npz") as dataset:
        assert dataset.gather(np.arange(8))["x"].tolist() == [8, 9, 10, 11, 4, 5, 6, 7]
        assert dataset.where == f"{tmp_path}/train-{{00002..00001}}.npz"


def test_what_lies_beside_the_data_is_no_data(tmp_path: Path) -> None:
    _manifest(tmp_path, 2)
    for name in (".hidden.npz", "train-00000.npz.index.safetensors"):
        (tmp_path / name).write_bytes(b"")
    found = paths_of(f"{tmp_path}/train*")
    assert [Path(path).name for path in found] == ["train-00000.npz", "train-00001.npz"]


def test_a_name_that_looks_like_a_pattern(tmp_path: Path) -> None:
    np.save(tmp_path / "a[1]*.npy", np.arange(3))
    assert len(open(tmp_path / "a[1]*.npy")) == 3
    assert is_pattern("a[1]*.npy")
    assert not is_pattern("a{1}.npy")


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("train-{00000..00003}.npz", r"train-00002.npz: there is no such file. 4 files are named"),
        ("valid-*.npz", "no file is named so"),
    ],
)
def test_patterns_of_what_is_not_there(tmp_path: Path, pattern: str, told: str) -> None:
    _shards(tmp_path, 2)
    with pytest.raises(MissingError, match=told):
        open(f"{tmp_path}/{pattern}")


def test_a_pattern_of_too_many() -> None:
    with pytest.raises(ArgumentError, match="means more than 100,000 files"):
        open("x-{0..99999999999}.{0..9999999}.tar")
    with pytest.raises(ArgumentError, match="has more than 100 braces"):
        open("{a,b}" * 2000)
    with pytest.raises(TensorKeepError):
        open(f"x-{{0..{'9' * 5000}}}.tar")


def test_a_misspelt_path(tmp_path: Path) -> None:
    np.save(tmp_path / "train.npy", np.arange(3))
    with pytest.raises(MissingError, match=r"there is no such file. Did you mean .*train.npy"):
        open(tmp_path / "tran.npy")
    with pytest.raises(MissingError, match="Its folder is missing too"):
        open(tmp_path / "gone" / "train.npy")


@pytest.mark.parametrize("data", [b"a,b\n1,2\n", b"\x00" * 5000, b"%PDF-1.7"])
def test_a_file_that_is_no_data(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.data").write_bytes(data)
    with pytest.raises(TensorKeepError) as told:
        open(tmp_path / "a.data")
    assert isinstance(told.value, UnknownFormatError)
    assert "Training data is read from arrays" in str(told.value)


def test_a_folder_that_is_no_data(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UnknownFormatError, match="Training data is read from arrays"):
        open(tmp_path)


def test_kinds(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    assert len(open(tmp_path / "a.npy", kind="arrays")) == 3
    with pytest.raises(
        ArgumentError, match=r"there is no kind 'arays' of training data. There are"
    ):
        open(tmp_path / "a.npy", kind="arays")
    with pytest.raises(TensorKeepError):
        open(tmp_path / "a.npy", kind="tar")


def test_a_tar_is_told_by_its_bytes(tmp_path: Path) -> None:
    for name in ("a.tar", "a.npy"):
        with tarfile.open(tmp_path / name, "w") as tar:
            for key in range(3):
                member = tarfile.TarInfo(f"{key:04}.cls")
                member.size = 1
                tar.addfile(member, io.BytesIO(str(key).encode()))
        with open(tmp_path / name) as dataset:
            assert dataset.kind == "tar"
            assert len(dataset) == 3
            assert dataset.gather(np.array([2, 0]))["cls"].tolist() == [2, 0]


@pytest.mark.parametrize("kind", [None, "npy", "arrays", "images", "records", "columns", "tar"])
@pytest.mark.parametrize("name", ["gone", "a.txt", "nul\0"])
def test_what_is_not_there_by_any_kind(tmp_path: Path, name: str, kind: str | None) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(TensorKeepError):
        open(f"{tmp_path}/{name}", kind=kind)


def test_numbers_are_checked_whoever_asks(tmp_path: Path) -> None:
    """A wrong number gives an error, and one from the end that sample: never another one."""
    records = [{"n": np.int32(i)} for i in range(5)]
    for name in ("a.minidb", "a.tar", "a.npz"):
        tk.data.write(iter(records), tmp_path / name)
    np.save(tmp_path / "a.npy", np.arange(5))
    tk.save({"n:lengths": np.ones(5, int), "n:values": np.arange(5)}, tmp_path / "c.safetensors")
    sources: list[Any] = [tmp_path / f"a.{end}" for end in ("minidb", "tar", "npz", "npy")]
    sources += [tmp_path / "c.safetensors", [tmp_path / "a.npz", tmp_path / "a.minidb"], records]
    for source in sources:
        with open(source) as dataset:
            last = len(dataset) - 1
            given: list[Any] = [[-1, 0], np.array([-1, 0], np.int8), np.array([last, 0], "u8")]
            for rows in given:
                assert list(dataset.gather(rows).values())[-1].tolist() == [4, 0]
                found = [list(sample.values())[-1] for sample in dataset.samples(rows)]
                assert [np.ravel(value).tolist() for value in found] == [[4], [0]]
            wrong: list[Any] = [[last + 1], [-last - 2], [0.0], [True], [[0]], 2**70, [2**70]]
            for rows in wrong:
                with pytest.raises(ArgumentError, match=r"no sample|have numbers"):
                    dataset.gather(rows)
        with pytest.raises(ClosedError):
            dataset.gather(np.array([0]))


def test_bytes_are_no_path_and_no_samples() -> None:
    with pytest.raises(ArgumentError, match=r"bytes are no samples\. A path is text"):
        open(b"train.npz")


def test_relative_names_mean_the_same_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker process may start elsewhere, and a program may go elsewhere."""
    monkeypatch.chdir(tmp_path)
    os.mkdir("away")
    os.mkdir("folder")
    np.save("folder/n.npy", np.arange(5))
    tk.save({"n": np.arange(5)}, "a.npz")
    tk.save({"n": np.arange(5, 9)}, "b.npz")
    tk.save({"n:lengths": np.ones(5, np.int32), "n:values": np.arange(5)}, "columns.safetensors")
    for name in ("a.minidb", "a.tar"):
        tk.data.write(({"n": np.int32(i)} for i in range(5)), name)
    tk.data.write(({"n": np.int32(i)} for i in range(5)), "s.tar", shard_samples=2)
    names = ("folder", "a.npz", "?.npz", "columns.safetensors", "a.minidb", "minidb:a.minidb")
    for name in (*names, "a.tar", "s.tar"):
        with open(name) as dataset:
            packed = pickle.dumps(dataset)
            monkeypatch.chdir("away")
            for each in (dataset, pickle.loads(packed)):
                values = list(each.gather(np.arange(5)).values())[-1]
                assert values.tolist() == [0, 1, 2, 3, 4]
                each.close()
            monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("fields", [[], [1], [None], 3, [["x"]]])
def test_fields_that_are_no_names(fields: Any) -> None:
    with pytest.raises(ArgumentError, match="fields are named by text"):
        open({"x": np.arange(3)}, fields=fields)


def test_a_dataset_stays_what_it_is_and_may_lose_fields() -> None:
    dataset = open({"x": np.arange(3), "y": np.arange(3)})
    assert open(dataset) is dataset
    chosen = open(dataset, fields="y")
    assert chosen.fields == {"y": Field("int64", ())}
    assert list(chosen.gather(np.array([1]))) == ["y"]
    assert list(chosen[0]) == ["y"]
    assert chosen.digest != dataset.digest
    assert pickle.loads(pickle.dumps(chosen)).digest == chosen.digest
    assert chosen.name(1) == "sample 1"
    with pytest.raises(MissingError, match="has no field 'z'"):
        open(dataset, fields=["z"])
    assert len(open([dataset, chosen], fields=["y"])) == 6


def test_a_manifest(tmp_path: Path) -> None:
    path = _manifest(tmp_path)
    for what in (path, f"{path}.index.json"):
        with open(what) as dataset:
            assert isinstance(dataset, JoinedDataset)
            assert len(dataset) == 12
            assert dataset.fields == {"x": Field("int64", ()), "y": Field("uint8", (2,))}
            assert dataset.gather(np.array([11, 0]))["x"].tolist() == [11, 0]
            assert dataset.verify() == []
            again = pickle.loads(pickle.dumps(dataset))
            assert again.digest == dataset.digest
    with open(path, fields=["y"]) as dataset:
        assert list(dataset.gather(np.array([7]))) == ["y"]
        assert dataset.digest != again.digest
    with pytest.raises(MissingError, match="has no field 'z'"):
        open(path, fields=["z"])


def test_a_manifest_finds_damage(tmp_path: Path) -> None:
    path = _manifest(tmp_path)
    shard = tmp_path / "train-00001.npz"
    data = bytearray(shard.read_bytes())
    data[-300] ^= 255
    shard.write_bytes(data)
    with open(path) as dataset:
        assert f"{shard}: its XXH3-128 is" in dataset.verify()[0]


@pytest.mark.parametrize("harm", ["gone", "short", "link", "unfinished", "empty", "cut"])
def test_a_manifest_whose_files_are_not_as_it_says(tmp_path: Path, harm: str) -> None:
    path = _manifest(tmp_path, 0 if harm == "empty" else 3)
    shard, index = tmp_path / "train-00001.npz", tmp_path / "train.npz.index.json"
    kind: type[Exception] = CorruptError
    told = "damaged|not JSON|document|manifest"
    if harm == "gone":
        shard.unlink()
        kind, told = MissingError, "the shard 'train-00001.npz' is not there"
    elif harm == "short":
        shard.write_bytes(shard.read_bytes()[:-9])
        told = "the shard 'train-00001.npz' has .* bytes, where"
    elif harm == "link":
        shard.rename(tmp_path / "other")
        shard.symlink_to(tmp_path / "other")
        kind, told = UnsafeError, "is a link, which may lead out"
    elif harm == "unfinished":
        path = tmp_path / "train.npz.partial.json"
        index.rename(path)
        kind, told = UnsupportedError, "writing this dataset was not finished. Finish it with"
    elif harm == "empty":
        kind, told = UnsupportedError, "holds no samples"
    else:
        index.write_bytes(index.read_bytes()[:-40])
    with pytest.raises(kind, match=told):
        open(path)


def test_shards_of_a_model_are_no_manifest(tmp_path: Path) -> None:
    state = {"w": np.zeros((5, 300)), "v": np.ones((5, 300))}
    tk.save(state, tmp_path / "a.safetensors", max_shard_size="15KB")
    with open(tmp_path / "a.safetensors.index.json") as dataset:
        assert len(dataset) == 5
        assert dataset.gather(np.array([4]))["v"].sum() == 300
