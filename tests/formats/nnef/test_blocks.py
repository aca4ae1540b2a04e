"""Gzip in blocks: any gzip reader reads it, and we read any place of it alone."""

from __future__ import annotations

import gzip
import os
import random
import shutil
import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tensorkeep as tk
from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.formats.nnef import blocks
from tensorkeep.formats.nnef.blocks import gzipped, open_blocks
from tensorkeep.source import MemorySource
from tensorkeep.store import Late, Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.testing import CountingStore, assert_equal_states

_NOISE = np.random.default_rng(0).standard_normal(1_500_000).astype(np.float32).tobytes()


def packed(data: bytes, step: int = 777_777) -> bytes:
    """Pack bytes that come in pieces of some size."""
    pieces: Iterator[bytes] = (data[at : at + step] for at in range(0, len(data), step))
    return joined(list(gzipped(pieces, len(data))))


def joined(chunks: list[object]) -> bytes:
    return b"".join(chunk.make() if isinstance(chunk, Late) else bytes(chunk) for chunk in chunks)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "data",
    [b"", b"w", bytes(3 << 20), _NOISE, _NOISE[: 2 << 20], os.urandom(100_000)],
    ids=["empty", "one", "zeros", "floats", "whole blocks", "bytes"],
)
def test_gzip_reads_it(data: bytes, tmp_path: Path) -> None:
    whole = packed(data)
    assert gzip.decompress(whole) == data
    inflater = zlib.decompressobj(31)  # as readers do it that know of no second member
    assert inflater.decompress(whole) == data
    assert inflater.eof
    assert not inflater.unused_data
    if program := shutil.which("gzip"):
        (tmp_path / "data.gz").write_bytes(whole)
        ran = subprocess.run(
            [program, "-dc", tmp_path / "data.gz"], capture_output=True, check=True
        )
        assert ran.stdout == data
    opened = open_blocks(MemorySource(whole))
    assert opened is not None
    assert bytes(opened.read(0, len(data))) == data


def test_the_pieces_that_come_do_not_matter() -> None:
    assert packed(_NOISE, 1 << 22) == packed(_NOISE, 65_537)


def test_floats_are_packed_fast_and_what_repeats_tightly() -> None:
    assert len(packed(_NOISE)) < 0.94 * len(_NOISE)
    assert len(packed(bytes(4 << 20))) < 40_000
    text = b"".join(b"    x%d = relu(x%d);\n" % (place, place - 1) for place in range(40_000))
    assert len(packed(text)) < 0.3 * len(text)


def test_any_place_is_read() -> None:
    pick = random.Random(2)
    opened = open_blocks(MemorySource(packed(_NOISE)))
    assert opened is not None
    assert opened.size == len(_NOISE)
    places = [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20, len(_NOISE) - 1, len(_NOISE)]
    pairs = [(a, b) for a in places for b in places if a <= b]
    for _ in range(40):
        start = pick.randrange(len(_NOISE))
        pairs.append((start, min(len(_NOISE), start + pick.choice([1, 1000, 1_500_000]))))
    for start, stop in pairs:
        assert bytes(opened.read(start, stop)) == _NOISE[start:stop]
    buffer = bytearray(3 << 20)
    opened.readinto(1000, memoryview(buffer))
    assert buffer == _NOISE[1000 : 1000 + (3 << 20)]


def test_blocks_grow_with_what_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_BLOCK", 1000)
    monkeypatch.setattr(blocks, "_MOST_BLOCKS", 16)
    data = _NOISE[:100_001]  # in 15 blocks, six and a half times as large
    whole = packed(data)
    assert len(whole[: whole.index(b"\0\0\xff\xff")]) < 100_001
    opened = open_blocks(MemorySource(whole))
    assert opened is not None
    assert bytes(opened.read(17, 99_000)) == data[17:99_000]
    assert gzip.decompress(whole) == data


def test_only_the_blocks_that_are_touched_are_read() -> None:
    rng = np.random.default_rng(1)
    value = {f"w{place}": rng.standard_normal(1_000_000).astype(np.float32) for place in range(8)}
    store = MemoryStore()
    tk.save(value, Location(store, "a.nnef.tgz"))
    counted = CountingStore(store)
    with tk.open(Location(counted, "a.nnef.tgz")) as state:
        assert counted.bytes_read < 0.4 * len(store.data["a.nnef.tgz"])
        before = counted.bytes_read
        assert state["w5"][10] == value["w5"][10]
        assert counted.bytes_read - before < 2 << 20
        assert_equal_states(dict(state.items()), value)


def test_every_flip_gives_the_right_bytes_or_an_error() -> None:
    data = b"weights " * 50 + bytes(range(256))
    whole = packed(data)
    for place in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        opened = open_blocks(MemorySource(damaged))
        if opened is None:  # then it is read as any other gzip file
            continue
        try:
            found = bytes(opened.read(0, opened.size))
        except CorruptError:
            continue
        assert found == data


def test_every_truncation_is_another_gzip_file() -> None:
    whole = packed(b"weights " * 100)
    assert all(open_blocks(MemorySource(whole[:stop])) is None for stop in range(len(whole)))
    assert open_blocks(MemorySource(whole + b"\0")) is None
    assert open_blocks(MemorySource(gzip.compress(b"weights"))) is None


def test_damage_is_told_where_it_is() -> None:
    whole = bytearray(packed(_NOISE))
    size = struct.unpack_from("<I", whole, 24)[0]  # of the first block
    whole[24 + 6 * 8 + size + 5000] ^= 16
    opened = open_blocks(MemorySource(whole, "a.nnef.tgz"))
    assert opened is not None
    assert bytes(opened.read(0, 10)) == _NOISE[:10]
    with pytest.raises(CorruptError, match=r"a\.nnef\.tgz: block 1 of its gzip data is damaged"):
        opened.read(0, len(_NOISE))


def lying(data: bytes, *entries: tuple[int, int], blocks: bytes) -> bytes:
    """Make a file whose index says what is given."""
    length = 8 + 8 * len(entries)
    head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack(
        "<H2sHQ", 4 + length, b"TK", length, len(data)
    )
    index = b"".join(struct.pack("<II", *entry) for entry in entries)
    return head + index + blocks + b"\x03\0" + struct.pack("<II", zlib.crc32(data), len(data))


def deflated(data: bytes, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    deflater = zlib.compressobj(1, wbits=-15)
    return deflater.compress(data) + deflater.flush(flush)


def test_an_index_that_lies() -> None:
    data, other = b"weights " * 10, b"another " * 10
    block = deflated(data)
    sound = lying(data, (len(block), zlib.crc32(data)), blocks=block)
    assert bytes(open_blocks(MemorySource(sound)).read(0, 80)) == data  # type: ignore[union-attr]
    wrong = lying(data, (len(block), zlib.crc32(other)), blocks=block)
    ended = deflated(data, zlib.Z_FINISH)
    longer = deflated(data + b"!")
    for whole, problem in (
        (wrong, "its CRC-32 differs"),
        (lying(data, (len(ended), zlib.crc32(data)), blocks=ended), "does not unpack to 80 bytes"),
        (lying(data, (len(longer), zlib.crc32(data)), blocks=longer), "does not unpack to 80"),
        (lying(data, (4, 0), blocks=b"\xff" * 4), "invalid block type"),
    ):
        opened = open_blocks(MemorySource(whole))
        assert opened is not None
        with pytest.raises(CorruptError, match=f"block 0 of its gzip data is damaged: .*{problem}"):
            opened.read(0, 80)
    for entries in ([], [(len(block) + 1, 0)], [(1, 0), (len(block) - 1, 0)]):
        assert open_blocks(MemorySource(lying(data, *entries, blocks=block))) is None


def test_a_size_that_would_fill_the_memory_is_refused() -> None:
    size = 1 << 41
    index = struct.pack("<II", 4, 0) + bytes(8 * 2047)
    head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack(
        "<H2sHQ", 12 + 16384, b"TK", 8 + 16384, size
    )
    whole = head + index + b"\0\0\xff\xff" + b"\x03\0" + struct.pack("<II", 0, 0)
    with pytest.raises(UnsafeError, match="unpacks to over 200 times its size"):
        open_blocks(MemorySource(whole))
