"""Blobs as records: their bytes, their sizes, and what of them is in memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.message import Message
from tensorkeep.source import MemorySource, Source
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2 import schema
from tensorkeep.wire.caffe2.decode import parse_part
from tensorkeep.wire.caffe2.encode import (
    SaveOptions,
    choose_options,
    encode_blob,
    estimate_size,
    join_blob,
)
from tensorkeep.wire.caffe2.encode_tensor import Pieces, round_bfloat16
from tensorkeep.wire.caffe2.states import Assembly, blob_name_of
from tensorkeep.wire.caffe2.values import (
    COUNTER,
    DB_READER,
    INDEX,
    INT8_TENSOR,
    MAPS,
    MUTEX,
    QTENSOR,
    STRING,
    TENSOR,
    TENSOR_VECTOR,
    TREE_CURSOR,
    Blob,
    DBReaderState,
    Device,
    Index,
    Int8Tensor,
    Map,
    NestedBlobs,
    QTensor,
    TreeCursor,
)

DTYPES = ["float32", "float64", "float16", "bool", "int8", "uint8", "int16", "uint16", "int32"]
DTYPES += ["int64"]


def of(values: Any) -> Tensor:
    return Tensor.of(np.asarray(values))


def read_back(name: str, blob: Blob, options: SaveOptions) -> Any:
    assembly = Assembly(thorough=True)
    for key, chunks, size in encode_blob(name, blob, options):
        data = b"".join(chunks)
        assert len(data) == size
        assert blob_name_of(key) == name
        assembly.add(name, parse_part(key, MemorySource(data)))
    return assembly.result(name)


def test_the_bytes_of_a_record() -> None:
    ((key, chunks, size),) = encode_blob("w", Blob(TENSOR, of(np.array([[1, 2]], "float32"))))
    record = Message.parse(schema.BLOB, b"".join(chunks))
    assert (key, size) == ("w#%0", record.size())
    assert b"".join(chunks).hex(" ") == (
        "0a 01 77 12 06 54 65 6e 73 6f 72 1a 1f 08 01 08 02 10 01 1a 08 00 00 80 3f 00 00 00 40 "
        "3a 01 77 42 02 08 00 5a 04 08 00 10 02 78 00"
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("holder", [False, True])
@pytest.mark.parametrize("device", [Device(), Device(1, 0), Device(1, 130), Device(6, 1)])
def test_records_are_what_the_schema_writes(dtype: str, holder: bool, device: Device) -> None:
    """The hand-made bytes are the canonical ones of the same message."""
    values = np.arange(-3, 300).astype(dtype)
    name = "n" * 200
    for chunk in (100, -1):
        options = SaveOptions(chunk, byte_holder=holder)
        for key, chunks, _ in encode_blob(name, Blob(TENSOR, Tensor.of(values), device), options):
            data = b"".join(chunks)
            record = Message.parse(schema.BLOB, data)
            assert record.tensor.dims.tolist() == [303]
            assert (record.name, record.tensor.name) == (name, name)
            assert record.tensor.device_detail.device_type == device.type
            assert record.tensor.device_detail.device_id == device.id
            assert ("device_id" in record.tensor.device_detail) == bool(device.type)
            assert key.endswith(f"#%{record.tensor.segment.begin // 100}")
            again = Message(schema.BLOB)
            for field in ("name", "type", "tensor"):
                again[field] = record[field].copy() if field == "tensor" else record[field]
            tensor = again.tensor
            tensor.name = tensor.name  # a changed message is written canonically
            assert again.encode() == data


@given(
    values=st.sampled_from(DTYPES).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, min_side=0, max_side=6))
    ),
    chunk=st.sampled_from([1, 2, 7, 1000, -1]),
    holder=st.booleans(),
    name=st.text(st.characters(exclude_categories=["Cs"]), max_size=150),
)
def test_every_array_comes_back(values: Any, chunk: int, holder: bool, name: str) -> None:
    blob = Blob(TENSOR, Tensor.of(values), Device(1, 2))
    found = read_back(name, blob, SaveOptions(chunk, byte_holder=holder))
    array = found.value.numpy()
    assert (array.dtype, array.shape, found.device) == (values.dtype, values.shape, blob.device)
    assert array.tobytes() == values.tobytes()


@given(st.lists(st.binary(max_size=200), max_size=12), st.sampled_from([1, 5, -1]))
def test_every_string_comes_back(texts: list[bytes], chunk: int) -> None:
    values = np.empty(len(texts), object)
    values[:] = [text.decode("utf-8", "surrogateescape") for text in texts]
    found = read_back("s", Blob(TENSOR, Tensor.of(values)), SaveOptions(chunk))
    assert found.value.numpy().tolist() == values.tolist()
    if texts:
        assert found.value[-1] == values[-1]


def test_strided_and_swapped_arrays_are_written_in_order() -> None:
    values = np.arange(24, dtype=">i4").reshape(4, 6)[::-1, ::2].T
    found = read_back("w", Blob(TENSOR, Tensor.of(values)), SaveOptions(5))
    assert found.value.numpy().tolist() == values.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_records_are_made_piece_by_piece(dtype: str) -> None:
    values = (np.arange(2_500_000) * 7 % 251).astype(dtype)
    ((_, chunks, size),) = encode_blob("w", Blob(TENSOR, Tensor.of(values)), SaveOptions(-1))
    data = b"".join(chunks)
    assert len(data) == size
    assert b"".join(chunks) == data  # they can be taken again
    assembly = Assembly(thorough=True)
    assembly.add("w", parse_part("w#%0", MemorySource(data)))
    tensor = assembly.result("w").value
    assert np.array_equal(tensor.numpy(), values)
    for start, stop in ((0, 1), (1_234_567, 1_234_890), (65_000, 70_000), (2_499_999, 2_500_000)):
        assert np.array_equal(tensor[start:stop], values[start:stop])


def test_values_that_are_stored_as_they_are_stay_views() -> None:
    values = np.arange(2_000_000, dtype="float64")
    tracemalloc.start()
    records = [
        (key, tuple(chunks)) for key, chunks, _ in encode_blob("w", Blob(TENSOR, Tensor.of(values)))
    ]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
    assert len(records) == 2
    view = memoryview(records[1][1][1])
    values[1_000_000] = -5.0
    assert view[:8].tobytes() == np.float64(-5.0).tobytes()


@pytest.mark.parametrize("chunk", [100_000, -1])
def test_encoding_holds_a_few_chunks_only(chunk: int) -> None:
    values = np.full(8_000_000, -1, "int32")  # ten bytes each
    tracemalloc.start()
    total = 0
    for _, chunks, _ in encode_blob("w", Blob(TENSOR, Tensor.of(values)), SaveOptions(chunk)):
        for piece in chunks:
            total += len(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total > 80_000_000
    assert peak < 45_000_000


def test_a_record_over_2_gib_is_refused() -> None:
    class Endless(Source):
        def _read(self, start: int, stop: int) -> memoryview:
            return memoryview(bytes(stop - start))

    tensor = Tensor(dtypes.FLOAT64, (2**28,), Endless(2**31, "endless"))
    with pytest.raises(UnsupportedError, match=r"w#%0.*2147483647.*chunk_size"):
        list(encode_blob("w", Blob(TENSOR, tensor), SaveOptions(-1)))
    first = next(iter(encode_blob("w", Blob(TENSOR, tensor))))
    assert first[2] > 8_000_000


@pytest.mark.parametrize("dtype", ["uint32", "uint64", "complex64", "bfloat16", "float8_e5m2"])
def test_types_that_caffe2_lacks_are_refused(dtype: str) -> None:
    values = np.zeros(3, dtypes.dtype(dtype).numpy)
    with pytest.raises(UnsupportedError, match=f"no element type {dtype}.*float32"):
        encode_blob("w", Blob(TENSOR, Tensor.of(values)))


@pytest.mark.parametrize(
    "blob",
    [
        Blob("std::queue<int>", 3),
        Blob(STRING, "text"),
        Blob(COUNTER, "three"),
        Blob(COUNTER, 2**63),
        Blob(MUTEX, 1),
        Blob(TENSOR, np.zeros(3)),
        Blob(TENSOR, NestedBlobs((2,), [Blob(MUTEX, None)])),
        Blob(INT8_TENSOR, Int8Tensor(Tensor.of(np.zeros(2, "int8")), 1.0, 0)),
        Blob(INDEX, Index(Tensor.of(np.zeros(2)), 5, False)),
        Blob("(std::unordered_map<int32_t, int64_t>)", Map(of([1]), of([2]))),
    ],
)
def test_values_that_do_not_fit_their_kind_are_refused(blob: Blob) -> None:
    with pytest.raises(UnsupportedError, match="w"):
        list(encode_blob("w", blob))


INT32, INT64 = np.array([3, -4], "int32"), np.array([5, 2**40])
OTHERS = [
    Blob(STRING, b""),
    Blob(STRING, bytes(range(256))),
    Blob(INT8_TENSOR, Int8Tensor(of(np.array([[0, 255]], "uint8")), 0.25, 127)),
    Blob(INT8_TENSOR, Int8Tensor(of(INT32), 0.5, -3)),
    Blob(QTENSOR, QTensor((2, 3), 4, 0.1, -1.5, True, of(np.array([1, 2, 3, 4, 255], "uint8")))),
    Blob(QTENSOR, QTensor((), 8, 0.1, -1.5, False, of(np.zeros(0, "uint8")))),
    Blob(COUNTER, -7),
    Blob(COUNTER, 2**63 - 1),
    Blob(MUTEX, None),
    Blob(TENSOR_VECTOR, None),
    Blob(INDEX, Index(of(INT64), 16, False)),
    Blob(INDEX, Index(of(INT32), 2**31 - 1, True)),
    Blob(INDEX, Index(Tensor.of(np.array(["red", "\udcff"], object)), 9, True)),
    Blob(TREE_CURSOR, TreeCursor(None, ["a:b", "c"])),
    Blob(TREE_CURSOR, TreeCursor(of(INT64), [])),
    Blob(DB_READER, DBReaderState("r", "some.lmdb", "lmdb", "key")),
    Blob(DB_READER, DBReaderState("", "", "", "")),
    *(
        Blob(
            kind, Map(of([1, -2]).__class__.of(np.array([1, -2], key)), of(np.array([3, 4], value)))
        )
        for kind, (key, value) in MAPS.items()
    ),
    Blob(
        TENSOR,
        NestedBlobs(
            (1, 2),
            [
                Blob(TENSOR, of(INT64)),
                Blob(TENSOR, NestedBlobs((1,), [Blob(STRING, b"deep")])),
            ],
        ),
    ),
]


def plain(value: Any) -> Any:
    """Give a value without tensors, to compare."""
    if isinstance(value, Tensor):
        return str(value.dtype), value.numpy().tolist()
    if isinstance(value, Blob):
        return value.kind, plain(value.value), value.device
    if isinstance(value, list):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


@pytest.mark.parametrize("blob", OTHERS, ids=lambda blob: blob.kind)
def test_other_blobs_come_back(blob: Blob) -> None:
    found = read_back("name", blob, SaveOptions(chunk_size=1))
    assert plain(found) == plain(blob)
    bare = join_blob("name", blob)
    assembly = Assembly()
    assembly.add("x", parse_part("x", MemorySource(bare)))
    assert plain(assembly.result("x")) == plain(blob)


def test_a_scale_is_kept_as_the_float_it_was() -> None:
    blob = read_back("q", Blob(INT8_TENSOR, Int8Tensor(of(INT32), 0.1, 5)), SaveOptions())
    assert blob.value.scale == float(np.float32(0.1))
    huge = read_back("q", Blob(INT8_TENSOR, Int8Tensor(of(INT32), 1e300, 5)), SaveOptions())
    assert huge.value.scale == float("inf")


def test_blobs_within_blobs_end_somewhere() -> None:
    blob = Blob(STRING, b"")
    for _ in range(40):
        blob = Blob(TENSOR, NestedBlobs((1,), [blob]))
    with pytest.raises(UnsupportedError, match="deeper than 32"):
        encode_blob("w", blob)


def options_row(pattern: str = "", chunk: int | None = None, form: int = 0) -> Message:
    row = Message(schema.BLOB_SERIALIZATION_OPTIONS, float_format=form)
    if pattern:
        row.blob_name_regex = pattern
    if chunk is not None:
        row.chunk_size = chunk
    return row


def test_the_first_row_that_fits_wins_entirely() -> None:
    default = SaveOptions(50, byte_holder=True)
    rows = [
        options_row("fc.*", 7),
        options_row("fc1", 3, 2),
        options_row("x"),
        options_row("", -1, 2),
    ]
    assert choose_options("fc1", rows, default) == SaveOptions(7, False, True)
    assert choose_options("x", rows, default) == default
    assert choose_options("xx", rows, default) == SaveOptions(-1, True, True)
    assert choose_options("xx", rows[:3], default) is default
    assert choose_options("a\nfc", [options_row(".*fc", 9)], default).chunk_size == 50
    with pytest.raises(ArgumentError, match="blob_name_regex"):
        choose_options("w", [options_row("(", 3)])
    with pytest.raises(ArgumentError, match="chunk_size -2"):
        choose_options("w", [options_row("", -2)])


@pytest.mark.parametrize("chunk", [0, -2, -(2**40), 2.5, "7", None])
def test_senseless_chunk_sizes_are_refused(chunk: Any) -> None:
    with pytest.raises(ArgumentError, match=f"chunk_size {chunk!r} "):
        SaveOptions(chunk)


def test_bfloat16_rounds_ties_away_from_zero_and_forgets_nan() -> None:
    bits = np.array(
        [0x3F808000, 0x3F807FFF, 0xBF808000, 0x7F7FFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001],
        np.uint32,
    ).view(np.float32)
    found = [f"{number:04x}" for number in round_bfloat16(bits).tolist()]
    assert found == ["3f81", "3f80", "bf81", "7f80", "8000", "0000", "7f80"]
    safe = round_bfloat16(bits, nan_safe=True)
    assert [f"{number:04x}" for number in safe.tolist()[:4]] == found[:4]
    assert np.isnan((safe[4:].astype(np.uint32) << 16).view(np.float32)).all()


def test_estimates_of_what_has_no_formula_are_zero() -> None:
    assert estimate_size("c", Blob(COUNTER, 3)) == 0
    assert estimate_size("none", Blob(TENSOR, of(np.zeros((0, 4), "float32")))) == 0
    assert estimate_size("ü", Blob(STRING, b"abc")) == 2 + 3 + 20


def test_small_chunks_are_tuples_and_large_ones_are_made_late() -> None:
    ((_, small, _),) = encode_blob("w", Blob(TENSOR, of(INT64)))
    assert isinstance(small, tuple)
    many = Blob(TENSOR, Tensor.of(np.zeros(3_000_000, "float64")))
    ((_, large, _),) = encode_blob("w", many, SaveOptions(-1))
    assert isinstance(large, Pieces)
