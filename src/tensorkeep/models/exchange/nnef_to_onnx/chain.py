"""Chain: ONNX nodes that follow one another, the last of which gives a result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from tensorkeep.models.exchange.emitting import Emitter


class _Step(NamedTuple):
    operator: str
    inputs: list[str]
    attributes: dict[str, Any]


class Chain:
    """Nodes that each take what the one before gave; only the last one's name is the caller's.

    Args:
        to: the graph that grows.
        value: the ONNX value that the first node takes.

    >>> to = Emitter("tiny", where="example")
    >>> chain = Chain(to, to.input("x", "float32", (4,)))
    >>> chain.then("Abs").then("Add", to.constant([1.0], "float32")).end("y")
    'y'
    """

    def __init__(self, to: Emitter, value: str) -> None:
        self.to = to
        self._value = value
        self._step: _Step | None = None

    def then(self, operator: str, *others: str | None, place: int = 0, **attributes: Any) -> Chain:
        """Add a node that takes the value so far.

        Args:
            operator: its op_type.
            others: its other inputs, None for one that is left out.
            place: where among the inputs the value so far goes.
            attributes: of the node.
        """
        inputs = ["" if each is None else each for each in others]
        inputs.insert(place, self.value)
        self._step = _Step(operator, inputs, attributes)
        return self

    def shaped(self, shape: Sequence[int]) -> Chain:
        """Reshape the value so far."""
        axes = self.to.constant(list(shape), "int64", "shape")
        return self.then("Reshape", axes, allowzero=1)

    def transposed(self, axes: Sequence[int]) -> Chain:
        """Transpose the value so far, if that changes it."""
        return self if list(axes) == sorted(axes) else self.then("Transpose", perm=list(axes))

    @property
    def value(self) -> str:
        """Name the ONNX value so far, for what else takes it."""
        return self._settle(None)

    def end(self, name: str) -> str:
        """Have the last node give a value of this name; an Identity where there is no node."""
        if self._step is None:
            self.then("Identity")
        return self._settle(name)

    def _settle(self, name: str | None) -> str:
        if self._step is not None:
            operator, inputs, attributes = self._step
            self._value = self.to.node(operator, inputs, name, **attributes)
            self._step = None
        return self._value
