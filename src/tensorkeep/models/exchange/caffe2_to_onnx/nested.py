"""Nets within operators: what a step, a branch or a loop runs, translated where it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tensorkeep.errors import TensorKeepError
from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx.reader import Operator, read_program
from tensorkeep.models.exchange.caffe2_to_onnx.table import TABLE
from tensorkeep.models.exchange.caffe2_to_onnx.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.caffe2.schema import NET

_LARGEST = 16 << 20  # letters of a net that is given as text
_MOST = 100_000  # operators of nets within operators; a loop's are seen more than once


def net_of(op: Operator, name: str) -> Message | None:
    """Give an argument that is a net, as a message or, as older files have it, as text.

    Raises:
        Refused: it is neither.
    """
    argument = op.argument(name)
    if argument is None or "n" in argument:
        return op.net(name)
    text = op.text(name)
    if not text:
        return None
    if len(text) > _LARGEST:
        raise Refused(f"its {name} is a text of {len(text):,} letters")
    try:
        return Message.from_text(NET, text, name)
    except TensorKeepError as error:
        raise Refused(f"its {name} is no net: {error.problem}") from None


def needed_net(op: Operator, name: str) -> Message:
    """Give an argument that is a net.

    Raises:
        Refused: there is none.
    """
    net = net_of(op, name)
    if net is None:
        raise Refused(f"it has no {name}")
    return net


def translate_net(
    net: Message, what: str, known: Mapping[str, str], outputs: Sequence[str], to: Writer
) -> list[str]:
    """Translate a net's operators to nodes; gives the values of the blobs that come out of it.

    Args:
        net: a NetDef.
        what: it is called in messages, as "its then_net".
        known: by the blob that it may read, the value that it is.
        outputs: blobs; one that it never writes is what was there before.
        to: takes the nodes.

    Raises:
        Refused: one of its operators has no translation; it reads what is not known.
    """
    if not outputs:
        return []
    program = read_program(net, outputs, frozenset(known))
    for blob in program.read:
        if blob not in known:
            raise Refused(
                f"{what} reads {blob!r}, which is not among the inputs",
                "Add the blob to the inputs of the operator that holds the net.",
            )
    if program.unwritten:
        raise Refused(f"{what} does not write {program.unwritten[0]!r}, and nothing else does")
    values = {blob: known[blob] for blob in program.read}
    for operator in program.operators:
        operator.inputs = [values[name] for name in operator.inputs]
        for name in operator.outputs:
            values[name] = to.fresh(name)
        operator.outputs = [values[name] for name in operator.outputs]
        _translate(operator, what, to)
    found = [program.outputs[blob] for blob in outputs]
    return [values[name] if name in values else known[name] for name in found]


def _translate(operator: Operator, what: str, to: Writer) -> None:
    to.nested += 1
    if to.nested > _MOST:
        raise Refused(f"the nets within operators make more than {_MOST:,} operators")
    if operator.type not in TABLE:
        raise Refused(f"{what} has the operator {operator.type}, of which there is no translation")
    if "" in operator.message.input or "" in operator.message.output:
        raise Refused(f"{what} has the operator {operator.type}, whose blobs have no names")
    for value in operator.inputs:
        if not to.has(value):
            raise Refused(f"nothing in {what} writes {value!r}, an input of {operator.type}")
    try:
        TABLE[operator.type].translate(operator, to)
    except Refused as refused:
        reason = f"{what} has the operator {operator.type}: {refused.reason}"
        raise Refused(reason, refused.cure) from None
