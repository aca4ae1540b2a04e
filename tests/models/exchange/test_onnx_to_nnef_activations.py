"""Activations of ONNX in NNEF: each keeps its numbers, and none is left to an approximation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.exchange import nnef_session
from tests.models.exchange.onnx_nodes import Array, Journey, Trips, floats, lines, written
from tests.models.exchange.settling_here import settling_here

import tensorkeep as tk
from tensorkeep.models.exchange import nnef_to_onnx, onnx_to_nnef
from tensorkeep.models.exchange.report import Report

X = 3 * floats(2, 3, 4)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Relu": ("Relu", {}),
    "Sigmoid": ("Sigmoid", {}),
    "Softplus": ("Softplus", {}),
    "Softsign": ("Softsign", {}),
    "Mish": ("Mish", {}),
    "LeakyRelu": ("LeakyRelu", {}),
    "LeakyRelu_alpha": ("LeakyRelu", {"alpha": 0.3}),
    "Elu": ("Elu", {}),
    "Elu_alpha": ("Elu", {"alpha": 0.3}),
    "Selu": ("Selu", {}),
    "Selu_alpha_gamma": ("Selu", {"alpha": 2.0, "gamma": 3.0}),
    "Celu": ("Celu", {}),
    "Celu_alpha": ("Celu", {"alpha": 0.3}),
    "HardSigmoid": ("HardSigmoid", {}),
    "HardSigmoid_alpha": ("HardSigmoid", {"alpha": 0.5, "beta": 0.6}),
    "HardSwish": ("HardSwish", {}),
    "Gelu": ("Gelu", {}),
    "Gelu_tanh": ("Gelu", {"approximate": "tanh"}),
    "ThresholdedRelu": ("ThresholdedRelu", {}),
    "ThresholdedRelu_alpha": ("ThresholdedRelu", {"alpha": 0.5}),
    "Shrink": ("Shrink", {}),
    "Shrink_bias": ("Shrink", {"bias": 0.5, "lambd": 1.5}),
    "Softmax": ("Softmax", {}),
    "Softmax_axis": ("Softmax", {"axis": 1}),
    "LogSoftmax": ("LogSoftmax", {}),
    "LogSoftmax_axis": ("LogSoftmax", {"axis": -2}),
    "Hardmax": ("Hardmax", {}),
    "Hardmax_axis": ("Hardmax", {"axis": 0}),
}
SLOPES: dict[str, tuple[int, ...]] = {
    "PRelu_channels": (3, 1),
    "PRelu_last": (4,),
    "PRelu_all": (2, 3, 4),
    "PRelu_one": (1,),
    "PRelu_number": (),
}
HALVES = ("Gelu", "Elu", "Hardmax", "LogSoftmax", "Softmax")
ELDER: dict[str, tuple[str, dict[str, Any]]] = {
    f"{operator}_{axis}": (operator, {} if axis is None else {"axis": axis})
    for operator in ("Softmax", "LogSoftmax", "Hardmax")
    for axis in (None, 0, 1, 2, -1)
}


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    with settling_here():
        yield


def _trips(cases: dict[str, tuple[str, dict[str, Any]]], opset: int = 28) -> Trips:
    trips = Trips(opset)
    for name, (operator, attributes) in cases.items():
        trips.add(name, operator, [X], tolerance=2e-6, **attributes)
    return trips


@pytest.fixture(scope="module")
def journey() -> Journey:
    trips = _trips(CASES)
    for name, slope in SLOPES.items():
        trips.add(name, "PRelu", [X], np.array(floats(*slope)))
    for operator in HALVES:
        half: dict[str, Any] = {"types": ("float16",), "tolerance": 2e-3}
        trips.add(f"{operator}_half", operator, [X.astype("float16")], **half)
    trips.add("Far_LogSoftmax", "LogSoftmax", [numbers([0, -200, 1000])])
    return trips.run()


@pytest.fixture(scope="module")
def elder() -> Journey:
    return _trips(ELDER, opset=11).run()


def numbers(values: Any, dtype: str = "float32") -> Array:
    """Give an array."""
    return np.array(values, dtype)


MORE = [
    *SLOPES,
    *(f"{operator}_half" for operator in ("Gelu", "Elu", "Hardmax", "LogSoftmax", "Softmax")),
]


@pytest.mark.parametrize("name", [*CASES, *MORE, "Far_LogSoftmax"])
def test_there_and_back(journey: Journey, name: str) -> None:
    journey.check(name)


@pytest.mark.parametrize("name", ELDER)
def test_before_opset_13_all_axes_from_one_on_count(elder: Journey, name: str) -> None:
    elder.check(name)


def test_shapes_are_those_that_nnef_infers(journey: Journey, elder: Journey) -> None:
    for each in (journey, elder):
        for name, shape in nnef_session.inferred_shapes(each.document).items():
            assert shape == each.before[name].shape, name


def test_nnef_computes_the_same(tmp_path: Path) -> None:
    trips = _trips(CASES)
    trips.add("PRelu", "PRelu", [X], floats(3, 1))
    journey = trips.run()
    journey.after = nnef_session.run(journey.document, trips.feeds, tmp_path)
    for name in trips.results:
        trips.tolerances[name] = 1e-5
        journey.check(name)


@pytest.mark.parametrize(
    ("operator", "attributes", "line"),
    [
        ("Elu", {"alpha": 0.3}, "y = elu(x = a, alpha = 0.3)"),
        ("Elu", {}, "y = elu(x = a, alpha = 1.0)"),
        ("LeakyRelu", {}, "y = leaky_relu(x = a, alpha = 0.01)"),
        ("Selu", {"alpha": 2.0, "gamma": 3.0}, "y = selu(x = a, alpha = 2.0, lambda = 3.0)"),
        ("Swish", {"alpha": 1.0}, "y = silu(x = a)"),
        ("Softmax", {"axis": -1}, "y = softmax(x = a, axes = [2])"),
        ("Relu", {}, "y = relu(x = a)"),
    ],
)
def test_numbers_are_kept(operator: str, attributes: dict[str, Any], line: str) -> None:
    assert lines(written(operator, [(2, 3, 4)], (2, 3, 4), **attributes)) == [line]


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_swish_is_that_of_numpy(alpha: float) -> None:
    """ONNX Runtime has no Swish."""
    trips = Trips()
    trips.add("case", "Swish", [X], alpha=alpha)
    document = onnx_to_nnef.translate(trips.to.state(), Report("onnx", "nnef"))
    back = tk.run(nnef_to_onnx.translate(document, Report("nnef", "onnx")), trips.feeds)
    np.testing.assert_allclose(back["case_y0"], X / (1 + np.exp(-alpha * X)), 1e-5, 1e-6)


def test_softmax_of_old_is_over_several_axes() -> None:
    to = written("Softmax", [(2, 3, 4)], (2, 3, 4), since=11)
    assert lines(to) == ["y = softmax(x = a, axes = [1, 2])"]


def test_slopes_of_old_are_of_channels() -> None:
    to = written("PRelu", [(2, 3, 4, 5), np.ones(3, "f")], (2, 3, 4, 5), since=6)
    assert lines(to)[-2:] == [
        "unsqueeze_2 = unsqueeze(input = b, axes = [0])",
        "y = prelu(x = a, alpha = unsqueeze_2)",
    ]


def test_gelu_is_not_left_to_nnef() -> None:
    """NNEF lets a reader approximate its own, by up to 0.02."""
    made = lines(written("Gelu", [(3,)], (3,)))
    assert not [line for line in made if "= gelu(" in line]


def test_gelu_by_erf_is_told() -> None:
    plain, tanh = written("Gelu", [(3,)], (3,)), written("Gelu", [(3,)], (3,), approximate="tanh")
    assert [remark.kind for remark in plain.report.remarks] == ["changed"]
    assert not tanh.report.remarks
