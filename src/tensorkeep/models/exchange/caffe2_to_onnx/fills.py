"""Fills: tensors that operators make of their arguments alone."""

from __future__ import annotations

import numpy as np

from tensorkeep.models.exchange.caffe2_to_onnx.arithmetic import element_type
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.fills import GIVEN, RANDOM, read_fill

_INT64 = 10


def _register() -> None:
    given = [name for name in GIVEN if not name.startswith("Int8")]
    TABLE.row(*given, "DiagonalFill", "RangeFill", becomes="an initializer")(_filled)
    TABLE.row(*sorted(RANDOM), becomes="nothing", note="refused: it draws at random")(_random)


def _filled(op: Operator, to: Writer) -> None:
    if op.inputs:
        raise Refused("it takes its shape from an input")
    value = read_fill(op.message).value
    for name in ("shape", "values", "value", "dtype"):
        op.has(name)
    if not isinstance(value, Tensor):
        raise Refused("it makes no plain tensor")
    weight = to.weight(to.fresh(f"{op.output()}_filled"), value)
    to.node("Identity", [weight], op.output())
    to.same(op.output(), weight)


def _random(op: Operator, to: Writer) -> None:
    raise Refused("it draws at random", "Give the weights of the trained model with weights=.")


_register()


@TABLE.row("ConstantFill", becomes="an initializer, or Expand for a shape that is computed")
def constant_fill(op: Operator, to: Writer) -> None:
    """One value in a shape: an argument's, another tensor's, or what a tensor says."""
    if not op.inputs:
        op.has("input_as_shape")
        _filled(op, to)
        return
    op.refuse_more(1)
    value = op.argument("value")
    whole = value is not None and "i" in value and "f" not in value
    kind = element_type(op, "dtype", _INT64 if whole else 1)
    number = op.integer("value") if whole else op.number("value", 0.0)
    extra = op.integers("extra_shape")
    if op.flag("input_as_shape"):
        shape = to.node("Cast", [op.input(0)], to=7)  # 7: INT64
    else:
        shape = to.node("Shape", [op.input(0)])
    if extra:
        shape = to.node("Concat", [shape, to.constant(extra, np.int64)], axis=0)
    made = to.node("Expand", [to.constant(number, np.dtype(kind)), shape], op.output())
    dims = to.dims(op.input(0))
    if not op.flag("input_as_shape") and dims is not None:
        to.know(made, kind, (*dims, *extra))


@TABLE.row("Range", becomes="Range")
def counted(op: Operator, to: Writer) -> None:
    """Numbers from a start (0) to an end, which does not belong to it, by a step (1)."""
    op.refuse_more(3)
    kind = np.dtype(to.type(op.input(0)))
    given = [to.node("Reshape", [x, to.constant([], np.int64)]) for x in op.inputs]
    start = given[0] if len(given) > 1 else to.constant(0, kind)
    stop = given[1] if len(given) > 1 else given[0]
    step = given[2] if len(given) > 2 else to.constant(1, kind)
    to.node("Range", [start, stop, step], op.output())
