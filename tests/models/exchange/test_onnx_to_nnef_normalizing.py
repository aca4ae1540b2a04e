from typing import Any

import numpy as np
import pytest
from tests.models.exchange.onnx_nodes import Journey, Trips, floats, lines, written

from tensorkeep.models.exchange.report import Refused

X = floats(2, 6, 4, 5)
C = [floats(6, seed=seed) for seed in (1, 2, 3)]
V = np.abs(floats(6, seed=4)) + 0.1
LAYERS = {
    "last": (-1, (5,)),
    "two": (2, (4, 5)),
    "all": (0, (2, 6, 4, 5)),
    "three": (-3, (6, 4, 5)),
    "one": (1, (1,)),
    "broadcast": (1, (6, 1, 5)),
}


@pytest.fixture(scope="module")
def journey() -> Journey:
    trips = Trips()
    trips.add("batch", "BatchNormalization", [X], *C, V)
    trips.add("batch_epsilon", "BatchNormalization", [X], *C, V, epsilon=0.01, momentum=0.5)
    trips.add("batch_2d", "BatchNormalization", [floats(3, 6)], *C, V)
    trips.add("batch_given", "BatchNormalization", [X, *C, V])
    trips.add("instance", "InstanceNormalization", [X], *C[:2], epsilon=0.001)
    trips.add("instance_3d", "InstanceNormalization", [floats(2, 6, 7)], *C[:2])
    for name, (axis, shape) in LAYERS.items():
        scale, offset = floats(*shape, seed=5), floats(*shape, seed=6)
        trips.add(f"layer_{name}", "LayerNormalization", [X], scale, offset, axis=axis)
        trips.add(f"rms_{name}", "RMSNormalization", [X], scale, axis=axis, epsilon=0.01)
    types = ("float32", "float32", "float32")
    trips.add("layer_three_outputs", "LayerNormalization", [X], floats(5), types=types)
    trips.add(
        "layer_deviation", "LayerNormalization", [X], floats(5), types=("float32", "", "float32")
    )
    trips.add("group", "GroupNormalization", [X], *C[:2], num_groups=3)
    trips.add("group_3d", "GroupNormalization", [floats(2, 6, 5)], *C[:2], num_groups=2)
    for size in (1, 3, 5):
        trips.add(f"lrn_{size}", "LRN", [X], size=size)
    trips.add("lrn_all", "LRN", [X], size=3, alpha=0.3, beta=0.6, bias=2.0)
    zeros = X.copy()
    zeros[0, :, 0, 0] = 0
    for p in (1, 2):
        trips.add(f"lp_{p}", "LpNormalization", [zeros], p=p, axis=1)
        trips.add(f"lp_{p}_last", "LpNormalization", [X], p=p)
    trips.add("variance", "MeanVarianceNormalization", [X])
    trips.add("variance_axes", "MeanVarianceNormalization", [X], axes=[1, -1])
    return trips.run()


@pytest.fixture(scope="module")
def older() -> Journey:
    trips = Trips(opset=18)
    scale, offset = floats(3, seed=1), floats(3, seed=2)
    trips.add("group_18", "GroupNormalization", [X], scale, offset, num_groups=3)
    trips.add("layer_17", "LayerNormalization", [X], floats(5))
    trips.add("batch_15", "BatchNormalization", [X], *C, V)
    return trips.run()


@pytest.mark.parametrize(
    "name",
    [
        *("batch", "batch_epsilon", "batch_2d", "batch_given", "instance", "instance_3d"),
        *(f"layer_{name}" for name in LAYERS),
        *(f"rms_{name}" for name in LAYERS),
        *("layer_three_outputs", "layer_deviation", "group", "group_3d"),
        *("lrn_1", "lrn_3", "lrn_5", "lrn_all", "lp_1", "lp_2", "lp_1_last", "lp_2_last"),
        *("variance", "variance_axes"),
    ],
)
def test_what_comes_back_computes_the_same(journey: Journey, name: str) -> None:
    journey.check(name)


@pytest.mark.parametrize("name", ["group_18", "layer_17", "batch_15"])
def test_what_is_older_comes_back_as_it_was_meant(older: Journey, name: str) -> None:
    older.check(name)


def test_statistics_come_first_and_are_rows() -> None:
    channels = [floats(3, seed=seed) for seed in range(4)]
    to = written("BatchNormalization", [(1, 3, 2), *channels], (1, 3, 2), epsilon=0.001)
    assert lines(to) == [
        "unsqueeze = unsqueeze(input = d, axes = [0])",
        "unsqueeze_2 = unsqueeze(input = e, axes = [0])",
        "unsqueeze_3 = unsqueeze(input = c, axes = [0])",
        "unsqueeze_4 = unsqueeze(input = b, axes = [0])",
        (
            "y = batch_normalization(input = a, mean = unsqueeze, variance = unsqueeze_2,"
            " offset = unsqueeze_3, scale = unsqueeze_4, epsilon = 0.001)"
        ),
    ]


def test_a_response_is_local_to_channels() -> None:
    to = written("LRN", [(1, 3, 2, 2)], (1, 3, 2, 2), size=5, alpha=0.1)
    assert lines(to) == [
        (
            "y = local_response_normalization(input = a, size = [1, 5, 1, 1], alpha = 0.1,"
            " beta = 0.75, bias = 1.0)"
        )
    ]


def test_a_norm_of_zero_does_not_divide() -> None:
    to = written("LpNormalization", [(2, 3)], (2, 3), p=2)
    assert lines(to) == [
        "sqr = sqr(x = a)",
        "sum_reduce = sum_reduce(input = sqr, axes = [1])",
        "sqrt = sqrt(x = sum_reduce)",
        "div = div(x = a, y = sqrt)",
        "eq = eq(x = sqrt, y = 0.0)",
        "y = select(condition = eq, true_value = 0.0, false_value = div)",
    ]


@pytest.mark.parametrize(
    ("since", "outputs", "attributes", "reason"),
    [
        (15, 3, {"training_mode": 1}, "in training mode"),
        (9, 5, {}, "in training mode"),
        (6, 1, {}, "in training mode"),
        (7, 1, {"spatial": 0}, "not of channels"),
    ],
)
def test_batches_in_training_are_refused(
    since: int, outputs: int, attributes: dict[str, Any], reason: str
) -> None:
    shapes = [(1, 3, 2), *[(3,)] * (outputs - 1)]
    with pytest.raises(Refused) as refused:
        written("BatchNormalization", [(1, 3, 2), *[(3,)] * 4], *shapes, since=since, **attributes)
    assert reason in refused.value.reason


@pytest.mark.parametrize(
    ("operator", "parameters"),
    [("LayerNormalization", 1), ("RMSNormalization", 1), ("GroupNormalization", 2)],
)
def test_float16_computed_in_float32_is_refused(operator: str, parameters: int) -> None:
    half = np.ones((1, 2, 2), "float16")
    with pytest.raises(Refused, match="computes in float32 what it is given in float16"):
        written(operator, [half, *[np.ones(2, "float16")] * parameters], (1, 2, 2), num_groups=1)


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "reason"),
    [
        ("BatchNormalization", [(3,)] * 5, {}, "no axis of channels"),
        ("InstanceNormalization", [(1, 3), (3,), (3,)], {}, "none of them spatial"),
        ("GroupNormalization", [(1, 3, 2), (3,), (3,)], {"num_groups": 2}, "no 2 groups"),
        ("LayerNormalization", [(1, 3), (3,)], {"axis": 2}, "axis 2 is not one of 2"),
        ("LpNormalization", [(1, 3)], {"p": 3}, "its p is 3"),
        ("LRN", [(3,)], {"size": 3}, "an input of 1 axes"),
    ],
)
def test_what_does_not_fit_is_refused(
    operator: str, inputs: list[Any], attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Refused) as refused:
        written(operator, inputs, inputs[0], **attributes)
    assert reason in refused.value.reason
