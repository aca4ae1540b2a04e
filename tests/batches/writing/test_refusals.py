"""Samples and arguments that are refused: with words, and without a trace on the disk."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.batches.writing.samples import check, samples, tree

import tensorkeep as tk
from tensorkeep import errors
from tensorkeep.data.writing import write

GOOD = {"x": np.zeros(3, np.float32)}


@pytest.mark.parametrize("ending", ["tar", "minidb", "npz"])
@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"x": object()}, r"sample 1, field 'x': is a object.*Give numbers"),
        ({"x": None}, r"sample 1, field 'x'"),
        ({"x": datetime.date(2020, 1, 1)}, r"sample 1, field 'x'"),
        ({"x": np.zeros(2, "M8[s]")}, r"sample 1, field 'x'.*datetime64"),
        ({"x": np.zeros(2, [("a", "i4")])}, r"sample 1, field 'x'"),
        ({"x": np.array([1, None], object)}, r"sample 1, field 'x'"),
        ({"x": "\ud800"}, r"sample 1, field 'x'.*surrogate"),
        ({"x": 1 << 70}, r"sample 1, field 'x'"),
        ({"x": {1: 2}}, r"sample 1, field 'x'"),
        ({"x": [object()]}, r"sample 1, field 'x'"),
        ({"x": (1, "a")}, r"sample 1, field 'x': is a tuple, whose elements no array holds"),
        ({"x": ((1 << 53) + 1, 0.5)}, r"sample 1, field 'x': is a tuple, whose elements"),
        (
            {"x": np.ma.array([1, 2], mask=[False, True])},
            r"sample 1, field 'x': is a masked array",
        ),
        ({"y": 1}, r"sample 1: has the fields y, where the samples before have x"),
        ({**GOOD, "y": 1}, r"sample 1: has the fields x, y"),
        ([1, 2], r"sample 1: is a list, where a dict"),
        (None, r"sample 1: is a NoneType"),
    ],
)
def test_a_sample_that_cannot_be_kept(ending: str, bad: Any, text: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    with pytest.raises(errors.UnsupportedError, match=text):
        write([GOOD, bad], path, durable=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("first", "text"),
    [
        ({}, "sample 0: has no fields"),
        ({3: 1}, "sample 0: has a field called 3"),
        ({"": 1}, "sample 0: has a field called ''"),
        ({"a\0": 1}, "sample 0: has a field called"),
        ({"\ud800": 1}, "sample 0: has a field called"),
        ({"a.b": 1}, "field 'a.b': has a dot or a slash"),
        ({"a/b": 1}, "field 'a/b': has a dot or a slash"),
        ({"é" * 60: 1}, "has a name of 120 bytes"),
        ({"x": ["a", {1}]}, "sample 0, field 'x': cannot be written as JSON"),
    ],
)
def test_a_first_sample(first: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedError, match=text):
        write([first], tmp_path / "a.tar", durable=False)
    assert list(tmp_path.iterdir()) == []


def test_arrays_have_samples_that_are_alike(tmp_path: Path) -> None:
    for other in (np.zeros(4, np.float32), np.zeros(3), np.zeros((3, 1), np.float32), "text"):
        with pytest.raises(errors.UnsupportedError) as caught:
            write([GOOD, GOOD, {"x": other}], tmp_path / "a.npz")
        assert "sample 2, field 'x': has " in str(caught.value)
        assert "where the samples before have float32, (3,)" in str(caught.value)
        if not isinstance(other, str):
            write([GOOD, {"x": other}], tmp_path / "a.tar")  # which keeps them as they are


@pytest.mark.parametrize(
    ("given", "options", "text"),
    [
        ([{"x": 1}, {"x": 2.5}], {}, "sample 1, field 'x': would be a .npy file, .* have .cls"),
        ([{"x": 1}, {"x": 2**63}], {}, "sample 1, field 'x': would be a .npy file"),
        ([{"x": "a"}, {"x": b"a"}], {}, "sample 1, field 'x': would be a .bin file, .* have .txt"),
        ([{"Image": 1, "image": 2}], {}, "field 'Image': has capitals .* Rename it 'image'"),
        ([{f"x{i}": i for i in range(1001)}], {}, "has 1,001 fields, and a .tar may have 1,000"),
        ([{"x": b"a"}], {"endings": {"y": "jpg"}}, "names the field 'y', .* They have x"),
    ],
)
def test_a_tar_that_would_not_be_read_back(
    given: Any, options: Any, text: str, tmp_path: Path
) -> None:
    with pytest.raises((errors.UnsupportedError, errors.ArgumentError), match=text):
        write(given, tmp_path / "a.tar", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_a_format_cannot_hold_is_told_at_once(tmp_path: Path) -> None:
    def endless() -> Any:
        yield {"text": "a", "x": 1.0}
        raise AssertionError("a second one was asked for")

    with pytest.raises(errors.LossError, match=r"sample 0: flax cannot hold .*text"):
        write(endless(), tmp_path / "a.msgpack")
    with pytest.raises(errors.LossError, match="npy cannot hold all fields"):
        write(endless(), tmp_path / "a.npy")
    with pytest.raises(errors.UnsupportedError, match="bytes, which npz would give back as text"):
        write([{"x": b"1"}], tmp_path / "a.npz")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"target": "a"}, "does not tell what to write"),
        ({"target": "a.csv"}, "does not tell"),
        ({"target": "a.pkl"}, "does not tell"),
        ({"target": ""}, "is not a path"),
        ({"target": 7}, "are written to a path"),
        ({"format": "csv"}, "no format 'csv'"),
        ({"format": "pickle"}, "no format 'pickle'"),
        ({"shard_samples": 0}, "shard_samples"),
        ({"shard_samples": True}, "shard_samples"),
        ({"shard_size": "much"}, "not a size"),
        ({"resume": True}, "nothing to resume"),
        ({"progress": 3}, "progress"),
        ({"compress": True}, "tar has no option 'compress'"),
        ({"endings": {"a": "../b"}}, "no ending"),
        ({"endings": "jpg"}, "endings is a dict"),
        ({"target": "a.lmdb", "compress": True}, "lmdb has no option"),
        ({"target": "a.npz", "map_size": 3}, "npz has no option 'map_size' here"),
        ({"target": "a.safetensors", "max_shard_size": 3}, "shard_size makes several files"),
        ({"target": "a.npz", "compress": {1}, "shard_samples": 1}, "options"),
    ],
)
def test_arguments(
    arguments: dict[str, Any], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = arguments.pop("target", "a.tar")
    with pytest.raises(errors.ArgumentError, match=text):
        write(samples(), target, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_places(tmp_path: Path) -> None:
    (tmp_path / "folder.lmdb").mkdir()
    (tmp_path / "folder.lmdb" / "mine").write_text("kept")
    (tmp_path / "file.lmdb").write_text("kept")
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "other.sqlite").mkdir()
    (tmp_path / "other.sqlite" / "mine").write_text("kept")
    before = tree(tmp_path)
    for name in ("folder.lmdb", "file.lmdb", "folder.tar", "other.sqlite"):
        with pytest.raises(errors.StoreError, match=name):
            write(samples(), tmp_path / name)
    for name in ("a.tar", "a.lmdb", "a.npz", "a.minidb"):
        for shard_samples in (None, 2):
            with pytest.raises(errors.MissingError, match="folder to save in does not exist"):
                write(samples(), tmp_path / "none" / name, shard_samples=shard_samples)
    assert tree(tmp_path) == before


def test_one_file_and_several_of_one_name(tmp_path: Path) -> None:
    write(samples(), tmp_path / "a.tar", shard_samples=3)
    with pytest.raises(errors.StoreError, match="in several files, which this one would hide"):
        write(samples(), tmp_path / "a.tar")
    write(samples(), tmp_path / "b.tar")
    with pytest.raises(errors.StoreError, match="would be read instead of the shards"):
        write(samples(), tmp_path / "b.tar", shard_samples=3)
    tk.save({"w": np.zeros(9)}, tmp_path / "c.safetensors.index.json", max_shard_size=8)
    with pytest.raises(errors.StoreError, match="no index of a dataset"):
        write(samples(), tmp_path / "c.safetensors", shard_samples=3)


@pytest.mark.parametrize("ending", ["tar", "lmdb", "npz", "minidb"])
def test_a_failure_leaves_what_was_there(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    write(samples(), path)

    def failing() -> Any:
        yield from samples(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(failing(), path)
    assert len(list(tmp_path.iterdir())) == 1
    check(path)
