"""Normalizations. Parameters of channels become [1, channels], as NNEF aligns them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tensorkeep.models.exchange.onnx_to_nnef.operands import attribute, floats, is_used
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal
from tensorkeep.wire.nnef.operations import Reference


@TABLE.row("BatchNormalization", becomes="batch_normalization", note="in inference only")
def _batch_normalization(node: Node, to: Writer) -> None:
    training = node.attributes.get("training_mode", 0)
    if node.since < 7:
        training = not node.attributes.get("is_test", 0)
    if training or any(is_used(to, name) for name in node.outputs[1:]):
        raise Refused(
            "it is in training mode, computing the statistics of what it is given",
            "Export the model for inference, or set training_mode to 0.",
        )
    if not node.attributes.get("spatial", 1):
        raise Refused("its statistics are of every element (spatial is 0), not of channels")
    floats(to, *node.inputs[:5])
    if to.model.rank(node.input(0)) < 2:
        raise Refused("its input has no axis of channels")
    x, scale, offset, mean, variance = (to.tensor(name) for name in node.inputs[:5])
    arguments: dict[str, object] = {"input": x}
    parts = {"mean": mean, "variance": variance, "offset": offset, "scale": scale}
    arguments.update((key, to.unsqueeze(value, [0])) for key, value in parts.items())
    arguments["epsilon"] = attribute(to, node, "epsilon", 1e-5)
    to.emit("batch_normalization", arguments, node.output())


@TABLE.row("InstanceNormalization", becomes="(x - mean) / sqrt(variance + epsilon) * scale + B")
def _instance_normalization(node: Node, to: Writer) -> None:
    floats(to, *node.inputs[:3])
    x, scale, offset = (to.tensor(name) for name in node.inputs[:3])
    rank = to.model.rank(node.input(0))
    if rank < 3:
        raise Refused(f"its input has {rank} axes, none of them spatial")
    centred, deviation, _ = _moments(to, x, range(2, rank), attribute(to, node, "epsilon", 1e-5))
    made = to.apply("div", centred, deviation)
    _scaled(to, made, to.unsqueeze(scale, [0]), to.unsqueeze(offset, [0]), node.output())


@TABLE.row("LayerNormalization", becomes="(x - mean) / sqrt(variance + epsilon) * Scale + B")
def _layer_normalization(node: Node, to: Writer) -> None:
    _stashed(node, floats(to, *node.inputs[:3]))
    x, rank = to.tensor(node.input(0)), to.model.rank(node.input(0))
    axes = range(normal(int(node.attributes.get("axis", -1)), rank), rank)
    centred, deviation, mean = _moments(to, x, axes, attribute(to, node, "epsilon", 1e-5))
    if is_used(to, node.output(1)):
        to.apply("copy", mean, output=node.output(1))
    if is_used(to, node.output(2)):
        to.apply("rcp", deviation, output=node.output(2))
    scale = to.lifted(to.tensor(node.input(1)), rank)
    offset = to.lifted(to.tensor(node.input(2)), rank) if node.input(2) else None
    _scaled(to, to.apply("div", centred, deviation), scale, offset, node.output())


@TABLE.row(
    "GroupNormalization", becomes="reshape, (x - mean) / sqrt(variance + epsilon), * scale + bias"
)
def _group_normalization(node: Node, to: Writer) -> None:
    _stashed(node, floats(to, *node.inputs[:3]))
    x, scale, offset = (to.tensor(name) for name in node.inputs[:3])
    shape, groups = to.shape(node.input(0)), int(node.attributes["num_groups"])
    if len(shape) < 2 or groups < 1 or shape[1] % groups:
        raise Refused(f"its input {shape} has no {groups} groups of channels")
    grouped = to.reshape(x, [shape[0], groups, math.prod(shape[1:]) // groups])
    centred, deviation, _ = _moments(to, grouped, [2], attribute(to, node, "epsilon", 1e-5))
    made = to.apply("div", centred, deviation)
    scale, offset = to.unsqueeze(scale, [0]), to.unsqueeze(offset, [0])
    if node.since < 21:  # a scale of each group, not of each channel
        to.reshape(_scaled(to, made, scale, offset), shape, node.output())
    else:
        _scaled(to, to.reshape(made, shape), scale, offset, node.output())


@TABLE.row("RMSNormalization", becomes="x / sqrt(mean_reduce(sqr(x)) + epsilon) * scale")
def _rms_normalization(node: Node, to: Writer) -> None:
    _stashed(node, floats(to, *node.inputs[:2]))
    x, rank = to.tensor(node.input(0)), to.model.rank(node.input(0))
    axes = range(normal(int(node.attributes.get("axis", -1)), rank), rank)
    squares = _mean(to, to.apply("sqr", x), axes)
    deviation = to.apply("sqrt", to.apply("add", squares, attribute(to, node, "epsilon", 1e-5)))
    scale = to.lifted(to.tensor(node.input(1)), rank)
    _scaled(to, to.apply("div", x, deviation), scale, None, node.output())


@TABLE.row("LRN", becomes="local_response_normalization")
def _local_response(node: Node, to: Writer) -> None:
    floats(to, node.input(0))
    rank, size = to.model.rank(node.input(0)), int(node.attributes["size"])
    if rank < 2 or size < 1:
        raise Refused(f"it sums {size} channels of an input of {rank} axes")
    arguments = {
        "input": to.tensor(node.input(0)),
        "size": [1, size] + [1] * (rank - 2),
        "alpha": attribute(to, node, "alpha", 1e-4),
        "beta": attribute(to, node, "beta", 0.75),
        "bias": attribute(to, node, "bias", 1.0),
    }
    to.emit("local_response_normalization", arguments, node.output())


@TABLE.row(
    "LpNormalization",
    becomes="select(norm == 0, 0, x / norm)",
    note="NNEF's l1_normalization and l2_normalization divide by a norm of zero",
)
def _lp_normalization(node: Node, to: Writer) -> None:
    floats(to, node.input(0))
    x, rank, power = (
        to.tensor(node.input(0)),
        to.model.rank(node.input(0)),
        node.attributes.get("p", 2),
    )
    axis = normal(int(node.attributes.get("axis", -1)), rank)
    if power not in (1, 2):
        raise Refused(f"its p is {power}, where ONNX has 1 and 2")
    shape = [1 if index == axis else size for index, size in enumerate(to.shape_of(x))]
    terms = to.apply("abs" if power == 1 else "sqr", x)
    norm = to.emit("sum_reduce", {"input": terms, "axes": [axis]}, shape=shape)
    if power == 2:
        norm = to.apply("sqrt", norm)
    quotient = to.apply("div", x, norm)
    to.apply("select", to.apply("eq", norm, 0.0), 0.0, quotient, output=node.output())


@TABLE.row("MeanVarianceNormalization", becomes="(x - mean) / (sqrt(variance) + 1e-9)")
def _mean_variance_normalization(node: Node, to: Writer) -> None:
    floats(to, node.input(0))
    x, rank = to.tensor(node.input(0)), to.model.rank(node.input(0))
    axes = [normal(int(axis), rank) for axis in node.attributes.get("axes", (0, 2, 3))]
    centred = to.apply("sub", x, _mean(to, x, axes))
    variance = _mean(to, to.apply("sqr", centred), axes)
    deviation = to.apply("add", to.apply("sqrt", variance), 1e-9)
    to.apply("div", centred, deviation, output=node.output())


def _moments(
    to: Writer, x: Reference, axes: Sequence[int], epsilon: float
) -> tuple[Reference, Reference, Reference]:
    """Give x without its mean, its deviation, and the mean."""
    mean = _mean(to, x, axes)
    centred = to.apply("sub", x, mean)
    variance = _mean(to, to.apply("sqr", centred), axes)
    return centred, to.apply("sqrt", to.apply("add", variance, epsilon)), mean


def _mean(to: Writer, x: Reference, axes: Sequence[int]) -> Reference:
    shape = [1 if axis in axes else size for axis, size in enumerate(to.shape_of(x))]
    return to.emit("mean_reduce", {"input": x, "axes": sorted(axes)}, shape=shape)


def _scaled(
    to: Writer, x: Reference, scale: object, offset: object | None, output: str | None = None
) -> Reference:
    made = to.apply("mul", x, scale, output=output if offset is None else None)
    return made if offset is None else to.apply("add", made, offset, output=output)


def _stashed(node: Node, kind: str) -> None:
    """Refuse to compute in float16 what ONNX computes in float32 between."""
    if kind == "float16" and node.attributes.get("stash_type", 1) == 1:
        raise Refused(
            "it computes in float32 what it is given in float16, and NNEF has one kind of scalar",
            'Cast the model with tk.cast(model, "float32") first.',
        )
