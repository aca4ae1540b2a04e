"""Databases of blobs at their edges: metadata that does not fit, odd values, what is not read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import dtypes
from tensorkeep.caffe2 import load as load_blobs
from tensorkeep.errors import ArgumentError, CorruptError, LossError, UnsupportedError
from tensorkeep.message import Message
from tensorkeep.source import MemorySource
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing import assert_equal_states
from tensorkeep.wire.caffe2.encode import join_blob
from tensorkeep.wire.caffe2.schema import BLOB, SEGMENT, TENSOR
from tensorkeep.wire.caffe2.values import Blob
from tensorkeep.wire.minidb import read_records, record_header

CURSOR = "std::unique_ptr<TreeCursor>"
MUTEX = "std::unique_ptr<std::mutex>"
MAP = "(std::unordered_map<int64_t, int64_t>)"
ONES = np.ones(3, np.float32)
KEYS = np.arange(3, dtype=np.int64)


def at(key: str = "a.minidb", data: bytes | None = None) -> Location:
    return Location(MemoryStore({} if data is None else {key: data}), key)


def mini(**rows: Message | bytes) -> Location:
    data = b""
    for key, row in rows.items():
        value = row if isinstance(row, bytes) else row.encode()
        data += record_header(key, len(value)) + value
    return at(data=data)


def tensor(**fields: Any) -> Message:
    return Message(BLOB, name="t", type="Tensor", tensor=Message(TENSOR, **fields))


def described(kind: str, device: str = "", **details: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"types": {"a": kind}, "details": {"a": details}}
    return {"caffe2": {**found, "devices": {"a": device}} if device else found}


def qtensor(**changes: Any) -> dict[str, Any]:
    fields = {"shape": [9], "precision": 3, "scale": 0.1, "bias": 0.2, "is_signed": False}
    return described("QTensor", **{**fields, **changes})


@pytest.mark.parametrize("kind", [CURSOR, "std::unique_ptr<Counter<int64_t>>"])
def test_a_tensor_inside_another_blob_cannot_claim_more_than_is_there(kind: str) -> None:
    blob = Message(BLOB, name="a", type=kind, content=b"x y ")
    blob.tensor = Message(TENSOR, dims=[2**40], data_type=10)
    with pytest.raises(CorruptError, match="0 bytes of int64_data for 1099511627776"):
        tk.open(mini(a=blob))


FITTING = [
    (np.zeros(3, np.uint8), described("Int8TensorCPU", scale=0.1, zero_point=-(2**31))),
    (np.zeros(3, np.uint8), described("Int8TensorCPU", scale=1e300, zero_point=0)),
    (np.zeros(3, np.uint8), described("Int8TensorCPU", scale="nan", zero_point=0)),
    (np.zeros(3, np.uint8), described("Int8TensorCPU", "CUDA:1", scale=1.0, zero_point=0)),
    (np.array("s", object), described("std::string", "CUDA:1")),
    (np.zeros(6, np.uint8), qtensor()),
    (np.zeros(8, np.uint8), qtensor(is_signed=True)),
    (np.zeros(0, np.uint8), qtensor(shape=[])),
    (KEYS, described(CURSOR, fields=["x", "\udcff"])),
    (ONES, {"caffe2": {"devices": {"a": "CUDA:-2147483648"}}}),
]


@pytest.mark.parametrize("suffix", [".minidb", ".blobproto", ".init_net.pb"])
@pytest.mark.parametrize(("value", "metadata"), FITTING, ids=range(len(FITTING)))
def test_what_the_metadata_says_is_kept(
    value: np.ndarray[Any, Any], metadata: dict[str, Any], suffix: str
) -> None:
    location = at(f"a{suffix}")
    tk.save({"a": value}, location, metadata=metadata)
    with tk.open(location) as state:
        assert_equal_states(state["a"].numpy(), value)
        assert state.metadata["caffe2"] == metadata["caffe2"]


NESTED = join_blob("", Blob("std::string", b"x"))
MISFITS = [
    (np.zeros(3, np.uint8), described("Int8TensorCPU", scale=1.0, zero_point=2**31)),
    (np.zeros(7, np.uint8), qtensor()),
    (np.zeros((2, 3), np.uint8), qtensor()),
    (np.zeros(6, np.uint8), qtensor(shape=[-9])),
    (np.zeros(0, np.uint8), qtensor(shape=[0, -1])),
    (np.zeros(0, np.uint8), qtensor(precision=-3)),
    (np.zeros(0, np.uint8), qtensor(shape=[0], precision=2**31)),
    (KEYS, described(CURSOR, fields=[""])),
    (KEYS, described(CURSOR, fields=["x y"])),
    (KEYS, described(CURSOR, fields=["\ud800"])),
    (KEYS, described(CURSOR, fields=["\udcc3\udca9"])),
    (KEYS, described(CURSOR, fields=[7])),
    (KEYS[:1], described("std::unique_ptr<Counter<int64_t>>")),
    (ONES, described("DBReader", name="n", source="s", db_type="minidb", key="")),
    (ONES, described(MUTEX)),
    (ONES, {"caffe2": {"devices": {"a": "CUDA:2147483648"}}}),
    (np.array([NESTED.decode() + "\x7a\x00"], object), described("Tensor", elements="blobs")),
    (np.array(["\x0a"], object), described("Tensor", elements="blobs")),
    (np.zeros(0, object), described("Tensor", elements="blobs")),
]


@pytest.mark.parametrize(("value", "metadata"), MISFITS, ids=range(len(MISFITS)))
def test_metadata_that_its_blob_cannot_hold_is_refused(
    value: np.ndarray[Any, Any], metadata: dict[str, Any]
) -> None:
    with pytest.raises(ArgumentError, match="the 'caffe2' metadata"):
        tk.save({"a": value}, at(), metadata=metadata)


@pytest.mark.parametrize(
    "parts", [("k", "v"), ("a/values", "a/keys"), ("a/keys", "a/keys"), ("a/values", "v")]
)
def test_the_parts_of_a_map_have_the_names_that_they_are_read_under(parts: tuple[str, str]) -> None:
    values = {name: KEYS.copy() for name in (*parts, "a/keys", "a/values")}
    with pytest.raises(ArgumentError, match=re.escape("Drop 'caffe2' from the metadata")):
        tk.save(values, at(), metadata=described(MAP, keys=parts[0], values=parts[1]))


def test_half_a_map_is_a_tensor() -> None:
    location, half = at(), at("b.minidb")
    metadata = described(MAP, keys="a/keys", values="a/values")
    tk.save({"a/keys": KEYS, "a/values": KEYS + 1}, location, metadata=metadata)
    tk.convert(location, half, names=["a/keys"])
    with tk.open(half) as state:
        assert list(state) == ["a/keys"]
        assert state["a/keys"].numpy().tolist() == [0, 1, 2]


def test_bytes_other_than_1_are_true() -> None:
    blob = tensor(dims=[4], data_type=5, byte_data=bytes([0, 1, 2, 255]))
    with tk.open(mini(w=blob)) as state:
        bits = state["w"].numpy()
        assert bits.view(np.uint8).tolist() == [0, 1, 1, 1]
        assert state["w"][2:].view(np.uint8).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".minidb", {}),
        (".minidb", {"byte_holder": True}),
        (".tensorproto", {}),
        (".init_net.pb", {}),
    ],
)
def test_bools_that_are_not_0_or_1_are_written_as_such(
    suffix: str, options: dict[str, Any]
) -> None:
    raw = Tensor(dtypes.BOOL, (4,), MemorySource(bytes([0, 1, 2, 255])), 0, 4)
    empty = Tensor(dtypes.BOOL, (0,), MemorySource(b""), 0, 0)
    location = at(f"a{suffix}")
    tensors = {"w": raw} if suffix == ".tensorproto" else {"w": raw, "none": empty}
    tk.save(State(tensors), location, **options)
    assert tk.verify(location).ok
    assert tk.load(location)["w"].view(np.uint8).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("chunk_size", [-1, 2])
def test_two_blobs_cannot_have_one_key(chunk_size: int) -> None:
    key = "w#%0" if chunk_size < 0 else "w#%1"
    values = {"w": ONES, key: np.array("text", object)}
    metadata: Any = {"caffe2": {"types": {key: "std::string"}}}
    location = at()
    with pytest.raises(UnsupportedError, match=f"the tensor 'w' and the std::string '{key}'"):
        tk.save(values, location, metadata=metadata, chunk_size=chunk_size)
    tk.save(values, location)  # as a tensor it is w#%0#%0
    assert list(tk.load(location)) == list(values)


def test_a_text_of_which_pieces_are_missing_is_an_error_when_read() -> None:
    piece = Message(
        BLOB,
        name="s",
        type="std::string",
        content=b"part",
        content_num_chunks=9,
        content_chunk_id=0,
    )
    location = mini(**{"w#%0": tensor(dims=[1], data_type=1, float_data=[1.5]), "s#%0": piece})
    with tk.open(location) as state:
        assert state.remarks["s"] == "std::string, 1 of 9 pieces"
        assert state["w"].numpy().tolist() == [1.5]
        with pytest.raises(CorruptError, match="'s' has 1 of 9 pieces"):
            state["s"].numpy()
    assert tk.verify(location).damaged == [("s", "the blob 's' has 1 of 9 pieces")]


def test_what_is_missing_is_known_before_room_is_made_for_it() -> None:
    blob = tensor(
        dims=[1000], data_type=1, float_data=[1.5], segment=Message(SEGMENT, begin=7, end=8)
    )
    with tk.open(mini(**{"w#%0": blob})) as state:
        source = state["w"].source
        source.reach(4 * 7, 4 * 8)
        for start, stop in ((0, 4000), (4 * 7, 4 * 8 + 1), (4 * 7 - 1, 4 * 8)):
            with pytest.raises(CorruptError, match="are missing"):
                source.reach(start, stop)


def test_a_blob_of_a_type_that_nobody_reads_leaves_the_rest_readable() -> None:
    packed = Message(BLOB, name="p", type="std::unique_ptr<Packed>", content=b"?")
    undefined = tensor(dims=[1], data_type=14, byte_data=b"?")
    known = tensor(dims=[1], data_type=1, float_data=[1.5])
    location = mini(p=packed, **{"u#%0": undefined, "w#%0": known})
    note = {"p": "std::unique_ptr<Packed>", "u": "Tensor of data_type 14"}
    with tk.open(location) as state:
        assert state.metadata["caffe2"] == {"not_read": note}
        assert list(state) == ["w"]
        for suffix in (".minidb", ".tensorprotos", ".init_net.pb"):
            target = at(f"b{suffix}")
            with pytest.raises(LossError, match="'p', a std::unique_ptr<Packed>, was not read"):
                tk.save(state, target)
            tk.save(state, target, lossy=True)
            with tk.open(target) as again:
                assert again["w"].numpy().tolist() == [1.5]
                assert "not_read" not in str(again.metadata)
    with pytest.raises(UnsupportedError, match="Packed"):
        tk.open(mini(p=packed))


def test_a_sealed_file_that_lost_a_tensor_can_be_rescued(tmp_path: Path) -> None:
    location = at()
    tk.save({"w": ONES, "gone": ONES + 1}, location)
    whole = bytes(location.source.read(0, location.source.size))
    kept = {r.key: whole[r.start : r.stop] for r in read_records(MemorySource(whole))}
    del kept["gone#%0"]
    with pytest.raises(CorruptError, match="tensor is missing") as caught:
        tk.open(mini(**kept))
    assert "tensorkeep.caffe2.load" in caught.value.cure
    path = tmp_path / "cut.minidb"
    path.write_bytes(mini(**kept).source.read(0, mini(**kept).source.size))
    assert np.array_equal(load_blobs(path)["w"], ONES)


@pytest.mark.parametrize("size", [True, False, 2.0, np.float64(2), 0, "2"])
def test_a_chunk_size_is_a_number_of_elements(size: Any) -> None:
    with pytest.raises(ArgumentError, match="is not a number of elements"):
        tk.save({"w": ONES}, at(), chunk_size=size)


def test_a_chunk_size_of_numpy_is_one_of_python() -> None:
    one, other = at(), at()
    tk.save({"w": ONES}, one, chunk_size=np.uint8(2))
    tk.save({"w": ONES}, other, chunk_size=2)
    assert bytes(one.source.read(0, one.source.size)) == other.source.read(0, other.source.size)


def test_a_skeleton_that_says_nothing_is_no_loss() -> None:
    skeleton: dict[str, Any] = {"tree": {"w": "$", "b": "$"}}
    tensors = {"w": Tensor.of(ONES), "b": Tensor.of(ONES)}
    tk.save(State(tensors, skeleton=skeleton), at(), plain=True)
    trees: list[tuple[Any, str]] = [
        ({"w": "$", "b": "$:w"}, "names share a tensor"),
        ({"w": "$", "b": "$$"}, "the nesting"),
        (["$"], "the nesting"),
    ]
    for tree, problem in trees:
        with pytest.raises(LossError, match=problem):
            tk.save(State(tensors, skeleton={"tree": tree}), at(), plain=True)
    with pytest.raises(LossError, match="the arrays are torch's"):
        tk.save(State(tensors, skeleton={"framework": "torch"}), at(), plain=True)
