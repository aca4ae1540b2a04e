"""Bare messages: BlobProto, TensorProto, TensorProtos; and telling them from everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep import formats
from tensorkeep.errors import ArgumentError, CorruptError, LossError, TensorKeepError
from tensorkeep.formats.caffe2 import recognise
from tensorkeep.message import Message
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import assert_equal_states
from tensorkeep.wire import models
from tensorkeep.wire.caffe2.schema import BLOB, TENSOR, TENSORS

DATA = Path(__file__).parents[1] / "data" / "caffe2"
BLOBS = sorted(DATA.glob("serialize_blob_*.blobproto"))
TELLERS = {
    name: getattr(recognise, name) for name in ("is_net", "is_blob", "is_tensor", "is_tensors")
} | {name: getattr(models, name) for name in ("is_meta_net", "is_onnx")}


def at(data: bytes, key: str = "a.blobproto") -> Location:
    return Location(MemoryStore({key: data}), key)


def saved(value: Any, **options: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, "a.blobproto"), **options)
    return store.data["a.blobproto"]


def tensor_proto(name: str = "", **values: Any) -> Message:
    named = {"name": name} if name else {}
    return Message(TENSOR, dims=[2], data_type=1, **(values or {"float_data": [1.0, 2.0]}), **named)


def told(data: bytes) -> list[str]:
    return [name for name, tell in TELLERS.items() if tell(data[:4096], len(data))]


@pytest.mark.parametrize("path", BLOBS, ids=lambda path: path.name)
def test_a_serialized_blob_loads_and_is_written_again(path: Path) -> None:
    entries = json.loads((DATA / "MANIFEST.json").read_text())["entries"]
    (entry,) = [entry for entry in entries if entry["file"] == path.name]
    (blob,) = entry["blobs"]
    with tk.open(path) as state:
        assert (state.format, list(state)) == ("caffe2-blob", [blob["name"]])
        found = state[blob["name"]].numpy()
        if blob["kind"] == "tensor":
            assert_equal_states(found, np.load(DATA / entry["expected"])[blob["npz"]])
        else:
            assert found.item().encode("utf-8", "surrogateescape").hex() == blob["hex"]
        assert saved(state, plain=True) == path.read_bytes()


def test_a_protodb_file() -> None:
    data = (DATA / "tensors.protodb").read_bytes()
    protos = Message.parse(TENSORS, data).protos
    with tk.open(at(data)) as state:
        assert list(state) == [proto.name for proto in protos]
        for proto in protos:
            assert state[proto.name].shape == tuple(proto.dims.tolist())
    assert_equal_states(tk.load(DATA / "tensors.protodb"), tk.load(at(data)))


def test_a_bare_tensor() -> None:
    data = tensor_proto("w").encode()
    assert_equal_states(tk.load(at(data)), {"w": np.array([1, 2], np.float32)})
    unpacked = b"\x08\x02\x10\x01" + b"\x1d\x00\x00\x80\x3f" + b"\x1d\x00\x00\x00\x40"
    assert_equal_states(tk.load(at(unpacked)), {"0": np.array([1, 2], np.float32)})


def test_tensors_without_names_or_with_the_same() -> None:
    protos = [tensor_proto(), tensor_proto("w"), tensor_proto("w"), tensor_proto("3")]
    protos.append(tensor_proto())
    data = Message(TENSORS, protos=protos).encode()
    with tk.open(at(data)) as state:
        assert list(state) == ["0", "w", "w:2", "3", "4"]


def test_several_tensors_are_a_message_that_protobuf_reads() -> None:
    value = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, -1], np.int8)}
    protos = Message.parse(TENSORS, saved(value, plain=True)).protos
    assert [proto.name for proto in protos] == ["w", "b"]
    assert protos[0].dims.tolist() == [2, 3]
    assert protos[0].float_data.tolist() == [0, 1, 2, 3, 4, 5]
    assert protos[1].int32_data.tolist() == [1, -1]
    noted = Message.parse(TENSORS, saved(value)).protos
    assert [proto.encode() for proto in noted] == [proto.encode() for proto in protos]


@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_any_number_of_tensors_comes_back(count: int) -> None:
    names = [f"layer/{'x' * (7 * i)}/{i}" for i in range(count)]  # lengths of one and two bytes
    value = {name: np.full((i, 3), i, np.float64) for i, name in enumerate(names)}
    assert_equal_states(tk.load(at(saved(value)), verify=True), value)


def test_a_blob_that_is_no_tensor_keeps_its_type() -> None:
    metadata = {"caffe2": {"types": {"s": "std::string"}}}
    data = saved({"s": np.array("text", object)}, metadata=metadata)
    assert b"std::string" in data
    with tk.open(at(data)) as state:
        assert state.metadata == metadata
    both = saved({"s": np.array("text", object), "w": np.ones(1)}, metadata=metadata)
    with tk.open(at(both)) as state:
        assert state.metadata == metadata  # which only the notes can tell
    with pytest.raises(LossError):
        saved({"s": np.array("text", object), "w": np.ones(1)}, metadata=metadata, plain=True)
    with pytest.raises(ArgumentError, match="nothing"):
        saved({}, plain=True)


def test_a_device_is_kept() -> None:
    metadata = {"caffe2": {"devices": {"w": "CUDA:2"}}}
    for value in ({"w": np.ones(1)}, {"w": np.ones(1), "v": np.ones(1)}):
        with tk.open(at(saved(value, metadata=metadata))) as state:
            assert state.metadata == metadata


def test_damage_is_an_error() -> None:
    for path in (*BLOBS, DATA / "tensors.protodb"):
        data = path.read_bytes()
        for length in {1, 2, len(data) // 2, len(data) - 1}:
            with pytest.raises(TensorKeepError):
                tk.load(at(data[:length]))
    with pytest.raises(CorruptError):
        tk.open(at(b"no message"))


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("net_alexnet_mini/init_net.pb", "is_net"),
        ("net_misc_ops/predict_net.pb", "is_net"),
        ("serialize_blob_t.blobproto", "is_blob"),
        ("serialize_blob_s.blobproto", "is_blob"),
        ("tensors.protodb", "is_tensors"),
        ("metanet.pb", "is_meta_net"),
        ("plan.pb", ""),
        ("dtypes.minidb", ""),
        ("dtypes.npz", ""),
    ],
)
def test_messages_are_told_apart(file: str, kind: str) -> None:
    assert told((DATA / file).read_bytes()) == ([kind] if kind else [])


def test_tensors_of_onnx_are_not_taken_for_ours() -> None:
    helper = pytest.importorskip("onnx.helper")
    numpy_helper = pytest.importorskip("onnx.numpy_helper")
    for kind in ("float32", "float64", "int8", "uint8", "int32", "int64", "bool", "float16"):
        values = np.arange(3).astype(kind)
        assert told(numpy_helper.from_array(values, "t").SerializeToString()) == []
        number = helper.np_dtype_to_tensor_dtype(values.dtype)
        made = helper.make_tensor("t", number, [3], values.tolist())
        assert told(made.SerializeToString()) == []
    value = helper.make_tensor_value_info("x", 1, [1])
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [value], [value])
    assert told(helper.make_model(graph).SerializeToString()) == ["is_onnx"]


@given(data=st.binary(max_size=200))
def test_any_bytes_are_told_without_an_error(data: bytes) -> None:
    assert len(told(data)) <= 2
    accepting = [name for name, format in formats.FORMATS.items() if format.accepts(at(data))]
    assert len(accepting) <= 1


@given(cut=st.integers(0, 300), flip=st.integers(0, 2400), file=st.sampled_from(BLOBS))
def test_damaged_messages_load_or_raise_our_errors(cut: int, flip: int, file: Path) -> None:
    data = bytearray(file.read_bytes()[: 300 - cut])
    if flip < 8 * len(data):
        data[flip // 8] ^= 1 << flip % 8
    try:
        tk.load(at(bytes(data)))
    except TensorKeepError:
        return


def test_a_tensor_without_a_name_keeps_none() -> None:
    values = {"": np.ones(2, np.float32), "a": np.zeros(2, np.float32)}
    for suffix in (".blobproto", ".tensorprotos"):
        location = Location(MemoryStore(), f"a{suffix}")
        tk.save(values, location)
        assert_equal_states(tk.load(location), values)
        with pytest.raises(LossError, match="without a name"):
            tk.save(values, location, plain=True)
    for suffix in (".blobproto", ".tensorproto", ".tensorprotos"):
        location = Location(MemoryStore(), f"a{suffix}")
        tk.save({"": values[""]}, location)
        assert list(tk.load(location)) == [""]
    location = Location(MemoryStore(), "a.blobproto")
    tk.save({"": values[""]}, location, plain=True)
    assert list(tk.load(location)) == [""]


@pytest.mark.parametrize(
    ("key", "count", "expected"),
    [
        ("a.blobproto", 1, "is_blob"),
        ("a.blobproto", 2, "is_tensors"),
        ("a.tensorproto", 1, "is_tensor"),
        ("a.tensorprotos", 1, "is_tensors"),
        ("a.tensorprotos", 2, "is_tensors"),
        ("a.protodb", 1, "is_tensors"),
    ],
)
def test_the_ending_says_which_message_is_written(key: str, count: int, expected: str) -> None:
    values = {name: np.arange(3, dtype=np.int64) for name in "wb"[:count]}
    store = MemoryStore()
    tk.save(values, Location(store, key), plain=True)
    assert told(store.data[key]) == [expected]
    assert_equal_states(tk.load(Location(store, key)), values)
    tk.save(values, Location(store, key))
    assert_equal_states(tk.load(Location(store, key)), values)


def test_a_tensor_proto_holds_one_tensor() -> None:
    location = Location(MemoryStore(), "a.tensorproto")
    with pytest.raises(ArgumentError, match="one tensor, not 2"):
        tk.save({"a": np.ones(2), "b": np.ones(2)}, location)


@pytest.mark.parametrize("key", ["a.blobproto", "a.tensorprotos", "a.init_net.pb"])
def test_blobs_beside_others_go_as_their_tensors(key: str) -> None:
    values: dict[str, Any] = {
        "q": np.arange(3, dtype=np.uint8),
        "i": np.arange(3, dtype=np.int64),
        "n": np.array([Message(BLOB, name="", type="std::string", content=b"x").encode().decode()]),
    }
    kinds = {"q": "Int8TensorCPU", "i": "std::unique_ptr<caffe2::IndexBase>", "n": "Tensor"}
    details = {
        "q": {"scale": 0.5, "zero_point": 3},
        "i": {"max_elements": 9, "frozen": True},
        "n": {"elements": "blobs"},
    }
    metadata: Any = {"caffe2": {"types": kinds, "details": details}}
    location = Location(MemoryStore(), key)
    tk.save(values, location, metadata=metadata)
    with tk.open(location) as state:
        assert state.metadata == metadata
        assert_equal_states(
            {name: state[name].numpy() for name in "qi"}, {n: values[n] for n in "qi"}
        )
        assert state["n"].numpy().tolist() == values["n"].tolist()


def test_a_name_and_an_unknown_word_are_no_blob() -> None:
    assert told(Message(BLOB, name="a", type="hello").encode()) == []
    assert told(Message(BLOB, name="a", type="hello", content=b"").encode()) == ["is_blob"]
    assert told(Message(BLOB, name="a", type="std::unique_ptr<std::mutex>").encode()) == ["is_blob"]
