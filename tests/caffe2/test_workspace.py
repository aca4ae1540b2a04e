from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tensorkeep.caffe2 import Blob, Device, Workspace, create_operator, run_net, save
from tensorkeep.caffe2.compat import caffe2_pb2, core
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, UnsupportedError
from tensorkeep.message import Message
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.schema import NET, OPERATOR


def net_of(*operators: Message, device: Device | None = None) -> Message:
    net = Message(NET, name="example", op=list(operators))
    if device is not None:
        net.make("device_option", device_type=device.type, device_id=device.id)
    return net


def arguments_for(path: Path) -> dict[str, Any]:
    return {"db": str(path), "absolute_path": 1, "db_type": "minidb"}


@pytest.mark.parametrize(
    "kind",
    ["float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16"],
)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_what_is_fed_is_fetched(kind: str, shape: tuple[int, ...]) -> None:
    ws = Workspace()
    fed = np.ones(shape, kind)
    ws.feed("x", fed)
    found = ws.fetch("x")
    assert found.dtype == fed.dtype
    assert found.shape == shape
    assert found.tobytes() == fed.tobytes()
    assert found.flags.writeable


def test_feeding_and_fetching_copy() -> None:
    ws = Workspace()
    fed = np.zeros(3)
    ws.feed("x", fed)
    fed[0] = 1
    found = ws.fetch("x")
    found[1] = 2
    assert ws.fetch("x").tolist() == [0, 0, 0]
    ws.feed("x", fed, copy=False)
    fed[2] = 3
    assert ws.fetch("x").tolist() == [1, 0, 3]


def test_texts() -> None:
    ws = Workspace()
    ws.feed("s", "é")
    ws.feed("b", b"\xff\0")
    assert (ws.fetch("s"), ws.fetch("b")) == ("é".encode(), b"\xff\0")
    assert ws.blob("s").kind == "std::string"
    ws.feed("t", np.array([["é", b"\xff\0"]], object))
    found = ws.fetch("t")
    assert found.shape == (1, 2)
    assert found.tolist() == [["é".encode(), b"\xff\0"]]
    ws.feed("u", np.array(["a", "bc"]))
    assert ws.fetch("u").tolist() == [b"a", b"bc"]


@pytest.mark.parametrize("kind", ["uint32", "uint64", "complex64", ml_dtypes.bfloat16])
def test_types_that_no_tensor_has(kind: Any) -> None:
    with pytest.raises(UnsupportedError, match="no Caffe2 tensor"):
        Workspace().feed("x", np.zeros(2, kind))


@pytest.mark.parametrize("value", [3, [1, 2], None, {"a": 1}])
def test_values_that_no_blob_holds(value: Any) -> None:
    with pytest.raises(ArgumentError, match="cannot hold"):
        Workspace().feed("x", value)


def test_tensors_and_blobs_are_fed_as_they_are() -> None:
    ws = Workspace()
    tensor = Tensor.of(np.arange(3))
    ws.feed("t", tensor, Device(1, 2))
    assert ws.blob("t").value is tensor
    assert ws.blob("t").device == Device(1, 2)
    ws.feed("c", Blob("std::unique_ptr<Counter<int64_t>>", 7))
    assert ws.fetch("c") == 7


def test_names() -> None:
    ws = Workspace()
    assert ws.blobs() == []
    ws.feed("b", b"1")
    ws.feed("a", b"2")
    assert ws.blobs() == ws.local_blobs() == ["b", "a"]
    assert ws.has("a")
    assert ws.remove("a")
    assert not ws.remove("a")
    assert not ws.has("a")
    with pytest.raises(MissingError, match=r"'a'.*It has b"):
        ws.fetch("a")
    ws.reset()
    assert ws.blobs() == []
    assert ws.root_folder == "."
    ws.reset("/elsewhere")
    assert ws.root_folder == "/elsewhere"


def test_children() -> None:
    ws = Workspace("/data", strict=False, durable=False)
    ws.feed("shared", b"1")
    child = ws.child()
    assert (child.root_folder, child.strict, child.durable) == (".", False, False)
    child.feed("own", b"2")
    child.feed("shared", b"3")
    assert ws.fetch("shared") == b"3"
    assert child.blobs() == ["own", "shared"]
    assert child.local_blobs() == ["own"]
    assert ws.blobs() == ["shared"]
    assert not child.remove("shared")
    child.reset()
    assert child.blobs() == ["shared"]


def test_load_all_in_a_child_writes_to_the_parent(tmp_path: Path) -> None:
    ws = Workspace()
    ws.feed("w", np.arange(2))
    ws.feed("x", np.arange(3))
    arguments: dict[str, Any] = {
        "db": str(tmp_path / "x.minidb"),
        "absolute_path": 1,
        "db_type": "minidb",
    }
    ws.run(create_operator("Save", ["w", "x"], **arguments))
    ws.feed("w", np.zeros(2, np.int64))
    ws.remove("x")
    child = ws.child()
    child.run(create_operator("Load", load_all=1, **arguments))
    assert ws.fetch("w").tolist() == [0, 1]
    assert child.local_blobs() == ["x"]
    child.run(create_operator("GetAllBlobNames", [], ["names"]))
    assert child.fetch("names").tolist() == [b"x", b"w", b"names"]
    child.run(create_operator("GetAllBlobNames", [], ["names"], include_shared=0))
    assert child.fetch("names").tolist() == [b"x", b"names"]


def test_a_fetched_map_is_private(tmp_path: Path) -> None:
    ws = Workspace()
    stored = np.arange(100_000, dtype=np.float32)
    ws.feed("w", stored)
    ws.feed("v", stored)
    arguments: dict[str, Any] = {
        "db": str(tmp_path / "x.minidb"),
        "absolute_path": 1,
        "db_type": "minidb",
    }
    ws.run(create_operator("Save", ["w", "v"], **arguments))
    ws.reset()
    ws.run(create_operator("Load", load_all=1, **arguments))
    first = ws.fetch("w")
    first[:] = 7
    assert np.array_equal(ws.fetch("w"), stored)
    assert np.array_equal(ws.fetch("v"), stored)
    second = ws.fetch("w")
    second[:] = 8
    assert np.all(first == 7)
    ws.feed("again", ws.blob("w"))
    assert np.array_equal(ws.fetch("again"), stored)


def test_a_copy_has_a_map_of_its_own(tmp_path: Path) -> None:
    ws = Workspace()
    stored = np.arange(100_000, dtype=np.float32)
    ws.feed("w", stored)
    arguments = arguments_for(tmp_path / "x.minidb")
    ws.run(create_operator("Save", ["w"], **arguments))
    ws.run(create_operator("Load", [], ["w"], **arguments))
    ws.run(create_operator("Copy", ["w"], ["v"]))
    ws.fetch("w")[:] = 7
    ws.feed("w", b"another")
    assert np.array_equal(ws.fetch("v"), stored)
    ws.child().fetch("v")[:] = 8
    assert np.array_equal(ws.fetch("v"), stored)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts files as Linux lists them")
def test_files_that_no_blob_needs_are_closed(tmp_path: Path) -> None:
    ws = Workspace()
    for name in "abc":
        ws.feed(name, np.arange(100_000, dtype=np.float32))
    arguments = arguments_for(tmp_path / "x.minidb")
    ws.run(create_operator("Save", ["a", "b", "c"], **arguments))
    counts = []
    for _ in range(20):
        ws.run(create_operator("Load", load_all=1, **arguments))
        for name in "abc":
            ws.fetch(name)
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert len(set(counts[2:])) == 1
    for name in "abc":
        ws.remove(name)
    assert len(list(Path("/proc/self/fd").iterdir())) < counts[-1]


def test_what_is_loaded_outlives_a_new_save(tmp_path: Path) -> None:
    ws = Workspace()
    arguments: dict[str, Any] = {
        "db": str(tmp_path / "x.minidb"),
        "absolute_path": 1,
        "db_type": "minidb",
    }
    stored = np.arange(100_000, dtype=np.float32)
    ws.feed("w", stored)
    ws.run(create_operator("Save", ["w"], **arguments))
    ws.run(create_operator("Load", [], ["w"], **arguments))
    other = Workspace()
    other.feed("w", -stored)
    other.run(create_operator("Save", ["w"], **arguments))
    assert np.array_equal(ws.fetch("w"), stored)
    ws.run(create_operator("Save", ["w"], **arguments))  # over the file that it is read from
    other.run(create_operator("Load", [], ["w"], **arguments))
    assert np.array_equal(other.fetch("w"), stored)


def test_the_root_folder(tmp_path: Path) -> None:
    ws = Workspace(str(tmp_path))
    ws.feed("w", np.arange(3))
    ws.run(create_operator("Save", ["w"], db="x.minidb", db_type="minidb"))
    ws.run(create_operator("Save", ["w"], db="/y.minidb", db_type="minidb"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.minidb", "y.minidb"]
    ws.run(create_operator("DBExists", [], ["there"], db_name="x.minidb", db_type="minidb"))
    assert ws.fetch("there")


def test_a_net(tmp_path: Path) -> None:
    ws = Workspace(str(tmp_path))
    ws.feed("w", np.arange(3))
    save = create_operator("Save", ["w"], db="x.minidb", db_type="minidb")
    load = create_operator(
        "Load", [], ["v"], db="x.minidb", db_type="minidb", source_blob_names=["w"]
    )
    exact = create_operator(
        "Load",
        [],
        ["u"],
        db="x.minidb",
        db_type="minidb",
        source_blob_names=["w"],
        device=Device(1, 1),
    )
    net = net_of(save, load, exact, device=Device(1, 3))
    assert ws.run_net(Message.parse(NET, net.encode()))
    assert ws.fetch("v").tolist() == [0, 1, 2]
    assert ws.blob("v").device == Device(1, 3)
    assert ws.blob("u").device == Device(1, 1)
    assert "device_option" not in net.op[0]


def test_nothing_of_a_bad_net_runs(tmp_path: Path) -> None:
    ws = Workspace(str(tmp_path))
    ws.feed("w", np.arange(3))
    save = create_operator("Save", ["w"], db="x.minidb", db_type="minidb")
    with pytest.raises(UnsupportedError, match="'Conv'"):
        ws.run_net(net_of(save, create_operator("Conv", ["w"], ["y"])))
    later = create_operator("Save", ["y"], db="y.minidb", db_type="minidb")
    with pytest.raises(MissingError, match=r"'example'.*'y'"):
        ws.run_net(net_of(save, later))
    with pytest.raises(ArgumentError, match="NetDef is needed, not OperatorDef"):
        ws.run_net(Message(OPERATOR))
    assert list(tmp_path.iterdir()) == []


def test_the_strictness_of_one_run(tmp_path: Path) -> None:
    ws = Workspace(str(tmp_path))
    ws.feed("w", np.arange(3))
    ws.run(create_operator("Save", ["w"], db="x.minidb", db_type="minidb"))
    with (tmp_path / "x.minidb").open("ab") as file:
        file.write(b"\0")
    load = create_operator("Load", load_all=1, db="x.minidb", db_type="minidb")
    with pytest.raises(CorruptError, match="cut short"):
        ws.run(load)
    with pytest.raises(CorruptError, match="cut short"):
        ws.run_net(net_of(load))
    assert ws.run(load, strict=False)
    assert ws.run_net(net_of(load), strict=False)
    ws.strict = False
    assert ws.run(load)


@pytest.mark.parametrize("size", [3, 100_000])
def test_a_reader_gives_what_the_file_holds(size: int, tmp_path: Path) -> None:
    ws = Workspace()
    stored = np.arange(size, dtype=np.float32)
    save({"w": stored, "end": b""}, tmp_path / "x.minidb")
    path = str(tmp_path / "x.minidb")
    ws.run(create_operator("CreateDB", [], ["reader"], db=path, db_type="minidb"))
    load = create_operator("Load", ["reader"], ["w"])
    kept = []
    for number in range(3):
        ws.run(load)
        array = ws.fetch("w")
        assert np.array_equal(array, stored)
        array[:] = -number
        kept.append(array)
        ws.blob("reader").value.rewind()
    assert [set(array.tolist()) for array in kept] == [{0.0}, {-1.0}, {-2.0}]


def test_workspaces_that_share_a_tensor_share_no_arrays(tmp_path: Path) -> None:
    stored = np.arange(100_000, dtype=np.float32)
    save({"w": stored}, tmp_path / "x.minidb")
    ws, other = Workspace(), Workspace()
    ws.run(create_operator("Load", [], ["w"], **arguments_for(tmp_path / "x.minidb")))
    other.feed("by blob", ws.blob("w"))
    other.feed("by tensor", ws.blob("w").value)
    child = ws.child()
    child._blobs["w"] = ws.blob("w")
    arrays = [ws.fetch("w"), child.fetch("w"), other.fetch("by blob"), other.fetch("by tensor")]
    for number, array in enumerate(arrays):
        assert np.array_equal(array, stored)
        array[:] = number
    assert [array[-1] for array in arrays] == [0, 1, 2, 3]


def test_names_and_blobs_are_checked_at_once() -> None:
    ws = Workspace()
    wrong: Any = 3
    names: list[Any] = [3, b"x", None]
    for name in names:
        with pytest.raises(ArgumentError, match="name of a blob is text"):
            ws.feed(name, np.zeros(2))
    with pytest.raises(ArgumentError, match=r"'j' is set to a int.*Use feed"):
        ws.set("j", wrong)
    assert ws.blobs() == []


def test_what_an_operator_leaves_open_is_as_in_its_net() -> None:
    ws = Workspace()
    fill = create_operator("UniformFill", [], ["a"], shape=[3])
    fill.make("device_option", random_seed=7)
    net = net_of(fill, device=Device(1, 3))
    assert ws.run_net(net)
    assert ws.blob("a").device == Device(1, 3)
    other = net_of(create_operator("UniformFill", [], ["b"], shape=[3]))
    other.make("device_option", random_seed=7)
    assert run_net(ws, other)
    assert ws.fetch("a").tolist() == ws.fetch("b").tolist()


def test_a_net_writes_the_outputs_it_declares() -> None:
    ws = Workspace()
    net = net_of(create_operator("ConstantFill", [], ["a"]))
    net.external_output = ["a", "z"]
    for run in (ws.run_net, lambda one: run_net(ws, one)):
        with pytest.raises(ArgumentError, match="'z'"):
            run(net)
    assert ws.blobs() == []


def test_messages_of_compat_run() -> None:
    ws = Workspace()
    operator: Any = core.CreateOperator("ConstantFill", [], "a", shape=[2])
    net = caffe2_pb2.NetDef()
    net.op.append(core.CreateOperator("ConstantFill", [], "b", shape=[2]))
    wrapped: Any = net
    assert ws.run(operator)
    assert ws.run_net(wrapped)
    assert run_net(ws, wrapped)
    assert ws.blobs() == ["a", "b"]
    with pytest.raises(ArgumentError, match=r"OperatorDef is needed.*create_operator"):
        ws.run(wrapped)
    with pytest.raises(ArgumentError, match=r"NetDef is needed.*read_net"):
        ws.run_net(operator)
