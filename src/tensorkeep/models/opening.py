"""Models that functions are given: a path, or a State that was opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tensorkeep import api
from tensorkeep.errors import ArgumentError
from tensorkeep.graph import Graph
from tensorkeep.state import State
from tensorkeep.stores import Target

Model = Target | State


def open_model(model: Model) -> State:
    """Give the state of a model; a path is opened.

    Raises:
        ArgumentError: it holds tensors alone, and no graph.
    """
    state = model if isinstance(model, State) else api.open(model)
    if state.graph is None:
        where = state.where
        if state is not model:
            state.close()
        raise ArgumentError(
            "holds tensors, but no graph of a model", where=where, cure="Give an ONNX model."
        )
    return state


def graph_of(state: State) -> Graph:
    """Give the graph of a state that is a model, holding the tensors that the state has now.

    Raises:
        ArgumentError: it has none, or not these tensors.
    """
    if state.graph is None:
        raise ArgumentError("holds no graph of a model", where=state.where)
    return state.graph.holding(state)


@contextmanager
def opened(model: Model) -> Iterator[State]:
    """Give the state of a model for a while; what was opened for it is closed.

    Raises:
        ArgumentError: it holds tensors alone, and no graph.
    """
    state = open_model(model)
    try:
        yield state
    finally:
        if state is not model:
            state.close()
