"""Models as graphs to draw: ONNX's, NNEF's, Caffe2's.

Edges are names: within a part, a name that a node takes is the output of the node that gives it, an
input of the part, or a weight (`Part.tensors`; of a subgraph also those from around it that it
uses). A name that is none of these comes from around the part: from the part with the node that the
part belongs to, or from the one around that. Empty names are inputs that were left out.

Only names that a hostile ONNX model gives twice come from several nodes. Names of more than 2,000
characters are cut; those that then begin alike still differ.
"""

from __future__ import annotations

from tensorkeep.errors import ArgumentError
from tensorkeep.state import State
from tensorkeep.viewer.answers import Graph


def graph(state: State, *, infer: bool = False) -> Graph:
    """Give the graph of a model; no weight is read for it.

    Args:
        state: a model.
        infer: work out types that the model does not say, which may take seconds: of an ONNX model,
            where the onnx package is installed. What could not be worked out is in `about`.

    Raises:
        ArgumentError: it holds tensors alone.
        CorruptError: it is damaged.

    >>> from tensorkeep.models.building import input, model, node
    >>> y = node("Relu", input("x", "float32", [4])).typed("float32", [4])
    >>> graph(model([y], name="tiny")).parts[0].nodes[0].op
    'Relu'
    """
    match state.dialect:
        case "onnx":
            from tensorkeep.viewer.graphs import onnx

            return onnx.graph(state, infer=infer)
        case "nnef":
            from tensorkeep.viewer.graphs import nnef

            return nnef.graph(state)
        case "caffe2":
            from tensorkeep.viewer.graphs import caffe2

            return caffe2.graph(state)
    raise ArgumentError(
        "holds tensors, but no graph of a model",
        where=state.where,
        cure="A model of ONNX's, NNEF's, or Caffe2's predict net has one.",
    )


__all__ = ["graph"]
