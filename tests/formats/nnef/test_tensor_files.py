"""The .dat files of NNEF, against `nnef` in both directions and against its C++ header."""

from __future__ import annotations

import io
import random
import struct
import tempfile
from pathlib import Path
from typing import Any

import nnef
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nnef import binary

from tensorkeep.dtypes import INT4, UINT2, DType
from tensorkeep.errors import CorruptError, TensorKeepError, UnsupportedError
from tensorkeep.source import MemorySource, Source, Window
from tensorkeep.tensor import Tensor
from tensorkeep.testing import sample
from tensorkeep.wire.nnef.tensors import (
    HEADER,
    Header,
    misfit,
    open_elements,
    pieces,
    read_header,
    write_header,
)

KINDS = ("f2", "f4", "f8", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?")
SHAPES: list[tuple[int, ...]] = [(), (0, 3), (7,), (2, 3, 5), (1,) * 8]


def read(data: bytes) -> tuple[Header, Tensor]:
    header = read_header(data[:HEADER], len(data), "a.dat")
    return header, open_elements(Window(MemorySource(data), header.start, header.nbytes), header)


def written(tensor: Tensor, **options: Any) -> bytes:
    return write_header(tensor, **options) + b"".join(bytes(piece) for piece in pieces(tensor))


def by_nnef(array: npt.NDArray[Any], **options: Any) -> bytes:
    with tempfile.TemporaryFile() as file:
        nnef.write_tensor(file, array, **options)
        file.seek(0)
        return file.read()


def read_by_nnef(data: bytes, tmp_path: Path) -> Any:
    (tmp_path / "a.dat").write_bytes(data)
    with open(tmp_path / "a.dat", "rb") as file:
        return nnef.read_tensor(file, return_quantization=True)


def made(kind: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    values = np.random.default_rng(1).integers(0, 2 if kind == "?" else 100, shape)
    return np.asarray(values).astype(kind)


def header_of(bits: int, kind: int, shape: tuple[int, ...], *, signed: int = 0) -> bytes:
    length = (int(np.prod(shape, dtype=object)) * bits + 7) // 8
    extents = (*shape, *[0] * (8 - len(shape)))
    numbers = (length, len(shape), *extents, bits, kind, signed, *[0] * 18)
    return b"\x4e\xef\x01\x00" + struct.pack("<31I", *numbers)


@pytest.mark.parametrize("kind", KINDS)
def test_nnef_and_this_write_the_same_bytes_and_read_them(kind: str, tmp_path: Path) -> None:
    for shape in SHAPES:
        array = made(kind, shape)
        data = by_nnef(array)
        assert written(Tensor.of(array)) == data
        _, tensor = read(data)
        assert (tensor.dtype.numpy, tensor.shape) == (array.dtype, shape)
        np.testing.assert_array_equal(tensor.numpy(), array)
        found, quantized = read_by_nnef(data, tmp_path)
        np.testing.assert_array_equal(found, array)
        assert not quantized


def test_the_bytes_are_these() -> None:
    head = written(Tensor.of(np.array([[1, 0, 1]], bool)))
    assert head[:20].hex() == "4eef010001000000020000000100000003000000"[:40]
    assert head[44:52].hex() == "0100000005000000"
    assert head[128:].hex() == "a0"
    assert written(sample(INT4, (3,)))[44:52].hex() == "0400000004000000"


def test_plain_elements_are_a_window_without_a_copy() -> None:
    data = by_nnef(made("f4", (4, 5)))
    _, tensor = read(data)
    assert isinstance(tensor.source, Window)
    assert np.shares_memory(tensor.numpy(), np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(1, 65))
def test_every_width_of_integers(bits: int, signed: bool) -> None:
    pick = random.Random(bits)
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    values = [low, high - 1, *(pick.randrange(low, high) for _ in range(11))]
    codes = [value % (1 << bits) for value in values]
    if bits % 8 == 0:
        data = b"".join(code.to_bytes(bits // 8, "little") for code in codes)
    else:
        text = "".join(f"{code:0{bits}b}" for code in codes)
        text += "1" * (-len(text) % 8)  # what pads the last byte is looked at by nobody
        data = int(text, 2).to_bytes(len(text) // 8, "big")
    header, tensor = read(header_of(bits, 4 if signed else 1, (13,)) + data)
    assert [int(value) for value in tensor.numpy()] == values
    assert [int(value) for value in tensor[3:8]] == values[3:8]
    assert bytes(tensor.read()) == bytes(Tensor.of(tensor.numpy()).read())
    odd = bits not in (2, 4, 8, 16, 32, 64)
    assert header.remark == (
        f"{'int' if signed else 'uint'} of {bits} bit{'s' * (bits > 1)}" if odd else ""
    )


@given(
    bits=st.sampled_from([1, 2, 3, 4, 5, 7, 12, 17, 24, 33, 48, 63]),
    codes=st.lists(st.integers(0, 2**63), min_size=1, max_size=80),
    data=st.data(),
)
def test_any_part_of_any_width_reads_as_the_whole(bits: int, codes: list[int], data: Any) -> None:
    raw = np.random.default_rng(codes[0] % 1000).bytes((len(codes) * bits + 7) // 8)
    for kind in (1, 4):
        _, tensor = read(header_of(bits, kind, (len(codes),)) + raw)
        whole = bytes(tensor.source.read(0, tensor.source.size))
        start = data.draw(st.integers(0, len(whole)))
        stop = data.draw(st.integers(start, len(whole)))
        assert bytes(tensor.source.read(start, stop)) == whole[start:stop]


@pytest.mark.parametrize("dtype", [INT4, UINT2], ids=str)
def test_packed_types_turn_their_bytes_around(dtype: DType) -> None:
    for count in range(1, 10):
        tensor = sample(dtype, (count,))
        data = written(tensor)
        codes = [int(value) % (1 << dtype.bits) for value in tensor.numpy()]
        text = "".join(f"{code:0{dtype.bits}b}" for code in codes)
        text += "0" * (-len(text) % 8)
        assert data[HEADER:] == int(text, 2).to_bytes(len(text) // 8, "big")
        assert bytes(read(data)[1].read()) == bytes(tensor.read())


def test_large_tensors_are_repacked_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = np.random.default_rng(3).integers(0, 2, 3_000_001).astype(bool)
    data = written(Tensor.of(bits))
    assert data == by_nnef(bits)
    _, tensor = read(data)
    np.testing.assert_array_equal(tensor.numpy(), bits)
    asked: list[int] = []
    plain = Window._read

    def counted(self: Window, start: int, stop: int) -> memoryview:
        asked.append(stop - start)
        return plain(self, start, stop)

    monkeypatch.setattr(Window, "_read", counted)
    np.testing.assert_array_equal(tensor[1_000_000:1_000_100], bits[1_000_000:1_000_100])
    assert sum(asked) <= 14


def test_bool_of_eight_bits_is_true_where_any_bit_is() -> None:
    _, tensor = read(header_of(8, 5, (4,)) + bytes([0, 1, 2, 255]))
    assert tensor.numpy().tolist() == [False, True, True, True]
    assert bytes(tensor.read()) == bytes([0, 1, 1, 1])


@pytest.mark.parametrize("kind", ["i1", "u1", "i4", "u8"])
def test_quantized_integers_are_told(kind: str, tmp_path: Path) -> None:
    array = made(kind, (3, 2))
    data = by_nnef(array, quantized=True)
    header, tensor = read(data)
    assert header.quantized
    assert header.remark == f"{'q' + header.dtype.kind} of {header.bits} bits"
    np.testing.assert_array_equal(tensor.numpy(), array)
    assert written(Tensor.of(array), quantized=True) == data
    assert read_by_nnef(data, tmp_path)[1]


def test_older_files_say_apart_that_integers_are_signed(tmp_path: Path) -> None:
    data = header_of(8, 1, (3,), signed=1) + bytes([255, 0, 1])
    _, tensor = read(data)
    assert tensor.numpy().tolist() == [-1, 0, 1] == read_by_nnef(data, tmp_path)[0].tolist()


def test_four_bytes_too_many_are_left_out() -> None:
    array = made("f4", (2, 2))
    data = by_nnef(array)
    header, tensor = read(data[:HEADER] + b"\xff\xff\xff\xff" + data[HEADER:])
    assert header.start == 132
    np.testing.assert_array_equal(tensor.numpy(), array)


def test_the_provisional_header(tmp_path: Path) -> None:
    for shape in [(2,), (3, 4, 5), (40, 10)]:
        array = made("f4", shape)
        with open(tmp_path / "old.dat", "w+b") as file:
            binary._write_tensor_provisional(file, array)
        data = (tmp_path / "old.dat").read_bytes()
        header, tensor = read(data)
        assert header.start == 16 + 4 * len(shape)
        np.testing.assert_array_equal(tensor.numpy(), array)
        for length in range(len(data)):
            with pytest.raises(TensorKeepError):
                read(data[:length])


def test_truncations_are_told() -> None:
    data = by_nnef(made("i2", (3, 2)))
    for length in range(len(data)):
        with pytest.raises(CorruptError):
            read(data[:length])
    with pytest.raises(CorruptError, match="has 141 bytes, but its header and 12"):
        read(data + b"\0")


def test_flipped_bits_give_another_tensor_or_one_of_our_errors() -> None:
    for array in (made("f4", (2, 2)), made("?", (9,)), made("i1", (3,))):
        data = by_nnef(array)
        for at in range(len(data)):
            for bit in range(8):
                flipped = bytearray(data)
                flipped[at] ^= 1 << bit
                try:
                    read(bytes(flipped))[1].numpy()
                except TensorKeepError:
                    continue


WRONG = {
    "starts with b'PK": (b"PK\x03\x04" + bytes(124), CorruptError),
    "version 2.0": (b"\x4e\xef\x02\x00" + bytes(124), UnsupportedError),
    "a rank of 9": (header_of(32, 0, ())[:8] + b"\x09" + bytes(119), CorruptError),
    "a vendor's own type, 0x5452": (header_of(32, 0x5452 << 16, ()) + bytes(4), UnsupportedError),
    "kind 6": (header_of(32, 6, ()) + bytes(4), CorruptError),
    "float elements of 8 bits": (header_of(8, 0, ()) + bytes(1), CorruptError),
    "bool elements of 2 bits": (header_of(2, 5, ()) + bytes(1), CorruptError),
    "int elements of 65 bits": (header_of(65, 4, ()) + bytes(9), CorruptError),
    "uint elements of 0 bits": (header_of(0, 1, ()), CorruptError),
}


@pytest.mark.parametrize("problem", WRONG)
def test_wrong_headers(problem: str) -> None:
    data, kind = WRONG[problem]
    with pytest.raises(kind, match=problem):
        read(data)


def test_extents_that_overflow_are_compared_as_they_are() -> None:
    shape = (0xFFFFFFFF,) * 8
    data = header_of(8, 1, (1,))
    head = data[:8] + struct.pack("<I", 8) + struct.pack("<8I", *shape) + data[44:]
    with pytest.raises(CorruptError, match="1 bytes of data, but 8 bits for each element"):
        read(head + b"\0")


def test_misfits() -> None:
    from tensorkeep import dtypes

    assert misfit(dtypes.FLOAT8_E4M3FN, ()) == "NNEF has no float8_e4m3fn"
    assert "no more than 8 axes" in misfit(dtypes.FLOAT32, (1,) * 9)
    assert misfit(dtypes.BOOL, (1 << 32, 4)) == "a tensor file of NNEF holds less than 4 GiB"
    assert misfit(dtypes.UINT8, (1 << 31, 2)) == "a tensor file of NNEF holds less than 4 GiB"
    assert misfit(dtypes.BOOL, (1 << 31, 8)) == ""


def test_sources_say_where_they_are() -> None:
    _, tensor = read(header_of(3, 4, (3,)) + bytes(2))
    assert isinstance(tensor.source, Source)
    with pytest.raises(CorruptError, match="bytes 0 to 4 were asked for"):
        tensor.source.read(0, 4)
    assert io.BytesIO(tensor.source.read(0, 0)).getvalue() == b""
