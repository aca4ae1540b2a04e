"""Single ONNX nodes for tests: what NNEF they become, and whether they come back as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.models.exchange.nnef_session import inferred_shapes
from tests.models.exchange.settling_here import settling_here

import tensorkeep as tk
from tensorkeep.models.exchange import nnef_to_onnx, onnx_to_nnef
from tensorkeep.models.exchange.emitting import Emitter
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.report import Report
from tensorkeep.models.exchange.settled import Node, Settled
from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.wire.nnef.operations import Operation, Reference

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
NEWEST = 28


def floats(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Give numbers of both signs."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def array(values: Any, dtype: str = "float32") -> Array:
    """Give an array of numbers that are written out."""
    return np.array(values, dtype)


def written(
    operator: str,
    inputs: Sequence[Any],
    *outputs: Shape,
    since: int = NEWEST,
    types: tuple[str, ...] = (),
    **attributes: Any,
) -> Writer:
    """Write one node, without any model around it: an array is a constant, a shape an input.

    Its inputs are called a, b, c ..., its outputs y, y1, y2 ...
    """
    names = ["" if value is None else chr(97 + index) for index, value in enumerate(inputs)]
    results = [f"y{index or ''}" for index in range(len(outputs))]
    constants, shapes, kinds = {}, {}, {}
    for name, value in zip(names, inputs, strict=True):
        if isinstance(value, np.ndarray):
            constants[name] = Tensor.of(value)
            shapes[name], kinds[name] = value.shape, value.dtype.name
        elif value is not None:
            shapes[name], kinds[name] = value, "float32"
    shapes.update(zip(results, outputs, strict=True))
    kinds.update(zip(results, types or ["float32"] * len(results), strict=True))
    node = Node(operator, "", "", names, results, attributes, since)
    given = [name for name in names if name and name not in constants]
    to = Writer(Settled([node], given, results, kinds, shapes, constants), Report("onnx", "nnef"))
    for name in given:
        to.give(name)
    TABLE[operator].translate(node, to)
    return to


def lines(to: Writer) -> list[str]:
    """Give operations as text, such as 'y = relu(x = a)'."""
    return [_line(operation) for operation in to.operations]


def _line(operation: Operation) -> str:
    made = ", ".join(operation.outputs())
    given = ", ".join(f"{key} = {_text(value)}" for key, value in operation.arguments.items())
    kind = f"<{operation.dtype}>" if operation.dtype else ""
    return f"{made} = {operation.name}{kind}({given})"


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, tuple):
        return f"({','.join(map(_text, value))})"
    return value.name if isinstance(value, Reference) else str(value)


def to_nnef(state: State, report: Report | None = None) -> State:
    """Translate a model to NNEF."""
    with settling_here():
        return onnx_to_nnef.translate(state, report or Report("onnx", "nnef"))


def there_and_back(state: State) -> State:
    """Translate a model to NNEF, and that to ONNX."""
    return nnef_to_onnx.translate(to_nnef(state), Report("nnef", "onnx"))


@dataclass
class Trips:
    """Nodes in one model that goes to NNEF and back, so that all of them are run at once."""

    opset: int = NEWEST
    feeds: dict[str, Array] = field(default_factory=dict)
    results: dict[str, list[str]] = field(default_factory=dict)
    tolerances: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.to = Emitter("trips", where="trips", opset=self.opset)

    def add(
        self,
        name: str,
        operator: str,
        inputs: Sequence[Array | None],
        *weights: Array,
        types: tuple[str, ...] = ("float32",),
        tolerance: float = 1e-5,
        **attributes: Any,
    ) -> None:
        """Add a node of inputs, and after them weights; None is left out."""
        given: list[str | None] = []
        for index, value in enumerate(inputs):
            given.append(None if value is None else self.input(f"{name}_x{index}", value))
        given += [self.to.constant(value, hint=f"{name}_w") for value in weights]
        outputs = [f"{name}_y{index}" if kind else "" for index, kind in enumerate(types)]
        self.to.nodes(operator, given, list(outputs), **attributes)
        for output, kind in zip(outputs, types, strict=True):
            if output:
                self.output(name, output, kind)
        self.tolerances[name] = tolerance

    def input(self, name: str, value: Array) -> str:
        """Declare an input, and what it is given."""
        self.feeds[name] = value
        return self.to.input(name, value.dtype.name, value.shape)

    def output(self, name: str, value: str, kind: str = "float32") -> None:
        """Declare a value as an output of a case."""
        self.to.output(value, kind, None)
        self.results.setdefault(name, []).append(value)

    def run(self) -> Journey:
        """Translate there and back, and run the model that was and the one that came."""
        state = self.to.state()
        report = Report("onnx", "nnef")
        document = to_nnef(state, report)
        back = nnef_to_onnx.translate(document, Report("nnef", "onnx"))
        shapes = inferred_shapes(document)
        before, after = tk.run(state, self.feeds), tk.run(back, self.feeds)
        return Journey(self, document, report, before, after, shapes)


@dataclass
class Journey:
    """What was given before and after."""

    trips: Trips
    document: State
    report: Report
    before: dict[str, Array]
    after: dict[str, Array]
    shapes: dict[str, Shape]  # as another reader of NNEF infers them

    def check(self, name: str) -> None:
        """Compare the results of a case."""
        for output in self.trips.results[name]:
            before, after = self.before[output], self.after[output]
            assert (before.shape, before.dtype) == (after.shape, after.dtype), output
            assert self.shapes[output] == before.shape, output
            limit = self.trips.tolerances.get(name, 1e-5)
            np.testing.assert_allclose(after, before, rtol=limit, atol=limit, err_msg=output)
