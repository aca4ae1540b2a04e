"""The operators of ONNX, what others call them, and functions for the names that ONNX lacks."""

from __future__ import annotations

from tensorkeep.models.ops.catalogue import (
    catalogue,
    find,
    newest_opset,
    operator,
    relatives,
    since,
)
from tensorkeep.models.ops.examples import example
from tensorkeep.models.ops.expanding import expand, expand_graph
from tensorkeep.models.ops.functions import Function, functions, variants
from tensorkeep.models.ops.operators import ONNX, OURS, Attribute, Operator, Parameter

__all__ = [
    "ONNX",
    "OURS",
    "Attribute",
    "Function",
    "Operator",
    "Parameter",
    "catalogue",
    "example",
    "expand",
    "expand_graph",
    "find",
    "functions",
    "newest_opset",
    "operator",
    "relatives",
    "since",
    "variants",
]
