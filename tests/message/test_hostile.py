"""Messages that nobody wrote: refused quickly, with nothing but our errors."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from tests.message.reference import SCHEMAS, build_ours

from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError
from tensorkeep.message import Message, scan

EVERY, MANY = SCHEMAS["Every"], SCHEMAS["Many"]


def read_all(message: Message) -> None:
    for name in message:
        value = message[name]
        if message.schema[name].message is not None:
            for inner in value if message.schema[name].repeated else (value,):
                read_all(inner)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("00 01", "field number 0 at byte 0"),
        ("07", "field number 0"),
        ("08 01 0e", "wire type 6 at byte 2"),
        ("0f", "wire type 7"),
        ("0c", "end of a group that never started"),
        ("08", "cut short in the field at byte 0"),
        ("08 80", "cut short"),
        ("08 80 80 80 80 80 80 80 80 80 80 01", "more than ten bytes"),
        ("6d 00 00 00", "cut short"),
        ("71 00 00 00 00", "cut short"),
        ("7a 05 61", "a field of 5 bytes, 1 are left at byte 0"),
        ("7a ff ff ff ff ff ff ff ff ff 01", "bytes, 0 are left"),
        ("7a ff ff ff ff ff ff ff ff ff ff 01", "more than 10 bytes"),
        ("7a", "cut short"),
        ("ff ff ff ff ff 01 00", "a tag of more than 5 bytes"),
        ("f8 ff ff ff 7f 00", "a tag of more than 5 bytes"),
        ("80", "cut short"),
        ("0b", "cut short"),
        ("0b 0b 0c", "cut short"),
        ("0b 14", "another one's end tag"),
        ("0b 0a 7f 0c", "cut short"),
        ("0b 00 0c", "field number 0"),
        ("0b 0e 0c", "wire type 6"),
    ],
)
def test_damaged_fields(data: str, problem: str) -> None:
    raw = bytes.fromhex(data)
    with pytest.raises(CorruptError, match=problem) as caught:
        Message.parse(EVERY, raw, where="net.pb")
    assert str(caught.value).startswith("net.pb: Every ")
    with pytest.raises(CorruptError, match=problem):
        list(scan(raw))
    nested = Message.parse(EVERY, b"\x08\x01\x8a\x01" + bytes([len(raw)]) + raw)
    with pytest.raises(CorruptError):
        _ = nested.inner.i32


@pytest.mark.parametrize("filler", [0, 65_530, 65_536, 200_000])
def test_where_the_damage_lies(filler: int) -> None:
    data = b"\x7a\x01a" * (filler // 3) + b"\x08\x01\x7a\x05ab"
    place = len(data) - 4
    with pytest.raises(CorruptError, match=f"at byte {place:,}$|at byte {place:,}\\."):
        Message.parse(MANY, data)


def test_fields_across_the_pieces_that_are_read() -> None:
    """A field of any kind, with its tag at every place around the end of a piece."""
    tail = Message(EVERY, i64=-1, f64=7, text="t" * 200, inner=Message(EVERY, i32=3)).encode()
    group = b"\xa3\x1f" + b"\x08\x01" * 40 + b"\xa4\x1f"
    for filler in range(65_536 - 260, 65_536 + 4, 3):
        head = Message(EVERY, data=bytes(filler - 4)).encode()
        data = head + group + tail
        message = Message.parse(EVERY, head + b"\x08\x05" + group + tail)
        assert (message.i32, message.i64, message.f64) == (5, -1, 7)
        assert (message.text, message.inner.i32) == ("t" * 200, 3)
        assert [number for number, *_ in scan(data)] == [16, 500, 2, 10, 15, 17]


def test_groups_larger_than_a_piece() -> None:
    group = b"\xa3\x1f" + b"\x7a\x01a" * 100_000 + b"\xa4\x1f"
    message = Message.parse(EVERY, b"\x08\x01" + group + b"\x10\x02")
    assert (message.i32, message.i64, message.unknown()) == (1, 2, [group])
    with pytest.raises(CorruptError, match="cut short"):
        Message.parse(EVERY, group[:-2])


@pytest.mark.parametrize("depth", [99, 100, 101, 50_000])
def test_groups_within_groups(depth: int) -> None:
    data = b"\x0b" * depth + b"\x0c" * depth
    if depth <= 100:
        assert Message.parse(EVERY, data).unknown() == [data]
    else:
        with pytest.raises(CorruptError, match="100 groups"):
            Message.parse(EVERY, data)


def test_messages_within_messages() -> None:
    data = b""
    for _ in range(3000):
        size = len(data)
        length = b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        data = b"\x8a\x01" + length + bytes([size]) + data
    message = Message.parse(EVERY, data)
    with pytest.raises(CorruptError, match="100 levels"):
        read_all(message)
    with pytest.raises(CorruptError, match="100 levels"):
        message.check_required()
    with pytest.raises(TensorKeepError, match="100 levels"):
        message.to_text()
    assert message.encode() == data


SAMPLE = build_ours(
    MANY,
    {
        "i32": [1, -1, 300],
        "s64": [5, -6],
        "single": [0.5] * 18,
        "text": ["ab", ""],
        "data": [b"\x00"],
        "inner": [{"i64": list(range(20))}, {"flag": [True]}],
        "every": {"text": "x", "phase": 0, "inner": {"i32": 3}},
        "packs": {"single": [1.0, 2.0], "i32": [7, -8], "flag": [True]},
    },
).encode()


def check(data: bytes, use: Callable[[Message], object]) -> None:
    try:
        use(Message.parse(MANY, data))
    except TensorKeepError:
        return


def use(message: Message) -> None:
    read_all(message)
    assert Message.parse(MANY, message.encode()) == message
    message.to_text()


def test_every_truncation() -> None:
    for stop in range(len(SAMPLE)):
        check(SAMPLE[:stop], use)


def test_every_flipped_bit() -> None:
    for place in range(len(SAMPLE)):
        for bit in range(8):
            data = bytearray(SAMPLE)
            data[place] ^= 1 << bit
            check(bytes(data), use)


@pytest.mark.parametrize(
    "field",
    [
        b"\x8a\x01\x00",  # repeated messages
        b"\x92\x01\x00",  # one message in parts
        b"\x0a\x00",  # packed numbers
        b"\x0a\x00\xa8\x1f\x07",  # unknown fields between others
    ],
)
def test_many_fields_of_nothing(field: bytes) -> None:
    Message.parse(MANY, field * 30_000)
    with pytest.raises(UnsafeError, match="fill the memory"):
        Message.parse(MANY, field * 120_000, where="many.pb")


def test_many_fields_of_something() -> None:
    message = Message(
        MANY, inner=[Message(MANY, text=["name"])] * 100_000, text=["", "a"] * 100_000
    )
    again = Message.parse(MANY, message.encode())
    assert len(again.inner) == 100_000
    assert again.text == message.text


def test_a_size_that_is_not_there_is_not_allocated() -> None:
    data = b"\x7a\xff\xff\xff\xff\x07" + b"abc"
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError):
            Message.parse(EVERY, data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
