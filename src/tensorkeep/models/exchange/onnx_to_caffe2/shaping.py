"""What moves elements: reshapes, joins, cuts, transposes, gathers."""

from __future__ import annotations

import numpy as np

from tensorkeep.models.exchange.onnx_to_caffe2.table import TABLE
from tensorkeep.models.exchange.onnx_to_caffe2.writer import FLOAT, INTEGERS, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal


@TABLE.row("Reshape", becomes="Reshape")
def _reshape(node: Node, to: Writer) -> None:
    shape = list(to.shape(node.output()))
    given = list(node.attributes.get("shape", ()))
    if node.input(1) and to.model.is_constant(node.input(1)):
        given = to.model.integers(node.input(1), "shape")
    if given and len(given) == len(shape) and not node.attributes.get("allowzero", 0):
        shape = [int(size) for size in given]  # with what is copied or found, for any batch
    to.reshaped(to.blob(node.input(0)), shape, node.output())


@TABLE.row("Flatten", becomes="Flatten")
def _flatten(node: Node, to: Writer) -> None:
    rank = len(to.shape(node.input(0)))
    axis = int(node.attributes.get("axis", 1))
    axis = axis if axis == rank else normal(axis, rank)
    if axis == 0 or rank == 0:
        to.reshaped(to.blob(node.input(0)), [1, -1], node.output())
        return
    to.add("Flatten", [to.blob(node.input(0))], node.output(), axis=axis)


@TABLE.row("Squeeze", becomes="Squeeze")
def _squeeze(node: Node, to: Writer) -> None:
    shape = to.shape(node.input(0))
    axes = to.model.axes(node, 1, len(shape))
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    if not axes:
        to.add("Copy", [to.blob(node.input(0))], node.output())
        return
    to.add("Squeeze", [to.blob(node.input(0))], node.output(), dims=sorted(axes))


@TABLE.row("Unsqueeze", becomes="ExpandDims")
def _unsqueeze(node: Node, to: Writer) -> None:
    axes = to.model.axes(node, 1, len(to.shape(node.output()))) or []
    if not axes:
        to.add("Copy", [to.blob(node.input(0))], node.output())
        return
    to.add("ExpandDims", [to.blob(node.input(0))], node.output(), dims=sorted(axes))


@TABLE.row("Transpose", becomes="Transpose")
def _transpose(node: Node, to: Writer) -> None:
    rank = len(to.shape(node.input(0)))
    order = [int(axis) for axis in node.attributes.get("perm", range(rank)[::-1])]
    if sorted(order) == order:
        to.add("Copy", [to.blob(node.input(0))], node.output())
        return
    to.need(node.input(0), FLOAT, *INTEGERS)
    to.add("Transpose", [to.blob(node.input(0))], node.output(), axes=order)


@TABLE.row("Concat", becomes="Concat")
def _concat(node: Node, to: Writer) -> None:
    axis = normal(int(node.attributes.get("axis", 1)), len(to.shape(node.output())))
    outputs = [node.output(), to.fresh(f"{node.output()}_split")]
    to.add("Concat", [to.blob(name) for name in node.inputs], outputs, axis=axis)


@TABLE.row("Split", becomes="Split")
def _split(node: Node, to: Writer) -> None:
    axis = normal(int(node.attributes.get("axis", 0)), len(to.shape(node.input(0))))
    sizes = [to.shape(name)[axis] if name else 0 for name in node.outputs]
    if not all(node.outputs):
        raise Refused("one of its outputs is left out")
    to.add("Split", [to.blob(node.input(0))], list(node.outputs), axis=axis, split=sizes)


@TABLE.row("Slice", becomes="Slice", note="one for each axis; steps of 1")
def _slice(node: Node, to: Writer) -> None:
    shape = to.shape(node.input(0))
    if node.input(1):
        starts = to.model.integers(node.input(1), "starts")
        ends = to.model.integers(node.input(2), "ends")
        axes = to.model.axes(node, 3, len(shape)) or list(range(len(starts)))
        steps = to.model.integers(node.input(4), "steps") if node.input(4) else [1] * len(starts)
    else:
        starts, ends = (list(node.attributes[key]) for key in ("starts", "ends"))
        given = node.attributes.get("axes", range(len(starts)))
        axes = [normal(int(axis), len(shape)) for axis in given]
        steps = [1] * len(starts)
    if any(step != 1 for step in steps):
        raise Refused(f"its steps are {steps}, and Caffe2 takes every element")
    to.need(node.input(0), FLOAT, *INTEGERS, "bool", "uint8")
    cuts = []
    for axis, start, end in zip(axes, starts, ends, strict=True):
        first, last, _ = slice(start, end).indices(shape[axis])
        if last <= first:
            raise Refused("it gives nothing")
        if (first, last) != (0, shape[axis]):
            cuts.append((axis, first, last))
    blob = to.blob(node.input(0))
    if not cuts:
        to.add("Copy", [blob], node.output())
    for place, (axis, first, last) in enumerate(cuts):
        heads, tails = [0] * len(shape), [-1] * len(shape)
        heads[axis], tails[axis] = first, last
        output = node.output() if place == len(cuts) - 1 else None
        blob = to.add("Slice", [blob], output, starts=heads, ends=tails)


@TABLE.row("Gather", becomes="Gather", note="older runtimes take no indices below 0")
def _gather(node: Node, to: Writer) -> None:
    shape = to.shape(node.input(0))
    axis = normal(int(node.attributes.get("axis", 0)), len(shape))
    arguments = {"axis": axis} if axis else {}
    if not to.model.is_constant(node.input(1)):
        indices = to.blob(node.input(1))
        arguments["wrap_indices"] = 1
    else:
        found = to.model.array(node.input(1))
        if found.size and not -shape[axis] <= found.min() <= found.max() < shape[axis]:
            raise Refused(f"its indices are not all within {shape[axis]}")
        if found.size and found.min() < 0:
            indices = to.constant(np.where(found < 0, found + shape[axis], found), "indices")
        else:
            indices = to.blob(node.input(1))
    to.add("Gather", [to.blob(node.input(0)), indices], node.output(), **arguments)


@TABLE.row("Tile", becomes="Tile", note="one for each axis")
def _tile(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT, *INTEGERS)
    if node.since < 6:
        raise Refused("before opset 6 it is another operator")
    _repeat(to, to.blob(node.input(0)), to.model.integers(node.input(1), "repeats"), node.output())


@TABLE.row("Expand", becomes="ExpandDims, Tile")
def _expand(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT, *INTEGERS)
    shape, out = to.shape(node.input(0)), to.shape(node.output())
    blob, more = to.blob(node.input(0)), len(out) - len(shape)
    if more:
        blob = to.add("ExpandDims", [blob], dims=list(range(more)))
    pairs = zip((1,) * more + shape, out, strict=True)
    _repeat(to, blob, [b if a != b else 1 for a, b in pairs], node.output())


def _repeat(to: Writer, blob: str, repeats: list[int], output: str) -> None:
    steps = [(axis, times) for axis, times in enumerate(repeats) if times != 1]
    if any(times < 1 for _, times in steps):
        raise Refused("it gives nothing")
    if not steps:
        to.add("Copy", [blob], output)
    for place, (axis, times) in enumerate(steps):
        last = place == len(steps) - 1
        blob = to.add("Tile", [blob], output if last else None, tiles=times, axis=axis)


@TABLE.row("DepthToSpace", becomes="Reshape, Transpose, Reshape")
@TABLE.row("SpaceToDepth", becomes="Reshape, Transpose, Reshape")
def _blocks(node: Node, to: Writer) -> None:
    to.need(node.input(0), FLOAT, *INTEGERS)
    n, c, h, w = to.shape(node.input(0))
    size = int(node.attributes["blocksize"])
    channels_first = node.attributes.get("mode", "DCR") in ("CRD", b"CRD")
    if node.operator == "SpaceToDepth":
        inner = [n, c, h // size, size, w // size, size]
        order = [0, 1, 3, 5, 2, 4] if channels_first else [0, 3, 5, 1, 2, 4]
    elif channels_first:
        inner, order = [n, c // size**2, size, size, h, w], [0, 1, 4, 2, 5, 3]
    else:
        inner, order = [n, size, size, c // size**2, h, w], [0, 3, 4, 1, 5, 2]
    split = to.reshaped(to.blob(node.input(0)), inner)
    turned = to.add("Transpose", [split], axes=order)
    to.reshaped(turned, to.shape(node.output()), node.output())
