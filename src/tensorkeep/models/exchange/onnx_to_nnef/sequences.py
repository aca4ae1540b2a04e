"""The sequences that a recurrent node runs over, and what is stacked of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tensorkeep.models.exchange.onnx_to_nnef.multiplying import product
from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node
from tensorkeep.wire.nnef.operations import Reference

if TYPE_CHECKING:
    from tensorkeep.models.exchange.onnx_to_nnef.cells import Rnn


class Sequences:
    """Input, lengths and layout of a recurrent node.

    Attributes:
        steps: how many there are in time.
        batch: how many sequences there are.
    """

    def __init__(self, node: Node, to: Writer) -> None:
        self._node, self._to = node, to
        self._by_batch = bool(node.attributes.get("layout", 0))
        shape = to.shape(node.input(0))
        if len(shape) != 3:
            raise Refused(f"its input has {len(shape)} axes, not those of time, batch and features")
        self.steps, self.batch = (shape[1], shape[0]) if self._by_batch else shape[:2]
        self.features = shape[2]
        self._lengths = self._read_lengths()
        self._masks: dict[bytes, Reference] = {}

    def _read_lengths(self) -> list[int]:
        name = self._node.input(4)
        if not name:
            return [self.steps] * self.batch
        lengths = self._to.model.integers(name, "sequence_lens")
        whole = len(lengths) == self.batch
        if not whole or not all(1 <= length <= self.steps for length in lengths):
            raise Refused(f"sequence_lens {lengths} are not {self.batch} of 1 to {self.steps}")
        return lengths

    def mask(self, time: int) -> Reference | None:
        """Give which sequences [batch, 1] reach a step; None where all do."""
        held = np.array([[time < length] for length in self._lengths])
        if held.all():
            return None
        key = held.tobytes()
        if key not in self._masks:
            self._masks[key] = self._to.variable(held, f"{self._node}_mask")
        return self._masks[key]

    def initial(self, index: int, direction: int, hidden: int) -> Reference:
        """Give the state [batch, hidden] that a direction starts from."""
        to, name = self._to, self._node.input(index)
        if not name:
            kind = to.model.type(self._node.input(0))
            return to.variable(np.zeros((self.batch, hidden), kind), f"{self._node}_start")
        return picked(to, to.tensor(name), direction, axis=1 if self._by_batch else 0)

    def projected(self, cell: Rnn) -> Callable[[int], Reference]:
        """Multiply all steps by the weights of the input at once, and give each step's part."""
        to = self._to
        x = to.tensor(self._node.input(0))
        if self._by_batch:
            x = to.transpose(x, [1, 0, 2])
        flat = to.reshape(x, [self.steps * self.batch, self.features])
        made = product(to, flat, cell.weights, transpose_b=True)
        if cell.bias is not None:
            made = to.apply("add", made, cell.bias)

        def part(time: int) -> Reference:
            rows = time * self.batch, (time + 1) * self.batch
            return made if self.steps == 1 else sliced(to, made, 0, *rows)

        return part

    def stacked(self, values: Sequence[Reference], axis: int) -> Reference:
        """Put tensors along a new axis."""
        to = self._to
        shape = list(to.shape_of(values[0]))
        shape.insert(axis, len(values))
        if len(values) == 1:
            return to.unsqueeze(values[0], [axis])
        return to.emit("stack", {"values": list(values), "axis": axis}, shape=shape)

    def give(self, value: Reference, by_batch: Sequence[int], output: str) -> None:
        """Give an output, in the layout that is asked for."""
        if self._by_batch:
            self._to.transpose(value, list(by_batch), output)
        else:
            self._to.apply("copy", value, output=output)


def picked(to: Writer, value: Reference, index: int, *, axis: int = 0) -> Reference:
    """Take one of an axis, and the axis away."""
    if to.shape_of(value)[axis] > 1:
        value = sliced(to, value, axis, index, index + 1)
    return to.squeeze(value, [axis])


def sliced(to: Writer, value: Reference, axis: int, begin: int, end: int) -> Reference:
    """Take a part of an axis, the end not in it."""
    shape = list(to.shape_of(value))
    shape[axis] = end - begin
    arguments = {"input": value, "axes": [axis], "begin": [begin], "end": [end]}
    return to.emit("slice", arguments, shape=shape)
