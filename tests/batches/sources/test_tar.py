"""Tar shards as datasets: fields, batches, indexes, and what is said of samples that do not fit."""

from __future__ import annotations

import gzip
import os
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.batches.tars import npy, npz, numbered, picture, shard, tar

from tensorkeep.data.dataset import Field
from tensorkeep.data.members import read_members
from tensorkeep.data.sources import tar as tar_source
from tensorkeep.data.sources.tar import TarDataset, open_tar, recognises
from tensorkeep.errors import (
    ArgumentError,
    ClosedError,
    CorruptError,
    MissingError,
    UnknownFormatError,
    UnsupportedError,
)
from tensorkeep.source import MemorySource

PIXELS = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def test_arrays_and_labels_in_batches(tmp_path: Path) -> None:
    files, arrays = numbered(50)
    dataset = open_tar(shard(tmp_path, files))
    assert len(dataset) == 50
    assert dataset.kind == "tar"
    assert dataset.fields == {"image": Field("uint8", (3, 4, 5)), "cls": Field("int64", ())}
    rows = np.array([17, 3, 49, 3, 0])
    batch = dataset.gather(rows)
    assert batch["image"].tolist() == arrays[rows].tolist()
    assert batch["cls"].tolist() == [3, 3, 0, 3, 0]
    assert batch["cls"].dtype == np.int64
    assert all(values.flags.writeable for values in batch.values())
    batch["image"][:] = 0
    batch["cls"][:] = 9
    assert dataset.gather(rows)["image"].tolist() == arrays[rows].tolist()
    sample = dataset[-1]
    assert sample["image"].tolist() == arrays[49].tolist()
    assert sample["cls"] == 0
    assert dataset.name(17) == "sample 17 ('0017')"
    assert dataset.verify() == []


def test_no_rows_give_empty_arrays(tmp_path: Path) -> None:
    files, _ = numbered(2)
    batch = open_tar(shard(tmp_path, files)).gather(np.zeros(0, np.int64))
    assert batch["image"].shape == (0, 3, 4, 5)
    assert batch["cls"].shape == (0,)


def test_every_ending(tmp_path: Path) -> None:
    floats = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    files = [
        ("k.npy", npy(floats)),
        ("k.cls", b"-7\n"),
        ("k.count", b"12"),
        ("k.txt", "a cät".encode()),
        ("k.meta.json", b'{"a": [1, 2]}'),
        ("k.score.json", b"0.5"),
        ("k.png", picture(PIXELS)),
        ("k.more.npz", npz(a=floats, b=np.int16(4))),
        ("k.bin", b"\0\1"),
        ("k.pkl", pickle.dumps(print)),
        ("k.seg.v2.PNG", picture(PIXELS[:, :, 0])),
    ]
    dataset = open_tar(shard(tmp_path, files))
    assert list(dataset.fields) == [
        "npy", "cls", "count", "txt", "meta", "score", "png", "more.a", "more.b", "bin", "pkl",
        "seg.v2",
    ]  # fmt: skip
    sample = dataset[0]
    assert sample["npy"].tolist() == floats.tolist()
    assert (sample["cls"], sample["count"]) == (-7, 12)
    assert sample["txt"] == "a cät"
    assert sample["meta"] == {"a": [1, 2]}
    assert sample["score"] == 0.5
    assert sample["png"].tolist() == PIXELS.tolist()
    assert sample["png"].flags.writeable
    assert sample["more.a"].tolist() == floats.tolist()
    assert sample["more.b"] == 4
    assert sample["bin"] == b"\0\1"
    assert sample["pkl"] == pickle.dumps(print)
    assert sample["seg.v2"].tolist() == np.repeat(PIXELS[:, :, :1], 3, 2).tolist()
    batch = dataset.gather(np.array([0, 0]))
    assert batch["meta"].tolist() == [{"a": [1, 2]}] * 2
    assert batch["score"].tolist() == [0.5, 0.5]
    assert batch["txt"].tolist() == ["a cät"] * 2
    assert batch["png"].shape == (2, 4, 6, 3)
    assert batch["bin"].tolist() == [b"\0\1"] * 2
    assert batch["more.a"].shape == (2, 2, 3)
    assert dataset.fields["txt"] == Field("string", ())
    assert dataset.fields["png"] == Field("uint8", None)


def test_fields_that_would_be_called_the_same_keep_their_endings(tmp_path: Path) -> None:
    files = [("k.image.npy", npy(1)), ("k.image.json", b"2"), ("k.cls", b"3")]
    assert dict(open_tar(shard(tmp_path, files))[0]) == {"image.npy": 1, "image.json": 2, "cls": 3}
    files = [("k.a.npy", npy(1)), ("k.a.txt", b"2"), ("k.a.npy.txt", b"3"), ("k.cls.txt", b"4")]
    expected = {"a.npy": 1, "a.txt": "2", "a.npy.txt": "3", "cls": "4"}
    assert dict(open_tar(shard(tmp_path, files))[0]) == expected
    files = [("k.a.npz", npz(b=np.zeros(2))), ("k.a.b.npy", npy(1))]
    with pytest.raises(
        UnsupportedError, match=r"array 'b' in 'a.npz' is called a.b, as is another"
    ):
        open_tar(shard(tmp_path, files))


def test_keys_end_at_the_first_dot_of_the_last_part(tmp_path: Path) -> None:
    files = [
        ("./v1.0/a.x.txt", b"0"), ("./v1.0/a.y.txt", b"1"), ("./v1.1/a.x.txt", b"2"),
        ("./v1.1/a.y.TXT", b"3"),
    ]  # fmt: skip
    dataset = open_tar(shard(tmp_path, files))
    assert [dict(dataset[i]) for i in (0, 1)] == [{"x": "0", "y": "1"}, {"x": "2", "y": "3"}]
    assert dataset.name(1) == "sample 1 ('./v1.1/a')"


def test_what_is_passed_over(tmp_path: Path) -> None:
    files = [
        ("__meta__", b"x"), ("__info__/a.txt", b"x"), ("noending", b"x"), (".hidden", b"x"),
        ("a/._0.txt", b"x"), ("0.", b"x"), ("0.txt", b"yes"), ("__0.txt", b"also"),
    ]  # fmt: skip
    dataset = open_tar(shard(tmp_path, files))
    assert [sample["txt"] for sample in (dataset[0], dataset[1])] == ["yes", "also"]
    assert len(dataset) == 2


def test_only_the_fields_that_are_asked_for(tmp_path: Path) -> None:
    files = [
        member
        for i in range(3)
        for member in ((f"{i}.jpg", b"no picture"), (f"{i}.cls", b"%d" % i),
                       (f"{i}.z.npz", npz(a=i, b=-i)))
    ]  # fmt: skip
    path = shard(tmp_path, files)
    assert dict(open_tar(path, ["cls"])[1]) == {"cls": 1}
    assert dict(open_tar(path, ["z", "cls"])[2]) == {"z.a": 2, "z.b": -2, "cls": 2}
    assert dict(open_tar(path, ["z.b"])[2]) == {"z.b": -2}
    with pytest.raises(MissingError, match=r"no field 'clas'.*Did you mean cls"):
        open_tar(path, ["clas"])
    with pytest.raises(ArgumentError, match="list of names, not 'cls'"):
        open_tar(path, "cls")
    with pytest.raises(ArgumentError, match="list of names, not \\[\\]"):
        open_tar(path, [])


def test_arrays_that_differ(tmp_path: Path) -> None:
    files = [("0.x.npy", npy(np.zeros(3))), ("1.x.npy", npy(np.zeros(4)))]
    dataset = open_tar(shard(tmp_path, files))
    assert dataset.fields == {"x": Field()}
    assert [len(sample["x"]) for sample in dataset.samples(np.array([0, 1]))] == [3, 4]
    with pytest.raises(UnsupportedError, match=r"'x' has shape \(3,\) in sample 0 \('0'\) and "):
        dataset.gather(np.array([0, 1]))


ODD = [
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(6, dtype=">f4"),
    np.array(["a", "bc"]),
    np.array([1, -2, 3], ml_dtypes.bfloat16),
    np.array(2.5),
    np.zeros((0, 3), np.float16),
    np.array([True, False]),
    np.array([1 + 2j]),
]


@pytest.mark.parametrize("array", ODD, ids=lambda array: f"{array.dtype}-{array.shape}")
def test_arrays_of_any_layout(tmp_path: Path, array: Any) -> None:
    dataset = open_tar(shard(tmp_path, [(f"{i}.x.npy", npy(array)) for i in range(3)]))
    batch = dataset.gather(np.array([2, 0]))["x"]
    assert batch.shape == (2, *array.shape)
    assert batch.dtype == (object if array.dtype.kind == "U" else array.dtype.newbyteorder("="))
    assert batch[1].tolist() == array.tolist()
    assert dataset[1]["x"].tolist() == array.tolist()


def test_long_headers_of_arrays_are_decoded_one_by_one(tmp_path: Path) -> None:
    array = np.zeros((1,) * 60)
    data = npy(array)
    assert data[8] + 256 * data[9] > 246
    dataset = open_tar(shard(tmp_path, [("0.x.npy", data), ("1.x.npy", data)]))
    assert dataset.gather(np.array([0, 1]))["x"].shape == (2, *array.shape)


def test_files_that_are_not_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorkeep import syscalls

    monkeypatch.setattr(syscalls, "network_filesystem", lambda fd: "nfs")
    files, arrays = numbered(20)
    batch = open_tar(shard(tmp_path, files)).gather(np.array([19, 4]))
    assert batch["image"].tolist() == arrays[[19, 4]].tolist()


def test_a_sample_without_a_field_is_named(tmp_path: Path) -> None:
    files = [(f"{i}.{ending}", b"1") for i in range(4) for ending in ("cls", "txt")]
    del files[5]
    path = shard(tmp_path, files)
    with pytest.raises(MissingError, match=r"sample 2 \('2'\) has no field 'txt'.*'cls'\]"):
        open_tar(path)
    assert len(open_tar(path, ["cls"])) == 4


def test_a_key_that_comes_again_later_is_another_sample(tmp_path: Path) -> None:
    path = shard(tmp_path, [("a.txt", b"0"), ("b.txt", b"1"), ("a.txt", b"2")])
    assert [open_tar(path)[i]["txt"] for i in range(3)] == ["0", "1", "2"]
    with pytest.raises(CorruptError, match="the sample 'a' has 'TXT' twice"):
        open_tar(shard(tmp_path, [("a.txt", b"0"), ("a.TXT", b"1")], "twice.tar"))


def test_a_field_that_another_begins_like_may_be_missing(tmp_path: Path) -> None:
    files = [("0.seg.txt", b"x"), ("0.seg.v2.txt", b"y"), ("1.seg.v2.txt", b"z")]
    path = shard(tmp_path, files)
    assert open_tar(path, ["seg.v2"])[1] == {"seg.v2": "z"}
    with pytest.raises(MissingError, match="has no field 'seg'"):
        open_tar(path, ["seg"])


def test_no_samples(tmp_path: Path) -> None:
    dataset = open_tar(shard(tmp_path, []))
    assert (len(dataset), dataset.fields, dataset.gather(np.zeros(0, np.int64))) == (0, {}, {})
    assert dataset.samples(np.zeros(0, np.int64)) == []
    assert len(dataset.digest) == 32


BROKEN = {
    "cls": (b"cat", "holds b'cat', where a whole number is needed"),
    "txt": (b"\xff", "is not UTF-8 at byte 0"),
    "json": (b"{", "the JSON is broken at character 1"),
    "png": (picture(PIXELS)[:45], "cannot be read as a picture"),
    "npy": (npy(np.zeros(3))[:-1], "float64 of shape \\(3,\\) takes 24 bytes, but 23"),
    "npz": (npz(a=1)[:-30], "is not a zip archive"),
}


@pytest.mark.parametrize("ending", BROKEN)
def test_damaged_fields_name_the_sample(tmp_path: Path, ending: str) -> None:
    data, message = BROKEN[ending]
    good = {"cls": b"1", "txt": b"x", "json": b"1", "png": picture(PIXELS),
            "npy": npy(np.zeros(3)), "npz": npz(a=1)}[ending]  # fmt: skip
    files = [(f"{i}.x.{ending}", data if i == 2 else good) for i in range(4)]
    dataset = open_tar(shard(tmp_path, files))
    dataset.gather(np.array([0, 1, 3]))
    with pytest.raises(CorruptError, match=f"a.tar: sample 2 \\('2'\\), field 'x.*({message})"):
        dataset.gather(np.array([0, 2]))
    (problem,) = dataset.verify()
    assert "sample 2 ('2')" in problem


# --- the index, the digest, and opening again -------------------------------------------------


def test_a_large_index_is_kept_and_made_anew_when_the_data_changes(tmp_path: Path) -> None:
    path = shard(tmp_path, [(f"{i}.cls", b"%d" % (i % 9)) for i in range(4200)])
    first = open_tar(path)
    kept = tmp_path / "a.tar.index.safetensors"
    assert kept.exists()
    again = open_tar(path)
    assert again.digest == first.digest
    assert again.name(4199) == "sample 4199 ('4199')"
    assert again.gather(np.arange(4200))["cls"].tolist() == [i % 9 for i in range(4200)]
    shard(tmp_path, [(f"{i}.cls", b"%d" % (i % 8)) for i in range(4100)])
    changed = open_tar(path)
    assert len(changed) == 4100
    assert changed[8]["cls"] == 0
    assert changed.digest != first.digest


def test_a_shard_that_is_opened_again_is_not_walked_over_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _ = numbered(9)
    path = shard(tmp_path, files)
    first = open_tar(path)
    monkeypatch.setattr(tar_source, "read_members", None)
    again = open_tar(path)
    assert again.digest == first.digest
    monkeypatch.undo()
    files[1] = ("0000.cls", b"5")
    shard(tmp_path, files)
    assert open_tar(path)[0]["cls"] == 5
    monkeypatch.setattr(tar_source, "_KEPT", 10)
    open_tar(shard(tmp_path, files, "b.tar"))
    assert not tar_source._KNOWN._found
    assert tar_source._KNOWN._count == 0


def test_small_shards_leave_no_index(tmp_path: Path) -> None:
    open_tar(shard(tmp_path, [(f"key-of-sample-{i:09}.cls", b"1") for i in range(1000)]))
    assert os.listdir(tmp_path) == ["a.tar"]


def test_digests_tell_data_apart(tmp_path: Path) -> None:
    files, _ = numbered(30)
    digests = {open_tar(shard(tmp_path, files)).digest}
    (tmp_path / "there").mkdir()
    assert open_tar(shard(tmp_path / "there", files, "b.tar")).digest in digests
    others = [
        files[:-2],
        [("x" + files[0][0], files[0][1]), ("x" + files[1][0], files[1][1]), *files[2:]],
        [files[0], ("0000.cls", b"5"), *files[2:]],
        [files[0], ("0000.cls2", b"0"), *files[2:]],
        numbered(30, seed=1)[0],
    ]
    for other in others[:3] + others[4:]:
        digests.add(open_tar(shard(tmp_path, other)).digest)
    digests.add(open_tar(shard(tmp_path, files), ["image"]).digest)
    assert len(digests) == 6


def test_datasets_travel_to_other_processes(tmp_path: Path) -> None:
    files, arrays = numbered(6)
    dataset = open_tar(shard(tmp_path, files), ["image"])
    again = pickle.loads(pickle.dumps(dataset))
    assert isinstance(again, TarDataset)
    assert list(again.fields) == ["image"]
    assert again[5]["image"].tolist() == arrays[5].tolist()


def test_threads_share_a_dataset(tmp_path: Path) -> None:
    files, arrays = numbered(200)
    dataset = open_tar(shard(tmp_path, files))
    rows = [np.random.default_rng(i).permutation(200)[:64] for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for asked, batch in zip(rows, pool.map(dataset.gather, rows), strict=True):
            assert batch["image"].tolist() == arrays[asked].tolist()


def test_closed(tmp_path: Path) -> None:
    files, arrays = numbered(300)
    with open_tar(shard(tmp_path, files)) as dataset:
        batch = dataset.gather(np.arange(300))
    with pytest.raises(ClosedError):
        dataset[0]
    with pytest.raises(ClosedError):
        dataset.gather(np.array([0]))
    with pytest.raises(ClosedError):
        dataset.verify()
    assert batch["image"].tolist() == arrays.tolist()


def test_a_shard_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    files, _ = numbered(300)
    path = shard(tmp_path, files)
    dataset = open_tar(path)
    dataset.gather(np.arange(300))
    os.truncate(path, 4200)
    with pytest.raises(CorruptError, match="is shorter now"):
        dataset.gather(np.arange(300))


# --- which files these are ---------------------------------------------------------------------


def test_compressed_shards_are_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "train.tar.gz"
    path.write_bytes(gzip.compress(tar([("0.cls", b"1")])))
    assert recognises(path)
    with pytest.raises(UnsupportedError, match=r"compressed by gzip.*gunzip train\.tar\.gz"):
        open_tar(path)


def test_what_is_recognised(tmp_path: Path) -> None:
    path = shard(tmp_path, [("0.cls", b"1")], "noending")
    assert recognises(path)
    assert recognises(shard(tmp_path, [], "empty.tar"))
    for name, data in (("a.npy", npy(1)), ("b.tar", b"text"), ("c.gz", gzip.compress(b"x"))):
        (tmp_path / name).write_bytes(data)
        assert not recognises(tmp_path / name)
    assert not recognises(tmp_path)
    assert not recognises("a\0b")
    damaged = bytearray(path.read_bytes())
    damaged[0] ^= 1
    path.write_bytes(damaged)
    assert recognises(path)
    with pytest.raises(CorruptError, match="does not fit its own checksum"):
        open_tar(path)
    with pytest.raises(UnknownFormatError, match="is no tar archive"):
        open_tar(tmp_path / "b.tar")
    with pytest.raises(MissingError, match="no such file"):
        open_tar(tmp_path / "none.tar")


# --- properties --------------------------------------------------------------------------------

keys = st.text("abc/_-0", min_size=1, max_size=6).filter(lambda key: not key.endswith("/"))
suffixes = st.sampled_from(["txt", "x.txt", "y.bin", "bin", "Z.TXT"])


@given(st.lists(st.tuples(keys, suffixes, st.binary(max_size=30)), max_size=12))
def test_members_are_grouped_as_they_stand(packed: list[tuple[str, str, bytes]]) -> None:
    data = tar([(f"{key}.{suffix}", value) for key, suffix, value in packed])
    expected: list[tuple[str, dict[str, bytes]]] = []
    for key, suffix, value in packed:
        if not expected or expected[-1][0] != key:
            expected.append((key, {}))
        if suffix.lower() in expected[-1][1]:
            with pytest.raises(CorruptError, match="twice"):
                read_members(MemorySource(data))
            return
        expected[-1][1][suffix.lower()] = value
    found = read_members(MemorySource(data))
    assert len(found) == len(expected)
    for row, (key, members) in enumerate(expected):
        assert found.key(row) == key
        first, last = found.firsts[row : row + 2].tolist()
        assert {
            found.suffixes[found.kinds[i]]: data[found.starts[i] : found.starts[i] + found.sizes[i]]
            for i in range(first, last)
        } == members


def test_memory_of_a_batch_is_that_of_the_batch(tmp_path: Path) -> None:
    image = npy(np.zeros((3, 64, 64), np.uint8))
    dataset = open_tar(shard(tmp_path, [(f"{i}.npy", image) for i in range(1000)]))
    tracemalloc.start()
    batch = dataset.gather(np.arange(100))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert batch["npy"].nbytes == 1_228_800
    assert most < 1.2 * batch["npy"].nbytes
