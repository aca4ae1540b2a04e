"""Operators of a net as the translation reads them: SSA names and typed arguments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx.effects import completed
from tensorkeep.models.exchange.report import Refused

# Arguments that say how fast, where or under which name something runs, or that a net builder
# hands to every operator: nothing of what is computed depends on them.
_IDLE_WORDS = """
    order engine exhaustive_search cudnn_exhaustive_search use_cudnn ws_nbytes_limit net_pos
    shared_buffer allow_broadcast_fastpath init_params enable_tensor_core float16_compute is_test
    convolution_transform_strategy use_bias deterministic momentum no_gradient_ops
    immediate_result_saving_preference
"""
IDLE = frozenset(_IDLE_WORDS.split())


class Operator:
    """An operator, its blobs being ONNX values already.

    Attributes:
        type: what it does, such as "Conv".
        inputs: the ONNX values that it takes.
        outputs: the ONNX values that it gives.
        blobs: the blobs that it reads, as the net calls them.
        message: the OperatorDef.
    """

    def __init__(
        self,
        message: Message,
        inputs: Sequence[str],
        outputs: Sequence[str],
        wanted: Sequence[bool],
    ) -> None:
        self.message = message
        self.type: str = message.type
        self.inputs = list(inputs)
        self.outputs = list(outputs)
        self.blobs: list[str] = list(message.input)
        self._wanted = list(wanted)
        self._arguments: dict[str, Message] = {}
        for argument in message.arg:
            self._arguments.setdefault(argument.name, argument)
        self._asked: set[str] = set()

    def __str__(self) -> str:
        return str(self.message.name or next(iter(self.message.output), ""))

    def input(self, index: int) -> str:
        """Name an input.

        Raises:
            Refused: it has fewer.
        """
        if index >= len(self.inputs):
            raise Refused(f"it has {_count(len(self.inputs), 'input')}, and needs {index + 1}")
        return self.inputs[index]

    def has_input(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.inputs)

    def output(self, index: int = 0) -> str:
        """Name an output.

        Raises:
            Refused: it has fewer.
        """
        if index >= len(self.outputs):
            raise Refused(f"it has {_count(len(self.outputs), 'output')}, and needs {index + 1}")
        return self.outputs[index]

    def wanted(self, index: int) -> bool:
        """Whether anything reads an output, or it comes out of the model."""
        return index < len(self._wanted) and self._wanted[index]

    def refuse_more(self, most: int) -> None:
        """Refuse inputs beyond those that the row knows.

        Raises:
            Refused: it has more than `most`.
        """
        if len(self.inputs) > most:
            raise Refused(f"it has {len(self.inputs)} inputs, where {most} are known")

    def refuse_outputs(self, most: int) -> None:
        """Refuse an output that is wanted beyond those that the row makes.

        Raises:
            Refused: one is.
        """
        for index in range(most, len(self.outputs)):
            if self.wanted(index):
                raise Refused(f"its output {index + 1} ({self.message.output[index]!r}) is used")

    def has(self, name: str) -> bool:
        """Whether it has an argument; asking counts as knowing it."""
        self._asked.add(name)
        return name in self._arguments

    def integer(self, name: str, default: int = 0) -> int:
        """Give an argument that is an integer."""
        return int(self._single(name, "i", "an integer", default))

    def flag(self, name: str, default: bool = False) -> bool:
        """Give an argument that is an integer, 0 for no."""
        return bool(self.integer(name, int(default)))

    def number(self, name: str, default: float = 0.0) -> float:
        """Give an argument that is a float."""
        argument = self._of(name)
        if argument is not None and "f" not in argument and "i" in argument:
            return float(argument.i)
        return float(self._single(name, "f", "a float", default))

    def text(self, name: str, default: str = "") -> str:
        """Give an argument that is text."""
        found = self._single(name, "s", "text", default.encode())
        return bytes(found).decode("utf-8", "surrogateescape")

    def integers(self, name: str, default: Iterable[int] = ()) -> list[int]:
        """Give an argument that is a list of integers."""
        return [int(each) for each in self._several(name, "ints", "integers", default)]

    def numbers(self, name: str, default: Iterable[float] = ()) -> list[float]:
        """Give an argument that is a list of floats."""
        return [float(each) for each in self._several(name, "floats", "floats", default)]

    def texts(self, name: str) -> list[str]:
        """Give an argument that is a list of texts."""
        found = self._several(name, "strings", "texts", ())
        return [bytes(each).decode("utf-8", "surrogateescape") for each in found]

    def net(self, name: str) -> Message | None:
        """Give an argument that is a net."""
        argument = self._of(name)
        if argument is None:
            return None
        if "n" not in argument:
            raise Refused(f"its argument {name!r} is no net")
        net: Message = argument.n
        return net

    def argument(self, name: str) -> Message | None:
        """Give an argument as it is, whatever it holds."""
        return self._of(name)

    def said(self) -> str:
        """List its arguments for messages; those that mean nothing here are left out."""
        told = [_brief(row) for name, row in self._arguments.items() if name not in IDLE]
        more = [f"{len(told) - _LISTED} more"] if len(told) > _LISTED else []
        return f" ({', '.join([*told[:_LISTED], *more])})" if told else ""

    def unknown(self) -> list[str]:
        """List the arguments that nobody asked for and that may mean something."""
        return [name for name in self._arguments if name not in self._asked and name not in IDLE]

    def _of(self, name: str) -> Message | None:
        self._asked.add(name)
        return self._arguments.get(name)

    def _single(self, name: str, key: str, kind: str, default: Any) -> Any:
        argument = self._of(name)
        if argument is None:
            return default
        if key not in argument:
            raise Refused(f"its argument {name!r} is not {kind}")
        return argument[key]

    def _several(self, name: str, key: str, kind: str, default: Iterable[Any]) -> list[Any]:
        argument = self._of(name)
        if argument is None:
            return list(default)
        found = list(argument[key])
        if not found and any(other in argument for other in _OTHERS - {key}):
            raise Refused(f"its argument {name!r} is not a list of {kind}")
        return found


_LISTED = 6


def _brief(argument: Message) -> str:
    shown = ""
    for key in ("i", "f", "s", "ints", "floats", "strings"):
        if key in argument:
            shown = f"={_value(argument[key])}"
    return f"{argument.name}{shown}"[:60]


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return value[:40].decode("utf-8", "replace")
    if np.ndim(value) == 0:
        return f"{value:g}" if isinstance(value, float | np.floating) else str(value)
    return f"[{', '.join(_value(each) for each in value[:_LISTED])}]"


_OTHERS = {"i", "f", "s", "ints", "floats", "strings", "n", "t"}


@dataclass(slots=True)
class Program:
    """The operators of a net that something depends on, in single-assignment form.

    Attributes:
        operators: as they run.
        read: the blobs that are read before anything writes them, in the order of first use.
        outputs: by the blob that comes out, the value that holds it at the end.
        unwritten: external outputs that nothing writes.
        carried: blobs that are read before something writes them, as the run before left them.
        dropped: operators on which nothing depends.
    """

    operators: list[Operator]
    read: list[str]
    outputs: dict[str, str]
    unwritten: list[str] = field(default_factory=list)
    carried: list[str] = field(default_factory=list)
    dropped: list[Message] = field(default_factory=list)


def read_program(
    net: Message, outputs: Sequence[str], weights: frozenset[str] = frozenset()
) -> Program:
    """Put a net into single-assignment form.

    A blob that is written several times becomes several values. The last one has the name of the
    blob where it comes out of the model, the first one otherwise; what was there before it is read
    (an input, a weight) always keeps it.

    Args:
        net: a NetDef.
        outputs: the blobs that come out; those that nothing reads where there are none of them.
        weights: blobs that are there before the net runs, though it may never read them.
    """
    writes: dict[str, int] = {}
    read: dict[str, None] = {}
    named = {*weights, *outputs}
    for message in net.op:
        named.update(message.input, message.output)
    operators = []
    before = set(weights)
    for stated in net.op:
        message = completed(stated, before, named)
        before.update(message.input, message.output)
        operators.append(message)
        for blob in message.input:
            if blob not in writes:
                read[blob] = None
        for blob in message.output:
            writes[blob] = writes.get(blob, 0) + 1
    there = weights | set(read)
    known = {blob: None for blob in outputs if blob in writes or blob in there}
    unwritten = [blob for blob in dict.fromkeys(outputs) if blob not in known]
    if not known:
        known = dict.fromkeys(_unread(operators))
    fresh = _Fresh(set(writes) | there)
    values: dict[str, str] = {}  # of each blob, the value that it is at this point
    times: dict[str, int] = {}
    lined: list[tuple[Message, list[str], list[str]]] = []
    for message in operators:
        inputs = [values.get(blob, blob) for blob in message.input]
        made = []
        for blob in message.output:
            times[blob] = time = times.get(blob, 0) + 1
            last = time == writes[blob]
            keeps = last if blob in known else time == 1
            values[blob] = blob if keeps and blob not in read else fresh(blob)
            made.append(values[blob])
        lined.append((message, inputs, made))
    results = {blob: values.get(blob, blob) for blob in known}
    found = Program([], [], results, unwritten)
    wanted = set(results.values())
    for message, inputs, made in reversed(lined):
        flags = [value in wanted for value in made]
        if not any(flags):
            found.dropped.append(message)
            continue
        wanted.update(inputs)
        found.operators.append(Operator(message, inputs, made, flags))
    found.dropped.reverse()
    found.operators.reverse()
    used = {value for operator in found.operators for value in operator.inputs}
    used |= set(results.values())
    found.read = [blob for blob in read if blob in used]
    found.carried = [blob for blob in found.read if blob in writes]
    seen = set(found.read)
    seen |= writes.keys()
    found.read += [blob for blob in results if blob in weights and blob not in seen]
    return found


class _Fresh:
    """Gives names that nothing has: those of blobs with a number behind."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self._last: dict[str, int] = {}

    def __call__(self, blob: str) -> str:
        number = self._last.get(blob, 1) + 1
        while f"{blob}_{number}" in self._taken:
            number += 1
        self._last[blob] = number
        self._taken.add(f"{blob}_{number}")
        return f"{blob}_{number}"


def _unread(operators: Sequence[Message]) -> list[str]:
    """List the blobs that are written and that no later operator reads."""
    last: dict[str, None] = {}
    for message in operators:
        for blob in message.input:
            last.pop(blob, None)
        for blob in message.output:
            last.pop(blob, None)
            last[blob] = None
    return list(last)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


__all__ = ["IDLE", "Operator", "Program", "read_program"]
