"""ONNX nodes for tests: what nets of Caffe2's they become, and what those compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tests.models.exchange import caffe2_interpreter
from tests.models.exchange.onnx_nodes import NEWEST, Array, Shape, Trips
from tests.models.exchange.settling_here import settling_here

import tensorkeep as tk
from tensorkeep.message import Message
from tensorkeep.models.exchange import caffe2_to_onnx, onnx_to_caffe2
from tensorkeep.models.exchange.onnx_to_caffe2.table import TABLE
from tensorkeep.models.exchange.onnx_to_caffe2.writer import Writer
from tensorkeep.models.exchange.report import Report
from tensorkeep.models.exchange.settled import Node, Settled
from tensorkeep.state import State
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.nets import Nets


def to_caffe2(state: State, report: Report | None = None, **given: Any) -> State:
    """Translate a model to a net and its weights."""
    with settling_here():
        return onnx_to_caffe2.translate(state, report or Report("onnx", "caffe2"), **given)


def predict_of(state: State) -> Message:
    """Give the predict net."""
    assert isinstance(state.document, Nets)
    return state.document.predict


def to_onnx(state: State) -> State:
    """Translate a net to a model."""
    return caffe2_to_onnx.translate(state, Report("caffe2", "onnx"))


@dataclass
class Crossing:
    """What ONNX Runtime makes of a model, Caffe2 of the net, and ONNX Runtime of that, again."""

    trips: Trips
    net: State
    report: Report
    before: Mapping[str, Array]
    there: Mapping[str, Array]
    back: Mapping[str, Array]

    def check(self, name: str) -> None:
        """Compare the results of a case."""
        limit = self.trips.tolerances[name]
        for output in self.trips.results[name]:
            wanted = self.before[output]
            for found in (self.there[output], self.back[output]):
                assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), output
                np.testing.assert_allclose(found, wanted, rtol=limit, atol=limit, err_msg=output)


def cross(trips: Trips) -> Crossing:
    """Take a model over, and run all three."""
    state, report = trips.to.state(), Report("onnx", "caffe2")
    net = to_caffe2(state, report)
    there = caffe2_interpreter.run_net(net, trips.feeds)
    return Crossing(
        trips, net, report, tk.run(state, trips.feeds), there, tk.run(to_onnx(net), trips.feeds)
    )


def written(
    operator: str,
    inputs: Sequence[Any],
    *outputs: Shape,
    since: int = NEWEST,
    types: Sequence[str] = (),
    **attributes: Any,
) -> list[Message]:
    """Write one node, without any model around it: an array is a constant, a shape an input.

    An input of another type than float32 is given as its type and its shape. Inputs are called a,
    b, c ..., outputs y, y1, y2 ..., and every output is used.
    """
    names = ["" if value is None else chr(97 + index) for index, value in enumerate(inputs)]
    results = [f"y{index or ''}" for index in range(len(outputs))]
    constants, shapes, kinds = {}, {}, {}
    for name, value in zip(names, inputs, strict=True):
        if isinstance(value, np.ndarray):
            constants[name] = Tensor.of(value)
            kinds[name], shapes[name] = value.dtype.name, value.shape
        elif value is not None:
            typed = bool(value) and isinstance(value[0], str)
            kinds[name], shapes[name] = value if typed else ("float32", value)
    shapes.update(zip(results, outputs, strict=True))
    kinds.update(zip(results, types or ["float32"] * len(results), strict=True))
    node = Node(operator, "", "", names, results, attributes, since)
    given = [name for name in names if name and name not in constants]
    model = Settled([node], given, results, kinds, shapes, constants)
    to = Writer(model, Report("onnx", "caffe2"))
    TABLE[operator].translate(node, to)
    return to.operators
