from typing import Any

import numpy as np
import pytest
from tests.models.exchange.onnx_nodes import (
    Array,
    Journey,
    Trips,
    array,
    floats,
    lines,
    there_and_back,
    written,
)

import tensorkeep as tk
from tensorkeep.models.exchange.report import Refused

STEPS, BATCH, FEATURES, HIDDEN = 4, 3, 2, 5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "start": {"bias": True, "start": True},
    "reverse": {"bias": True, "direction": "reverse"},
    "bidirectional": {"bias": True, "start": True, "direction": "bidirectional"},
    "lengths": {"bias": True, "lengths": [4, 2, 1]},
    "lengths_reverse": {"bias": True, "lengths": [1, 3, 2], "direction": "reverse"},
    "lengths_both": {"start": True, "lengths": [2, 4, 3], "direction": "bidirectional"},
    "clip": {"bias": True, "clip": 0.3},
}
ONLY: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("RNN", {"activations": ["Relu"]}),
    "both": (
        "RNN",
        {"activations": ["Tanh", "Sigmoid"], "direction": "bidirectional", "bias": True},
    ),
    "late": ("GRU", {"linear_before_reset": 1, "bias": True}),
    "late_no_bias": ("GRU", {"linear_before_reset": 1}),
    "late_both": (
        "GRU",
        {
            "linear_before_reset": 1,
            "bias": True,
            "direction": "bidirectional",
            "lengths": [4, 1, 3],
        },
    ),
    "peepholes": ("LSTM", {"peepholes": True, "bias": True}),
    "peepholes_both": (
        "LSTM",
        {"peepholes": True, "start": True, "direction": "bidirectional", "lengths": [4, 2, 2]},
    ),
    "coupled": ("LSTM", {"input_forget": 1, "bias": True}),
    "activations": ("LSTM", {"activations": ["Sigmoid", "Relu", "Sigmoid"], "bias": True}),
}


def add(trips: Trips, name: str, operator: str, said: dict[str, Any]) -> None:
    """Add a node; W, R, B and P are weights, the rest is given."""
    attributes = dict(said)
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    wide = GATES[operator] * HIDDEN
    weights: list[Array | None] = [
        floats(directions, wide, FEATURES, seed=1),
        floats(directions, wide, HIDDEN, seed=2),
        floats(directions, 2 * wide, seed=3) if attributes.pop("bias", False) else None,
        array(attributes.pop("lengths"), "int32") if "lengths" in attributes else None,
    ]
    start = attributes.pop("start", False)
    states = 2 if operator == "LSTM" else 1
    peepholes = floats(directions, 3 * HIDDEN, seed=6) if attributes.pop("peepholes", 0) else None
    names: list[str | None] = [trips.input(f"{name}_x", floats(STEPS, BATCH, FEATURES))]
    names += [None if value is None else trips.to.constant(value) for value in weights]
    for number in range(states):
        value = floats(directions, BATCH, HIDDEN, seed=4 + number)
        names.append(trips.input(f"{name}_s{number}", value) if start else None)
    names.append(None if peepholes is None else trips.to.constant(peepholes))
    outputs = [f"{name}_y", f"{name}_h", f"{name}_c"][: states + 1]
    trips.to.nodes(operator, names, list(outputs), hidden_size=HIDDEN, **attributes)
    for output in outputs:
        trips.output(name, output)


@pytest.fixture(scope="module")
def journey() -> Journey:
    trips = Trips()
    for operator in GATES:
        for name, said in CASES.items():
            add(trips, f"{operator}_{name}", operator, said)
    for name, (operator, said) in ONLY.items():
        add(trips, name, operator, said)
    return trips.run()


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("name", CASES)
def test_what_comes_back_computes_the_same(journey: Journey, operator: str, name: str) -> None:
    journey.check(f"{operator}_{name}")


@pytest.mark.parametrize("name", ONLY)
def test_what_one_of_them_has_comes_back(journey: Journey, name: str) -> None:
    journey.check(name)


def test_batches_first_are_transposed() -> None:
    # ONNX Runtime does not run this layout: what comes back is compared with the other one.
    x, start = floats(STEPS, BATCH, FEATURES), floats(1, BATCH, HIDDEN, seed=4)
    first = _laid_out(0, {"x": x, "s": start})
    second = _laid_out(1, {"x": x.swapaxes(0, 1), "s": start.swapaxes(0, 1)})
    for output, before in first.items():
        axes = (2, 0, 1, 3) if output.startswith("y") else (1, 0, 2)
        np.testing.assert_allclose(second[output], before.transpose(axes), rtol=1e-5)


def _laid_out(layout: int, feeds: dict[str, Array]) -> dict[str, Array]:
    trips = Trips()
    for key, value in feeds.items():
        trips.input(key, value)
    for operator, gates in GATES.items():
        wide = gates * HIDDEN
        weights = [floats(1, wide, FEATURES, seed=1), floats(1, wide, HIDDEN, seed=2)]
        held = [trips.to.constant(weight) for weight in weights]
        given = ["x", *held, None, None, "s"] + ["s"] * (operator == "LSTM")
        outputs = [f"{letter}_{operator}" for letter in "yhc"][: 3 if operator == "LSTM" else 2]
        trips.to.nodes(operator, given, list(outputs), hidden_size=HIDDEN, layout=layout)
        for output in outputs:
            trips.to.output(output, "float32", None)
    return tk.run(there_and_back(trips.to.state()), feeds)


def test_every_step_is_written_out() -> None:
    shapes: list[Any] = [(2, 1, 3), floats(1, 2, 3), floats(1, 2, 2)]
    to = written("RNN", shapes, (2, 1, 1, 2), (1, 1, 2), hidden_size=2)
    assert lines(to) == [
        "squeeze = squeeze(input = b, axes = [0])",
        "squeeze_2 = squeeze(input = c, axes = [0])",
        "reshape = reshape(input = a, shape = [2, 3])",
        "matmul = matmul(A = reshape, B = squeeze, transposeB = True)",
        "slice = slice(input = matmul, axes = [0], begin = [0], end = [1])",
        "matmul_2 = matmul(A = y_start, B = squeeze_2, transposeB = True)",
        "add = add(x = slice, y = matmul_2)",
        "tanh = tanh(x = add)",
        "slice_2 = slice(input = matmul, axes = [0], begin = [1], end = [2])",
        "matmul_3 = matmul(A = tanh, B = squeeze_2, transposeB = True)",
        "add_2 = add(x = slice_2, y = matmul_3)",
        "tanh_2 = tanh(x = add_2)",
        "stack = stack(values = [tanh, tanh_2], axis = 0)",
        "unsqueeze = unsqueeze(input = stack, axes = [1])",
        "y = copy(x = unsqueeze)",
        "unsqueeze_2 = unsqueeze(input = tanh_2, axes = [0])",
        "y1 = copy(x = unsqueeze_2)",
    ]
    assert "2 steps of it are unrolled" in str(to.report.remarks[0])


@pytest.mark.parametrize(
    ("steps", "weights", "lengths", "attributes", "reason"),
    [
        (300, 2, None, {}, "300 steps would make too large a graph"),
        (200, 2, None, {"direction": "bidirectional"}, "128 are the most"),
        (2, 2, None, {"direction": "sideways"}, "its direction is 'sideways'"),
        (2, 2, None, {"activations": ["Elu"]}, "its activation 'Elu' is not"),
        (2, 2, None, {"activations": ["Tanh", "Tanh"]}, "are not 1 for each direction"),
        (
            2,
            2,
            None,
            {"activations": ["Relu"], "activation_alpha": [0.1]},
            "its activations have parameters",
        ),
        (2, 3, None, {}, "are not 1 gates of 2"),
        (2, 2, (1,), {}, "sequence_lens ('e') is computed when it runs"),
        (2, 2, array([3], "int32"), {}, "sequence_lens [3] are not 1 of 1 to 2"),
        (2, 2, array([0], "int32"), {}, "sequence_lens [0] are not 1 of 1 to 2"),
    ],
)
def test_what_cannot_be_unrolled_is_refused(
    steps: int, weights: int, lengths: Any, attributes: dict[str, Any], reason: str
) -> None:
    inputs: list[Any] = [(steps, 1, 3), floats(1, weights, 3), floats(1, 2, 2), None, lengths]
    with pytest.raises(Refused) as refused:
        written("RNN", inputs, (steps, 1, 1, 2), hidden_size=2, **attributes)
    assert reason in refused.value.reason
