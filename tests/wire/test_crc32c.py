from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep.wire.crc32c import _native, crc32c, crc32c_of, mask, portable, unmask

# RFC 3720, B.4, and the usual check value.
VECTORS = {
    bytes(32): 0x8A9136AA,
    b"\xff" * 32: 0x62A8AB43,
    bytes(range(32)): 0x46DD794E,
    bytes(range(31, -1, -1)): 0x113FDB5C,
    b"123456789": 0xE3069283,
    b"": 0,
}
EITHER = pytest.mark.parametrize("crc", [crc32c, portable])


@EITHER
@pytest.mark.parametrize(("data", "expected"), VECTORS.items())
def test_known_values(crc: Callable[..., int], data: bytes, expected: int) -> None:
    assert crc(data) == expected


def bytewise(data: bytes, before: int = 0) -> int:
    """The definition, bit by bit."""
    state = before ^ 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


@EITHER
@pytest.mark.parametrize(
    "size", [1, 3, 4, 127, 1023, 1024, 1025, 1151, 1152, 1153, 4096, 10_000, 65_537]
)
def test_every_size_is_as_defined(crc: Callable[..., int], size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc(data) == bytewise(data)
    assert crc(memoryview(bytearray(data)), 0x12345678) == bytewise(data, 0x12345678)


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 * (1 << 20) + 1500])
def test_blocks_are_joined(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert portable(data) == crc32c(data)
    half = size // 2 + 1
    assert portable(data[half:], portable(data[:half])) == portable(data)
    assert crc32c_of([memoryview(data)[:half], memoryview(data)[half:]]) == portable(data)


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_parts_make_the_whole(data: bytes, cut: int) -> None:
    assert portable(data[cut:], portable(data[:cut])) == crc32c(data) == portable(data)


@given(st.integers(0, 2**32 - 1))
def test_masks_come_off(crc: int) -> None:
    assert unmask(mask(crc)) == crc != mask(crc)


@pytest.mark.parametrize("absent", [("crc32c",), ("google_crc32c",), ("crc32c", "google_crc32c")])
def test_any_library_or_none_gives_the_same(
    absent: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in absent:
        monkeypatch.setitem(sys.modules, module, None)
    _native.cache_clear()
    try:
        data = memoryview(bytearray(range(256)) * 9)
        assert crc32c(data, 7) == portable(data, 7) == bytewise(bytes(data), 7)
    finally:
        _native.cache_clear()


def test_it_is_quick_without_a_library() -> None:
    data = bytes(16 << 20)
    portable(data)
    start = time.perf_counter()
    portable(data)
    assert len(data) / (time.perf_counter() - start) > 30e6  # some 500e6 on an idle core
