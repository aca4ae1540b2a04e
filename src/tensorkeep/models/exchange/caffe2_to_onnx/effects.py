"""What nets within operators read and write of the blobs around them, declared or not.

If and While run their nets in the workspace that they are in themselves: a net may read and write
any blob of it. Their operators are completed here, so that their inputs and outputs name these.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from tensorkeep.message import Message

# The nets of operators that share their workspace, in the order in which they run.
_NETS = {"If": ("then_net", "else_net"), "While": ("cond_net", "loop_net")}

Names = dict[str, None]  # an ordered set


def completed(message: Message, there: Container[str], named: Container[str]) -> Message:
    """Give an operator with all that its nets read and write as inputs and outputs.

    Args:
        message: an OperatorDef.
        there: the blobs that have a value before it runs.
        named: the blobs that the net around it names; what its nets write beside stays in them.
    """
    if message.type not in _NETS:
        return message
    reads, writes = _effects_of_nets(message)
    inputs, outputs = dict.fromkeys(message.input), dict.fromkeys(message.output)
    inputs |= reads | {blob: None for blob in writes if blob in there}
    outputs |= {blob: None for blob in writes if blob in named}
    if len(inputs) == len(message.input) and len(outputs) == len(message.output):
        return message
    made = message.copy()
    made["input"] = [*message.input, *(blob for blob in inputs if blob not in message.input)]
    made["output"] = [*message.output, *(blob for blob in outputs if blob not in message.output)]
    return made


def _effects_of_nets(message: Message) -> tuple[Names, Names]:
    reads: Names = {}
    writes: Names = {}
    nets = {argument.name: argument.n for argument in message.arg if "n" in argument}
    for name in _NETS[message.type]:
        if name in nets:
            found, made = effects(nets[name].op)
            before = writes if message.type == "While" else {}
            reads |= {blob: None for blob in found if blob not in before}
            writes |= made
    return reads, writes


def effects(operators: Iterable[Message]) -> tuple[Names, Names]:
    """Give what operators read before they write it, and what they write."""
    reads: Names = {}
    writes: Names = {}
    for message in operators:
        taken, made = dict.fromkeys(message.input), dict.fromkeys(message.output)
        if message.type in _NETS:
            found, written = _effects_of_nets(message)
            taken |= found
            made |= written
        reads |= {blob: None for blob in taken if blob not in writes}
        writes |= made
    return reads, writes
