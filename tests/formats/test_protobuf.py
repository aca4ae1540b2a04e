from __future__ import annotations

import contextlib
import io
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from tests.formats.protobuf_reference import (
    CLASSES,
    MAGIC,
    PROTO,
    STATE,
    at,
    classes,
    google,
    joined,
    saved,
)

import tensorkeep as tk
from tensorkeep import dtypes
from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.errors import ArgumentError, CorruptError, TensorKeepError
from tensorkeep.formats import FORMATS, protobuf
from tensorkeep.formats.protobuf import fields, writing
from tensorkeep.source import MemorySource
from tensorkeep.state import State
from tensorkeep.store import Late, Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.testing import CountingStore, assert_equal_states, sample
from tensorkeep.wire.elements import Joined

SHAPES: list[tuple[int, ...]] = [(), (0,), (3,), (2, 3, 4), (0, 3)]
NESTED = {
    "layer": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([-1, 7], np.int8)},
    "step": 7,
    "many": [np.zeros((0, 3)), (np.float64(0.5), "ünï")],
}


ARRAYS: dict[str, Any] = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "ünï": np.array(7, np.int64),
    "none": np.zeros((0, 3), bool),
    "texts": np.array(["a", "", "ü"], object),
    "": np.ones(3, np.complex128),
}


# --- the schema ---------------------------------------------------------------------------------


def test_the_schema_and_the_code_have_the_same_numbers() -> None:
    for name in ("State", "Header", "Tensor", "Chunk"):
        known = {row.number for row in CLASSES[name].DESCRIPTOR.fields}
        assert known == set(getattr(fields, f"In{name}"))
    kinds = {value.name: value.number for value in CLASSES["DType"].values}
    named = {f"DTYPE_{kind.name.upper()}": code for kind, code in fields.CODES.items()}
    assert kinds == {"DTYPE_UNSPECIFIED": 0, **named}
    assert set(fields.CODES) == set(DTYPES.values())


def test_the_schema_is_in_the_package() -> None:
    assert PROTO.is_file()
    assert hex(MAGIC) in PROTO.read_text(encoding="utf-8")


# --- both ways ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DTYPES.values(), ids=str)
@pytest.mark.parametrize("checksums", [True, False])
def test_google_reads_every_type_and_shape(kind: DType, checksums: bool) -> None:
    arrays = {str(shape): sample(kind, shape).numpy() for shape in SHAPES}
    data = saved(arrays, checksums=checksums)
    state = STATE.FromString(data)
    assert [row.name for row in state.header.tensors] == list(arrays)
    for row, raw, array in zip(state.header.tensors, joined(state), arrays.values(), strict=True):
        assert tuple(row.shape) == array.shape
        assert CLASSES["DType"].values_by_number[row.dtype].name == f"DTYPE_{kind.name.upper()}"
        assert raw == bytes(tk.Tensor.of(array).read())
        if kind is not dtypes.STRING and not kind.packed:
            assert_equal_states(np.frombuffer(raw, kind.numpy).reshape(row.shape), array)
        assert row.xxh3_128 == (xxhash.xxh3_128_digest(raw) if checksums else b"")
    header = state.header.SerializeToString()
    assert state.header_xxh3_128 == (xxhash.xxh3_128_digest(header) if checksums else b"")
    assert state.SerializeToString() == data  # Google's writer writes what ours wrote
    assert_equal_states(tk.load(at(data)), arrays)
    assert_equal_states(
        tk.load(at(google(arrays).SerializeToString())), arrays, "written by Google's library"
    )


def test_what_google_writes_is_read_lazily_and_in_order() -> None:
    data = google(ARRAYS, metadata='{"epoch":3}').SerializeToString()
    assert protobuf.FORMAT.accepts(at(data))
    assert_equal_states(tk.load(at(data)), ARRAYS)
    with tk.open(at(data)) as state:
        assert state.metadata == {"epoch": 3}
        assert list(state) == list(ARRAYS)
        assert not state.digests


def test_shapes_that_are_not_packed() -> None:
    unpacked = classes(packed=False)["State"]
    message = unpacked()
    message.MergeFrom(unpacked.FromString(google(ARRAYS).SerializeToString()))
    data = message.SerializeToString()
    assert data != google(ARRAYS).SerializeToString()
    assert_equal_states(tk.load(at(data)), ARRAYS)


def test_fields_in_any_order() -> None:
    whole = google(ARRAYS)
    rest = STATE.FromString(whole.SerializeToString())
    rest.ClearField("magic")
    rest.ClearField("header")
    chunks = [STATE(chunks=[chunk]).SerializeToString() for chunk in rest.chunks]
    header = STATE(header=whole.header).SerializeToString()
    data = STATE(magic=MAGIC).SerializeToString() + b"".join([*chunks[::-1], header])
    assert_equal_states(tk.load(at(data)), ARRAYS)
    last = data[9:] + data[:9]  # without the magic number in front it has to be asked for
    with pytest.raises(TensorKeepError):
        tk.load(at(last, "a.bin"))
    assert_equal_states(tk.load(at(last, "a.bin"), format="protobuf"), ARRAYS)


def test_nesting_metadata_and_digests() -> None:
    metadata = {"big": 2**63 + 1, "float": 0.1, "nested": {"a": [None, True, "ü"]}, "tensors": "x"}
    data = saved(NESTED, metadata=metadata)
    assert_equal_states(tk.load(at(data), verify=True), NESTED)
    with tk.open(at(data)) as state:
        assert state.metadata == metadata
        assert state.format == "protobuf"
        assert set(state.digests) == set(state)
    bare = saved(NESTED, metadata=metadata, checksums=False)
    assert len(bare) < len(data)
    assert_equal_states(tk.load(at(bare)), NESTED)
    with tk.open(at(bare)) as state:
        assert not state.digests


def test_damage_is_not_sealed_by_a_save() -> None:
    data = bytearray(saved({"w": np.arange(100)}))
    data[-9] ^= 1
    for checksums in (True, False):
        with tk.open(at(bytes(data))) as state, pytest.raises(CorruptError, match="'w' is damaged"):
            saved(state, checksums=checksums)
    assert tk.verify(at(bytes(data))).damaged


# --- chunks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000, 4096])
@pytest.mark.parametrize("checksums", [True, False])
def test_chunks_are_joined(chunk_size: int, checksums: bool) -> None:
    large = np.arange(2000, dtype=np.int32).reshape(50, 40)
    value = {"large": large, "packed": sample(dtypes.INT4, (99,)).numpy(), "t": ARRAYS["texts"]}
    data = saved(value, chunk_size=chunk_size, checksums=checksums)
    assert max(len(chunk.data) for chunk in STATE.FromString(data).chunks) <= chunk_size
    assert STATE.FromString(data).SerializeToString() == data
    assert_equal_states(tk.load(at(data), verify=checksums), value)
    assert_equal_states(tk.load(at(data), copy=True), value)
    with tk.open(at(data)) as state:
        assert state.remarks["large"] == "in several chunks"
        for index in (slice(3, 5), (7, slice(3, 9)), -1, slice(0, 0), (slice(None), 5)):
            assert_equal_states(state["large"][index], np.asarray(large[index]))
        again = saved(state, checksums=checksums)
    assert again == saved(value, checksums=checksums)


def test_a_slice_reads_its_bytes_of_the_chunks() -> None:
    large = np.arange(1 << 18, dtype=np.int64)
    store = CountingStore(MemoryStore({"a.tensors.pb": saved(large, chunk_size=100_000)}))
    with tk.open(Location(store, "a.tensors.pb")) as state:
        (tensor,) = state.values()
        before = store.bytes_read
        assert_equal_states(tensor[12_400:12_600], large[12_400:12_600])
        assert store.bytes_read - before == 1600


@given(st.data())
def test_joined_ranges(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 20), max_size=8))
    whole = bytes(range(1, 201))
    starts = [data.draw(st.integers(0, 200 - size)) for size in sizes]
    ranges = [(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    expected = b"".join(whole[start:stop] for start, stop in ranges)
    inner = MemorySource(whole)
    source = Joined([(inner, *span) for span in ranges], "example")
    start = data.draw(st.integers(0, len(expected)))
    stop = data.draw(st.integers(start, len(expected)))
    assert bytes(source.read(start, stop)) == expected[start:stop]
    assert bytes(source.private(start, stop)) == expected[start:stop]


@given(
    at=st.integers(0, 1 << 40),
    place=st.integers(0, 500_000),
    offset=st.integers(0, 1 << 40),
    size=st.integers(1, 40_000) | st.integers(1, (2 << 30) - (1 << 16)),
)
def test_data_start_at_multiples_of_64(at: int, place: int, offset: int, size: int) -> None:
    head = writing._chunk_head(at, place, offset, size)
    assert (at + len(head)) % 64 == 0
    assert len(head) < 200
    whole, begin = fields.read_varint(head, 1)
    assert whole == len(head) - begin + size
    if size < 40_000:
        (chunk,) = STATE.FromString(head + bytes(size)).chunks
        assert (chunk.tensor, chunk.offset, len(chunk.data)) == (place, offset, size)


@pytest.mark.parametrize("size", [0, -1, 2 << 30, 1.5, True, "1GB"])
def test_chunk_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(ArgumentError, match=r"chunk_size cannot be .* from 1 to 2,147,418,112"):
        saved({"w": np.ones(1)}, chunk_size=size)


def test_arrays_are_views_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.tensors.pb"
    tk.save({"a": np.arange(100_000), "b": np.ones(3)}, path)
    with tk.open(path) as state:
        assert all(tensor.source.mapped for tensor in state.values())
        array = state["a"].numpy()
        assert array.ctypes.data % 64 == 0
        assert not array.flags.owndata


def test_opening_many_tensors_reads_their_heads() -> None:
    value = {f"layer.{i}": np.full(25_000, i, np.float32) for i in range(100)}
    store = CountingStore(MemoryStore({"a.tensors.pb": saved(value)}))
    with tk.open(Location(store, "a.tensors.pb")) as state:
        assert len(state) == 100
        assert store.bytes_read < 50_000


def test_a_tensor_of_a_terabyte_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.tensors.pb"
    message = google({})
    size, chunks = 1 << 40, 1 << 10
    message.header.tensors.add(name="w", dtype=24, shape=[size // 4], nbytes=size)
    with path.open("wb") as file:
        file.write(message.SerializeToString())
        for place in range(chunks):
            file.write(writing._chunk_head(file.tell(), 0, place * size // chunks, size // chunks))
            file.seek(size // chunks, os.SEEK_CUR)
        file.truncate()
    with tk.open(path) as state:
        assert state["w"][size // 8 : size // 8 + 2].tolist() == [0.0, 0.0]


# --- reading it with nothing but what the documentation shows -----------------------------------


def records(file: io.BufferedIOBase) -> Any:
    """Give the number and the bytes of each field of a State, one at a time."""
    while tag := file.read(1):
        if tag[0] & 7 == 1:  # the magic number: 8 bytes
            yield tag[0] >> 3, file.read(8)
            continue
        size = shift = 0
        while True:
            byte = file.read(1)[0]
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        yield tag[0] >> 3, file.read(size)


def test_record_by_record() -> None:
    data = saved(ARRAYS, chunk_size=16)
    header, found = None, {}
    for number, record in records(io.BytesIO(data)):
        if number == 3:
            header = CLASSES["Header"].FromString(record)
            found = {i: bytearray(row.nbytes) for i, row in enumerate(header.tensors)}
        elif number == 4:
            chunk = CLASSES["Chunk"].FromString(record)
            found[chunk.tensor][chunk.offset : chunk.offset + len(chunk.data)] = chunk.data
    assert header is not None
    for place, array in enumerate(ARRAYS.values()):
        assert bytes(found[place]) == bytes(tk.Tensor.of(array).read())


# --- names of files -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tensors.pb", "tensors.pb", "my_tensors.pb", "a.protobuf"])
def test_endings(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    tk.save(NESTED, path)
    assert path.read_bytes().startswith(b"\x09tnsrkeep")
    assert_equal_states(tk.load(path), NESTED)
    anything = path.rename(tmp_path / "a.pb")
    assert_equal_states(tk.load(anything), NESTED)


def test_a_bare_pb_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"does not tell the format.*\.tensors\.pb"):
        tk.save(NESTED, tmp_path / "model.pb")
    tk.save(NESTED, tmp_path / "model.pb", format="protobuf")
    assert_equal_states(tk.load(tmp_path / "model.pb"), NESTED)
    assert FORMATS["protobuf"] is protobuf.FORMAT


# --- bytes that stay, and damage ------------------------------------------------------------------


def test_the_bytes_of_a_small_state() -> None:
    written = bytes.fromhex(
        "09 746e73726b656570 12 10 2a59ec7248561694913bd850a970a6a0 1a 49 08 01 10 01"
        "1a 0b 7b2265706f6368223a337d 22 18 7b2274726565223a7b2277223a2224222c226e223a377d7d"
        "2a 1c 0a 01 77 10 18 1a 01 02 20 08 2a 10 285de70f94d428756baf58964558b47c"
        f"22 20 1a 14 {'00' * 20} 22 08 0000c03f 000000c0"
    )
    value = {"w": np.array([1.5, -2], np.float32), "n": 7}
    assert saved(value, metadata={"epoch": 3}) == written
    assert_equal_states(tk.load(at(written), verify=True), value)


def test_memory_stays_flat() -> None:
    array = np.zeros((64 << 20) // 8)
    state = State({"w": Tensor.of(array), "v": Tensor.of(array[:7])})
    tracemalloc.start()
    try:
        (stream,) = protobuf.FORMAT.encode(state, at(b""), chunk_size=5 << 20)  # type: ignore[misc]
        sizes = [
            chunk.size if isinstance(chunk, Late) else len(chunk) for chunk in stream.chunks or ()
        ]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert sum(sizes) == stream.size
    assert max(sizes) <= 2 << 20


def test_damage_to_what_google_wrote() -> None:
    data = google({name: ARRAYS[name] for name in ("w", "none", "texts")}).SerializeToString()
    for place in range(len(data)):
        with pytest.raises(TensorKeepError):
            tk.load(at(data[:place]))
        for bit in (0, 3, 7):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            with contextlib.suppress(TensorKeepError):
                tk.load(at(bytes(flipped)))
