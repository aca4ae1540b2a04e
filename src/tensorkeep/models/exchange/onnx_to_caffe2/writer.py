"""Writer: a net of Caffe2's in the making, operator by operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.caffe2.operator import create_operator
from tensorkeep.message import Message
from tensorkeep.models.exchange.report import Refused, Report
from tensorkeep.models.exchange.settled import Settled, Shape
from tensorkeep.tensor import Tensor

# What an init net holds and operators compute with.
FLOAT = "float32"
INTEGERS = ("int32", "int64")
HELD = (FLOAT, *INTEGERS, "bool", "uint8", "string")
_HALVES = ("float16", "bfloat16")
_CAST = "Cast the model before: models.cast(model, 'float32', compute=True, keep_io=False)."


class Writer:
    """Operators of a net, and the weights that they need.

    Attributes:
        model: what is translated.
        report: where to note what was done.
        operators: so far, in order.
        weights: the tensors of constants, by the names of their blobs.
    """

    def __init__(self, model: Settled, report: Report) -> None:
        self.model = model
        self.report = report
        self.operators: list[Message] = []
        self.weights: dict[str, Tensor] = {}
        self._taken = {*model.inputs, *model.outputs, *model.constants}
        self._taken.update(name for node in model.nodes for name in (*node.inputs, *node.outputs))

    def fresh(self, hint: str) -> str:
        """Give a name that no blob has."""
        name, number = hint, 1
        while name in self._taken:
            number += 1
            name = f"{hint}_{number}"
        self._taken.add(name)
        return name

    def blob(self, name: str) -> str:
        """Name the blob of an ONNX value; a constant becomes a weight when it is first used.

        Raises:
            Refused: an init net holds no such element type.
        """
        if self.model.is_constant(name) and name not in self.weights:
            self.weights[name] = self.held(name)
        return name

    def held(self, name: str) -> Tensor:
        """Give a constant as an init net holds it.

        Raises:
            Refused: an init net holds no such element type.
        """
        tensor = self.model.constants[name]
        if tensor.dtype.name not in HELD:
            cure = _CAST if tensor.dtype.name in _HALVES else ""
            raise Refused(f"{name!r} is {tensor.dtype}, which no init net holds", cure)
        return tensor

    def constant(self, values: npt.ArrayLike, hint: str) -> str:
        """Add a weight of these values under a fresh name."""
        name = self.fresh(hint)
        self.weights[name] = Tensor.of(np.asarray(values, order="C"), self.model.where)
        return name

    def add(
        self,
        type: str,
        inputs: Sequence[str],
        outputs: str | Sequence[str] | None = None,
        **arguments: Any,
    ) -> str:
        """Add an operator; gives its first output, which has a fresh name where none is given.

        Args:
            type: what Caffe2 calls it.
            inputs: the names of blobs.
            outputs: the names of blobs.
            arguments: its arguments: ints, floats, texts or lists of one of them.
        """
        if outputs is None:
            outputs = self.fresh(type.lower())
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        self.operators.append(create_operator(type, list(inputs), names, **arguments))
        return names[0]

    def reshaped(self, blob: str, shape: Sequence[int], output: str | None = None) -> str:
        """Add a Reshape, whose second output nobody needs."""
        made = output or self.fresh("reshape")
        old = self.fresh(f"{made}_old_shape")
        return self.add("Reshape", [blob], [made, old], shape=[int(size) for size in shape])

    def shape(self, name: str) -> Shape:
        """Give the shape of an ONNX value."""
        return self.model.shape(name)

    def need(self, name: str, *kinds: str) -> None:
        """Refuse a value whose element type is not one of these."""
        found = self.model.type(name)
        if found not in kinds:
            cure = _CAST if found in _HALVES and FLOAT in kinds else ""
            raise Refused(f"{name!r} is {found}, where Caffe2 takes {' or '.join(kinds)}", cure)

    def is_used(self, name: str) -> bool:
        """Whether anything takes a value, or the model gives it."""
        model = self.model
        return bool(name) and (
            name in model.outputs or any(name in node.inputs for node in model.nodes)
        )
