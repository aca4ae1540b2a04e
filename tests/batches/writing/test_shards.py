"""Datasets in several files: where they are cut, going on, and taking the place of another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.batches.writing.samples import check, sample, samples, tree

from tensorkeep import errors
from tensorkeep.data import sources
from tensorkeep.data.writing import write
from tensorkeep.data.writing.manifest import read_manifest


class StopError(Exception):
    """What ends a write in these tests."""


def stopping(at: int, start: int = 0) -> Iterator[dict[str, Any]]:
    yield from samples(at, start)
    raise StopError


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"shard_samples": 3}, [3, 3, 1]),
        ({"shard_samples": 7}, [7]),
        ({"shard_size": 1}, [1] * 7),
        ({"shard_size": 3 * 3072}, [3, 3, 1]),
        ({"shard_size": 3 * 3072 + 1}, [3, 3, 1]),
        ({"shard_size": 3 * 3072 - 1}, [2, 2, 2, 1]),
        ({"shard_size": "1GB"}, [7]),
        ({"shard_size": 3 * 3072, "shard_samples": 2}, [2, 2, 2, 1]),
    ],
)
def test_where_they_are_cut(options: dict[str, Any], counts: list[int], tmp_path: Path) -> None:
    written = write(samples(), tmp_path / "a.tar", **options)
    manifest = read_manifest(str(tmp_path / "a.tar.index.json"))
    assert [shard.samples for shard in manifest.shards] == counts
    assert (written.samples, len(written.files)) == (7, len(counts))
    assert written.bytes == manifest.nbytes == sum(map(os.path.getsize, written.files))
    assert {name: str(field) for name, field in manifest.fields.items()} == {
        "image": "uint8, (3, 5, 4)",
        "label": "int64, ()",
        "weight": "float32, ()",
    }
    check(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("tar", "function"),
        ("tar", "iterator"),
        ("tar", "list"),
        ("tar", "arrays"),
        ("npz", "function"),
        ("lmdb", "list"),
        ("minidb", "iterator"),
        pytest.param("zarr", "function", marks=pytest.mark.slow),
    ],
)
def test_going_on(ending: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "begun").mkdir()
    target, whole = tmp_path / "begun" / f"a.{ending}", tmp_path / "whole" / f"a.{ending}"
    write(samples(), whole, shard_samples=2)
    for at, there in ((3, [0]), (5, [0, 1])):
        with pytest.raises(StopError):
            write(stopping(at), target, shard_samples=2, resume=True)
        shards = [f"a-{i:05d}.{ending}" for i in there]
        assert names(target.parent) == [*shards, f"a.{ending}.partial.json"]
        with pytest.raises(errors.TensorKeepError):
            sources.open(target)
    records: Any = {
        "function": lambda start: samples(7, start),
        "iterator": samples(),
        "list": list(samples()),
        "arrays": {k: np.array([s[k] for s in samples()]) for k in sample(0)},
    }[kind]
    seen: list[int] = []
    written = write(
        records, target, shard_samples=2, resume=True, progress=lambda done, _: seen.append(done)
    )
    assert (written.samples, written.skipped, seen) == (7, 4, [5, 6, 7])
    check(target)
    if ending != "lmdb":
        assert tree(target.parent) == tree(whole.parent)
    again = write(iter(()), target, shard_samples=2, resume=True)
    assert (again.samples, again.skipped, again.files) == (7, 7, written.files)


def test_a_shard_that_was_not_listed_is_removed(tmp_path: Path) -> None:
    """It was finished, and the kill came before the manifest."""
    target = tmp_path / "a.tar"
    with pytest.raises(StopError):
        write(stopping(5), target, shard_samples=2)
    (tmp_path / "a-00002.tar").write_bytes(b"of a killed write")
    written = write(samples(4), target, shard_samples=2, resume=True)
    assert written.skipped == 4
    assert names(tmp_path) == ["a-00000.tar", "a-00001.tar", "a.tar.index.json"]
    check(target, 4)


@pytest.mark.parametrize("ending", ["tar", "lmdb"])
def test_a_dataset_is_replaced_once_the_new_one_is_whole(ending: str, tmp_path: Path) -> None:
    target = tmp_path / f"a.{ending}"
    (tmp_path / f"b-00000.{ending}").write_text("another's")
    write(samples(4), target, shard_samples=2)
    old = names(tmp_path)
    (tmp_path / f"a-00001.{ending}.index.safetensors").write_text("made by reading it")
    with pytest.raises(StopError):
        write(stopping(6), target, shard_samples=2)
    check(target, 4)
    assert len(names(tmp_path)) == len(old) + 4
    write(samples(), target, shard_samples=2, resume=True)
    check(target)
    assert len(names(tmp_path)) == 6
    assert f"a-00000.{ending}" not in names(tmp_path)
    write(samples(), target, shard_samples=4)
    assert names(tmp_path)[:2] == [f"a-00000.{ending}", f"a-00001.{ending}"]
    assert len(names(tmp_path)) == 4
    check(target)


def test_what_was_begun_is_given_up_without_resume(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    with pytest.raises(StopError):
        write(stopping(5), target, shard_samples=2)
    write(samples(), target, shard_samples=4)
    assert names(tmp_path) == ["a-00000.tar", "a-00001.tar", "a.tar.index.json"]
    check(target)


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a-00000.tar").write_text("kept")
    write(samples(), tmp_path / "a.tar", shard_samples=4)
    write(samples(), tmp_path / "a.tar", shard_samples=4)
    assert (tmp_path / "a-00000.tar").read_text() == "kept"
    assert len(names(tmp_path)) == 4
    check(tmp_path / "a.tar")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"shard_samples": 3}, "shard_samples=2, and is to go on with 3"),
        ({"shard_size": "1KB"}, "shard_size=None, and is to go on with 1000"),
        ({"format": "minidb"}, "format='tar'"),
        ({"endings": {"label": "txt"}}, "options="),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_other_arguments(
    changed: dict[str, Any], text: str, finished: bool, tmp_path: Path
) -> None:
    target = tmp_path / "a.tar"
    if finished:
        write(samples(), target, shard_samples=2)
    else:
        with pytest.raises(StopError):
            write(stopping(5), target, shard_samples=2)
    before = tree(tmp_path)
    with pytest.raises(errors.ArgumentError, match=text):
        write(samples(), target, **{"shard_samples": 2, "resume": True, **changed})
    assert tree(tmp_path) == before


def test_other_records(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    with pytest.raises(StopError):
        write(stopping(5), target, shard_samples=2)
    for records in (list(samples(3)), samples(3)):
        with pytest.raises(errors.ArgumentError, match="have 3 samples, and 4 were written"):
            write(records, target, shard_samples=2, resume=True)
    with pytest.raises(errors.UnsupportedError, match=r"sample 4: has the fields x"):
        write(lambda start: [{"x": 1}], target, shard_samples=2, resume=True)
    write(samples(), target, shard_samples=2, resume=True)
    others: list[Any] = [list(samples(8)), {"x": np.zeros(9)}]
    for records in others:
        with pytest.raises(errors.ArgumentError, match=r"with 7 samples, and records have [89]"):
            write(records, target, shard_samples=2, resume=True)
    check(target)


def test_alike_across_files(tmp_path: Path) -> None:
    target = tmp_path / "a.npz"
    with pytest.raises(StopError):
        write(stopping(5), target, shard_samples=2)
    other = {**sample(4), "image": np.zeros(3)}
    with pytest.raises(errors.UnsupportedError, match="sample 4, field 'image': has float64"):
        write(lambda start: [other], target, shard_samples=2, resume=True)


def test_shards_that_are_not_as_they_were(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    for damage, text in (
        (lambda file: file.unlink(), "'a-00001.tar' is not there"),
        (lambda file: os.truncate(file, 5), "has 5 bytes, where"),
        (lambda file: (file.rename(tmp_path / "x"), file.symlink_to("x")), "is a link"),
    ):
        for finished in (False, True):
            with pytest.raises(StopError):
                write(stopping(5), target, shard_samples=2)
            if finished:
                write(samples(), target, shard_samples=2, resume=True)
            damage(tmp_path / "a-00001.tar")
            with pytest.raises(errors.TensorKeepError, match=text):
                write(samples(), target, shard_samples=2, resume=True)
            for name in names(tmp_path):
                (tmp_path / name).unlink()


def test_a_damaged_manifest(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"
    with pytest.raises(StopError):
        write(stopping(5), target, shard_samples=2)
    partial = tmp_path / "a.tar.partial.json"
    partial.write_bytes(partial.read_bytes().replace(b'"samples": 4', b'"samples": 5'))
    with pytest.raises(errors.CorruptError, match="manifest is damaged"):
        write(samples(), target, shard_samples=2, resume=True)
    write(samples(), target, shard_samples=2)
    check(target)
    index = tmp_path / "a.tar.index.json"
    index.write_bytes(index.read_bytes().replace(b'"samples": 7', b'"samples": 8'))
    with pytest.raises(errors.CorruptError, match="manifest is damaged"):
        write(samples(), target, shard_samples=2, resume=True)
    write(samples(), target, shard_samples=2)
    check(target)


def test_two_writers_of_one_dataset(tmp_path: Path) -> None:
    target = tmp_path / "a.tar"

    def meanwhile() -> Iterator[dict[str, Any]]:
        yield from samples(5)
        write(samples(), target, shard_samples=2)
        yield from samples(7, 5)

    with pytest.raises(errors.StoreError, match="another process writes this dataset"):
        write(meanwhile(), target, shard_samples=2)
    check(target)


def test_a_kill_before_the_old_shards_went(tmp_path: Path, monkeypatch: Any) -> None:
    target = tmp_path / "a.tar"
    write(samples(4), target, shard_samples=2)
    with monkeypatch.context() as patch:
        patch.setattr("tensorkeep.data.writing.shards.Series._clear", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(samples(), target, shard_samples=4)
    check(target)
    assert "a-00001.tar" in names(tmp_path)
    assert write(samples(), target, shard_samples=4, resume=True).skipped == 7
    assert len(names(tmp_path)) == 3
    check(target)


def test_the_folder_may_move(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write(samples(), tmp_path / "a" / "train.tar", shard_samples=2)
    shutil.move(tmp_path / "a", tmp_path / "b")
    check(tmp_path / "b" / "train.tar")
