"""What paths, prefixes and endings mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.stores.engines import KINDS, Kind, every_kind, fill

from tensorkeep import errors
from tensorkeep.database import Database
from tensorkeep.stores import DATABASES, STORES, locate, open_database
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.stores.minidb import MinidbStore
from tensorkeep.stores.protodb import ProtodbStore

ALL: dict[str, type[Database]] = {**KINDS, "minidb": MinidbStore, "protodb": ProtodbStore}


def test_the_tables() -> None:
    assert set(ALL) == {kind for kind in DATABASES if kind.islower()}
    assert all(DATABASES[kind].kind == kind.lower() for kind in DATABASES)
    assert set(STORES) == {"file", "memory", "object", *ALL} - {"protodb"}


@every_kind
def test_what_is_there_is_recognised_whatever_it_is_called(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    fill(kind, path, a=b"1")
    for target in (path, str(path), f"{kind.kind}:{path}", f"file://{path}", f"{path}"):
        location = locate(target)
        assert type(location.store) is kind
        assert location.store.mode == "read"
        assert (location.key, location.where) == ("", str(path))
        assert list(location.store.keys()) == ["a"]
    if kind.folder:
        assert type(locate(f"{path}/").store) is kind


@pytest.mark.parametrize("kind", ALL.values(), ids=ALL)
def test_a_prefix_or_an_ending_means_a_new_one(kind: type[Database], tmp_path: Path) -> None:
    targets = [f"{kind.kind}:{tmp_path}/weights"]
    if kind is not MinidbStore:
        targets += [
            f"{tmp_path}/weights{kind.suffixes[0]}",
            f"{tmp_path}/W{kind.suffixes[0].upper()}",
        ]
    for target in targets:
        location = locate(target)
        assert type(location.store) is kind
        assert location.store.mode == "write"
        assert location.key == ""
        assert list(location.store.keys()) == []
        location.store.close()
    assert os.listdir(tmp_path) == []


@every_kind
def test_saving_through_a_location(kind: Kind, tmp_path: Path) -> None:
    for step in range(3):
        location = locate(f"{tmp_path}/weights{kind.suffixes[0]}")
        writer = location.store.writer()
        writer.put(f"k{step}", [b"1"])
        writer.commit()
        assert list(location.store.keys()) == [f"k{i}" for i in range(step + 1)]
        location.store.close()


def test_an_empty_folder_with_an_ending(tmp_path: Path) -> None:
    path = tmp_path / "weights.lmdb"
    path.mkdir()
    store = locate(path).store
    assert isinstance(store, Database)
    assert (store.kind, store.mode) == ("lmdb", "write")


def test_files_and_folders_stay_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"1")
    with MinidbStore(tmp_path / "a.minidb", "new") as database:
        database.put("w", [b"1"])
        database.commit()
    for name in ("data.bin", "a.minidb", "new.safetensors", "new.minidb"):
        location = locate(tmp_path / name)
        assert type(location.store) is FileStore
        assert location.key == name
    assert type(locate(tmp_path).store) is FileStore
    store = MemoryStore()
    assert locate(store).store is store
    found = locate(f"minidb:{tmp_path}/a.minidb")
    assert type(found.store) is MinidbStore
    assert list(found.store.keys()) == ["w"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.sqlite")
    os.mkfifo(tmp_path / "pipe")
    assert type(locate(tmp_path / "pipe").store) is FileStore
    with pytest.raises(errors.TensorKeepError):
        locate(tmp_path / "pipe.sqlite")


@pytest.mark.parametrize("target", ["", "lmdb:", "sqlite:a\0b", "s3:///a", "redis://a", 3])
def test_targets_that_mean_nothing(target: object) -> None:
    with pytest.raises(errors.ArgumentError):
        locate(target)  # type: ignore[arg-type]


def test_open_database(tmp_path: Path) -> None:
    with open_database("LMDB", tmp_path / "a", "new", map_size=1 << 20) as database:
        assert database.kind == "lmdb"
        database.commit()
    with pytest.raises(errors.ArgumentError, match=r"no db_type 'zmqdb'.*Use one of .*lmdb"):
        open_database("zmqdb", tmp_path / "a")
    with pytest.raises(errors.MissingError):
        open_database("leveldb", tmp_path / "b")
