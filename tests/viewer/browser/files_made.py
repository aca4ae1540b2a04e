"""Real models for the viewer to show: a digit classifier in several formats, nets, a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

import tensorkeep as tk
from tensorkeep.demo import digits, network

DATA = Path(__file__).parents[2] / "data"


@dataclass(frozen=True)
class Files:
    """What was made, and the weights of the classifier in it."""

    folder: Path
    weights: dict[str, npt.NDArray[Any]] = field(repr=False)
    onnx: Path
    nnef: Path
    pt: Path
    h5: Path
    safetensors: Path
    later: Path  # the same classifier after more steps
    caffe2: Path


def make(folder: Path) -> Files:
    """Train a classifier for a few steps and write it down."""
    weights = network.initial(np.random.default_rng(0))
    _train(weights, 60)
    files = Files(
        folder,
        {name: array.copy() for name, array in weights.items()},
        folder / "digits.onnx",
        folder / "digits.nnef",
        folder / "digits.pt",
        folder / "digits.h5",
        folder / "digits.safetensors",
        folder / "later.safetensors",
        DATA / "caffe2" / "net_squeezenet_mini" / "predict_net.pb",
    )
    onnx.save(classifier(weights), files.onnx)
    tk.convert(files.onnx, files.nnef)
    for path in (files.pt, files.h5, files.safetensors):
        tk.save(weights, path, metadata={"classes": "0123456789"})
    _train(weights, 20)
    tk.save(weights, files.later, metadata={"classes": "0123456789", "steps": 80})
    return files


def _train(weights: network.Weights, steps: int) -> None:
    shown = digits.training_and_held_out()[0]
    rng = np.random.default_rng(1)
    for _ in range(steps):
        picked = rng.integers(0, len(shown), 64)
        pictures, labels = shown.images[picked], shown.labels[picked]
        _, gradients = network.loss_and_gradients(weights, pictures, labels)
        for name, gradient in gradients.items():
            weights[name] -= np.float32(0.1) * gradient.astype(np.float32)


def classifier(weights: network.Weights) -> onnx.ModelProto:
    """Give the network of the demo as an ONNX model."""
    nodes = [
        helper.make_node("Conv", ["image", "conv.weight", "conv.bias"], ["maps"], pads=[1] * 4),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node("MaxPool", ["active"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node(
            "Gemm", ["flat", "hidden.weight", "hidden.bias"], ["hidden"], transB=1, name="hidden"
        ),
        helper.make_node("Relu", ["hidden"], ["lively"]),
        helper.make_node("Gemm", ["lively", "output.weight", "output.bias"], ["scores"], transB=1),
        helper.make_node("Softmax", ["scores"], ["digit"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
        [helper.make_tensor_value_info("digit", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.producer_name = "tensorkeep"
    onnx.checker.check_model(model)
    return model
