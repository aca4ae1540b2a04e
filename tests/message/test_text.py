from __future__ import annotations

import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from tests.message.reference import SCHEMAS, message_classes

from tensorkeep.errors import CorruptError
from tensorkeep.message import Message, schemas
from tensorkeep.message.text import text_chunks
from tensorkeep.source import FileSource, MemorySource

EVERY, MANY = SCHEMAS["Every"], SCHEMAS["Many"]
THEIRS = message_classes(SCHEMAS)


def test_how_it_looks() -> None:
    message = Message(
        MANY,
        i32=[1, -2],
        flag=[True],
        phase=["TEST", 55],
        text=["a\"'\\\n\té\x7f\x01", "\udcff"],
        data=["é".encode() + b"\x00"],
        inner=[Message(MANY), Message(MANY, i64=[3])],
        every=Message(EVERY, single=0.1, double=0.1, inner=Message(EVERY, f64=2**64 - 1)),
    )
    assert message.to_text() == (
        "i32: 1\ni32: -2\nflag: true\nphase: TEST\nphase: 55\n"
        'text: "a\\"\\\'\\\\\\n\\té\\177\\001"\ntext: "\\377"\ndata: "\\303\\251\\000"\n'
        "inner {\n}\ninner {\n  i64: 3\n}\n"
        "every {\n  single: 0.1\n  double: 0.1\n  inner {\n    f64: 18446744073709551615\n  }\n}\n"
    )
    assert Message.from_text(MANY, message.to_text()) == message
    assert Message(MANY).to_text() == ""


def test_unknown_fields_are_noted() -> None:
    message = Message.parse(EVERY, b"\x08\x01\xa8\x1f\x07")
    assert message.to_text() == "i32: 1\n# 3 bytes of unknown fields\n"
    assert Message.from_text(EVERY, message.to_text()) == Message(EVERY, i32=1)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (1e-45, "1.4013e-45"),
        (3.4028234663852886e38, "3.4028235e+38"),
        (16777216.0, "16777216.0"),
        (1 / 3, "0.33333334"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_floats_in_as_few_digits_as_read_back(value: float, text: str) -> None:
    assert Message(EVERY, single=value).to_text() == f"single: {text}\n"
    again = Message.from_text(EVERY, f"single: {text}")
    assert again.encode() == Message(EVERY, single=value).encode()


SAME = [
    "i32: 0x1F i64: -0x1f, u32: 017; s32: -0",
    "i32:5,i64:6;",
    "i64: 9223372036854775807 i32: -2147483648 u64: 0xFFFFFFFFFFFFFFFF",
    "single: 1 double: .5",
    "single: 1.5f double: 2.F",
    "double: 1e3 single: -1E-3",
    "single: inf double: -Infinity",
    "single: nan double: -inf",
    "single: 1e39 double: 1e400",
    "single: inff",
    "flag: true",
    "flag: t",
    "flag: 1",
    "flag: False",
    "phase: TRAIN",
    "phase: -7",
    "text: 'it''s' \"one\"\n  'string'",
    r"""text: "\a\b\f\n\r\t\v\\\'\"" """,
    r'text: "\101\x41\x4a\u00e9\U0001F600\1"',
    r"data: '\377\x0\000'",
    "# a comment\ni32: 1 # another\n#",
    "inner { i32: 1 } ",
    "inner: { i32: 1 inner < i64: 2 > }",
    "inner {} one: 3",
    "\n\n",
    "",
]


@pytest.mark.parametrize("text", SAME)
def test_what_protobuf_reads(text: str) -> None:
    theirs = text_format.Parse(text, THEIRS["Every"]())
    ours = Message.from_text(EVERY, text)
    assert ours.encode() == theirs.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "text",
    [
        "i32: [1, 2, 3] i32: 4 i32: []",
        "inner [{i32: 1}, {i32: 2}] inner {} inner: [<>]",
        "text: ['a', \"b\" 'c'] phase: [TEST, 0]",
        "single: 1\n" * 50 + "single: 1.5 single: -inf\n" + "single: 2e-3\n" * 10,
        "i64: 7\n" * 10 + "i64: 0x10\n" + "i64: -7\n" * 10 + "i32: 1",
        "i64: 5\n" * 10 + "i64: 6",
        "i64: 5 , " * 10,
    ],
)
def test_lists_that_protobuf_reads(text: str) -> None:
    theirs = text_format.Parse(text, THEIRS["Many"]())
    ours = Message.from_text(MANY, text)
    assert ours.encode() == theirs.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("i32: 1\n  i33: 2", "line 2, column 3", "'i33:' is no field of Every"),
        ("i32 1", "line 1, column 5", "'1' stands where ':' belongs"),
        ("i32: 1 i32: 2", "line 1, column 13", "second value of i32"),
        ("i32: 2147483648", "line 1, column 6", "no value of int32 i32"),
        ("i32: 1.0", "line 1, column 6", "no value"),
        ("i32:5i64:6", "line 1, column 5", "'5i64:6' is no value"),
        ("i32: 08", "line 1, column 6", "no value"),
        ("i32: x", "line 1, column 6", "no value"),
        ("i32: " + "9" * 10_000, "line 1, column 6", "no value"),
        ("u32: -1", "line 1, column 6", "no value"),
        ("flag: yes", "line 1, column 7", "no value of bool"),
        ("phase: NONE", "line 1, column 8", "no value of enum"),
        ("single: 0x10", "line 1, column 9", "no value"),
        ("single: 1..5", "line 1, column 9", "no value"),
        ("single: 1e", "line 1, column 9", "no value"),
        ("single: 'a'", "line 1, column 9", "no value"),
        ("text: a", "line 1, column 7", "where a string belongs"),
        ("text: 'a", "line 1, column 7", "does not end on its line"),
        ("text: 'a\n'", "line 1, column 7", "does not end on its line"),
        ("text: '\\q'", "line 1, column 7", "no escape"),
        ("data: '\\400'", "line 1, column 7", "is no string"),
        ("text: '\\ud800'", "line 1, column 7", "is no string"),
        ("text: '\\U00110000'", "line 1, column 7", "is no string"),
        ("inner {", "line 1, column 8", "the end stands where a field of Every or '}' belongs"),
        ("inner < }", "line 1, column 9", "or '>' belongs"),
        ("}", "line 1, column 1", "where a field of Every belongs"),
        ("inner: 3", "line 1, column 8", "where '{' belongs"),
        ("inner {} inner {}", "line 1, column 16", "second value of inner"),
        ("i32: [1]", "line 1, column 6", "no value"),
        ("[ext]: 3", "line 1, column 1", "where a field"),
        ("5: 3", "line 1, column 1", "where a field"),
        ("i32: 1 é", "line 1, column 8", "cannot be read"),
        ("i32: -", "line 1, column 6", "cannot be read"),
        ("inner { " * 101, "line 1, column 809", "100 levels"),
        ("\n\n\x00", "line 3, column 1", "cannot be read"),
    ],
)
def test_where_a_text_is_wrong(text: str, place: str, problem: str) -> None:
    with pytest.raises(CorruptError) as caught:
        Message.from_text(EVERY, text, where="net.pbtxt")
    assert str(caught.value).startswith(f"net.pbtxt, {place}: ")
    assert problem in str(caught.value)
    with pytest.raises((text_format.ParseError, ValueError, DeprecationWarning)):
        text_format.Parse(text, THEIRS["Every"](), max_recursion_depth=101)


@pytest.mark.parametrize(
    "text", ["i32: [1, 2", "i32: [1,]", "i32: [1 2]", "inner: [{]", "i64: 1\n" * 9 + "i64: 1" * 2]
)
def test_lists_that_do_not_end(text: str) -> None:
    with pytest.raises(CorruptError):
        Message.from_text(MANY, text)
    with pytest.raises(text_format.ParseError):
        text_format.Parse(text, THEIRS["Many"]())


def test_a_number_out_of_range_among_many() -> None:
    text = "i32: 1\n" * 1000 + "i32: 2147483648\n" + "i32: 1\n" * 1000
    with pytest.raises(CorruptError, match=r"line 1001, column 6.*int32 i32"):
        Message.from_text(MANY, text)


def test_names_that_changed() -> None:
    device = schemas("Device\n  1 type int32\n  2 id int32 alias gpu_id")["Device"]
    assert Message.from_text(device, "gpu_id: 3").to_text() == "id: 3\n"
    with pytest.raises(CorruptError, match="second value of id"):
        Message.from_text(device, "gpu_id: 3 id: 3")


def test_bytes_of_text() -> None:
    assert Message.from_text(EVERY, "\ufeffi32: 1").i32 == 1
    assert Message.from_text(EVERY, b"\xef\xbb\xbftext: '\xc3\xa9'").text == "é"
    with pytest.raises(CorruptError, match="not UTF-8 at byte 7"):
        Message.from_text(EVERY, b"text: '\xff'")
    with pytest.raises(CorruptError, match="is no string"):
        Message.from_text(EVERY, "text: '\ud800'")


@pytest.mark.parametrize("text", ["#" * 300_000, "# a\n" * 100_000, " " * 300_000])
def test_long_gaps(text: str) -> None:
    assert Message.from_text(EVERY, text + "\ni32: 1").i32 == 1
    with pytest.raises(CorruptError, match="cannot be read"):
        Message.from_text(EVERY, text + "\n%")


@pytest.mark.parametrize(
    "text",
    [
        "-" * 200_000,
        "double: 1" + "e" * 200_000,
        "single: " + "1" * 200_000 + "x",
        "inner: [" * 50_000,
        "text: '" + "\\'" * 100_000,
        "x" * 200_000,
    ],
)
def test_long_texts_that_are_wrong(text: str) -> None:
    with pytest.raises(CorruptError) as caught:
        Message.from_text(EVERY, text)
    assert len(str(caught.value)) < 400


def test_a_string_in_many_pieces() -> None:
    assert Message.from_text(EVERY, "text: " + "'a'" * 30_000).text == "a" * 30_000


@pytest.mark.parametrize("size", [0, 63, 64, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_bytes_in_pieces(size: int, tmp_path: Path) -> None:
    data = np.random.default_rng(size).bytes(size)
    path = tmp_path / "m"
    path.write_bytes(Message(EVERY, data=data).encode())
    source = FileSource(path)
    theirs = text_format.MessageToString(THEIRS["Every"](data=data))
    for message in (
        Message.parse(EVERY, source),
        Message(EVERY, data=memoryview(data)),
        Message(EVERY, data=MemorySource(data)),
    ):
        assert message.to_text() == b"".join(text_chunks(message)).decode() == theirs
    assert Message.from_text(EVERY, theirs).data == data
    source.close()


def test_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(Message(MANY, data=[bytes(64 << 20)], every=Message(EVERY)).encode())
    source = FileSource(path)
    tracemalloc.start()
    size = sum(map(len, text_chunks(Message.parse(MANY, source))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    source.close()
    assert size > 4 * 64 << 20
    assert peak < 32 << 20


def cut(text: str, start: int, stop: int, new: str) -> Any:
    try:
        return Message.from_text(MANY, text[:start] + new + text[stop:]).to_text()
    except CorruptError:
        return None


def test_every_truncation_and_every_other_character() -> None:
    text = (
        'i32: 1\nsingle: 1.5e-3\ntext: "a\\n\\x41"\nphase: TEST\n'
        "every {\n  flag: true\n  inner < text: 'é' >\n}\ni64: [1, -2];\n# end\n"
    )
    assert cut(text, 0, 0, "") is not None
    for start in range(len(text)):
        cut(text, start, len(text), "")
        for new in ("", "{", "}", '"', "\\", "0", "-", "\x00", "[", "#", ":"):
            cut(text, start, start + 1, new)
