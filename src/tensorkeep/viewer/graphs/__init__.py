"""Models as graphs to draw: ONNX's, NNEF's, Caffe2's."""

from __future__ import annotations

from tensorkeep.state import State
from tensorkeep.viewer.answers import Graph


def graph(state: State) -> Graph:
    """Give the graph of a model."""
    raise NotImplementedError
