"""The fields of samples on their way to a file: each a value that can be kept, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes, frameworks
from tensorkeep.data.dataset import JSON, Field
from tensorkeep.data.stacking import MASKED, TWO_ARRAYS, is_kept
from tensorkeep.errors import TensorKeepError, UnsupportedError

# A number, also alone, an array in C order, text, bytes, or (where it is asked for) JSON.
Value = npt.NDArray[Any] | np.generic | str | bytes | list[Any] | dict[str, Any]

_ANY = Field()
_TEXT = Field("string", ())
_JSON = Field(JSON)
_LARGE = 1 << 63  # beyond this int64 does not go
_SCALARS: dict[type, type] = {int: np.int64, float: np.float64, bool: np.bool_}


class Fields:
    """What all samples have in common, found out sample by sample.

    Args:
        known: what is known before the first one.
        alike: what needs all samples alike in dtype and shape; empty where they may differ.
        as_text: for files of text: lists and dicts are JSON, not arrays, and an integer alone is
            an int64, whatever type it had.

    >>> fields = Fields({})
    >>> fields.take(0, {"x": np.zeros(3, "float32"), "t": "text"})["t"]
    'text'
    >>> {name: str(field) for name, field in fields.known.items()}
    {'x': 'float32, (3,)', 't': 'string, ()'}
    """

    def __init__(
        self, known: Mapping[str, Field], *, alike: str = "", as_text: bool = False
    ) -> None:
        self.known = dict(known)
        self._alike = alike
        self._as_text = as_text
        # What the values of a field have looked like so far: dtype and shape, or a type of scalar.
        self._looks: dict[str, tuple[np.dtype[Any], tuple[int, ...]] | type] = {}

    def take(self, number: int, sample: Any) -> dict[str, Value]:
        """Give the values of a sample, in the order of the first one's fields.

        Raises:
            UnsupportedError: it is no dict, has other fields than those before, or a value that
                cannot be kept; the message names the sample and the field.
        """
        known = self.known
        if not known:
            self._begin(number, sample)
        elif not isinstance(sample, Mapping) or sample.keys() != known.keys():
            raise self._other(number, sample)
        found: dict[str, Value] = {}
        for name in known:
            value = sample[name]
            kind = type(value)
            usual = self._looks.get(name)
            if kind is np.ndarray:
                if (value.dtype, value.shape) != usual or not value.flags.c_contiguous:
                    value = self._look(number, name, value)
            elif usual is not kind and (usual is None or usual is not _SCALARS.get(kind)):
                value = self._look(number, name, value)
            elif usual is not kind:
                value = (
                    usual(value) if -_LARGE < value < _LARGE else self._look(number, name, value)
                )
            found[name] = value
        return found

    def _begin(self, number: int, sample: Any) -> None:
        if not isinstance(sample, Mapping):
            raise _no_dict(number, sample)
        if not sample:
            raise UnsupportedError(
                "has no fields", where=f"sample {number}", cure='Give {"image": ..., "label": ...}.'
            )
        for name in sample:
            if not isinstance(name, str) or not name or "\0" in name or not _is_text(name):
                raise UnsupportedError(
                    f"has a field called {name!r}",
                    where=f"sample {number}",
                    cure="Call it by text.",
                )
        for name, value in sample.items():
            look = _field(self._value(number, name, value))
            self.known[name] = look

    def _look(self, number: int, name: str, value: Any) -> Value:
        """Make a value of what may be anything, and compare it with those before."""
        kept = self._value(number, name, value)
        found, known = _field(kept), self.known[name]
        if found != known:
            if self._alike:
                raise UnsupportedError(
                    f"has {found}, where the samples before have {known}",
                    where=f"sample {number}, field {name!r}",
                    cure=f"{self._alike} keeps samples that are alike: pad or resize them, or "
                    "write to a database or a .tar.",
                )
            self.known[name] = _ANY
            self._looks.pop(name, None)
        elif isinstance(kept, np.generic):
            self._looks[name] = type(kept)
        elif isinstance(kept, np.ndarray) and kept.dtype != object:
            self._looks[name] = kept.dtype, kept.shape
        return kept

    def _value(self, number: int, name: str, value: Any) -> Value:
        where = f"sample {number}, field {name!r}"
        try:
            if self._as_text and isinstance(value, list | dict):
                return value
            kept = _value(value, where)
            if self._as_text and isinstance(kept, np.integer) and kept < _LARGE:
                return np.int64(kept)
            return kept
        except TensorKeepError as error:
            if error.where == where:
                raise
            raise type(error)(error.problem, where=where, cure=error.cure) from None

    def _other(self, number: int, sample: Any) -> UnsupportedError:
        if not isinstance(sample, Mapping):
            return _no_dict(number, sample)
        return UnsupportedError(
            f"has the fields {', '.join(map(str, sample))}, where the samples before have "
            f"{', '.join(self.known)}",
            where=f"sample {number}",
            cure="Give all samples the same fields.",
        )


def _no_dict(number: int, sample: Any) -> UnsupportedError:
    return UnsupportedError(
        f"is a {type(sample).__name__}, where a dict of fields is needed",
        where=f"sample {number}",
        cure='Give {"image": ..., "label": ...}.',
    )


def _value(value: Any, where: str) -> Value:
    if isinstance(value, str | np.str_):
        text = str(value)
        if not _is_text(text):
            raise UnsupportedError(
                "is a str with a lone surrogate, which is no text",
                where=where,
                cure="Encode it to bytes first.",
            )
        return text
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, np.generic):
        return _numbers(np.asarray(value), value, where)[()]
    if isinstance(value, np.ma.MaskedArray):
        raise UnsupportedError(f"is a {MASKED}", where=where, cure=TWO_ARRAYS)
    known = frameworks.to_array(value, where)
    try:
        array = np.asarray(value) if known is None else known[1]
    except (ValueError, TypeError, OverflowError) as error:  # lists of unequal lengths
        raise _no_value(value, where, f", which makes no array: {error}") from None
    if isinstance(value, list | tuple) and not is_kept(value, array):
        raise _no_value(value, where, ", whose elements no array holds as they are")
    if array.dtype.kind in "OUST":
        return _texts(array, value, where)
    array = _numbers(array, value, where)
    if isinstance(value, int | float | complex):  # bool, too: NumPy's scalar of it
        return array[()]
    return array


def _numbers(array: npt.NDArray[Any], value: Any, where: str) -> npt.NDArray[Any]:
    try:
        dtypes.of_numpy(array.dtype)
    except UnsupportedError:
        raise _no_value(value, where, f" of {array.dtype}") from None
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return array if array.flags.c_contiguous else array.copy(order="C")


def _texts(array: npt.NDArray[Any], value: Any, where: str) -> Value:
    """Give text, or an array of it, as objects of str."""
    if array.ndim == 0:
        item = array.item()
        if isinstance(item, str | bytes):
            return _value(item, where)
        raise _no_value(value, where, "")
    texts = array.astype(object)
    for item in texts.reshape(-1):
        if not isinstance(item, str) or not _is_text(item):
            raise _no_value(item, where, ", in an array of objects")
    return texts


def _no_value(value: Any, where: str, how: str) -> UnsupportedError:
    return UnsupportedError(
        f"is a {type(value).__name__}{how}, which is not kept",
        where=where,
        cure="Give numbers, arrays of numbers, text or bytes.",
    )


def _field(value: Value) -> Field:
    if isinstance(value, str):
        return _TEXT
    if isinstance(value, list | dict):
        return _JSON
    if isinstance(value, bytes):
        return _ANY
    if value.dtype == object:
        return Field("string", value.shape)
    return Field(dtypes.of_numpy(value.dtype).name, value.shape)


def size_of_value(value: Value) -> int:
    """Give the bytes that a value takes, for text with 8 that tell where it ends."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        return value.nbytes
    texts = value.reshape(-1) if isinstance(value, np.ndarray) else (value,)
    return sum(8 + len(encoded(text)) for text in texts)


def encoded(text: Any) -> bytes:
    """Give text as it is kept, and bytes as they are."""
    return text if isinstance(text, bytes) else str(text).encode()


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
