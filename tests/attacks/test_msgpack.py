"""msgpack files that lie about lengths, nest without end or hold what is no array."""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore


def refused(data: bytes, kind: type[TensorKeepError], problem: str) -> None:
    with pytest.raises(kind, match=problem):
        tk.load(Location(MemoryStore({"a.msgpack": data}), "a.msgpack"), format="flax")


def array(shape: Any, name: Any, body: bytes, code: int = 1) -> bytes:
    return bytes(msgpack.packb({"w": msgpack.ExtType(code, msgpack.packb([shape, name, body]))}))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x81\xa1w\xc6\xff\xff\xff\xff", "of 4,294,967,295 bytes starts at byte 8, but 0 follow"),
        (b"\x81\xa1w\xc9\xff\xff\xff\xff\1", "of 4,294,967,295 bytes"),
        (b"\x81\xa1w\xdb\x7f\xff\xff\xff", "2,147,483,647"),
        (b"\xdf\xff\xff\xff\xff", "map claims 8,589,934,590 items, but 0 bytes follow"),
        (b"\x81\xa1w\xdd\xff\xff\xff\xff", "array claims 4,294,967,295 items"),
        (b"\x81\xa1w\xc1", "0xc1 starts no msgpack value"),
        (b"\x81\xa1w", "but 0 follow"),
        (b"\x82\xa1w\1\xa1w\2", "has the key 'w' twice"),
        (b"\x81\xa1w\1\0", "1 bytes follow the end"),
        (b"\x81\xa2\xff\xfe\1", "not UTF-8"),
        (b"\x81\x90\1", "a key that is no text or number"),
        (b"\x81\xc4\1a\1", "a key that is no text or number"),
    ],
)
def test_lengths_that_lie(data: bytes, problem: str) -> None:
    refused(data, CorruptError, problem)


def test_depth_bombs() -> None:
    refused(b"\x81\xa1w" * 100_000 + b"\xc0", CorruptError, "nest deeper than 110 levels")
    refused(b"\x81\xa1w" + b"\x91" * 1_000_000 + b"\xc0", CorruptError, "deeper than 110")


def test_count_bombs() -> None:
    many = b"\x81\xa1w\xdd" + struct.pack(">I", 5_000_000) + bytes(5_000_000)
    refused(many, UnsafeError, "more msgpack values than any state")


def test_arrays_that_lie() -> None:
    four = bytes(16)
    cases: list[tuple[bytes, type[TensorKeepError], str]] = [
        (array([5], "float32", four), CorruptError, "'w' has 16 bytes, not the 20"),
        (array([3], "float32", four), CorruptError, "has 16 bytes, not the 12"),
        (array([1 << 40], "float32", four), CorruptError, "has 16 bytes, not the"),
        (array([1 << 62, 1 << 62, 0], "float32", b""), CorruptError, "no array can have shape"),
        (array([-4], "float32", four), CorruptError, "not a shape, a dtype and bytes"),
        (array([4.0], "float32", four), CorruptError, "not a shape, a dtype and bytes"),
        (array([True] * 4, "float32", four), CorruptError, "not a shape"),
        (array([1] * 65, "float32", four[:4]), CorruptError, "not a shape"),
        (array([4], 7, four), UnsupportedError, "the dtype 7"),
        (array([2], "object", four), UnsupportedError, "the dtype 'object'"),
        (array([2], "O", four), UnsupportedError, "the dtype 'O'"),
        (array([4], "float32", four, 9), UnsupportedError, "extension type 9"),
        (b"\x81\xa1w\xd4\xff\0", UnsupportedError, "extension type -1"),
        (array([4], "float32", four, 3), CorruptError, "is a scalar of shape"),
        (array([4], "float32", four, 2), CorruptError, "msgpack|complex"),
        (bytes(msgpack.packb({"w": msgpack.ExtType(1, b"")})), CorruptError, "but 0 follow"),
        (bytes(msgpack.packb({"w": msgpack.ExtType(1, b"\x93\x91\4")})), CorruptError, "follow"),
        (bytes(msgpack.packb({"w": msgpack.ExtType(1, b"\x91" * 200)})), UnsafeError, "more"),
    ]
    for data, kind, problem in cases:
        refused(data, kind, problem)


def test_chunks_that_lie() -> None:
    def chunked(**changes: Any) -> bytes:
        piece = msgpack.ExtType(1, msgpack.packb([[2], "float64", bytes(16)]))
        value = {
            "__msgpack_chunked_array__": True,
            "shape": {"0": 2, "1": 2},
            "chunks": {"0": piece, "1": piece},
        }
        return bytes(msgpack.packb({"w": value | changes}))

    assert tk.load(Location(MemoryStore({"a": chunked()}), "a"))["w"].shape == (2, 2)
    other = msgpack.ExtType(1, msgpack.packb([[2], "int64", bytes(16)]))
    wide = msgpack.ExtType(1, msgpack.packb([[2, 1], "float64", bytes(16)]))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"shape": {"0": 1 << 40}}, "chunks of 4 elements for the shape"),
        ({"shape": {"1": 4}}, "not numbered"),
        ({"shape": [4]}, "not numbered"),
        ({"shape": {"0": -4}}, "no chunks or no shape"),
        ({"chunks": {}}, "no chunks"),
        ({"chunks": {"0": 1}}, "no chunks"),
        ({"chunks": {"0": other, "1": wide}}, "not all flat arrays"),
    ]
    for changes, problem in cases:
        refused(chunked(**changes), CorruptError, problem)


def test_names_of_no_file() -> None:
    data = msgpack.packb(
        {"../x": msgpack.ExtType(1, msgpack.packb([[1], "uint8", b"a"])), "\0": 1, "$tuple": 2}
    )
    found = tk.load(Location(MemoryStore({"a": data}), "a"))
    assert list(found) == ["../x", "\0", "$tuple"]
    assert np.array_equal(found["../x"], [97])


def test_random_bytes_raise_nothing_else() -> None:
    rng = np.random.default_rng(0)
    for _ in range(3000):
        data = b"\x84\xa1w" + rng.bytes(int(rng.integers(1, 60)))
        try:
            tk.load(Location(MemoryStore({"a.msgpack": data}), "a.msgpack"), format="flax")
        except TensorKeepError:
            continue
