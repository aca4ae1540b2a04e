"""Many numbers under one tag each, which are read and written together."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.message.reference import SCHEMAS, message_classes

from tensorkeep.errors import CorruptError
from tensorkeep.message import Message, schemas

MANY = SCHEMAS["Many"]
THEIRS = message_classes(SCHEMAS)["Many"]
FIELDS = [field for field in MANY.fields if field.numeric]
WIDE = schemas(
    """
Wide
  1 low repeated int32
  16 float repeated float
  17 double repeated double
  2047 long repeated int64
  70000 zigzag repeated sint64
"""
)["Wide"]


@given(st.data())
def test_runs_in_any_order(data: st.DataObject) -> None:
    """Runs of any length, of any fields, in turn and with other fields between them."""
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    parts = []
    for _ in range(data.draw(st.integers(1, 6))):
        field = data.draw(st.sampled_from(FIELDS))
        count = data.draw(st.sampled_from([1, 15, 16, 17, 18, 33, 700, 900, 5000, 20_000]))
        raw = rng.integers(0, 256, count * 8, np.uint8)
        if field.enum is not None:
            values = rng.choice(list(field.enum.names), count)
        elif field.scalar.name == "bool":
            values = raw[:count] > 127
        else:
            values = raw.view(field.scalar.dtype)[:count]
            if field.scalar.dtype.kind in "iu":  # of all lengths
                shift = rng.integers(0, 8 * values.itemsize, count).astype(values.dtype)
                values = values >> shift
        parts.append(Message(MANY, **{field.name: values}).encode())
        parts.append(data.draw(st.sampled_from([b"", b"\x7a\x01a", b"\xa8\x1f\x07"])))
    joined = b"".join(parts)
    theirs = THEIRS()
    theirs.ParseFromString(joined)
    ours = Message.parse(MANY, joined)
    for field in FIELDS:
        expected = np.array(getattr(theirs, field.name), field.scalar.dtype)
        assert ours[field.name].tobytes() == expected.tobytes()
    assert ours.text == list(theirs.text)
    assert ours.encode() == joined
    theirs.ClearField("text")
    theirs.DiscardUnknownFields()
    ours.drop("text")
    known = Message(MANY, **{name: ours[name] for name in ours})
    assert known.encode() == theirs.SerializeToString(deterministic=True)


@pytest.mark.parametrize("count", [1, 16, 17, 100_000])
def test_tags_of_several_bytes(count: int) -> None:
    values = np.arange(count) - 5
    message = Message(
        WIDE,
        low=values,
        float=values.astype(np.float32),
        double=values / 3,
        long=values * 2**40,
        zigzag=values * -(2**33),
    )
    data = message.encode()
    assert len(data) == message.size()
    again = Message.parse(WIDE, data)
    for name in message:
        assert np.array_equal(again[name], message[name])
    again.low = [1]
    assert again.encode() == b"\x08\x01" + data[data.index(struct.pack("<Bf", 1, -5.0)) - 1 :]


def test_long_runs_of_fixed_numbers_are_views() -> None:
    values = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    data = Message(MANY, single=values).encode()
    assert data == b"".join(b"\x6d" + struct.pack("<f", value) for value in values.tolist())
    again = Message.parse(MANY, data).single
    assert np.array_equal(again, values)
    assert np.shares_memory(again, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [20, 5000, 50_000])
def test_cut_runs(count: int, cut: int) -> None:
    floats = Message(MANY, single=np.ones(count, np.float32)).encode()
    with pytest.raises(CorruptError, match="cut short"):
        Message.parse(MANY, floats[:-cut])
    longs = Message(MANY, i64=np.full(count, -1)).encode()
    with pytest.raises(CorruptError, match="cut short"):
        Message.parse(MANY, longs[:-cut])


def test_a_varint_that_is_too_long_within_a_run() -> None:
    run = Message(MANY, i64=np.full(5000, 300)).encode()
    data = run + b"\x10" + b"\x80" * 10 + b"\x01" + run
    with pytest.raises(CorruptError, match=f"more than ten bytes at byte {len(run):,}"):
        Message.parse(MANY, data)


def test_packed_fixed_numbers_need_whole_ones() -> None:
    message = Message.parse(MANY, b"\x6a\x05abcde", where="cut.pb")
    with pytest.raises(CorruptError, match=r"cut\.pb: single at byte 2: 5 bytes"):
        _ = message.single


def test_a_run_with_tags_longer_than_needed() -> None:
    plain, odd = b"\x08\x05", b"\x88\x00\x05"
    data = plain * 20 + odd * 20 + plain * 3
    assert Message.parse(MANY, data).i32.tolist() == [5] * 43
    floats = (b"\x6d" + bytes(4)) * 20 + (b"\xed\x00" + bytes(4)) * 2
    assert Message.parse(MANY, floats).single.tolist() == [0.0] * 22
