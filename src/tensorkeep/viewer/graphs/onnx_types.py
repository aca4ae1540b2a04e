"""The types of values as text: float32[1, 3, ?, batch], sequence(int64[]), map(string, float32)."""

from __future__ import annotations

from tensorkeep.graph import KINDS
from tensorkeep.message import Message
from tensorkeep.viewer.graphs.bounds import clipped

_MOST_AXES = 64
_MOST_LEVELS = 16
_LITTLE = 256  # bytes of a type that is likely to come again
_WRAPPED = {"sequence_type": "sequence", "optional_type": "optional"}


def type_text(kind: Message) -> str:
    """Write a TypeProto; empty where it says nothing.

    >>> from tensorkeep.graph.schema import TYPE
    >>> kind = Message(TYPE)
    >>> held = kind.make("sequence_type").make("elem_type").make("tensor_type", elem_type=1)
    >>> type_text(kind)
    'sequence(float32)'
    >>> _ = held.make("shape").add("dim", dim_param="batch")
    >>> type_text(kind)
    'sequence(float32[batch])'
    """
    before, after = "", ""
    for _ in range(_MOST_LEVELS):
        for field, word in _WRAPPED.items():
            if field in kind:
                before, after, kind = f"{before}{word}(", f"){after}", kind[field].elem_type
                break
        else:
            if "map_type" not in kind:
                break
            key = _element(kind.map_type.key_type)
            before, after = f"{before}map({key}, ", f"){after}"
            kind = kind.map_type.value_type
    else:
        return clipped(f"{before}...{after}")
    return clipped(f"{before}{_innermost(kind)}{after}")


class Types:
    """Types as text, those that many values share read once."""

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}

    def text(self, kind: Message) -> str:
        """Write a TypeProto, as `type_text` does."""
        data = kind.glance(_LITTLE)
        if data is None:
            return type_text(kind)
        key = bytes(data)
        if key not in self._known:
            self._known[key] = type_text(kind)
        return self._known[key]


def _innermost(kind: Message) -> str:
    if "tensor_type" in kind:
        return _tensor(kind.tensor_type)
    if "sparse_tensor_type" in kind:
        return f"sparse {_tensor(kind.sparse_tensor_type)}"
    if "opaque_type" in kind:
        return f"opaque({kind.opaque_type.domain}.{kind.opaque_type.name})"
    return ""


def _tensor(held: Message) -> str:
    element = _element(held.elem_type)
    if "shape" not in held:
        return element
    axes = held.shape.dim
    shown = [_axis(axis) for axis in axes[:_MOST_AXES]]
    more = [f"... {len(axes):,} in all"] if len(axes) > _MOST_AXES else []
    return f"{element}[{', '.join([*shown, *more])}]"


def _element(number: int) -> str:
    kind = KINDS.get(number)
    return kind.name if kind else "?" if not number else f"type {number}"


def _axis(axis: Message) -> str:
    if "dim_value" in axis:
        return str(axis.dim_value)
    return str(axis.dim_param) or "?"
