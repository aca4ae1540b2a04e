"""The scalars of JSON, as the fields of a message hold them."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tensorkeep.message.schema import Field
from tensorkeep.message.values import Numbers

_LONGEST = 400  # characters of a number in quotes
_SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_INTEGER = r"-?+(?>0|[1-9]\d{0,19}+)"
_INTEGERS = re.compile(rf"(?>{_INTEGER},)*+", re.ASCII)
_NUMBER = re.compile(r"-?+(?>0|[1-9]\d*+)(?>\.\d++)?+(?>[eE][+-]?+\d++)?+", re.ASCII)


def take_scalar(field: Field, value: Any) -> Any:
    """Give what a value says, or None where it is no value of the field."""
    return _KINDS.get(field.scalar.name, _take_integer)(field, value)


def name_kind(field: Field) -> str:
    """Say what a value of the field is."""
    if field.numeric and field.scalar.name != "bool":
        kind = field.enum.name if field.enum else field.scalar.name
        return f"{'the name or number' if field.enum else 'a number'} of {kind}"
    return _NAMES[field.scalar.name]


def take_numbers(field: Field, values: list[Any]) -> Numbers | None:
    """Give numbers that are all written alike; None where they are to be looked at one by one."""
    kinds = set(map(type, values))
    scalar = field.scalar
    if isinstance(scalar.zero, float):
        if kinds != {float}:
            return None
        with np.errstate(over="ignore"):
            floats: Numbers = np.array(values).astype(scalar.dtype)
        return floats if np.isfinite(floats).all() else None
    if scalar.name == "bool" or field.enum is not None:
        return None
    if kinds == {str} and _INTEGERS.fullmatch(",".join(values) + ","):
        values = list(map(int, values))
    elif kinds != {int}:
        return None
    inside = scalar.low <= min(values) <= max(values) <= scalar.high
    return np.array(values, scalar.dtype) if inside else None


def _take_bool(field: Field, value: Any) -> Any:
    return value if type(value) is bool else None


def _take_integer(field: Field, value: Any) -> Any:
    if type(value) is str and len(value) <= _LONGEST and _NUMBER.fullmatch(value):
        value = int(value) if value.lstrip("-").isdigit() else float(value)
    if type(value) is float and value.is_integer():
        value = int(value)
    inside = type(value) is int and field.scalar.low <= value <= field.scalar.high
    return value if inside else None


def _take_enum(field: Field, value: Any) -> Any:
    numbers = field.enum.numbers if field.enum else {}
    known = numbers.get(value) if type(value) is str else None
    return _take_integer(field, value) if known is None else known


def _take_float(field: Field, value: Any) -> Any:
    if type(value) is str:
        if value in _SPECIAL:
            return _SPECIAL[value]
        if len(value) > _LONGEST or not _NUMBER.fullmatch(value):
            return None
    elif type(value) not in (int, float):
        return None
    with np.errstate(over="ignore"):
        try:
            number = float(value)
            return number if np.isfinite(field.scalar.dtype.type(number)) else None
        except OverflowError:
            return None


def _take_text(field: Field, value: Any) -> Any:
    if type(value) is not str:
        return None
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return None
    return value


def _take_bytes(field: Field, value: Any) -> Any:
    """Decode base64 of either alphabet, with or without its padding."""
    if type(value) is not str:
        return None
    if "-" in value or "_" in value:
        value = value.replace("-", "+").replace("_", "/")
    bare = value.rstrip("=")
    if len(value) - len(bare) > 2:
        return None
    try:
        return binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)
    except ValueError:
        return None


_KINDS: dict[str, Callable[[Field, Any], Any]] = {
    "bool": _take_bool,
    "enum": _take_enum,
    "float": _take_float,
    "double": _take_float,
    "string": _take_text,
    "bytes": _take_bytes,
}
_NAMES = {"bool": "true or false", "string": "a string", "bytes": "base64 of bytes"}
