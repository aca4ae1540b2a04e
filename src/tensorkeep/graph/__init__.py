"""What a model has beyond its tensors: ONNX's messages, as the hub for every other dialect."""

from __future__ import annotations

from tensorkeep.graph.codec import fill_tensor, read_tensor, set_external
from tensorkeep.graph.elements import KINDS, NUMBERS
from tensorkeep.graph.graph import Graph, Value, value_of
from tensorkeep.graph.walking import Place, walk, walk_graphs, walk_nodes

__all__ = [
    "KINDS",
    "NUMBERS",
    "Graph",
    "Place",
    "Value",
    "fill_tensor",
    "read_tensor",
    "set_external",
    "value_of",
    "walk",
    "walk_graphs",
    "walk_nodes",
]
