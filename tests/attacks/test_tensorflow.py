"""TensorFlow checkpoints that are damaged, cut short, or lie about what they hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.formats.bundles import (
    STRING,
    block,
    bundle,
    entry,
    field,
    files,
    header,
    sealed,
    string_bytes,
    table,
    table_of,
    varint,
)

import tensorkeep as tk
from tensorkeep.errors import (
    CorruptError,
    MissingError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.formats.tensorflow.slices import slice_key
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.wire.sstable import MAGIC

INDEX, SHARD = "model.index", "model.data-00000-of-00001"
GOOD = bundle({"b": np.arange(3, dtype=np.float32), "text": [b"one", b"", b"x" * 130]})
DATA = Path(__file__).parent.parent / "data" / "tensorflow"


def sound(data: dict[str, bytes], key: str = INDEX) -> bool:
    """Say whether a checkpoint opens and verifies; nothing but our own errors may get out."""
    location = Location(MemoryStore(data), key)
    try:
        result = tk.verify(location)
        tk.load(location, verify=True)
    except TensorKeepError:
        return False
    assert not result.unchecked
    return result.ok


def flips(data: bytes) -> Any:
    for at in range(len(data)):
        for bit in range(8):
            yield at, data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


@pytest.mark.parametrize("key", [INDEX, SHARD])
def test_every_flipped_bit_is_found(key: str) -> None:
    assert sound(GOOD)
    for at, flipped in flips(GOOD[key]):
        assert not sound({**GOOD, key: flipped}), at


@pytest.mark.parametrize("key", [INDEX, SHARD])
def test_every_truncation_is_found(key: str) -> None:
    for size in range(len(GOOD[key])):
        assert not sound({**GOOD, key: GOOD[key][:size]}), size


def test_every_byte_of_sliced_variables_counts() -> None:
    good = {path.name: path.read_bytes() for path in (DATA / "saver").iterdir()}
    index = "model.ckpt-7.index"
    assert sound(good, index)
    for key, data in good.items():
        for at in range(len(data)):
            changed = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
            assert not sound({**good, key: changed}, index), (key, at)


def test_exchanged_shards_are_found() -> None:
    other = bundle({"b": np.ones(3, np.float32), "text": [b"two", b"", b"x" * 130]})
    assert not sound({INDEX: GOOD[INDEX], SHARD: other[SHARD]})


def refuse(rows: list[tuple[bytes, bytes]], match: str, data: bytes = bytes(100)) -> None:
    location = Location(MemoryStore(files([(b"", header()), *rows], data)), INDEX)
    with pytest.raises((CorruptError, UnsafeError, MissingError), match=match):
        tk.open(location)


BIG, MIN, TOP = 1 << 60, -(1 << 63), (1 << 63) - 1
ENTRIES = {
    "beyond the file": (entry(1, [25], 1, 100), "needs bytes 1 to 101, but there are 100"),
    "far beyond": (entry(1, [5], BIG, 20), "but there are 100"),
    "negative offset": (entry(1, [5], -4, 20), "gives a tensor 20 bytes from byte -4"),
    "lowest offset": (entry(1, [5], MIN, 20), "from byte -9223372036854775808"),
    "negative size": (entry(1, [5], 0, -20), "gives a tensor -20 bytes"),
    "size of another shape": (entry(1, [4], 0, 20), "takes 16 bytes, not 20"),
    "huge shape": (entry(1, [BIG, BIG], 0, 20), "takes .* bytes, not 20"),
    "negative axis": (entry(1, [-5], 0, 20), r"has shape \(-5,\)"),
    "lowest axis": (entry(1, [MIN], 0, 20), "has shape"),
    "empty but huge": (entry(1, [0, TOP], 0, 0), "no array can have shape"),
    "many axes": (entry(1, [1] * 65, 0, 4), "65 axes"),
    "very many axes": (entry(1, [1] * 100_000, 0, 4), "made to fill the memory"),
    "shard 1": (entry(1, [5], 0, 20, shard=1), "in shard 1 of 1"),
    "shard -1": (entry(1, [5], 0, 20, shard=-1), "in shard -1 of 1"),
    "unknown rank": (entry(1, [], 0, 4).replace(b"\x12\0", b"\x12\2\x18\1"), "has shape"),
    "strings": (entry(STRING, [BIG], 0, 100), "strings do not fit into 100 bytes"),
    "string lengths": (entry(STRING, [90], 0, 100), "do not make up the 100 bytes"),
    "no strings": (entry(STRING, [0], 0, 100), "do not make up the 100 bytes"),
    "small strings": (entry(STRING, [1], 0, 3), "do not make up the 3 bytes"),
    "empty slices": (entry(1, [5], slices=[[], []]), "is not there"),
    "slices by the ten thousands": (entry(1, [5], slices=[[]] * 10_001), "10,001 slices"),
    "half a message": (b"\x12\xff", "cut short in the field"),
    "a megabyte": (field(12, bytes(1 << 20)), "entry of 1,048,580 bytes is over"),
}


@pytest.mark.parametrize(("value", "problem"), ENTRIES.values(), ids=ENTRIES)
def test_entries_that_lie(value: bytes, problem: str) -> None:
    refuse([(b"w", value)], problem)


HEADERS = {
    "no shards": (header(0), "has 0 shards"),
    "negative shards": (header(-1), "has -1 shards"),
    "many shards": (header(2**31 - 1), "has 2147483647 shards"),
    "another byte order": (header() + field(2, 7), "byte order 7"),
    "damaged": (b"\xff", "cut short in the field"),
}


@pytest.mark.parametrize(("value", "problem"), HEADERS.values(), ids=HEADERS)
def test_headers_that_lie(value: bytes, problem: str) -> None:
    data = {INDEX: table([(b"", value)]), SHARD: b""}
    with pytest.raises(CorruptError, match=problem):
        tk.open(Location(MemoryStore(data), INDEX))


def test_a_later_version_is_told() -> None:
    data = {INDEX: table([(b"", header(minimum=2))]), SHARD: b""}
    with pytest.raises(UnsupportedError, match="asks for a reader of version 2"):
        tk.open(Location(MemoryStore(data), INDEX))


def test_an_index_without_a_header() -> None:
    for rows in ([], [(b"w", entry(1, [5], 0, 20))]):
        with pytest.raises(CorruptError, match="does not start with its header"):
            tk.open(Location(MemoryStore({INDEX: table(rows), SHARD: bytes(20)}), INDEX))


def test_strings_whose_lengths_sum_past_64_bits() -> None:
    lengths = (varint((1 << 63) + 5) + varint((1 << 63) + 5)) + bytes(4)
    refuse([(b"w", entry(STRING, [2], 0, 100))], "do not make up", lengths.ljust(100, b"\0"))


def test_tensors_that_share_bytes() -> None:
    """Thousands of string tensors over the same bytes would be parsed thousands of times."""
    data, crc = string_bytes([b"x"] * 50)
    rows = [(f"w{i}".encode(), entry(STRING, [50], 0, len(data), crc)) for i in range(5)]
    refuse(rows, "share byte 0 of shard 0", data)
    rows = [(b"a", entry(1, [5], 0, 20)), (b"b", entry(1, [5], 19, 20))]
    refuse(rows, "share byte 19 of shard 0")


def test_slices_of_slices_and_of_many_axes() -> None:
    box = ((0, -1),)
    part = entry(1, [5], 0, 20, slices=[box])
    refuse([(b"w", entry(1, [5], slices=[box])), (slice_key("w", box), part)], "is another")
    box = ((TOP, TOP),)
    part = entry(1, [TOP], 0, 20)
    refuse([(b"w", entry(1, [5], slices=[box])), (slice_key("w", box), part)], "not inside")


NAMES = {
    "a folder": (b"../../etc/passwd", "has .. as a folder"),
    "half a character": (b"\xff", "half a character"),
    "long": (b"w" * 5000, "longer than 4096"),
}


@pytest.mark.parametrize(("name", "problem"), NAMES.values(), ids=NAMES)
def test_names_that_no_tool_means(name: bytes, problem: str) -> None:
    refuse([(name, entry(1, [5], 0, 20))], problem)


def test_shards_do_not_lead_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_bytes(GOOD[SHARD])
    (tmp_path / "in" / INDEX).write_bytes(GOOD[INDEX])
    (tmp_path / "in" / SHARD).symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeError, match="outside its own folder"):
        tk.open(tmp_path / "in" / INDEX)


def test_a_pointer_does_not_lead_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for key, data in GOOD.items():
        (tmp_path / key).write_bytes(data)
    for path in ("../model", "in/../../model", f"{tmp_path}/model", "/model", "..\\\\model", ""):
        (tmp_path / "in" / "checkpoint").write_text(f'model_checkpoint_path: "{path}"')
        with pytest.raises((UnsafeError, CorruptError)):
            tk.open(tmp_path / "in")
    (tmp_path / "in" / "checkpoint").unlink()
    (tmp_path / "in" / "checkpoint").symlink_to(tmp_path / SHARD)
    with pytest.raises(TensorKeepError):
        tk.open(tmp_path / "in")


def test_a_pointer_of_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    path.write_text('model_checkpoint_path: "a"')
    with path.open("r+b") as file:
        file.truncate(1 << 32)
    with pytest.raises(UnsafeError, match="pointer of 4,294,967,296 bytes is over"):
        tk.open(tmp_path)


def test_a_snappy_bomb() -> None:
    bomb = varint(1 << 30) + b"\0a" + b"\xfe\1\0" * 1000
    data = table_of([(b"z", bomb, 1)])
    with pytest.raises(CorruptError, match="3,007 packed bytes cannot make 1,073,741,824"):
        tk.open(Location(MemoryStore({INDEX: data}), INDEX))


def test_a_block_that_is_not_there() -> None:
    footer = (varint(1 << 62) + varint(1 << 62)) * 2
    data = sealed(block([])) + footer.ljust(40, b"\0") + MAGIC
    with pytest.raises(CorruptError, match="said to end at byte"):
        tk.open(Location(MemoryStore({INDEX: data}), INDEX))


def test_random_bytes_between_true_ends() -> None:
    rng = np.random.default_rng(0)
    for size in range(300):
        data = b"\0\0" + rng.bytes(size) + MAGIC
        assert not sound({INDEX: data})


def test_changes_under_checksums_that_fit() -> None:
    """An attacker computes the checksums anew: only our own errors may come of it."""
    rng = np.random.default_rng(0)
    data, crc = string_bytes([b"one", b"", b"x" * 130])
    box = ((1, 2), (0, -1))
    rows = [
        (b"", header()),
        (slice_key("w", box), entry(1, [2, 3], 0, 24)),
        (b"text", entry(STRING, [3], 24, len(data), crc)),
        (b"v", entry(9, [2], 200, 16)),
        (b"w", entry(1, [2, 3], slices=[box])),
    ]
    plain = block(sorted(rows), 2)
    shard = (bytes(24) + data).ljust(216, b"\0")
    for _ in range(3000):
        changed = bytearray(plain)
        for at in rng.integers(0, len(plain), rng.integers(1, 4)):
            changed[at] = rng.integers(0, 256)
        index = table_of([(b"z", bytes(changed), 0)])
        sound({INDEX: index, SHARD: shard})
