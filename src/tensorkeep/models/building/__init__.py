"""Write a model in Python, without the onnx package: values, nodes that compute others, a model.

    x = input("x", "float32", ["N", 784])
    y = node("Softmax", node("Gemm", x, weights, bias))
    tensorkeep.save(model({"probabilities": y}, name="linear"), "linear.onnx")

Every node is checked against its operator when it is made. Nothing is named, placed or written
before `model` is called, so values may be made by any code, in any order; what no output
needs is left out.
"""

from __future__ import annotations

from tensorkeep.models.building.assembling import model
from tensorkeep.models.building.attributes import Body, Reference, Sparse, attribute
from tensorkeep.models.building.constants import initializer
from tensorkeep.models.building.functions import Function, function
from tensorkeep.models.building.nodes import body, input, node
from tensorkeep.models.building.symbols import Symbol
from tensorkeep.models.building.types import Type, map_of, optional, sequence, tensor

__all__ = [
    "Body",
    "Function",
    "Reference",
    "Sparse",
    "Symbol",
    "Type",
    "attribute",
    "body",
    "function",
    "initializer",
    "input",
    "map_of",
    "model",
    "node",
    "optional",
    "sequence",
    "tensor",
]
