from __future__ import annotations

import json
import math
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorkeep import dtypes
from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
from tensorkeep.wire.numbers import (
    arrays_in,
    format_numbers,
    parse_array,
    parse_numbers,
    reads_back,
    shortest,
)

NUMBERS = [kind for kind in DTYPES.values() if kind is not dtypes.STRING]
FLOATS = [kind for kind in NUMBERS if kind.kind == "float"]
NARROW = [kind for kind in FLOATS if kind.bits <= 16]


def named(kinds: list[DType]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", kinds, ids=str)


def every_value(kind: DType) -> np.ndarray[Any, Any]:
    """Every bit pattern of a type of up to 16 bits, and many of a larger one."""
    if kind.bits <= 16:
        codes = np.arange(1 << kind.bits, dtype=np.uint16 if kind.bits == 16 else np.uint8)
        return codes.view(kind.numpy)
    drawn = np.random.default_rng(5).integers(0, 256, 2000 * kind.numpy.itemsize, np.uint8)
    edges = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 0.1, 1 / 3, 2**53, 1e16])
    return np.concatenate([drawn.view(kind.numpy), edges.astype(kind.numpy)])


def doubles(values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    with np.errstate(all="ignore"):
        return values.astype(np.float64)


def again(values: np.ndarray[Any, Any], kind: DType) -> np.ndarray[Any, Any]:
    text = f"[{', '.join(format_numbers(values, kind))}]"
    back = parse_numbers(json.loads(text), kind)
    assert back.dtype == kind.numpy
    return back


@named([kind for kind in NUMBERS if kind.kind in ("int", "uint")])
def test_integers_come_back(kind: DType) -> None:
    low = -(1 << kind.bits - 1) if kind.kind == "int" else 0
    high = low + (1 << kind.bits) - 1
    wide = np.int64 if kind.kind == "int" else np.uint64
    values = np.array([low, low + 1, 0, 1, high - 1, high], wide).astype(kind.numpy)
    assert format_numbers(values, kind)[0] == str(low)
    assert format_numbers(values, kind)[-1] == str(high)
    assert again(values, kind).tobytes() == values.tobytes()


def test_bools_come_back() -> None:
    values = np.array([True, False, True])
    assert format_numbers(values, dtypes.BOOL) == ["true", "false", "true"]
    assert again(values, dtypes.BOOL).tobytes() == values.tobytes()


@named([kind for kind in NUMBERS if kind.kind in ("float", "complex")])
def test_floats_come_back_with_the_same_bits(kind: DType) -> None:
    part = {"complex64": dtypes.FLOAT32, "complex128": dtypes.FLOAT64}.get(kind.name, kind)
    parts = every_value(part)
    back = again(parts.view(kind.numpy), kind).view(part.numpy)
    finite = np.isfinite(doubles(parts))
    assert back[finite].tobytes() == parts[finite].tobytes()
    assert np.array_equal(doubles(back), doubles(parts), equal_nan=True)


@named([kind for kind in NUMBERS if kind.kind in ("float", "complex")])
def test_what_does_not_read_back_is_known(kind: DType) -> None:
    part = {"complex64": dtypes.FLOAT32, "complex128": dtypes.FLOAT64}.get(kind.name, kind)
    values = every_value(part).view(kind.numpy)
    for i in range(0, values.size, max(1, values.size // 500)):
        one = values[i : i + 1]
        data = dtypes.pack(one, kind) if kind.packed else one.view(np.uint8)
        same = again(one, kind).tobytes() == one.tobytes()
        assert reads_back(data.data, one, kind) == same, format_numbers(one, kind)


@named(FLOATS)
def test_floats_take_no_more_digits_than_they_need(kind: DType) -> None:
    values = every_value(kind)
    exact = doubles(values)
    chosen = np.flatnonzero(np.isfinite(exact) & (exact != 0))
    chosen = chosen[:: max(1, chosen.size // 1500)]
    short = shortest(values, kind)
    limit = doubles(np.array([np.inf]).astype(kind.numpy))[0]
    for value, text in zip(exact[chosen].tolist(), map(repr, short[chosen].tolist()), strict=True):
        if value.is_integer() and abs(value) < 1e16:
            assert float(text) == value
            continue
        digits = len(Decimal(text).normalize().as_tuple().digits)
        if digits == 1:
            continue
        for rounding in (ROUND_FLOOR, ROUND_CEILING):
            fewer = Context(prec=digits - 1, rounding=rounding).create_decimal(Decimal(value))
            tried = float(fewer)
            back = doubles(np.array([tried]).astype(kind.numpy))[0]
            assert back != value or abs(tried) > limit, (kind, value, text, fewer)


def test_familiar_decimals() -> None:
    assert format_numbers(np.array([0.1, 1e-7, 3.4028235e38], "f4"), dtypes.FLOAT32) == [
        "0.1",
        "1e-07",
        "3.4028235e+38",
    ]
    tenths = np.array([0.1, 0.2, 2**20]).astype(dtypes.BFLOAT16.numpy)
    assert format_numbers(tenths, dtypes.BFLOAT16) == ["0.1", "0.2", "1048576.0"]
    assert format_numbers(np.array([0.1, 5e-324]), dtypes.FLOAT64) == ["0.1", "5e-324"]


def test_signs_of_zero_and_of_nan_are_kept() -> None:
    values = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf], "f4")
    texts = format_numbers(values, dtypes.FLOAT32)
    assert texts == ["0.0", "-0.0", '"nan"', '"-nan"', '"inf"', '"-inf"']
    back = parse_numbers([json.loads(text) for text in texts], dtypes.FLOAT32)
    assert back.tobytes() == values.tobytes()


def test_bools_and_padding_that_numbers_cannot_tell() -> None:
    odd = np.array([0, 1, 2], np.uint8)
    assert not reads_back(odd.data, odd.view(np.bool_), dtypes.BOOL)
    assert reads_back(odd[:2].data, odd[:2].view(np.bool_), dtypes.BOOL)
    padded = np.array([0x31], np.uint8)  # one int4 of 1, and 3 in the unused half
    assert not reads_back(padded.data, dtypes.unpack(padded, dtypes.INT4, 1), dtypes.INT4)


@pytest.mark.parametrize(
    ("items", "name", "problem"),
    [
        ([300], "uint8", "300 is out of range for uint8"),
        ([-1], "uint64", "-1 is out of range for uint64"),
        ([2**64], "uint64", "out of range"),
        ([2], "int2", "2 is out of range for int2"),
        ([1.5], "int32", "1.5 is no int32"),
        ([1.0], "int32", "1.0 is no int32"),
        ([True], "int32", "True is no int32"),
        ([1], "bool", "1 is no bool"),
        ([True], "float32", "True is no float32"),
        ([None], "float32", "None is no float32"),
        (["1"], "float32", "'1' is no float32"),
        (["NaN"], "float32", "'NaN' is no float32"),
        ([[1]], "float32", "a list of 1 is no float32"),
        ([1e39], "float32", "1e\\+39 is out of range for float32"),
        ([math.inf], "float64", "inf is out of range for float64"),  # what json makes of 1e400
        ([10**400], "float64", "an integer is out of range"),
        ([65520.0], "float16", "65520.0 is out of range"),
        ([7], "float4_e2m1fn", "7 is out of range"),
        (["inf"], "float4_e2m1fn", "inf is out of range"),
        (["nan"], "float6_e3m2fn", "nan is out of range"),
        (["inf"], "float8_e4m3fn", "inf is out of range"),
        ([0], "float8_e8m0fnu", "0 is out of range"),
        ([-1.0], "float8_e8m0fnu", "-1.0 is out of range"),
        ([1.0], "complex64", "1.0 is not the two parts"),
        ([[1.0]], "complex64", "a list of 1 is not the two parts"),
        ([[1.0, 2.0, 3.0]], "complex128", "a list of 3 is not the two parts"),
        ([[1.0, "x"]], "complex128", "'x' is no float64"),
    ],
)
def test_values_that_a_type_does_not_have(items: list[Any], name: str, problem: str) -> None:
    with pytest.raises(CorruptError, match=problem):
        parse_numbers(items, DTYPES[name])


def test_whole_numbers_may_stand_for_floats() -> None:
    assert parse_numbers([1, 2.5], dtypes.FLOAT32).tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ((2,), [1]),
        ((2,), [1, 2, 3]),
        ((2,), [[1], [2]]),
        ((), [1]),
        ((1,), 1),
        ((2, 2), [[1, 2], [3]]),
        ((2, 2), [1, 2, 3, 4]),
        ((10**9, 10**9), [[1]]),
        ((2**58,), [1]),
        ((0,), [1]),
        ((0, 3), [[]]),
        ((0,), None),
        ((2,), {"0": 1, "1": 2}),
        ((2,), "ab"),
    ],
)
def test_values_that_do_not_fill_the_shape(shape: tuple[int, ...], values: Any) -> None:
    with pytest.raises(CorruptError):
        parse_array(dtypes.INT8, shape, values)


def test_strings_fill_a_shape_too() -> None:
    assert parse_array(dtypes.STRING, (2, 1), [["a"], ["ü"]]).tolist() == [["a"], ["ü"]]
    with pytest.raises(CorruptError, match="other values than strings"):
        parse_array(dtypes.STRING, (2,), ["a", 1])


def plain(value: Any) -> Any:
    """Write arrays as what tells them: their type and values."""
    if isinstance(value, np.ndarray):
        return value.dtype.name, value.tolist()
    if isinstance(value, list):
        return [plain(child) for child in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 2], ("int64", [1, 2])),
        ([[1, 2], [3, 4]], ("int64", [[1, 2], [3, 4]])),
        ([[1, 2], [3, 4.5]], ("float64", [[1.0, 2.0], [3.0, 4.5]])),
        ([[[True]], [[False]]], ("bool", [[[True]], [[False]]])),
        ([2**63 - 1, -(2**63)], ("int64", [2**63 - 1, -(2**63)])),
        ([2**64 - 1, 0], ("uint64", [2**64 - 1, 0])),
        ([[2**64 - 1], [-1]], [[2**64 - 1], [-1]]),
        ([2**64], [2**64]),
        ([2**53 + 1, 0.5], [2**53 + 1, 0.5]),
        ([10**400, 0.5], [10**400, 0.5]),
        ([], []),
        ([[], []], [[], []]),
        ([[], [1]], [[], ("int64", [1])]),
        ([[1, 2], [3]], [("int64", [1, 2]), ("int64", [3])]),
        ([1, [2, 3]], [1, ("int64", [2, 3])]),
        ([1, True], [1, True]),
        ([[1], [True]], [("int64", [1]), ("bool", [True])]),
        ([1, None], [1, None]),
        (["a", "b"], ["a", "b"]),
        ([{"a": [1]}, [2]], [{"a": ("int64", [1])}, ("int64", [2])]),
        ({"a": 1, "b": [[0.5]]}, {"a": 1, "b": ("float64", [[0.5]])}),
        (3, 3),
        (None, None),
    ],
)
def test_arrays_in_plain_json(value: Any, expected: Any) -> None:
    assert plain(arrays_in(value, "x", max_depth=100, most=9)) == expected


def test_more_axes_than_numpy_has_stay_lists() -> None:
    value: Any = 1
    for _ in range(66):
        value = [value]
    found = arrays_in(value, "x", max_depth=100, most=9)
    assert isinstance(found, list)
    assert isinstance(found[0], list)
    assert found[0][0].ndim == 64


@pytest.mark.parametrize("value", [math.inf, [1.0, -math.inf], [[1], [math.inf]], {"a": math.inf}])
def test_numbers_that_python_has_rounded_to_infinity_are_refused(value: Any) -> None:
    with pytest.raises(UnsupportedError, match="x: holds a number that is out of range"):
        arrays_in(value, "x", max_depth=100, most=9)


def test_depth_is_limited() -> None:
    value: Any = {}
    for _ in range(101):
        value = {"a": value}
    with pytest.raises(CorruptError, match="nested too deeply"):
        arrays_in(value, "x", max_depth=100, most=9)
    arrays_in(value["a"], "x", max_depth=100, most=9)


def test_arrays_are_counted_before_they_are_made() -> None:
    value = {"a": [[1, 2], [3]], "b": [[1, 2], [3, 4]]}
    arrays_in(value, "x", max_depth=9, most=3)
    with pytest.raises(UnsafeError, match="x: it holds too many arrays"):
        arrays_in(value, "x", max_depth=9, most=2)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(-1e300, 1e300),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=30,
)


@given(json_values)
def test_plain_json_keeps_every_value(value: Any) -> None:
    def back(found: Any) -> Any:
        if isinstance(found, np.ndarray):
            return found.tolist()
        if isinstance(found, list):
            return [back(child) for child in found]
        return {k: back(v) for k, v in found.items()} if isinstance(found, dict) else found

    assert back(arrays_in(value, "x", max_depth=100, most=99)) == value
