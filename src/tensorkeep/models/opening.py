"""Models that functions are given: a path, or a State that was opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tensorkeep import api, models
from tensorkeep.errors import ArgumentError, TensorKeepError, UnknownFormatError
from tensorkeep.graph import Graph
from tensorkeep.state import State
from tensorkeep.stores import Target, locate

Model = Target | State


def open_whole(target: Target) -> State:
    """Open a file, or a folder that holds the nets of one model of Caffe2's.

    Raises:
        UnknownFormatError: no format recognises it.
        ArgumentError: a folder holds the nets of several models.
    """
    try:
        return api.open(target)
    except UnknownFormatError:
        location = locate(target)
        if location.key:
            raise
        from tensorkeep.models.exchange.caffe2_to_onnx.opening import open_caffe2

        with suppress(UnknownFormatError):
            return open_caffe2(location)
        raise


def open_model(model: Model) -> State:
    """Give the state of a model; a path is opened, and another dialect translated to ONNX.

    Raises:
        ArgumentError: it holds tensors alone, and no graph.
        TranslationError: it is a model that ONNX cannot say.
    """
    state = model if isinstance(model, State) else open_whole(model)
    if state.document is not None or state.format == "caffe2-net":
        try:
            return models.translate(state, "onnx").state
        except TensorKeepError:
            if state is not model:
                state.close()
            raise
    if state.graph is None:
        where = state.where
        if state is not model:
            state.close()
        raise ArgumentError(
            "holds tensors, but no graph of a model",
            where=where,
            cure="Give a model: ONNX, NNEF, or a Caffe2 predict net.",
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
