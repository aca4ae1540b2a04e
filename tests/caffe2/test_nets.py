from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tensorkeep.caffe2 import Workspace, create_operator
from tensorkeep.caffe2.nets import init_net_of, read_net, run_net, write_net
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    LossError,
    MissingError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.message import Message
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.schema import DEVICE, NET, OPERATOR
from tensorkeep.wire.caffe2.values import Int8Tensor

DATA = Path(__file__).parent.parent / "data" / "caffe2"
ENTRIES: list[dict[str, Any]] = json.loads((DATA / "MANIFEST.json").read_text())["entries"]
NETS = {entry["file"]: entry for entry in ENTRIES if entry["file"].startswith("net_")}

# How many blobs Caffe2 has after it ran the init net, and the SHA-256 over their names, types,
# shapes and bytes.
BLOBS = {
    "net_alexnet_mini": (11, "72edaf7b425514f5ebc5a96f7f2788ad008f1d9914e9c1146da44ba4a70c2789"),
    "net_squeezenet_mini": (17, "85527020578d0dc22984e10d39c17f600a2b6c15bf9703ea24cd88eb14c1e751"),
    "net_resnet_mini": (47, "a56c26ebf593d57ead0cfa31e254daefc7845acc6143f1625e96059f90ee9668"),
    "net_brew_mix": (12, "5bd93796c9c62e55480a075a4a2c79c881f3c9e848265d4c74be730cf8bcd0ec"),
    "net_misc_ops": (8, "2e126eacd8a3602be872a73c125e29be1ca3a29827d4c046f0fbfd39f68dfb1e"),
}


def digest(ws: Workspace) -> tuple[int, str]:
    hasher = hashlib.sha256()
    for name in sorted(ws.blobs()):
        array = ws.fetch(name)
        hasher.update(f"{name} {array.dtype} {array.shape}\n".encode() + array.tobytes())
    return len(ws.blobs()), hasher.hexdigest()


def test_every_golden_net_is_named_here() -> None:
    assert BLOBS.keys() == NETS.keys()


@pytest.mark.parametrize("name", BLOBS)
def test_a_golden_init_net_gives_the_blobs_bit_for_bit(name: str) -> None:
    ws = Workspace()
    assert run_net(ws, str(DATA / name / "init_net.pb"))
    assert digest(ws) == BLOBS[name]


@pytest.mark.parametrize("name", BLOBS)
def test_a_golden_init_net_is_written_again_byte_for_byte(name: str) -> None:
    given = (DATA / name / "init_net.pb").read_bytes()
    ws = Workspace()
    run_net(ws, given)
    inputs = [blob for blob in NETS[name]["inputs"] if ws.has(blob)]
    arrays = {blob: ws.fetch(blob) for blob in ws.blobs() if blob not in inputs}
    assert init_net_of(arrays, inputs).encode() == given


@pytest.mark.parametrize(
    "path", sorted(DATA.glob("net_*/*.pbtxt")), ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_text_and_binary_are_the_same_net(path: Path) -> None:
    assert read_net(path) == read_net(path.with_suffix(".pb"))


def test_what_a_file_is_counts_rather_than_its_ending(tmp_path: Path) -> None:
    folder = DATA / "net_misc_ops"
    (tmp_path / "binary.pbtxt").write_bytes((folder / "init_net.pb").read_bytes())
    (tmp_path / "text.pb").write_bytes(b"# a remark\n\n" + (folder / "init_net.pbtxt").read_bytes())
    assert read_net(tmp_path / "binary.pbtxt") == read_net(tmp_path / "text.pb")


@pytest.mark.parametrize("name", BLOBS)
def test_a_predict_net_is_refused_by_the_names_of_its_operators(name: str) -> None:
    ws = Workspace()
    with pytest.raises(UnsupportedError, match="predict net") as caught:
        run_net(ws, DATA / name / "predict_net.pb")
    named = [op for op in NETS[name]["ops"] if f" {op}" in str(caught.value)]
    assert named == NETS[name]["ops"] or (len(named) == 12 and "more" in str(caught.value))
    assert "init_net.pb" in str(caught.value)
    assert not ws.blobs()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n",
            "Git LFS pointer.*git lfs pull",
        ),
        (b"\n<!DOCTYPE html><html></html>", "web page"),
        (b"<html>", "web page"),
        (b"\x80\x03}q\x00.", "pickle"),
        (b"PK\x03\x04....", "zip archive"),
        (b"\x1f\x8b\x08....", "gzip"),
        (b"\x08\x07\x12\x07pytorch", "ONNX"),
        (b"\x05\0\0\0\x10\0\0\0" + bytes(21), "minidb"),
        (b'layer { name: "data" type: "Input" }', "a network of Caffe, the forerunner"),
        (b'blob { name: "w" }', "is no NetDef"),
        (b"op { type: 3 }", "is no NetDef"),
        (b'op { type: "Load"', "is no NetDef"),
        (b"op: \xff\xfe", "is no NetDef"),
        (b"\x12\x05ab", "is no NetDef.*cut short"),
        (b"\x12\x03\x0a\x01w", "operator 0 has no type"),
        (b"\xff\xff\xff\xff", "is no NetDef"),
        (b"\x98\x06\x01", "none of its fields"),
        (b"just some words", "is no NetDef"),
    ],
)
def test_what_is_no_net_is_named(content: bytes, match: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=f"(?s){match}"):
        read_net(content)
    (tmp_path / "init_net.pb").write_bytes(content)
    with pytest.raises(CorruptError, match=r"init_net\.pb: "):
        read_net(tmp_path / "init_net.pb")


def test_a_minidb_is_not_taken_for_a_net() -> None:
    with pytest.raises(CorruptError, match="minidb database"):
        read_net(DATA / "dtypes.minidb")


def test_a_cut_net_is_an_error_or_ends_between_operators() -> None:
    whole = (DATA / "net_misc_ops" / "init_net.pb").read_bytes()
    ends = {0}
    for definition in read_net(whole).op:
        size = len(definition.encode())
        ends.add(max(ends) + size + 2 + (size > 127))
    assert max(ends) == len(whole)
    for cut in range(0, len(whole), 13):
        if cut not in ends:
            with pytest.raises(CorruptError):
                read_net(whole[:cut])


def test_flipped_bits_give_a_net_or_our_errors() -> None:
    whole = bytearray((DATA / "net_misc_ops" / "init_net.pb").read_bytes()[:420])
    refused = 0
    for at in range(0, len(whole), 3):
        for bit in range(0, 8, 3):
            damaged = whole.copy()
            damaged[at] ^= 1 << bit
            try:
                run_net(Workspace(), bytes(damaged))
            except TensorKeepError:
                refused += 1
    assert refused > 50


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="nothing"):
        read_net(tmp_path / "nothing.pb")
    with pytest.raises(ArgumentError, match="folder"):
        read_net(tmp_path)


def net_of(*operators: Message, **fields: Any) -> Message:
    return Message(NET, op=list(operators), **fields)


@pytest.mark.parametrize("ending", ["pb", "pbtxt", "prototxt"])
def test_nets_are_written_and_read(ending: str, tmp_path: Path) -> None:
    fill = create_operator("GivenTensorFill", [], ["w"], shape=[3], values=[0.1, -0.0, 1e-40])
    net = net_of(fill, name="näme", external_output=["w"])
    path = tmp_path / f"net.{ending}"
    path.write_bytes(b"before")
    write_net(net, path)
    assert read_net(path) == net
    assert path.read_bytes().startswith(b"name: " if ending != "pb" else b"\x0a\x05n")
    ws = Workspace()
    run_net(ws, path)
    assert ws.fetch("w").tobytes() == np.array([0.1, -0.0, 1e-40], np.float32).tobytes()


def test_writing_needs_a_net_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="not OperatorDef"):
        write_net(create_operator("Load"), tmp_path / "x.pb")
    with pytest.raises(ArgumentError, match="folder"):
        write_net(net_of(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_net_goes_to_any_store() -> None:
    location = Location(MemoryStore(), "deep/init_net.pb")
    write_net(init_net_of({"w": np.ones(2, np.float32)}), location)
    ws = Workspace()
    run_net(ws, Location(location.store, location.key))
    assert ws.fetch("w").tolist() == [1, 1]


def fill(output: str, **arguments: Any) -> Message:
    return create_operator("UniformFill", [], [output], shape=[2], **arguments)


FIRST = {0: 0.4962566, 7: 0.5349, 42: 0.8822693}  # what Caffe2 draws first with these seeds


def drawn(ws: Workspace) -> list[float]:
    return [round(float(ws.fetch(name)[0]), 4) for name in sorted(ws.blobs())]


def test_the_device_and_the_seed_of_a_net_are_those_of_its_operators() -> None:
    own = Message(DEVICE, device_type=1, device_id=2)
    other = Message(DEVICE, random_seed=7)
    net = net_of(
        fill("a"),
        fill("b", device=own),
        fill("c", device=other),
        device_option=Message(DEVICE, device_type=0, random_seed=42),
    )
    before = net.encode()
    ws = Workspace()
    run_net(ws, net)
    assert drawn(ws) == [round(FIRST[seed], 4) for seed in (42, 42, 7)]
    assert str(ws.blob("b").device) == "CUDA:2"
    assert net.encode() == before


def test_a_seed_counts_up_over_the_operators() -> None:
    ws = Workspace()
    run_net(ws, net_of(fill("a"), fill("b")), seed=41)
    assert drawn(ws)[1] == round(FIRST[42], 4)
    assert drawn(ws)[0] != drawn(ws)[1]
    again = Workspace()
    run_net(again, net_of(fill("a"), fill("b")), seed=41)
    assert drawn(again) == drawn(ws)
    last = Workspace()
    run_net(last, net_of(fill("a"), fill("b")), seed=2**32 - 1)
    assert drawn(last)[1] == round(FIRST[0], 4)


def test_nets_load_save_and_fill(tmp_path: Path) -> None:
    db: dict[str, Any] = {"db": "w.minidb", "db_type": "minidb"}
    ws = Workspace(str(tmp_path), durable=False)
    shape = create_operator("GivenTensorInt64Fill", [], ["shape"], shape=[1], values=[3])
    ones = create_operator("ConstantFill", ["shape"], ["w"], value=1.0, input_as_shape=1)
    run_net(ws, net_of(shape, ones, create_operator("Save", ["w"], [], **db)))
    loaded = Workspace(str(tmp_path))
    load = create_operator("Load", [], ["w"], **db)
    run_net(loaded, net_of(load, create_operator("Copy", ["w"], ["w2"])))
    assert loaded.fetch("w2").tolist() == [1, 1, 1]


def test_an_output_that_nothing_writes_is_an_error() -> None:
    with pytest.raises(ArgumentError, match="'missing'"):
        run_net(Workspace(), net_of(fill("a"), external_output=["a", "missing"]))
    run_net(Workspace(), net_of(fill("a"), external_input=["x"], external_output=["x"]))
    with pytest.raises(MissingError, match="'x'"):
        run_net(Workspace(), net_of(create_operator("Copy", ["x"], ["y"])))


def test_running_needs_a_net() -> None:
    with pytest.raises(ArgumentError, match="OperatorDef"):
        run_net(Workspace(), fill("a"))
    assert run_net(Workspace(), net_of())


SAVED: dict[str, npt.NDArray[Any]] = {
    "f4": np.array([[1.5, -0.0], [np.nan, np.inf]], np.float32),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((2, 0), np.float32),
    "i4": np.array([1, -(2**31)], np.int32),
    "i8": np.array([2**63 - 1, -(2**63)], np.int64),
    "i2": np.array([-32768, 32767], np.int16),
    "u1": np.array([[0, 255]], np.uint8),
    "bool": np.array([True, False]),
    "exact doubles": np.array([0.5, -2.0, np.inf]),
    "strided": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "big endian": np.arange(3, dtype=">i4"),
}


def test_what_is_written_as_an_init_net_comes_back() -> None:
    ws = Workspace()
    run_net(ws, init_net_of(SAVED).encode())
    assert ws.blobs() == list(SAVED)
    for name, array in SAVED.items():
        found = ws.fetch(name)
        assert (found.dtype, found.shape) == (array.dtype.newbyteorder("="), array.shape), name
        assert found.tobytes() == array.astype(found.dtype).tobytes(), name


def test_strings_and_quantized_tensors_come_back() -> None:
    data = Tensor.of(np.array([[1, 255]], np.uint8))
    bias = Tensor.of(np.array([-70000], np.int32))
    ws = Workspace()
    net = init_net_of(
        {
            "texts": np.array(["a", "\udcff\0", "ä"], object),
            "letters": np.array([b"x", b"yz"]),
            "tensor": Tensor.of(np.array(["t"])),
            "q": Int8Tensor(data, 0.25, 7),
            "b": Int8Tensor(bias, 2.0, 0),
        }
    )
    run_net(ws, net.encode())
    assert ws.fetch("texts").tolist() == [b"a", b"\xff\0", "ä".encode()]
    assert ws.fetch("letters").tolist() == [b"x", b"yz"]
    assert ws.fetch("tensor").tolist() == [b"t"]
    assert ws.fetch("q").data.numpy().tolist() == [[1, 255]]
    assert (ws.fetch("q").scale, ws.fetch("q").zero_point) == (0.25, 7)
    assert ws.fetch("b").data.numpy().tolist() == [-70000]


# What Caffe2's mobile_exporter.add_tensor makes of the arrays below.
EXPORTED = (
    "12371201661a00220f476976656e54656e736f7246696c6c2a0b0a057368617065300230012a120a0676616c756573"
    "2d0000c03f2d000000c012421201751a002220476976656e54656e736f7242797465537472696e67546f55496e7438"
    "46696c6c2a0b0a057368617065300130022a0c0a0676616c7565733a0200ff123b1201691a002212476976656e5465"
    "6e736f72496e7446696c6c2a090a05736861706530022a150a0676616c756573300730ffffffffffffffffff011235"
    "12016c1a002214476976656e54656e736f72496e74363446696c6c2a070a0573686170652a0f0a0676616c75657330"
    "80808080802012361201731a002215476976656e54656e736f72537472696e6746696c6c2a090a0573686170653002"
    "2a0d0a0676616c7565733a01613a00122d1201651a00220f476976656e54656e736f7246696c6c2a0b0a0573686170"
    "65300030022a080a0676616c756573"
)


def test_init_nets_are_those_of_the_exporter() -> None:
    net = init_net_of(
        {
            "f": np.array([[1.5], [-2]], np.float32),
            "u": np.array([[0, 255]], np.uint8),
            "i": np.array([7, -1], np.int32),
            "l": np.array(2**40, np.int64),
            "s": np.array([b"a", b""]),
            "e": np.zeros((0, 2), np.float32),
        }
    )
    assert net.encode().hex() == EXPORTED


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros(1, np.float16), "float16"),
        (np.array([0.1]), "float64"),
        (np.array([1e300]), "float64"),
        (np.zeros(1, np.int8), "int8"),
        (np.zeros(1, np.uint16), "uint16"),
        (np.zeros(1, np.uint32), "uint32"),
        (np.zeros(1, np.complex64), "complex64"),
    ],
)
def test_types_that_no_fill_keeps_are_refused(array: npt.NDArray[Any], named: str) -> None:
    with pytest.raises(LossError, match=f"weight: no fill of an init net keeps {named} exactly"):
        init_net_of({"fine": np.zeros(1, np.float32), "weight": array})
    if array.dtype.kind != "f":
        with pytest.raises(LossError):
            init_net_of({"weight": array}, lossy=True)


def test_halves_are_kept_as_floats_where_that_is_accepted() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    ws = Workspace()
    run_net(ws, init_net_of({"h": every, "d": np.array([0.1, 1e300])}, lossy=True).encode())
    assert ws.fetch("h").dtype == np.float32
    np.testing.assert_array_equal(ws.fetch("h").astype(np.float16), every)
    assert ws.fetch("d").dtype == np.float64
    assert ws.fetch("d").tolist() == [float(np.float32(0.1)), np.inf]


def test_the_cure_for_halves_says_what_is_lost() -> None:
    with pytest.raises(
        LossError, match=r"lossy=True it becomes float32: the values stay, the type"
    ):
        init_net_of({"h": np.zeros(1, np.float16)})


def test_a_net_of_another_message_is_no_net() -> None:
    operator = Message(OPERATOR, input=["a"], output=["b"], type="Copy")
    with pytest.raises(CorruptError):
        read_net(operator.encode())
