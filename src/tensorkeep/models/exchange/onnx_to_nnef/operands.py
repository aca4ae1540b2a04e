"""What translations ask of a node's operands before they write anything."""

from __future__ import annotations

import numpy as np

from tensorkeep.models.exchange.onnx_to_nnef.writer import NUMBERS, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node


def floats(to: Writer, *names: str) -> str:
    """Name the one floating-point type of operands; those that are left out do not count.

    Raises:
        Refused: they are of something else, or of several types.
    """
    given = [name for name in names if name]
    for name in given:
        to.need(name, *NUMBERS)
    kinds = list(dict.fromkeys(to.model.type(name) for name in given))
    if len(kinds) != 1:
        raise Refused(f"its operands are {' and '.join(kinds)}, which NNEF does not tell apart")
    return kinds[0]


def is_used(to: Writer, name: str) -> bool:
    """Whether anything takes a value, or the model gives it."""
    return bool(name) and (name in to.model.outputs or bool(to.takers(name)))


def number(value: float) -> float:
    """Give a float32 attribute as the shortest number that is the same float32.

    >>> number(float(np.float32(0.1)))
    0.1
    """
    return float(str(np.float32(value)))


def attribute(to: Writer, node: Node, key: str, default: float) -> float:
    """Give a floating-point attribute as a number to write.

    ONNX keeps it as float32: it is written with the fewest digits, but for a node that computes in
    float64, where the rest of them tell.
    """
    value = float(node.attributes.get(key, default))
    exact = to.model.types.get(node.input(0)) == "float64"
    return float(np.float32(value)) if exact else number(value)
