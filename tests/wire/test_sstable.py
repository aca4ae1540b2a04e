from __future__ import annotations

from pathlib import Path

import pytest
from tests.formats.bundles import block, sealed, table, table_of, varint

from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.source import FileSource, MemorySource
from tensorkeep.wire.sstable import MAGIC, MAX_KEY, read_table, read_varint

ENTRIES = [(f"layer.{i:04}.weight".encode(), bytes([i % 256]) * (i % 40)) for i in range(300)]


def read(data: bytes) -> list[tuple[bytes, bytes]]:
    return [(key, bytes(value)) for key, value in read_table(MemorySource(data, "a.index"))]


@pytest.mark.parametrize("size", [1, 7, 300])
@pytest.mark.parametrize("interval", [1, 2, 16])
def test_entries_come_back(size: int, interval: int) -> None:
    assert read(table(ENTRIES, size, interval)) == ENTRIES


def test_an_empty_table() -> None:
    assert read(table([])) == []


def test_leveldb_writes_tables_with_snappy(tmp_path: Path) -> None:
    import plyvel

    with plyvel.DB(str(tmp_path), create_if_missing=True, compression="snappy") as database:
        for key, value in ENTRIES:
            database.put(key, value)
        database.compact_range()
    files = [*tmp_path.glob("*.ldb"), *tmp_path.glob("*.sst")]
    assert files
    found = [row for file in files for row in read_table(FileSource(file))]
    # Behind each key LevelDB puts a number and a kind.
    assert sorted((key[:-8], bytes(value)) for key, value in found) == ENTRIES
    assert sum(file.stat().st_size for file in files) < sum(len(k) + len(v) for k, v in ENTRIES)


def test_every_flipped_bit_and_truncation_is_found() -> None:
    data = table(ENTRIES[:12], 5)
    for at in range(len(data)):
        with pytest.raises(TensorKeepError):
            read(data[:at])
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            with pytest.raises(TensorKeepError):
                read(bytes(flipped))


def whole(data: bytes, kind: int = 0, key: bytes = b"z") -> bytes:
    return table_of([(key, data, kind)])


def raw(entries: bytes, restarts: list[int] | None = None) -> bytes:
    listed = [0] if restarts is None else restarts
    words = [at.to_bytes(4, "little") for at in (*listed, len(listed))]
    return entries + b"".join(words)


LIES = {
    "restart count": (whole(b"\xff\xff\xff\xff"), "cannot have 4,294,967,295 restart"),
    "no restarts": (whole(b"ab"), "cannot have"),
    "many restarts": (whole(raw(b"\0\0\0", [0] * 9)), "cannot have 9 restart"),
    "restart within": (whole(raw(b"\0\1\1ab\0\1\1bb", [0, 3])), "inside an entry"),
    "restart that shares": (whole(raw(b"\0\1\1ab\1\1\1bb", [0, 5])), "shares a key"),
    "shared too much": (whole(raw(b"\0\1\1ab\2\1\1bb")), "outside its block"),
    "key too long": (whole(raw(b"\0\x7f\1ab")), "outside its block"),
    "value too long": (whole(raw(b"\0\1" + varint(1 << 40) + b"ab")), "outside its block"),
    "endless varint": (whole(raw(b"\xff" * 30)), "varint does not end"),
    "huge varint": (whole(raw(b"\0\1" + b"\xff" * 9 + b"\x7f" + b"a")), "varint does not end"),
    "order": (table([(b"b", b""), (b"a", b"")]), "out of order"),
    "twice": (table([(b"a", b""), (b"a", b"")], 1), "out of order"),
    "gap": (table_of([(b"a", block([(b"a", b"")]), 0)], gap=b"hidden"), "begins at byte"),
    "no table": (bytes(60), "does not end as"),
    "short": (b"abc", "does not end as"),
}


@pytest.mark.parametrize(("data", "problem"), LIES.values(), ids=LIES)
def test_lies_are_found(data: bytes, problem: str) -> None:
    with pytest.raises(CorruptError, match=problem):
        read(data)


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="packed as kind 4"):
        read(whole(block([]), 4))
    with pytest.raises(UnsupportedError, match=r"b'filter' beside its data"):
        read(table_of([], block([(b"filter", varint(0) + varint(0))])))


def test_a_block_that_unpacks_to_gigabytes() -> None:
    bomb = varint(1 << 25) + b"\0a" + b"\xfe\1\0" * ((1 << 25) // 64)
    with pytest.raises(UnsafeError, match="packed block of 33,554,432 bytes is over"):
        read(whole(bomb, 1))


def test_keys_that_swell() -> None:
    """Each entry of four bytes has a key of 64 KiB, all but a byte of it shared."""
    first = b"\0" + varint(MAX_KEY - 2) + b"\0" + bytes(MAX_KEY - 2)
    more = (varint(MAX_KEY - 2) + b"\2\0" + i.to_bytes(2, "big") for i in range(1, 8000))
    with pytest.raises(UnsafeError, match="keys are over"):
        for _ in read_table(MemorySource(whole(raw(first + b"".join(more))))):
            pass


def test_the_index_may_lie_about_where_a_block_is() -> None:
    for offset, size in [(0, 1 << 60), (1 << 60, 5), (2**64 - 1, 2**64 - 1)]:
        index = block([(b"z", varint(offset) + varint(size))], 1)
        data = sealed(block([])) + sealed(index)
        handles = varint(0) + varint(8) + varint(13) + varint(len(index))
        with pytest.raises(CorruptError, match=r"is said to end at byte|begins at byte"):
            read(data + handles.ljust(40, b"\0") + MAGIC)


def test_varints() -> None:
    assert read_varint(b"\xff" * 9 + b"\1", 0, 10, "here") == (2**64 - 1, 10)
    for data in (b"", b"\x80", b"\x80\0", b"\xff" * 9 + b"\2", b"\x80" * 11):
        with pytest.raises(CorruptError):
            read_varint(data, 0, len(data), "here")
