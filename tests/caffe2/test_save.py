from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.caffe2.golden_cases import DATA, read_file

from tensorkeep.caffe2 import (
    Blob,
    SaveOptions,
    Workspace,
    create_operator,
    extract,
    load,
    save,
    save_predictor,
    serialization_options,
)
from tensorkeep.errors import ArgumentError, MissingError, StoreError, UnsupportedError
from tensorkeep.message import Message
from tensorkeep.wire.caffe2.schema import NET

ENTRIES = json.loads((DATA / "MANIFEST.json").read_text())["entries"]


def has_rounded(entry: dict[str, Any]) -> bool:
    """Tell whether values were rounded to bfloat16, so that what was saved is not in the file."""
    rows = entry["save_args"].get("options", {}).get("SerializationOptions", [])
    return any(row.get("float_format") == "FLOAT_BFLOAT16" for row in rows)


RESAVED = [
    entry
    for entry in ENTRIES
    if entry.get("made_by") == "Save" and entry.get("byte_exact") and not entry.get("flags")
    if not has_rounded(entry)
]
ENGINES = ["minidb", "lmdb", "leveldb", "rocksdb", "sqlite"]


def arguments_of(entry: dict[str, Any]) -> dict[str, Any]:
    given = dict(entry["save_args"])
    if "options" in given:
        given["options"] = bytes.fromhex(given["options"]["hex"])
    return given


@pytest.mark.parametrize("entry", RESAVED, ids=lambda entry: entry["file"])
def test_what_is_loaded_is_saved_byte_for_byte(tmp_path: Path, entry: dict[str, Any]) -> None:
    ws = Workspace(durable=False)
    path = DATA / entry["file"]
    given = arguments_of(entry)
    names = given.pop("blob_name_overrides", entry["inputs"])
    if "strip_prefix" in given:
        prefix = given.pop("strip_prefix")
        names = [name.partition(prefix)[2] or name for name in names]
    for name, blob in extract(path, names).items():
        ws.set(name, blob)
    out = tmp_path / "again.minidb"
    ws.run(create_operator("Save", names, db=str(out), db_type="minidb", absolute_path=1, **given))
    assert out.read_bytes() == path.read_bytes()


def test_names_in_the_database(tmp_path: Path) -> None:
    blobs: dict[str, Any] = {"gpu_0/a": np.arange(2), "x/gpu_0/b": np.arange(3), "c": b"text"}
    path = tmp_path / "x.minidb"
    save(blobs, path, strip_prefix="gpu_0/")
    assert list(load(path)) == ["a", "b", "c"]
    save(blobs, path, blob_name_overrides=["p", "q", "r"])
    assert list(load(path)) == ["p", "q", "r"]


def test_chunk_sizes(tmp_path: Path) -> None:
    path = tmp_path / "x.minidb"
    blobs: dict[str, Any] = {"a": np.arange(10), "b": np.arange(10)}

    def counts(**arguments: Any) -> dict[str, int]:
        save(blobs, path, **arguments)
        keys = [key.partition("#%")[0] for key in read_file(path)]
        return {name: keys.count(name) for name in blobs}

    assert counts() == {"a": 1, "b": 1}
    assert counts(chunk_size=3) == {"a": 4, "b": 4}
    assert counts(chunk_size=0) == counts(chunk_size=-1) == {"a": 1, "b": 1}
    options = serialization_options({"blob_name_regex": "a", "chunk_size": 5}).encode()
    assert counts(options=options) == {"a": 2, "b": 1}
    assert counts(options=options, chunk_size=2) == {"a": 2, "b": 5}
    bare = serialization_options({"blob_name_regex": "a"}).encode()
    assert counts(options=bare, chunk_size=2) == {"a": 1, "b": 5}
    assert np.array_equal(load(path)["a"], blobs["a"])


def test_the_defaults_of_a_workspace(tmp_path: Path) -> None:
    ws = Workspace(str(tmp_path), save_options=SaveOptions(chunk_size=4, byte_holder=True))
    ws.feed("w", np.arange(8, dtype=np.uint8) + 128)
    ws.run(create_operator("Save", ["w"], db="x", db_type="minidb"))
    found = read_file(tmp_path / "x")
    assert list(found) == ["w#%0", "w#%1"]
    assert b"*\x04\x80\x81\x82\x83" in found["w#%0"]
    ws.run(create_operator("Save", ["w"], db="x", db_type="minidb", chunk_size=0))
    assert list(read_file(tmp_path / "x")) == ["w#%0"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"blob_name_overrides": ["q"]},
        {"blob_name_overrides": ["q", "q"]},
        {"blob_name_overrides": ["q", "r"], "strip_prefix": "x"},
        {"strip_prefix": "p"},
        {"options": b"\xff"},
        {"options": serialization_options({"blob_name_regex": "("}).encode()},
        {"chunk_size": -7},
    ],
)
def test_a_refused_save_leaves_the_old_file(tmp_path: Path, arguments: dict[str, Any]) -> None:
    path = tmp_path / "x.minidb"
    save({"old": b"1"}, path)
    with pytest.raises(ArgumentError):
        save({"a/p": np.arange(3), "b/p": np.arange(3)}, path, **arguments)
    assert load(path) == {"old": b"1"}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("db_type", ENGINES)
def test_a_failing_save_leaves_nothing_half(tmp_path: Path, db_type: str) -> None:
    path = tmp_path / "x"
    blobs: dict[str, Any] = {
        "w": np.arange(100),
        "q": Blob("std::unique_ptr<std::atomic<bool> >", None),
    }
    with pytest.raises(UnsupportedError, match="atomic"):
        save(blobs, path, db_type)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("db_type", ENGINES)
def test_every_engine(tmp_path: Path, db_type: str) -> None:
    path = tmp_path / "x"
    blobs: dict[str, Any] = {
        "w": np.arange(10_000).reshape(100, 100),
        "s": b"text",
        "e": np.zeros((0, 3)),
    }
    save(blobs, path, db_type, chunk_size=1000)
    found = load(path)
    assert sorted(found) == ["e", "s", "w"]
    assert np.array_equal(found["w"], blobs["w"])
    assert found["e"].shape == (0, 3)
    assert load(path, db_type)["s"] == b"text"
    if path.is_dir():
        with pytest.raises(StoreError, match="exists"):
            save({"w": b"2"}, path, db_type)
        assert np.array_equal(load(path)["w"], blobs["w"])
    else:
        save({"w": b"2"}, path, db_type)
        assert load(path) == {"w": b"2"}


@pytest.mark.parametrize("name", ["", "s#%0", "a#%b#%12"])
def test_names_that_would_come_back_as_others(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.minidb"
    with pytest.raises(ArgumentError, match="cannot be saved as"):
        save({name: b"text"}, path)


@pytest.mark.parametrize("name", ["a#%b", "#%", "w#%0", "é/ß", "a b", "x" * 500])
def test_names_survive(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.minidb"
    save({name: np.arange(5)}, path, chunk_size=2)
    assert list(load(path)) == [name]
    assert extract(path, [name])[name].value.numpy().tolist() == [0, 1, 2, 3, 4]


def test_where_there_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="absent"):
        save({"w": b"1"}, tmp_path / "absent" / "x.minidb")
    with pytest.raises(StoreError, match="folder"):
        save({"w": b"1"}, tmp_path)


def test_protodb_holds_no_blobs(tmp_path: Path) -> None:
    with pytest.raises((UnsupportedError, ArgumentError)):
        save({"w": np.arange(3)}, tmp_path / "x.protodb", "protodb")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"chunk_sze": 3}, r"no argument 'chunk_sze'. It takes .*chunk_size"),
        ({"db": "elsewhere"}, "no argument 'db'"),
        ({"chunk_size": "3"}, "an integer is expected"),
        ({"chunk_size": 3.0}, "an integer is expected"),
        ({"chunk_size": True}, "an integer is expected"),
    ],
)
def test_arguments_that_save_would_ignore(
    given: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match=match):
        save({"w": np.arange(4)}, tmp_path / "x.minidb", **given)
    with pytest.raises(ArgumentError, match=match):
        save_predictor(tmp_path / "x.minidb", Message(NET), {}, [], [], {}, **given)
    assert not list(tmp_path.iterdir())


def test_options_of_save(tmp_path: Path) -> None:
    path = tmp_path / "x.minidb"
    save({"w": np.arange(4.0, dtype=np.float32)}, path, save_options=SaveOptions(bfloat16=True))
    small = path.stat().st_size
    save({"w": np.arange(4.0, dtype=np.float32)}, path)
    assert path.stat().st_size > small
    assert load(path)["w"].tolist() == [0, 1, 2, 3]


def test_there_is_nothing_to_save(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="nothing to save"):
        save({}, tmp_path / "x.minidb")
