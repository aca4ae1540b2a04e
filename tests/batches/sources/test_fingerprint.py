"""Fingerprints tell data apart, look at little of it, and cannot be confused by where parts end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep.data.fingerprint import combine, sampled
from tensorkeep.source import FileSource, MemorySource, Source

_PART = st.one_of(st.text(), st.binary(), st.integers())


class _Counting(Source):
    """Zeros, of which is counted how many are read."""

    def __init__(self, size: int) -> None:
        super().__init__(size, "zeros")
        self.read_bytes = 0

    def _read(self, start: int, stop: int) -> memoryview:
        self.read_bytes += stop - start
        return memoryview(bytes(stop - start))


@given(st.lists(_PART), st.lists(_PART))
def test_other_parts_give_another_digest(one: list[str], other: list[str]) -> None:
    same = [(type(part), part) for part in one] == [(type(part), part) for part in other]
    assert (combine(*one) == combine(*other)) is same
    assert len(combine(*one)) == 32


def test_stays_what_it_is() -> None:
    """States that were saved name data by it."""
    assert combine("image", 7, b"\0") == "d112c0d249eaec268163d09b2edc52b2"
    assert (
        sampled(MemorySource(bytes(range(256)) * 4000)).hex() == "3a80349a26fdd828186c233cac8919f7"
    )


@given(st.integers(0, 400 << 10))
def test_a_small_source_is_hashed_whole(at: int) -> None:
    data = bytearray(384 << 10)
    before = sampled(MemorySource(data))
    data[at % len(data)] ^= 1
    assert sampled(MemorySource(data)) != before


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 393216, 393217, 1 << 20, 1 << 40])
def test_little_is_read_of_a_large_source(size: int) -> None:
    source = _Counting(size)
    sampled(source)
    assert source.read_bytes <= min(size, 384 << 10)
    assert source.read_bytes == min(size, 384 << 10)


def test_size_start_and_end_count() -> None:
    data = np.zeros(1 << 20, np.uint8)
    digests = {sampled(MemorySource(data.data)), sampled(MemorySource(data[:-1].data))}
    for at in (0, 65535, len(data) - 65536, len(data) - 1):
        changed = data.copy()
        changed[at] = 1
        digests.add(sampled(MemorySource(changed.data)))
    assert len(digests) == 6


def test_a_file_and_its_bytes_give_the_same(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "data").write_bytes(data)
    source = FileSource(tmp_path / "data")
    assert sampled(source) == sampled(MemorySource(data))
    source.close()
