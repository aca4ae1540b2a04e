"""Records of training data, against files that Caffe2 wrote and Google's protobuf library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tests.message.reference import message_classes

from tensorkeep.errors import ArgumentError, TensorKeepError, UnsupportedError
from tensorkeep.source import MemorySource
from tensorkeep.stores import open_database
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.protos import decode_record, encode_record
from tensorkeep.wire.caffe2.schema import SCHEMAS

DATA = Path(__file__).parents[2] / "data" / "caffe2"
TENSORS = message_classes(SCHEMAS)["TensorProtos"]
KINDS = ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "float16"]
SAMPLE: dict[str, Any] = {
    "image": np.arange(12, dtype=np.uint8).reshape(3, 2, 2),
    "label": np.int32(7),
    "t": "hé",
}


def decode(data: bytes) -> list[tuple[str, Tensor]]:
    return decode_record(MemorySource(b"?" + data + b"??"), 1, 1 + len(data), "train.db: record 3")


def message(*protos: dict[str, Any]) -> bytes:
    """Make a record with Google's library."""
    made = TENSORS()
    for fields in protos:
        proto = made.protos.add()
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(proto, name).extend(value)
            else:
                setattr(proto, name, value)
    return bytes(made.SerializeToString())


def test_what_caffe2_read() -> None:
    entries = json.loads((DATA / "MANIFEST.json").read_text())["entries"]
    (entry,) = (entry for entry in entries if entry["file"] == "tensorprotos.minidb")
    arrays = np.load(DATA / "tensorprotos.npz")
    with open_database("minidb", DATA / "tensorprotos.minidb") as database:
        records = list(database.records())
        assert len(records) == 11
        for (key, source), rows in zip(records, entry["runs"][0]["batches"], strict=False):
            for (name, tensor), row in zip(
                decode_record(source, 0, source.size, key), rows, strict=True
            ):
                assert name == ""
                assert tensor.shape == tuple(row["shape"])
                if "npz" in row:
                    assert np.array_equal(tensor.numpy(), arrays[row["npz"]])
                    assert tensor.dtype.name == row["dtype"]
                else:
                    assert [text.encode().hex() for text in tensor.numpy()] == row["hex"]


@given(
    st.dictionaries(
        st.text(max_size=4),
        st.sampled_from([*KINDS, "bool"]).flatmap(
            lambda kind: hnp.arrays(kind, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=60)
def test_there_and_back(sample: dict[str, Any]) -> None:
    data = encode_record(sample)
    found = decode(data)
    assert [name for name, _ in found] == list(sample)
    for (_, tensor), array in zip(found, sample.values(), strict=True):
        assert tensor.dtype.numpy == array.dtype
        assert tensor.shape == array.shape
        assert tensor.numpy().tobytes() == np.ascontiguousarray(array).tobytes()
    theirs = TENSORS.FromString(data)
    assert theirs.SerializeToString() == data, "fields in their order, numbers packed"
    assert not any(proto.HasField("device_detail") for proto in theirs.protos)


def test_bytes_lie_in_the_record_as_they_are() -> None:
    data = encode_record(SAMPLE)
    (_, image), (_, label), (_, text) = decode(data)
    assert isinstance(image.source, MemorySource)
    assert image.source.size == len(data) + 3
    assert bytes(image.read()) == bytes(range(12))
    assert (int(label.numpy()), text.numpy().item()) == (7, "hé")
    proto = TENSORS.FromString(data).protos[0]
    assert (proto.data_type, proto.byte_data, list(proto.dims)) == (3, bytes(range(12)), [3, 2, 2])


def test_text_and_bytes_and_tensors() -> None:
    texts = np.array([["a", "bc"], ["", "d\0"]], object)
    data = encode_record({"t": texts, "raw": b"\xff\0\xfe", "x": Tensor.of(np.eye(2)), "b": True})
    found = dict(decode(data))
    assert found["t"].numpy().tolist() == texts.tolist()
    assert found["raw"].numpy().item().encode("utf-8", "surrogateescape") == b"\xff\0\xfe"
    assert np.array_equal(found["x"].numpy(), np.eye(2))
    assert bytes(TENSORS.FromString(data).protos[1].string_data[0]) == b"\xff\0\xfe"


@pytest.mark.parametrize(
    ("sample", "problem"),
    [
        ({"x": np.uint32(3)}, "'x': Caffe2 has no element type uint32. Convert"),
        ({"x": np.zeros(2, np.complex64)}, "no element type complex64"),
        ({"x": np.array([{}], object)}, "'x': an object array holding dict"),
    ],
)
def test_values_that_no_record_holds(sample: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnsupportedError, match=problem):
        encode_record(sample)
    with pytest.raises(ArgumentError, match="needs a tensor"):
        encode_record({})


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x12\x01a", "record 3: is not a TensorProtos: the field at byte 2 is number 2"),
        (b"garbage", "is not a TensorProtos"),
        (message({"dims": [5], "data_type": 1}), "has 0 bytes of float_data for 5 elements"),
        (message({"dims": [2**40], "data_type": 10}), "0 bytes of int64_data"),
        (message({"dims": [-1], "data_type": 1}), r"has the shape \(-1,\)"),
        (message({"dims": [1], "data_type": 14, "name": "x"}), "record 3: 'x': has data_type 14"),
        (message({"dims": [1] * 65, "data_type": 1}), "has 65 axes"),
        (message({"dims": [2], "data_type": 4, "string_data": [b"a"]}), "1 string_data for 2"),
    ],
)
def test_records_that_are_none(data: bytes, problem: str) -> None:
    with pytest.raises((TensorKeepError), match=problem):
        decode(data)


def test_a_chunk_of_a_tensor() -> None:
    made = TENSORS()
    proto = made.protos.add(dims=[4], data_type=1, float_data=[1.0, 2.0])
    proto.segment.begin, proto.segment.end = 1, 3
    with pytest.raises(TensorKeepError, match="is a chunk of a tensor: elements 1 to 3 of 4"):
        decode(made.SerializeToString())


def test_damage_anywhere() -> None:
    data = encode_record({**SAMPLE, "f": np.float32(1.5), "many": np.arange(3)})
    for damaged in (
        *(data[:size] for size in range(len(data))),
        *(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
          for at in range(len(data)) for bit in range(8)),
    ):  # fmt: skip
        try:
            for _, tensor in decode(damaged):
                tensor.numpy()
        except TensorKeepError:
            pass


@pytest.mark.parametrize("code", [2, 5, 6, 7, 8, 9, 10, 12])
def test_few_numbers_are_decoded_as_many_are(code: int) -> None:
    numbers = [0, 1, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, -1, -128, -(2**31)]
    field = "int64_data" if code == 10 else "int32_data"
    for count in range(1, len(numbers) + 1):
        few = message({"data_type": code, "dims": [count], field: numbers[:count]})
        many = message({"data_type": code, "dims": [24], field: (numbers[:count] * 24)[:24]})
        one, other = (decode(data)[0][1] for data in (few, many))
        assert one.dtype is other.dtype
        assert bytes(one.read()) == bytes(other.read())[: one.nbytes]


def test_a_record_of_very_many_tensors() -> None:
    one = message({"dims": [0], "data_type": 1})
    assert len(decode(one * 4096)) == 4096
    with pytest.raises(UnsupportedError, match="has more than 4,096 tensors"):
        decode(one * 4097)
