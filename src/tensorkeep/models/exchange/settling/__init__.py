"""Settle a model: fix its inputs, put functions in place, know all shapes, compute constants.

Onnx and ONNX Runtime do the work in a process of their own, which is given no large tensor; see
`settling_process`. Weights that are made of others are computed here, after that.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.graph import Graph, value_of
from tensorkeep.message import Message
from tensorkeep.models.editing.draft import counted, listed
from tensorkeep.models.editing.scopes import used_by
from tensorkeep.models.exchange.report import Report
from tensorkeep.models.exchange.settled import Node, Settled, Shape
from tensorkeep.models.exchange.settling.asking import work_out
from tensorkeep.models.exchange.settling.folding import Row, fold
from tensorkeep.models.exchange.settling.inputs import fix_constants, fix_shapes
from tensorkeep.models.exchange.settling.nodes import read_node
from tensorkeep.models.exchange.settling.thinning import Thin, make_dense
from tensorkeep.models.opening import graph_of
from tensorkeep.models.ops.expanding import expand_graph
from tensorkeep.models.ops.history import operators_of, version_at
from tensorkeep.state import State
from tensorkeep.tensor import Tensor

# What takes the place of nodes that were expanded.
_INSTEAD = {
    "If": "the branch that its condition chooses takes its place",
    "Loop": "its rounds take its place",
    "Scan": "its rounds take its place",
}
_ELSE = "its definition takes its place"
_DEQUANTIZE = "DequantizeLinear"  # of a weight: worth more than the weight's values


def settle(
    state: State,
    report: Report,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, Any] | None = None,
    keeps: Container[str] = (),
) -> Settled:
    """Give an ONNX model with all types and shapes known, as far as they can be, and few operators.

    Functions, the model's own and those by which ONNX defines operators, take the place of their
    nodes; so do branches whose condition is constant. What depends on constants alone is computed.
    Inputs get the sizes that are given, and their first axis 1 where it varies and is not given.

    Args:
        state: a model, which is not changed.
        report: takes what was done.
        shapes: of inputs, by their names.
        constants: inputs that become constants: arrays by their names.
        keeps: the operators of ONNX that are not to be put as their definitions.

    Raises:
        ArgumentError: the size of an input has to be given, or the model contradicts itself.
        MissingError: there is no such input.
        UnsupportedError: an input is no tensor.
        MissingDependencyError: onnx or onnxruntime is not installed.
    """
    graph = _with_functions(graph_of(state), keeps)
    where = state.where or graph.where
    main = graph.model.graph
    _leave_out(graph, report)
    for name in make_dense(graph, main):
        report.add("changed", name, "it is sparse, and written out")
    held = {tensor.name for tensor in main.initializer}
    main["input"] = [row for row in main.input if row.name not in held]
    fix_constants(main, constants or {}, report, where)
    fix_shapes(main, shapes or {}, report, where)
    thin = Thin(graph)
    kept = [name for name in operators_of("") if name in keeps]
    worked = work_out(thin.model, kept, where)
    return _settled(worked.model, worked.said, thin, graph, report, keeps, where)


def _with_functions(graph: Graph, keeps: Container[str]) -> Graph:
    """Give a copy with functions for the names that ONNX lacks, as far as there are some."""
    fresh = graph.copy()
    try:
        expand_graph(fresh, kernels=False)
    except UnsupportedError:  # the model's opset is too low for one
        return graph.copy()
    return fresh


def _leave_out(graph: Graph, report: Report) -> None:
    model = graph.model
    if "training_info" in model:
        report.add("dropped", "training_info", "how the model is trained")
        model.drop("training_info")
    main = model.graph
    if "quantization_annotation" in main:
        report.add("dropped", "quantization_annotation", "what it says of quantized tensors")
        main.drop("quantization_annotation")


def _settled(
    model: Message,
    said: Mapping[str, Any],
    thin: Thin,
    graph: Graph,
    report: Report,
    keeps: Container[str],
    where: str,
) -> Settled:
    main = model.graph
    types, shapes = _values(main)
    constants: dict[str, Tensor] = {t.name: thin.tensor(t) for t in main.initializer}
    outputs = [str(row.name) for row in main.output]
    rows = [
        Row(read_node(node, since, thin.tensor), node, opset)
        for node, (since, opset) in zip(main.node, said["versions"], strict=True)
    ]
    alive = _alive(rows, outputs)
    if said["dropped"]:
        dropped = counted(said["dropped"], "node")
        report.add("dropped", dropped, "nothing that the model gives depends on it")
    _tell_faults(alive, shapes, said["faults"], where)
    left = fold(
        alive, constants, types, shapes, outputs, [_DEQUANTIZE] if _DEQUANTIZE in keeps else []
    )
    left = _alive(left, outputs)
    for operator, count in said["expanded"].items():
        times = "" if count == 1 else f", {count:,} times"
        report.add("expanded", operator, f"{_INSTEAD.get(operator, _ELSE)}{times}")
    if folded := said["folded"] + len(alive) - len(left):
        report.add("folded", counted(folded, "node"), "computed, for what it takes is constant")
    used = {name for row in left for name in used_by(row.message)}.union(outputs)
    for row in left:
        _leave_out_unused(row.node, used)
    for name, tensor in constants.items():
        types[name], shapes[name] = tensor.dtype.name, tensor.shape
    return Settled(
        nodes=[row.node for row in left],
        inputs=[str(row.name) for row in main.input],
        outputs=outputs,
        types=types,
        shapes=shapes,
        constants={name: tensor for name, tensor in constants.items() if name in used},
        where=where,
        name=str(graph.model.graph.name),
        metadata=graph.metadata,
    )


def _values(main: Message) -> tuple[dict[str, str], dict[str, Shape]]:
    types: dict[str, str] = {}
    shapes: dict[str, Shape] = {}
    for value in map(value_of, main.value_info):
        if value.kind != "tensor" or not value.dtype:
            continue
        types[value.name] = value.dtype
        axes = [axis for axis in value.axes or () if isinstance(axis, int) and axis >= 0]
        if value.axes is not None and len(axes) == len(value.axes):
            shapes[value.name] = tuple(axes)
    return types, shapes


def _alive(rows: Sequence[Row], outputs: Sequence[str]) -> list[Row]:
    """Give the nodes that an output depends on."""
    needed = set(outputs)
    alive = []
    for row in reversed(rows):
        if not needed.isdisjoint(filter(None, row.node.outputs)):
            alive.append(row)
            needed.update(used_by(row.message))
    return alive[::-1]


def _leave_out_unused(node: Node, used: Container[str]) -> None:
    """Leave out the outputs of a node that need not be there and that nothing takes."""
    version = version_at(node.domain, node.operator, node.since)
    parameters = version.outputs if version is not None else ()
    for place, parameter in enumerate(parameters[: len(node.outputs)]):
        if parameter.kind == "optional" and node.outputs[place] not in used:
            node.outputs[place] = ""
    while len(node.outputs) > 1 and not node.outputs[-1]:
        node.outputs.pop()


def _tell_faults(
    rows: Sequence[Row], shapes: Mapping[str, Shape], faults: Mapping[str, str], where: str
) -> None:
    """Refuse a model of which onnx says that it contradicts itself.

    Raises:
        ArgumentError: it does.
    """
    found = {
        " ".join(faults[name].split())[:300]: None
        for row in rows
        for name in row.node.outputs
        if name in faults and name not in shapes
    }
    if found:
        raise ArgumentError(
            f"the shapes of its values cannot be known: {listed(found, 3)}",
            where=where,
            cure="Give other shapes, or fix the inputs that shapes depend on by constants={...} "
            "(--constant x=...). Else see what tensorkeep.models.check says of it.",
        )


__all__ = ["settle"]
