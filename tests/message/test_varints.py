from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep.errors import ArgumentError, CorruptError
from tensorkeep.message import varints
from tensorkeep.message.varints import (
    count_varints,
    decode_varints,
    encode_varints,
    encoded_blocks,
    varints_size,
)

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")

# --- one value after another, as the format is written down --------------------------------------


def encode_one(value: int) -> bytes:
    value %= 1 << 64
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_all(data: bytes) -> list[int]:
    """Give the 64-bit numbers; raise ValueError where there are none."""
    values = []
    value = place = 0
    for byte in data:
        if place == 10:
            raise ValueError
        value |= (byte & 0x7F) << (7 * place)
        place += 1
        if byte < 0x80:
            values.append(value % (1 << 64))
            value = place = 0
    if place:
        raise ValueError
    return values


def cast(value: int, dtype: str) -> int | bool:
    if dtype == "bool":
        return value != 0
    bits = 8 * np.dtype(dtype).itemsize
    value %= 1 << bits
    return value - (1 << bits) if dtype.startswith("int") and value >> (bits - 1) else value


# --- values and bytes -----------------------------------------------------------------------------


@st.composite
def arrays(draw: st.DrawFn, dtype: str) -> npt.NDArray[Any]:
    """Arrays of one type whose values are of few or of many lengths."""
    info = np.iinfo(dtype)
    width = draw(st.integers(1, info.bits))
    low = max(info.min, -(1 << width)) if draw(st.booleans()) else 0
    values = st.integers(low, min(info.max, (1 << width) - 1))
    return np.array(draw(st.lists(values, max_size=60)), dtype)


def any_array() -> st.SearchStrategy[npt.NDArray[Any]]:
    return st.sampled_from(INTEGERS).flatmap(arrays)


def padded(value: int, length: int) -> bytes:
    """Encode with more bytes than needed, which readers have to accept."""
    out = bytearray(encode_one(value))
    while len(out) < length:
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


varint_bytes = st.builds(padded, st.integers(0, 2**64 - 1), st.integers(1, 10)) | st.builds(
    lambda value, shift: encode_one(value >> shift), st.integers(0, 2**64 - 1), st.integers(0, 63)
)
any_bytes = st.lists(
    varint_bytes | st.binary(max_size=4) | st.integers(0, 12).map(lambda n: b"\x80" * n)
).map(b"".join)


@given(any_array())
def test_encodes_as_one_value_after_another(values: npt.NDArray[Any]) -> None:
    expected = b"".join(encode_one(int(value)) for value in values)
    assert encode_varints(values).tobytes() == expected
    assert varints_size(values) == len(expected)
    assert count_varints(expected) == values.size
    assert decode_varints(expected, values.dtype, values.size).tolist() == values.tolist()


@given(st.lists(varint_bytes).map(b"".join), st.sampled_from((*INTEGERS, "bool")))
def test_decodes_as_one_value_after_another(data: bytes, dtype: str) -> None:
    expected = [cast(value, dtype) for value in decode_all(data)]
    decoded = decode_varints(data, dtype, len(expected))
    assert decoded.dtype == dtype
    assert decoded.tolist() == expected


@given(any_bytes, st.sampled_from((*INTEGERS, "bool")), st.integers(1, 40))
def test_any_bytes_decode_or_are_corrupt_wherever_they_are_cut(
    data: bytes, dtype: str, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varints, "_DECODED", block)
        try:
            expected = [cast(value, dtype) for value in decode_all(data)]
        except ValueError:
            with pytest.raises(CorruptError, match=r"^blob w: "):
                decode_varints(data, dtype, where="blob w")
        else:
            assert decode_varints(data, dtype).tolist() == expected


@given(any_array(), st.integers(1, 20))
def test_blocks_join_to_the_whole(values: npt.NDArray[Any], block: int) -> None:
    blocks = list(encoded_blocks(values, block))
    assert len(blocks) == -(-values.size // block)
    assert b"".join(blocks) == encode_varints(values).tobytes()


@pytest.mark.parametrize("place", range(1, 10))
def test_the_length_changes_at_every_seventh_bit(place: int) -> None:
    edge = 1 << (7 * place)
    for largest, length in ((edge - 1, place), (edge, place + 1), (edge + 1, place + 1)):
        values = np.array([edge - 1, 0, largest, 1], np.uint64)
        expected = b"".join(encode_one(int(value)) for value in values)
        assert len(expected) == place + 1 + length + 1
        assert encode_varints(values).tobytes() == expected
        assert varints_size(values) == len(expected)
        assert decode_varints(expected, np.uint64).tolist() == values.tolist()


def test_one_bit_makes_a_boolean_true_wherever_it_is() -> None:
    data = b"".join(encode_one(1 << bit) + b"\0" for bit in range(64))
    assert decode_varints(data, np.bool_).tolist() == [True, False] * 64


def patterns() -> Iterator[tuple[str, npt.NDArray[Any]]]:
    random = np.random.default_rng(7)
    yield "small int64", random.integers(0, 128, 300_000)
    yield "ids", random.integers(0, 1 << 20, 300_000)
    yield "hashes", random.integers(0, 1 << 50, 300_000)
    yield "signed", random.integers(-1000, 1000, 300_000)
    yield "one long", np.where(np.arange(300_000) == 140_000, -1, 3)
    yield "whole range", random.integers(0, 1 << 64, 300_000, np.uint64)
    yield "uint8", random.integers(0, 256, 300_000, np.uint8)
    yield "int8", random.integers(-128, 128, 300_000, np.int8)
    yield "bool", random.integers(0, 2, 300_000).astype(bool)


@pytest.mark.parametrize("values", [pytest.param(v, id=name) for name, v in patterns()])
def test_arrays_of_many_blocks(values: npt.NDArray[Any]) -> None:
    table = {value: encode_one(value) for value in set(values.tolist())}
    expected = b"".join(table[value] for value in values.tolist())
    encoded = encode_varints(values)
    assert encoded.tobytes() == expected
    assert varints_size(values) == encoded.size
    decoded = decode_varints(encoded, values.dtype, values.size)
    assert decoded.dtype == values.dtype
    assert np.array_equal(decoded, values)
    decoded[:] = 0  # memory of its own
    assert encoded.tobytes() == expected


@pytest.mark.parametrize("second", [1, 0, 3, 2])
def test_bytes_are_taken_out_of_numbers_of_two(second: int) -> None:
    """Values of uint8 take a second byte of 1; of any other, the low 8 bits of the number count."""
    values = np.arange(5000).astype(np.uint8)
    data = encode_varints(values)
    assert decode_varints(data, np.uint8).tolist() == values.tolist()
    assert decode_varints(data, np.int8).tolist() == values.view(np.int8).tolist()
    last = bytes([0x85, second])
    expected = (5 | second << 7) & 0xFF
    assert decode_varints(data.tobytes() + last, np.uint8)[-1] == expected
    assert decode_varints(last + data.tobytes(), np.uint8)[0] == expected


def test_what_protobuf_packs_is_the_same_both_ways() -> None:
    """Booleans and the integers of every size, against the reference implementation."""
    descriptors = pytest.importorskip("google.protobuf.descriptor_pb2")
    pools = pytest.importorskip("google.protobuf.descriptor_pool")
    factory = pytest.importorskip("google.protobuf.message_factory")
    kinds = {"int32": 5, "int64": 3, "uint32": 13, "uint64": 4, "bool": 8}
    file = descriptors.FileDescriptorProto(name="packed.proto", syntax="proto3")
    message = file.message_type.add(name="Packed")
    for number, (name, kind) in enumerate(kinds.items(), 1):
        message.field.add(name=f"f_{name}", number=number, type=kind, label=3)
    pool = pools.DescriptorPool()
    pool.Add(file)
    packed = factory.GetMessageClass(pool.FindMessageTypeByName("Packed"))
    random = np.random.default_rng(3)
    for name in kinds:
        if name == "bool":
            values = random.integers(0, 2, 500).astype(bool)
        else:
            info = np.iinfo(name)
            wide = random.integers(info.min, info.max, 500, name, endpoint=True)
            values = wide >> random.integers(0, info.bits, 500).astype(name)
        theirs = packed(**{f"f_{name}": values.tolist()}).SerializeToString()
        encoded = encode_varints(values).tobytes()
        tag = encode_one(list(kinds).index(name) + 1 << 3 | 2)
        assert theirs == tag + encode_one(len(encoded)) + encoded
        back = getattr(packed.FromString(theirs), f"f_{name}")
        assert decode_varints(encoded, name).tolist() == list(back)


@given(st.lists(varint_bytes, min_size=1).map(b"".join))
def test_a_cut_in_the_last_varint_is_named(data: bytes) -> None:
    with pytest.raises(CorruptError, match="cut short"):
        decode_varints(data + b"\x80", np.int64)


@pytest.mark.parametrize("count", [0, 2, 4, 10**18])
def test_another_count_is_refused_before_memory_is_taken(count: int) -> None:
    with pytest.raises(CorruptError, match=f"^w: holds 3 varints where {count} were expected"):
        decode_varints(b"\x01\x02\x03", np.int64, count, "w")


@pytest.mark.parametrize("before", [0, 1, 17, varints._DECODED - 5, varints._DECODED])
def test_a_varint_of_eleven_bytes_is_refused(before: int) -> None:
    data = b"\x01" * before + b"\x80" * 10 + b"\x01" + b"\x05" * 30
    with pytest.raises(CorruptError, match="longer than ten bytes"):
        decode_varints(data, np.int64)
    assert decode_varints(data.replace(b"\x80" * 10, b"\x80" * 9), np.int64).size == before + 31


def test_megabytes_that_never_end_a_varint_are_refused() -> None:
    with pytest.raises(CorruptError, match="longer than ten bytes"):
        decode_varints(b"\xff" * (8 << 20) + b"\x01", np.int64)
    with pytest.raises(CorruptError, match="cut short"):
        decode_varints(b"\xff" * (8 << 20), np.int64)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "object", "U3", "datetime64[s]"])
def test_only_integers_and_booleans_have_varints(dtype: str) -> None:
    with pytest.raises(ArgumentError, match="has no varints"):
        decode_varints(b"\x01", dtype)
    values = np.zeros(2, dtype)
    for function in (encode_varints, encoded_blocks, varints_size):
        with pytest.raises(ArgumentError, match="has no varints"):
            function(values)


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
def test_nothing_is_nothing(dtype: str) -> None:
    empty = np.empty(0, dtype)
    assert encode_varints(empty).tobytes() == b""
    assert list(encoded_blocks(empty)) == []
    assert varints_size(empty) == 0
    assert count_varints(b"") == 0
    decoded = decode_varints(b"", dtype, 0)
    assert decoded.shape == (0,)
    assert decoded.dtype == dtype
    with pytest.raises(CorruptError, match="holds 0 varints where 1"):
        decode_varints(b"", dtype, 1)


def test_arrays_of_any_layout() -> None:
    values = np.arange(-30, 30, dtype=np.int32).reshape(6, 10)
    expected = b"".join(encode_one(value) for value in range(-30, 30))
    assert encode_varints(values).tobytes() == expected
    assert encode_varints(values.astype(">i4")).tobytes() == expected
    assert encode_varints(np.asfortranarray(values)).tobytes() == expected
    assert encode_varints(np.repeat(values, 2, axis=1)[:, ::2]).tobytes() == expected
    assert encode_varints(values[0, 3]).tobytes() == encode_one(-27)
    assert decode_varints(expected, ">i4").tolist() == list(range(-30, 30))


def test_bytes_from_anywhere() -> None:
    values = np.arange(200, 300)
    encoded = encode_varints(values).tobytes()
    shifted = memoryview(b"\xff" + encoded + b"\xff")[1:-1]  # not aligned, and more behind it
    fresh = np.frombuffer(encoded, np.uint8)
    for data in (encoded, bytearray(encoded), memoryview(encoded), shifted, fresh):
        assert decode_varints(data, np.int64).tolist() == values.tolist()
        assert count_varints(data) == values.size


@pytest.mark.parametrize("parallel", [False, True])
def test_varints_fill_an_array_that_is_given(parallel: bool) -> None:
    values = np.arange(-200_000, 200_000)
    room = np.zeros(values.size + 2, np.int64)
    encoded = encode_varints(values, parallel=parallel)
    given = room[1:-1]
    decoded = decode_varints(encoded, np.int64, out=given, parallel=parallel)
    assert decoded is given
    assert np.array_equal(room[1:-1], values)
    assert room[0] == room[-1] == 0
    for other in (room, room[1:-1].astype(np.int32), room[1:-1].reshape(-1, 2)):
        with pytest.raises(ArgumentError, match="do not go into"):
            decode_varints(encoded, np.int64, out=other)


def test_memory_stays_flat_while_blocks_are_taken() -> None:
    values = np.broadcast_to(np.int64(1 << 40), 12_000_000)
    tracemalloc.start()
    try:
        size = sum(len(block) for block in encoded_blocks(values))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == 6 * values.size
    assert peak < 40 << 20
