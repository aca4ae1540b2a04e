"""Settled: an ONNX model with every type and shape known, and what is constant computed.

It is what the translations from ONNX work on: a list of nodes in the order in which they run, and
what is known of each value. `settling` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from tensorkeep.models.exchange.report import Refused
from tensorkeep.tensor import Tensor

Shape = tuple[int, ...]


@dataclass(slots=True)
class Node:
    """A node: its operator, the values it takes and gives ("" for left out), its attributes.

    Attributes:
        attributes: int, float, str (bytes where it is not UTF-8), Tensor, and tuples of them; a
            body is a Message.
        since: the version of the operator that the model's opset means, 1 where it is not known.
    """

    operator: str
    domain: str
    name: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    since: int = 1

    def input(self, index: int) -> str:
        """Name an input; empty where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else ""

    def output(self, index: int = 0) -> str:
        """Name an output; empty where it is left out."""
        return self.outputs[index] if index < len(self.outputs) else ""

    def word(self, key: str, default: str) -> str:
        """Give an attribute that is a word."""
        value = self.attributes.get(key, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def __str__(self) -> str:
        return self.name or self.output() or self.operator


@dataclass(slots=True)
class Settled:
    """A model whose shapes are all known.

    Attributes:
        nodes: those that something depends on and that are not constant, as they run.
        inputs: the names of what is given to it.
        outputs: the names of what it gives.
        types: the names of the element types of all values.
        shapes: the shapes of all values.
        constants: initializers, and what was computed of them, by name.
        where: names the model in messages.
        metadata: facts about the model.
    """

    nodes: list[Node]
    inputs: list[str]
    outputs: list[str]
    types: dict[str, str]
    shapes: dict[str, Shape]
    constants: Mapping[str, Tensor]
    where: str = ""
    name: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    def shape(self, name: str) -> Shape:
        """Give the shape of a value.

        Raises:
            Refused: it is not known.
        """
        if name not in self.shapes:
            raise Refused(f"the shape of {name!r} is not known before it runs")
        return self.shapes[name]

    def rank(self, name: str) -> int:
        """Give the number of axes of a value."""
        return len(self.shape(name))

    def type(self, name: str) -> str:
        """Name the element type of a value.

        Raises:
            Refused: it is not known.
        """
        if name not in self.types:
            raise Refused(f"the element type of {name!r} is not known before it runs")
        return self.types[name]

    def is_constant(self, name: str) -> bool:
        """Whether a value is known without running."""
        return name in self.constants

    def array(self, name: str, what: str = "") -> npt.NDArray[Any]:
        """Give the values of a constant; `what` says in messages what they are for.

        Raises:
            Refused: it is computed when the model runs.
        """
        if name not in self.constants:
            raise Refused(
                f"{what or 'an input'} ({name!r}) is computed when it runs, not a constant",
                "Where it is an input of the model, fix it by constants={...} "
                f"(--constant {name}=...).",
            )
        return self.constants[name].numpy()

    def integers(self, name: str, what: str = "") -> list[int]:
        """Give a constant as a list of integers."""
        return [int(value) for value in self.array(name, what).reshape(-1)]

    def number(self, name: str, what: str = "") -> float:
        """Give a constant of one element as a number."""
        array = self.array(name, what)
        if array.size != 1:
            raise Refused(f"{what or name} has {array.size} elements, where one is expected")
        return float(array.reshape(-1)[0])

    def axes(self, node: Node, index: int, rank: int, key: str = "axes") -> list[int] | None:
        """Give axes that newer operators take as an input and older ones as an attribute.

        Each is made non-negative; None where none are given.
        """
        if node.input(index):
            axes = self.integers(node.input(index), key)
        elif key in node.attributes:
            axes = list(node.attributes[key])
        else:
            return None
        return [normal(axis, rank) for axis in axes]


def normal(axis: int, rank: int) -> int:
    """Count an axis from the front.

    Raises:
        Refused: there is no such axis.
    """
    if not -rank <= axis < max(rank, 1):
        raise Refused(f"axis {axis} is not one of {rank}")
    return axis % rank if rank else 0


def same_padding(
    size: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    *,
    lower: bool = False,
) -> list[tuple[int, int]]:
    """Give the padding at the ends of each axis that auto_pad's SAME_UPPER (or _LOWER) means.

    >>> same_padding([5], [2], [1], [1]), same_padding([5], [2], [1], [1], lower=True)
    ([(0, 1)], [(1, 0)])
    """
    pads = []
    for length, window, stride, dilation in zip(size, kernel, strides, dilations, strict=True):
        spread = (window - 1) * dilation + 1
        needed = max((-(-length // stride) - 1) * stride + spread - length, 0)
        less, more = needed // 2, needed - needed // 2
        pads.append((more, less) if lower else (less, more))
    return pads


__all__ = ["Node", "Settled", "Shape", "normal", "same_padding"]
