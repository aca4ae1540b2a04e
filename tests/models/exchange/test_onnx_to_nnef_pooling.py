from typing import Any

import numpy as np
import pytest
from tests.models.exchange.onnx_nodes import Journey, Trips, floats, lines, written

from tensorkeep.models.exchange.report import Refused

X = floats(2, 3, 8, 7)
WINDOWS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_shape": [2, 3]},
    "pads": {"kernel_shape": [3, 3], "pads": [1, 0, 2, 1], "strides": [2, 1]},
    "ceil": {"kernel_shape": [3, 2], "strides": [3, 2], "ceil_mode": 1},
    "ceil_pads": {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    "same_upper": {"kernel_shape": [2, 4], "strides": [1, 2], "auto_pad": "SAME_UPPER"},
    "same_lower": {"kernel_shape": [2, 4], "strides": [1, 2], "auto_pad": "SAME_LOWER"},
    "valid": {"kernel_shape": [2, 4], "auto_pad": "VALID"},
    "dilated": {"kernel_shape": [2, 3], "dilations": [3, 2], "pads": [1, 1, 1, 1]},
    "dilated_ceil": {
        "kernel_shape": [2, 2],
        "dilations": [2, 3],
        "strides": [2, 2],
        "ceil_mode": 1,
    },
}
LP = {key: value for key, value in WINDOWS.items() if not key.startswith("ceil")}


@pytest.fixture(scope="module")
def journey() -> Journey:
    trips = Trips(opset=21)  # after which ONNX Runtime has no GlobalLpPool
    for name, given in WINDOWS.items():
        trips.add(f"max_{name}", "MaxPool", [X - 9], **given)
        trips.add(f"average_{name}", "AveragePool", [X], **given)
        trips.add(f"counted_{name}", "AveragePool", [X], count_include_pad=1, **given)
        for p in (1, 2, 3):
            trips.add(f"lp{p}_{name}", "LpPool", [X], p=p, **given)
    trips.add("max_columns", "MaxPool", [X], kernel_shape=[2, 2], storage_order=1)
    trips.add("max_1d", "MaxPool", [floats(1, 2, 9)], kernel_shape=[4], strides=[2], ceil_mode=1)
    trips.add("max_3d", "MaxPool", [floats(1, 2, 4, 5, 3)], kernel_shape=[2, 2, 2])
    trips.add("average_3d", "AveragePool", [floats(1, 2, 4, 5, 3)], kernel_shape=[2, 3, 1])
    for rank in (3, 4, 5):
        x = floats(*(2, 3, 4, 5, 2)[:rank])
        for operator in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"):
            trips.add(f"{operator}_{rank}", operator, [x])
    trips.add("GlobalLpPool_p3", "GlobalLpPool", [X], p=3)
    trips.add("GlobalLpPool_p1", "GlobalLpPool", [X], p=1)
    both = ("float32", "int64")
    for name, given in WINDOWS.items():
        trips.add(f"indices_{name}", "MaxPool", [X], types=both, **given)
    given = {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "storage_order": 1}
    trips.add("indices_columns", "MaxPool", [X], types=both, **given)
    volume = floats(2, 2, 4, 5, 3)
    trips.add("indices_3d", "MaxPool", [volume], types=both, kernel_shape=[2, 2, 2])
    trips.add("indices_equal", "MaxPool", [X * 0], types=both, kernel_shape=[2, 2])
    return trips.run()


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("pool", ["max", "average", "counted", "lp1", "lp2", "lp3", "indices"])
def test_what_comes_back_computes_the_same(journey: Journey, pool: str, name: str) -> None:
    journey.check(f"{pool}_{name}")


@pytest.mark.parametrize(
    "name",
    [
        *("max_columns", "max_1d", "max_3d", "average_3d"),
        *("indices_columns", "indices_3d", "indices_equal"),
        *(
            f"{operator}_{rank}"
            for operator in ("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
            for rank in (3, 4, 5)
        ),
        *("GlobalLpPool_p3", "GlobalLpPool_p1"),
    ],
)
def test_other_pools_come_back(journey: Journey, name: str) -> None:
    journey.check(name)


def test_a_maximum_takes_no_padding_and_counts_all_axes() -> None:
    to = written("MaxPool", [(1, 2, 5)], (1, 2, 5), kernel_shape=[3], pads=[1, 1])
    assert lines(to) == [
        (
            "y = max_pool(input = a, size = [1, 1, 3], border = ignore,"
            " padding = [(0,0), (0,0), (1,1)])"
        )
    ]


def test_ceil_mode_is_more_padding_at_the_end() -> None:
    to = written("MaxPool", [(1, 1, 6)], (1, 1, 3), kernel_shape=[3], strides=[2], ceil_mode=1)
    assert lines(to) == [
        (
            "y = max_pool(input = a, size = [1, 1, 3], border = ignore,"
            " padding = [(0,0), (0,0), (0,1)], stride = [1, 1, 2])"
        )
    ]


@pytest.mark.parametrize(("counted", "border"), [(0, "border = ignore, "), (1, "")])
def test_padding_counts_in_an_average_where_it_is_said(counted: int, border: str) -> None:
    to = written(
        "AveragePool",
        [(1, 2, 5)],
        (1, 2, 5),
        kernel_shape=[3],
        pads=[1, 1],
        count_include_pad=counted,
    )
    assert lines(to) == [
        f"y = avg_pool(input = a, size = [1, 1, 3], {border}padding = [(0,0), (0,0), (1,1)])"
    ]


def test_what_lies_beyond_padding_that_counts_does_not_count() -> None:
    to = written(
        "AveragePool",
        [(1, 1, 6)],
        (1, 1, 4),
        kernel_shape=[3],
        strides=[2],
        pads=[1, 1],
        ceil_mode=1,
        count_include_pad=1,
    )
    assert lines(to) == [
        "pad = pad(input = a, padding = [(0,0), (0,0), (1,1)])",
        (
            "y = avg_pool(input = pad, size = [1, 1, 3], border = ignore,"
            " padding = [(0,0), (0,0), (0,1)], stride = [1, 1, 2])"
        ),
    ]
    assert [remark.kind for remark in to.report.remarks] == ["expanded"]


def test_a_norm_is_a_sum_not_a_mean() -> None:
    to = written("LpPool", [(1, 1, 4)], (1, 1, 3), kernel_shape=[2], p=3)
    assert lines(to) == [
        "abs = abs(x = a)",
        "pow = pow(x = abs, y = 3.0)",
        "box = box(input = pow, size = [1, 1, 2], padding = [(0,0), (0,0), (0,0)])",
        f"y = pow(x = box, y = {1 / 3})",
    ]


def test_global_pools_reduce_the_spatial_axes() -> None:
    to = written("GlobalAveragePool", [(1, 2, 3, 4)], (1, 2, 1, 1))
    assert lines(to) == ["y = mean_reduce(input = a, axes = [2, 3])"]


def test_indices_are_where_the_window_begins_and_what_is_in_it() -> None:
    types = ("float32", "int64")
    shape = (1, 1, 3)
    to = written("MaxPool", [(1, 1, 5)], shape, shape, types=types, kernel_shape=[2], dilations=[2])
    assert lines(to)[1:] == [
        (
            "argmax_pool = argmax_pool(input = a, size = [1, 1, 2], border = ignore,"
            " padding = [(0,0), (0,0), (0,0)], dilation = [1, 1, 2])"
        ),
        "gather = gather(input = y_offsets, indices = argmax_pool)",
        "add = add(x = gather, y = y_windows)",
        "add_2 = add(x = add, y = y_planes)",
        "y1 = cast<integer>(input = add_2)",
    ]
    assert to.variables["y_offsets"].numpy().tolist() == [0, 2]
    assert to.variables["y_windows"].numpy().tolist() == [[[0, 1, 2]]]


def test_indices_that_scalars_do_not_count_to_are_refused() -> None:
    types = ("float32", "int64")
    shape = (1, 1, 1 << 25)
    with pytest.raises(Refused, match="NNEF's scalars to 2\\^24"):
        written("MaxPool", [shape], shape, shape, types=types, kernel_shape=[1])


@pytest.mark.parametrize(
    ("operator", "attributes", "reason"),
    [
        ("MaxPool", {"kernel_shape": [2, 2]}, "1 spatial axes"),
        ("MaxPool", {"kernel_shape": [2], "dilations": [5], "pads": [2, 2]}, "nothing but padding"),
        ("MaxPool", {"kernel_shape": [1]}, "fewer than fit"),
        (
            "AveragePool",
            {"kernel_shape": [1], "pads": [1, 1], "strides": [1]},
            "windows of nothing but padding",
        ),
        ("LpPool", {"kernel_shape": [2], "p": 0}, "makes no norm"),
        ("LpPool", {"kernel_shape": [1], "strides": [2], "ceil_mode": 1}, "nothing but padding"),
    ],
)
def test_windows_that_make_no_sense_are_refused(
    operator: str, attributes: dict[str, Any], reason: str
) -> None:
    size = 6 if operator == "AveragePool" else 3
    with pytest.raises(Refused) as refused:
        written(operator, [(1, 1, 4)], (1, 1, size), **attributes)
    assert reason in refused.value.reason


def test_pools_of_integers_are_refused() -> None:
    with pytest.raises(Refused, match="is uint8, where NNEF computes with scalars"):
        written("MaxPool", [np.ones((1, 1, 4), "uint8")], (1, 1, 3), kernel_shape=[2])


@pytest.mark.parametrize("operator", ["GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"])
def test_a_global_pool_without_planes_is_refused(operator: str) -> None:
    with pytest.raises(Refused, match="none of them spatial"):
        written(operator, [(1, 4)], (1, 4))
