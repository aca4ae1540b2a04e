"""Mend what can be mended of a model without guessing."""

from __future__ import annotations

from tensorkeep.graph import Graph
from tensorkeep.graph.graph import Value
from tensorkeep.graph.schema import DIMENSION
from tensorkeep.message import Message
from tensorkeep.models.checking import Examined, examine
from tensorkeep.models.checks.findings import Finding
from tensorkeep.models.checks.mending import drop_unused, mend
from tensorkeep.models.checks.windows import Contradiction
from tensorkeep.models.opening import Model, graph_of, open_model
from tensorkeep.state import State

_ROUNDS = 4  # mending one fault lets others be seen


def fix(model: Model, *, unused: bool = False) -> tuple[State, list[Finding]]:
    """Mend what can be mended without guessing; all else stays byte for byte.

    Mended are: imports of opsets that are missing (the newest with which the fewest nodes are at
    fault, of those that are no newer than the model's IR version), a version of the format that is
    too low, graphs without a name, attributes without a type, nodes that are not sorted, what is
    there twice and says the same, and what is declared of the outputs of sound nodes.

    Args:
        model: a path, or a state with a graph; it is not changed.
        unused: also remove the initializers that nothing uses.

    Returns:
        the mended model, and the findings that were mended; `check` tells what remains.

    Raises:
        ArgumentError: it has no graph.
        CorruptError: a tensor of it cannot be read, so there is nothing that could be saved.
    """
    state = open_model(model)
    graph = graph_of(state).copy()
    before = examine(graph)
    found, seen = before, dict.fromkeys(before.findings)
    for _ in range(_ROUNDS):
        if not any(finding.fixable for finding in found.findings) and not unused:
            break
        _mend(graph, found)
        if unused:
            drop_unused(graph.model)
            unused = False
        graph = graph.copy()
        found = examine(graph)
        seen |= dict.fromkeys(found.findings)
    remaining = {(finding.code, finding.where) for finding in found.findings}
    codes = {finding.code for finding in found.findings}
    mended = [
        finding
        for finding in seen
        if (finding.code, finding.where) not in remaining
        and (
            finding.fixable or (finding.code == "unused-initializer" and finding.code not in codes)
        )
    ]
    return State.of_graph(graph, state), mended


def _mend(graph: Graph, found: Examined) -> None:
    mend(graph.model, found.report)
    for each in found.contradictions:
        if not found.report.errors_at(each.node) and _is_needed(each):
            declare(each.declared.message, each.right)


def _is_needed(each: Contradiction) -> bool:
    """Whether a declaration contradicts, or is an output's that says too little."""
    return bool(each.problem) or each.declared.where.startswith("graph.output[")


def declare(message: Message, right: Value) -> None:
    """Have a ValueInfoProto say what a value is; names of axes stay where they are."""
    from tensorkeep import dtypes
    from tensorkeep.graph.elements import NUMBERS

    if right.kind != "tensor":
        return
    held = message.make("type").make("tensor_type")
    held["elem_type"] = NUMBERS[dtypes.dtype(right.dtype)]
    if right.axes is None:
        return
    shape = held.make("shape")
    if len(shape.dim) != len(right.axes):
        shape["dim"] = [Message(DIMENSION) for _ in right.axes]
    for axis, size in zip(shape.dim, right.axes, strict=True):
        if isinstance(size, int):
            if axis.get("dim_value") != size:
                axis["dim_value"] = size
        elif size is not None and not axis.dim_param:
            axis["dim_param"] = size
