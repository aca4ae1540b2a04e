"""What files beside a net say of its inputs: value_info.json."""

from __future__ import annotations

from typing import Any

from tensorkeep.errors import CorruptError, MissingError, UnsupportedError
from tensorkeep.store import Location
from tensorkeep.wire.caffe2.elements import DTYPE_OF
from tensorkeep.wire.caffe2.nets import Given
from tensorkeep.wire.text import parse_json

_NAME = "value_info.json"
_LARGEST = 4 << 20
_MOST_VALUES = 100_000


def read_value_info(location: Location | None) -> dict[str, Given]:
    """Read `{input: [element type, shape]}` beside a net; empty where there is no such file.

    Raises:
        CorruptError: it is something else.
    """
    if location is None or not location.key:
        return {}
    stem = location.name.rpartition("predict_net")[0]
    for name in dict.fromkeys((f"{stem}{_NAME}", _NAME)):
        beside = location.beside(name)
        try:
            source = beside.source
        except (MissingError, UnsupportedError):
            continue
        where = beside.where
        try:
            if source.size > _LARGEST:
                raise CorruptError(f"has {source.size:,} bytes, where a list is few", where=where)
            data = bytes(source.read(0, source.size))
        finally:
            beside.close()
        return _read(parse_json(data, where, most=_MOST_VALUES), where)
    return {}


def _read(found: Any, where: str) -> dict[str, Given]:
    if not isinstance(found, dict):
        raise CorruptError("is not an object of inputs", where=where)
    return {name: _given(name, row, where) for name, row in found.items()}


def _given(name: str, row: Any, where: str) -> Given:
    match row:
        case [int(code), list(shape)] if not isinstance(code, bool) and code in DTYPE_OF:
            if all(type(axis) is int and 0 <= axis < 1 << 63 for axis in shape):
                return Given(DTYPE_OF[code].name, tuple(shape))
    problem = f"says {str(row)[:60]!r} of {name[:60]!r}, where [element type, shape] is expected"
    raise CorruptError(problem, where=where, cure='Such as {"data": [1, [1, 3, 224, 224]]}.')
