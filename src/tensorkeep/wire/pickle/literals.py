"""The operands of a pickle's instructions, and those instructions that push a plain value."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from tensorkeep.wire.pickle.stack import CutShortError, Stack

_MAX_DIGITS = 4300  # of a number in decimal, which takes the square of its length to read
_MAX_LINE = 1 << 16
_from_bytes = int.from_bytes

# What an instruction does: takes the stack and where its operand starts, gives where that ends.
Step = Callable[[Stack, int], int]

# An operand of fixed width that is cut short is found at the next instruction, which is not there.


# --- operands -----------------------------------------------------------------------------------


def take(m: Stack, at: int, stop: int) -> bytes:
    """Give the bytes from `at` to `stop`, which have to be there."""
    if stop > m.size:
        raise CutShortError("its pickle ends early", where=m.where, cure="It is cut short.")
    return m.data[at:stop]


def sized(m: Stack, at: int, width: int) -> tuple[bytes, int]:
    """Read a length of `width` bytes, and as many bytes behind it."""
    start = at + width
    stop = start + int.from_bytes(take(m, at, start), "little")
    return take(m, start, stop), stop


def line(m: Stack, at: int, most: int = _MAX_LINE) -> tuple[bytes, int]:
    """Give what comes before the end of the line, and where the next one starts."""
    stop = m.data.find(b"\n", at, at + most)
    if stop < 0:
        if at + most < m.size:
            raise m.broken(f"has a line of over {most:,} bytes")
        raise CutShortError("its pickle ends early", where=m.where, cure="It is cut short.")
    return m.data[at:stop], stop + 1


def text_line(m: Stack, at: int) -> tuple[str, int]:
    """Give a line as text, and where the next one starts."""
    raw, at = line(m, at)
    return raw.decode(), at


# --- plain values -------------------------------------------------------------------------------


def constant(value: Any) -> Step:
    """Push a value that never changes."""

    def step(m: Stack, at: int) -> int:
        m.items.append(value)
        return at

    return step


def fresh(kind: Callable[[], Any]) -> Step:
    """Push a new, empty container."""

    def step(m: Stack, at: int) -> int:
        m.items.append(kind())
        return at

    return step


def integer(width: int, *, signed: bool = False) -> Step:
    """Push an integer of so many bytes."""

    def step(m: Stack, at: int) -> int:
        stop = at + width
        m.items.append(_from_bytes(m.data[at:stop], "little", signed=signed))
        return stop

    return step


def binint1(m: Stack, at: int) -> int:
    """Push an integer of one byte."""
    m.items.append(m.data[at])
    return at + 1


def int_line(m: Stack, at: int) -> int:
    """Push an integer in decimal; 00 and 01 are bools."""
    raw, at = line(m, at, _MAX_DIGITS)
    m.items.append(raw == b"01" if raw in (b"00", b"01") else int(raw, 0))
    return at


def long_line(m: Stack, at: int) -> int:
    """Push an integer in decimal, as Python 2 wrote long ones."""
    raw, at = line(m, at, _MAX_DIGITS)
    m.items.append(int(raw.removesuffix(b"L"), 0))
    return at


def long1(m: Stack, at: int) -> int:
    """Push an integer of up to 255 bytes."""
    raw, at = sized(m, at, 1)
    m.items.append(int.from_bytes(raw, "little", signed=True))
    return at


def long4(m: Stack, at: int) -> int:
    """Push an integer of any length."""
    raw, at = sized(m, at, 4)
    m.items.append(int.from_bytes(raw, "little", signed=True))
    return at


def float_line(m: Stack, at: int) -> int:
    """Push a float in decimal."""
    raw, at = line(m, at, _MAX_DIGITS)
    m.items.append(float(raw))
    return at


def binfloat(m: Stack, at: int) -> int:
    """Push a float of 8 bytes, big endian."""
    m.items.extend(struct.unpack(">d", take(m, at, at + 8)))
    return at + 8


def binunicode(m: Stack, at: int) -> int:
    """Push text behind its length in 4 bytes."""
    start = at + 4
    stop = start + int.from_bytes(m.data[at:start], "little")
    if stop > m.size:
        take(m, start, stop)
    m.items.append(m.data[start:stop].decode("utf-8", "surrogatepass"))
    return stop


def sized_text(width: int) -> Step:
    """Push text behind its length."""

    def step(m: Stack, at: int) -> int:
        raw, at = sized(m, at, width)
        m.items.append(raw.decode("utf-8", "surrogatepass"))
        return at

    return step


def unicode_line(m: Stack, at: int) -> int:
    """Push text with escapes."""
    raw, at = line(m, at, m.size)
    m.items.append(raw.decode("raw-unicode-escape"))
    return at


def sized_bytes(width: int, kind: type[bytes | bytearray] = bytes) -> Step:
    """Push bytes behind their length."""

    def step(m: Stack, at: int) -> int:
        raw, at = sized(m, at, width)
        m.items.append(kind(raw))
        return at

    return step


def _old_text(raw: bytes) -> str | bytes:
    """Give what Python 2 called a string: text where it is UTF-8, else bytes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def string_line(m: Stack, at: int) -> int:
    """Push a string of Python 2, quoted as in its source."""
    raw, at = line(m, at, m.size)
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b'"', b"'"):
        raise m.broken("has text without quotes")
    m.items.append(_old_text(bytes(codecs.escape_decode(raw[1:-1])[0])))
    return at


def short_binstring(m: Stack, at: int) -> int:
    """Push a string of Python 2 behind its length in 1 byte."""
    raw, at = sized(m, at, 1)
    m.items.append(_old_text(raw))
    return at


def binstring(m: Stack, at: int) -> int:
    """Push a string of Python 2 behind its length in 4 bytes."""
    raw, at = sized(m, at, 4)
    m.items.append(_old_text(raw))
    return at
