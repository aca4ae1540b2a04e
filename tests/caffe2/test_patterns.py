from __future__ import annotations

import ctypes
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep.caffe2 import format_string
from tensorkeep.errors import ArgumentError

INT64 = st.integers(-(2**63), 2**63 - 1)


def printf(pattern: str, number: int) -> str:
    buffer = ctypes.create_string_buffer(1024)
    libc = ctypes.CDLL(None)
    libc.snprintf(buffer, ctypes.c_size_t(1024), pattern.encode(), ctypes.c_longlong(number))
    return buffer.value.decode()


@given(
    number=INT64 | st.just(0),
    place=st.sampled_from(["", "1$"]),
    flags=st.text("-+ 0#", max_size=4),
    width=st.sampled_from(["", "1", "7", "24", "99"]),
    precision=st.sampled_from(["", ".", ".0", ".1", ".5", ".05", ".30"]),
    length=st.sampled_from(["l", "ll", "j", "z", "t"]),
    kind=st.sampled_from("diuxXo"),
)
def test_as_c_prints(
    number: int, place: str, flags: str, width: str, precision: str, length: str, kind: str
) -> None:
    pattern = f"a%%_%{place}{flags}{width}{precision}{length}{kind}.db"
    if kind in "uxXo" and set(flags) & set("+ "):
        return  # C does not say what these do with an unsigned conversion
    assert format_string(pattern, number) == printf(pattern, number)


@pytest.mark.parametrize(
    ("pattern", "number", "text"),
    [
        ("fixed", 5, "fixed"),
        ("a_%05d", 10, "a_00010"),
        ("b_%d.db", -3, "b_-3.db"),
        ("c%%_%x", 48, "c%_30"),
        ("d_%+03d", 2, "d_+02"),
        ("%d", 2**33 + 10, "8589934602"),
        ("%i", -(2**63), "-9223372036854775808"),
        ("%u", -1, "18446744073709551615"),
        ("%qd", 7, "7"),
        ("%Ld", 2**40, "1099511627776"),
        ("%1$#lx", 255, "0xff"),
        ("a%.ld", 0, "a"),
        ("%99d", 1, " " * 98 + "1"),
        ("x" * 255 + "%d", 7, "x" * 255 + "7"),
        ("", 7, ""),
        ("100%%", 7, "100%"),
    ],
)
def test_patterns(pattern: str, number: int, text: str) -> None:
    assert format_string(pattern, number) == text


@pytest.mark.parametrize(
    "pattern",
    [
        "%s",
        "%f",
        "%n",
        "%c",
        "%p",
        "%",
        "a%",
        "%d%d",
        "%*d",
        "%100d",
        "%.100d",
        "%2$d",
        "%hd",
        "%'d",
        "% ",
        "%lf",
        "%Lf",
        "%%%",
        "%5",
    ],
)
def test_unsafe_patterns(pattern: str) -> None:
    with pytest.raises(ArgumentError, match="%d"):
        format_string(pattern, 1)


@given(st.text(max_size=12), INT64)
def test_any_text_is_a_pattern_or_refused(pattern: str, number: int) -> None:
    try:
        found = format_string(pattern, number)
    except ArgumentError:
        return
    assert "%" not in found or "%%" in pattern


@pytest.mark.parametrize("number", [3.5, "3", None, 2**70, 2**63, -(2**63) - 1])
def test_what_is_no_iteration(number: Any) -> None:
    with pytest.raises(ArgumentError, match="no 64-bit integer"):
        format_string("%d", number)
