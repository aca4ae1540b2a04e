"""Values that a field is set to, as the field holds them."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from tensorkeep.errors import ArgumentError
from tensorkeep.message.schema import Field
from tensorkeep.message.values import Numbers
from tensorkeep.source import Source


def check_value(field: Field, value: Any) -> Any:
    """Give what a field is set to as it holds it: a copy of a list, arrays without a copy.

    Raises:
        ArgumentError: it is of another type, or out of range.
    """
    if not field.repeated:
        return check_item(field, value)
    odd = isinstance(value, str | bytes | bytearray | memoryview) or hasattr(value, "schema")
    if odd or not hasattr(value, "__iter__"):
        raise ArgumentError(f"{field.name} is a list, not {_kind(value)}")
    if field.numeric:
        return _check_numbers(field, value)
    return [check_item(field, item) for item in value]


def check_item(field: Field, value: Any) -> Any:
    """Give one value as a field holds it.

    Raises:
        ArgumentError: it is of another type, or out of range.
    """
    if field.numeric:
        return _check_number(field, value)
    if field.message is not None:
        if getattr(value, "schema", None) is not field.message:
            raise _wrong(field, value)
    elif field.scalar.name == "string":
        if not isinstance(value, str):
            raise _wrong(field, value)
        encode_text(field, value)
    elif not isinstance(value, bytes | Source):
        return _check_bytes(field, value)
    return value


def encode_text(field: Field, value: str) -> bytes:
    """Encode text as UTF-8, the escapes of bytes that are not UTF-8 as those bytes.

    Raises:
        ArgumentError: it holds half a surrogate pair.
    """
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        problem = f"{field.name} holds half a surrogate pair, which is not text"
        raise ArgumentError(problem) from None


def _check_bytes(field: Field, value: Any) -> memoryview:
    try:
        return memoryview(value).cast("B")
    except (TypeError, ValueError):  # no buffer, or one with gaps
        raise _wrong(field, value) from None


def _check_number(field: Field, value: Any) -> Any:
    scalar = field.scalar
    if field.enum is not None and isinstance(value, str):
        return field.enum[value]
    if isinstance(scalar.zero, float):
        if isinstance(value, np.floating) and value.dtype == scalar.dtype and value != value:
            return value  # a NaN with all its bits
        if not isinstance(value, float | int | np.number | np.bool_) or np.iscomplexobj(value):
            raise _wrong(field, value)
        return _as_float(field, value)
    try:
        number = int(value) if isinstance(value, np.bool_) else operator.index(value)
    except TypeError:
        raise _wrong(field, value) from None
    if not scalar.low <= number <= scalar.high:
        problem = f"{field.name} cannot be {number}"
        raise ArgumentError(problem, cure=f"{scalar.name} is {scalar.low} to {scalar.high}.")
    return bool(number) if scalar.name == "bool" else number


def _as_float(field: Field, value: Any) -> float:
    try:
        wide = float(value)
    except OverflowError:
        raise ArgumentError(f"{field.name} cannot be {value}") from None
    if field.scalar.name == "double":
        return wide
    with np.errstate(over="ignore"):
        return float(np.float32(wide))


def _check_numbers(field: Field, values: Any) -> Numbers:
    if not isinstance(values, np.ndarray):
        values = _as_array(field, list(values))
    if values.ndim != 1:
        raise ArgumentError(f"{field.name} is one row of numbers, not shape {values.shape}")
    array = values.view() if values.dtype == field.scalar.dtype else _cast(field, values)
    array.flags.writeable = False
    return array


def _as_array(field: Field, values: list[Any]) -> Numbers:
    """Check values one by one, unless NumPy does the same with all of them at once."""
    kinds = set(map(type, values))
    scalar = field.scalar
    if isinstance(scalar.zero, float):
        if kinds == {float}:
            return np.array(values)
    elif kinds == {int} and scalar.low <= min(values) <= max(values) <= scalar.high:
        return np.array(values, scalar.dtype)
    return np.array([_check_number(field, value) for value in values], scalar.dtype)


def _cast(field: Field, values: Numbers) -> Numbers:
    floating = isinstance(field.scalar.zero, float)
    if values.dtype.kind not in ("biuf" if floating else "biu"):
        raise ArgumentError(f"{field.name} is {field.scalar.name}, not {values.dtype}")
    if not floating and values.size:
        _check_number(field, values.min())
        _check_number(field, values.max())
    with np.errstate(over="ignore"):
        return values.astype(field.scalar.dtype)


def _wrong(field: Field, value: object) -> ArgumentError:
    kind = field.message.name if field.message else field.scalar.name
    return ArgumentError(f"{field.name} is {kind}, not {_kind(value)}")


def _kind(value: object) -> str:
    schema = getattr(value, "schema", None)
    return getattr(schema, "name", type(value).__name__)
