"""MXNet files that are damaged: there is no checksum, so that only our own errors are asked for."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from tests.data.mxnet.make_mxnet import CPU, FILES, V2, dense, shape, whole

import tensorkeep as tk
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore


def read(data: bytes) -> bool:
    """Read all there is; False where one of our errors came out."""
    location = Location(MemoryStore({"a.params": data}), "a.params")
    try:
        tk.load(location, copy=True)
    except TensorKeepError:
        return False
    return True


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_gives_arrays_or_an_error(name: str) -> None:
    data = FILES[name]
    assert read(data)
    found = 0
    for at in range(len(data)):
        for bit in range(8):
            found += not read(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
    assert found > len(data)  # what is not in the numbers shows


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_found(name: str) -> None:
    assert not any(read(FILES[name][:size]) for size in range(len(FILES[name])))


def refuse(data: bytes, match: str) -> None:
    with pytest.raises((CorruptError, UnsafeError), match=match):
        tk.open(Location(MemoryStore({"a.params": data}), "a.params"))


def test_counts_of_everything() -> None:
    for count in (2**60, 2**64 - 1, 500_001):
        refuse(struct.pack("<QQQ", 0x112, 0, count) + bytes(100), "is said to hold")
        refuse(whole([], [])[:-8] + struct.pack("<Q", count), "is said to hold")
        refuse(whole([], [])[:-8] + struct.pack("<QQ", 1, count), "a name of")


def test_shapes_of_everything() -> None:
    for sizes in [(2**62,), (2**31, 2**31, 2**31), (2**63 - 1,) * 32, (0, 2**63 - 1)]:
        refuse(whole([dense(sizes, 0, bytes(8))], ["w"]), "no array|but there are")
    sparse = V2 + struct.pack("<i", 2) + shape(2**40) + shape(2, 3) + CPU + bytes(4)
    sparse += (struct.pack("<i", 6) + shape(2**40)) * 2 + bytes(50)
    refuse(whole([sparse], ["w"]), "but there are")


def test_many_arrays_in_few_bytes_are_quick() -> None:
    empty = V2 + struct.pack("<i", 0) + shape()
    names = [f"n{place}" for place in range(20_000)]
    assert read(whole([empty] * 20_000, names))


def test_random_bytes_behind_the_magic_number() -> None:
    rng = np.random.default_rng(0)
    for size in range(300):
        assert not read(struct.pack("<QQQ", 0x112, 0, size % 7 + 1) + rng.bytes(size))
