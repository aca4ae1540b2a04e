"""Against Google's protobuf library: the same bytes, the same values, the same text."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tests.message.reference import (
    SCHEMAS,
    SCHEMAS3,
    build_ours,
    build_theirs,
    message_classes,
    plans,
    read_plan,
    same,
)

from tensorkeep.errors import CorruptError
from tensorkeep.message import Message

CLASSES = message_classes(SCHEMAS)
CLASSES3 = message_classes(SCHEMAS3, proto3=True)
TABLES = {**SCHEMAS, **SCHEMAS3}
THEIRS = {**CLASSES, **CLASSES3}

_kinds = st.sampled_from(["Every", "Many", "Packs", "Needs", "Plain"])
_cases = _kinds.flatmap(lambda kind: st.tuples(st.just(kind), plans(TABLES[kind])))


def encode_theirs(message: Any) -> bytes:
    return bytes(message.SerializePartialToString(deterministic=True))


@given(_cases)
def test_the_same_bytes_and_values(case: tuple[str, dict[str, Any]]) -> None:
    kind, plan = case
    ours = build_ours(TABLES[kind], plan)
    data = encode_theirs(build_theirs(THEIRS[kind], plan))
    assert ours.encode() == data
    assert ours.size() == len(data)
    again = Message.parse(TABLES[kind], data)
    assert again == ours
    assert same(read_plan(again), read_plan(ours))
    assert again.encode() == data


@given(_cases)
def test_the_same_text(case: tuple[str, dict[str, Any]]) -> None:
    kind, plan = case
    ours = build_ours(TABLES[kind], plan)
    theirs = build_theirs(THEIRS[kind], plan)
    text = text_format.MessageToString(theirs, as_utf8=True)
    assert ours.to_text() == text
    ascii_text = text_format.MessageToString(theirs, as_utf8=False)
    for source in (text, ascii_text, text_format.MessageToString(theirs, as_one_line=True)):
        again = Message.from_text(TABLES[kind], source)
        # A NaN's sign and payload are not in the text.
        assert same(read_plan(again), read_plan(ours))
    parsed = text_format.Parse(text, THEIRS[kind]())
    assert encode_theirs(text_format.Parse(ours.to_text(), THEIRS[kind]())) == encode_theirs(parsed)


@given(_cases, st.data())
def test_the_same_after_a_change(case: tuple[str, dict[str, Any]], data: st.DataObject) -> None:
    kind, plan = case
    change = data.draw(plans(TABLES[kind], 1))
    changed = Message.parse(TABLES[kind], encode_theirs(build_theirs(THEIRS[kind], plan)))
    theirs = build_theirs(THEIRS[kind], plan)
    for name, value in change.items():
        field = TABLES[kind][name]
        if field.message is not None and not field.repeated:
            for key, inner in value.items():
                changed.make(name)[key] = build_ours(field.message, {key: inner})[key]
            theirs_inner = getattr(theirs, name)
            theirs_inner.SetInParent()
            changed.make(name)
            for key in value:
                theirs_inner.ClearField(key)
            theirs_inner.MergeFrom(type(theirs_inner)(**value))
        else:
            changed[name] = build_ours(TABLES[kind], {name: value})[name]
            theirs.ClearField(name)
            theirs.MergeFrom(THEIRS[kind](**{name: value}))
    assert changed.encode() == encode_theirs(theirs)


@given(_kinds, st.data())
def test_messages_in_a_row_merge(kind: str, data: st.DataObject) -> None:
    """Concatenated encodings are one message: later scalars win, messages merge, lists grow."""
    parts = data.draw(st.lists(plans(TABLES[kind]), min_size=2, max_size=3))
    joined = b"".join(encode_theirs(build_theirs(THEIRS[kind], plan)) for plan in parts)
    theirs = THEIRS[kind]()
    theirs.MergeFromString(joined)
    ours = Message.parse(TABLES[kind], joined)
    assert ours.encode() == joined
    assert ours.copy().encode() == joined
    assert ours == Message.parse(TABLES[kind], encode_theirs(theirs))
    ours[TABLES[kind].fields[0].name] = None
    theirs.ClearField(TABLES[kind].fields[0].name)
    changed = Message.parse(TABLES[kind], ours.encode())
    assert changed == Message.parse(TABLES[kind], encode_theirs(theirs))


def is_sound(message: Message) -> bool:
    try:
        for name in message:
            value = message[name]
            if message.schema[name].message is not None:
                inner = value if message.schema[name].repeated else (value,)
                if not all(map(is_sound, inner)):
                    return False
    except CorruptError:
        return False
    return True


def parse_or_none(kind: str, data: bytes) -> Message | None:
    try:
        message = Message.parse(TABLES[kind], data)
    except CorruptError:
        return None
    return message if is_sound(message) else None


@given(st.sampled_from(["Every", "Many", "Packs"]), st.data())
def test_damaged_ones_are_refused_alike(kind: str, data: st.DataObject) -> None:
    whole = bytearray(encode_theirs(build_theirs(THEIRS[kind], data.draw(plans(TABLES[kind])))))
    for _ in range(data.draw(st.integers(0, 3))):
        if whole:
            place = data.draw(st.integers(0, len(whole) - 1))
            whole[place] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    ours = parse_or_none(kind, damaged)
    theirs = THEIRS[kind]()
    try:
        theirs.ParseFromString(damaged)
    except DecodeError:
        assert ours is None
        return
    assert ours is not None
    assert ours.encode() == damaged


@pytest.mark.parametrize("depth", [99, 100, 101])
def test_the_same_depth(depth: int) -> None:
    data = b""
    for _ in range(depth):
        data = b"\x8a\x01" + _length(len(data)) + data
    theirs = THEIRS["Every"]()
    sound = parse_or_none("Every", data) is not None
    try:
        theirs.ParseFromString(data)
        assert sound
    except DecodeError:
        assert not sound


def _length(size: int) -> bytes:
    return bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
