from __future__ import annotations

import copy
import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep import dtypes, errors
from tensorkeep.dtypes import DTYPES, DType, dtype

NARROW = [row for row in DTYPES.values() if row.packed]
EXPECTED_BITS = {
    "bool": 8,
    "uint2": 2,
    "int4": 4,
    "float4_e2m1fn": 4,
    "float6_e2m3fn": 6,
    "float8_e8m0fnu": 8,
    "bfloat16": 16,
    "complex64": 64,
    "complex128": 128,
}


def test_the_table() -> None:
    assert len(DTYPES) == 28
    for name, row in DTYPES.items():
        assert row.name == name == str(row)
        assert dtype(name) is row
        assert dtype(row) is row
        if row is not dtypes.STRING:
            assert dtype(row.numpy) is row
            assert row.packed == (row.bits < 8)
            assert row.packed or row.numpy.itemsize * 8 == row.bits
    assert {name: DTYPES[name].bits for name in EXPECTED_BITS} == EXPECTED_BITS


@pytest.mark.parametrize("row", DTYPES.values(), ids=str)
def test_rows_are_one_object_each(row: DType) -> None:
    assert pickle.loads(pickle.dumps(row)) is row
    assert copy.deepcopy(row) is row


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (np.float32, "float32"),
        (">f4", "float32"),
        ("<u2", "uint16"),
        (float, "float64"),
        (bool, "bool"),
        (complex, "complex128"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (np.dtype(ml_dtypes.int4), "int4"),
        ("U7", "string"),
        ("S", "string"),
    ],
)
def test_what_numpy_calls_them(given: Any, name: str) -> None:
    assert dtype(given) is DTYPES[name]


@pytest.mark.parametrize("wrong", ["float", "f4,f4", "datetime64[s]", "m8[ns]", object, "V3"])
def test_numpy_types_that_are_not_kept(wrong: Any) -> None:
    if wrong == "float":
        assert dtype(wrong) is dtypes.FLOAT64
        return
    with pytest.raises(errors.UnsupportedError, match="Convert the array"):
        dtype(wrong)


@pytest.mark.parametrize(
    "wrong",
    ["float99", "", "bfloat", 5, 2.5, [], [3], {"a": 1}, ("f4", -1), "(2,", "f4,,", b"\xff", len],
)
def test_what_is_no_type(wrong: Any) -> None:
    with pytest.raises((errors.ArgumentError, errors.UnsupportedError)):
        dtype(wrong)


def test_the_cure_lists_the_names() -> None:
    with pytest.raises(errors.ArgumentError, match="bfloat16"):
        dtype("bfloat15")


@pytest.mark.parametrize("row", NARROW, ids=str)
@given(data=st.data())
def test_packing_is_undone(row: DType, data: st.DataObject) -> None:
    codes = data.draw(st.lists(st.integers(0, 2**row.bits - 1), max_size=20))
    packed = dtypes.pack(_from_codes(codes, row), row)
    assert packed.size == row.nbytes(len(codes))
    # Independently: all codes as one little-endian number, the first in its lowest bits.
    number = sum(code << (i * row.bits) for i, code in enumerate(codes))
    assert int.from_bytes(packed.tobytes(), "little") == number
    again = dtypes.unpack(packed, row, len(codes))
    assert again.dtype == row.numpy
    assert dtypes.pack(again, row).tobytes() == packed.tobytes()
    assert (again.view(np.uint8) & (2**row.bits - 1)).tolist() == codes


def _from_codes(codes: list[int], row: DType) -> np.ndarray[Any, Any]:
    return np.array(codes, np.uint8).view(row.numpy)


def test_packed_values_are_the_fields_own() -> None:
    values = np.array([-2, 1, -1, 0, 1], ml_dtypes.int2)
    assert dtypes.pack(values, dtypes.INT2).tolist() == [0b00110110, 0b01]
    assert dtypes.unpack(np.array([0x2F, 0x0E], np.uint8), dtypes.INT4, 3).tolist() == [-1, 2, -2]
    floats = np.array([0.5, -6.0, 1.5], ml_dtypes.float4_e2m1fn)
    again = dtypes.unpack(dtypes.pack(floats, dtypes.FLOAT4_E2M1FN), dtypes.FLOAT4_E2M1FN, 3)
    assert again.astype(float).tolist() == [0.5, -6.0, 1.5]


@given(st.lists(st.text() | st.binary()))
def test_strings_come_back(values: list[str | bytes]) -> None:
    data = dtypes.pack_strings(values)
    found = dtypes.unpack_strings(data, len(values), "here").tolist()
    expected = [v if isinstance(v, str) else v.decode("utf-8", "surrogateescape") for v in values]
    assert found == expected
    assert dtypes.pack_strings(found) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(8),
        bytes(23),
        np.array([0, 1, 1], "<u8").tobytes(),
        np.array([0, 1, 3], "<u8").tobytes() + b"ab",
        np.array([0, 3, 2], "<u8").tobytes() + b"ab",
        np.array([1, 1, 2], "<u8").tobytes() + b"ab",
        np.array([0, 2**64 - 1, 2], "<u8").tobytes() + b"ab",
        np.array([0, 2**63, 2**64 - 1], "<u8").tobytes() + b"ab",
    ],
)
def test_strings_whose_offsets_lie(data: bytes) -> None:
    with pytest.raises(errors.CorruptError, match="offsets"):
        dtypes.unpack_strings(data, 2, "here")


def test_sizes() -> None:
    assert [dtypes.INT4.nbytes(n) for n in (0, 1, 2, 3)] == [0, 1, 1, 2]
    assert [dtypes.FLOAT6_E3M2FN.nbytes(n) for n in (1, 2, 3, 4)] == [1, 2, 3, 3]
    assert dtypes.BOOL.nbytes(3) == 3
    assert dtypes.COMPLEX128.nbytes(2**40) == 2**44
    assert dtypes.STRING.nbytes(2) == 24
    assert dtypes.count_of(()) == 1
    assert dtypes.count_of((2**40, 2**40)) == 2**80
