"""Nodes as translations see them, made of their messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensorkeep.graph.schema import ATTRIBUTE_TYPES
from tensorkeep.message import Message
from tensorkeep.models.exchange.settled import Node
from tensorkeep.tensor import Tensor

ReadTensor = Callable[[Message], Tensor]

_FIELDS = {
    "FLOAT": "f",
    "INT": "i",
    "STRING": "s",
    "TENSOR": "t",
    "GRAPH": "g",
    "SPARSE_TENSOR": "sparse_tensor",
    "TYPE_PROTO": "tp",
    "FLOATS": "floats",
    "INTS": "ints",
    "STRINGS": "strings",
    "TENSORS": "tensors",
    "GRAPHS": "graphs",
    "SPARSE_TENSORS": "sparse_tensors",
    "TYPE_PROTOS": "type_protos",
}
_BY_TYPE = {ATTRIBUTE_TYPES[name]: field for name, field in _FIELDS.items()}
_LISTS = ("floats", "ints", "strings", "tensors", "graphs", "sparse_tensors", "type_protos")


def read_node(message: Message, since: int, read: ReadTensor) -> Node:
    """Make a node of a NodeProto."""
    domain = str(message.domain)
    return Node(
        operator=str(message.op_type),
        domain="" if domain == "ai.onnx" else domain,
        name=str(message.name),
        inputs=list(message.input),
        outputs=list(message.output),
        attributes={str(row.name): _value(row, read) for row in message.attribute},
        since=since,
    )


def _value(row: Message, read: ReadTensor) -> Any:
    field = _BY_TYPE.get(row.type) or next((f for f in _FIELDS.values() if f in row), "i")
    value = row[field]
    if field in _LISTS:
        items = value.tolist() if hasattr(value, "tolist") else value
        return tuple(_item(item, field.removesuffix("s"), read) for item in items)
    return _item(value, {"s": "string", "t": "tensor"}.get(field, field), read)


def _item(value: Any, field: str, read: ReadTensor) -> Any:
    if field == "tensor":
        return read(value)
    if field == "string":
        data = bytes(value)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data
    return value
