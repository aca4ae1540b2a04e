"""The attributes of an ONNX node as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tensorkeep.errors import TensorKeepError
from tensorkeep.graph import KINDS
from tensorkeep.graph.schema import ATTRIBUTE_TYPES, EXTERNAL
from tensorkeep.message import Message
from tensorkeep.tensor import Tensor
from tensorkeep.viewer.answers import Attribute
from tensorkeep.viewer.graphs.bounds import (
    beginning,
    bytes_text,
    clipped,
    float_text,
    listed,
    named,
    type_of,
)
from tensorkeep.viewer.graphs.onnx_types import type_text

_KINDS = {number: name.lower() for number, name in ATTRIBUTE_TYPES.names.items() if number}
_ELEMENTS = ("to", "dtype", "output_dtype")  # attributes that are an element type by its number
_LITTLE = 64  # bytes of a tensor whose values are shown


class Held(NamedTuple):
    """A tensor of a model, and its place in the listing."""

    place: int
    tensor: Tensor


def show(attribute: Message, held: Mapping[int, Held]) -> Attribute:
    """Write an attribute that is neither a graph nor a tensor, or the first tensor that it is."""
    name = named(attribute.name)
    if attribute.ref_attr_name:
        kind = _KINDS.get(attribute.type, "reference")
        return Attribute(name, kind, f"@{named(attribute.ref_attr_name)} of the function")
    for tensor in tensors_of(attribute, name, held):
        return tensor
    if "g" in attribute or attribute.graphs:
        return Attribute(name, "graph", named(attribute.g.name))
    kind, text = _written(attribute)
    return Attribute(name, kind, text)


def _written(attribute: Message) -> tuple[str, str]:
    kind = _KINDS.get(attribute.type, "")
    for field, called, write in _WRITERS:
        if kind == called or (not kind and field in attribute):
            return called, write(attribute)
    return kind or "nothing", ""


def _bytes(data: bytes) -> str:
    return beginning(data, len(data))


def _integer(attribute: Message) -> str:
    """Write an integer, and the element type that it stands for in Cast and its kin."""
    kind = KINDS.get(attribute.i) if attribute.name in _ELEMENTS else None
    return f"{attribute.i} ({kind.name})" if kind else str(attribute.i)


_WRITERS: tuple[tuple[str, str, Any], ...] = (
    ("f", "float", lambda row: float_text(row.f)),
    ("i", "int", _integer),
    ("s", "string", lambda row: bytes_text(row, "s")),
    ("floats", "floats", lambda row: listed(row.floats, float_text)),
    ("ints", "ints", lambda row: listed(row.ints)),
    ("strings", "strings", lambda row: listed(row.strings, _bytes)),
    ("tp", "type_proto", lambda row: type_text(row.tp)),
    ("type_protos", "type_protos", lambda row: listed(row.type_protos, type_text)),
)


def tensors_of(attribute: Message, name: str, held: Mapping[int, Held]) -> list[Attribute]:
    """Give an attribute for each tensor in one, with its place in the listing."""
    return [
        Attribute(name, kind, _tensor_text(message, found), tensor=found.place)
        for kind, message in _messages(attribute)
        if (found := held.get(id(message))) is not None
    ]


def _messages(attribute: Message) -> Iterator[tuple[str, Message]]:
    if "t" in attribute:
        yield "tensor", attribute.t
    for tensor in attribute.tensors:
        yield "tensors", tensor
    sparse = [attribute.sparse_tensor] if "sparse_tensor" in attribute else []
    for each in (*sparse, *attribute.sparse_tensors):
        for part in ("values", "indices"):
            if part in each:
                yield f"sparse {part}", each[part]


def _tensor_text(message: Message, held: Held) -> str:
    """Write the type of a tensor, and its values where they are few and in the model itself."""
    tensor, text = held.tensor, type_of(held.tensor)
    if tensor.nbytes > _LITTLE or message.data_location == EXTERNAL:
        return clipped(text)
    try:
        values = tensor.numpy().reshape(-1)[:_LITTLE].tolist()
    except TensorKeepError:  # it has no values, which reading the tensor tells
        return clipped(text)
    shown = [float_text(v) if isinstance(v, float) else str(v) for v in values]
    return clipped(f"{text} = {', '.join(shown)}")
