"""Records of any writer and any damage: what they say is read, and little else of the file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tensorkeep.errors import CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.message import Message
from tensorkeep.source import MemorySource, Source
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2 import decode, schema
from tensorkeep.wire.caffe2.decode import parse_part, parse_tensor
from tensorkeep.wire.caffe2.encode import SaveOptions, encode_blob
from tensorkeep.wire.caffe2.states import Assembly
from tensorkeep.wire.caffe2.values import (
    COUNTER,
    INDEX,
    INT8_TENSOR,
    QTENSOR,
    STRING,
    TENSOR,
    TREE_CURSOR,
    Blob,
    Device,
    Index,
    Int8Tensor,
    Map,
    NestedBlobs,
    QTensor,
    TreeCursor,
)


class Watched(MemorySource):
    """Bytes in memory that count how many of them were read."""

    __slots__ = ("taken",)

    def __init__(self, data: bytes, where: str = "watched") -> None:
        super().__init__(data, where)
        self.taken = 0

    def _read(self, start: int, stop: int) -> memoryview:
        self.taken += stop - start
        return super()._read(start, stop)


WHOLE = SaveOptions(-1)


def record(blob: Blob, options: SaveOptions = WHOLE, name: str = "w") -> bytes:
    ((_, chunks, _),) = encode_blob(name, blob, options)
    return b"".join(chunks)


def load(data: bytes | Source, *, strict: bool = True) -> Any:
    source = MemorySource(data) if isinstance(data, bytes) else data
    assembly = Assembly(strict=strict)
    assembly.add("w", parse_part("w#%0", source, strict=strict))
    return assembly.result("w").value


def blob_of(tensor: bytes, before: bytes = b"") -> bytes:
    """Wrap an encoded TensorProto."""
    return before + b"\x12\x06Tensor\x1a" + varint(len(tensor)) + tensor


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_a_part_says_what_its_record_says() -> None:
    data = record(Blob(TENSOR, Tensor.of(np.zeros((2, 3), "int16")), Device(1, 4)))
    part = parse_part("w#%0", MemorySource(data, "f.minidb"))
    assert (part.key, part.kind, part.device) == ("w#%0", TENSOR, Device(1, 4))
    assert (part.code, str(part.dtype), part.dims, part.count) == (9, "int16", (2, 3), 6)
    assert (part.begin, part.end, part.has_segment, part.has_tensor) == (0, 6, True, True)
    assert (part.content, part.content_num_chunks, part.content_chunk_id) == (b"", None, 0)
    assert part.where == "f.minidb: 'w#%0', elements 0 to 6"
    assert repr(part) == "Part('w#%0', 'Tensor', (2, 3), elements 0 to 6)"


def test_a_record_may_lie_anywhere_in_its_source() -> None:
    values = np.arange(300, dtype="float32")
    for array in (values, values.astype("int64"), np.zeros(100_000)):
        data = record(Blob(TENSOR, Tensor.of(array)))
        source = MemorySource(b"before" + data + b"behind")
        part = parse_part("w#%0", source, start=6, stop=6 + len(data))
        again = parse_part("w#%0", source, start=6, stop=6 + len(data), data=data)
        for one in (part, again):
            assembly = Assembly()
            assembly.add("w", one)
            assert np.array_equal(assembly.result("w").value.numpy(), array)


def test_whole_plain_values_are_not_copied() -> None:
    data = bytearray(record(Blob(TENSOR, Tensor.of(np.arange(50_000, dtype="float32")))))
    tensor = load(MemorySource(data))
    data[tensor.offset : tensor.offset + 4] = struct.pack("<f", -9.0)
    assert tensor[0] == -9.0


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "float16"])
def test_opening_reads_the_head_alone(dtype: str) -> None:
    data = record(Blob(TENSOR, Tensor.of((np.arange(400_000) % 100).astype(dtype))))
    source = Watched(data)
    tensor = load(source)
    assert tensor.shape == (400_000,)
    assert source.taken < 2500


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        (SaveOptions(10_000), "float32"),
        (SaveOptions(10_000), "int64"),
        (SaveOptions(10_000, bfloat16=True), "float32"),
        (SaveOptions(10_000, byte_holder=True), "int16"),
    ],
)
def test_a_section_reads_the_chunks_that_hold_it(options: SaveOptions, dtype: str) -> None:
    values = (np.arange(100_000) % 128).astype(dtype).reshape(100, 1000)
    assembly, sources = Assembly(), []
    for key, chunks, _ in encode_blob("w", Blob(TENSOR, Tensor.of(values)), options):
        sources.append(Watched(b"".join(chunks)))
        assembly.add("w", parse_part(key, sources[-1]))
    tensor = assembly.result("w").value
    for source in sources:
        source.taken = 0
    assert tensor[35, 7:9].tolist() == values[35, 7:9].tolist()
    assert [i for i, source in enumerate(sources) if source.taken] == [3]
    assert tensor[59:61].tolist() == values[59:61].tolist()
    assert [i for i, source in enumerate(sources) if source.taken] == [3, 5, 6]


def test_a_section_of_one_long_record_decodes_little() -> None:
    values = np.arange(1_000_000) * 37 % 5_000_000
    source = Watched(record(Blob(TENSOR, Tensor.of(values))))
    tensor = load(source)
    assert tensor[500_000:500_010].tolist() == values[500_000:500_010].tolist()
    source.taken = 0  # the varints were counted once
    for start in range(0, 1_000_000, 99_991):
        assert tensor[start : start + 3].tolist() == values[start : start + 3].tolist()
    assert source.taken < 11 * 140_000


def test_large_tensors_are_decoded_by_threads_into_the_array_they_belong_to() -> None:
    values = np.random.default_rng(1).integers(-(2**40), 2**40, 1_200_000)
    assembly = Assembly(thorough=True)
    for key, chunks, _ in encode_blob("w", Blob(TENSOR, Tensor.of(values)), SaveOptions(50_000)):
        assembly.add("w", parse_part(key, MemorySource(b"".join(chunks))))
    tensor = assembly.result("w").value
    out = np.zeros(values.size + 1, "int64")
    tensor.source.readinto(0, out[1:].view(np.uint8).data)
    assert np.array_equal(out[1:], values)
    odd = bytearray(101)
    tensor.source.readinto(7, memoryview(odd))
    assert odd == values.tobytes()[7:108]
    assert bytes(tensor.source.read(3, 20)) == values.tobytes()[3:20]
    private = tensor.source.private(0, 16)
    private[:8] = bytes(8)
    assert tensor[0] == values[0]
    with pytest.raises(CorruptError):
        tensor.source.read(0, values.nbytes + 1)
    assert bytes(tensor.source.read(8, 8)) == b""


PACKED = Message(
    schema.TENSOR,
    dims=[3],
    data_type=2,
    int32_data=[1, -1, 300],
    name="w",
    segment=Message(schema.SEGMENT, begin=0, end=3),
).encode()
LOOSE = b"\x20\x01\x20" + b"\xff" * 9 + b"\x01\x20\xac\x02"
VALUES = b"\x22\x0d\x01" + b"\xff" * 9 + b"\x01\xac\x02"

SPELLINGS: dict[str, tuple[bytes, list[Any]]] = {
    "packed": (blob_of(PACKED), [1, -1, 300]),
    "loose": (blob_of(b"\x08\x03\x10\x02" + LOOSE), [1, -1, 300]),
    "packed dims": (blob_of(b"\x0a\x02\x03\x01\x10\x02" + VALUES), [[1], [-1], [300]]),
    "in two": (
        blob_of(b"\x08\x03\x10\x02\x22\x01\x01\x3a\x01x\x22\x0c" + VALUES[3:]),
        [1, -1, 300],
    ),
    "mixed": (blob_of(b"\x08\x03\x10\x02\x22\x01\x01\x20\x07\x22\x01\x08"), [1, 7, 8]),
    "other wire types": (
        blob_of(b"\x08\x02\x10\x02\x20\x05\x25abcd\x20\x06\x0d\x01\x00\x00\x00"),
        [5, 6],
    ),
    "any order": (blob_of(VALUES + b"\x10\x02\x08\x03", b"\x0a\x01w"), [1, -1, 300]),
    "twice said": (blob_of(b"\x10\x01\x08\x03\x10\x02" + VALUES), [1, -1, 300]),
    "unknown fields": (
        blob_of(
            b"\xa0\x06\x05\x08\x03\xaa\x06\x02hi\x10\x02\xb5\x06abcd" + VALUES,
            before=b"\x41abcdefgh",
        ),
        [1, -1, 300],
    ),
    "unknown type kept out": (blob_of(b"\x10\x02\x10\x63\x08\x03" + VALUES), [1, -1, 300]),
    "float": (blob_of(b"\x08\x02\x10\x01\x1d\x00\x00\x80\x3f\x1d\x00\x00\x00\x40"), [1.0, 2.0]),
    "double": (blob_of(b"\x10\x0d\x49" + struct.pack("<d", 0.1)), [0.1]),
    "narrowed": (blob_of(b"\x08\x03\x10\x07" + VALUES), [1, -1, 44]),
    "bool of any": (blob_of(b"\x08\x02\x10\x05\x22\x02\x00\x07"), [False, True]),
    "bytes before ints": (blob_of(b"\x08\x01\x10\x06\x22\x01\x05\x2a\x01\x09"), [9]),
    "last bytes": (blob_of(b"\x08\x01\x10\x06\x2a\x01\x05\x2a\x01\x09"), [9]),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_the_same_message_is_read(spelling: str) -> None:
    data, expected = SPELLINGS[spelling]
    found = load(data).numpy()
    assert np.ravel(found).tolist() == np.ravel(np.array(expected)).tolist()


def test_a_tensor_in_two_pieces_is_joined_for_caffe2_only() -> None:
    first, second = b"\x08\x03\x10\x02\x22\x01\x05", b"\x22\x02\x06\x07"
    data = blob_of(first) + b"\x1a" + varint(len(second)) + second
    assert load(data, strict=False).numpy().tolist() == [5, 6, 7]
    with pytest.raises(CorruptError, match=r"'w#%0'.*a second tensor"):
        load(data)


REFUSED: dict[str, tuple[bytes, str]] = {
    "no fields": (b"", "has no type"),
    "group": (b"\x0b\x0c", "wire type 3"),
    "number 0": (b"\x02\x00", "the number 0"),
    "long varint": (b"\x30" + b"\x80" * 11, "cut short or too long"),
    "cut varint": (b"\x30\x80", "cut short or too long"),
    "cut bytes": (b"\x0a\x05abc", "past the end"),
    "cut fixed": (b"\x0d\x00", "past the end"),
    "huge length": (b"\x0a" + b"\xff" * 9 + b"\x01", "past the end"),
    "past the tensor": (b"\x12\x06Tensor\x1a\x02\x0a\x05abcde", "past the end"),
    "no values": (blob_of(b"\x08\x03\x10\x02"), "has 0 bytes of int32_data for 3"),
    "few strings": (blob_of(b"\x08\x03\x10\x04\x32\x00"), "has 1 string_data for 3"),
    "half a segment": (blob_of(b"\x08\x03\x10\x02\x5a\x02\x08\x00"), "without a begin and an end"),
    "no axis": (blob_of(b"\x08" + b"\xff" * 9 + b"\x01\x10\x02"), r"the shape \(-1,\)"),
    "too many axes": (blob_of(b"\x08\x01" * 65 + b"\x10\x02\x20\x01"), "65 axes"),
    "no number": (blob_of(b"\x10\x0e"), "data_type 14"),
    "half format": (blob_of(b"\x10\x02\x22\x01\x01\x78\x01"), "data_format 1 with data_type 2"),
    "short bytes": (blob_of(b"\x08\x03\x10\x08\x2a\x05abcde"), "5 bytes of byte_data for 3"),
    "slack without segment": (blob_of(b"\x08\x01\x10\x06\x2a\x02ab"), "2 bytes of byte_data for 1"),
    "bfloat16": (blob_of(b"\x08\x02\x10\x01\x6a\x03abc\x78\x01"), "3 bytes of raw_data for 2"),
    "packed dims cut": (blob_of(b"\x0a\x02\x03\x80\x10\x02"), "cut short"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("strict", [True, False])
def test_what_is_no_record_is_refused(case: str, strict: bool) -> None:
    data, said = REFUSED[case]
    with pytest.raises((CorruptError, UnsupportedError), match=said) as caught:
        load(data, strict=strict)
    assert "w#%0" in str(caught.value)


@pytest.mark.parametrize("axis", [2**40, 2**62, 2**63 - 1])
def test_sizes_that_the_file_does_not_hold_cost_nothing(axis: int) -> None:
    claims = b"\x08" + varint(axis) + b"\x08" + varint(axis)
    with pytest.raises(CorruptError):
        load(blob_of(claims + b"\x10\x02\x22\x01\x01"))
    segment = b"\x5a\x04\x08\x00\x10\x01"
    part = parse_part("w#%0", MemorySource(blob_of(claims + b"\x10\x02\x22\x01\x01" + segment)))
    assembly = Assembly()
    assembly.add("w", part)
    with pytest.raises(CorruptError, match="missing"):
        assembly.validate()
    with pytest.raises(CorruptError):
        assembly.result("w", partial=True).value.numpy()


def test_a_product_of_a_hundred_thousand_axes_is_not_made() -> None:
    axes = (b"\xff" * 8 + b"\x7f") * 100_000
    with pytest.raises(CorruptError, match="100000 axes"):
        load(blob_of(b"\x0a" + varint(len(axes)) + axes + b"\x10\x02"))


def test_bare_tensors() -> None:
    part = parse_tensor("w", MemorySource(b"--" + PACKED + b"--"), start=2, stop=2 + len(PACKED))
    assembly = Assembly()
    assembly.add("w", part)
    assert assembly.result("w").value.numpy().tolist() == [1, -1, 300]
    with pytest.raises(CorruptError, match="past the end"):
        parse_tensor("w", MemorySource(PACKED[:-1]))


def other(kind: str, **fields: Any) -> bytes:
    return Message(schema.BLOB, type=kind, **fields).encode()


def int64s(*values: int, **fields: Any) -> Message:
    return Message(schema.TENSOR, data_type=10, int64_data=list(values), **fields)


PART = Message(schema.SEGMENT, begin=0, end=1)
OTHERS: dict[str, tuple[bytes, str]] = {
    "counter without value": (other(COUNTER, tensor=int64s(dims=[2])), "0 bytes of int64_data"),
    "counter of two": (other(COUNTER, tensor=int64s(1, 2, dims=[2])), "no single int64"),
    "counter without tensor": (other(COUNTER), "has no data_type"),
    "index without state": (other(INDEX, tensor=int64s(1, dims=[1]), content=b"1 "), "says b'1 '"),
    "index without keys": (other(INDEX, content=b"1 0"), "has no data_type"),
    "int8 without qtensor": (other(INT8_TENSOR), "no QTensorProto"),
    "int8 without scale": (
        other(INT8_TENSOR, qtensor=Message(schema.QTENSOR, precision=8)),
        "has no scale",
    ),
    "empty map": (other("(std::unordered_map<int64_t, int64_t>)", content=b""), "is a map"),
    "cursor of a chunk": (
        other(TREE_CURSOR, tensor=int64s(1, dims=[5], segment=PART)),
        "1 of 5 elements",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_blobs_without_what_they_need_are_refused(case: str) -> None:
    data, said = OTHERS[case]
    with pytest.raises(TensorKeepError, match=said) as caught:
        load(data)
    assert "w" in str(caught.value)


def test_what_was_learned_of_one_record_is_not_taken_for_another() -> None:
    decode._LEARNED.clear()
    array = np.arange(6, dtype="float32")
    first = record(Blob(TENSOR, Tensor.of(array)))
    again = record(Blob(TENSOR, Tensor.of(array * 2)), name="x")
    cuda = record(Blob(TENSOR, Tensor.of(array.reshape(2, 3))))
    assert load(first).numpy().tolist() == array.tolist()
    part = parse_part("x#%0", MemorySource(again))
    assert part.head is parse_part("w#%0", MemorySource(first)).head
    assert load(again).numpy().tolist() == (array * 2).tolist()
    assert load(cuda).shape == (2, 3)
    for at in range(len(first)):  # every byte that is neither name nor value counts
        damaged = bytearray(first)
        damaged[at] ^= 0x40
        learned = outcome(bytes(damaged))
        decode._LEARNED.clear()
        assert outcome(bytes(damaged)) == learned
        load(first)


def test_learning_has_an_end() -> None:
    decode._LEARNED.clear()
    for size in range(5000):
        parse_part(
            "s", MemorySource(record(Blob(STRING, b"x" * (size % 70)), name="n" * (size % 90)))
        )
    assert len(decode._LEARNED) <= 4096
    for kind in range(20):
        data = b"\x0a\x01w" + blob_of(b"\x08\x01\x10\x02\x22\x01\x01\x42\x02\x08" + bytes([kind]))
        parse_part("w#%0", MemorySource(data))
    assert max(map(len, decode._LEARNED.values())) <= 8
    decode._LEARNED.clear()
    unused = b"\x2a\xd0\x0f" + bytes(2000)
    data = b"\x0a\x01w" + blob_of(b"\x10\x02\x22\x01\x01" + unused)
    parse_part("w#%0", MemorySource(data))
    assert not decode._LEARNED


def test_what_only_caffe2_reads_is_not_learned() -> None:
    data = b"\x0a\x01w" + blob_of(b"\x08\x01\x10\x02") + b"\x1a\x03\x22\x01\x05"
    assert load(data, strict=False).numpy().tolist() == [5]
    with pytest.raises(CorruptError, match="a second tensor"):
        load(data)


def outcome(data: bytes) -> Any:
    """Give what a record reads as, or the error."""
    try:
        assembly = Assembly(thorough=True)
        assembly.add("w", parse_part("w#%0", MemorySource(data)))
        blob = assembly.result("w", partial=True)
        return blob.kind, touch(blob.value)
    except TensorKeepError as error:
        return type(error), str(error)


def touch(value: Any) -> Any:
    """Read all that a value holds."""
    if isinstance(value, Tensor):
        return str(value.dtype), value.shape, value.numpy().tolist().__repr__()
    if isinstance(value, Blob):
        return value.kind, touch(value.value), value.device
    if isinstance(value, NestedBlobs):
        return value.shape, [touch(blob) for blob in value.blobs]
    if isinstance(value, Int8Tensor):
        return touch(value.data), repr(value.scale), value.zero_point
    if isinstance(value, Index):
        return touch(value.keys), value.max_elements
    if isinstance(value, Map):
        return touch(value.keys), touch(value.values)
    if isinstance(value, QTensor):
        return value.shape, touch(value.data), repr(value.scale)
    if isinstance(value, TreeCursor):
        return value.fields, value.offsets and touch(value.offsets)
    return repr(value)


def of(values: Any) -> Tensor:
    return Tensor.of(np.asarray(values))


SOUND: dict[str, Callable[[], bytes]] = {
    "float32": lambda: record(Blob(TENSOR, of(np.arange(3, dtype="float32")))),
    "bfloat16": lambda: record(Blob(TENSOR, of(np.ones(2, "float32"))), SaveOptions(bfloat16=True)),
    "int64": lambda: record(Blob(TENSOR, of([1, -1, 300]))),
    "bytes": lambda: record(
        Blob(TENSOR, of(np.ones((2, 2), "int16"))), SaveOptions(byte_holder=True)
    ),
    "strings": lambda: record(Blob(TENSOR, of(np.array(["a", "bc"], object)))),
    "std::string": lambda: record(Blob(STRING, b"text")),
    "int8": lambda: record(Blob(INT8_TENSOR, Int8Tensor(of(np.ones(2, "uint8")), 0.5, 3))),
    "qtensor": lambda: record(
        Blob(QTENSOR, QTensor((9,), 1, 0.5, 3.0, True, of(np.ones(4, "uint8"))))
    ),
    "counter": lambda: record(Blob(COUNTER, 5)),
    "index": lambda: record(Blob(INDEX, Index(of([5, 7]), 9, False))),
    "cursor": lambda: record(Blob(TREE_CURSOR, TreeCursor(of([5, 7]), ["a", "b"]))),
    "map": lambda: record(
        Blob("(std::unordered_map<int64_t, int64_t>)", Map(of([1, 2]), of([3, 4])))
    ),
    "nested": lambda: record(
        Blob(TENSOR, NestedBlobs((2,), [Blob(STRING, b"a"), Blob(TENSOR, of([7]))]))
    ),
}


@pytest.mark.parametrize("kind", SOUND)
def test_truncated_records_raise_our_errors_only(kind: str) -> None:
    data = SOUND[kind]()
    whole = outcome(data)
    assert isinstance(whole[0], str)
    for stop in range(len(data)):
        cut = outcome(data[:stop])
        assert isinstance(cut, tuple)
        assert cut != whole or kind in ("std::string", "cursor")


@pytest.mark.parametrize("kind", SOUND)
def test_flipped_bits_raise_our_errors_only(kind: str) -> None:
    data = SOUND[kind]()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert isinstance(outcome(bytes(flipped)), tuple)


@given(st.binary(max_size=120))
@example(b"\x12\x06Tensor\x1a\x00")
def test_any_bytes_raise_our_errors_only(data: bytes) -> None:
    outcome(data)
    outcome(blob_of(data))


@given(st.data())
def test_any_fields_raise_our_errors_only(data: st.DataObject) -> None:
    numbers = st.integers(-3, 12) | st.integers(-(2**63), 2**63 - 1)
    dims = data.draw(st.lists(st.integers(-1, 4) | numbers, max_size=3))
    tensor = Message(schema.TENSOR, dims=dims, data_type=data.draw(st.integers(0, 15)))
    if data.draw(st.booleans()):
        begin, end = data.draw(numbers), data.draw(numbers)
        tensor.segment = Message(schema.SEGMENT, begin=begin, end=end)
    for field in data.draw(st.sets(st.sampled_from(["int32_data", "int64_data", "float_data"]))):
        tensor[field] = data.draw(st.lists(st.integers(0, 100), max_size=5))
    for field in data.draw(st.sets(st.sampled_from(["byte_data", "raw_data"]))):
        tensor[field] = data.draw(st.binary(max_size=9))
    tensor.string_data = data.draw(st.lists(st.binary(max_size=9), max_size=3))
    tensor.data_format = data.draw(st.integers(0, 2))
    kind = data.draw(st.sampled_from([TENSOR, STRING, COUNTER, INDEX, TREE_CURSOR]))
    outcome(Message(schema.BLOB, type=kind, tensor=tensor).encode())


def test_blobs_within_blobs_end_somewhere() -> None:
    data = record(Blob(STRING, b"x"))
    for _ in range(200):
        inner = b"\x08\x01\x10\x00\x32" + varint(len(data)) + data
        data = blob_of(inner)
    with pytest.raises(CorruptError, match="deeper than 32 levels"):
        load(data)
