"""Numbers as JSON values: exact for every element type, in as few digits as that takes.

Integers and bools stand for themselves, a complex number is the list of its parts, and the floats
that JSON has no number for are "inf", "-inf", "nan" and "-nan".
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import DType, count_of
from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
from tensorkeep.wire.text import show

Shape = tuple[int, ...]

_MOST_AXES = 64  # what NumPy can hold
_MOST_DIGITS = 9  # what any float of 32 bits or fewer needs
_WRITTEN_OUT = 1e16  # from here on Python writes an exponent
_PART = {dtypes.COMPLEX64: dtypes.FLOAT32, dtypes.COMPLEX128: dtypes.FLOAT64}
_SPECIAL = {text: float(text) for text in ("inf", "-inf", "nan", "-nan")}
_WRITTEN_AS: dict[str, set[type]] = {
    "bool": {bool},
    "int": {int},
    "uint": {int},
    "float": {int, float, str},
    "complex": {int, float, str},
}
_WIDE: dict[str, type[np.generic]] = {
    "int": np.int64,
    "uint": np.uint64,
    "float": np.float64,
    "complex": np.float64,
}


def format_numbers(values: npt.NDArray[Any], kind: DType) -> list[str]:
    """Write each element of a 1-D array as JSON, floats in as few digits as read back exactly.

    >>> format_numbers(np.array([0.1, -0.0, np.inf], "float32"), dtypes.FLOAT32)
    ['0.1', '-0.0', '"inf"']
    >>> format_numbers(np.array([1 + 2j]), dtypes.COMPLEX128)
    ['[1.0, 2.0]']
    """
    if kind.kind == "bool":
        return ["true" if value else "false" for value in _wide(values, kind).tolist()]
    if kind.kind not in ("float", "complex"):
        return list(map(str, _wide(values, kind).tolist()))
    part = _PART.get(kind, kind)
    numbers = shortest(values.view(part.numpy), part)
    texts = list(map(repr, numbers.tolist()))
    for i in np.flatnonzero(~np.isfinite(numbers)).tolist():
        sign = "-" if np.signbit(numbers[i]) else ""
        texts[i] = f'"{sign}{"nan" if np.isnan(numbers[i]) else "inf"}"'
    if part is kind:
        return texts
    return [f"[{re}, {im}]" for re, im in zip(texts[::2], texts[1::2], strict=True)]


def parse_numbers(items: list[Any], kind: DType) -> npt.NDArray[Any]:
    """Build a 1-D array of parsed JSON values, as `format_numbers` writes them.

    Raises:
        CorruptError: a value is of another kind, or out of range.

    >>> parse_numbers([1, "nan"], dtypes.FLOAT32)
    array([ 1., nan], dtype=float32)
    >>> parse_numbers([300], dtypes.UINT8)
    Traceback (most recent call last):
    tensorkeep.errors.CorruptError: 300 is out of range for uint8
    """
    if kind in _PART:
        for item in items:
            if not isinstance(item, list) or len(item) != 2:
                raise CorruptError(f"{show(item)} is not the two parts of a {kind}")
        items = list(chain.from_iterable(items))
    wanted = _WRITTEN_AS[kind.kind]
    if not set(map(type, items)) <= wanted:
        odd = next(item for item in items if type(item) not in wanted)
        raise CorruptError(f"{show(odd)} is no {kind}")
    if kind.kind == "bool":
        return np.array(items, np.bool_)
    if kind.kind in ("int", "uint"):
        return _parse_ints(items, kind)
    return _parse_floats(items, _PART.get(kind, kind)).view(kind.numpy)


def _parse_ints(items: list[int], kind: DType) -> npt.NDArray[Any]:
    low = -(1 << (kind.bits - 1)) if kind.kind == "int" else 0
    high = low + (1 << kind.bits) - 1
    for item in (min(items, default=0), max(items, default=0)):
        if not low <= item <= high:
            raise CorruptError(f"{show(item)} is out of range for {kind}")
    return np.array(items, _WIDE[kind.kind]).astype(kind.numpy)


def _parse_floats(items: list[Any], kind: DType) -> npt.NDArray[Any]:
    spelt = np.array([isinstance(item, str) for item in items], bool)
    if spelt.any():
        for i in np.flatnonzero(spelt).tolist():
            if items[i] not in _SPECIAL:
                raise CorruptError(f"{show(items[i])} is no {kind}")
        items = [_SPECIAL[item] if isinstance(item, str) else item for item in items]
    try:
        numbers = np.array(items, np.float64)
    except OverflowError:
        raise CorruptError(f"an integer is out of range for {kind}") from None
    held = _held(numbers, kind)
    bad = (np.isfinite(held) == spelt) | (np.isnan(held) != np.isnan(numbers))
    if bad.any():
        raise CorruptError(f"{items[np.flatnonzero(bad)[0]]} is out of range for {kind}")
    return _cast(numbers, kind.numpy)


def reads_back(data: memoryview, values: npt.NDArray[Any], kind: DType) -> bool:
    """Say whether numbers, written and parsed again, give the same canonical bytes.

    NaNs with a payload do not, nor bools that are not 0 or 1, nor padding that is not 0.
    """
    if kind.kind == "bool":
        return not np.any(np.frombuffer(data, np.uint8) > 1)
    wide = _wide(values, kind)
    if kind.kind in ("float", "complex"):
        wide = np.where(np.isnan(wide), np.copysign(np.nan, wide), wide)
    again = _cast(wide, _PART.get(kind, kind).numpy)
    again = dtypes.pack(again, kind) if kind.packed else again.view(np.uint8)
    return np.array_equal(again, np.frombuffer(data, np.uint8))


def parse_array(kind: DType, shape: Shape, values: Any) -> npt.NDArray[Any]:
    """Build an array of nested lists; nothing is made before they are known to fill the shape.

    Raises:
        CorruptError: they do not fill it, or a value is of another kind or out of range.

    >>> parse_array(dtypes.INT8, (2, 1), [[1], [-2]]).tolist()
    [[1], [-2]]
    """
    if not count_of(shape):
        if values != []:
            raise CorruptError(f"has {show(values)} for the values of an empty shape")
        return np.zeros(shape, kind.numpy)
    flat = _flat(values, shape)
    if kind is dtypes.STRING:
        if not all(isinstance(text, str) for text in flat):
            raise CorruptError("has other values than strings")
        return np.array(flat, object).reshape(shape)
    return parse_numbers(flat, kind).reshape(shape)


def _flat(values: Any, shape: Shape) -> list[Any]:
    level = [values]
    for axis in shape:
        for row in level:
            if not isinstance(row, list) or len(row) != axis:
                raise CorruptError(f"has {show(row)} where a list of {axis} belongs")
        level = list(chain.from_iterable(level))
    return level


def arrays_in(value: Any, where: str, *, max_depth: int, most: int) -> Any:
    """Copy a parsed JSON value with an array in place of each list of numbers, or of bools.

    Lists that nest evenly make one array; where they do not, each part that does makes its own.
    Whole numbers come as int64, or uint64 where that is needed, anything with a fraction as
    float64. Numbers that these would change stay in lists.

    Raises:
        CorruptError: it nests deeper than `max_depth`.
        UnsafeError: it would be more than `most` arrays.
        UnsupportedError: it holds a number beyond float64, which Python has read as infinity.

    >>> value = {"lr": 0.1, "w": [[1, 2], [3, 4]], "names": ["a"]}
    >>> arrays_in(value, "example", max_depth=10, most=10)
    {'lr': 0.1, 'w': array([[1, 2],
           [3, 4]]), 'names': ['a']}
    """
    walk = _Walk(where, most)
    return walk.built(walk.whole(walk.parts(value, max_depth)))


class _Grid(NamedTuple):
    """Lists that nest evenly."""

    shape: Shape
    kinds: frozenset[type]
    rows: list[Any]


class _Walk:
    """Finds the arrays of a value, and makes them once it is known that they are not too many."""

    def __init__(self, where: str, most: int) -> None:
        self.where = where
        self.left = most

    def parts(self, value: Any, depth: int) -> Any:
        """Copy a value with grids in it; itself, if a grid, it may be part of a larger one."""
        if isinstance(value, float) and np.isinf(value):
            raise self._too_large()
        if not isinstance(value, list | dict):
            return value
        if depth < 0:
            raise CorruptError("it is nested too deeply", where=self.where)
        if isinstance(value, dict):
            return {key: self.whole(self.parts(child, depth - 1)) for key, child in value.items()}
        kinds = frozenset(map(type, value))
        if value and _even(kinds):
            return _Grid((len(value),), kinds, value)
        parts = [self.parts(child, depth - 1) for child in value]
        return _merged(parts, value) or list(map(self.whole, parts))

    def whole(self, part: Any) -> Any:
        """Count a grid that is part of no larger one."""
        if isinstance(part, _Grid):
            self.left -= 1
            if self.left < 0:
                raise UnsafeError("it holds too many arrays", where=self.where)
        return part

    def built(self, value: Any) -> Any:
        """Make the arrays; lists stay where no element type holds the numbers."""
        if isinstance(value, dict):
            return {key: self.built(child) for key, child in value.items()}
        if isinstance(value, list):
            return list(map(self.built, value))
        if not isinstance(value, _Grid):
            return value
        flat = _flat(value.rows, value.shape)
        kind = _kind(flat, value.kinds)
        if kind is None:
            return value.rows
        array = np.array(flat, kind).reshape(value.shape)
        if kind is np.float64 and np.isinf(array).any():
            raise self._too_large()
        return array

    def _too_large(self) -> UnsupportedError:
        problem = "holds a number that is out of range for float64"
        return UnsupportedError(problem, where=self.where)


def _merged(parts: list[Any], rows: list[Any]) -> _Grid | None:
    if not parts or not all(isinstance(part, _Grid) for part in parts):
        return None
    shape = parts[0].shape
    kinds = frozenset[type]().union(*{part.kinds for part in parts})
    if len(shape) == _MOST_AXES or not _even(kinds) or any(p.shape != shape for p in parts):
        return None
    return _Grid((len(parts), *shape), kinds, rows)


def _even(kinds: frozenset[type]) -> bool:
    return kinds <= {int, float} or kinds == {bool}


def _kind(flat: list[Any], kinds: frozenset[type]) -> type[np.generic] | None:
    if bool in kinds:
        return np.bool_
    if float in kinds:
        whole = (number for number in flat if type(number) is int)
        return np.float64 if all(abs(number) <= 2**53 for number in whole) else None
    low, high = min(flat), max(flat)
    if low >= -(2**63) and high < 2**63:
        return np.int64
    return np.uint64 if low >= 0 and high < 2**64 else None


def shortest(values: npt.NDArray[Any], kind: DType) -> npt.NDArray[np.float64]:
    """Give for each float the double with the shortest decimal that reads back as that float.

    Reading back is parsing as a double and rounding that to `kind`. Whole numbers that Python
    writes out in full stay as they are, since round ones in their place would be no shorter.

    >>> shortest(np.array([0.1, 1 / 3], "float32"), dtypes.FLOAT32).tolist()
    [0.1, 0.33333334]
    """
    exact = _wide(values, kind)
    if kind is dtypes.FLOAT64:
        return exact
    if kind in (dtypes.FLOAT16, dtypes.FLOAT32):
        short = values.astype("U").astype(np.float64)
    else:  # at most 65,536 different ones
        unique, places = np.unique(exact, return_inverse=True)
        short = _search(unique, kind)[places.reshape(exact.shape)]
    same = _held(short, kind) == exact
    with np.errstate(invalid="ignore"):  # signalling NaNs
        whole = (np.trunc(exact) == exact) & (np.abs(exact) < _WRITTEN_OUT)
    return np.where(same & ~whole, short, exact)


def _search(exact: npt.NDArray[np.float64], kind: DType) -> npt.NDArray[np.float64]:
    """Try decimals of one digit, of two and so on: the nearest, and its neighbours.

    Nearest is not enough: below a power of two the floats lie twice as dense as above it.
    """
    found = exact.copy()
    left = np.flatnonzero(np.isfinite(exact) & (exact != 0))
    for digits in range(_MOST_DIGITS):
        if not left.size:
            break
        texts = [f"{value:.{digits}e}".split("e") for value in exact[left].tolist()]
        heads = [int(mantissa.replace(".", "")) for mantissa, _ in texts]
        tails = [int(exponent) - digits for _, exponent in texts]
        done = np.zeros(left.size, bool)
        for step in (0, -1, 1):
            pairs = zip(heads, tails, strict=True)
            tried = np.array([float(f"{head + step}e{tail}") for head, tail in pairs])
            good = ~done & (_held(tried, kind) == exact[left])
            found[left[good]] = tried[good]
            done |= good
        left = left[~done]
    return found


def _held(numbers: npt.NDArray[np.float64], kind: DType) -> npt.NDArray[np.float64]:
    """Give what a float type makes of numbers: infinity or NaN where they are out of its range."""
    most = _wide(_cast(np.array([np.inf]), kind.numpy), kind)[0]
    held = _wide(_cast(numbers, kind.numpy), kind)
    # Types without an infinity and a NaN give their largest value instead.
    return np.where(np.abs(numbers) > most, np.nan, held)


def _wide(values: npt.NDArray[Any], kind: DType) -> npt.NDArray[Any]:
    """Give a 1-D array's values in the widest type of their kind, complex ones as pairs."""
    if kind.kind == "bool":
        return values.view(np.uint8).astype(np.bool_)
    return _cast(values.view(_PART.get(kind, kind).numpy), np.dtype(_WIDE[kind.kind]))


def _cast(values: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    with np.errstate(all="ignore"):
        return values.astype(dtype)
