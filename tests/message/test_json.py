from __future__ import annotations

import base64
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
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

from tensorkeep.errors import ArgumentError, CorruptError, UnsafeError
from tensorkeep.message import Message, schemas
from tensorkeep.message.json import find_unknown, json_chunks
from tensorkeep.source import FileSource, MemorySource

EVERY, MANY = SCHEMAS["Every"], SCHEMAS["Many"]
NAMES_TABLE = schemas(
    "Names\n  1 raw_data bytes\n  2 a__b int32\n  3 _c int32\n  4 f16_x int32\n  5 d_ int32\n"
    "  6 Big_Name int32\n  7 x_1y int32"
)
THEIRS = {
    **message_classes({**SCHEMAS, **NAMES_TABLE}),
    **message_classes(SCHEMAS3, proto3=True),
}
TABLES = {**SCHEMAS, **SCHEMAS3}
LARGEST = float(np.finfo(np.float32).max)

_kinds = st.sampled_from(["Every", "Many", "Packs", "Needs", "Plain"])
_cases = _kinds.flatmap(lambda kind: st.tuples(st.just(kind), plans(TABLES[kind])))


def encode_theirs(message: Any) -> bytes:
    return bytes(message.SerializePartialToString(deterministic=True))


@given(_cases)
def test_as_protobuf_writes_and_reads(case: tuple[str, dict[str, Any]]) -> None:
    kind, plan = case
    ours = build_ours(TABLES[kind], plan)
    theirs = build_theirs(THEIRS[kind], plan)
    text = json_format.MessageToJson(theirs)
    written = ours.to_json()
    if "3.4028235e+38" not in text:
        assert written == text
    assert b"".join(json_chunks(ours)).decode() == written
    # A NaN's sign and payload are not in the text.
    again = Message.from_json(TABLES[kind], written)
    assert same(read_plan(again), read_plan(ours))
    read = json_format.Parse(written, THEIRS[kind]())
    assert again.encode() == encode_theirs(read)
    for source in (
        text,
        json_format.MessageToJson(theirs, preserving_proto_field_name=True, ensure_ascii=False),
        json_format.MessageToJson(theirs, indent=None, use_integers_for_enums=True).encode(),
        json_format.MessageToJson(theirs, unquote_int64_if_possible=True, sort_keys=True),
    ):
        assert same(read_plan(Message.from_json(TABLES[kind], source)), read_plan(ours))


def test_how_it_looks() -> None:
    message = Message(
        MANY,
        i32=[1, -2],
        u64=[2**64 - 1],
        flag=[True, False],
        phase=["TEST", 55],
        single=[0.1, math.nan],
        text=['a"\n\té', "😀"],
        data=[b"\xff\xfe", b""],
        inner=[Message(MANY), Message(MANY, i64=[3])],
        every=Message(EVERY, double=-math.inf),
    )
    assert message.to_json() == (
        '{\n  "i32": [\n    1,\n    -2\n  ],\n  "u64": [\n    "18446744073709551615"\n  ],\n'
        '  "flag": [\n    true,\n    false\n  ],\n  "phase": [\n    "TEST",\n    55\n  ],\n'
        '  "single": [\n    0.1,\n    "NaN"\n  ],\n'
        '  "text": [\n    "a\\"\\n\\t\\u00e9",\n    "\\ud83d\\ude00"\n  ],\n'
        '  "data": [\n    "//4=",\n    ""\n  ],\n'
        '  "inner": [\n    {},\n    {\n      "i64": [\n        "3"\n      ]\n    }\n  ],\n'
        '  "every": {\n    "double": "-Infinity"\n  }\n}'
    )
    assert same(read_plan(Message.from_json(MANY, message.to_json())), read_plan(message))
    assert Message(MANY).to_json() == "{}"


def test_names() -> None:
    names = [row.name for row in NAMES_TABLE["Names"].fields]
    for name in names:
        value: Any = b"abc" if name == "raw_data" else 7
        ours = Message(NAMES_TABLE["Names"], **{name: value})
        theirs = THEIRS["Names"](**{name: value})
        assert ours.to_json() == json_format.MessageToJson(theirs)
        for camel in (True, False):
            text = json_format.MessageToJson(theirs, preserving_proto_field_name=not camel)
            assert Message.from_json(NAMES_TABLE["Names"], text) == ours


@pytest.mark.parametrize("value", [LARGEST, -LARGEST, 1e-45, 1 / 3, -0.0, 16777216.0, math.inf])
def test_floats_that_protobuf_reads_back(value: float) -> None:
    message = Message(EVERY, single=value)
    again = Message.from_json(EVERY, message.to_json())
    assert again.encode() == message.encode()
    theirs = json_format.Parse(message.to_json(), THEIRS["Every"]())
    assert theirs.SerializeToString() == message.encode()


def test_the_largest_float_in_few_digits() -> None:
    """Protobuf's Python library writes this and refuses it; others read it."""
    assert Message.from_json(EVERY, '{"single": 3.4028235e+38}').single == LARGEST
    many = Message.from_json(MANY, '{"single": [3.4028235e+38, -3.4028235e+38]}')
    assert many.single.tolist() == [LARGEST, -LARGEST]


SAME = [
    '{"i32": 5, "i64": "6"}',
    '{"i32": "5", "i64": 6}',
    '{"i32": 5.0, "i64": 1e5, "u32": "1e2", "s64": "-7.0"}',
    '{"i64": -9223372036854775808, "u64": 18446744073709551615}',
    '{"i64": "9223372036854775807", "f64": "18446744073709551615"}',
    '{"single": 1, "double": "1.5"}',
    '{"single": "NaN", "double": "-Infinity"}',
    '{"single": "Infinity", "double": 1E-3}',
    '{"double": 1e308, "single": "-0"}',
    '{"single": 1e-60}',
    '{"flag": true}',
    '{"phase": "TRAIN"}',
    '{"phase": 1}',
    '{"phase": "-7"}',
    '{"phase": -7.0}',
    '{"data": "YQ=="}',
    '{"data": "YQ"}',
    '{"data": "YWI="}',
    '{"data": "YR=="}',
    '{"data": "-_-_"}',
    '{"data": "+/+/"}',
    '{"data": ""}',
    '{"text": "\\u00e9\\ud83d\\ude00/\\/"}',
    '{"text": "é\\u0000"}',
    '{"inner": {}}',
    '{"inner": {"inner": {"i32": 1}}}',
    '{"i32": null, "inner": null, "text": null}',
    '{"one": null, "two": "a"}',
    '{"two": "a", "one": null}',
    '{"three": {}}',
    " \n{ }\t",
]


@pytest.mark.parametrize("text", SAME)
def test_what_protobuf_reads(text: str) -> None:
    theirs = json_format.Parse(text, THEIRS["Every"]())
    ours = Message.from_json(EVERY, text)
    assert ours.encode() == theirs.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "text",
    [
        '{"i32": [1, 2], "i64": ["3", "-4"], "u64": [5, "6"]}',
        '{"i32": [1.0, "2"], "i64": [7.0]}',
        '{"single": [1.5, 2, "NaN", "1e3"], "double": [1.5, -0.0]}',
        '{"flag": [true, false], "phase": ["TEST", 0, "BOTH"]}',
        '{"text": ["", "a"], "data": ["", "YQ"]}',
        '{"inner": [{}, {"i32": [1]}], "i32": []}',
        '{"i32": null, "inner": null}',
        '{"inner": []}',
    ],
)
def test_lists_that_protobuf_reads(text: str) -> None:
    theirs = json_format.Parse(text, THEIRS["Many"]())
    ours = Message.from_json(MANY, text)
    assert ours.encode() == theirs.SerializeToString(deterministic=True)


WRONG = [
    ("", "", "line 1, column 1: the JSON is broken"),
    ('{"i32": 1,}', "", "the JSON is broken"),
    ('{\n "i32": 1} x', "", "line 2, column 12: the JSON is broken"),
    ('{"i32": 1, "i32": 2}', "", 'the JSON gives "i32" twice'),
    ('{"i33": 1}', "the top: ", '"i33" stands where a field of Every (i32, i64,'),
    ('{"inner": {"I32": 1}}', "inner: ", '"I32" stands where a field of Every'),
    ('{"inner": {"three": 1}}', "inner.three: ", "1 stands where an object with the fields"),
    ('{"inner": "a"}', "inner: ", '"a" stands where an object with the fields of Every belongs'),
    ('{"one": 1, "two": "a"}', "the top: ", "nothing more than the one of the same choice"),
    ('{"one": 1, "three": {}}', "the top: ", "nothing more than the one of the same choice"),
    ('{"i32": 2147483648}', "i32: ", "2147483648 stands where a number of int32 belongs"),
    ('{"u32": -1}', "u32: ", "a number of uint32"),
    ('{"i32": 1.5}', "i32: ", "1.5 stands where"),
    ('{"i32": "1.5"}', "i32: ", '"1.5" stands where'),
    ('{"i32": " 1"}', "i32: ", '" 1" stands where'),
    ('{"i32": ""}', "i32: ", '"" stands where'),
    ('{"i32": "0x10"}', "i32: ", "int32"),
    ('{"i32": "x"}', "i32: ", "int32"),
    ('{"i32": true}', "i32: ", "true stands where"),
    ('{"i32": [1]}', "i32: ", "a list of 1 stands where"),
    ('{"i32": {}}', "i32: ", "an object of 0 stands where"),
    ('{"i64": 9223372036854775808}', "i64: ", "int64"),
    ('{"i64": 1e400}', "i64: ", "int64"),
    ('{"flag": 1}', "flag: ", "1 stands where true or false belongs"),
    ('{"flag": "true"}', "flag: ", "true or false"),
    ('{"phase": "NONE"}', "phase: ", '"NONE" stands where the name or number of Phase belongs'),
    ('{"single": 1e39}', "single: ", "a number of float"),
    ('{"double": 1e400}', "double: ", "a number of double"),
    ('{"double": NaN}', "", "NaN is not JSON without quotes"),
    ('{"double": -Infinity}', "", "-Infinity is not JSON without quotes"),
    ('{"double": "nan"}', "double: ", "a number of double"),
    ('{"double": "1,5"}', "double: ", "a number of double"),
    ('{"double": ""}', "double: ", "a number of double"),
    ('{"text": 5}', "text: ", "5 stands where a string belongs"),
    ('{"text": "\\ud800"}', "text: ", "text without half a surrogate pair"),
    ('{"text": "a\\udc80"}', "text: ", "text without half a surrogate pair"),
    ('{"data": "Y"}', "data: ", "base64"),
    ('{"data": "YWJjZ"}', "data: ", "base64"),
    ('{"data": 5}', "data: ", "base64"),
]


@pytest.mark.parametrize(("text", "place", "problem"), WRONG)
def test_where_a_text_is_wrong(text: str, place: str, problem: str) -> None:
    with pytest.raises(CorruptError) as caught:
        Message.from_json(EVERY, text, where="net.json")
    assert str(caught.value).startswith("net.json, " + place if place else "net.json: ")
    assert problem in str(caught.value)
    with pytest.raises(json_format.ParseError):
        json_format.Parse(text, THEIRS["Every"]())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "a list of 0 stands where an object with the fields of Every belongs"),
        ("null", "null stands where an object"),
        ('{"inner": []}', "a list of 0 stands where an object"),
        ('{"i32": "1_0"}', "int32"),
        ('{"i32": "+1"}', "int32"),
        ('{"i32": "٣"}', "int32"),
        ('{"i32": "007"}', "int32"),
        ('{"phase": true}', "Phase"),
        ('{"single": true}', "float"),
        ('{"single": "1e39"}', "float"),
        ('{"double": "inf"}', "double"),
        ('{"double": " 1"}', "double"),
        ('{"data": "YQ==="}', "base64"),
        ('{"data": "é"}', "base64"),
        ('{"data": "Y W I"}', "base64"),
        ('{"data": "YWJj\\nYWJj"}', "base64"),
    ],
)
def test_what_only_protobufs_python_library_lets_pass(text: str, problem: str) -> None:
    with pytest.raises(CorruptError, match=problem):
        Message.from_json(EVERY, text)


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ('{"i32": 1}', "i32", "1 stands where a list, i32 being repeated, belongs"),
        ('{"i32": [1, null]}', "i32[1]", "null stands where a number of int32"),
        ('{"inner": [{}, {"i64": ["1", "1", "x"]}]}', "inner[1].i64[2]", '"x" stands where'),
        ('{"inner": {}}', "inner", "a list, inner being repeated,"),
        ('{"inner": [null]}', "inner[0]", "null stands where an object"),
        ('{"i32": [1, 2147483648]}', "i32[1]", "2147483648"),
        ('{"single": [1.5, 1e39]}', "single[1]", "1e+39"),
        ('{"i64": ["1", "9223372036854775808"]}', "i64[1]", "int64"),
        ('{"text": ["a", "\\udc80"]}', "text[1]", "surrogate"),
    ],
)
def test_where_a_list_is_wrong(text: str, place: str, problem: str) -> None:
    with pytest.raises(CorruptError) as caught:
        Message.from_json(MANY, text)
    assert str(caught.value).startswith(f"{place}: ")
    assert problem in str(caught.value)
    with pytest.raises(json_format.ParseError):
        json_format.Parse(text, THEIRS["Many"]())


def test_both_names_of_one_field() -> None:
    with pytest.raises(CorruptError, match="no second value of raw_data"):
        Message.from_json(NAMES_TABLE["Names"], '{"rawData": "", "raw_data": ""}')


def test_numbers_that_an_enum_does_not_name() -> None:
    """A closed enum keeps them out of protobuf's own messages; JSON can hold them."""
    message = Message.from_json(EVERY, '{"phase": 55}')
    assert message.phase == 55
    assert json.loads(message.to_json()) == {"phase": 55}
    open_one = Message(SCHEMAS3["Plain"], kind=7)
    assert json_format.MessageToJson(THEIRS["Plain"](kind=7)) == open_one.to_json()


def test_unknown_fields_can_be_found() -> None:
    inner = b"\x08\x01\xa8\x1f\x07"
    data = b"\x8a\x01\x05" + inner
    message = Message.parse(MANY, data + data + b"\xa8\x1f\x07\xa8\x1f\x07")
    assert list(find_unknown(message)) == [("", 6), ("inner[0]", 3), ("inner[1]", 3)]
    every = Message(MANY, every=Message(EVERY, inner=Message.parse(EVERY, inner)))
    assert list(find_unknown(every)) == [("every.inner", 3)]
    assert (
        every.to_json().split()
        == Message(MANY, every=Message(EVERY, inner=Message(EVERY, i32=1))).to_json().split()
    )
    assert not list(find_unknown(Message(MANY, i32=[1])))


def test_bytes_that_are_not_text() -> None:
    message = Message(MANY, inner=[Message(MANY), Message(MANY, text=["a", "\udcff"])])
    with pytest.raises(ArgumentError, match=r"^inner\[1\]\.text\[1\] holds bytes that are not UTF"):
        message.to_json()
    with pytest.raises(ArgumentError, match=r"^every\.text holds"):
        b"".join(json_chunks(Message(MANY, every=Message(EVERY, text="\udc80"))))


def test_a_list_that_was_changed_for_the_worse() -> None:
    message = Message(MANY, text=["a"])
    message.text.append(5)
    with pytest.raises(ArgumentError, match="text is string, not int"):
        message.to_json()


def test_bytes_of_text() -> None:
    assert Message.from_json(EVERY, '\ufeff{"i32": 1}').i32 == 1
    assert Message.from_json(EVERY, b'\xef\xbb\xbf{"text": "\xc3\xa9"}').text == "é"
    with pytest.raises(CorruptError, match="not UTF-8 at byte 10"):
        Message.from_json(EVERY, b'{"text": "\xff"}')
    with pytest.raises(CorruptError, match="half a surrogate pair"):
        Message.from_json(EVERY, '{"text": "\udc80"}')


@pytest.mark.parametrize("size", [0, 1, 2, 3, (3 << 20) - 1, 3 << 20, (3 << 20) + 1, 7 << 20])
def test_bytes_in_pieces(size: int, tmp_path: Path) -> None:
    data = np.random.default_rng(size).bytes(size)
    path = tmp_path / "m"
    path.write_bytes(Message(EVERY, data=data).encode())
    source = FileSource(path)
    for message in (
        Message.parse(EVERY, source),
        Message(EVERY, data=memoryview(data)),
        Message(EVERY, data=MemorySource(data)),
    ):
        text = message.to_json()
        assert json.loads(text)["data"] == base64.b64encode(data).decode()
        assert b"".join(json_chunks(message)).decode() == text
        assert Message.from_json(EVERY, text).data == data
        assert Message.from_json(EVERY, text.replace("+", "-").replace("/", "_")).data == data
    source.close()


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(Message(MANY, data=[bytes(64 << 20)], every=Message(EVERY)).encode())
    source = FileSource(path)
    tracemalloc.start()
    size = sum(map(len, json_chunks(Message.parse(MANY, source))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    source.close()
    assert size > (64 << 20) * 4 // 3
    assert peak < 24 << 20


def test_many_numbers() -> None:
    numbers = np.arange(100_000)
    message = Message(MANY, i64=numbers, single=numbers / 7, flag=numbers % 2 == 0)
    text = message.to_json()
    assert text == json_format.MessageToJson(THEIRS["Many"].FromString(message.encode()))
    assert Message.from_json(MANY, text) == message


@pytest.mark.parametrize("depth", [99, 100, 101])
def test_depth(depth: int) -> None:
    text = '{"inner": ' * depth + "{}" + "}" * depth
    made = Message(EVERY)
    for _ in range(depth):
        made = Message(EVERY, inner=made)
    if depth <= 100:
        assert Message.from_json(EVERY, text) == made
        assert Message.from_json(EVERY, made.to_json()) == made
        return
    with pytest.raises(CorruptError, match="nothing, 100 levels deep, belongs"):
        Message.from_json(EVERY, text)
    with pytest.raises(ArgumentError, match="100 levels"):
        made.to_json()
    with pytest.raises(ArgumentError, match="100 levels"):
        list(find_unknown(made))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"inner":' * 200_000,
        '{"i32": ' + "9" * 200_000 + "}",
        '{"i32": "' + "9" * 200_000 + '"}',
        '{"double": "1' + "0" * 200_000 + '"}',
        '{"double": ' + "1" * 200_000 + "x}",
        '{"' + "x" * 200_000 + '": 1}',
        '{"text": "' + "a" * 200_000,
        '{"data": "' + "=" * 200_000 + '"}',
        '{"data": [' + "[]," * 100_000 + "[]]}",
    ],
)
def test_long_texts_that_are_wrong(text: str) -> None:
    with pytest.raises(CorruptError) as caught:
        Message.from_json(EVERY, text)
    assert len(str(caught.value)) < 400


def test_a_text_of_almost_nothing_but_objects() -> None:
    with pytest.raises(UnsafeError, match="nothing but empty objects"):
        Message.from_json(MANY, '{"inner": [' + "{}," * 200_000 + "{}]}")
    few = Message.from_json(MANY, '{"inner": [' + "{}," * 60_000 + "{}]}")
    assert len(few.inner) == 60_001
    braces = "{" * 200_000
    assert Message.from_json(EVERY, f'{{"text": "{braces}"}}').text == braces


def cut(text: str, start: int, stop: int, new: str) -> Any:
    try:
        return Message.from_json(MANY, text[:start] + new + text[stop:]).to_json()
    except CorruptError:
        return None


def test_every_truncation_and_every_other_character() -> None:
    text = (
        '{"i32": [1], "single": [1.5e-3, "NaN"], "text": ["a\\n\\u0041"], "phase": ["TEST"],'
        ' "every": {"flag": true, "data": "YQ=="}, "i64": ["1", -2]}'
    )
    assert cut(text, 0, 0, "") is not None
    for start in range(len(text)):
        cut(text, start, len(text), "")
        for new in ("", "{", "}", '"', "\\", "0", "-", "\x00", "[", ",", ":", "é", "\ud800"):
            cut(text, start, start + 1, new)
