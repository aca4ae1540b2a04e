"""What one step of RNN, GRU and LSTM computes.

The gates of a step lie side by side: its input's part is computed for all steps at once, the part
of the state before is added here.
"""

from __future__ import annotations

from tensorkeep.models.exchange.onnx_to_nnef.multiplying import product
from tensorkeep.models.exchange.onnx_to_nnef.operands import attribute
from tensorkeep.models.exchange.onnx_to_nnef.sequences import picked, sliced
from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node
from tensorkeep.wire.nnef.operations import Reference

ACTIVATIONS = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu"}


class Rnn:
    """One direction: h = f(x W + h R + b); and what is common to the others.

    Attributes:
        weights: [gates * hidden, features].
        bias: [1, gates * hidden], what is added to the input's part; None without one.
        hidden: how large the state is.
    """

    gates = 1

    def __init__(self, node: Node, to: Writer, index: int, activations: tuple[str, ...]) -> None:
        self.node, self.to = node, to
        self.weights = picked(to, to.tensor(node.input(1)), index)
        self.recurrence = picked(to, to.tensor(node.input(2)), index)
        self.hidden = to.shape_of(self.recurrence)[1]
        self._clip = attribute(to, node, "clip", 0.0)
        self._activations = activations
        biases = picked(to, to.tensor(node.input(3)), index) if node.input(3) else None
        self.bias = self._joined(biases)
        self._check()

    def _check(self) -> None:
        found = self.to.shape_of(self.recurrence), self.to.shape_of(self.weights)[:1]
        wide = self.gates * self.hidden
        said = self.node.attributes.get("hidden_size", self.hidden)
        if found != ((wide, self.hidden), (wide,)) or said != self.hidden:
            raise Refused(f"its weights {found} are not {self.gates} gates of {said}")
        for name in self._activations:
            if name.lower() not in ACTIVATIONS:
                raise Refused(f"its activation {name!r} is not Sigmoid, Tanh or Relu")
        given = ("activation_alpha", "activation_beta")
        if any(self.node.attributes.get(key) for key in given):
            raise Refused("its activations have parameters, which those of NNEF have not")

    def _joined(self, biases: Reference | None) -> Reference | None:
        """Add the biases of input and state up, as one row."""
        if biases is None:
            return None
        wide = self.gates * self.hidden
        halves = [self._part(biases, 0, 0, wide), self._part(biases, 0, wide, 2 * wide)]
        return self.to.unsqueeze(self.to.apply("add", *halves), [0])

    def _part(self, value: Reference, axis: int, begin: int, end: int) -> Reference:
        whole = begin == 0 and end == self.to.shape_of(value)[axis]
        return value if whole else sliced(self.to, value, axis, begin, end)

    def _gate(self, value: Reference, index: int, count: int = 1) -> Reference:
        """Take gates that lie side by side out of [batch, gates * hidden]."""
        return self._part(value, 1, index * self.hidden, (index + count) * self.hidden)

    def _activated(self, value: Reference, index: int, *, clipped: bool = True) -> Reference:
        if clipped and self._clip > 0:
            value = self.to.apply("clamp", value, -self._clip, self._clip)
        return self.to.apply(ACTIVATIONS[self._activations[index].lower()], value)

    def _recurred(self, h: Reference) -> Reference:
        return product(self.to, h, self.recurrence, transpose_b=True)

    def step(self, x: Reference, state: list[Reference]) -> list[Reference]:
        """Compute the new states [batch, hidden] from the input's part and the states before."""
        return [self._activated(self.to.apply("add", x, self._recurred(state[0])), 0)]


class Gru(Rnn):
    """One direction of a GRU: its gates are z (update), r (reset) and h (hidden)."""

    gates = 3

    def __init__(self, node: Node, to: Writer, index: int, activations: tuple[str, ...]) -> None:
        self._late = bool(node.attributes.get("linear_before_reset", 0))
        self._late_bias: Reference | None = None
        super().__init__(node, to, index, activations)

    def _joined(self, biases: Reference | None) -> Reference | None:
        """Keep the state's bias of the hidden gate apart where it is reset, too."""
        if biases is None or not self._late:
            return super()._joined(biases)
        to, hidden = self.to, self.hidden
        early = to.apply(
            "add",
            self._part(biases, 0, 0, 2 * hidden),
            self._part(biases, 0, 3 * hidden, 5 * hidden),
        )
        last = self._part(biases, 0, 2 * hidden, 3 * hidden)
        self._late_bias = to.unsqueeze(self._part(biases, 0, 5 * hidden, 6 * hidden), [0])
        joined = to.emit("concat", {"values": [early, last], "axis": 0}, shape=[3 * hidden])
        return to.unsqueeze(joined, [0])

    def step(self, x: Reference, state: list[Reference]) -> list[Reference]:
        to, hidden, (h,) = self.to, self.hidden, state
        early = self._part(self.recurrence, 0, 0, 2 * hidden)
        late = self._part(self.recurrence, 0, 2 * hidden, 3 * hidden)
        both = to.apply("add", self._gate(x, 0, 2), product(to, h, early, transpose_b=True))
        both = self._activated(both, 0)
        update, reset = self._gate(both, 0), self._gate(both, 1)
        if self._late:
            made = product(to, h, late, transpose_b=True)
            if self._late_bias is not None:
                made = to.apply("add", made, self._late_bias)
            made = to.apply("mul", reset, made)
        else:
            made = product(to, to.apply("mul", reset, h), late, transpose_b=True)
        new = self._activated(to.apply("add", self._gate(x, 2), made), 1)
        kept = to.apply("mul", update, h)
        return [to.apply("add", to.apply("mul", to.apply("sub", 1.0, update), new), kept)]


class Lstm(Rnn):
    """One direction of an LSTM: its gates are i (input), o (output), f (forget) and c (cell)."""

    gates = 4

    def __init__(self, node: Node, to: Writer, index: int, activations: tuple[str, ...]) -> None:
        super().__init__(node, to, index, activations)
        self._coupled = bool(node.attributes.get("input_forget", 0))
        self._peepholes: list[Reference] = []
        if node.input(7):
            row = to.unsqueeze(picked(to, to.tensor(node.input(7)), index), [0])
            self._peepholes = [self._gate(row, gate) for gate in range(3)]

    def _peeking(self, gate: Reference, cell: Reference, index: int) -> Reference:
        if not self._peepholes:
            return gate
        return self.to.apply("add", gate, self.to.apply("mul", cell, self._peepholes[index]))

    def step(self, x: Reference, state: list[Reference]) -> list[Reference]:
        to, (h, c) = self.to, state
        gates = to.apply("add", x, self._recurred(h))
        taken = self._activated(self._peeking(self._gate(gates, 0), c, 0), 0)
        if self._coupled:
            kept = to.apply("sub", 1.0, taken)
        else:
            kept = self._activated(self._peeking(self._gate(gates, 2), c, 2), 0)
        new = self._activated(self._gate(gates, 3), 1)
        cell = to.apply("add", to.apply("mul", kept, c), to.apply("mul", taken, new))
        given = self._activated(self._peeking(self._gate(gates, 1), cell, 1), 0)
        # The cell itself is not clipped, as ONNX Runtime does not.
        return [to.apply("mul", given, self._activated(cell, 2, clipped=False)), cell]
