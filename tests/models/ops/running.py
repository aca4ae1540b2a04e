"""Models in ONNX's textual syntax, expanded, checked and run in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.parser
import onnxruntime
from tests.models.ops.feeds import Array

from tensorkeep.graph.graph import Graph
from tensorkeep.graph.schema import MODEL
from tensorkeep.message import Message
from tensorkeep.models import ops

onnxruntime.set_default_logger_severity(4)


def parse(text: str) -> Any:
    return onnx.parser.parse_model(text)


def graph_of(text: str) -> Graph:
    return Graph(Message.parse(MODEL, parse(text).SerializeToString()))


def expanded(text: str, *, kernels: bool = True) -> Any:
    """Give the expanded model as the onnx package reads it."""
    graph = graph_of(text)
    ops.expand_graph(graph, kernels=kernels)
    return onnx.load_from_string(graph.model.encode())


def run(model: Any, feeds: Mapping[str, Any], *, check: bool = True) -> list[Array]:
    if check:
        onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    given = {name: np.asarray(value) for name, value in feeds.items()}
    return list(session.run(None, given))


def run_text(text: str, feeds: Mapping[str, Any], *, kernels: bool = True) -> list[Array]:
    return run(expanded(text, kernels=kernels), feeds)
