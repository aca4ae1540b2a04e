"""Whether two states are the same: the same types around the same bits."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes, frameworks
from tensorkeep.state import State
from tensorkeep.tensor import Tensor


def assert_equal_states(found: Any, expected: Any, where: str = "state") -> None:
    """Check that two nestings hold the same types and the same bits.

    Named tuples need the same name and fields, not the same class. The order of the keys counts in
    an OrderedDict. Python's NaNs are all alike; those of arrays are compared by their bits. Byte
    order and strides of arrays do not count, since a state does not keep them.

    Raises:
        AssertionError: they differ; the message names the place.

    >>> assert_equal_states({"w": [np.float32(0.0)]}, {"w": [np.float32(-0.0)]})
    Traceback (most recent call last):
    ...
    AssertionError: state.w.0: found np.float32(0.0), expected np.float32(-0.0)
    """
    if isinstance(expected, State):
        _same_tensors(found, expected, where)
    elif isinstance(expected, Mapping):
        _same_mappings(found, expected, where)
    elif isinstance(expected, list | tuple):
        _same_sequences(found, expected, where)
    elif isinstance(expected, np.generic):
        same = type(found) is type(expected) and found.dtype == expected.dtype
        _expect(same and found.tobytes() == expected.tobytes(), found, expected, where)
    elif (array := frameworks.to_array(expected, where)) is not None:
        _same_arrays(frameworks.to_array(found, where), array, where)
    else:
        same = type(found) is type(expected) and _same_scalars(found, expected)
        _expect(same, found, expected, where)


def _expect(same: bool, found: Any, expected: Any, where: str) -> None:
    if not same:
        raise AssertionError(f"{where}: found {_short(found)}, expected {_short(expected)}")


def _short(value: Any) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except ValueError:  # an integer of more digits than Python converts
        text = f"a {type(value).__name__}"
    return text if len(text) < 200 else f"{text[:197]}..."


def _same_tensors(found: Any, expected: State, where: str) -> None:
    _expect(isinstance(found, State), found, expected, where)
    _expect(sorted(found) == sorted(expected), sorted(found), sorted(expected), f"{where}: names")
    for name, tensor in expected.items():
        _same_tensor(found[name], tensor, f"{where}[{name!r}]")


def _same_tensor(found: Tensor, expected: Tensor, where: str) -> None:
    same = found.dtype is expected.dtype and found.shape == expected.shape
    _expect(same, found, expected, where)
    if found.read() != expected.read():
        _expect(False, found.numpy(), expected.numpy(), where)


def _same_mappings(found: Any, expected: Mapping[Any, Any], where: str) -> None:
    _expect(type(found) is type(expected), found, expected, where)
    keys = list(found), list(expected)
    same = keys[0] == keys[1] if type(expected) is not dict else set(keys[0]) == set(keys[1])
    _expect(same, *keys, f"{where}: keys")
    types = {key: type(key) for key in expected}
    for key in found:
        _expect(type(key) is types[key], key, types[key], f"{where}: keys")
        assert_equal_states(found[key], expected[key], f"{where}.{_short(key)}")


def _same_sequences(found: Any, expected: list[Any] | tuple[Any, ...], where: str) -> None:
    fields = getattr(expected, "_fields", None)
    if fields is None:
        _expect(type(found) is type(expected), found, expected, where)
    else:
        same = type(found).__name__ == type(expected).__name__ and isinstance(found, tuple)
        _expect(same and getattr(found, "_fields", None) == fields, found, expected, where)
    _expect(len(found) == len(expected), found, expected, where)
    for i, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert_equal_states(one, other, f"{where}.{fields[i] if fields else i}")


def _same_arrays(
    found: tuple[str, npt.NDArray[Any]] | None, expected: tuple[str, npt.NDArray[Any]], where: str
) -> None:
    _expect(found is not None and found[0] == expected[0], found, expected, where)
    if found is None:  # for the type checker: the line above has raised
        return
    one, other = found[1], expected[1]
    _expect(_kind(one) == _kind(other), one.dtype, other.dtype, where)
    _same_tensor(Tensor.of(one), Tensor.of(other), where)


def _kind(array: npt.NDArray[Any]) -> object:
    """What NumPy type an array has, whatever its byte order."""
    if array.dtype.kind in "TO":
        return array.dtype
    return array.dtype.newbyteorder("=") if array.dtype.kind in "US" else dtypes.dtype(array.dtype)


def _same_scalars(found: Any, expected: Any) -> bool:
    if isinstance(expected, complex):
        pairs = (found.real, expected.real), (found.imag, expected.imag)
        return all(_same_scalars(one, other) for one, other in pairs)
    if isinstance(expected, float):
        bits = struct.pack("<d", found), struct.pack("<d", expected)
        return bits[0] == bits[1] or (found != found and expected != expected)
    return bool(found == expected)
