from __future__ import annotations

import json
import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.wire.text import Part, dump_json, parse_json, quote, show, write_json

DEEP = 100_000

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def pretty(value: Any, indent: int = 2) -> str:
    return "".join(write_json(value, " " * indent, "the test"))


@given(values)
@settings(max_examples=200, deadline=None)
def test_both_writers_give_back_the_value(value: Any) -> None:
    for text in (dump_json(value), pretty(value), pretty(value, 0)):
        back = parse_json(text.encode(), "the test")
        assert json.dumps(back) == json.dumps(value)  # which tells 1, 1.0, True and -0.0 apart


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "broken at character 0"),
        (b'{"a": 1', "broken at character 7"),
        (b'{"a": 1} {', "broken at character 9"),
        (b"{'a': 1}", "broken at character 1"),
        (b'{"a": 1, "b": {"c": 2, "c": 3}}', "gives 'c' twice"),
        (b'{"a": 1, "\\u0061": 2}', "gives 'a' twice"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b'"\x01"', "broken at character 1"),
        (b"[NaN]", "NaN is not a JSON number"),
        (b"-Infinity", "-Infinity is not a JSON number"),
        (b"[" * DEEP, "nested too deeply"),
        (b'{"a":' * DEEP, "nested too deeply"),
        (b"[" * DEEP + b"]" * DEEP, "nested too deeply"),
        (b"9" * 10**6, "cannot be read"),
    ],
)
def test_what_is_not_json_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(CorruptError, match=problem) as caught:
        parse_json(data, "run/state.json", "index")
    assert str(caught.value).startswith("run/state.json: the index ")


def test_a_huge_duplicate_key_does_not_fill_the_message() -> None:
    key = json.dumps("k" * 100_000)
    with pytest.raises(CorruptError) as caught:
        parse_json(f"{{{key}: 1, {key}: 2}}", "x")
    assert len(str(caught.value)) < 200


def test_text_memory_and_bytes_parse_alike() -> None:
    data = '{"ü": "\U0001f600", "n": 1}'.encode()
    expected = {"ü": "\U0001f600", "n": 1}
    assert parse_json(data, "x") == expected
    assert parse_json(memoryview(data), "x") == expected
    assert parse_json(data.decode(), "x") == expected


def test_compact_text_keeps_characters_and_order() -> None:
    assert dump_json({"b": "ü", "a": [1, None]}) == '{"b":"ü","a":[1,null]}'


def test_compact_text_refuses_what_no_reader_could_follow() -> None:
    value: Any = 1
    for _ in range(DEEP):
        value = [value]
    with pytest.raises(UnsupportedError, match="nested too deeply"):
        dump_json(value)
    with pytest.raises(UnsupportedError, match="levels deep"):
        pretty(value)


@pytest.mark.parametrize("text", ["", 'a"b\\c\n\x00', "é\U0001f600", "\udc80", "é\udcff\U0001f600"])
def test_quoted_text_is_utf8_and_reads_back(text: str) -> None:
    assert json.loads(quote(text).encode().decode()) == text
    assert json.loads(dump_json({text: text}).encode().decode()) == {text: text}


def test_text_that_json_would_change_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="two surrogates"):
        quote("\ud83d\ude00")  # reads back as one character


def test_layout() -> None:
    def tensor(line: str) -> Iterator[str]:
        yield f"<{line}>"

    value = {
        "empty": [{}, []],
        "row": [1, 2.5, "x", None, True],
        "pair": ["key", {"a": 1}],
        "long": [1, [2], [3], [4]],
        "tuple": {"$tuple": [[1], [2]]},
        "leaf": {"$array": Part(tensor), "framework": "jax"},
    }
    assert pretty(value) == (
        "{\n"
        '  "empty": [\n'
        "    {},\n"
        "    []\n"
        "  ],\n"
        '  "row": [1, 2.5, "x", null, true],\n'
        '  "pair": ["key", {\n'
        '    "a": 1\n'
        "  }],\n"
        '  "long": [\n'
        "    1,\n"
        "    [2],\n"
        "    [3],\n"
        "    [4]\n"
        "  ],\n"
        '  "tuple": {"$tuple": [\n'
        "    [1],\n"
        "    [2]\n"
        "  ]},\n"
        '  "leaf": {"$array": <\n'
        '  >, "framework": "jax"}\n'
        "}"
    )


@pytest.mark.parametrize(
    "value",
    [
        {1: 2},
        {"a": {None: 1}},
        [math.nan],
        {"a": -math.inf},
        (1, 2),
        {"a": ()},
        {"a": {1, 2}},
        [b"x"],
        [object],
        [np.float64(1)],
        {"a": OrderedDict(b=1)},
        [10**5000],
        "\ud83d\ude00",
        {"\ud83d\ude00": 1},
    ],
    ids=lambda value: ascii(type(value)),
)
def test_both_writers_refuse_what_would_not_come_back(value: Any) -> None:
    for write in (dump_json, pretty):
        with pytest.raises(UnsupportedError, match="cannot be written as JSON"):
            write(value)


def test_pretty_text_refuses_a_container_that_holds_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(UnsupportedError, match="levels deep"):
        pretty(loop)


def test_show_is_short() -> None:
    assert show([1] * 1000) == "a list of 1000"
    assert show({"a": 1}) == "an object of 1"
    assert show("a") == "'a'"
    assert len(show("\x00" * 10_000)) <= 60
    assert len(show(10**4000)) <= 60
