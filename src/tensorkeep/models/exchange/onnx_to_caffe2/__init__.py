"""ONNX to Caffe2: a settled model, node by node, as a predict net and the weights of an init net.

The nets are what Caffe2 1.10 runs, and the runtimes on devices that came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tensorkeep.errors import TensorKeepError
from tensorkeep.message import Message
from tensorkeep.models.exchange.onnx_to_caffe2 import (
    elementwise,
    layers,
    pooling,
    reducing,
    shaping,
)
from tensorkeep.models.exchange.onnx_to_caffe2.table import TABLE
from tensorkeep.models.exchange.onnx_to_caffe2.writer import Writer
from tensorkeep.models.exchange.report import Refusal, Refused, Report, refuse
from tensorkeep.models.exchange.settled import Node, Settled
from tensorkeep.models.exchange.settling import settle
from tensorkeep.state import KEY, State
from tensorkeep.wire.caffe2.nets import Given, Nets
from tensorkeep.wire.caffe2.schema import NET

# What reading a malformed node raises where its translation expects a sound one.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def translate(
    state: State,
    report: Report,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    constants: Mapping[str, Any] | None = None,
) -> State:
    """Translate an ONNX model to a net of Caffe2's.

    Args:
        state: of the model.
        report: where what was done beside replacing operators is noted.
        shapes: of inputs whose axes vary.
        constants: the values of inputs that are to be fixed.

    Returns:
        the weights by the names of their blobs, with `Nets` as the document.

    Raises:
        TranslationError: it has nodes that Caffe2 cannot say; all of them are listed.
    """
    model = settle(state, report, shapes=shapes, constants=constants, keeps=TABLE)
    made = write(model, report)
    metadata = {key: value for key, value in state.metadata.items() if key != KEY}
    return made.replace(metadata=metadata, where=state.where, close=state.close)


def write(model: Settled, report: Report) -> State:
    """Write a settled model as a net.

    Raises:
        TranslationError: it has nodes that Caffe2 cannot say; all of them are listed.
    """
    to = Writer(model, report)
    refusals: list[Refusal] = []
    for node in model.nodes:
        try:
            _translate(node, to)
        except Refused as refused:
            refusals.append(Refusal(node.operator, str(node), refused.reason, refused.cure))
    computed = {name for node in model.nodes for name in node.outputs}
    for name in model.outputs:
        if name in computed:
            continue
        try:
            _copy(name, to)
        except Refused as refused:
            refusals.append(Refusal("output", name, refused.reason, refused.cure))
    if refusals:
        raise refuse(refusals, "Caffe2's nets", model.where)
    return _state(to)


def _copy(name: str, to: Writer) -> None:
    """Have an output that is an input or a constant be written by an operator.

    Raises:
        Refused: it would have the name of what it is copied from.
    """
    if name in to.model.inputs:
        raise Refused(
            "it is an input and an output, and one blob cannot be both",
            "Rename the output by an Identity before.",
        )
    tensor = to.held(name)
    held = to.fresh(f"{name}_value")
    to.weights[held] = tensor
    to.add("Copy", [held], name)


def _translate(node: Node, to: Writer) -> None:
    if node.domain not in ("", "ai.onnx"):
        raise Refused(f"it is an operator of {node.domain!r}, which Caffe2 does not have")
    if node.operator not in TABLE:
        raise Refused("Caffe2 has nothing that does the same, or nothing that is translated to")
    for name in (*node.inputs, *node.outputs):
        if 0 in to.model.shapes.get(name, ()) and not to.model.is_constant(name):
            raise Refused(f"{name!r} has no elements, which Caffe2 does not compute with")
    try:
        TABLE[node.operator].translate(node, to)
    except TensorKeepError:
        raise
    except _MALFORMED as error:
        raise Refused(f"it is not as ONNX has it ({type(error).__name__}: {error})") from None


def _state(to: Writer) -> State:
    model = to.model
    net = Message(NET, name=model.name or "model")
    net["op"] = to.operators
    net["external_input"] = [*model.inputs, *to.weights]
    net["external_output"] = list(model.outputs)
    given = {name: Given(model.types.get(name), model.shapes.get(name)) for name in model.inputs}
    document = Nets(net, inputs=list(model.inputs), outputs=list(model.outputs), given=given)
    return State(to.weights, document=document, format="caffe2-net", where=model.where)


# The files whose rows TABLE is made of.
TOPICS = (elementwise, layers, pooling, reducing, shaping)

__all__ = ["TABLE", "translate", "write"]
