"""Layers with weights: convolutions, products of matrices, normalizations, softmax."""

from __future__ import annotations

import numpy as np

from tensorkeep.models.exchange.onnx_to_caffe2.table import TABLE
from tensorkeep.models.exchange.onnx_to_caffe2.writer import FLOAT, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal
from tensorkeep.models.exchange.windows import given_padding, windows_of


@TABLE.row("Conv", becomes="Conv")
def _conv(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    windows = windows_of(node, to.shape(node.input(0))[2:], to.shape(node.input(1))[2:])
    heads, tails = zip(*windows.padding, strict=True)
    arguments = {
        "kernels": list(windows.kernel),
        "strides": list(windows.strides),
        "pads": [*heads, *tails],
        "dilations": list(windows.dilations),
        "group": int(node.attributes.get("group", 1)),
    }
    to.add("Conv", [to.blob(name) for name in node.inputs if name], node.output(), **arguments)


@TABLE.row("ConvTranspose", becomes="ConvTranspose", note="of images, without dilations")
def _conv_transpose(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    size, out = to.shape(node.input(0))[2:], to.shape(node.output())[2:]
    kernel = to.shape(node.input(1))[2:]
    if len(size) != 2:
        raise Refused(f"it has {len(size)} spatial axes, and Caffe2's has two")
    if any(step != 1 for step in node.attributes.get("dilations", ())):
        raise Refused("it has dilations, which Caffe2's has not")
    strides = [int(step) for step in node.attributes.get("strides", (1, 1))]
    adjusted = [int(more) for more in node.attributes.get("output_padding", (0, 0))]
    if any(more > step for more, step in zip(adjusted, strides, strict=True)):
        raise Refused(f"its output_padding {adjusted} is more than its strides {strides}")
    given = given_padding(node, 2)
    automatic = node.word("auto_pad", "NOTSET")
    sized = "output_shape" in node.attributes or automatic in ("SAME_UPPER", "SAME_LOWER")
    pads = [0] * 4
    for axis in range(2):
        whole = (size[axis] - 1) * strides[axis] + adjusted[axis] + kernel[axis]
        total = whole - out[axis]
        head = given[axis][0]
        if sized:  # then what is odd comes before, unless it is SAME_UPPER
            head = total // 2 if automatic == "SAME_UPPER" else total - total // 2
        elif total != sum(given[axis]):
            raise Refused(f"its padding does not leave {out[axis]} elements along an axis")
        if total < 0 or head < 0 or head > total:
            raise Refused("its output is larger than what it makes without padding")
        pads[axis], pads[axis + 2] = head, total - head
    to.add(
        "ConvTranspose",
        [to.blob(name) for name in node.inputs if name],
        node.output(),
        kernels=list(kernel),
        strides=strides,
        pads=pads,
        adjs=adjusted,
        group=int(node.attributes.get("group", 1)),
    )


@TABLE.row("Gemm", becomes="FC", note="or MatMul, Mul and Add where it is no layer")
def _gemm(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    alpha, beta = (float(node.attributes.get(key, 1.0)) for key in ("alpha", "beta"))
    trans_a, trans_b = (int(node.attributes.get(key, 0)) for key in ("transA", "transB"))
    weights, bias = node.input(1), node.input(2)
    columns = to.shape(weights)[0 if trans_b else 1]
    plain = alpha == 1.0 and (beta == 1.0 or not bias) and not trans_a
    if plain and to.model.is_constant(weights) and (not bias or to.model.is_constant(bias)):
        added = np.zeros(columns, np.float32) if not bias else to.model.array(bias)
        if added.size == columns and (added.ndim < 2 or added.shape[-1] == columns):
            held = to.blob(bias) if bias and added.ndim == 1 else ""
            held = held or to.constant(added.reshape(columns), f"{node.output()}_b")
            if trans_b:
                turned = to.blob(weights)
            else:
                turned = to.constant(to.model.array(weights).T, f"{weights}_t")
            to.add("FC", [to.blob(node.input(0)), turned, held], node.output())
            return
    last = not bias and alpha == 1.0
    inputs = [to.blob(node.input(0)), to.blob(weights)]
    made = to.add(
        "MatMul", inputs, node.output() if last else None, trans_a=trans_a, trans_b=trans_b
    )
    if alpha != 1.0:
        scale = to.constant(np.array([alpha], np.float32), "alpha")
        made = to.add("Mul", [made, scale], None if bias else node.output(), broadcast=1)
    if bias:
        more = to.blob(bias)
        if beta != 1.0:
            more = to.add("Mul", [more, to.constant(np.array([beta], np.float32), "beta")])
        to.add("Add", [made, more], node.output())


@TABLE.row("MatMul", becomes="MatMul", note="BatchMatMul with more axes, or of a vector")
def _matmul(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    a, b = to.shape(node.input(0)), to.shape(node.input(1))
    left, right = to.blob(node.input(0)), to.blob(node.input(1))
    if len(a) == 2 and len(b) == 2:
        to.add("MatMul", [left, right], node.output())
        return
    if len(a) > 2 and len(b) == 2:
        flat = to.reshaped(left, [-1, a[-1]])
        product = to.add("MatMul", [flat, right])
        to.reshaped(product, [*a[:-1], b[-1]], node.output())
        return
    shorter = min(len(a[:-2]), len(b[:-2]))
    if a[:-2][len(a[:-2]) - shorter :] != b[:-2][len(b[:-2]) - shorter :]:
        raise Refused(f"its matrices lie in axes {a[:-2]} and {b[:-2]}, and Caffe2 takes the same")
    if len(a) == len(b) == 1:
        product = to.add("BatchMatMul", [left, right], broadcast=1)
        to.reshaped(product, [], node.output())
        return
    extra = {} if len(a) == len(b) else {"broadcast": 1}
    to.add("BatchMatMul", [left, right], node.output(), **extra)


@TABLE.row("BatchNormalization", becomes="SpatialBN", note="with is_test=1")
def _batch_normalization(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    training = node.attributes.get("training_mode", 0)
    if node.since < 7:
        training = not node.attributes.get("is_test", 0)
    if training or any(to.is_used(name) for name in node.outputs[1:]):
        raise Refused(
            "it is in training mode, computing the statistics of what it is given",
            "Export the model for inference, or set training_mode to 0.",
        )
    if to.model.rank(node.input(0)) < 2:
        raise Refused("its input has no axis of channels")
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    if epsilon <= 0:
        raise Refused(f"its epsilon is {epsilon}, and Caffe2's has to be more than 0")
    if node.since < 9 and node.attributes.get("spatial", 1) == 0:
        raise Refused("it has a mean for each place (spatial=0), not for each channel")
    to.add(
        "SpatialBN",
        [to.blob(name) for name in node.inputs],
        node.output(),
        is_test=1,
        epsilon=epsilon,
    )


@TABLE.row("InstanceNormalization", becomes="InstanceNorm", note="of images")
def _instance_normalization(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    if len(to.shape(node.input(0))) != 4:
        raise Refused(f"its input has {len(to.shape(node.input(0)))} axes, and Caffe2 takes 4")
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    to.add("InstanceNorm", [to.blob(n) for n in node.inputs], node.output(), epsilon=epsilon)


@TABLE.row("GroupNormalization", becomes="GroupNorm", note="of opset 21 and later")
def _group_normalization(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    if node.since < 21:
        raise Refused(
            "before opset 21 it scales groups, not channels",
            "Convert the model first: tensorkeep edit --opset 21.",
        )
    to.add(
        "GroupNorm",
        [to.blob(name) for name in node.inputs],
        node.output(),
        epsilon=float(node.attributes.get("epsilon", 1e-5)),
        group=int(node.attributes["num_groups"]),
    )


@TABLE.row("LRN", becomes="LRN", note="of an odd size")
def _lrn(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    size = int(node.attributes["size"])
    if size % 2 == 0 or len(to.shape(node.input(0))) != 4:
        raise Refused(f"its size is {size}; Caffe2 takes odd ones, and images")
    to.add(
        "LRN",
        [to.blob(node.input(0))],
        [node.output(), to.fresh(f"{node.output()}_scale")],
        size=size,
        alpha=float(node.attributes.get("alpha", 1e-4)),
        beta=float(node.attributes.get("beta", 0.75)),
        bias=float(node.attributes.get("bias", 1.0)),
    )


@TABLE.row("LogSoftmax", becomes="Sub, Exp, Log, ReduceMax, ReduceSum")
def _log_softmax(node: Node, to: Writer) -> None:
    """Not the Log of a Softmax, which is -inf below -103."""
    to.need(node.input(0), FLOAT)
    axis, old = _softened(node, to)
    axes = list(range(axis, to.model.rank(node.input(0)))) if old else [axis]
    blob = to.blob(node.input(0))
    largest = to.add("ReduceMax", [blob], axes=axes, keepdims=1)
    below = to.add("Sub", [blob, largest])
    total = to.add("ReduceSum", [to.add("Exp", [below])], axes=axes, keepdims=1)
    to.add("Sub", [below, to.add("Log", [total])], node.output())


@TABLE.row("Softmax", becomes="Softmax", note="along an axis that is not the last, by Transpose")
def _softmax(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT)
    axis, old = _softened(node, to)
    rank, blob = to.model.rank(node.input(0)), to.blob(node.input(0))
    if old or axis == rank - 1:
        to.add("Softmax", [blob], node.output(), axis=axis)
        return
    order = [*(i for i in range(rank) if i != axis), axis]
    turned = to.add("Transpose", [blob], axes=order)
    soft = to.add("Softmax", [turned], axis=rank - 1)
    to.add("Transpose", [soft], node.output(), axes=[order.index(i) for i in range(rank)])


def _softened(node: Node, to: Writer) -> tuple[int, bool]:
    """Give the axis, and whether all from it on are taken as one, as ONNX had it at first."""
    rank = to.model.rank(node.input(0))
    if rank == 0:
        raise Refused("it is of a number, and Caffe2's takes axes")
    old = node.since < 13
    return normal(int(node.attributes.get("axis", 1 if old else -1)), rank), old
