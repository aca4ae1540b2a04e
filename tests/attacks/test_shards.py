"""Indexes of sharded states that lie, and shards that are not what the index says."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import errors

INDEX = "model.safetensors.index.json"
STATE = {"a": np.arange(4.0), "b": np.ones(3, np.int8), "c": {"d": np.zeros((2, 2), np.float32)}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sharded state of one tensor per file, without checksums, so that lies are not damage."""
    folder = tmp_path / "model"
    folder.mkdir()
    tk.save(STATE, folder / "model.safetensors", max_shard_size=1, checksums=False)
    return folder


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / INDEX
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def refuse(folder: Path, *kinds: type[tk.TensorKeepError]) -> None:
    for target in (folder / INDEX, folder):
        for read in (tk.open, tk.load):
            with pytest.raises(kinds or (errors.CorruptError,)):
                read(target)


def test_the_fixture_is_good(folder: Path) -> None:
    assert len(shards(folder)) == 3
    assert tk.load(folder)["c"]["d"].shape == (2, 2)
    assert tk.load(folder / INDEX)["a"].tolist() == [0, 1, 2, 3]


def test_a_missing_shard(folder: Path) -> None:
    shards(folder)[1].unlink()
    refuse(folder, errors.MissingError)


@pytest.mark.parametrize("length", [0, 7, 60, -1])
def test_a_truncated_shard(length: int, folder: Path) -> None:
    path = shards(folder)[0]
    os.truncate(path, length % path.stat().st_size)
    refuse(folder)


def test_swapped_shards(folder: Path) -> None:
    first, second, _ = shards(folder)
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)
    refuse(folder)


def test_a_shard_that_the_index_does_not_know(folder: Path) -> None:
    known = shards(folder)[0]
    shutil.copy(known, folder / known.name.replace("00001-of", "00009-of"))
    refuse(folder)


def test_a_tensor_that_the_index_does_not_know(folder: Path) -> None:
    tk.save(STATE, folder / "model.safetensors", max_shard_size=40, checksums=False)
    assert len(shards(folder)) == 2
    edit(folder, lambda index: index["weight_map"].pop("b"))
    refuse(folder)


def test_a_tensor_that_no_shard_holds(folder: Path) -> None:
    edit(folder, lambda index: index["weight_map"].update(e=shards(folder)[0].name))
    refuse(folder)


def test_one_tensor_in_two_shards(folder: Path) -> None:
    first, second, _ = shards(folder)
    shutil.copy(first, second)
    refuse(folder)


def point(folder: Path, name: Any) -> None:
    """Have the index name another file for what is in the first shard, and remove that one."""
    first = min(json.loads((folder / INDEX).read_text())["weight_map"].values())
    (folder / first).unlink(missing_ok=True)

    def change(index: dict[str, Any]) -> None:
        names = index["weight_map"]
        index["weight_map"] = {k: name if v == first else v for k, v in names.items()}

    edit(folder, change)


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "./../outside.safetensors",
        "sub/../../outside.safetensors",
        "..\\outside.safetensors",
        "file:///etc/outside.safetensors",
        "C:outside.safetensors",
        "a\0.safetensors",
        "./.safetensors",
        "/.safetensors",
        "sub//x.safetensors",
        "n" * 300 + ".safetensors",
        "é" * 200 + ".safetensors",
        "\udcff.safetensors",
        "../../../../../../etc/passwd",
        "/etc/passwd",
        "/dev/zero",
        "model.pickle",
        "",
    ],
)
def test_names_that_lead_out(name: str, folder: Path) -> None:
    shutil.copy(shards(folder)[0], folder.parent / "outside.safetensors")
    (folder / "sub").mkdir()
    point(folder, name)
    refuse(folder, errors.UnsafeError, errors.MissingError)


def test_an_absolute_name(folder: Path) -> None:
    outside = folder.parent / "outside.safetensors"
    shutil.copy(shards(folder)[0], outside)
    point(folder, str(outside))
    refuse(folder, errors.UnsafeError)


@pytest.mark.parametrize("name", [3, None, True, ["a.safetensors"], {}])
def test_names_that_are_no_text(name: Any, folder: Path) -> None:
    point(folder, name)
    refuse(folder)


def test_a_shard_that_is_a_link_out(folder: Path) -> None:
    shard = shards(folder)[0]
    shard.rename(folder.parent / "outside.safetensors")
    shard.symlink_to(folder.parent / "outside.safetensors")
    refuse(folder, errors.UnsafeError)


def test_a_folder_that_is_a_link_out(folder: Path) -> None:
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    shards(folder)[0].rename(elsewhere / "w.safetensors")
    (folder / "sub").symlink_to(elsewhere)
    point(folder, "sub/w.safetensors")
    refuse(folder, errors.UnsafeError)


def test_a_link_that_stays_inside_is_fine(folder: Path) -> None:
    shard = shards(folder)[0]
    (folder / "sub").mkdir()
    shard.rename(folder / "sub" / "w.safetensors")
    shard.symlink_to(folder / "sub" / "w.safetensors")
    assert tk.load(folder)["a"].tolist() == [0, 1, 2, 3]


def test_a_download_cache_of_links_is_fine(folder: Path) -> None:
    """Hugging Face's cache: snapshots/REVISION/NAME links to blobs/HASH."""
    blobs, revision = folder.parent / "blobs", folder.parent / "snapshots" / "1a2b"
    blobs.mkdir()
    revision.mkdir(parents=True)
    for path in list(folder.iterdir()):
        path.rename(blobs / path.name)
        (revision / path.name).symlink_to(Path("../../blobs") / path.name)
    assert tk.load(revision)["a"].tolist() == [0, 1, 2, 3]
    assert tk.load(revision / INDEX)["a"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_shard_that_is_no_file(make: Callable[[Path], None], folder: Path) -> None:
    shard = shards(folder)[0]
    shard.unlink()
    make(shard)
    refuse(folder, errors.UnsupportedError, errors.MissingError)


def test_a_shard_that_is_the_index(folder: Path) -> None:
    shutil.copy(folder / INDEX, folder / "copy.safetensors")
    point(folder, "copy.safetensors")
    refuse(folder)


BAD = {
    "empty": b"",
    "text": b"weights",
    "nothing": b"{}",
    "no map": b'{"metadata":{}}',
    "map list": b'{"weight_map":[]}',
    "map null": b'{"weight_map":null}',
    "twice": b'{"weight_map":{"a":"x.safetensors","a":"x.safetensors"}}',
    "map twice": b'{"weight_map":{},"weight_map":{}}',
    "deep": b'{"weight_map":' + b"[" * 100_000,
    "unfinished": b'{"weight_map":{"a":"x',
    "not UTF-8": b'{"weight_map":{"\xff":"x.safetensors"}}',
    "lone surrogate": b'{"weight_map":{"a":"\\ud800.safetensors"}}',
    "notes": b'{"weight_map":{},"metadata":{"tensorkeep":"{}"}}',
    "notes list": b'{"weight_map":{},"metadata":{"tensorkeep":"[]"}}',
    "huge map": b'{"weight_map":{' + b",".join(b'"%d":"x"' % i for i in range(10**6)) + b"}}",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_indexes_that_are_not(data: bytes, folder: Path) -> None:
    (folder / INDEX).write_bytes(data)
    for target in (folder / INDEX, folder):
        with pytest.raises(tk.TensorKeepError):
            tk.load(target)


def test_a_100_mb_index(folder: Path) -> None:
    os.truncate(folder / INDEX, 100_000_000)
    refuse(folder, errors.UnsafeError)


def test_saving_over_an_index_that_lies_touches_nothing_outside(folder: Path) -> None:
    """What the old index calls its shards is removed, but only inside the folder."""
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    victims = [elsewhere / "w.safetensors", folder.parent / "outside.safetensors"]
    for victim in victims:
        victim.write_bytes(b"precious")
    (folder / "sub").symlink_to(elsewhere)
    for name in ("sub/w.safetensors", "../outside.safetensors", str(victims[1])):
        tk.save(STATE, folder / "model.safetensors", max_shard_size=1)
        point(folder, name)
        choices: tuple[dict[str, Any], ...] = ({"max_shard_size": 1}, {})
        for options in choices:
            try:
                tk.save(STATE, folder / "model.safetensors", **options)
            except tk.TensorKeepError:
                continue
            assert tk.load(folder / "model.safetensors", verify=True)["b"].tolist() == [1, 1, 1]
        assert [victim.read_bytes() for victim in victims] == [b"precious"] * 2
        for path in folder.glob("*.safetensors*"):
            path.unlink()


def test_shards_of_two_saves_do_not_mix(tmp_path: Path) -> None:
    """Half a copy: every file is sound, but together they are no state that was ever saved."""
    folders = [tmp_path / "old", tmp_path / "new"]
    for step, folder in enumerate(folders):
        folder.mkdir()
        value = {"a": np.full(4, step), "b": np.full(4, step)}
        tk.save(value, folder / "model.safetensors", max_shard_size=1)
    old, new = (shards(folder) for folder in folders)
    assert [path.name for path in old] == [path.name for path in new]
    shutil.copy(new[1], old[1])
    with pytest.raises(errors.CorruptError):
        tk.load(folders[0], verify=True)
    shutil.copy(new[0], old[0])
    with pytest.raises(errors.CorruptError):
        tk.load(folders[0], verify=True)
