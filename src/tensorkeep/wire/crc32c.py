"""CRC-32C (Castagnoli), the checksum of LevelDB's tables and of what TensorFlow writes.

A library in C is used where one is installed; otherwise NumPy takes many stretches of the data side
by side, four bytes a step, and joins their remainders in pairs. Files hold it "masked", since the
CRC of data that holds its own CRC is no good check.

The polynomial and the reflected bit order: RFC 3720, section 12.1. The mask: LevelDB's `crc32c.h`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import MissingDependencyError
from tensorkeep.optional import require

_POLYNOMIAL = 0x82F63B78
_ONES = 0xFFFFFFFF
_MASK = 0xA282EAD8
_LANE = 128  # bytes that are taken one after another before lanes are joined
_BLOCK = 1 << 20
_SMALL = 1 << 10  # fewer bytes are quicker one by one

Words = npt.NDArray[np.uint32]


def crc32c(data: bytes | bytearray | memoryview, before: int = 0) -> int:
    """Give the CRC-32C of `data`, or of what has the CRC `before` followed by `data`.

    >>> hex(crc32c(b"123456789")), hex(crc32c(b"6789", crc32c(b"12345")))
    ('0xe3069283', '0xe3069283')
    """
    native = _native()
    return native(data, before) if native is not None else portable(data, before)


def crc32c_of(pieces: Iterable[memoryview]) -> int:
    """Give the CRC-32C of pieces that follow one another."""
    found = 0
    for piece in pieces:
        found = crc32c(piece, found)
    return found


def mask(crc: int) -> int:
    """Give a CRC as it is kept in a file.

    >>> hex(mask(0xE3069283)), unmask(mask(7))
    ('0xc78ab0e5', 7)
    """
    return ((crc >> 15 | crc << 17) + _MASK) & _ONES


def unmask(kept: int) -> int:
    """Give the CRC that a file keeps masked."""
    turned = (kept - _MASK) & _ONES
    return (turned >> 17 | turned << 15) & _ONES


@cache
def _native() -> Callable[[bytes | bytearray | memoryview, int], int] | None:
    """Find a library for it that is written in C."""
    for module in ("crc32c", "google_crc32c"):
        try:
            library: Any = require(module, "a quick CRC-32C needs it", "None is needed.")
        except MissingDependencyError:
            continue
        if module == "crc32c":
            return lambda data, before: int(library.crc32c(data, before))
        if library.implementation == "c":
            return lambda data, before: int(library.extend(before, bytes(data)))
    return None


def portable(data: bytes | bytearray | memoryview, before: int = 0) -> int:
    """Give the same as `crc32c`, with NumPy alone."""
    view = memoryview(data).cast("B")
    state = before ^ _ONES
    for start in range(0, view.nbytes, _BLOCK):
        piece = view[start : start + _BLOCK]
        state = _bytewise(piece, state) if piece.nbytes < _SMALL else _lanes(piece, state)
    return state ^ _ONES


def _bytewise(data: memoryview, state: int) -> int:
    table = _byte_list()
    for byte in data:
        state = table[(state ^ byte) & 255] ^ state >> 8
    return state


def _lanes(data: memoryview, state: int) -> int:
    """Take a block as a power of two of lanes; zeros in front of the first byte change nothing."""
    lanes = 1
    while lanes * _LANE < data.nbytes:
        lanes *= 2
    padded = np.zeros(lanes * _LANE, np.uint8)
    first = padded.size - data.nbytes
    padded[first:] = np.frombuffer(data, np.uint8)
    padded[first : first + 4] ^= np.frombuffer(state.to_bytes(4, "little"), np.uint8)
    steps = np.ascontiguousarray(padded.view("<u4").reshape(lanes, -1).T).astype(np.uint32)
    low, high = _word_tables()
    states = np.zeros(lanes, np.uint32)
    for words in steps:
        states ^= words
        states = low[states & 0xFFFF] ^ high[states >> 16]
    level = 0
    while states.size > 1:
        states = _behind(level, states[0::2]) ^ states[1::2]
        level += 1
    return int(states[0])


def _behind(level: int, states: Words) -> Words:
    """Give states after as many zero bytes as 2 ** level lanes have."""
    tables = _zero_tables(level)
    found: Words = tables[0][states & 255]
    for place in range(1, 4):
        found = found ^ tables[place][states >> (8 * place) & 255]
    return found


@cache
def _byte_table() -> Words:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ _POLYNOMIAL, table >> 1).astype(np.uint32)
    return table


@cache
def _byte_list() -> list[int]:
    return [int(entry) for entry in _byte_table()]


@cache
def _word_tables() -> tuple[Words, Words]:
    """What four more bytes make of the lower and of the upper half of a state."""
    table = _byte_table()
    halves = np.arange(1 << 16, dtype=np.uint32)
    high: Words = halves << np.uint32(16)
    low: Words = halves
    for _ in range(4):
        low = table[low & 255] ^ low >> 8
        high = table[high & 255] ^ high >> 8
    return low, high


@cache
def _zero_tables(level: int) -> Words:
    """What 2 ** level lanes of zeros make of each byte of a state, by its place."""
    states = (
        np.arange(256, dtype=np.uint32)[None] << (8 * np.arange(4, dtype=np.uint32))[:, None]
    ).astype(np.uint32)
    if level == 0:
        table = _byte_table()
        for _ in range(_LANE):
            states = table[states & 255] ^ states >> 8
        return states
    return _behind(level - 1, _behind(level - 1, states))
