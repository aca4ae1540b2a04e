"""TensorProtosDBInput: the batches that Caffe2 read, and what it is not given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.caffe2.golden_cases import DATA

from tensorkeep.caffe2 import Workspace, create_operator, gradient_of
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.message import Message
from tensorkeep.stores import open_database
from tensorkeep.wire.caffe2.protos import encode_record
from tensorkeep.wire.caffe2.schema import NET

ENTRIES = json.loads((DATA / "MANIFEST.json").read_text())["entries"]
(GOLDEN,) = (entry for entry in ENTRIES if entry["file"] == "tensorprotos.minidb")
OUTPUTS = GOLDEN["outputs"]
SAVED: dict[str, Any] = {"db_type": "minidb", "absolute_path": 1}


def write(path: Path, records: list[bytes], kind: str = "minidb") -> str:
    with open_database(kind, path, "new") as database:
        for number, record in enumerate(records):
            database.put(f"{number:05d}", [record])
        database.commit()
    return str(path)


@pytest.fixture
def five(tmp_path: Path) -> str:
    records = [encode_record({"x": np.full(2, i, np.float32), "i": np.int32(i)}) for i in range(5)]
    return write(tmp_path / "five.minidb", records)


def workspace(path: str, kind: str = "minidb", **shards: Any) -> Workspace:
    ws = Workspace()
    ws.run(create_operator("CreateDB", [], ["rd"], db=path, db_type=kind, **shards))
    return ws


def read(ws: Workspace, outputs: tuple[str, ...] = ("x", "i"), **given: Any) -> list[int]:
    """Read a batch; give its numbers."""
    ws.run(create_operator("TensorProtosDBInput", ["rd"], outputs, **given))
    return list(np.atleast_1d(ws.fetch("i")))


@pytest.mark.parametrize("run", GOLDEN["runs"])
def test_what_caffe2_read(run: dict[str, Any]) -> None:
    arrays = np.load(DATA / "tensorprotos.npz")
    shards = {"num_shards": run["num_shards"], "shard_id": run["shard_id"]}
    ws = workspace(str(DATA / "tensorprotos.minidb"), **shards)
    for batch in run["batches"]:
        given = {"batch_size": run["batch_size"]}
        ws.run(create_operator("TensorProtosDBInput", ["rd"], OUTPUTS, **given))
        for row in batch:
            found = ws.fetch(row["name"])
            assert found.shape == tuple(row["shape"])
            if "npz" in row:
                assert found.dtype == row["dtype"]
                assert found.tobytes() == arrays[row["npz"]].tobytes()
            else:
                assert [text.hex() for text in found.flat] == row["hex"]


def test_batches_wrap_around(five: str) -> None:
    ws = workspace(five)
    assert [read(ws, batch_size=3) for _ in range(4)] == [
        [0, 1, 2],
        [3, 4, 0],
        [1, 2, 3],
        [4, 0, 1],
    ]
    assert ws.fetch("x").tolist() == [[4, 4], [0, 0], [1, 1]]
    assert read(ws, batch_size=7) == [2, 3, 4, 0, 1, 2, 3]
    assert read(ws) == [4]
    assert ws.fetch("i").shape == ()


def test_a_shard_of_one_record(five: str) -> None:
    ws = workspace(five, num_shards=3, shard_id=2)
    assert read(ws, batch_size=4) == [2, 2, 2, 2]


def test_reading_goes_on_where_a_saved_workspace_was(five: str, tmp_path: Path) -> None:
    ws = workspace(five, num_shards=2, shard_id=1)
    assert read(ws) == [1]
    ws.run(create_operator("Save", ["rd"], db=str(tmp_path / "ws.minidb"), **SAVED))
    other = Workspace()
    load = create_operator("Load", [], ["rd"], db=str(tmp_path / "ws.minidb"), **SAVED)
    other.run(load)
    assert [read(other, batch_size=2) for _ in range(2)] == [[3, 1], [3, 1]]
    assert read(ws) == [3]


@pytest.mark.parametrize("kind", ["minidb", "lmdb", "leveldb", "rocksdb", "sqlite"])
def test_every_database(tmp_path: Path, kind: str) -> None:
    records = [encode_record({"i": np.int32(i)}) for i in range(3)]
    ws = workspace(write(tmp_path / "db", records, kind), kind)
    assert read(ws, ("i",), batch_size=4) == [0, 1, 2, 0]
    ws.fetch("rd").close()


def test_a_net_that_reads_and_saves(five: str, tmp_path: Path) -> None:
    net = Message(NET, name="input")
    net.op = [
        create_operator("CreateDB", [], ["rd"], db=five, db_type="minidb"),
        create_operator("TensorProtosDBInput", ["rd"], ["x", "i"], batch_size=2),
        create_operator("CreateTreeCursor", [], ["cursor"], fields=["i", "x"]),
        create_operator("ReadNextBatch", ["cursor", "i", "x"], ["one", "row"]),
        create_operator("Save", ["one"], db=str(tmp_path / "one.minidb"), **SAVED),
    ]
    ws = Workspace()
    assert ws.run_net(net)
    assert ws.fetch("one").tolist() == [0]
    assert ws.fetch("row").tolist() == [[0, 0]]
    ws.run(create_operator("Load", [], ["one"], db=str(tmp_path / "one.minidb"), **SAVED))
    del net.op[0]
    assert ws.run_net(net)
    assert ws.fetch("i").tolist() == [2, 3]


def test_what_is_no_reader(five: str) -> None:
    ws = Workspace()
    ws.feed("rd", np.zeros(2))
    with pytest.raises(ArgumentError, match=r"'rd' is a Tensor, not a DBReader\. Make one with Cr"):
        read(ws)
    with pytest.raises(MissingError, match="'none' is not in the workspace"):
        ws.run(create_operator("TensorProtosDBInput", ["none"], ["x"]))
    with pytest.raises(ArgumentError, match="has 0 outputs"):
        ws.run(create_operator("TensorProtosDBInput", ["rd"], []))
    ws = workspace(five)
    for size, problem in ((-1, "'batch_size' is -1"), (2.0, "holds a float")):
        with pytest.raises(ArgumentError, match=problem):
            read(ws, batch_size=size)
    with pytest.raises(ArgumentError, match="for which there is no memory"):
        read(ws, batch_size=2**60)
    assert gradient_of(create_operator("TensorProtosDBInput", ["rd"], ["x"])) == []


def test_records_of_another_number_of_tensors(five: str) -> None:
    with pytest.raises(
        UnsupportedError, match=r"record '00000': has 2 tensors, and the .* 1 outputs"
    ):
        read(workspace(five), ("i",))


def test_samples_that_differ(tmp_path: Path) -> None:
    records = [encode_record({"i": np.zeros(size, np.int32)}) for size in (2, 2, 3)]
    ws = workspace(write(tmp_path / "db", records))
    assert read(ws, ("i",), batch_size=2)
    with pytest.raises(
        UnsupportedError, match=r"record '00000'.* int32 of shape \(2,\), and .*\(3,\) before it"
    ):
        read(ws, ("i",), batch_size=2)


def test_an_empty_database(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(MissingError, match="no records"):
        read(workspace(str(tmp_path / "empty")))


def test_a_database_of_something_else() -> None:
    ws = workspace(str(DATA / "dataset.minidb"))
    with pytest.raises(TensorKeepError, match="record 'a:lengths#%0'"):
        read(ws)


def test_devices_are_dropped_and_damage_is_told(tmp_path: Path) -> None:
    good = encode_record({"i": np.int32(1)})
    proto = b"\x10\x02" + b'"\x01\x05' + b"B\x04\x08\x01\x10\x03"
    on_device = b"\n" + bytes([len(proto)]) + proto
    ws = workspace(write(tmp_path / "db", [on_device, good[:-1], good]))
    assert read(ws, ("i",)) == [5]
    assert str(ws.blob("i").device) == "CPU"
    with pytest.raises(CorruptError, match="record '00001'"):
        read(ws, ("i",))
    assert ws.fetch("i") == 5
    assert read(ws, ("i",)) == [1]
