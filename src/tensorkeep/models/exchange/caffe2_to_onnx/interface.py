"""What goes into a model: which blobs are inputs, which are weights, and what inputs are like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator, Program
from tensorkeep.models.exchange.report import Refused
from tensorkeep.similar import did_you_mean
from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.nets import Given, Nets

Axes = Sequence[int | str | None]

# Which inputs of an operator are weights, in nets as they are trained.
_SLOTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "Conv1D", "Conv2D", "Conv3D", "ConvTranspose"), (1, 2)),
    **dict.fromkeys(("FC", "FCTransposed", "Int8Conv", "Int8ConvRelu", "Int8FC"), (1, 2)),
    "SpatialBN": (1, 2, 3, 4),
    **dict.fromkeys(("InstanceNorm", "GroupNorm", "LayerNorm", "AffineChannel"), (1, 2)),
    "PRelu": (1,),
}
_REDUCED = ("Sum", "Mean", "RangeSum", "RangeMean", "RangeMax")
# The element types of inputs that are no floats, where a net says nothing of an input's type.
_TYPES: dict[tuple[str, int], str] = {
    **{(operator, 1): "int64" for operator in ("Gather", "BatchGather", "SparseLengthsSum")},
    ("SparseLengthsMean", 1): "int64",
    ("SparseLengthsWeightedSum", 2): "int64",
    **{(f"SparseLengths{kind}", 2): "int32" for kind in ("Sum", "Mean", "Max")},
    ("SparseLengthsMax", 1): "int64",
    ("SparseLengthsWeightedSum", 3): "int32",
    **{(f"Lengths{kind}", 1): "int32" for kind in ("Sum", "Mean", "Max")},
    **{("OneHot", index): "int64" for index in (0, 1)},
    **{(operator, index): "bool" for operator in ("And", "Or", "Xor") for index in (0, 1)},
    **{(operator, 0): "bool" for operator in ("Not", "Where", "Conditional", "If", "While")},
    **{(f"{way}Segment{kind}", 1): "int32" for way in ("Sorted", "Unsorted") for kind in _REDUCED},
    **{(f"Lengths{kind}", 0): "int32" for kind in ("ToSegmentIds", "ToRanges", "RangeFill")},
    ("LengthsTile", 1): "int32",
    ("LengthsWeightedSum", 2): "int32",
    ("SparseLengthsPositionalWeightedSum", 2): "int64",
    ("SparseLengthsPositionalWeightedSum", 3): "int32",
    ("GatherRanges", 1): "int32",
    ("SequenceMask", 1): "int32",
    ("SparseToDense", 0): "int64",
    ("SegmentOneHot", 0): "int32",
    **{("SegmentOneHot", index): "int64" for index in (1, 2)},
    **{("BatchOneHot", index): kind for index, kind in enumerate(("int64", "int32", "int64"))},
    ("BooleanMask", 1): "bool",
    ("BooleanMaskLengths", 0): "int32",
    ("BooleanMaskLengths", 1): "bool",
    ("Unique", 0): "int64",
    ("ReversePackedSegs", 1): "int32",
    **{(f"{way}Segments", 0): "int32" for way in ("Pack", "Unpack")},
    ("BatchPermutation", 1): "int32",
    **{("LSTMUnit", index): "int32" for index in (3, 4)},
    **{("GRUUnit", index): "int32" for index in (2, 3)},
    ("ONNXWhile", 0): "int64",
    ("ONNXWhile", 1): "bool",
}
_WINDOWED = ("Conv", "MaxPool", "AveragePool")
_SPATIAL = {
    "ConvTranspose",
    *(f"{operator}{axes}" for operator in _WINDOWED for axes in ("", "1D", "2D", "3D")),
}
_SPACE = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}


@dataclass(slots=True)
class Interface:
    """The inputs with their types and axes, and the weights, by blob."""

    inputs: dict[str, tuple[str, Axes | None]] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    stand_ins: list[str] = field(default_factory=list)
    drawn: dict[str, str] = field(default_factory=dict)  # inputs that the init net makes at random


def tell_interface(
    program: Program, state: State, nets: Nets, shapes: Mapping[str, Sequence[int | str]]
) -> Interface:
    """Tell inputs from weights among what a net reads and nothing in it writes.

    Raises:
        MissingError: weights are not there; it names them.
        ArgumentError: a shape is given for what is no input, or is none.
    """
    found = Interface()
    slots = _slots(program.operators)
    first = _first_uses(program.operators)
    missing: list[str] = []
    random = _not_made(state)
    for blob in program.read:
        declared = blob in nets.inputs or blob in shapes
        tensor = state[blob] if not declared and blob in state else None
        holds = nets.inputs or blob in slots or tensor is None or not _is_stand_in(tensor)
        if tensor is not None and holds:
            found.weights[blob] = tensor
        elif blob in slots and not declared:
            missing.append(blob)
        else:
            if tensor is not None:
                found.stand_ins.append(blob)
            elif blob in random and not declared:
                found.drawn[blob] = str(random[blob])
            given = nets.given.get(blob, Given())
            users = first.get(blob, [])
            axes: Axes | None = _checked(shapes[blob], blob) if blob in shapes else given.shape
            if axes is None:
                axes = _guess(users, state, "" if not found.inputs else f"{blob}_")
            found.inputs[blob] = (given.dtype or _type(users), axes)
    _check_shapes(shapes, found, state)
    if missing:
        raise _missing(missing, state, nets)
    order = {blob: place for place, blob in enumerate(nets.inputs or nets.predict.external_input)}
    if order:
        last = len(order)
        ordered = sorted(found.inputs.items(), key=lambda row: order.get(row[0], last))
        found.inputs = dict(ordered)
    return found


def _slots(operators: Iterable[Operator]) -> set[str]:
    found = set()
    for operator in operators:
        for index in _SLOTS.get(operator.type, ()):
            if operator.has_input(index):
                found.add(operator.inputs[index])
    return found


def _first_uses(operators: Iterable[Operator]) -> dict[str, list[tuple[Operator, int]]]:
    found: dict[str, list[tuple[Operator, int]]] = {}
    for operator in operators:
        for index, value in enumerate(operator.inputs):
            found.setdefault(value, []).append((operator, index))
    return found


def _is_stand_in(tensor: Tensor) -> bool:
    """Whether it is what the mobile exporter puts into an init net in place of an input."""
    if tensor.shape != (1, 1) or tensor.dtype is not dtypes.FLOAT32:
        return False
    return not np.any(tensor.numpy())


def _type(users: Sequence[tuple[Operator, int]]) -> str:
    for operator, index in users:
        kind = _TYPES.get((operator.type, index))
        if kind := kind or _type_within(operator.message, operator.blobs[index]):
            return kind
    return "float32"


def _type_within(message: Message, blob: str) -> str | None:
    """Look for the type that operators of nets within an operator take a blob to have."""
    for argument in message.arg:
        for inner in argument.n.op if "n" in argument else ():
            for index, name in enumerate(inner.input):
                if name == blob and (kind := _TYPES.get((inner.type, index))):
                    return kind
    return None


def _guess(users: Sequence[tuple[Operator, int]], state: State, prefix: str) -> Axes | None:
    """Give the axes that an operator on images shows an input to have; None where none does."""
    for operator, index in users:
        if operator.type not in _SPATIAL or index:
            continue
        try:
            count = _spatial_axes(operator)
            last = operator.text("order", "NCHW") == "NHWC"
            group = operator.integer("group", 1)
        except Refused:
            continue
        if count not in _SPACE:
            continue
        channels: int | str = f"{prefix}C"
        name = operator.inputs[1] if operator.has_input(1) else ""
        if name in state and state[name].ndim == count + 2:
            weights = state[name]
            if operator.type == "ConvTranspose":
                channels = weights.shape[0]
            else:
                channels = weights.shape[-1 if last else 1] * group
        space = [prefix + name for name in _SPACE[count]]
        return [f"{prefix}N", *space, channels] if last else [f"{prefix}N", channels, *space]
    return None


def _spatial_axes(operator: Operator) -> int:
    if kernels := operator.integers("kernels"):
        return len(kernels)
    if operator.has("kernel") or operator.has("kernel_h") or operator.flag("global_pooling"):
        return 2
    return 0


def _checked(shape: Sequence[int | str], blob: str) -> Axes:
    """Check a shape that was given."""
    good = not isinstance(shape, str | bytes) and isinstance(shape, Iterable)
    axes = list(shape) if good else []
    for axis in axes:
        number = isinstance(axis, int | np.integer) and not isinstance(axis, bool) and axis >= 0
        good &= number or (isinstance(axis, str) and bool(axis))
    if not good:
        raise ArgumentError(
            f"the shape {shape!r} of {blob!r} is none",
            cure='Give sizes, or names for those that vary: (1, 3, 224, 224), ("N", 3, 224, 224).',
        )
    return [axis if isinstance(axis, str) else int(axis) for axis in axes]


def _check_shapes(
    shapes: Mapping[str, Sequence[int | str]], found: Interface, state: State
) -> None:
    for name in shapes:
        if name not in found.inputs:
            cure = did_you_mean(name, found.inputs)
            raise ArgumentError(
                f"a shape is given for {name!r}, which is no input",
                where=state.where,
                cure=cure or f"Its inputs are {_listed(list(found.inputs)) or 'none'}.",
            )


def _not_made(state: State) -> Mapping[str, object]:
    """Give what the init net draws at random, with the operators that do."""
    caffe2 = state.metadata.get("caffe2")
    not_made = caffe2.get("not_made") if isinstance(caffe2, dict) else None
    return not_made if isinstance(not_made, dict) else {}


def _missing(names: list[str], state: State, nets: Nets) -> MissingError:
    not_made = _not_made(state)
    random = [name for name in names if name in not_made]
    if random:
        return MissingError(
            f"the weights {_listed(random)} are drawn at random ({not_made[random[0]]}) by "
            f"{nets.missing or 'the init net'}",
            where=state.where,
            cure="Give those of the trained model with weights=.",
        )
    what = f"the weight {names[0]!r} is" if len(names) == 1 else f"the weights {_listed(names)} are"
    return MissingError(
        f"{what} not in {nets.missing or 'the net'}",
        where=state.where,
        cure=did_you_mean(names[0], state) or "Give the file that has them with weights=.",
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
