"""The types of a model's values: those that it declares, and those that ONNX infers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tensorkeep.errors import ArgumentError, TensorKeepError, UnsupportedError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import DIMENSION, MODEL, TYPE, VALUE_INFO
from tensorkeep.message import Message
from tensorkeep.models.editing.draft import Draft
from tensorkeep.models.lean import lean
from tensorkeep.optional import require

_CURE = "Install it with pip install tensorkeep[onnx]."


def declared(graph: Message) -> dict[str, Message]:
    """Give the ValueInfoProtos of a graph by name, its initializers being said as such too."""
    rows = {row.name: row for row in (*graph.value_info, *graph.input, *graph.output)}
    rows = {name: row for name, row in rows.items() if is_typed(row)}
    for tensor in graph.initializer:
        rows.setdefault(tensor.name, tensor_info(tensor.name, tensor.data_type, tensor.dims))
    for sparse in graph.sparse_initializer:
        values = sparse["values"]
        if values.name not in rows:
            row = Message(VALUE_INFO, name=values.name)
            _fill(row.make("type").make("sparse_tensor_type"), values.data_type, sparse.dims)
            rows[values.name] = row
    return rows


def is_typed(row: Message) -> bool:
    """Whether a ValueInfoProto says what kind of value it is, with an element type."""
    kind = row.type
    for name in ("sequence_type", "optional_type", "map_type", "opaque_type"):
        if name in kind:
            return True
    return any(f"{n}_type" in kind and kind[f"{n}_type"].elem_type for n in ("tensor", "sparse_tensor"))


def tensor_info(name: str, element: int, shape: Iterable[int]) -> Message:
    """Make the ValueInfoProto of a tensor."""
    row = Message(VALUE_INFO, name=name)
    _fill(row.make("type").make("tensor_type"), element, shape)
    return row


def _fill(held: Message, element: int, shape: Iterable[int]) -> None:
    held.elem_type = element
    held.make("shape").dim = [Message(DIMENSION, dim_value=int(axis)) for axis in shape]


def inferred(graph: Graph, *, strict: bool = False) -> Message:
    """Give a model with the types that ONNX infers, without its large tensors' bytes.

    Raises:
        MissingDependencyError: the onnx package is not installed.
        UnsupportedError: the types contradict one another.
    """
    inference = require("onnx.shape_inference", "the types of values are inferred by onnx", _CURE)
    data = lean(graph).encode()
    try:
        found = inference.infer_shapes(data, strict_mode=strict, data_prop=True)
    except Exception as error:  # a RuntimeError of C++, or protobuf's own
        reason = str(error).strip().splitlines()
        raise UnsupportedError(
            f"ONNX cannot infer the types of its values: {reason[0] if reason else 'no reason'}",
            where=graph.where,
        ) from None
    data = found if isinstance(found, bytes) else found.SerializeToString()
    return Message.parse(MODEL, data, where=graph.where)


def typed(draft: Draft, names: Iterable[str], why: str) -> dict[str, Message]:
    """Give ValueInfoProtos for values of the main graph; inferred where they are not declared.

    Raises:
        ArgumentError: the type of one is not known.
    """
    wanted = list(names)
    rows = declared(draft.main)
    missing = [name for name in wanted if name not in rows]
    reason = ""
    if missing:
        try:
            found = declared(inferred(Graph(draft.model, opener=draft.graph.opener)).graph)
        except TensorKeepError as error:
            found, reason = {}, f" ({error.problem})"
        rows |= {name: found[name] for name in missing if name in found}
    for name in missing:
        if name not in rows:
            raise ArgumentError(
                f"the type of {name!r} is not known, so it cannot become {why}{reason}",
                where=draft.where,
                cure="Have the model say it in its value_info, as shape inference does.",
            )
    return {name: rows[name] for name in wanted}


def element_of(kind: Message) -> int:
    """Give the element type of a TypeProto, 0 for what is no tensor; also of sequences."""
    for name in ("tensor_type", "sparse_tensor_type"):
        if name in kind:
            return int(kind[name].elem_type)
    for name in ("sequence_type", "optional_type"):
        if name in kind:
            return element_of(kind[name].elem_type)
    return 0


def retype(kind: Message, old: Iterable[int], new: int) -> bool:
    """Change an element type within a TypeProto; says whether it did."""
    chosen = set(old)
    for name in ("tensor_type", "sparse_tensor_type"):
        if name in kind:
            if kind[name].elem_type not in chosen:
                return False
            kind[name].elem_type = new
            return True
    for name in ("sequence_type", "optional_type"):
        if name in kind:
            return retype(kind[name].elem_type, chosen, new)
    return "map_type" in kind and retype(kind.map_type.value_type, chosen, new)


def is_tensor(kind: Message) -> bool:
    """Whether a TypeProto is that of a dense tensor."""
    return "tensor_type" in kind


def axes(row: Message) -> list[Message] | None:
    """Give the dimensions of a value to change them; None where its rank is not known."""
    kind = row.type
    if "tensor_type" not in kind or "shape" not in kind.tensor_type:
        return None
    dimensions: list[Message] = kind.tensor_type.shape.dim
    return dimensions


def int64s(values: Iterable[int]) -> bytes:
    """Give numbers as the raw bytes of an int64 tensor."""
    return np.array(list(values), "<i8").tobytes()


__all__ = [
    "TYPE", "axes", "declared", "element_of", "inferred", "int64s", "is_tensor", "is_typed",
    "retype", "tensor_info", "typed",
]
