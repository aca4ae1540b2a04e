"""The grammar of minidb: what real Caffe2 wrote, what is cut or flipped, and what is none."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import sqlite3
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tensorkeep as tk
from tensorkeep import errors, testing
from tensorkeep.database.recordfile import Record
from tensorkeep.formats import WRITTEN
from tensorkeep.source import FileSource, MemorySource
from tensorkeep.store import HEAD
from tensorkeep.stores.file import FileStore
from tensorkeep.wire.minidb import (
    MAX_KEY,
    MAX_VALUE,
    looks_like_minidb,
    read_records,
    record_header,
)

GOLDEN = Path(__file__).parents[1] / "data" / "caffe2"
CASES = GOLDEN / "cases"
MANIFEST: dict[str, Any] = json.loads((GOLDEN / "MANIFEST.json").read_text())
WITH_RECORDS: dict[str, list[dict[str, Any]]] = {
    entry["file"]: entry["records"] for entry in MANIFEST["entries"] if "records" in entry
}

Pairs = list[tuple[str, bytes]]


def pack(pairs: Pairs) -> bytes:
    return b"".join(record_header(key, len(value)) + value for key, value in pairs)


def unpack(data: bytes, *, strict: bool = True) -> Pairs:
    found = read_records(MemorySource(data, "x.minidb"), strict=strict)
    return [(key, data[start:stop]) for key, start, stop in found]


def looks(data: bytes) -> bool:
    return looks_like_minidb(data[:HEAD], len(data))


# --- what real Caffe2 wrote ------------------------------------------------------------------


def key_of(row: dict[str, Any]) -> str:
    if "key" in row:
        return str(row["key"])
    return bytes.fromhex(row["key_hex"]).decode("utf-8", "surrogateescape")


def test_there_are_golden_files() -> None:
    assert len(WITH_RECORDS) >= 38
    assert len(list(CASES.glob("*.minidb"))) >= 30


@pytest.mark.parametrize("name", WITH_RECORDS)
def test_golden_records(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    found = [(k, len(v), hashlib.sha256(v).hexdigest()) for k, v in unpack(data)]
    assert found == [(key_of(row), row["len"], row["sha256"]) for row in WITH_RECORDS[name]]


@pytest.mark.parametrize("name", WITH_RECORDS)
def test_golden_records_packed_again_are_the_same_bytes(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    assert pack(unpack(data)) == data
    assert pack(unpack(data, strict=False)) == data


@pytest.mark.parametrize("name", [*WITH_RECORDS, "unpacked.minidb", "predictor.minidb"])
def test_golden_files_are_recognised(name: str) -> None:
    data = (GOLDEN / name).read_bytes()
    assert looks(data)
    assert looks_like_minidb(data[:64], len(data))


# Whether Caffe2 reads it to the end, the record it stops at, and a part of what is said.
DAMAGED: dict[str, tuple[bool, int, str]] = {
    "cut_1_byte_in": (True, 1, "record 1 at byte 86.*1 of the 8 bytes.*7 are missing.*0, 'a#%0'"),
    "cut_3_bytes_in": (True, 1, "record 1 at byte 86.*3 of the 8 bytes.*5 are missing.*0, 'a#%0'"),
    "cut_4_bytes_in": (False, 1, "record 1 at byte 86.*4 of the 8 bytes.*4 are missing"),
    "cut_in_key": (False, 1, "record 1 at byte 86 has a key of 4 .* of which 70 are missing"),
    "cut_in_value": (False, 1, "record 1 at byte 86 .* value of 67 bytes, of which 59 are missing"),
    "cut_last_byte": (False, 2, "record 2 at byte 165 .* 1 are missing .*is 1, 'b#%0'"),
    "negative_length": (False, 0, "record 0 at byte 0 has a key of -5 .*above zero.*none is whole"),
    "zero_value_length": (False, 0, "record 0 at byte 0 .* a value of 0 bytes.*above zero"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_golden_files(name: str) -> None:
    good, before, message = DAMAGED[name]
    source = FileSource(CASES / f"{name}.minidb")
    found: list[Record] = []
    with pytest.raises(errors.CorruptError, match=message) as caught:
        found.extend(read_records(source))
    assert len(found) == before
    assert caught.value.where == str(CASES / f"{name}.minidb")
    if good:
        assert len(list(read_records(source, strict=False))) == before
    else:
        with pytest.raises(errors.CorruptError, match=message):
            list(read_records(source, strict=False))


@pytest.mark.parametrize(
    ("name", "count"),
    [("empty", 0), ("cut_at_record", 1), ("garbage_value", 1), ("string_twice", 2), ("whole", 3)],
)
@pytest.mark.parametrize("strict", [True, False])
def test_whole_golden_cases(name: str, count: int, strict: bool) -> None:
    data = (CASES / f"{name}.minidb").read_bytes()
    assert len(unpack(data, strict=strict)) == count


# --- round trips, truncations, flipped bits --------------------------------------------------

pairs = st.lists(st.tuples(st.text(min_size=1, max_size=20), st.binary(min_size=1, max_size=40)))


@given(pairs)
def test_round_trip(records: Pairs) -> None:
    assert unpack(pack(records)) == records
    assert unpack(pack(records), strict=False) == records


@given(st.binary(min_size=1, max_size=20), st.binary(min_size=1, max_size=20))
def test_a_key_of_any_bytes_survives(key: bytes, value: bytes) -> None:
    data = struct.pack("<ii", len(key), len(value)) + key + value
    ((text, found),) = unpack(data)
    assert found == value
    assert record_header(text, len(value)) + value == data


@pytest.mark.parametrize("strict", [True, False])
def test_every_truncation(strict: bool) -> None:
    data = (CASES / "whole.minidb").read_bytes()
    whole = list(read_records(MemorySource(data)))
    ends = [0, *(record.stop for record in whole)]
    for size in range(len(data)):
        number = sum(end <= size for end in ends) - 1
        stray = size - ends[number]
        source = MemorySource(data[:size])
        if stray == 0 or (stray < 4 and not strict):
            assert list(read_records(source, strict=strict)) == whole[:number]
            continue
        missing = (8 if stray < 8 else ends[number + 1] - ends[number]) - stray
        good = repr(whole[number - 1].key) if number else "none is whole"
        with pytest.raises(errors.CorruptError) as caught:
            list(read_records(source, strict=strict))
        message = str(caught.value)
        assert f"record {number} at byte {ends[number]} " in message
        assert f"{missing} are missing" in message
        assert good in message


@pytest.mark.parametrize("stray", range(1, 12))
def test_stray_bytes_behind_the_last_record(stray: int) -> None:
    data = pack([("a", b"1")]) + bytes(stray)
    with pytest.raises(errors.CorruptError, match="record 1 at byte 10 "):
        unpack(data)
    if stray < 4:
        assert unpack(data, strict=False) == [("a", b"1")]
    else:
        with pytest.raises(errors.CorruptError, match="record 1 at byte 10 "):
            unpack(data, strict=False)


@pytest.mark.parametrize("strict", [True, False])
def test_every_flipped_bit_of_a_length_is_seen(strict: bool) -> None:
    data = (GOLDEN / "dtypes.minidb").read_bytes()
    whole = unpack(data)
    at = 0
    for key, value in whole:
        for bit in range(64):
            damaged = bytearray(data)
            damaged[at + bit // 8] ^= 1 << bit % 8
            with contextlib.suppress(errors.CorruptError):  # or they add up to other records
                assert unpack(bytes(damaged), strict=strict) != whole
        at += len(record_header(key, len(value))) + len(value)
    assert at == len(data)


@given(st.binary(max_size=64), st.booleans())
def test_any_bytes_are_records_or_corrupt(data: bytes, strict: bool) -> None:
    looks(data)
    try:
        found = unpack(data, strict=strict)
    except errors.CorruptError:
        return
    rest = len(data) - len(pack(found))
    assert pack(found) == data[: len(pack(found))]
    assert rest == 0 or (rest < 4 and not strict)


lengths = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-2, 12))


@given(st.lists(st.tuples(lengths, lengths, st.binary(max_size=12)), max_size=4))
def test_any_lengths_are_records_or_corrupt(parts: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(struct.pack("<ii", one, other) + rest for one, other, rest in parts)
    looks(data)
    with contextlib.suppress(errors.CorruptError):
        assert pack(unpack(data)) == data


def test_a_huge_key_is_refused_unread(tmp_path: Path) -> None:
    """The file is large enough, since it is sparse; reading the key would take 1.5 GB."""
    path = tmp_path / "sparse.minidb"
    path.write_bytes(struct.pack("<ii", 1_500_000_000, 5))
    with path.open("r+b") as file:
        file.truncate(3 << 30)
    with pytest.raises(errors.CorruptError, match=f"keys end at {MAX_KEY:,}"):
        list(read_records(FileSource(path)))


@pytest.mark.parametrize(
    ("key", "size", "message"),
    [
        ("", 1, "the key '' has 0 bytes"),
        ("k" * (MAX_KEY + 1), 1, "minidb gives back 1 to 1,048,576"),
        ("w", 0, "the value of 'w' is empty"),
        ("w", MAX_VALUE + 1, "has 2,147,483,648 bytes.*give a chunk_size"),
    ],
)
def test_what_could_not_be_read_back_is_refused(key: str, size: int, message: str) -> None:
    with pytest.raises(errors.UnsupportedError, match=message):
        record_header(key, size)


def test_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="cannot be encoded"):
        record_header("\ud800", 1)


def test_the_largest_lengths_are_written() -> None:
    assert record_header("w", MAX_VALUE) == b"\x01\0\0\0\xff\xff\xff\x7fw"
    assert len(record_header("k" * MAX_KEY, 1)) == 8 + MAX_KEY


# --- how much is read ------------------------------------------------------------------------


def count_reads(folder: Path, name: str) -> tuple[int, int, int]:
    """Give how many records, reads and bytes a walk over an unmapped file takes."""
    store = testing.CountingStore(FileStore(folder))
    count = sum(1 for _ in read_records(store.get(name)))
    return count, len(store.ranges), store.bytes_read


def test_a_gibibyte_is_listed_from_its_headers(tmp_path: Path) -> None:
    size, count = 4 << 20, 256
    with (tmp_path / "large.minidb").open("wb") as file:
        for i in range(count):
            file.seek(i * (size + 64))
            key = f"layer_{i}/weights#%0".ljust(56, "_")
            file.write(record_header(key, size))
        file.truncate(count * (size + 64))
    found, reads, taken = count_reads(tmp_path, "large.minidb")
    assert found == count
    assert reads <= 2 * count
    assert taken < 300_000


def test_small_records_are_read_many_at_a_time(tmp_path: Path) -> None:
    data = pack([(f"blob_{i}#%0", bytes(1024)) for i in range(2000)])
    (tmp_path / "small.minidb").write_bytes(data)
    found, reads, taken = count_reads(tmp_path, "small.minidb")
    assert found == 2000
    assert reads <= 1.1 * len(data) / 65536
    assert taken < 1.1 * len(data)


@given(st.lists(st.sampled_from([1, 50, 4000, 9000, 70_000, 140_000]), max_size=12), st.data())
def test_unmapped_files_give_the_same_records(sizes: list[int], data: st.DataObject) -> None:
    keys = st.sampled_from(["a", "b" * 30, "c" * 5000, "d" * 66_000])
    packed = pack([(data.draw(keys), bytes([i]) * size) for i, size in enumerate(sizes)])

    class Mapped(MemorySource):
        @property
        def mapped(self) -> bool:
            return True

    found = list(read_records(MemorySource(packed)))
    assert found == list(read_records(Mapped(packed)))
    assert [stop - start for _, start, stop in found] == sizes


# --- what is a minidb and what is not --------------------------------------------------------


@given(pairs)
def test_small_databases_are_recognised(records: Pairs) -> None:
    readable = [(key, value) for key, value in records if key.isprintable()]
    assert looks(pack(readable)) == bool(readable)


@pytest.mark.parametrize("cut", [30, 60, 100])
def test_a_cut_blob_is_recognised_by_its_name(cut: int) -> None:
    data = (GOLDEN / "dtypes.minidb").read_bytes()
    assert looks(data[:cut])


def test_a_truncated_header_says_nothing() -> None:
    data = pack([("weights", b"12345")])
    assert [size for size in range(len(data) + 1) if looks(data[:size])] == [len(data)]


def test_a_record_of_unknown_bytes_has_to_be_followed_by_one() -> None:
    first = pack([("weights", b"12345")])
    assert looks(first + pack([("b", b"1")]))
    assert not looks(first + b"garbage behind it")
    assert not looks(first + bytes(100))


def test_a_value_with_a_broken_field_counts_as_unknown_bytes() -> None:
    for value in (b"\n" + b"\xff" * 9, b"\n\x80", b"\n\x09short"):
        record = pack([("weights", value)])
        assert looks(record)
        assert not looks(record + b"garbage behind it")


def other_formats(folder: Path) -> Iterator[tuple[str, bytes]]:
    state = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(2)}
    for name, format in WRITTEN.items():
        value = testing.fitting(format, state, np.zeros((2, 3), np.float32))
        if value is not None and name not in ("caffe2", "minidb"):
            path = folder / f"state-{name}{format.suffixes[0]}"
            tk.save(value, path, format=name, **testing.needed(format))
            if path.is_file():
                yield name, path.read_bytes()
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("a", "text")
    yield "zip", (folder / "a.zip").read_bytes()
    database = sqlite3.connect(folder / "a.sqlite")
    database.execute("create table t (k)")
    database.commit()
    database.close()
    yield "sqlite", (folder / "a.sqlite").read_bytes()
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"pickle {protocol}", pickle.dumps([1, "a", b"b"], protocol)


def test_other_formats_are_not_minidb(tmp_path: Path) -> None:
    claimed = [name for name, data in other_formats(tmp_path) if looks(data)]
    assert claimed == []


# First bytes of formats, a few of which begin with small little-endian numbers as minidb does.
HEADS = {
    "zeros": bytes(100),
    "gguf": b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(56),
    "onnx": b"\x08\x07\x12\x07pytorch\x3a\x10",
    "flatbuffer": b"\x1c\0\0\0TFL3\x14\0\x20\0\x04\0\x08\0\x0c\0\x10\0",
    "mxnet": b"\x12\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0",
    "torch 7": b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1\x11\0\0\0torch.FloatTensor" + bytes(40),
    "torch 7 table": b"\x03\0\0\0\x01\0\0\0\x02\0\0\0\x01\0\0\0" + bytes(40),
    "nifti": b"\x5c\x01\0\0" + bytes(344),
    "tfrecord": b"\x18\0\0\0\0\0\0\0\xa3\x7f\x4b\x22" + bytes(40),
    "idx": b"\0\0\x08\x03\0\0\xea\x60" + bytes(40),
    "safetensors": b"\x40\0\0\0\0\0\0\0" + b'{"w":{"dtype":"F32"' + bytes(60),
    "int32 array": np.arange(1, 40, dtype="<i4").tobytes(),
    "int32 ones": np.ones(40, "<i4").tobytes(),
    "float32 array": np.arange(1, 40, dtype="<f4").tobytes(),
    "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64,
}


@pytest.mark.parametrize("name", HEADS)
def test_other_heads_are_not_minidb(name: str) -> None:
    assert not looks(HEADS[name])


def test_no_other_golden_file_is_minidb() -> None:
    ours = {GOLDEN / name for name in WITH_RECORDS} | set(GOLDEN.glob("checkpoint_op/a_*"))
    others = [
        path
        for path in GOLDEN.rglob("*")
        if path.is_file() and path.suffix != ".minidb" and path not in ours
    ]
    assert len(others) > 60
    assert [path.name for path in others if looks(path.read_bytes())] == []


@given(st.binary(max_size=200))
def test_random_bytes_look_like_minidb_only_where_a_record_is(data: bytes) -> None:
    if looks(data):
        key_size, value_size = struct.unpack_from("<ii", data)
        assert 0 < key_size < len(data)
        assert value_size > 0
