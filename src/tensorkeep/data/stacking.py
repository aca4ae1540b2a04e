"""Samples one by one, made into a batch."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import frameworks
from tensorkeep.errors import UnsupportedError

_CURE = (
    "Make them alike with each=..., such as a crop, a resize or padding, "
    "or leave the field out with fields=[...]."
)

_TEXT = str | bytes | bytearray | memoryview
_TYPES = {"U": "text", "O": "text", "S": "bytes", "M": "time", "m": "duration"}  # or numbers
_EXACT = 1 << 53  # float64 rounds integers from here on


MASKED = "masked array, and a batch has no masks"
TWO_ARRAYS = "Give its data and its mask as two fields."


def stack(
    samples: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    where: str = "",
    json: Container[str] = (),
) -> dict[str, npt.NDArray[Any]]:
    """Make a batch of samples: each field an array with a first axis as long as there are samples.

    Numbers, arrays of NumPy and of frameworks are stacked; text and bytes become an array of
    objects. Types may differ as far as one of them holds what all of the samples have.

    Args:
        samples: dicts with the same fields.
        names: what messages call each of them.
        where: names what they are from.
        json: fields whose dicts, lists and None become an array of objects as well.

    Raises:
        UnsupportedError: samples differ in their fields, shapes or types.

    >>> stack([{"x": 1.5, "t": "a"}, {"x": 2, "t": "b"}], ["sample 0", "sample 1"])["x"]
    array([1.5, 2. ])
    """
    if not samples:
        return {}
    first = samples[0]
    for sample, name in zip(samples, names, strict=True):
        if not isinstance(sample, Mapping):
            raise UnsupportedError(
                f"{name} is a {type(sample).__name__}, where a dict of fields is needed",
                where=where,
                cure='Give {"image": ..., "label": ...}.',
            )
        if sample.keys() != first.keys():
            raise UnsupportedError(
                f"{names[0]} has the fields {', '.join(map(str, first))}, and {name} "
                f"{', '.join(map(str, sample))}",
                where=where,
                cure=_CURE,
            )
    columns = {}
    for key in first:
        values = [sample[key] for sample in samples]
        if key in json and any(value is None or isinstance(value, dict | list) for value in values):
            columns[key] = _objects(values)
        else:
            columns[key] = _column(key, values, names, where)
    return columns


def _column(key: str, values: list[Any], names: Sequence[str], where: str) -> npt.NDArray[Any]:
    if isinstance(values[0], _TEXT):
        for value, name in zip(values, names, strict=True):
            if not isinstance(value, _TEXT):
                raise _differing(key, (names[0], values[0]), (name, value), where)
        return _objects([str(v) if isinstance(v, str) else bytes(v) for v in values])
    arrays = [_array(key, value, name, where) for value, name in zip(values, names, strict=True)]
    head = arrays[0]
    for array, name in zip(arrays, names, strict=True):
        if array.shape != head.shape:
            raise UnsupportedError(
                f"the field {key!r} has shape {head.shape} in {names[0]} and {array.shape} in "
                f"{name}, which make no batch",
                where=where,
                cure=_CURE,
            )
    if all(array.dtype == head.dtype for array in arrays):
        return np.stack(arrays)
    return _of_several_types(key, arrays, names, where)


def _objects(values: list[Any]) -> npt.NDArray[Any]:
    column = np.empty(len(values), object)
    for at, value in enumerate(values):  # NumPy would look into lists
        column[at] = value
    return column


def _of_several_types(
    key: str, arrays: list[npt.NDArray[Any]], names: Sequence[str], where: str
) -> npt.NDArray[Any]:
    """Stack arrays in the type that NumPy finds for all, unless that changes a value."""
    kinds = {_TYPES.get(array.dtype.kind) for array in arrays}
    column: npt.NDArray[Any]
    try:
        column = np.stack(arrays)
    except TypeError:  # there is none
        kinds.add("")
    for at, array in enumerate(arrays):
        # Lists, since Python compares an integer and a float exactly.
        if len(kinds) > 1 or (
            column.dtype.kind in "fc"
            and array.dtype.kind in "iu"
            and column[at].tolist() != array.tolist()
        ):
            other = next(i for i, a in enumerate(arrays) if a.dtype != array.dtype)
            one, two = sorted((at, other))
            raise _differing(key, (names[one], arrays[one]), (names[two], arrays[two]), where)
    return column


def _differing(
    key: str, one: tuple[str, Any], other: tuple[str, Any], where: str
) -> UnsupportedError:
    (first, value), (second, found) = one, other
    return UnsupportedError(
        f"the field {key!r} is {_type(value)} in {first} and {_type(found)} in {second}, which "
        "make no batch",
        where=where,
        cure=_CURE,
    )


def _type(value: Any) -> str:
    return f"of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _array(key: str, value: Any, name: str, where: str) -> npt.NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        raise UnsupportedError(
            f"the field {key!r} of {name} is a {MASKED}", where=where, cure=TWO_ARRAYS
        )
    found = frameworks.to_array(value, f"{name}, field {key!r}")
    try:
        array = np.asarray(value) if found is None else found[1]
    except (ValueError, TypeError, OverflowError):  # lists of unequal lengths
        array = None
    if array is None or not is_kept(value, array):
        raise UnsupportedError(
            f"the field {key!r} of {name} is a {type(value).__name__}, which makes no array",
            where=where,
            cure="Numbers, text, bytes and arrays do, and lists of numbers that are equally long.",
        )
    return array


def is_kept(value: Any, array: npt.NDArray[Any]) -> bool:
    """Say whether an array can be kept, and has the elements of the value that NumPy made it of."""
    if array.dtype == object:
        return all(isinstance(item, str | bytes) for item in array.flat)
    if not isinstance(value, list | tuple) or array.dtype.kind not in "USf":
        return True
    if array.dtype.kind == "f" and not (np.abs(array) >= _EXACT).any():
        return True
    # NumPy makes text of numbers, and rounds large ones.
    kinds = {"U": (str,), "S": (bytes,), "f": (float, np.floating)}[array.dtype.kind]
    return all(isinstance(item, kinds) for item in np.array(value, object).flat)
