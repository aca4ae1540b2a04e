"""The message to write for a state: its own graph with the tensors it has now, or a bare one."""

from __future__ import annotations

from tensorkeep import checksum
from tensorkeep.formats.onnx.notes import NAME, hold_apart, write_notes
from tensorkeep.graph import Graph, fill_tensor
from tensorkeep.graph.elements import SINCE_IR
from tensorkeep.graph.schema import ENTRY, MODEL, OPSET
from tensorkeep.message import Message
from tensorkeep.notes import KEY, Notes
from tensorkeep.state import State

_IR, _OPSET = 4, 9  # the first in which initializers need not be inputs, and an operator set of it


def build(state: State, *, checksums: bool | None) -> Graph:
    """Give a graph of a message that may be changed, which holds the tensors of a state.

    Args:
        state: a model, or any other state, which is kept as the initializers of a graph without
            nodes.
        checksums: note the digests of all tensors; None does so where the state has some, or is no
            model.

    Raises:
        ArgumentError: the tensors are not those that the graph is made of.
    """
    graph = _bare(state) if state.graph is None else state.graph.holding(state).copy()
    if checksums is None:
        checksums = state.graph is None or bool(state.digests)
    digests = None
    if checksums:
        fresh = {name: tensor for name, tensor in state.items() if name not in state.digests}
        digests = dict.fromkeys(state, "") | dict(state.digests) | checksum.digests(fresh)
        digests = {name: digests[name] for name in state}
    _write_metadata(graph.model, state, digests)
    if checksums:
        hold_apart(graph)
    return graph


def _bare(state: State) -> Graph:
    version = max([_IR, *(SINCE_IR.get(tensor.dtype, _IR) for tensor in state.values())])
    model = Message(MODEL, ir_version=version, producer_name=KEY)
    model.opset_import = [Message(OPSET, domain="", version=_OPSET)]
    inner = model.make("graph", name=NAME)
    for name, tensor in state.items():
        fill_tensor(inner.add("initializer", name=name), tensor)
    return Graph(model, where=state.where)


def _write_metadata(model: Message, state: State, digests: dict[str, str] | None) -> None:
    """Have metadata_props say what the state's metadata does, untouched where they do."""
    texts = {
        key: value for key, value in state.metadata.items() if isinstance(value, str) and key != KEY
    }
    others = {key: value for key, value in state.metadata.items() if key not in texts}
    entries = [entry for entry in model.metadata_props if entry.key != KEY]
    if {entry.key: entry.value for entry in entries} != texts:
        known = {entry.key: entry for entry in entries}
        for key, value in texts.items():
            entry = known.setdefault(key, Message(ENTRY, key=key))
            if entry.value != value:
                entry.value = value
        notes = [entry for entry in model.metadata_props if entry.key == KEY]
        model.metadata_props = [*(known[key] for key in texts), *notes]
    write_notes(model, Notes(others, state.skeleton, {}, digests))
