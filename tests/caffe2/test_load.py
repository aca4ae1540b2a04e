from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.caffe2.golden_cases import DATA, read_file

from tensorkeep.caffe2 import (
    Blob,
    Device,
    Int8Tensor,
    Workspace,
    create_db,
    create_operator,
    deserialize_blob,
    init_net_of,
    load,
    load_tensor_inference,
    save,
    serialize_blob,
    write_net,
)
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, UnknownFormatError
from tensorkeep.message import Message
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.schema import BLOB
from tensorkeep.wire.minidb import record_header

ENTRIES = json.loads((DATA / "MANIFEST.json").read_text())["entries"]
LOADED = [entry for entry in ENTRIES if "expected" in entry and "load_args" in entry]
ENGINES = ["minidb", "lmdb", "leveldb", "rocksdb", "sqlite"]


def run_load(
    path: Path, outputs: list[str] | None = None, *, ws: Workspace | None = None, **given: Any
) -> Workspace:
    ws = ws or Workspace()
    given = {"db_type": "minidb", "absolute_path": 1, **given}
    if "dbs" not in given:
        given["db"] = str(path)
    ws.run(create_operator("Load", [], outputs or [], **given))
    return ws


# A chunk's index is digits; Caffe2 cuts names at the first "#%", whatever follows.
KEPT_WHOLE = {("legacy.minidb", "odd_chunk_id"): "odd_chunk_id#%zz"}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("entry", LOADED, ids=lambda entry: entry["file"])
def test_as_caffe2_loads(entry: dict[str, Any], strict: bool) -> None:
    given = dict(entry["load_args"])
    outputs = given.pop("outputs", None)
    ws = run_load(DATA / entry["file"], outputs, ws=Workspace(strict=strict), **given)
    rows = list(entry["blobs"])
    if strict:
        rows = [
            {**row, "name": KEPT_WHOLE.get((entry["file"], row["name"]), row["name"])}
            for row in rows
        ]
    assert sorted(ws.blobs()) == sorted(row["name"] for row in rows)
    with np.load(DATA / entry["expected"]) as expected:
        for row in rows:
            check_blob(ws, row, expected)


def check_blob(ws: Workspace, row: dict[str, Any], expected: Any) -> None:
    found = ws.fetch(row["name"])
    match row["kind"]:
        case "tensor":
            wanted = expected[row["npz"]]
            assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
            assert found.tobytes() == wanted.tobytes()
        case "int8_tensor":
            assert isinstance(found, Int8Tensor)
            assert np.array_equal(found.data.numpy(), expected[row["npz"]])
        case "string_tensor":
            assert list(found.shape) == row["shape"]
            assert [text.hex() for text in found.flat] == row["hex"]
        case "std_string":
            assert found.hex() == row["hex"]
        case kind:
            assert kind == "opaque"


@pytest.mark.parametrize("db_type", ENGINES)
@pytest.mark.parametrize("chunk_size", [-1, 7])
def test_every_engine(tmp_path: Path, db_type: str, chunk_size: int) -> None:
    path = tmp_path / "x"
    blobs: dict[str, Any] = {
        "conv1": np.arange(23, dtype=np.float32),
        "conv10": np.arange(5, dtype=np.int8),
        "conv1#%w": np.arange(3),
        "text": b"text",
    }
    save(blobs, path, db_type, chunk_size=chunk_size)
    ws = run_load(path, load_all=1, db_type=db_type)
    assert sorted(ws.blobs()) == sorted(blobs)
    assert ws.fetch("conv10").tolist() == [0, 1, 2, 3, 4]
    ws = run_load(path, ["text", "conv1"], db_type=db_type)
    assert sorted(ws.blobs()) == ["conv1", "text"]
    assert np.array_equal(ws.fetch("conv1"), blobs["conv1"])
    ws = run_load(path, ["p/conv1"], db_type=db_type, add_prefix="p/")
    assert ws.blobs() == ["p/conv1"]
    ws = run_load(path, ["v10"], db_type=db_type, strip_prefix="con")
    assert ws.blobs() == ["v10"]
    ws = run_load(path, ["y"], db_type=db_type, source_blob_names=["conv1#%w"])
    assert ws.fetch("y").tolist() == [0, 1, 2]
    with pytest.raises(MissingError, match="'conv'"):
        run_load(path, ["conv"], db_type=db_type)
    ws = run_load(path, ["text", "conv"], db_type=db_type, allow_incomplete=1)
    assert ws.blobs() == ["text"]


def test_several_databases(tmp_path: Path) -> None:
    one, two = tmp_path / "1.minidb", tmp_path / "2.minidb"
    save({"a": np.arange(2), "b": b"1"}, one)
    save({"c": np.arange(3), "b2": b"2"}, two)
    ws = run_load(one, dbs=[str(one), str(two)], load_all=1)
    assert ws.blobs() == ["a", "b", "c", "b2"]
    ws = run_load(one, ["c", "a"], dbs=[str(two), str(one)])
    assert sorted(ws.blobs()) == ["a", "c"]
    save({"b": b"3"}, two)
    with pytest.raises(CorruptError, match=r"'b' is in .*1\.minidb as well"):
        run_load(one, dbs=[str(one), str(two)], load_all=1)


def test_a_failing_load_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.minidb"
    save({"a": np.arange(10), "b": np.arange(20)}, path, chunk_size=7)
    cut = path.read_bytes()[:-3]
    path.write_bytes(cut)
    ws = Workspace()
    ws.feed("a", b"before")
    with pytest.raises(CorruptError, match=r"x\.minidb"):
        run_load(path, ws=ws, load_all=1)
    assert (ws.blobs(), ws.fetch("a")) == (["a"], b"before")
    ws.strict = False
    with pytest.raises(CorruptError, match=r"x\.minidb"):
        run_load(path, ws=ws, load_all=1)
    assert np.array_equal(ws.fetch("a"), np.arange(10))


def test_what_is_left_of_a_damaged_file_can_be_had(tmp_path: Path) -> None:
    path = tmp_path / "x.minidb"
    array = np.arange(20, dtype=np.float32)
    save({"a": array, "b": b"text", "c": array}, path, chunk_size=7)
    found = path.read_bytes()
    path.write_bytes(found[: found.rindex(b"c#%2") - 8])
    ws = Workspace(strict=False)
    with pytest.raises(CorruptError, match="'c' has 14 of 20 elements: elements 14 to 20 missing"):
        run_load(path, ws=ws, load_all=1)
    assert np.array_equal(ws.fetch("a"), array)
    assert ws.fetch("b") == b"text"
    assert np.array_equal(ws.blob("c").value[:14], array[:14])
    with pytest.raises(CorruptError, match="elements 14 to 20 are missing"):
        ws.fetch("c")


def test_the_type_may_change(tmp_path: Path) -> None:
    path = tmp_path / "x.minidb"
    save({"a": np.arange(10)}, path)
    ws = Workspace()
    ws.feed("a", np.zeros((2, 2), np.float32))
    run_load(path, ["a"], ws=ws)
    assert ws.fetch("a").tolist() == list(range(10))


def test_an_absent_output_keeps_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.minidb"
    save({"a": np.arange(10)}, path)
    ws = Workspace()
    ws.feed("z", b"before")
    run_load(path, ["a", "z"], ws=ws, allow_incomplete=1)
    assert ws.fetch("z") == b"before"


def test_devices(tmp_path: Path) -> None:
    path = tmp_path / "x.minidb"
    gpu = Device(1, 2)
    save({"w": Blob("Tensor", Tensor.of(np.arange(3)), gpu), "s": b"text"}, path)
    ws = run_load(path, load_all=1)
    assert ws.blob("w").device == Device()
    ws = run_load(path, load_all=1, keep_device=1)
    assert ws.blob("w").device == gpu
    ws.run(
        create_operator(
            "Load", [], ["w"], db=str(path), db_type="minidb", absolute_path=1, device=Device(1, 5)
        )
    )
    assert ws.blob("w").device == Device(1, 5)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"db": ""}, "db"),
        ({"db_type": ""}, "db_type"),
        ({"db_type": "nosuchdb", "db_options": "x"}, "nosuchdb"),
        ({"dbs": ["x", ""]}, "name of its db"),
        ({"dbs": ["x", "x"]}, "'x' twice"),
        ({"dbs": "x"}, "'dbs' holds a text, where a list of texts is expected"),
        ({"source_blob_names": ["p", "q"]}, "2 source_blob_names for 1 outputs"),
        ({"source_blob_names": ["p"], "strip_prefix": "x"}, "strip_prefix"),
        ({"source_blob_names": ["p"], "load_all": 1}, "load_all"),
        ({"absolute_path": 1.0}, "'absolute_path' holds a float"),
        ({"db": 7}, "'db' holds an integer, where a text is expected"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, Any], problem: str) -> None:
    path = tmp_path / "x.minidb"
    save({"a": np.arange(10)}, path)
    ws = Workspace()
    given: dict[str, Any] = {"db": str(path), "db_type": "minidb", "absolute_path": 1, **arguments}
    with pytest.raises(ArgumentError, match=problem):
        ws.run(create_operator("Load", [], ["a"], **given))
    assert ws.blobs() == []


def test_one_blob_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.minidb"
    save({"a": np.arange(10)}, path)
    with pytest.raises(ArgumentError, match="twice"):
        run_load(path, ["a", "a"])
    with pytest.raises(ArgumentError, match="twice"):
        run_load(path, ["p", "q"], source_blob_names=["a", "a"])


def test_two_names_become_one(tmp_path: Path) -> None:
    path = tmp_path / "x.minidb"
    save({"p/a": np.arange(10), "q/p/a": np.arange(10)}, path)
    with pytest.raises(CorruptError, match="'a'"):
        run_load(path, load_all=1, strip_prefix="p/")


@pytest.mark.parametrize(
    ("value", "problem"), [(b"\xff\xff\xff", "w"), (b"\n\x01w", "type"), (b"plain text", "w")]
)
def test_values_that_are_no_blobs(tmp_path: Path, value: bytes, problem: str) -> None:
    path = tmp_path / "x.minidb"
    path.write_bytes(record_header("w", len(value)) + value)
    with pytest.raises((CorruptError, ValueError), match=problem):
        run_load(path, load_all=1)


def test_loading_a_dict(tmp_path: Path) -> None:
    with pytest.raises(MissingError):
        load(tmp_path / "absent.minidb")
    file = tmp_path / "x"
    file.write_bytes(b"no database at all")
    with pytest.raises(UnknownFormatError, match="db_type"):
        load(file)
    with pytest.raises(CorruptError):
        load(file, "minidb")
    save({"w": np.arange(3), "t": np.array(["a", b"\xff"], object)}, file, chunk_size=2)
    found = load(file)
    assert found["t"].tolist() == [b"a", b"\xff"]
    found["w"][0] = 7
    assert load(file)["w"].tolist() == [0, 1, 2]
    with file.open("ab") as tail:
        tail.write(b"\0\0")
    with pytest.raises(CorruptError, match="cut short"):
        load(file)
    assert list(load(file, strict=False)) == ["w", "t"]


def test_inference() -> None:
    def infer(outputs: list[str], **given: Any) -> list[tuple[Any, Any]]:
        found = load_tensor_inference(create_operator("Load", [], outputs, **given))
        return [(one.shape, one.dtype and one.dtype.name) for one in found]

    assert infer(["w"], shape=[2, 3]) == [((2, 3), "float32")]
    assert infer(["w"], shape=[4], dtype=10) == [((4,), "int64")]
    assert infer(["w"]) == [(None, None)]
    assert infer(["w"], dtype=10) == [(None, None)]
    assert infer(["w", "v"], shape=[2, 3]) == [(None, None)] * 2
    assert infer([], shape=[2, 3]) == []
    with pytest.raises(ArgumentError, match="99"):
        infer(["w"], shape=[2], dtype=99)


def test_what_is_saved_of_a_file_is_the_file(tmp_path: Path) -> None:
    one, two = tmp_path / "1.minidb", tmp_path / "2.minidb"
    save({"w": np.arange(100_000, dtype=np.int64), "s": b"x" * 100_000}, one, chunk_size=999)
    ws = run_load(one, load_all=1)
    given: dict[str, Any] = {
        "db": str(two),
        "db_type": "minidb",
        "absolute_path": 1,
        "chunk_size": 999,
    }
    ws.run(create_operator("Save", ["w", "s"], **given))
    assert read_file(two) == read_file(one)
    assert two.read_bytes() == one.read_bytes()


@pytest.mark.parametrize("kind", ["TensorCPU", "TensorCUDA"])
def test_tensors_by_their_older_names(kind: str, tmp_path: Path) -> None:
    proto = Message.parse(BLOB, serialize_blob("w", np.arange(3.0)))
    proto.type = kind
    with create_db("minidb", tmp_path / "x.minidb", "new") as db, db.new_transaction() as new:
        new.put("w#%0", proto.encode())
    assert load(tmp_path / "x.minidb")["w"].tolist() == [0, 1, 2]
    assert deserialize_blob(proto.encode()).kind == "Tensor"


def test_what_is_no_database_says_what_reads_it(tmp_path: Path) -> None:
    write_net(init_net_of({"w": np.ones(2, np.float32)}), tmp_path / "init_net.pb")
    with pytest.raises(UnknownFormatError, match=r"tensorkeep\.load"):
        load(tmp_path / "init_net.pb")
