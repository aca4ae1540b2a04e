from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.caffe2.golden_cases import DATA
from tests.message.reference import message_classes

import tensorkeep as tk
from tensorkeep.caffe2 import (
    Blob,
    DBReader,
    DBReaderState,
    Workspace,
    create_operator,
    deserialize_blob,
    extract,
    load,
    save,
    serialize_blob,
)
from tensorkeep.errors import ArgumentError, CorruptError, MissingError
from tensorkeep.message import Message
from tensorkeep.wire.caffe2.schema import BLOB, DB_READER, TENSORS

ENTRIES = json.loads((DATA / "MANIFEST.json").read_text())["entries"]
RUNS = [run for entry in ENTRIES if entry["file"] == "tensorprotos.minidb" for run in entry["runs"]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "five.minidb"
    save({f"r{i}": str(i).encode() for i in range(5)}, path)
    return path


def keys(reader: DBReader, count: int) -> str:
    return " ".join(reader.read()[0] for _ in range(count))


@pytest.mark.parametrize(
    ("shards", "shard", "read"),
    [
        (1, 0, "r0 r1 r2 r3 r4 r0 r1"),
        (2, 0, "r0 r2 r4 r0 r2 r4 r0"),
        (2, 1, "r1 r3 r1 r3 r1 r3 r1"),
        (3, 0, "r0 r3 r0 r3 r0 r3 r0"),
        (3, 1, "r1 r4 r1 r4 r1 r4 r1"),
        (3, 2, "r2 r2 r2 r2 r2 r2 r2"),
        (5, 4, "r4 r4 r4 r4 r4 r4 r4"),
    ],
)
def test_shards(path: Path, shards: int, shard: int, read: str) -> None:
    reader = DBReader("minidb", str(path), num_shards=shards, shard_id=shard)
    assert keys(reader, 7) == read
    reader.rewind()
    assert keys(reader, 2) == read[:5]


@pytest.mark.parametrize(("shards", "shard"), [(0, 0), (-1, 0), (2, 2), (2, -1)])
def test_senseless_shards(path: Path, shards: int, shard: int) -> None:
    with pytest.raises(ArgumentError, match="shard"):
        DBReader("minidb", str(path), num_shards=shards, shard_id=shard)


def test_more_shards_than_records(path: Path) -> None:
    with pytest.raises(MissingError, match="5 records"):
        DBReader("minidb", str(path), num_shards=9, shard_id=5)


def test_an_empty_database(tmp_path: Path) -> None:
    path = tmp_path / "empty.minidb"
    path.touch()
    reader = DBReader("minidb", str(path))
    assert not reader.valid
    with pytest.raises(MissingError, match="no records"):
        reader.read()


@pytest.mark.parametrize("run", RUNS)
def test_records_come_as_caffe2_reads_them(run: dict[str, Any]) -> None:
    shards = {"num_shards": run["num_shards"], "shard_id": run["shard_id"]}
    reader = DBReader("minidb", str(DATA / "tensorprotos.minidb"), **shards)
    texts = [row["hex"] for batch in run["batches"] for row in batch if row["name"] == "text"]
    for text in [text for batch in texts for text in batch]:
        _, source = reader.read()
        (found,) = Message.parse(TENSORS, source).protos[3].string_data
        assert found.hex() == text


def test_damage_is_met_again(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    ws = Workspace()
    ws.run(create_operator("CreateDB", [], ["rd"], db=str(path), db_type="minidb"))
    for _ in range(3):
        with pytest.raises(CorruptError, match="record 4"):
            ws.run(create_operator("Load", ["rd"], load_all=1))
    assert ws.blobs() == ["rd"]
    ws.fetch("rd").rewind()
    assert ws.fetch("rd").read()[0] == "r0"


def test_threads_share_a_reader(path: Path) -> None:
    reader = DBReader("minidb", str(path))
    read: list[str] = []

    def work() -> None:
        read.extend(reader.read()[0] for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read) == sorted(f"r{i % 5}" for i in range(200))


def test_load_goes_on_from_where_a_reader_is(path: Path) -> None:
    ws = Workspace()
    ws.run(create_operator("CreateDB", [], ["rd"], db=str(path), db_type="minidb"))
    ws.run(create_operator("Load", ["rd"], ["r1"]))
    assert ws.fetch("rd").current[0] == "r1"
    ws.run(create_operator("Load", ["rd"], ["r1"]))
    ws.run(create_operator("Load", ["rd"], load_all=1, add_prefix="rest/"))
    assert ws.blobs() == ["rd", "r1", "rest/r1", "rest/r2", "rest/r3", "rest/r4"]
    assert not ws.fetch("rd").valid
    with pytest.raises(MissingError, match="'r1'"):
        ws.run(create_operator("Load", ["rd"], ["r1"]))
    assert ws.run(create_operator("Load", ["rd"], load_all=1, add_prefix="none/"))
    assert not any(name.startswith("none/") for name in ws.blobs())
    ws.fetch("rd").rewind()
    assert ws.run(create_operator("Load", ["rd"], ["r0"]))


def test_inputs_that_are_no_readers() -> None:
    ws = Workspace()
    ws.feed("x", b"text")
    with pytest.raises(ArgumentError, match="'x' is a std::string, not a DBReader"):
        ws.run(create_operator("Load", ["x"], ["y"]))


def test_create_db_ignores_the_root_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    ws = Workspace("/elsewhere")
    ws.run(create_operator("CreateDB", [], ["rd"], db=path.name, db_type="minidb"))
    assert ws.fetch("rd").read()[0] == "r0"
    with pytest.raises(ArgumentError, match="nosuchdb"):
        ws.run(create_operator("CreateDB", [], ["rd"], db=path.name, db_type="nosuchdb"))
    with pytest.raises(MissingError):
        ws.run(create_operator("CreateDB", [], ["rd"], db=path.name + "x", db_type="minidb"))


def test_a_reader_is_saved_and_loaded(tmp_path: Path, path: Path) -> None:
    ws = Workspace()
    ws.run(create_operator("CreateDB", [], ["rd"], db=str(path), db_type="minidb"))
    ws.fetch("rd").read()
    saved: dict[str, Any] = {
        "db": str(tmp_path / "y.minidb"),
        "db_type": "minidb",
        "absolute_path": 1,
    }
    ws.run(create_operator("Save", ["rd"], **saved))
    ws.reset()
    ws.run(create_operator("Load", [], ["rd"], **saved))
    ws.run(create_operator("Load", ["rd"], ["r1"]))
    assert ws.fetch("r1") == b"1"
    assert load(tmp_path / "y.minidb")["rd"].source == str(path)


def test_what_a_loaded_reader_names_is_opened_only_when_it_is_used(
    tmp_path: Path, path: Path
) -> None:
    ws = Workspace()
    ws.run(create_operator("CreateDB", [], ["rd"], db=str(path), db_type="minidb"))
    saved: dict[str, Any] = {
        "db": str(tmp_path / "y.minidb"),
        "db_type": "minidb",
        "absolute_path": 1,
    }
    ws.run(create_operator("Save", ["rd"], **saved))
    os.rename(path, tmp_path / "moved")
    other = Workspace()
    other.run(create_operator("Load", [], ["rd"], **saved))
    with pytest.raises(MissingError, match=r"five\.minidb"):
        other.run(create_operator("Load", ["rd"], ["r0"]))


def test_extracting_from_a_reader(path: Path) -> None:
    reader = DBReader("minidb", str(path))
    assert list(extract(reader, ["r2"])) == ["r2"]
    assert reader.current is not None
    assert reader.current[0] == "r2"
    assert list(extract(reader)) == ["r2", "r3", "r4"]
    with pytest.raises(MissingError, match="'r0'"):
        extract(reader, ["r0"])


def test_a_sorted_database_is_read_from_a_key(tmp_path: Path) -> None:
    path = tmp_path / "x.lmdb"
    save({name: np.arange(2) for name in "bca"}, path, "lmdb")
    assert keys(DBReader("lmdb", str(path)), 3) == "a#%0 b#%0 c#%0"
    reader = DBReader("lmdb", str(path), key="b")
    assert reader.state.key == "b#%0"
    assert DBReader.of(reader.state).read()[0] == "b#%0"


def test_a_saved_reader_has_the_name_it_is_saved_as(path: Path, tmp_path: Path) -> None:
    ws = Workspace()
    ws.run(create_operator("CreateDB", [], ["rd"], db=str(path), db_type="minidb"))
    save({"kept": ws.blob("rd")}, tmp_path / "r.minidb")
    saved = extract(tmp_path / "r.minidb")["kept"]
    assert saved.value.name == "kept"
    save({"again": saved}, tmp_path / "s.minidb", blob_name_overrides=["other"])
    assert extract(tmp_path / "s.minidb")["other"].value.name == "other"
    message = Message.parse(BLOB, serialize_blob("bare", ws.blob("rd")))
    # As Caffe2 writes it: its DBReaderProto begins with the name.
    assert message.content.startswith(b"\n\x04bare\x12")


@pytest.mark.parametrize(("shards", "shard"), [(1, 0), (2, 1), (3, 0), (3, 2), (5, 4)])
@pytest.mark.parametrize("read", range(7))
def test_a_saved_reader_goes_on_with_its_shard(
    path: Path, tmp_path: Path, shards: int, shard: int, read: int
) -> None:
    reader = DBReader("minidb", str(path), num_shards=shards, shard_id=shard)
    keys(reader, read)
    save({"rd": Blob("DBReader", reader)}, tmp_path / "r.minidb")
    state = load(tmp_path / "r.minidb")["rd"]
    assert state == replace(reader.state, name="rd")
    again = DBReader.of(state)
    expected = keys(reader, 7)
    assert keys(again, 7) == expected
    again.restore(state)
    assert keys(again, 7) == expected


def test_the_shard_and_place_of_a_reader_in_a_sorted_database(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    save({name: name.encode() for name in "edcba"}, path, "sqlite")
    reader = DBReader("sqlite", str(path), num_shards=2, shard_id=1)
    assert keys(reader, 1) == "b"
    assert reader.state == DBReaderState("", str(path), "sqlite", "d", 2, 1)
    assert keys(DBReader.of(reader.state), 4) == "d b d b"


def test_caffe2_skips_what_it_has_no_field_for(path: Path) -> None:
    reader = DBReader("minidb", str(path), num_shards=3, shard_id=2)
    content = bytes(Message.parse(BLOB, serialize_blob("rd", Blob("DBReader", reader))).content)
    message = message_classes({"DBReaderProto": DB_READER})["DBReaderProto"].FromString(content)
    assert (message.name, message.source, message.db_type) == ("rd", str(path), "minidb")
    assert not message.HasField("key")
    assert Message.parse(DB_READER, content).unknown()
    usual = serialize_blob("rd", Blob("DBReader", DBReader("minidb", str(path))))
    assert not Message.parse(DB_READER, Message.parse(BLOB, usual).content).unknown()


def test_a_reader_at_the_end_stays_there(path: Path) -> None:
    reader = DBReader("minidb", str(path))
    assert len(list(reader.remaining())) == 5
    again = DBReader.of(reader.state)
    assert not again.valid
    assert again.read()[0] == "r0"


def test_a_reader_of_a_database_that_lost_records(path: Path) -> None:
    state = DBReaderState("", str(path), "minidb", "", 1, 0, 6)
    with pytest.raises(MissingError, match="5 records, and the reader was at number 6"):
        DBReader.of(state)
    reader = DBReader("minidb", str(path))
    with pytest.raises(ArgumentError, match="shard 0 of 1, and what was saved shard 1 of 2"):
        reader.restore(replace(state, num_shards=2, shard_id=1))


@pytest.mark.parametrize("fields", [(3, 3, 0), (0, 0, 0), (2, -1, 0), (2, 1, -5)])
def test_a_senseless_saved_shard(fields: tuple[int, int, int]) -> None:
    blob = Blob("DBReader", DBReaderState("rd", "x", "minidb", "", *fields))
    with pytest.raises(CorruptError, match="is a reader of shard"):
        deserialize_blob(serialize_blob("rd", blob))


def test_a_reader_keeps_its_place_in_other_formats(path: Path, tmp_path: Path) -> None:
    reader = DBReader("minidb", str(path), num_shards=2, shard_id=1)
    reader.read()
    save({"rd": Blob("DBReader", reader), "w": np.zeros(2)}, tmp_path / "r.minidb")
    tk.convert(tmp_path / "r.minidb", tmp_path / "r.safetensors")
    tk.convert(tmp_path / "r.safetensors", tmp_path / "again.minidb")
    assert load(tmp_path / "again.minidb")["rd"] == replace(reader.state, name="rd")
