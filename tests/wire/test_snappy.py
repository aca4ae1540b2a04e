from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.wire.snappy import unpack


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def literal(data: bytes) -> bytes:
    size = len(data) - 1
    if size < 60:
        return bytes([size << 2]) + data
    extra = (size.bit_length() + 7) // 8
    return bytes([(59 + extra) << 2]) + size.to_bytes(extra, "little") + data


def copy(back: int, count: int) -> bytes:
    if 4 <= count <= 11 and back < 2048:
        return bytes([1 | (count - 4) << 2 | back >> 8 << 5, back & 255])
    if back < 1 << 16:
        return bytes([2 | (count - 1) << 2]) + back.to_bytes(2, "little")
    return bytes([3 | (count - 1) << 2]) + back.to_bytes(4, "little")


ELEMENTS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=300),
        st.tuples(st.integers(1, 100_000), st.integers(1, 64)),
    ),
    max_size=20,
)


@given(ELEMENTS, st.integers(0, 70_000))
def test_elements_make_what_they_say(elements: list[bytes | tuple[int, int]], ahead: int) -> None:
    out = bytearray(b"abc" * (ahead // 3))
    packed = literal(bytes(out)) if out else b""
    for element in elements:
        if isinstance(element, bytes):
            out += element
            packed += literal(element)
        elif out:
            back, count = (element[0] - 1) % len(out) + 1, element[1]
            for _ in range(count):
                out.append(out[-back])
            packed += copy(back, count)
    assert unpack(varint(len(out)) + packed, 1 << 20, "here") == bytes(out)


@pytest.mark.parametrize(
    ("packed", "problem"),
    [
        (b"", "no length"),
        (b"\xff" * 6, "no length"),
        (varint(5), "makes 0 bytes, not 5"),
        (varint(3) + literal(b"abcd"), "ends early"),
        (varint(4) + literal(b"abcd")[:-1], "ends early"),
        (varint(4) + b"\xf0", "ends early"),
        (varint(9) + copy(1, 9), "copies from outside"),
        (varint(9) + literal(b"a") + copy(2, 8), "copies from outside"),
        (varint(9) + literal(b"a") + b"\x1d\x00", "copies from outside"),  # from 0 back
        (varint(5) + literal(b"a") + copy(1, 8), "copies from outside"),
        (varint(65) + literal(b"a") + copy(1, 64)[:2], "copies from outside"),
        (varint(1 << 30) + literal(b"a"), "cannot make 1,073,741,824"),
        (varint(1 << 34) + literal(b"a"), "cannot make"),
    ],
)
def test_damage_is_found(packed: bytes, problem: str) -> None:
    with pytest.raises(CorruptError, match=problem):
        unpack(packed, 1 << 20, "here")


def test_a_bomb_is_refused_by_its_length() -> None:
    packed = literal(b"a") + copy(1, 64) * 1000
    with pytest.raises(UnsafeError, match="64,001 bytes is over the limit of 64,000"):
        unpack(varint(64_001) + packed, 64_000, "here")
    assert unpack(varint(64_001) + packed, 64_001, "here") == b"a" * 64_001


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with contextlib.suppress(CorruptError, UnsafeError):
        assert len(unpack(data, 1000, "here")) <= 1000
