"""Movements of data: shapes, axes, slices and repetitions, of any element type that NNEF has."""

from __future__ import annotations

import math

import numpy as np

from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import INTEGERS, NUMBERS, Operand, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal
from tensorkeep.wire.nnef.operations import Reference


@TABLE.row("Identity", becomes="copy")
def _identity(node: Node, to: Writer) -> None:
    to.alias(node.output(), to.tensor(node.input(0)))


@TABLE.row("Dropout", becomes="copy", note="in inference; the mask is all true")
def _dropout(node: Node, to: Writer) -> None:
    if node.input(2) and bool(to.model.number(node.input(2), "training_mode")):
        ratio = to.model.number(node.input(1), "the ratio") if node.input(1) else 0.5
        if ratio:
            raise Refused("it drops at random, as in training", "Export the model for inference.")
    if node.since < 7 and not node.attributes.get("is_test", 0):
        to.report.add("changed", str(node), "it drops nothing, as when a model is used")
    to.alias(node.output(), to.tensor(node.input(0)))
    if node.output(1):
        to.affordable(math.prod(to.shape(node.output(1))))
        mask = np.ones(to.shape(node.output(1)), to.model.type(node.output(1)))
        to.alias(node.output(1), to.variable(mask, "mask"))


@TABLE.row("Constant", "ConstantOfShape", "Shape", "Size", "EyeLike", "Range", becomes="variable")
def _constant(node: Node, to: Writer) -> None:
    made = _known(node, to)
    to.alias(node.output(), to.variable(made, node.operator.lower()))


def _known(node: Node, to: Writer) -> np.ndarray:
    """Compute what the shapes alone tell."""
    if node.operator in ("Shape", "Size"):
        shape = to.shape(node.input(0))
        start, end = (node.attributes.get(key) for key in ("start", "end"))
        whole = node.operator == "Size"
        return np.array(math.prod(shape) if whole else shape[slice(start, end)], np.int64)
    if node.operator == "EyeLike":
        rows, columns = to.shape(node.output())
        to.affordable(rows * columns)
        kind = np.dtype(to.model.type(node.output()))
        return np.eye(rows, columns, node.attributes.get("k", 0), kind)
    raise Refused("its inputs are computed when it runs", "Fix the inputs that they come from.")


@TABLE.row("Cast", "CastLike", becomes="cast", note="to types that NNEF has")
def _cast(node: Node, to: Writer) -> None:
    source, target = to.model.type(node.input(0)), to.model.type(node.output())
    value = to.tensor(node.input(0))
    if source == target:
        to.alias(node.output(), value)
        return
    if source in INTEGERS and target in INTEGERS and not np.can_cast(source, target):
        text = f"integers are taken to fit {target}: those of NNEF have no width"
        to.report.add("changed", str(node), text)
    to.cast(value, target, node.output())


@TABLE.row("Reshape", "Flatten", becomes="reshape", note="to a shape that is known")
def _reshape(node: Node, to: Writer) -> None:
    to.reshape(to.tensor(node.input(0)), to.shape(node.output()), node.output())


@TABLE.row("Squeeze", becomes="squeeze")
def _squeeze(node: Node, to: Writer) -> None:
    shape = to.shape(node.input(0))
    axes = to.model.axes(node, 1, len(shape))
    if axes is None:
        axes = [axis for axis, size in enumerate(shape) if size == 1]
    if axes:
        to.squeeze(to.tensor(node.input(0)), axes, node.output())
    else:
        to.alias(node.output(), to.tensor(node.input(0)))


@TABLE.row("Unsqueeze", becomes="unsqueeze")
def _unsqueeze(node: Node, to: Writer) -> None:
    axes = to.model.axes(node, 1, to.model.rank(node.output()))
    if axes:
        to.unsqueeze(to.tensor(node.input(0)), axes, node.output())
    else:
        to.alias(node.output(), to.tensor(node.input(0)))


@TABLE.row("Transpose", becomes="transpose")
def _transpose(node: Node, to: Writer) -> None:
    rank = to.model.rank(node.input(0))
    axes = node.attributes.get("perm") or range(rank - 1, -1, -1)
    if rank:
        to.transpose(to.tensor(node.input(0)), [normal(a, rank) for a in axes], node.output())
    else:
        to.alias(node.output(), to.tensor(node.input(0)))


@TABLE.row("Concat", becomes="concat", note="copy of one alone; what is empty is left out")
def _concat(node: Node, to: Writer) -> None:
    names = [name for name in node.inputs if 0 not in to.shape(name)]
    values = [to.tensor(name) for name in names]
    axis = normal(node.attributes.get("axis", 1), to.model.rank(node.output()))
    if not values:
        raise Refused("it concatenates nothing")
    if len(values) == 1:
        to.alias(node.output(), values[0])
        return
    to.emit("concat", {"values": values, "axis": axis}, node.output())


@TABLE.row("Split", becomes="split", note="the sizes are the ratios")
def _split(node: Node, to: Writer) -> None:
    shape = to.shape(node.input(0))
    axis = normal(node.attributes.get("axis", 0), len(shape))
    sizes = _sizes(node, to, shape[axis])
    if len(sizes) < len(node.outputs) or sum(sizes) != shape[axis]:
        raise Refused(f"it splits {shape[axis]} into {sizes}, which are not as many")
    pairs = [(size, node.output(index)) for index, size in enumerate(sizes) if size]
    if len(pairs) == 1:
        to.alias(node.output(), to.tensor(node.input(0)))
        return
    arguments = {
        "value": to.tensor(node.input(0)),
        "axis": axis,
        "ratios": [size for size, _ in pairs],
    }
    to.emit_list("split", arguments, [name for _, name in pairs])


def _sizes(node: Node, to: Writer, whole: int) -> list[int]:
    if node.input(1):
        return to.model.integers(node.input(1), "split")
    if "split" in node.attributes:
        return list(node.attributes["split"])
    if "num_outputs" in node.attributes:
        count = node.attributes["num_outputs"]
        each = -(-whole // count)
    else:  # outputs at the end may be left out: one that is there tells how large all are
        given = next(name for name in node.outputs if name)
        each = to.shape(given)[normal(node.attributes.get("axis", 0), to.model.rank(given))]
        count = max(whole // max(each, 1), len(node.outputs))
    return [min(each, max(whole - each * index, 0)) for index in range(count)]


@TABLE.row("Slice", becomes="slice", note="gather of constant places where a step is negative")
def _slice(node: Node, to: Writer) -> None:
    shape = to.shape(node.input(0))
    chosen = _ranges(node, to, shape)
    value: Reference = to.tensor(node.input(0))
    steps = [(axis, each) for axis, each in chosen.items() if each != range(shape[axis])]
    forward = {axis: each for axis, each in steps if each.step > 0}
    backward = {axis: each for axis, each in steps if each.step < 0}
    if not steps:
        to.alias(node.output(), value)
        return
    if forward:
        axes = sorted(forward)
        arguments = {
            "input": value,
            "axes": axes,
            "begin": [forward[axis].start for axis in axes],
            "end": [forward[axis].stop for axis in axes],
        }
        if any(forward[axis].step > 1 for axis in axes):
            arguments["stride"] = [forward[axis].step for axis in axes]
        kept = [len(forward.get(axis, range(size))) for axis, size in enumerate(shape)]
        value = to.emit("slice", arguments, None if backward else node.output(), shape=kept)
    for index, (axis, each) in enumerate(backward.items()):
        output = node.output() if index == len(backward) - 1 else None
        to.affordable(len(each))
        value = taken(to, value, axis, list(each), output)


def _ranges(node: Node, to: Writer, shape: tuple[int, ...]) -> dict[int, range]:
    """Give the elements that are taken along each axis; ends past either end are that end."""
    given: dict[str, list[int]] = {}
    for index, key in enumerate(("starts", "ends", "axes", "steps"), 1):
        if node.input(index):
            given[key] = to.model.integers(node.input(index), key)
        elif key in node.attributes:
            given[key] = list(node.attributes[key])
    starts, ends = given["starts"], given["ends"]
    axes = given.get("axes") or list(range(len(starts)))
    steps = given.get("steps") or [1] * len(starts)
    chosen = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = normal(axis, len(shape))
        chosen[at] = range(*slice(start, end, step).indices(shape[at]))
    return chosen


def taken(
    to: Writer, value: Reference, axis: int, places: list[int], output: str | None = None
) -> Reference:
    """Gather elements at constant places along an axis."""
    shape = list(to.shape_of(value))
    shape[axis] = len(places)
    where = to.variable(np.array(places, np.int64), "places")
    arguments = {"input": value, "indices": where, "axis": axis}
    return to.emit("gather", arguments, output, shape=shape)


@TABLE.row("Expand", becomes="unsqueeze, tile")
def _expand(node: Node, to: Writer) -> None:
    shape = to.shape(node.output())
    value = to.tensor(node.input(0))
    repeat(to, value, shape, node.output())


def repeat(to: Writer, value: Reference, shape: tuple[int, ...], output: str) -> None:
    """Broadcast a tensor to a shape."""
    missing = len(shape) - len(to.shape_of(value))
    if missing:
        value = to.unsqueeze(value, range(missing))
    held = to.shape_of(value)
    repeats = [size // one for size, one in zip(shape, held, strict=True)]
    if all(each == 1 for each in repeats):
        to.alias(output, value)
    else:
        to.emit("tile", {"input": value, "repeats": repeats}, output)


@TABLE.row("Tile", becomes="tile", note="the repeats have to be constant")
def _tile(node: Node, to: Writer) -> None:
    value = to.tensor(node.input(0))
    repeats = to.model.integers(node.input(1), "the repeats")
    if node.since < 6:
        axis = to.model.integers(node.input(2), "the axis")[0]
        repeats = [repeats[0] if axis == each else 1 for each in range(len(to.shape_of(value)))]
    if repeats:
        to.emit("tile", {"input": value, "repeats": list(repeats)}, node.output())
    else:
        to.alias(node.output(), value)


@TABLE.row("DepthToSpace", becomes="reshape, transpose, reshape", note="DCR and CRD")
def _depth_to_space(node: Node, to: Writer) -> None:
    batch, channels, height, width = to.shape(node.input(0))
    block = node.attributes["blocksize"]
    depth = channels // block**2
    value = to.tensor(node.input(0))
    if node.word("mode", "DCR") == "DCR":
        value = to.reshape(value, [batch, block, block, depth, height, width])
        value = to.transpose(value, [0, 3, 4, 1, 5, 2])
    else:
        value = to.reshape(value, [batch, depth, block, block, height, width])
        value = to.transpose(value, [0, 1, 4, 2, 5, 3])
    to.reshape(value, to.shape(node.output()), node.output())


@TABLE.row("SpaceToDepth", becomes="reshape, transpose, reshape", note="DCR and CRD")
def _space_to_depth(node: Node, to: Writer) -> None:
    batch, channels, height, width = to.shape(node.input(0))
    block = node.attributes["blocksize"]
    sizes = [batch, channels, height // block, block, width // block, block]
    value = to.reshape(to.tensor(node.input(0)), sizes)
    crd = node.word("mode", "DCR") == "CRD"
    value = to.transpose(value, [0, 1, 3, 5, 2, 4] if crd else [0, 3, 5, 1, 2, 4])
    to.reshape(value, to.shape(node.output()), node.output())


@TABLE.row("Trilu", becomes="select", note="by a constant mask")
def _trilu(node: Node, to: Writer) -> None:
    shape = to.shape(node.input(0))
    offset = to.model.integers(node.input(1), "k")[0] if node.input(1) else 0
    to.affordable(shape[-2] * shape[-1])
    offset = max(-shape[-2] - 1, min(offset, shape[-1] + 1))
    upper = bool(node.attributes.get("upper", 1))
    ones = np.ones(shape[-2:], np.bool_)
    mask = np.triu(ones, offset) if upper else np.tril(ones, offset)
    condition = to.lifted(to.variable(mask, "triangle"), len(shape))
    to.apply("select", condition, to.tensor(node.input(0)), zero(to, node), output=node.output())


def zero(to: Writer, node: Node) -> Operand:
    """Give nothing in the type of a node's first input."""
    kind = to.model.type(node.input(0))
    return 0.0 if kind in NUMBERS else False if kind == "bool" else 0


@TABLE.row("OneHot", becomes="cast, eq, or, select", note="the depth has to be constant")
def _one_hot(node: Node, to: Writer) -> None:
    shape, rank = to.shape(node.output()), to.model.rank(node.output())
    depth = int(to.model.number(node.input(1), "the depth"))
    axis = normal(node.attributes.get("axis", -1), rank)
    if depth >= 1 << 24:
        raise Refused(f"its depth is {depth:,}, more than scalars hold exactly")
    given = to.tensor(node.input(0))
    if to.model.type(node.input(0)) not in INTEGERS:
        given = to.cast(given, "int64")
    index = to.unsqueeze(to.cast(given, "float32"), [axis])
    sizes = [depth if each == axis else 1 for each in range(rank)]
    places = np.arange(depth, dtype=np.float32).reshape(sizes)
    found = to.apply("eq", index, to.variable(places, "places"))
    behind = to.apply("eq", index, to.variable(places - depth, "places"))
    chosen = to.apply("or", found, behind)
    on, off = (_at(to, node.input(2), index) for index in (1, 0))
    arguments = {"condition": chosen, "true_value": on, "false_value": off}
    to.emit("select", arguments, node.output(), shape=shape)


def _at(to: Writer, name: str, index: int) -> Reference:
    """Take one of a vector's elements, as a tensor without axes."""
    value = to.tensor(name)
    part = to.apply("slice", value, axes=[0], begin=[index], end=[index + 1], shape=[1])
    return to.squeeze(part, [0])
