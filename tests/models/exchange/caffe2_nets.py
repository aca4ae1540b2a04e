"""Nets of a few operators, translated and run, in the ways that shapes may be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import tensorkeep as tk
from tensorkeep.message import Message
from tensorkeep.models.exchange.caffe2_to_onnx import translate
from tensorkeep.models.exchange.report import Report
from tensorkeep.state import State
from tensorkeep.wire.caffe2.nets import Nets
from tensorkeep.wire.caffe2.schema import NET, OPERATOR

Arrays = Mapping[str, Any]


def op(kind: str, inputs: str, outputs: str, name: str = "", **arguments: Any) -> Message:
    """Make an operator: its inputs and outputs as words."""
    made = Message(OPERATOR, type=kind, input=inputs.split(), output=outputs.split())
    if name:
        made["name"] = name
    for key, value in arguments.items():
        row = made.add("arg", name=key)
        match value:
            case bool() | int():
                row["i"] = int(value)
            case float():
                row["f"] = value
            case str():
                row["s"] = value.encode()
            case Message():
                row["n"] = value
            case [str(), *_]:
                row["strings"] = [each.encode() for each in value]
            case [float(), *_]:
                row["floats"] = value
            case _:
                row["ints"] = list(value)
    return made


def net(*operators: Message, outputs: str = "", inputs: str = "") -> Message:
    """Make a net."""
    made = Message(NET, name="tiny", external_input=inputs.split())
    made["external_output"] = outputs.split()
    made["op"] = list(operators)
    return made


def model(*operators: Message, weights: Arrays | None = None, outputs: str = "") -> State:
    """Make the state of a net and its weights."""
    tensors = {name: tk.Tensor.of(np.asarray(array)) for name, array in (weights or {}).items()}
    return State(tensors, document=Nets(net(*operators, outputs=outputs)), where="tiny")


def translated(
    state: State, shapes: Mapping[str, Sequence[int | str]] | None = None
) -> tuple[State, Report]:
    """Translate a net; gives what was done as well."""
    report = Report("caffe2", "onnx")
    return translate(state, report, shapes=shapes), report


def outputs_of(state: State, feeds: Arrays, shapes: Any = None) -> dict[str, Any]:
    """Translate a net and run it; inputs are of the types that are fed."""
    document = state.document
    assert isinstance(document, Nets)
    from tensorkeep.wire.caffe2.nets import Given

    document.given = {name: Given(array.dtype.name) for name, array in feeds.items()}
    document.inputs = list(feeds)
    made, _ = translated(state, shapes)
    return tk.run(made, dict(feeds))


def check(
    state: State, feeds: Arrays, expected: Arrays, *, needs: str = "", tolerance: float = 1e-5
) -> None:
    """Compare what a net gives with what is expected: shapes known, varying, and not known.

    Args:
        state: the net.
        feeds: its inputs.
        expected: its outputs.
        needs: "rank" or "shape", where the translation refuses to go on without.
        tolerance: relative to the largest element.
    """
    exact = {name: array.shape for name, array in feeds.items()}
    named = {n: [f"{n}_{axis}" for axis in range(a.ndim)] for n, a in feeds.items()}
    ways = [exact, *([named] if needs != "shape" else []), *([None] if not needs else [])]
    for shapes in ways:
        found = outputs_of(state, feeds, shapes)
        for name, array in expected.items():
            wanted = np.asarray(array)
            message = f"{name} with shapes {shapes}"
            assert found[name].shape == wanted.shape, message
            assert found[name].dtype == wanted.dtype, message
            if wanted.dtype.kind == "f":
                largest = float(np.abs(wanted[np.isfinite(wanted)]).max(initial=1.0))
                np.testing.assert_allclose(
                    found[name], wanted, rtol=tolerance, atol=tolerance * largest, err_msg=message
                )
            else:
                np.testing.assert_array_equal(found[name], wanted, err_msg=message)
