"""Paddle's .pdparams and .pdopt: pickles of dicts of arrays, as paddle.save writes them.

    {NAME: array, ..., "StructuredToParameterName@@": {NAME: PARAMETER}}
                                      a state_dict; the parameters' own names go to the metadata
    ..."UnpackBigParamInfor@@": {NAME: {"OriginShape": SHAPE, "slices": [NAME@@.0, ...]}}
                                      protocols 2 and 3: arrays of over a gigabyte, in flat slices
    (PARAMETER, array)                a tensor elsewhere in a nesting
    eval("data", {"data": array})     a LoDTensor

Facts from paddle 2.6's python/paddle/framework/io.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tensorkeep.dtypes import DType, count_of
from tensorkeep.errors import CorruptError
from tensorkeep.formats.pickle.arrays import LazyArray, look
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor
from tensorkeep.wire.pickle.arrays import PickledArray
from tensorkeep.wire.pickle.values import OrderedMap

NAME_TABLE = "StructuredToParameterName@@"
SLICES = "UnpackBigParamInfor@@"
SUFFIXES = (".pdparams", ".pdopt", ".pdtensor")
_MAX_DEPTH = 100


def is_paddle(value: Any, suffix: str) -> bool:
    """Say whether a pickle's value is one that paddle.save wrote."""
    return suffix in SUFFIXES or (isinstance(value, dict) and (NAME_TABLE in value))


def unpacked(value: Any, where: str) -> tuple[Any, dict[str, str]]:
    """Give the value as it was before it was saved, and the parameters' own names by place.

    Raises:
        CorruptError: the slices of an array do not make it.
    """
    named: dict[str, str] = {}
    if isinstance(value, dict):
        kept = dict(value)
        table = kept.pop(NAME_TABLE, None)
        if isinstance(table, dict):
            pairs = table.items()
            named.update((k, n) for k, n in pairs if type(k) is str and type(n) is str)
        elif table is not None:
            kept[NAME_TABLE] = table
        slices = kept.pop(SLICES, None)
        if slices is not None:
            kept = _joined(kept, slices, where)
        value = kept
    return _without_names(value, "", named, 0), named


def _without_names(value: Any, place: str, named: dict[str, str], depth: int) -> Any:
    """Put tensors in the place of pairs of a parameter's name and its array."""
    if depth > _MAX_DEPTH:
        return value
    if type(value) is tuple and list(map(type, value)) == [str, LazyArray]:
        named[place] = value[0]
        return value[1]
    if type(value) in (dict, OrderedMap):
        return type(value)(
            {
                key: _without_names(item, f"{place}.{key}" if place else str(key), named, depth + 1)
                for key, item in value.items()
            }
        )
    if type(value) is list:
        return [
            _without_names(item, f"{place}.{i}" if place else str(i), named, depth + 1)
            for i, item in enumerate(value)
        ]
    return value


def _joined(value: dict[Any, Any], slices: Any, where: str) -> dict[Any, Any]:
    """Put the arrays together that were cut into slices."""
    if not isinstance(slices, dict):
        raise CorruptError("does not say which of its arrays are slices", where=where)
    whole = dict(value)
    for name, told in slices.items():
        parts = told.get("slices") if isinstance(told, dict) else None
        shape = told.get("OriginShape") if isinstance(told, dict) else None
        if type(parts) is not list or type(shape) is not tuple:
            raise CorruptError(f"does not say what {name!r:.60} is made of", where=where)
        whole[name] = _join(name, shape, [_part(whole, part, where) for part in parts], where)
    return whole


def _part(whole: dict[Any, Any], name: Any, where: str) -> Tensor:
    """Take a slice out of the dict."""
    found = whole.pop(name, None) if type(name) is str else None
    found = look(found, "") if type(found) is LazyArray else None
    if type(found) is PickledArray:
        found = Tensor.of(found.numpy(), where)
    if type(found) is not Tensor or len(found.shape) != 1:
        raise CorruptError(f"the slice {name!r:.60} of an array is not there", where=where)
    return found


def _join(name: Any, shape: tuple[Any, ...], parts: list[Tensor], where: str) -> Tensor:
    kinds = {part.dtype for part in parts}
    sound = all(type(n) is int and n >= 0 for n in shape) and len(kinds) == 1
    if not sound or count_of(shape) != sum(part.size for part in parts) or kinds.pop().packed:
        raise CorruptError(f"the slices of {name!r:.60} do not make its shape {shape}", where=where)
    return Tensor(parts[0].dtype, shape, _Joined(parts[0].dtype, parts, where))


class _Joined(Source):
    """The bytes of tensors, one after the other."""

    __slots__ = ("_parts",)

    def __init__(self, kind: DType, parts: list[Tensor], where: str) -> None:
        super().__init__(sum(part.nbytes for part in parts), where)
        self._parts = parts

    def _read(self, start: int, stop: int) -> memoryview:
        found = [bytes(piece) for piece in self._pieces(start, stop)]
        return memoryview(found[0] if len(found) == 1 else b"".join(found))

    def _pieces(self, start: int, stop: int) -> Iterator[memoryview]:
        at = 0
        for part in self._parts:
            first, last = max(start - at, 0), min(stop - at, part.nbytes)
            if first < last:
                yield part.source.read(part.offset + first, part.offset + last)
            at += part.nbytes
