"""What the tests of building share: the official checker, and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import onnx
import onnxruntime

import tensorkeep as tk
from tensorkeep.graph import Graph
from tensorkeep.models import building


def graph_of(state: tk.State) -> Graph:
    assert state.graph is not None
    return state.graph


def model(outputs: Any, **options: Any) -> tk.State:
    """Build without the check, which takes a process of its own; `official` checks instead."""
    return building.model(outputs, **({"check": False} | options))


def sketch(outputs: list[Any], **options: Any) -> tk.State:
    """Build for a look at the nodes: outputs are said to be scalars, so that none is inferred."""
    return model([each.typed(each.dtype or "float32", []) for each in outputs], **options)


def official(state: tk.State) -> Any:
    """Give the model as the onnx package reads it, once its checker has passed it."""
    data = graph_of(state).model.encode()
    onnx.checker.check_model(data, full_check=True)
    return onnx.load_model_from_string(data)


def compute(state: tk.State, **inputs: Any) -> list[Any]:
    official(state)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph_of(state).model.encode(), options)
    found: list[Any] = session.run(None, inputs)
    return found
