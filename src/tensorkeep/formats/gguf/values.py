"""Metadata values: the 13 types that GGUF has for them, and what JSON value each is.

What a value's type is, is told from the value where that is unambiguous: a bool, a text, a whole
number that is a uint32 (or else int32, uint64, int64), a number that a float32 holds exactly (or
else a float64); the elements of an array alike, but int32 before uint32. Any other type is spelt:
`"int8"` for a number, `["int8"]` for an array of them, `[["int8"]]` for an array of such arrays,
and one of these for each element where they differ.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from tensorkeep.state import Json

Spelt = str | list["Spelt"]

# The number of each type, its name and its code in `struct` and NumPy.
STRING, ARRAY = 8, 9
MAX_DEPTH = 16  # of arrays in arrays
NAMES = {
    0: "uint8",
    1: "int8",
    2: "uint16",
    3: "int16",
    4: "uint32",
    5: "int32",
    6: "float32",
    7: "bool",
    STRING: "string",
    ARRAY: "array",
    10: "uint64",
    11: "int64",
    12: "float64",
}
NUMBERS = {name: number for number, name in NAMES.items()}
CODES = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))

_SCALAR_INTS = ("uint32", "int32", "uint64", "int64")
_ARRAY_INTS = ("int32", "uint32", "uint64", "int64")
_EMPTY: Spelt = ["int32"]
# Arrays whose elements tell their type, whatever they are.
PLAIN: tuple[Spelt, ...] = (["string"], ["int32"], ["bool"], "bool", "string", "uint32")


def implied(value: Json, depth: int = 0) -> Spelt | None:
    """Tell the type of a value that nothing else is known of; None where GGUF has none for it.

    >>> implied(3), implied(-3), implied(0.5), implied(0.1), implied([1, 2]), implied([1, "a"])
    ('uint32', 'int32', 'float32', 'float64', ['int32'], None)
    """
    if type(value) is list:
        return _implied_array(value, depth) if depth < MAX_DEPTH else None
    if type(value) is bool:
        return "bool"
    if type(value) is int:
        return _int_type(value, value, _SCALAR_INTS)
    if type(value) is float:
        return _float_type([value])
    return "string" if type(value) is str else None


def _implied_array(values: list[Any], depth: int) -> Spelt | None:
    kinds = set(map(type, values))
    if not kinds:
        return _EMPTY
    if len(kinds) > 1:
        return None
    kind = kinds.pop()
    if kind is list:
        each = [implied(value, depth + 1) for value in values]
        if None in each:
            return None
        spelt: list[Spelt] = [one for one in each if one is not None]
        return spelt[:1] if all(one == spelt[0] for one in spelt) else spelt
    if kind is int:
        found = _int_type(min(values), max(values), _ARRAY_INTS)
    elif kind is float:
        found = _float_type(values)
    else:
        found = {bool: "bool", str: "string"}.get(kind)
    return None if found is None else [found]


def _int_type(low: int, high: int, choice: tuple[str, ...]) -> str | None:
    for name in choice:
        info = np.iinfo(name)
        if info.min <= low and high <= info.max:
            return name
    return None


def _float_type(values: list[float]) -> str:
    wide = np.array(values, np.float64)
    with np.errstate(all="ignore"):
        same = wide.astype(np.float32) == wide
    return "float32" if bool(np.all(same | np.isnan(wide))) else "float64"


def encode_value(value: Json, spelt: Spelt) -> bytes:
    """Write a value of a type, its type number first.

    Raises:
        ValueError: it is not of that type.

    >>> encode_value([1, 2], ["int8"]).hex(" ", -4)
    '09000000 01000000 02000000 00000000 0102'
    """
    number = NUMBERS[spelt] if isinstance(spelt, str) and spelt in NUMBERS else ARRAY
    return struct.pack("<I", number) + _content(value, spelt)


def _content(value: Any, spelt: Any) -> bytes:
    if spelt == "string":
        return encode_text(value)
    if isinstance(spelt, str):
        return _numbers([value], spelt)
    if type(value) is not list or type(spelt) is not list:
        raise ValueError("an array is a list")
    kinds = spelt if len(spelt) > 1 else spelt * len(value)
    if spelt and isinstance(spelt[0], str):
        if spelt[0] not in NUMBERS or spelt[1:]:
            raise ValueError("an array has one type")
        head = struct.pack("<IQ", NUMBERS[spelt[0]], len(value))
        if spelt == ["string"]:
            return head + b"".join(map(encode_text, value))
        return head + _numbers(value, spelt[0])
    parts = [_content(*pair) for pair in zip(value, kinds, strict=True)]
    return struct.pack("<IQ", ARRAY, len(value)) + b"".join(parts)


def _numbers(values: list[Any], kind: str) -> bytes:
    found = set(map(type, values))
    allowed: dict[str, set[type]] = {"b": {bool}, "f": {float, int}}
    if not found <= allowed.get(kind[0], {int}) or kind not in NUMBERS:
        raise ValueError(f"not all of it is {kind}")
    try:
        with np.errstate(over="ignore"):
            return np.array(values, np.dtype(kind).newbyteorder("<")).tobytes()
    except (OverflowError, TypeError) as error:
        raise ValueError(str(error)) from None


def encode_text(text: Any) -> bytes:
    """Write a text, its length first; bytes that were no UTF-8 become what they were.

    Raises:
        ValueError: it is no text, or would not be read as it is.
    """
    if type(text) is not str:
        raise ValueError("not a text")
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogateescape")
        if data.decode("utf-8", "surrogateescape") != text:
            raise ValueError("it would be read as another text") from None
    return struct.pack("<Q", len(data)) + data
