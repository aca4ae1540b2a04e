"""The types of a model's values: those that it declares, and those that ONNX infers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tensorkeep.errors import ArgumentError, TensorKeepError, UnsupportedError
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import DIMENSION, VALUE_INFO
from tensorkeep.message import Message
from tensorkeep.models.apart import ask, is_installed
from tensorkeep.models.checking import refusal_of
from tensorkeep.models.editing.draft import Draft
from tensorkeep.models.lean import lean
from tensorkeep.models.opening import graph_of
from tensorkeep.models.scratch import scratch_folder
from tensorkeep.models.shapes import run_inference, write


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
    return any(
        f"{n}_type" in kind and kind[f"{n}_type"].elem_type for n in ("tensor", "sparse_tensor")
    )


def tensor_info(name: str, element: int, shape: Iterable[int]) -> Message:
    """Make the ValueInfoProto of a tensor."""
    row = Message(VALUE_INFO, name=name)
    _fill(row.make("type").make("tensor_type"), element, shape)
    return row


def _fill(held: Message, element: int, shape: Iterable[int]) -> None:
    held.elem_type = element
    held.make("shape").dim = [Message(DIMENSION, dim_value=int(axis)) for axis in shape]


def inferred(graph: Graph) -> Message:
    """Give a model with the types that ONNX infers, without its large tensors' bytes.

    Raises:
        MissingDependencyError: the onnx package is not installed.
        ArgumentError: onnx refuses the model, or is not given it for its faults.
    """
    if why := refusal_of(graph):
        problem = f"the types of its values are not worked out, since {why}"
        raise ArgumentError(problem, where=graph.where)
    return run_inference(lean(graph))


def check_sound(draft: Draft) -> None:
    """Have onnx check the types of a draft, unless it found fault with them before.

    Raises:
        UnsupportedError: something contradicts now.
    """
    now = Graph(draft.model, opener=draft.graph.opener, where=draft.where)
    if refusal_of(now) or not is_installed():
        return
    with scratch_folder() as folder:
        write(lean(graph_of(draft.before)), folder, "before")
        write(lean(now), folder, "after")
        said = ask(folder, ("strict before", "strict after"))
    problem = said["strict after"].problem
    if problem and not said["strict before"].problem:
        reason = problem.strip().splitlines()[0][:300]
        raise UnsupportedError(f"ONNX finds that {reason}", where=draft.where)


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
