"""Weights kept in a narrower type, with a Cast back for each; and that undone.

A runtime folds the Casts when it loads the model, so that it computes as before, with values as
narrow as they became.
"""

from __future__ import annotations

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.graph import NUMBERS
from tensorkeep.message import Message
from tensorkeep.models.editing import computing
from tensorkeep.models.editing.cast_nodes import FLOAT, cast_node, recast
from tensorkeep.models.editing.draft import Draft, counted, edited
from tensorkeep.models.editing.scopes import (
    captured,
    fresh,
    names_anywhere,
    rename_uses,
    rename_values,
    used_by,
)
from tensorkeep.models.editing.value_types import retype
from tensorkeep.models.opening import Model
from tensorkeep.state import State
from tensorkeep.wire.sizes import size_of

NARROW = (dtypes.FLOAT16, dtypes.BFLOAT16)
MARK = "tensorkeep.cast:"  # begins the names of the nodes that cast weights back
_SINCE = {dtypes.FLOAT16: 6, dtypes.BFLOAT16: 13, dtypes.FLOAT32: 6}  # the operator sets of Cast
_THRESHOLD = 1024


def cast(
    model: Model,
    dtype: str | DType,
    *,
    compute: bool = False,
    keep_io: bool = True,
    threshold: int | str = _THRESHOLD,
) -> State:
    """Keep the float32 weights of a model as float16 or bfloat16, or compute in that type.

    By default the weights alone are narrow, under their names, and a node casts each back: all
    runtimes take that, and compute as before. "float32" undoes it; the values stay as narrow as
    they became. What does not fit becomes infinite.

    Args:
        model: a path or a state; it is not changed, and tensors are cast when they are written.
        dtype: "float16", "bfloat16" or "float32".
        compute: cast the whole graph: what its operators cannot compute in that type stays as it
            is between Casts. Needs the onnx package.
        keep_io: with compute, leave the types of inputs and outputs, and cast them inside.
        threshold: without compute, the least bytes of a tensor to cast ("1KiB").

    Raises:
        UnsupportedError: the operator set has no such Cast, or the graph cannot be cast.
        ArgumentError: it is another type, or there is nothing to cast.
    """
    return edited(
        model,
        lambda draft: apply(draft, dtype, compute=compute, keep_io=keep_io, threshold=threshold),
    )


def apply(
    draft: Draft,
    dtype: str | DType,
    *,
    compute: bool = False,
    keep_io: bool = True,
    threshold: int | str = _THRESHOLD,
) -> None:
    """Cast a draft."""
    to = dtypes.dtype(dtype)
    if to not in _SINCE:
        raise ArgumentError(
            f"weights are not cast to {to} here", cure="Choose float16, bfloat16 or float32."
        )
    _check_version(draft, to)
    if compute:
        _undo(draft)
        computing.apply(draft, to, keep_io=keep_io)
        return
    undone = _undo(draft)
    if to is dtypes.FLOAT32:
        if not undone:
            raise ArgumentError(
                "has no weights that were cast and could be cast back",
                where=draft.where,
                cure="Cast the whole graph with compute=True.",
            )
        draft.said.append(f"cast {counted(undone, 'tensor')} back to float32")
        return
    done = _narrow(draft, to, size_of(threshold) or 0)
    draft.said.append(f"cast {counted(done, 'tensor')} to {to}")


def _check_version(draft: Draft, to: DType) -> None:
    version = draft.graph.opsets.get("", 0)
    if version < _SINCE[to]:
        raise UnsupportedError(
            f"uses operator set {version} of ONNX, which cannot cast to {to}",
            where=draft.where,
            cure=f"Convert it to {_SINCE[to]} or later first.",
        )


def _narrow(draft: Draft, to: DType, least: int) -> int:
    """Cast the weights that nodes alone use; says how many."""
    graph = draft.main
    bound = {row.name for row in graph.output} | _trained(draft.model)
    used = {name for node in graph.node for name in used_by(node)}
    chosen = [
        row
        for row in graph.initializer
        if row.data_type == FLOAT
        and row.name in used - bound
        and 4 * dtypes.count_of(tuple(row.dims.tolist())) >= least
    ]
    taken = names_anywhere(draft.model)
    names = {row.name: fresh(f"{row.name}.float32", taken) for row in chosen}
    for row in chosen:
        recast(draft, row, to)
    for node in graph.node:
        rename_uses(node, names, draft.where)
    _move_notes(graph, names)
    _retype_inputs(graph, names, FLOAT, NUMBERS[to])
    called = {node.name for node in graph.node}
    casts = [cast_node(fresh(MARK + old, called), old, new, FLOAT) for old, new in names.items()]
    graph.node = [*casts, *graph.node]
    return len(chosen)


def _undo(draft: Draft) -> int:
    """Take out the nodes that cast weights back, and cast these; says how many."""
    graph = draft.main
    rows = {row.name: row for row in graph.initializer}
    narrow = {NUMBERS[kind] for kind in NARROW}
    outputs = {row.name for row in graph.output}
    names: dict[str, str] = {}
    kept = []
    for node in graph.node:
        is_ours = node.op_type == "Cast" and node.name.startswith(MARK) and len(node.input) == 1
        is_ours = is_ours and node.output[0] not in outputs
        if is_ours and node.input[0] in rows and rows[node.input[0]].data_type in narrow:
            names[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if not names:
        return 0
    back = set(names.values())
    for name in back:
        recast(draft, rows[name], dtypes.FLOAT32)
    for number in narrow:
        _retype_inputs(graph, back, number, FLOAT)
    graph.node = kept
    rename_values(graph, names, draft.where)
    return len(names)


def _trained(model: Message) -> set[str]:
    """Name what the training of a model sees or changes."""
    names: set[str] = set()
    for training in model.training_info:
        if "algorithm" in training:
            names.update(captured(training.algorithm))
        for entry in (*training.initialization_binding, *training.update_binding):
            names.update((entry.key, entry.value))
    return names


def _move_notes(graph: Message, names: dict[str, str]) -> None:
    """Have what is noted of a value be noted of what it is cast to."""
    for row in graph.value_info:
        if row.name in names:
            row.name = names[row.name]
    for row in graph.quantization_annotation:
        if row.tensor_name in names:
            row.tensor_name = names[row.tensor_name]
        for entry in row.quant_parameter_tensor_names:
            if entry.value in names:
                entry.value = names[entry.value]


def _retype_inputs(graph: Message, names: object, old: int, new: int) -> None:
    for row in graph.input:  # as models before IR version 4 list their initializers
        if row.name in names:  # type: ignore[operator]
            retype(row.type, (old,), new)


__all__ = ["MARK", "NARROW", "apply", "cast"]
