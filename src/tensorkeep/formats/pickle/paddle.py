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

from typing import Any

from tensorkeep.dtypes import count_of
from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.formats.pickle.arrays import LazyArray, look
from tensorkeep.tensor import Tensor
from tensorkeep.tree.vocabulary import MAX_DEPTH, part_of
from tensorkeep.wire.elements import Joined
from tensorkeep.wire.pickle.arrays import PickledArray
from tensorkeep.wire.pickle.values import OrderedMap, shown

NAME_TABLE = "StructuredToParameterName@@"
SLICES = "UnpackBigParamInfor@@"
SUFFIXES = (".pdparams", ".pdopt", ".pdtensor")
_MAX_PLACE = 1 << 16


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
    return _Names(named, where).left_out(value), named


class _Names:
    """The parameters' own names by place, as tensors take the place of pairs of both.

    What stands in several places is gone through once, for the first of them.
    """

    def __init__(self, named: dict[str, str], where: str) -> None:
        self.named = named
        self.where = where
        self._done: dict[int, Any] = {}

    def left_out(self, value: Any, path: tuple[Any, ...] = ()) -> Any:
        """Give a value without the names in it."""
        if type(value) is tuple and list(map(type, value)) == [str, LazyArray]:
            self.named[self._place(path)] = value[0]
            return value[1]
        if type(value) not in (dict, OrderedMap, list) or len(path) > MAX_DEPTH:
            return value
        if id(value) not in self._done:
            self._done[id(value)] = value  # where it holds itself
            pairs = enumerate(value) if type(value) is list else value.items()
            made = [(key, self.left_out(item, (*path, key))) for key, item in pairs]
            kept = type(value)(made) if isinstance(value, dict) else [item for _, item in made]
            self._done[id(value)] = kept
        return self._done[id(value)]

    def _place(self, path: tuple[Any, ...]) -> str:
        parts = [part_of(part) for part in path]
        if sum(map(len, parts)) > _MAX_PLACE:
            raise UnsafeError("has a tensor under names without an end", where=self.where)
        return ".".join(parts)


def _joined(value: dict[Any, Any], slices: Any, where: str) -> dict[Any, Any]:
    """Put the arrays together that were cut into slices."""
    if not isinstance(slices, dict):
        raise CorruptError("does not say which of its arrays are slices", where=where)
    whole = dict(value)
    for name, told in slices.items():
        parts = told.get("slices") if isinstance(told, dict) else None
        shape = told.get("OriginShape") if isinstance(told, dict) else None
        if type(parts) is not list or type(shape) is not tuple:
            raise CorruptError(f"does not say what {shown(name)} is made of", where=where)
        whole[name] = _join(name, shape, [_part(whole, part, where) for part in parts], where)
    return whole


def _part(whole: dict[Any, Any], name: Any, where: str) -> Tensor:
    """Take a slice out of the dict."""
    found = whole.pop(name, None) if type(name) is str else None
    found = look(found, "") if type(found) is LazyArray else None
    if type(found) is PickledArray:
        found = Tensor.of(found.numpy(), where)
    if type(found) is not Tensor or len(found.shape) != 1:
        raise CorruptError(f"the slice {shown(name)} of an array is not there", where=where)
    return found


def _join(name: Any, shape: tuple[Any, ...], parts: list[Tensor], where: str) -> Tensor:
    kinds = {part.dtype for part in parts}
    sound = all(type(n) is int and 0 <= n < 2**59 for n in shape) and len(kinds) == 1
    if not sound or count_of(shape) != sum(part.size for part in parts) or kinds.pop().packed:
        raise CorruptError(
            f"the slices of {shown(name)} do not make its shape {shown(shape)}", where=where
        )
    spans = [(part.source, part.offset, part.offset + part.nbytes) for part in parts]
    return Tensor(parts[0].dtype, shape, Joined(spans, where))
