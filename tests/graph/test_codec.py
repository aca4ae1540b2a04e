"""TensorProtos against the `onnx` library: every element type, in raw bytes and in lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import tensorkeep as tk
from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import CorruptError, MissingError, UnsupportedError
from tensorkeep.graph import KINDS, NUMBERS, fill_tensor, read_tensor, set_external
from tensorkeep.graph.elements import SINCE_IR, field_of
from tensorkeep.graph.schema import TENSOR
from tensorkeep.message import Message
from tensorkeep.tensor import Tensor
from tensorkeep.testing.samples import sample

SHAPES = ((), (0,), (1,), (3,), (5,), (7,), (2, 3), (3, 0, 2), (2, 3, 4))
NUMERIC = [kind for kind in KINDS.values() if kind is not dtypes.STRING]

every = pytest.mark.parametrize("kind", KINDS.values(), ids=str)
numeric = pytest.mark.parametrize("kind", NUMERIC, ids=str)


def read(proto: Any) -> Tensor:
    return read_tensor(Message.parse(TENSOR, proto.SerializeToString()), "t")


def proto_of(message: Message) -> Any:
    return onnx.TensorProto.FromString(message.encode())


def same(found: Tensor, expected: Tensor) -> bool:
    kept = found.dtype is expected.dtype and found.shape == expected.shape
    return kept and found.read() == expected.read()


def test_the_numbers_are_those_of_onnx() -> None:
    theirs = {number for name, number in onnx.TensorProto.DataType.items() if name != "UNDEFINED"}
    assert theirs <= set(KINDS)
    for number in theirs:
        expected = onnx.helper.tensor_dtype_to_np_dtype(number)
        assert KINDS[number] is dtypes.STRING or KINDS[number].numpy == expected
    assert {NUMBERS[kind] for kind in SINCE_IR} <= set(KINDS)


@every
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_onnx_reads_what_is_written(kind: DType, shape: tuple[int, ...]) -> None:
    tensor = sample(kind, shape)
    message = Message(TENSOR, name="t", doc_string="kept")
    fill_tensor(message, tensor)
    proto = proto_of(message)
    assert (proto.name, proto.doc_string, tuple(proto.dims)) == ("t", "kept", shape)
    onnx.checker.check_tensor(proto)
    if kind is dtypes.STRING:
        raw = [text.encode("utf-8", "surrogateescape") for text in tensor.numpy().reshape(-1)]
        assert list(proto.string_data) == raw
    else:
        array = numpy_helper.to_array(proto)
        assert (array.shape, array.dtype) == (shape, kind.numpy)
        assert array.tobytes() == tensor.numpy().tobytes()
    assert same(read_tensor(message, "t"), tensor)
    assert same(read(proto), tensor)


@numeric
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_raw_data_of_onnx_is_read(kind: DType, shape: tuple[int, ...]) -> None:
    tensor = sample(kind, shape)
    proto = numpy_helper.from_array(tensor.numpy(), "t")
    assert proto.HasField("raw_data")
    assert same(read(proto), tensor)


def listed(kind: DType, shape: tuple[int, ...]) -> tuple[Any, Tensor]:
    """Give a TensorProto whose values stand in the list of the type, and what they are."""
    tensor = sample(kind, shape)
    proto = onnx.TensorProto(data_type=NUMBERS[kind], dims=shape)
    data = bytes(tensor.read())
    held = getattr(proto, field_of(kind))
    if kind.bits == 6:
        held.extend(tensor.numpy().view(np.uint8).reshape(-1).tolist())
    elif kind.packed:
        held.extend(data)
    elif kind.kind == "complex" or kind in (dtypes.FLOAT32, dtypes.FLOAT64):
        wide = np.frombuffer(data, "<f4" if field_of(kind) == "float_data" else "<f8")
        held.extend(np.nan_to_num(wide, nan=1.0).tolist())
        tensor = Tensor.of(np.nan_to_num(wide, nan=1.0).view(kind.numpy).reshape(shape))
    elif kind.kind in ("int", "uint"):
        held.extend(np.frombuffer(data, kind.numpy).tolist())
    else:
        held.extend(np.frombuffer(data, "<u2" if kind.bits == 16 else "u1").tolist())
    return proto, tensor


@numeric
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lists_are_read(kind: DType, shape: tuple[int, ...]) -> None:
    proto, tensor = listed(kind, shape)
    found = read(proto)
    assert same(found, tensor)
    array = numpy_helper.to_array(proto)
    assert array.tobytes() == found.numpy().tobytes()
    assert array.dtype == found.numpy().dtype


@numeric
def test_lists_that_onnx_makes(kind: DType) -> None:
    values = np.array([0, 1, 1, 0, 1]).astype(kind.numpy)
    proto = onnx.helper.make_tensor("t", NUMBERS[kind], [5], values)
    assert not proto.raw_data
    assert read(proto).numpy().tobytes() == values.tobytes()


@numeric
def test_lists_of_numbers_that_are_not_packed(kind: DType) -> None:
    """Old writers put a tag before each number."""
    proto, tensor = listed(kind, (5,))
    name = field_of(kind)
    values = list(getattr(proto, name))
    proto.ClearField(name)
    number = onnx.TensorProto.DESCRIPTOR.fields_by_name[name].number
    wire, width = {"float_data": (5, "<f4"), "double_data": (1, "<f8")}.get(name, (0, ""))
    parts = [
        bytes([number << 3 | wire])
        + (np.array(value, width).tobytes() if width else _varint(value))
        for value in values
    ]
    message = Message.parse(TENSOR, proto.SerializeToString() + b"".join(parts))
    assert same(read_tensor(message, "t"), tensor)


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def test_text_need_not_be_utf_8() -> None:
    raw = [b"plain", b"\xff\xfe", b"", "ünï".encode(), b"\0"]
    proto = onnx.TensorProto(data_type=8, dims=[5], string_data=raw)
    tensor = read(proto)
    assert [text.encode("utf-8", "surrogateescape") for text in tensor.numpy()] == raw
    message = Message(TENSOR)
    fill_tensor(message, tensor)
    assert list(proto_of(message).string_data) == raw


def test_a_list_is_a_window_where_it_can_be() -> None:
    proto, _ = listed(dtypes.FLOAT32, (100,))
    data = proto.SerializeToString()
    tensor = read_tensor(Message.parse(TENSOR, data), "t")
    assert tensor.source.size == len(data)
    assert tensor.nbytes == 400


def test_a_list_stays_when_the_message_is_given_another_place() -> None:
    proto, expected = listed(dtypes.FLOAT16, (5,))
    message = Message.parse(TENSOR, proto.SerializeToString())
    tensor = read_tensor(message, "t")
    set_external(message, "w.bin", 0, tensor.nbytes)
    assert same(tensor, expected)


def test_set_external_is_what_onnx_reads() -> None:
    message = Message(TENSOR, name="t", data_type=1, dims=np.array([3]), float_data=[1, 2, 3])
    set_external(message, "w.bin", 4096, 12, checksum="ab")
    proto = proto_of(message)
    about = onnx.external_data_helper.ExternalDataInfo(proto)
    assert (about.location, about.offset, about.length) == ("w.bin", 4096, 12)
    assert about.checksum == "ab"
    assert not proto.float_data


BROKEN: dict[str, tuple[dict[str, Any], type[tk.TensorKeepError], str]] = {
    "no type": ({"dims": [1]}, CorruptError, "element type 0"),
    "an unknown type": ({"data_type": 99}, CorruptError, "element type 99, which ONNX"),
    "a negative type": ({"data_type": -1}, CorruptError, "element type -1"),
    "a negative axis": ({"data_type": 1, "dims": [2, -1]}, CorruptError, "shape .2, -1."),
    "65 axes": ({"data_type": 1, "dims": [1] * 65}, CorruptError, "which no array can have"),
    "few values": (
        {"data_type": 1, "dims": [3], "float_data": [1, 2]},
        CorruptError,
        "3 elements of float32 take 3 values, but float_data has 2",
    ),
    "many values": (
        {"data_type": 7, "dims": [1], "int64_data": [1, 2]},
        CorruptError,
        "take 1 values, but int64_data has 2",
    ),
    "half a number": (
        {"data_type": 14, "dims": [2], "float_data": [1, 2, 3]},
        CorruptError,
        "take 4 values, but float_data has 3",
    ),
    "a wide value": (
        {"data_type": 3, "dims": [2], "int32_data": [1, 300]},
        CorruptError,
        "holds 300, which is no int8",
    ),
    "a wide bool": (
        {"data_type": 9, "dims": [1], "int32_data": [2]},
        CorruptError,
        "holds 2, which is no bool",
    ),
    "wide bits": (
        {"data_type": 10, "dims": [1], "int32_data": [1 << 16]},
        CorruptError,
        "holds 65536, which is no float16",
    ),
    "a wide pair": (
        {"data_type": 22, "dims": [2], "int32_data": [256]},
        CorruptError,
        "holds 256, which is no int4",
    ),
    "few raw bytes": (
        {"data_type": 1, "dims": [3], "raw_data": bytes(8)},
        CorruptError,
        "8",
    ),
    "few texts": (
        {"data_type": 8, "dims": [3], "string_data": [b"a"]},
        CorruptError,
        "has 3 elements, not 1",
    ),
    "another list": (
        {"data_type": 1, "dims": [1], "int32_data": [1]},
        MissingError,
        "has no float_data, but int32_data",
    ),
    "nothing": ({"data_type": 1, "dims": [2**40]}, MissingError, "holds no data"),
    "a huge shape": (
        {"data_type": 1, "dims": [2**40, 2**40]},
        CorruptError,
        "no array can have shape",
    ),
    "a huge list": (
        {"data_type": 6, "dims": [2**50], "int32_data": [1]},
        CorruptError,
        "int32_data has 1",
    ),
    "wide bits of six": (
        {"data_type": 27, "dims": [1], "int32_data": [64]},
        CorruptError,
        "holds 64, which is no float6_e2m3fn",
    ),
    "a segment": (
        {"data_type": 1, "dims": [1], "raw_data": bytes(4), "segment": {"begin": 0, "end": 1}},
        UnsupportedError,
        "one of several segments",
    ),
    "text in a file": (
        {
            "data_type": 8,
            "dims": [1],
            "data_location": 1,
            "external_data": [{"key": "location", "value": "w"}],
        },
        CorruptError,
        "is text, which cannot be in another file",
    ),
}


@pytest.mark.parametrize(("fields", "error", "text"), BROKEN.values(), ids=BROKEN)
def test_what_contradicts_itself(
    fields: dict[str, Any], error: type[tk.TensorKeepError], text: str
) -> None:
    with pytest.raises(error, match=text):
        read(onnx.TensorProto(**fields)).numpy()


def test_bits_may_be_negative_where_the_sign_was_carried_on() -> None:
    """As the `onnx` library reads them."""
    proto = onnx.TensorProto(data_type=10, dims=[2], int32_data=[-16384, -1])
    assert read(proto).numpy().view("<u2").tolist() == [0xC000, 0xFFFF]
    assert numpy_helper.to_array(proto).tobytes() == read(proto).numpy().tobytes()


def test_raw_data_is_taken_where_there_is_a_list_as_well() -> None:
    """As the `onnx` library does."""
    proto = onnx.TensorProto(
        data_type=1, dims=[1], raw_data=np.float32(2).tobytes(), float_data=[1]
    )
    assert read(proto).numpy() == numpy_helper.to_array(proto) == 2


def test_blocks_of_other_formats_have_no_type() -> None:
    blocks = sample(dtypes.BLOCKS["q8_0"], (1,))
    with pytest.raises(UnsupportedError, match=r"no element type q8_0.*dtype="):
        fill_tensor(Message(TENSOR), blocks)
