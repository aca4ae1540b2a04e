"""Small models made by onnx.helper, and what ONNX Runtime alone gives of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Axes = Sequence[int | str | None]
FLOAT = TensorProto.FLOAT


def value(name: str, axes: Axes | None, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, axes)


def tensor(name: str, array: Any) -> Any:
    return numpy_helper.from_array(np.asarray(array), name)


def model(
    nodes: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    tensors: Sequence[Any] = (),
    *,
    opset: int = 17,
    ir: int = 10,
    **rest: Any,
) -> Any:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(tensors))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, **rest)


def save(made: Any, path: Path, **options: Any) -> Path:
    onnx.save(made, path, **options)
    return path


def linear(axes: Axes = ("N", 3), out: Axes = ("N", 4), seed: int = 0) -> Any:
    """Give x @ w + b, with w of 3 x 4."""
    rng = np.random.default_rng(seed)
    tensors = [
        tensor("w", rng.standard_normal((3, 4), np.float32)),
        tensor("b", rng.standard_normal(4, np.float32)),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("Add", ["h", "b"], ["y"]),
    ]
    return model(nodes, [value("x", axes)], [value("y", out)], tensors)


def one(
    op: str,
    axes: Axes | None = ("N",),
    kind: int = FLOAT,
    *,
    out: int | None = None,
    out_axes: Axes | None = None,
    domain: str = "",
    opset: int = 17,
    ir: int = 10,
    **attributes: Any,
) -> Any:
    """Give a model of one operator of one input."""
    node = helper.make_node(op, ["x"], ["y"], domain=domain, **attributes)
    outputs = [value("y", axes if out_axes is None else out_axes, kind if out is None else out)]
    return model([node], [value("x", axes, kind)], outputs, opset=opset, ir=ir)


def plainly(made: Any, feed: dict[str, Any]) -> dict[str, Any]:
    """Give what ONNX Runtime gives, without anything of ours."""
    data = made if isinstance(made, str | bytes) else made.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    runtime = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in runtime.get_outputs()]
    return dict(zip(names, runtime.run(None, feed), strict=True))
