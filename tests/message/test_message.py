from __future__ import annotations

import copy
import math
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from tests.message.reference import SCHEMAS, SCHEMAS3

from tensorkeep.errors import ArgumentError, CorruptError
from tensorkeep.message import Message, scan, schemas
from tensorkeep.source import MemorySource, Source

EVERY, MANY, PACKS, NEEDS, PLAIN = (
    {**SCHEMAS, **SCHEMAS3}[name] for name in ("Every", "Many", "Packs", "Needs", "Plain")
)


class CountingSource(Source):
    """Counts the bytes that are read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(len(data), "counted")
        self.data = memoryview(data)
        self.count = 0

    def _read(self, start: int, stop: int) -> memoryview:
        self.count += stop - start
        return self.data[start:stop]


def test_absent_fields_give_their_defaults() -> None:
    message = Message(EVERY)
    assert (message.i32, message.flag, message.phase, message.double) == (0, False, 1, 2.5)
    assert (message.text, message.data) == ("none", b"")
    assert message.inner.inner.text == "none"
    assert Message(MANY).i32.dtype == np.int32
    assert Message(MANY).i32.size == 0
    assert Message(MANY).text == []
    assert Message(NEEDS, a=1).b.inner.get("text") is None
    assert Message(schemas("A\n  1 a A\n  2 b repeated string")["A"]).a.b == []
    assert list(message) == []
    assert "inner" not in message
    assert message.get("i32") is None
    assert message.encode() == b""


def test_presence_does_not_depend_on_the_value() -> None:
    message = Message(EVERY, i32=0, text="")
    assert list(message) == ["i32", "text"]
    assert message.encode() == b"\x08\x00\x7a\x00"
    message.drop("i32")
    message.text = None
    assert message.encode() == b""
    assert message.get("text", "-") == "-"


def test_proto3_leaves_defaults_out() -> None:
    message = Message(PLAIN, number=0, text="", flag=False, single=0.0, maybe=0)
    assert list(message) == ["maybe"]
    assert message.encode() == b"\x88\x01\x00"
    message.single = -0.0
    assert message.encode() == struct.pack("<Bf", 0x35, -0.0) + b"\x88\x01\x00"
    assert "number" not in Message.parse(PLAIN, b"\x08\x00")


def test_absent_messages_cannot_be_changed() -> None:
    message = Message(EVERY)
    with pytest.raises(ArgumentError, match=r"absent.*make"):
        message.inner.i32 = 3
    inner = message.make("inner", i32=3)
    assert message.make("inner", i64=4) is inner
    assert message.inner is inner
    assert message.encode() == bytes.fromhex("8a 01 04 08 03 10 04")
    assert "i32" not in Message(EVERY).inner
    other = Message(EVERY, inner=Message(EVERY).inner)
    other.inner.i32 = 5
    assert other.encode() == bytes.fromhex("8a 01 02 08 05")
    loose = Message(EVERY).inner.copy()
    loose.i32 = 6
    assert Message(EVERY).inner.i32 == 0


def test_lists_can_be_changed_in_place() -> None:
    message = Message(MANY, text=["a"])
    message.text.append("b")
    message.add("inner", text=["c"])
    message.inner.append(Message(MANY))
    message.data.append(b"d")
    again = Message.parse(MANY, message.encode())
    assert (again.text, again.data, len(again.inner)) == (["a", "b"], [b"d"], 2)
    again.inner[0].text[0] = "z"
    third = Message.parse(MANY, again.encode())
    assert third.inner[0].text == ["z"]
    third.inner[0].text.append(3)
    with pytest.raises(ArgumentError, match="text is string, not int"):
        third.encode()


def test_a_list_changed_back_and_one_only_looked_at_leave_the_bytes() -> None:
    data = bytes.fromhex("08 81 00")  # two bytes for 1
    odd = b"\x7a\x01b\x7a\x01a" + data
    message = Message.parse(MANY, odd)
    assert (message.text, message.i32.tolist()) == (["b", "a"], [1])
    assert message.encode() == odd
    message.text.append("c")
    assert message.encode() == b"\x08\x01\x7a\x01b\x7a\x01a\x7a\x01c"
    message.text.pop()
    assert message.encode() == odd


def test_only_what_changed_is_written_anew() -> None:
    inner = b"\x08\x81\x00"
    message = Message.parse(MANY, b"\x8a\x01\x03" + inner + b"\x92\x01\x03" + inner)
    message.make("every", i64=2)
    assert message.encode() == b"\x8a\x01\x03" + inner + b"\x92\x01\x04\x08\x01\x10\x02"


def test_unknown_fields_stay() -> None:
    unknown = bytes.fromhex("a8 1f 07") + b"\xb2\x1f\x02hi" + bytes.fromhex("bb 1f 08 01 bc 1f")
    message = Message.parse(EVERY, unknown + b"\x08\x01")
    assert message.unknown() == [unknown]
    assert message.encode() == unknown + b"\x08\x01"
    message.i64 = 5
    assert message.encode() == b"\x08\x01\x10\x05" + unknown
    assert message.copy().encode() == message.encode()


def test_a_field_of_another_wire_type_is_unknown() -> None:
    message = Message.parse(EVERY, b"\x0a\x01x")
    assert "i32" not in message
    assert message.unknown() == [b"\x0a\x01x"]


def test_unknown_enum_numbers_stay() -> None:
    message = Message.parse(EVERY, bytes.fromhex("40 63"))
    assert message.phase == 99
    message.i32 = 1
    assert message.encode() == bytes.fromhex("08 01 40 63")


@pytest.mark.parametrize(
    ("name", "data", "value"),
    [
        ("i32", "08 ff ff ff ff ff ff ff ff ff 01", -1),
        ("i32", "08 ff ff ff ff 0f", -1),
        ("i32", "08 80 80 80 80 10", 0),  # bits beyond the 32nd are cut off
        ("u32", "18 81 80 80 80 10", 1),
        ("u64", "20 ff ff ff ff ff ff ff ff ff 01", 2**64 - 1),
        ("i64", "10 80 80 80 80 80 80 80 80 80 01", -(2**63)),
        ("i64", "10 81 80 80 80 80 80 80 80 80 00", 1),  # longer than it has to be
        ("s32", "28 ff ff ff ff 0f", -(2**31)),
        ("s64", "30 01", -1),
        ("flag", "38 80 80 80 80 80 80 80 80 80 01", True),
        ("flag", "38 02", True),
        ("flag", "38 80 00", False),
        ("phase", "40 f9 ff ff ff ff ff ff ff ff 01", -7),
    ],
)
def test_numbers_are_cut_as_c_does(name: str, data: str, value: int) -> None:
    raw = bytes.fromhex(data)
    message = Message.parse(EVERY, raw)
    assert message[name] == value
    assert type(message[name]) is type(value)
    for count in (1, 30):
        assert Message.parse(MANY, raw * count)[name].tolist() == [value] * count
        body = raw[1:] * count
        head = bytes([raw[0] & 0xF8 | 2, *_varint(len(body))])
        assert Message.parse(MANY, head + body)[name].tolist() == [value] * count


def _varint(value: int) -> list[int]:
    return [value] if value < 128 else [value & 127 | 128, value >> 7]


def test_negative_int32_takes_ten_bytes() -> None:
    assert len(Message(EVERY, i32=-1).encode()) == 11
    assert len(Message(MANY, i32=[-1, 1]).encode()) == 13


@pytest.mark.parametrize("bits", [0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0x00000001])
def test_floats_keep_their_bits(bits: int) -> None:
    raw = struct.pack("<I", bits)
    message = Message.parse(EVERY, b"\x6d" + raw)
    assert type(message.single) is float
    message.i32 = 1
    assert message.encode() == b"\x08\x01\x6d" + raw
    many = Message.parse(MANY, (b"\x6d" + raw) * 40)
    assert many.single.tobytes() == raw * 40
    again = Message(MANY, single=many.single)
    assert again.encode() == (b"\x6d" + raw) * 40
    assert Message(EVERY, single=np.frombuffer(raw, "<f4")[0]).encode() == b"\x6d" + raw


def test_equality_is_that_of_bytes() -> None:
    assert Message(EVERY, single=math.nan) == Message(EVERY, single=math.nan)
    assert Message(EVERY, single=0.0) != Message(EVERY, single=-0.0)
    assert Message(EVERY, i32=0) != Message(EVERY)
    assert Message(EVERY) != Message(MANY)
    assert Message.parse(EVERY, b"\x10\x01\x08\x81\x00") == Message(EVERY, i32=1, i64=1)


@pytest.mark.parametrize(
    ("schema", "name", "value"),
    [
        (EVERY, "i32", 2**31),
        (EVERY, "i32", 1.0),
        (EVERY, "i32", "1"),
        (EVERY, "u32", -1),
        (EVERY, "u64", 2**64),
        (EVERY, "flag", 2),
        (EVERY, "phase", "NEITHER"),
        (EVERY, "phase", 2**40),
        (EVERY, "single", "1"),
        (EVERY, "single", 1j),
        (EVERY, "double", 10**400),
        (EVERY, "text", b"a"),
        (EVERY, "text", "\ud800"),
        (EVERY, "data", "a"),
        (EVERY, "data", memoryview(b"abcd")[::2]),
        (EVERY, "inner", Message(MANY)),
        (EVERY, "inner", {}),
        (EVERY, "nothing", 1),
        (MANY, "i32", 3),
        (MANY, "i32", [2**31]),
        (MANY, "i32", [0.5]),
        (MANY, "i32", np.array([[1]])),
        (MANY, "i32", np.array([2**31])),
        (MANY, "i32", np.array([1.0])),
        (MANY, "u64", np.array([-1])),
        (MANY, "u64", np.array(["a"])),
        (MANY, "single", np.array([1j])),
        (MANY, "single", ["a"]),
        (MANY, "text", "abc"),
        (MANY, "text", [b"abc"]),
        (MANY, "text", Message(MANY)),
        (MANY, "inner", [Message(EVERY)]),
        (MANY, "inner", 5),
    ],
)
def test_values_that_do_not_fit_are_refused(schema: Any, name: str, value: Any) -> None:
    message = Message(schema)
    with pytest.raises(ArgumentError):
        message[name] = value
    assert list(message) == []


def test_values_that_fit_are_taken() -> None:
    message = Message(
        EVERY, i32=np.int64(3), flag=np.True_, phase="BOTH", single=1, double=np.float32(0.5)
    )
    assert (message.i32, message.flag, message.phase, message.single) == (3, True, -7, 1.0)
    assert message.double == 0.5
    assert Message(EVERY, single=1e300).single == math.inf
    assert Message(EVERY, single=0.1).single == float(np.float32(0.1))
    many = Message(MANY, i64=np.arange(3, dtype=np.uint8), phase=["TRAIN", -7], flag=[1, 0])
    assert many.i64.dtype == np.int64
    assert many.phase.tolist() == [0, -7]
    assert many.flag.tolist() == [True, False]
    assert Message(MANY, single=[0.1, 1]).single.tolist() == [float(np.float32(0.1)), 1.0]
    assert Message(MANY, i32=range(3), double=(0.5,)).i32.tolist() == [0, 1, 2]
    assert Message(EVERY, data=bytearray(b"a")).data == b"a"
    assert Message(EVERY, data=np.arange(3, dtype=np.uint8)).encode() == b"\x82\x01\x03\x00\x01\x02"


def test_arrays_are_read_only_and_not_copied() -> None:
    values = np.arange(4, dtype=np.float32)
    message = Message(PACKS, single=values)
    assert np.shares_memory(message.single, values)
    with pytest.raises(ValueError, match="read-only"):
        message.single[0] = 1
    values[0] = 9
    assert message.single[0] == 9
    assert any(
        np.shares_memory(np.frombuffer(chunk, np.uint8), big)
        for big in [np.zeros(100_000, np.float32)]
        for chunk in Message(PACKS, single=big).chunks()
    )


def test_text_that_is_not_utf8_stays_as_it_is() -> None:
    raw = b"\x7a\x03\xffab"
    message = Message.parse(EVERY, raw)
    assert message.text == "\udcffab"
    assert Message(EVERY, text=message.text).encode() == raw


def test_oneofs_hold_one() -> None:
    message = Message(EVERY, one=1)
    message.two = "b"
    assert list(message) == ["two"]
    message.make("three")
    assert list(message) == ["three"]
    parsed = Message.parse(EVERY, Message(EVERY, two="b").encode() + Message(EVERY, one=1).encode())
    assert list(parsed) == ["one"]


def test_packed_and_unpacked_are_both_read() -> None:
    unpacked = Message(MANY, i32=[1, -2, 300], single=[1.5, 2.5])
    packed = bytes.fromhex("0a 0d 01 fe ff ff ff ff ff ff ff ff 01 ac 02")
    packed += b"\x6a\x08" + struct.pack("<2f", 1.5, 2.5)
    assert Message.parse(MANY, packed) == unpacked
    mixed = packed + unpacked.encode()
    assert Message.parse(MANY, mixed).i32.tolist() == [1, -2, 300, 1, -2, 300]
    assert Message.parse(MANY, mixed).single.tolist() == [1.5, 2.5] * 2
    message = Message.parse(PACKS, Message(MANY, i32=[5]).encode())
    assert message.i32.size == 0  # another number
    tag = b"\xa8\x06"  # 101, a varint
    assert Message.parse(PACKS, tag + b"\x05" + tag + b"\x06").i32.tolist() == [5, 6]
    assert Message.parse(MANY, b"\x0a\x00").i32.tolist() == []
    assert "i32" not in Message.parse(MANY, b"\x0a\x00")


def test_names_that_are_methods_are_reached_by_name() -> None:
    schema = schemas("Box\n  1 size int32\n  2 copy string")["Box"]
    box = Message(schema, size=3)
    box["copy"] = "c"
    assert (box["size"], box["copy"], box.size()) == (3, "c", 5)
    name = "size"
    with pytest.raises(ArgumentError, match=r"message\['size'\]"):
        setattr(box, name, 3)


def test_misspelt_names() -> None:
    message = Message(EVERY)
    with pytest.raises(AttributeError, match=r"no field 'i33'.*i32"):
        _ = message.i33
    with pytest.raises(ArgumentError, match="no field 'i33'"):
        message.i33 = 3
    with pytest.raises(ArgumentError):
        _ = message["i33"]
    with pytest.raises(ArgumentError):
        _ = "i33" in message
    with pytest.raises(ArgumentError, match="is not one message"):
        message.make("i32")
    with pytest.raises(ArgumentError, match="is not a list of messages"):
        message.add("inner")
    assert not hasattr(message, "__array__")


def test_copies_are_changed_on_their_own() -> None:
    message = Message(MANY, text=["a"], inner=[Message(MANY, text=["b"])])
    parsed = Message.parse(MANY, message.encode())
    for original in (message, parsed):
        assert copy.copy(original).encode() == original.encode()
        other = copy.deepcopy(original)
        assert other == original
        other.text.append("c")
        other.inner[0].text = []
        assert (original.text, original.inner[0].text) == (["a"], ["b"])
        assert (other.text, other.inner[0].text) == (["a", "c"], [])
    with pytest.raises(TypeError, match="encode"):
        pickle.dumps(message)


def test_large_values_are_not_read() -> None:
    size = 5 << 20
    inner = Message(EVERY, text="name", data=bytes(size))
    floats = np.arange(1 << 18, dtype=np.float32)
    message = Message(MANY, text=["x"], every=inner, packs=Message(PACKS, single=floats))
    source = CountingSource(message.encode())
    again = Message.parse(MANY, source)
    assert (again.text, again.every.text) == (["x"], "name")
    window = again.every.window("data")
    assert window is not None
    assert window[2] - window[1] == size
    packed = again.packs.window("single")
    assert packed is not None
    assert source.count < 300_000
    assert np.array_equal(np.frombuffer(source.read(*packed[1:]), "<f4"), floats)
    assert np.array_equal(again.packs.single, floats)
    place = again.window("every")
    assert place is not None
    assert bytes(source.read(*place[1:])) == inner.encode()
    again.every.text = "other"
    assert again.window("every") is None
    before = source.count
    chunks = again.chunks()
    assert source.count - before < 300_000
    assert sum(map(len, chunks)) == again.size() == source.size + 1


def test_long_items_of_lists() -> None:
    texts = ["a" * 100_000, "b", "é" * 70_000]
    message = Message(MANY, text=texts, data=[b"x" * 200_000, b"y"])
    data = message.encode()
    again = Message.parse(MANY, data)
    again.i32 = [1]
    assert again.encode() == b"\x08\x01" + data
    assert again.text == texts
    assert again.data == [b"x" * 200_000, b"y"]
    again.text = texts[1:]
    again.text.pop()
    assert Message.parse(MANY, again.encode()).text == ["b"]
    assert repr(Message(MANY, text=["a"] * 5)) == "Many(text=[5 items])"


def test_proto3_leaves_out_empty_bytes_that_were_read() -> None:
    message = Message.parse(PLAIN, b"\x1a\x00\x08\x05\x62\x00")
    assert list(message) == ["number", "inner"]
    message.number = 6
    assert message.encode() == b"\x08\x06\x62\x00"


def test_windows_of_small_and_absent_values() -> None:
    data = Message(EVERY, data=b"abc", i32=1).encode()
    message = Message.parse(EVERY, b"\x00" * 3 + data, 3)
    window = message.window("data")
    assert window is not None
    assert bytes(window[0].read(*window[1:])) == b"abc"
    assert message.window("i32") is None
    assert message.window("inner") is None
    message.data = b"d"
    assert message.window("data") is None
    tagged = Message.parse(MANY, Message(MANY, single=[1.0] * 50).encode())
    assert tagged.window("single") is None


def test_a_part_of_a_source() -> None:
    data = Message(EVERY, text="in the middle", inner=Message(EVERY, i32=4)).encode()
    source = MemorySource(b"\xff" * 7 + data + b"\xff" * 9)
    message = Message.parse(EVERY, source, 7, 7 + len(data))
    assert (message.text, message.inner.i32) == ("in the middle", 4)
    assert message.encode() == data
    with pytest.raises(ArgumentError):
        Message.parse(EVERY, source, 9, 8)
    with pytest.raises(CorruptError, match="there are"):
        Message.parse(EVERY, source, 7, 1000)


def test_required_fields() -> None:
    complete = Message(NEEDS, a=0, b=Message(EVERY))
    complete.check_required()
    complete.add("c", a=1)
    parsed = Message.parse(NEEDS, complete.encode(), where="needs.pb")
    with pytest.raises(CorruptError, match=r"^needs.pb: a Needs has no b"):
        parsed.check_required()
    with pytest.raises(CorruptError):
        complete.check_required()


def test_messages_within_themselves_are_refused() -> None:
    message = Message(EVERY)
    message.inner = message
    with pytest.raises(ArgumentError, match="100 levels"):
        message.encode()
    with pytest.raises(ArgumentError, match="100 levels"):
        message.to_text()


def test_scan() -> None:
    data = (
        Message(EVERY, i32=300, single=1.0, text="abc", double=1.0).encode() + b"\x0b\x08\x01\x0c"
    )
    assert list(scan(data)) == [
        (1, 0, 1, 3),
        (13, 5, 4, 8),
        (14, 1, 9, 17),
        (15, 2, 19, 22),
        (1, 3, 23, 26),
    ]
    many = (b"\x08\x01") * 100_000
    assert len(list(scan(many))) == 100_000
    assert list(scan(many, 4, 8)) == [(1, 0, 5, 6), (1, 0, 7, 8)]
    with pytest.raises(CorruptError, match=r"^x.pb: the message is cut short"):
        list(scan(b"\x08", where="x.pb"))


def test_repr() -> None:
    message = Message(MANY, i32=range(20), text=["a", "b"], every=Message(EVERY, data=b"x" * 99))
    shown = repr(message)
    assert shown.startswith("Many(i32=[20 of int32], text=['a', 'b'], every=Every(data=b'xxx")
    assert len(shown) < 200
    assert "cut short" in repr(Message.parse(MANY, b"\x92\x01\x01\x08"))
