from typing import Any

import numpy as np
import pytest
from tests.models.exchange.onnx_nodes import Journey, Trips, floats, lines, written

from tensorkeep.models.exchange.report import Refused

X = floats(2, 4, 7, 6)
CONV: dict[str, dict[str, Any]] = {
    "plain": {},
    "pads": {"pads": [1, 0, 2, 1]},
    "strides": {"strides": [2, 3], "dilations": [1, 2], "pads": [0, 2, 1, 2]},
    "same_upper": {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    "same_lower": {"auto_pad": "SAME_LOWER", "strides": [3, 1]},
    "valid": {"auto_pad": "VALID", "strides": [1, 2]},
}
TRANSPOSE: dict[str, dict[str, Any]] = {
    "plain": {},
    "pads": {"strides": [2, 3], "pads": [1, 0, 0, 2], "dilations": [1, 2]},
    "output_padding": {"strides": [2, 3], "pads": [1, 1, 1, 1], "output_padding": [1, 1]},
    "longer": {"strides": [3, 3], "output_padding": [2, 1]},
    "output_shape": {"strides": [2, 2], "output_shape": [14, 13]},
    "output_shape_upper": {
        "strides": [2, 2],
        "output_shape": [14, 13],
        "auto_pad": "SAME_UPPER",
    },
    "same_upper": {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same_lower": {"strides": [2, 2], "auto_pad": "SAME_LOWER"},
    "valid": {"strides": [2, 1], "auto_pad": "VALID"},
}


@pytest.fixture(scope="module")
def journey() -> Journey:
    trips = Trips()
    weights, bias = floats(6, 4, 3, 2, seed=1), floats(6, seed=2)
    for name, attributes in CONV.items():
        trips.add(f"conv_{name}", "Conv", [X], weights, bias, **attributes)
    trips.add("conv_groups", "Conv", [X], floats(6, 2, 3, 3), group=2)
    trips.add("conv_depthwise", "Conv", [X], floats(8, 1, 3, 3), floats(8), group=4)
    trips.add("conv_1d", "Conv", [floats(1, 2, 9)], floats(3, 2, 4), pads=[2, 1])
    trips.add(
        "conv_3d", "Conv", [floats(1, 2, 4, 5, 3)], floats(3, 2, 2, 2, 2), auto_pad="SAME_LOWER"
    )
    trips.add("conv_given", "Conv", [X, floats(3, 4, 2, 2), floats(3)])
    weights, bias = floats(4, 3, 3, 2, seed=1), floats(3, seed=2)
    for name, attributes in TRANSPOSE.items():
        trips.add(f"transpose_{name}", "ConvTranspose", [X], weights, bias, **attributes)
    trips.add("transpose_groups", "ConvTranspose", [X], floats(4, 3, 2, 2), group=2, strides=[2, 2])
    trips.add("transpose_1d", "ConvTranspose", [floats(1, 2, 5)], floats(2, 3, 4), strides=[2])
    trips.add("transpose_3d", "ConvTranspose", [floats(1, 2, 2, 3, 2)], floats(2, 1, 2, 2, 2))
    return trips.run()


@pytest.mark.parametrize(
    "name",
    [
        *(f"conv_{name}" for name in CONV),
        *("conv_groups", "conv_depthwise", "conv_1d", "conv_3d", "conv_given"),
        *(f"transpose_{name}" for name in TRANSPOSE),
        *("transpose_groups", "transpose_1d", "transpose_3d"),
    ],
)
def test_what_comes_back_computes_the_same(journey: Journey, name: str) -> None:
    journey.check(name)


def test_padding_is_explicit_and_the_bias_a_row() -> None:
    to = written("Conv", [(1, 2, 5, 5), floats(3, 2, 3, 3), floats(3)], (1, 3, 3, 3))
    assert lines(to) == [
        "unsqueeze = unsqueeze(input = c, axes = [0])",
        "y = conv(input = a, filter = b, bias = unsqueeze, padding = [(0,0), (0,0)])",
    ]


@pytest.mark.parametrize(
    ("auto_pad", "padding"), [("SAME_UPPER", "(0,1), (0,1)"), ("SAME_LOWER", "(1,0), (1,0)")]
)
def test_same_padding_puts_the_odd_one_where_it_is_said(auto_pad: str, padding: str) -> None:
    to = written("Conv", [(1, 1, 4, 4), floats(1, 1, 2, 2)], (1, 1, 4, 4), auto_pad=auto_pad)
    assert lines(to) == [f"y = conv(input = a, filter = b, padding = [{padding}])"]


def test_output_padding_is_less_padding_at_the_end() -> None:
    to = written(
        "ConvTranspose",
        [(1, 1, 4), floats(1, 1, 3)],
        (1, 1, 8),
        strides=[2],
        pads=[1, 1],
        output_padding=[1],
    )
    assert lines(to) == ["y = deconv(input = a, filter = b, padding = [(1,0)], stride = [2])"]


def test_output_padding_beyond_the_padding_is_an_output_shape() -> None:
    to = written(
        "ConvTranspose", [(1, 1, 4), floats(1, 1, 3)], (1, 1, 10), strides=[2], output_padding=[1]
    )
    assert lines(to) == [
        (
            "y = deconv(input = a, filter = b, padding = [(0,0)], stride = [2],"
            " output_shape = [1, 1, 10])"
        )
    ]


def test_groups_are_said() -> None:
    to = written("Conv", [(1, 4, 3), floats(4, 1, 1)], (1, 4, 3), group=4)
    assert lines(to) == ["y = conv(input = a, filter = b, padding = [(0,0)], groups = 4)"]


@pytest.mark.parametrize(
    ("inputs", "attributes", "reason"),
    [
        ([(1, 2), floats(3, 2)], {}, "make no convolution"),
        ([(1, 3, 5), floats(3, 2, 3)], {}, "does not fit an input of (1, 3, 5)"),
        ([(1, 2, 5), floats(3, 2, 3)], {"kernel_shape": [2]}, "its kernel is [2]"),
        ([(1, 2, 5), floats(3, 2, 3)], {"pads": [-1, 0]}, "takes elements away"),
        ([(1, 2, 5), floats(3, 2, 3)], {"pads": [1]}, "1 pads are not two for each"),
        ([(1, 2, 5), floats(3, 2, 3)], {"strides": [0]}, "at least 1"),
        ([(1, 2, 5), floats(3, 2, 3)], {"strides": [1, 1]}, "not one for each of 1"),
        ([(1, 2, 5), floats(3, 2, 3)], {"auto_pad": "SOME"}, "auto_pad is 'SOME'"),
        ([(1, 2, 5), np.ones((3, 2, 3))], {}, "its operands are float32 and float64"),
        ([(1, 2, 5), np.ones((3, 2, 3), "int8")], {}, "is int8, where NNEF computes with scalars"),
    ],
)
def test_what_does_not_fit_is_refused(
    inputs: list[Any], attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Refused) as refused:
        written("Conv", inputs, (1, 3, 3), **attributes)
    assert reason in refused.value.reason


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"output_padding": [5], "strides": [2]}, "larger than what its windows reach"),
        ({"output_shape": [1, 2]}, "its output is (1, 1, 11), not (1, 1, 2)"),
        ({"output_padding": [1, 1]}, "are not of 1 spatial axes"),
    ],
)
def test_outputs_that_do_not_follow_are_refused(attributes: dict[str, Any], reason: str) -> None:
    size = 14 if "strides" in attributes else 11
    with pytest.raises(Refused) as refused:
        written("ConvTranspose", [(1, 1, 4), floats(1, 1, 3)], (1, 1, size), **attributes)
    assert reason in refused.value.reason
