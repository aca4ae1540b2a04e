"""A model of thousands of nodes to draw: convolutions that branch, then transformer blocks.

Its weights are in a file that does not exist, so the model itself is small. To look at it:
`python tests/viewer/large_graph.py model.onnx`.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from typing import Any

from onnx import GraphProto, ModelProto, TensorProto, helper

_FLOAT = TensorProto.FLOAT


class _Builder:
    """Nodes and weights, under names as exporters give them."""

    def __init__(self) -> None:
        self.graph = GraphProto(name="large")
        self._numbers = count()

    def weight(self, name: str, *shape: int, kind: int = _FLOAT) -> str:
        """Declare a weight whose values are elsewhere."""
        tensor = self.graph.initializer.add(name=name, data_type=kind, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")
        return name

    def node(
        self, op: str, *inputs: str, scope: str, shape: list[int | str], **attributes: Any
    ) -> str:
        """Append a node with one output, whose type is told."""
        output = f"{scope}/{op}_{next(self._numbers)}_output_0"
        made = helper.make_node(
            op, inputs, [output], name=output[: -len("_output_0")], **attributes
        )
        self.graph.node.append(made)
        self.graph.value_info.append(helper.make_tensor_value_info(output, _FLOAT, shape))
        return output

    def ends(self, inputs: dict[str, list[int | str]], outputs: dict[str, list[int | str]]) -> None:
        """Declare what goes in and what comes out."""
        for rows, given in ((self.graph.input, inputs), (self.graph.output, outputs)):
            for name, shape in given.items():
                rows.append(helper.make_tensor_value_info(name, _FLOAT, shape))


def inception(build: _Builder, x: str, place: int, channels: int) -> str:
    """Append four branches of convolutions that are concatenated, and a skip around them."""
    scope = f"/stem/mixed.{place}"
    shape: list[int | str] = ["batch", channels, 28, 28]

    def conv(x: str, branch: str, kernel: int) -> str:
        inside = f"{scope}/{branch}"
        out = channels // 4
        weight = build.weight(
            f"{inside[1:].replace('/', '.')}.weight", out, channels, kernel, kernel
        )
        bias = build.weight(f"{inside[1:].replace('/', '.')}.bias", out)
        pads = [kernel // 2] * 4
        y = build.node(
            "Conv", x, weight, bias, scope=inside, shape=["batch", out, 28, 28],
            kernel_shape=[kernel, kernel], pads=pads, strides=[1, 1], group=1,
        )  # fmt: skip
        return build.node("Relu", y, scope=inside, shape=["batch", out, 28, 28])

    pooled = build.node(
        "MaxPool", x, scope=f"{scope}/pool", shape=shape, kernel_shape=[3, 3], pads=[1] * 4
    )
    branches = [conv(x, "one", 1), conv(x, "three", 3), conv(x, "five", 5), conv(pooled, "pool", 1)]
    joined = build.node("Concat", *branches, scope=scope, shape=shape, axis=1)
    return build.node("Add", joined, x, scope=scope, shape=shape)


def block(build: _Builder, x: str, place: int, width: int) -> str:
    """Append attention and a perceptron, each with its norm before it and a skip around it."""
    scope, prefix = f"/layers.{place}", f"layers.{place}"
    shape: list[int | str] = ["batch", "tokens", width]
    heads: list[int | str] = ["batch", 8, "tokens", width // 8]

    def linear(x: str, name: str, into: int, out: int) -> str:
        weight = build.weight(f"{prefix}.{name}.weight", into, out)
        bias = build.weight(f"{prefix}.{name}.bias", out)
        inside = f"{scope}/{name}"
        y = build.node("MatMul", x, weight, scope=inside, shape=["batch", "tokens", out])
        return build.node("Add", bias, y, scope=inside, shape=["batch", "tokens", out])

    def norm(x: str, name: str) -> str:
        scale, bias = (
            build.weight(f"{prefix}.{name}.{part}", width) for part in ("weight", "bias")
        )
        return build.node(
            "LayerNormalization", x, scale, bias, scope=f"{scope}/{name}", shape=shape, axis=-1
        )

    def split(x: str, perm: list[int], name: str) -> str:
        inside = f"{scope}/attn/{name}"
        to = build.weight(f"{prefix}.attn.{name}.shape", 4, kind=TensorProto.INT64)
        y = build.node("Reshape", x, to, scope=inside, shape=["batch", "tokens", 8, width // 8])
        return build.node("Transpose", y, scope=inside, shape=heads, perm=perm)

    normed, inside = norm(x, "ln_1"), f"{scope}/attn"
    q = split(linear(normed, "attn.q", width, width), [0, 2, 1, 3], "q")
    k = split(linear(normed, "attn.k", width, width), [0, 2, 3, 1], "k")
    v = split(linear(normed, "attn.v", width, width), [0, 2, 1, 3], "v")
    square: list[int | str] = ["batch", 8, "tokens", "tokens"]
    scores = build.node("MatMul", q, k, scope=inside, shape=square)
    scale = build.weight(f"{prefix}.attn.scale")
    weights = build.node("Softmax", build.node("Div", scores, scale, scope=inside, shape=square),
                         scope=inside, shape=square, axis=-1)  # fmt: skip
    mixed = build.node("MatMul", weights, v, scope=inside, shape=heads)
    mixed = build.node("Transpose", mixed, scope=inside, shape=shape, perm=[0, 2, 1, 3])
    to = build.weight(f"{prefix}.attn.out.shape", 3, kind=TensorProto.INT64)
    mixed = linear(build.node("Reshape", mixed, to, scope=inside, shape=shape),
                   "attn.out", width, width)  # fmt: skip
    x = build.node("Add", x, mixed, scope=scope, shape=shape)
    hidden = linear(norm(x, "ln_2"), "mlp.up", width, 4 * width)
    gate = build.node("Sigmoid", hidden, scope=f"{scope}/mlp", shape=["batch", "tokens", 4 * width])
    hidden = build.node("Mul", hidden, gate, scope=f"{scope}/mlp",
                        shape=["batch", "tokens", 4 * width])  # fmt: skip
    down = linear(hidden, "mlp.down", 4 * width, width)
    return build.node("Add", x, down, scope=scope, shape=shape)


def large_model(nodes: int = 5_000) -> ModelProto:
    """Make a model of so many nodes: a fifth of them convolutions, all else transformer blocks."""
    build, width = _Builder(), 512
    build.ends({"image": ["batch", width, 28, 28]}, {"logits": ["batch", "tokens", width]})
    x, place = "image", 0
    while len(build.graph.node) < nodes // 5 - 11:
        x, place = inception(build, x, place, width), place + 1
    flat = build.weight("flat", 3, kind=TensorProto.INT64)
    x = build.node("Reshape", x, flat, scope="/flat", shape=["batch", width, 784])
    x = build.node("Transpose", x, scope="/flat", shape=["batch", 784, width], perm=[0, 2, 1])
    place = 0
    while len(build.graph.node) < nodes - 33:
        x, place = block(build, x, place, width), place + 1
    while len(build.graph.node) < nodes - 1:
        x = build.node("Tanh", x, scope="/head", shape=["batch", "tokens", width])
    build.graph.node.append(helper.make_node("Identity", [x], ["logits"], name="/head/logits"))
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(build.graph, opset_imports=opsets, ir_version=8,
                             producer_name="large", producer_version="1.0")  # fmt: skip


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(large_model().SerializeToString())
