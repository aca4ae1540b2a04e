"""The part of a model between some of its values."""

from __future__ import annotations

from collections.abc import Iterable

from tensorkeep.errors import ArgumentError
from tensorkeep.graph.walking import graphs_within, subgraphs
from tensorkeep.message import Message
from tensorkeep.models.editing.draft import Draft, counted, edited, listed, unknown_name
from tensorkeep.models.editing.scopes import (
    Names,
    captured,
    computed,
    defined,
    fresh,
    initialized,
    names_anywhere,
    used_by,
)
from tensorkeep.models.editing.value_types import typed
from tensorkeep.models.opening import Model
from tensorkeep.state import State


def cut(
    model: Model,
    *,
    inputs: Iterable[str] | None = None,
    outputs: Iterable[str] | None = None,
    lossy: bool = False,
) -> State:
    """Give the part of a model that computes some values from others.

    What that part needs stays as it is: nodes, tensors, functions, annotations, metadata.

    Args:
        model: a path or a state; it is not changed.
        inputs: the values that are to be given to it; the model's own inputs if None.
        outputs: the values that it is to compute; the model's own outputs if None.
        lossy: leave out a training_info that needs what was cut away.

    Raises:
        MissingError: there is no value of a name; similar ones are named.
        ArgumentError: something else has to be given too, or the type of a value is not known.
        LossError: a training_info needs what would be cut away.
    """
    return edited(model, lambda draft: apply(draft, inputs, outputs, lossy=lossy))


def apply(
    draft: Draft, inputs: Iterable[str] | None, outputs: Iterable[str] | None, *, lossy: bool
) -> None:
    """Cut a draft down."""
    graph, where = draft.main, draft.where
    starts = None if inputs is None else _checked(draft, inputs, "input")
    ends = _checked(draft, outputs, "output")
    for name in set(starts or ()).intersection(ends):
        raise ArgumentError(f"{name!r} is both an input and an output", where=where)
    nodes, needed = _reach(graph, ends, set(starts or ()))
    filled = set(initialized(graph))
    open_inputs = [r.name for r in graph.input if r.name in needed and r.name not in filled]
    if starts is None:
        starts = open_inputs
    elif lacking := [name for name in open_inputs if name not in starts]:
        raise ArgumentError(
            f"the outputs need {listed(lacking)} too, which is not among the inputs",
            where=where,
            cure="Add it, or cut behind it.",
        )
    before = len(graph.node)
    rows = _rows(draft, starts, ends)
    _keep(draft, nodes, needed, rows, starts, ends)
    _keep_functions(draft.model)
    _keep_training(draft, lossy=lossy)
    draft.said.append(
        f"cut to {len(nodes):,} of {counted(before, 'node')}: "
        f"from {listed(starts)} to {listed(ends)}"
    )


def _checked(draft: Draft, names: Iterable[str] | None, kind: str) -> list[str]:
    if names is None:
        return [row.name for row in draft.main.output]
    if not isinstance(names, Iterable):
        raise ArgumentError(f"the {kind}s are a list of names, not {names!r}")
    chosen = [names] if isinstance(names, str) else list(names)
    for name in chosen:
        if not isinstance(name, str):
            raise ArgumentError(f"the name of an {kind} is text, not {name!r}")
    if not chosen:
        raise ArgumentError(f"there has to be an {kind}", where=draft.where)
    known = defined(draft.main)
    for name in chosen:
        if name not in known:
            raise unknown_name(name, known, "value", draft.where)
    if len(set(chosen)) < len(chosen):
        raise ArgumentError(f"an {kind} is named twice: {listed(chosen)}", where=draft.where)
    return chosen


def _reach(graph: Message, ends: list[str], starts: set[str]) -> tuple[list[int], Names]:
    """Give the places of the nodes that values need, and the names of all that they need."""
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    noted: dict[str, list[str]] = {}
    for row in graph.quantization_annotation:
        noted.setdefault(row.tensor_name, []).extend(
            entry.value for entry in row.quant_parameter_tensor_names
        )
    nodes: set[int] = set()
    needed: Names = {}
    todo = list(ends)
    while todo:
        name = todo.pop()
        if name in needed:
            continue
        needed[name] = None
        todo += noted.get(name, ())
        maker = makers.get(name)
        if name in starts or maker is None or maker in nodes:
            continue
        nodes.add(maker)
        todo += used_by(graph.node[maker])
        todo += filter(None, graph.node[maker].output)
    return sorted(nodes), needed


def _rows(draft: Draft, starts: list[str], ends: list[str]) -> dict[str, Message]:
    """Give the ValueInfoProtos of the new inputs and outputs, those that there are as they are."""
    graph = draft.main
    own = {row.name: row for row in graph.output} | {row.name: row for row in graph.input}
    strange = [name for name in (*starts, *ends) if name not in own]
    return own | typed(draft, strange, "an input or output")


def _keep(
    draft: Draft,
    nodes: list[int],
    needed: Names,
    rows: dict[str, Message],
    starts: list[str],
    ends: list[str],
) -> None:
    graph, given = draft.main, set(starts)
    kept = [graph.node[place] for place in nodes]
    taken = names_anywhere(draft.model)
    for node in kept:  # one that computes a value which is given now, beside others
        for place, name in enumerate(node.output):
            if name in given:
                node.output[place] = fresh(name, taken)
    graph.node = kept
    graph.initializer = [
        row for row in graph.initializer if row.name in needed and row.name not in given
    ]
    graph.sparse_initializer = [
        row
        for row in graph.sparse_initializer
        if row["values"].name in needed and row["values"].name not in given
    ]
    filled = [
        row for row in graph.input if row.name in set(initialized(graph)) and row.name in needed
    ]
    values = {**needed, **dict.fromkeys(computed(graph))}
    outside = {*starts, *ends}
    known = dict.fromkeys(row.name for row in graph.value_info)
    inner = [row for row in graph.value_info if row.name in values and row.name not in outside]
    inner += [
        row
        for row in graph.output
        if row.name in values and row.name not in outside and row.name not in known
    ]
    graph.value_info = inner
    graph.input = [*(rows[name].copy() for name in starts), *filled]
    graph.output = [rows[name].copy() for name in ends]
    graph.quantization_annotation = [
        row for row in graph.quantization_annotation if row.tensor_name in values
    ]


def _keep_functions(model: Message) -> None:
    """Keep those functions that are called, also by one another."""
    by_key = {(f.domain, f.name, f.overload): f for f in model.functions}
    if not by_key:
        return
    nodes: list[Message] = []
    for graph in (model.graph, *_training_graphs(model)):
        for inner in graphs_within(graph):
            nodes += inner.node
    used: set[tuple[str, str, str]] = set()
    while nodes:
        node = nodes.pop()
        key = (node.domain, node.op_type, node.overload)
        if key in by_key and key not in used:
            used.add(key)
            body = by_key[key].node
            nodes += body
            for called in body:
                for graph in _graphs_of(called):
                    nodes += graph.node
    model.functions = [row for key, row in by_key.items() if key in used]


def _graphs_of(node: Message) -> Iterable[Message]:
    for graph in subgraphs(node):
        yield from graphs_within(graph)


def _training_graphs(model: Message) -> Iterable[Message]:
    for training in model.training_info:
        for part in ("initialization", "algorithm"):
            if part in training:
                yield training[part]


def _keep_training(draft: Draft, *, lossy: bool) -> None:
    known, filled = set(defined(draft.main)), set(initialized(draft.main))
    kept, lost = [], []
    for place, training in enumerate(draft.model.training_info):
        needs: Names = {}
        own: set[str] = set()
        bound = set(filled)
        if "algorithm" in training:
            needs |= captured(training.algorithm)
            own = set(defined(training.algorithm))
            bound |= set(initialized(training.algorithm))
        needs |= {e.value: None for e in training.update_binding if e.value not in own}
        lacking = [name for name in needs if name not in known]
        bindings = (*training.initialization_binding, *training.update_binding)
        lacking += [entry.key for entry in bindings if entry.key not in bound]
        if lacking:
            lost.append(f"training_info {place} needs {listed(dict.fromkeys(lacking))}")
        else:
            kept.append(training)
    draft.lose(lost, lossy=lossy, cure="Cut less")
    if lost:
        draft.model.training_info = kept
