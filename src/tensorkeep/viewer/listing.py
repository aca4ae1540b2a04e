"""The listing of a state and what is kept beside its tensors, of bounded size whatever is in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tensorkeep.diff import scalars
from tensorkeep.state import Json, State
from tensorkeep.viewer.answers import Metadata, Tensors

MOST_ROWS = 200_000
_MOST_BYTES = 64 << 20  # of a listing, as JSON
_ROW = 64  # bytes of a row beside its name and shape
_AXIS = 8
_MOST_REMARK = 500  # letters

_MOST_TEXT = 16_384  # letters of one value
_MOST_ITEMS = 10_000  # of one list or dict
_MOST_IN_ALL = 4 << 20  # letters of all values
_MOST_DEPTH = 40
_EXACT = 1 << 53  # integers up to which JavaScript's numbers are exact
_CUT = "…"


def tensors(state: State) -> Tensors:
    """List the tensors, column by column."""
    names: list[str] = []
    dtypes: list[str] = []
    shapes: list[list[int]] = []
    sizes: list[int] = []
    room = _MOST_BYTES
    for name, tensor in state.items():
        room -= len(name) + _AXIS * len(tensor.shape) + _ROW
        if room < 0 or len(names) == MOST_ROWS:
            break
        names.append(name)
        dtypes.append(tensor.dtype.name)
        shapes.append(list(tensor.shape))
        sizes.append(tensor.nbytes)
    remarks = {}
    if state.remarks:
        places = {name: place for place, name in enumerate(names)}
        for name, remark in state.remarks.items():
            if name in places and room > 0:
                text = remark if len(remark) <= _MOST_REMARK else remark[:_MOST_REMARK] + _CUT
                room -= len(text)
                remarks[str(places[name])] = text
    return Tensors(names, dtypes, shapes, sizes, remarks, len(state) - len(names))


def metadata(state: State) -> Metadata:
    """List the metadata, the numbers and text of the nesting, and what was refused."""
    cutter = _Cutter()
    refused = [cutter.cut(sentence) for sentence in state.refused[:_MOST_ITEMS]]
    kept = cutter.cut(state.metadata)
    values = cutter.cut(scalars(state)) if state.skeleton is not None else {}
    return Metadata(kept, values, refused)


class _Cutter:
    """Makes values JSON that a browser reads as they are, and cuts what is too large for it.

    >>> _Cutter().cut({"loss": math.nan, "seed": 2**60})
    {'loss': 'nan', 'seed': '1152921504606846976'}
    """

    def __init__(self) -> None:
        self._room = _MOST_IN_ALL

    def cut(self, value: Any, depth: int = 0) -> Any:
        match value:
            case None | bool():
                self._room -= 5
                return value
            case str():
                return self._text(value)
            case int():
                self._room -= 17
                return value if -_EXACT <= value <= _EXACT else self._text(_digits(value))
            case float():
                self._room -= 20
                return value if math.isfinite(value) else str(value)
            case bytes() | bytearray():
                return self._bytes(value)
            case Mapping() | list() | tuple() if depth == _MOST_DEPTH:
                return f"{_CUT} ({len(value):,} more, nested deeper)"
            case Mapping():
                return self._mapping(value, depth + 1)
            case list() | tuple():
                return self._list(value, depth + 1)
        return self._text(str(value))

    def _text(self, text: str) -> str:
        most = max(min(_MOST_TEXT, self._room), 0)
        self._room -= min(len(text), most) + 3
        return text if len(text) <= most else f"{text[:most]}{_CUT} ({len(text):,} letters)"

    def _bytes(self, data: bytes | bytearray) -> str:
        most = max(min(_MOST_TEXT, self._room) // 2, 0)
        told = bytes(data[:most]).hex()
        self._room -= len(told) + 3
        return told if len(data) <= most else f"{told}{_CUT} ({len(data):,} bytes)"

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Json]:
        cut: dict[str, Json] = {}
        for key, item in value.items():
            if len(cut) == _MOST_ITEMS or self._room <= 0:
                cut[_CUT] = f"{len(value) - len(cut):,} more"
                break
            cut[self._text(str(key))] = self.cut(item, depth)
        return cut

    def _list(self, value: list[Any] | tuple[Any, ...], depth: int) -> list[Json]:
        cut: list[Json] = []
        for item in value:
            if len(cut) == _MOST_ITEMS or self._room <= 0:
                cut.append(f"{_CUT} {len(value) - len(cut):,} more")
                break
            cut.append(self.cut(item, depth))
        return cut


def _digits(value: int) -> str:
    """Write an integer of any size; Python refuses to write more than some thousand digits."""
    return str(value) if value.bit_length() < 10_000 else hex(value)
