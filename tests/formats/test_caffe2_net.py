"""Nets: what Caffe2's exporter wrote, the fills by what real Caffe2 made of them, and our own."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep import dtypes
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    LossError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.message import Message
from tensorkeep.state import State
from tensorkeep.store import Location, join
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing import CountingStore, assert_equal_states
from tensorkeep.wire.caffe2.fills import MAX_RULED, encode_fill, read_fill
from tensorkeep.wire.caffe2.schema import ARGUMENT, DATA_TYPE, NET, OPERATOR
from tensorkeep.wire.caffe2.values import Blob, Int8Tensor

DATA = Path(__file__).parents[1] / "data" / "caffe2"
INIT_NETS = sorted(DATA.glob("net_*/init_net.pb"))
PREDICT_NETS = sorted(DATA.glob("net_*/predict_net.pb"))


def at(data: bytes, key: str = "init_net.pb") -> Location:
    return Location(MemoryStore({key: data}), key)


def saved(value: Any, key: str = "init_net.pb", **options: Any) -> bytes:
    store = MemoryStore()
    tk.save(value, Location(store, key), **options)
    return store.data[key]


def fill(kind: str, *inputs: str, **arguments: Any) -> Message:
    """Make an OperatorDef; text is the name of an element type, lists are told by their items."""
    rows = []
    for name, value in arguments.items():
        row = Message(ARGUMENT, name=name)
        if isinstance(value, list):
            of = {float: "floats", bytes: "strings"}
            row[next((f for t, f in of.items() if value and type(value[0]) is t), "ints")] = value
        elif isinstance(value, str):
            row.i = DATA_TYPE[value]
        else:
            row[{float: "f", bytes: "s"}.get(type(value), "i")] = (
                int(value) if value is True else value
            )
        rows.append(row)
    return Message(OPERATOR, type=kind, input=list(inputs), output=["y"], name="", arg=rows)


# What real Caffe2 wrote for these.
MADE: list[tuple[Message, Any]] = [
    (fill("GivenTensorFill", shape=[2], values=[1.0, 2.0]), np.array([1, 2], np.float32)),
    (fill("GivenTensorFill", values=[1.5]), np.float32(1.5)),
    (fill("GivenTensorFill", shape=[0, 3], values=[]), np.zeros((0, 3), np.float32)),
    (fill("GivenTensorFill", shape=[2], values=[1, 2], dtype="INT32"), np.array([1, 2], np.int32)),
    (fill("GivenTensorFill", shape=[2], values=[1, 2], dtype="INT16"), np.array([1, 2], np.int16)),
    (fill("GivenTensorFill", shape=[2], values=[1, 2], dtype="BOOL"), np.array([True, True])),
    (fill("GivenTensorFill", shape=[1], values=[2.0], dtype="DOUBLE"), np.array([2.0])),
    (fill("GivenTensorFill", shape=[1], values=[b"a"], dtype="STRING"), np.array(["a"], object)),
    (
        fill("GivenTensorDoubleFill", shape=[1], values=[0.1]),
        np.array([np.float32(0.1)], np.float64),
    ),
    (fill("GivenTensorInt64Fill", shape=[2], values=[-1, 2**40]), np.array([-1, 2**40])),
    (fill("GivenTensorBoolFill", shape=[3], values=[1, 0, 5]), np.array([True, False, True])),
    (fill("GivenTensorStringFill", shape=[1], values=[b"\xff"]), np.array(["\udcff"], object)),
    (
        fill("GivenTensorByteStringToUInt8Fill", shape=[3], values=[b"abc"]),
        np.array([97, 98, 99], np.uint8),
    ),
    (
        fill("GivenTensorByteStringToUInt8Fill", shape=[3], values=[b"abc", b"d"]),
        np.array([97, 98, 99], np.uint8),
    ),
    (fill("ConstantFill", shape=[2], value=3), np.array([3, 3])),
    (fill("ConstantFill", shape=[2], value=3.0), np.array([3, 3], np.float32)),
    (fill("ConstantFill", shape=[2]), np.zeros(2, np.float32)),
    (fill("ConstantFill", value=1.0), np.float32(1)),
    (fill("ConstantFill", shape=[1], value=b"ab", dtype="STRING"), np.array(["ab"], object)),
    (fill("ConstantFill", shape=[1], value=3, dtype="UINT16"), np.array([3], np.uint16)),
    (fill("ConstantFill", shape=[1], value=3, dtype="BOOL"), np.array([True])),
    (fill("ConstantFill", shape=[1], value=3.0, dtype="DOUBLE"), np.array([3.0])),
    (fill("Float16ConstantFill", shape=[1], value=1.1), np.array([1.1], np.float16)),
    (fill("DiagonalFill", shape=[4, 2], value=3), np.array([[3, 0], [0, 3], [0, 0], [3, 0]])),
    (
        fill("DiagonalFill", shape=[2, 2, 2], value=3),
        np.array([[[3, 0], [0, 0]], [[0, 0], [0, 3]]]),
    ),
    (fill("RangeFill", shape=[4]), np.arange(4, dtype=np.float32)),
]
# What real Caffe2 refused, and the first three, where it does not count and cuts what is too much.
REFUSED = [
    fill("GivenTensorByteStringToUInt8Fill", shape=[2], values=[b"abc"]),
    fill("Int8GivenTensorFill", shape=[2], values=b"abc"),
    fill("Int8GivenIntTensorFill", shape=[2], values=[1, 2, 3]),
    fill("GivenTensorFill", values=[1.0, 2.0]),
    fill("GivenTensorFill", shape=[3], values=[1.0, 2.0]),
    fill("GivenTensorFill", shape=[2], values=[1, 2]),
    fill("GivenTensorFill", shape=[2], values=[1, 2], dtype="UINT8"),
    fill("GivenTensorIntFill", shape=[2], values=[1, 2**40]),
    fill("GivenTensorInt16Fill", shape=[2], values=[1, 70000]),
    fill("ConstantFill", shape=[2], value=b"ab"),
    fill("ConstantFill", shape=[2], value=3, dtype="FLOAT"),
    fill("ConstantFill", shape=[2], value=3.0, dtype="INT32"),
    fill("ConstantFill", shape=[2], value=300, dtype="UINT8"),
    fill("ConstantFill", shape=[2], value=3, dtype="FLOAT16"),
    fill("ConstantFill", shape=[2], value=3, dtype="BYTE"),
    fill("ConstantFill", shape=[2], value=3, dtype="UNDEFINED"),
    fill("ConstantFill", shape=[-1], value=1.0),
    fill("DiagonalFill", shape=[3], value=3.0),
    fill("DiagonalFill", shape=[2, 3, 2], value=3),
    fill("DiagonalFill", shape=[3, 3], value=b"x", dtype="STRING"),
]


@pytest.mark.parametrize(("operator", "expected"), MADE, ids=lambda value: "")
def test_fills_make_what_caffe2_made(operator: Message, expected: Any) -> None:
    made = read_fill(operator).value
    whole = np.asarray(expected)
    assert_equal_states(made.numpy(), whole)
    flat = Tensor(made.dtype, (made.size,), made.source, made.offset, made.nbytes)
    for start in range(made.size):
        assert_equal_states(flat[start : start + 2], whole.reshape(-1)[start : start + 2])


def values_of(operator: Message) -> Any:
    value = read_fill(operator).value
    return (value.data if isinstance(value, Int8Tensor) else value).numpy()


@pytest.mark.parametrize("operator", REFUSED, ids=lambda operator: operator.type)
def test_fills_that_caffe2_refused_are_errors(operator: Message) -> None:
    with pytest.raises(CorruptError, match=r"'y'"):
        values_of(operator)


def test_quantized_fills() -> None:
    made = fill("Int8GivenTensorFill", shape=[3], values=b"abc", Y_scale=0.5, Y_zero_point=3)
    value = read_fill(made).value
    assert (value.scale, value.zero_point) == (0.5, 3)
    assert value.data.numpy().tolist() == [97, 98, 99]
    bias = read_fill(fill("Int8GivenIntTensorFill", shape=[2], values=[1, -3])).value
    assert (bias.scale, bias.zero_point, bias.data.numpy().tolist()) == (1.0, 0, [1, -3])


@pytest.mark.parametrize(
    "operator",
    [fill("XavierFill", shape=[2]), fill("ConstantFill", "x"), fill("Relu")],
    ids=lambda operator: operator.type,
)
def test_what_is_not_told_by_arguments_alone_is_refused(operator: Message) -> None:
    with pytest.raises(UnsupportedError):
        read_fill(operator)


@pytest.mark.parametrize("kind", ["float32", "int32", "int64", "int16", "bool", "uint8"])
def test_every_type_goes_into_a_fill_and_back(kind: str) -> None:
    values = np.arange(-300, 300).astype(kind).reshape(20, 30)
    size, chunks = encode_fill("w", Blob("Tensor", Tensor.of(values)))
    data = join(chunks)
    assert len(data) == size
    parsed = Message.parse(OPERATOR, data)
    assert list(parsed.output) == ["w"]
    assert_equal_states(read_fill(parsed).value.numpy(), values)


def test_a_quantized_tensor_goes_into_a_fill_and_back() -> None:
    for values in (np.arange(4, dtype=np.uint8), np.arange(4, dtype=np.int32)):
        blob = Blob("Int8TensorCPU", Int8Tensor(Tensor.of(values), 0.25, -7))
        found = read_fill(Message.parse(OPERATOR, join(encode_fill("w", blob)[1]))).value
        assert (found.scale, found.zero_point) == (0.25, -7)
        assert_equal_states(found.data.numpy(), values)
    with pytest.raises(UnsupportedError):
        encode_fill("w", Blob("Tensor", Tensor.of(np.ones(2, np.complex64))))


@pytest.mark.parametrize("path", INIT_NETS, ids=lambda path: path.parent.name)
def test_exported_nets_are_written_again_byte_for_byte(path: Path) -> None:
    with tk.open(path) as state:
        assert state.format == "caffe2-net"
        caffe2: Any = state.metadata["caffe2"]
        assert caffe2["net"]["operators"] == {"GivenTensorFill": len(state)}
        assert saved(state, plain=True) == path.read_bytes()


@pytest.mark.parametrize("path", INIT_NETS, ids=lambda path: path.parent.name)
def test_values_are_those_that_the_message_says(path: Path) -> None:
    net = Message.parse(NET, path.read_bytes())
    with tk.open(path) as state:
        assert list(state) == [operator.output[0] for operator in net.op]
        for operator in net.op:
            arguments = {row.name: row for row in operator.arg}
            found = state[operator.output[0]].numpy()
            assert found.shape == tuple(arguments["shape"].ints.tolist())
            assert_equal_states(found.reshape(-1), np.asarray(arguments["values"].floats))


@pytest.mark.parametrize("path", sorted(DATA.glob("net_*/init_net.pbtxt")), ids=str)
def test_text_holds_the_same(path: Path) -> None:
    binary = tk.load(path.with_suffix(".pb"))
    assert_equal_states(tk.load(path), binary)


@pytest.mark.parametrize("path", PREDICT_NETS, ids=lambda path: path.parent.name)
def test_a_predict_net_has_no_tensors_but_a_summary(path: Path) -> None:
    net = Message.parse(NET, path.read_bytes())
    for file in (path, path.with_suffix(".pbtxt")):
        with tk.open(file) as state:
            summary: Any = state.metadata["caffe2"]["net"]  # type: ignore[index, call-overload]
            assert len(state) == 0
            assert summary["name"] == net.name
            assert summary["inputs"] == list(net.external_input)
            assert summary["outputs"] == list(net.external_output)
            assert sum(summary["operators"].values()) == len(net.op)


def _net(*operators: Message) -> bytes:
    return Message(NET, name="init", op=list(operators)).encode()


def test_random_fills_are_listed_not_invented() -> None:
    rows = [fill("XavierFill", shape=[2, 2]), fill("ConstantFill", shape=[2])]
    rows[1].output = ["bias"]
    with tk.open(at(_net(*rows))) as state:
        assert list(state) == ["bias"]
        caffe2: Any = state.metadata["caffe2"]
        assert caffe2["not_made"] == {"y": "XavierFill"}


def test_a_rule_for_far_more_than_memory_is_not_followed() -> None:
    with tk.open(at(_net(fill("ConstantFill", shape=[2**40, 2**10])))) as state:
        assert len(state) == 0
        caffe2: Any = state.metadata["caffe2"]
        assert caffe2["not_made"] == {"y": "ConstantFill"}
    half = fill("ConstantFill", shape=[MAX_RULED // 8])
    rows = [half.copy(), half.copy(), half.copy()]
    for row, name in zip(rows, "abc", strict=True):
        row.output = [name]
    with tk.open(at(_net(*rows))) as state:  # nor are several that do together
        assert list(state) == ["a", "b"]
    many = MAX_RULED // 4
    with tk.open(at(_net(fill("ConstantFill", shape=[many], value=2.0)))) as state:
        assert state["y"][many - 2 :].tolist() == [2.0, 2.0]  # and no more is made


@pytest.mark.parametrize(
    "operator",
    [
        fill("GivenTensorFill", shape=[2**40], values=[1.0]),
        fill("GivenTensorIntFill", shape=[2**40], values=[1]),
        fill("GivenTensorStringFill", shape=[2**40], values=[b"a"]),
        fill("GivenTensorByteStringToUInt8Fill", shape=[2**40], values=[b"a"]),
        fill("GivenTensorFill", shape=[1] * 70, values=[1.0]),
        fill("ConstantFill", shape=[2**62, 2**62, 2**62]),
    ],
    ids=lambda operator: operator.type,
)
def test_shapes_that_lie_are_refused(operator: Message) -> None:
    with pytest.raises(TensorKeepError):
        read_fill(operator)


def test_an_argument_twice_is_refused() -> None:
    twice = fill("ConstantFill", shape=[1], value=1.0)
    twice.add("arg", name="value", f=2.0)
    with pytest.raises(CorruptError, match="twice"):
        read_fill(twice)


def test_other_fields_among_the_values_are_noticed() -> None:
    data = bytearray(_net(fill("GivenTensorFill", shape=[2], values=[1.0, 2.0])))
    place = data.index(b"-" + struct.pack("<f", 2.0))
    data[place] = 0x15  # the tag of `f`
    with tk.open(at(bytes(data))) as state, pytest.raises(CorruptError, match="other fields"):
        state["y"].numpy()
    data = bytearray(_net(fill("GivenTensorIntFill", shape=[2], values=[77, 78])))
    place = data.index(b"0N")
    data[place] = 0x18  # the tag of `i`
    with tk.open(at(bytes(data))) as state, pytest.raises(CorruptError, match="other fields"):
        state["y"].numpy()


def test_a_tag_without_its_value_is_noticed() -> None:
    values = b"\x0a\x06values" + b"0M0N" + b"0"
    shape = b"\x0a\x05shape" + b"0\x02"
    arguments = b"".join(b"\x2a" + bytes([len(row)]) + row for row in (shape, values))
    operator = b"\x12\x01y\x22\x12GivenTensorIntFill" + arguments
    data = b"\x12" + bytes([len(operator)]) + operator
    with tk.open(at(data)) as state, pytest.raises(CorruptError, match="other fields"):
        state["y"].numpy()


def test_packed_values_are_read_too() -> None:
    head = _net(fill("GivenTensorFill", shape=[2]))
    values = b"\x0a\x06values\x2a\x08" + struct.pack("<2f", 1.0, 2.0)
    argument = b"\x2a" + bytes([len(values)]) + values
    at_op = head.index(b"\x12", 6)
    changed = head[: at_op + 1] + bytes([head[at_op + 1] + len(argument)]) + head[at_op + 2 :]
    assert_equal_states(tk.load(at(changed + argument)), {"y": np.array([1, 2], np.float32)})


def test_everything_around_the_weights_is_kept() -> None:
    value = {"layer": {"w": np.ones((2, 2), np.float32)}, "step": 3, "n": np.arange(3)}
    for key in ("init_net.pb", "init_net.pbtxt"):
        data = saved(value, key, metadata={"epoch": 4})
        assert_equal_states(tk.load(at(data, key), verify=True), value)
        with tk.open(at(data, key)) as state:
            assert state.metadata == {"epoch": 4}
    with pytest.raises(LossError, match="nesting"):
        saved(value, plain=True)


def test_doubles_are_kept_where_floats_are_enough() -> None:
    exact = {"w": np.array([1.5, -0.0, np.inf])}
    assert_equal_states(tk.load(at(saved(exact)), verify=True), exact)
    with pytest.raises(LossError, match=r"float64 \(w\) becomes float32"):
        saved({"w": np.array([0.1])})


def test_what_fills_cannot_hold_is_lost_by_name() -> None:
    value = {
        "h": np.array([1, 2], np.float16),
        "b": np.array([-1], np.int8),
        "u": np.array([2**32 - 1], np.uint32),
        "c": np.ones(1, np.complex64),
        "i": np.array([1, -2, 3], dtypes.INT4.numpy),
    }
    with pytest.raises(LossError, match=r"complex64 \(c\) is left out"):
        saved(value)
    found = tk.load(at(saved(value, lossy=True)), verify=True)
    expected = {
        "h": np.array([1, 2], np.float32),
        "b": np.array([-1], np.int32),
        "u": np.array([2**32 - 1], np.int64),
        "i": np.array([1, -2, 3], np.int32),
    }
    assert_equal_states(found, expected)


def test_damage_is_found_where_the_type_changes_too() -> None:
    state = State({"h": Tensor.of(np.ones(2, np.float16))}, digests={"h": "0" * 32})
    with pytest.raises(CorruptError, match="'h' is damaged"):
        saved(state, lossy=True)


def test_metadata_of_other_kinds_of_blobs_is_kept() -> None:
    several: list[Any] = [
        {"types": {"w": "std::string"}},
        {"types": {"w": []}},
        {"devices": {"w": "CUDA:1"}},
        5,
    ]
    for mine in several:
        data = saved({"w": np.ones(2, np.float32)}, metadata={"caffe2": mine})
        with tk.open(at(data)) as state:
            assert state.metadata == {"caffe2": mine}


def test_a_predict_net_is_not_written() -> None:
    with pytest.raises(ArgumentError, match="operators"):
        saved({"w": np.ones(1, np.float32)}, "predict_net.pb")


def test_a_damaged_net_says_where() -> None:
    data = INIT_NETS[0].read_bytes()
    with pytest.raises(CorruptError, match="byte"):
        tk.open(at(data[:-3]))
    with pytest.raises(CorruptError, match="field"):
        tk.open(at(data + b"\x7a\x00"))
    with pytest.raises(CorruptError):
        tk.open(at(b"op { output: ", "init_net.pbtxt"))
    with pytest.raises(CorruptError):
        tk.open(at(b"op { \xff }", "init_net.pbtxt"))


def test_reading_one_tensor_reads_little() -> None:
    large = np.arange(500_000, dtype=np.float32)
    data = saved({"large": large, "last": large[:3]})
    store = CountingStore(MemoryStore({"init_net.pb": data}))
    with tk.open(Location(store, "init_net.pb")) as state:
        assert_equal_states(state["last"].numpy(), large[:3])
        assert_equal_states(state["large"][400_000:400_010], large[400_000:400_010])
        assert store.bytes_read < 10_000


def test_nets_of_others_are_named() -> None:
    for data, name in (
        (b'name: "net"\nlayer {\n  type: "Input"\n}\n', "Caffe 1"),
        ((DATA / "metanet.pb").read_bytes(), "MetaNetDef"),
    ):
        with pytest.raises(UnsupportedError, match=name):
            tk.open(at(data, "model.pb"))


def test_a_huge_fill_of_text_is_made_when_it_is_read() -> None:
    shape, value = [100_000], b"t" * 200
    net = Message(NET, op=[fill("ConstantFill", shape=shape, value=value, dtype="STRING")])
    tracemalloc.start()
    try:
        with tk.open(at(net.encode())) as state:
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
            assert state["y"][99_998:].tolist() == [value.decode()] * 2
            assert state["y"][7] == value.decode()
    finally:
        tracemalloc.stop()
    huge = fill("ConstantFill", shape=[20_000_000], value=b"", dtype="STRING")
    with tk.open(at(Message(NET, op=[huge]).encode())) as state:  # a gigabyte of objects
        assert state.metadata["caffe2"]["not_made"] == {"y": "ConstantFill"}  # type: ignore[index, call-overload]


@pytest.mark.parametrize("value", [b"", b"ab", "ü".encode()])
@pytest.mark.parametrize("shape", [[], [0], [2, 3]])
def test_a_fill_of_text_is_as_packed(value: bytes, shape: list[int]) -> None:
    tensor = read_fill(fill("ConstantFill", shape=shape, value=value, dtype="STRING")).value
    expected = dtypes.pack_strings([value] * tensor.size)
    assert bytes(tensor.read()) == expected
    for start in range(len(expected)):
        assert tensor.source.read(start, start + 1) == expected[start : start + 1]
        assert tensor.source.read(start, len(expected)) == expected[start:]


def test_a_float16_that_is_too_large_is_infinite() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = read_fill(fill("Float16ConstantFill", shape=[1], value=1e30)).value.numpy()
    assert made.tolist() == [np.inf]


def test_nothing_is_no_plain_net() -> None:
    for key in ("init_net.pb", "init_net.pbtxt"):
        with pytest.raises(ArgumentError, match="nothing to save"):
            saved({}, key, plain=True)


@pytest.mark.parametrize("key", ["x_init_net.pb", "x.init_net.pb", "X_Init_Net.pbtxt"])
def test_a_name_may_stand_before_the_ending(key: str) -> None:
    data = saved({"w": np.ones(2, np.float32)}, key)
    assert tk.open(at(data)).format == "caffe2-net"
    with pytest.raises(ArgumentError, match="a predict net holds operators"):
        saved({"w": np.ones(2, np.float32)}, key.lower().replace("init", "predict"))
    with pytest.raises(ArgumentError, match="does not tell the format"):
        saved({"w": np.ones(2, np.float32)}, "xinit_net.pb")
