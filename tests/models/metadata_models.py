"""Models for the tests of metadata, made by the onnx package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def plain(**fields: Any) -> Any:
    """Give a model that scales its input."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"])],
        "scaling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.arange(3, dtype="float32"), "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **fields)


def with_entries(path: Path, *entries: tuple[str, str]) -> Path:
    """Save a model that has entries in its metadata_props, the same key twice if need be."""
    model = plain()
    for key, value in entries:
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def entries_of(path: Path) -> list[tuple[str, str]]:
    return [(e.key, e.value) for e in onnx.load(path, load_external_data=False).metadata_props]


def trained() -> Any:
    """Give a model with a graph for training: a step of Adam on w."""
    model = plain()
    floats = {"rate": 0.01, "first": 0.0, "second": 0.0}
    algorithm = helper.make_graph(
        [
            helper.make_node("Sub", ["y", "target"], ["gradient"]),
            helper.make_node(
                "Adam",
                ["rate", "step", "w", "gradient", "first", "second"],
                ["w_new", "first_new", "second_new"],
                domain="ai.onnx.preview.training",
                alpha=0.9,
                beta=0.999,
                epsilon=1e-8,
                norm_coefficient=0.0,
            ),
        ],
        "step",
        [helper.make_tensor_value_info("target", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("w_new", TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(np.float32(v), k) for k, v in floats.items()]
        + [numpy_helper.from_array(np.int64(7), "step")],
    )
    start = helper.make_graph(
        [helper.make_node("RandomNormal", [], ["w_start"], shape=[3])],
        "start",
        [],
        [helper.make_tensor_value_info("w_start", TensorProto.FLOAT, [3])],
    )
    model.training_info.append(
        helper.make_training_info(
            algorithm,
            [("w", "w_new"), ("first", "first_new")],
            start,
            [("w", "w_start")],
        )
    )
    model.opset_import.append(helper.make_opsetid("ai.onnx.preview.training", 1))
    return model
