"""Types and shapes of the values of a model, worked out by onnx without the weights."""

from __future__ import annotations

import os

from tensorkeep.errors import ArgumentError
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models.apart import ask
from tensorkeep.models.lean import lean
from tensorkeep.models.opening import Model, graph_of, open_model
from tensorkeep.models.scratch import scratch_folder
from tensorkeep.state import State


def infer_shapes(model: Model) -> State:
    """Give a model that says of each value its type and shape, as far as they can be told.

    What it says itself stays; all else of it too, byte for byte. Weights are not read, so models of
    any size work.

    Args:
        model: a path, or a state with a graph; it is not changed.

    Raises:
        ArgumentError: it has faults with which it is not given to onnx, or onnx refuses it.
        MissingDependencyError: the onnx package is not installed.
    """
    from tensorkeep.models.checking import refusal_of

    state = open_model(model)
    graph = graph_of(state).copy()
    if why := refusal_of(graph):
        cure = "See what tensorkeep.models.check says of it."
        raise ArgumentError(
            f"its shapes are not worked out, since {why}", where=graph.where, cure=cure
        )
    inferred = run_inference(lean(graph))
    merge(graph.model, inferred)
    return State.of_graph(graph, state)


def run_inference(bare: Message) -> Message:
    """Give what onnx makes of a model without large tensors.

    Raises:
        ArgumentError: onnx refuses it.
        MissingDependencyError: the onnx package is not installed.
    """
    with scratch_folder() as folder:
        write(bare, folder, "model")
        said = ask(folder, ["infer model"])["infer model"]
        if not said.problem:
            return read_inferred(folder, "model")
    what = "onnx's process died of it" if said.crashed else "onnx says"
    problem = f"its shapes cannot be worked out: {what}: {said.problem[:300]}"
    raise ArgumentError(problem, cure="See what tensorkeep.models.check says of it.")


def write(bare: Message, folder: str, name: str) -> None:
    """Write a model without large tensors for onnx's process."""
    with open(os.path.join(folder, f"{name}.onnx"), "wb") as file:
        file.writelines(bare.chunks())


def read_inferred(folder: str, name: str) -> Message:
    """Read what inference made of a model."""
    with open(os.path.join(folder, f"{name}.inferred"), "rb") as file:
        return Message.parse(MODEL, file.read())


def merge(model: Message, inferred: Message) -> None:
    """Put the types and shapes of values that a model lacks into it, those of subgraphs too.

    Args:
        model: a model whose message may be changed.
        inferred: what inference gave for it.
    """
    for mine, theirs in zip(_graphs(model), _graphs(inferred), strict=True):
        rows = {row.name: row for row in theirs.value_info}
        outputs = {row.name: row for row in theirs.output}
        for row in mine.output:
            for given in (outputs, rows):  # onnx puts those without a type among the others
                if row.name in given:
                    _fill(row, given[row.name])
        for row in mine.value_info:
            if (found := rows.pop(row.name, None)) is not None:
                _fill(row, found)
        known = {row.name for name in ("input", "output", "initializer") for row in mine[name]}
        fresh = [row.copy() for name, row in rows.items() if name not in known and "type" in row]
        if fresh:
            mine["value_info"] = [*mine.value_info, *fresh]


def _graphs(model: Message) -> list[Message]:
    from tensorkeep.graph.walking import graphs_within

    return list(graphs_within(model.graph)) if "graph" in model else []


def _fill(row: Message, found: Message) -> None:
    """Give a value the parts of a type that it lacks."""
    if "type" not in found:
        return
    if "type" not in row:
        row["type"] = found.type.copy()
        return
    for name in ("tensor_type", "sparse_tensor_type"):
        if name in row.type and name in found.type:
            _fill_tensor(row.type[name], found.type[name])


def _fill_tensor(held: Message, found: Message) -> None:
    if not held.elem_type and found.elem_type:
        held["elem_type"] = found.elem_type
    if "shape" not in found:
        return
    if "shape" not in held:
        held["shape"] = found.shape.copy()
        return
    if len(held.shape.dim) != len(found.shape.dim):
        return
    for axis, other in zip(held.shape.dim, found.shape.dim, strict=True):
        known = "dim_value" in axis or axis.dim_param
        for name in ("dim_value", "dim_param"):
            if not known and name in other:
                axis[name] = other[name]
