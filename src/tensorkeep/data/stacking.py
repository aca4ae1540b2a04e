"""Samples one by one, made into a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import frameworks
from tensorkeep.errors import UnsupportedError

_CURE = (
    "Make them alike with each=..., such as a crop, a resize or padding, "
    "or leave the field out with fields=[...]."
)


def stack(
    samples: Sequence[Mapping[str, Any]], names: Sequence[str], where: str = ""
) -> dict[str, npt.NDArray[Any]]:
    """Make a batch of samples: each field an array with a first axis as long as there are samples.

    Numbers, arrays of NumPy and of frameworks are stacked; text and bytes become an array of
    objects.

    Args:
        samples: dicts with the same fields.
        names: what messages call each of them.
        where: names what they are from.

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
    return {key: _column(key, [s[key] for s in samples], names, where) for key in first}


def _column(key: str, values: list[Any], names: Sequence[str], where: str) -> npt.NDArray[Any]:
    if isinstance(values[0], str | bytes | bytearray | memoryview):
        column = np.empty(len(values), object)
        column[:] = [v if isinstance(v, str) else bytes(v) for v in values]
        return column
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
    return np.stack(arrays)


def _array(key: str, value: Any, name: str, where: str) -> npt.NDArray[Any]:
    found = frameworks.to_array(value, f"{name}, field {key!r}")
    array = np.asarray(value) if found is None else found[1]
    if array.dtype == object and not (array.size and isinstance(array.reshape(-1)[0], str | bytes)):
        raise UnsupportedError(
            f"the field {key!r} of {name} is a {type(value).__name__}, which makes no array",
            where=where,
            cure="Numbers, text, bytes and arrays do.",
        )
    return array
