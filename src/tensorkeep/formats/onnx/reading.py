"""A model as a lazy State: its graph, and every tensor in it."""

from __future__ import annotations

from tensorkeep.errors import CorruptError
from tensorkeep.formats.onnx.files import opener_of
from tensorkeep.formats.onnx.notes import check_sealed, is_bare, read_notes
from tensorkeep.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.notes import KEY
from tensorkeep.state import Json, State
from tensorkeep.store import Location


def decode(location: Location) -> State:
    """Read the structure of a model in its binary form."""
    return state_of(Message.parse(MODEL, location.source, where=location.where), location, "onnx")


def state_of(model: Message, location: Location, format: str) -> State:
    """Give the state of a model that was read at a location.

    Raises:
        CorruptError: it is damaged, or no model.
        UnsafeError: a tensor of it names a file that is not its own.
    """
    where = location.where
    if not any(name in model for name in ("graph", "functions", "training_info")):
        raise CorruptError("holds no graph, so it is no ONNX model", where=where)
    opener, close_files = opener_of(location)

    def close() -> None:
        close_files()
        location.close()

    try:
        graph = Graph(model, opener=opener, where=where)
        state = State.of_graph(graph)
        bare = is_bare(model)
        notes, sealed = read_notes(model, state, where, needed=bare)
        if sealed:
            check_sealed(graph)
        metadata: dict[str, Json] = dict(state.metadata)
        metadata.pop(KEY, None)
        metadata.update(notes.metadata)
        tensors = state
        return state.replace(
            tensors={name: tensors[name] for name in notes.digests or tensors},
            metadata=metadata,
            skeleton=notes.skeleton,
            digests=notes.digests,
            graph=None if bare else graph,
            format=format,
            close=close,
        )
    except BaseException:
        close()
        raise
