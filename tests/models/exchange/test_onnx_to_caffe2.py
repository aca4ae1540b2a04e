"""Every operator that becomes Caffe2's, against ONNX Runtime: as Caffe2 computes it, and back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.caffe2_trips import (
    Crossing,
    cross,
    predict_of,
    to_caffe2,
    to_onnx,
    written,
)
from tests.models.exchange.onnx_nodes import Array, Trips, array, floats

import tensorkeep as tk
from tensorkeep.models.exchange.emitting import Emitter
from tensorkeep.models.exchange.onnx_to_caffe2 import TABLE

X, IMAGE = floats(2, 3, 4), floats(2, 4, 7, 6)
BOTH = ("float32", "int64")
Case = tuple[str, str, tuple[Any, ...], dict[str, Any]]  # an input, or a list of a weight
NONE = array([])


def ints(*values: int, kind: str = "int64") -> Array:
    return np.array(values, kind)


def elementwise() -> Iterator[Case]:
    for operator in (
        *("Relu", "Sigmoid", "Tanh", "Softsign", "Exp", "Abs", "Sin", "Cos", "Tan", "Atan"),
        *("Sinh", "Cosh", "Floor", "Ceil", "Erf", "Neg", "Sign", "LeakyRelu", "Elu", "Selu"),
        *("ThresholdedRelu", "HardSigmoid", "Gelu", "Identity", "Dropout", "Clip"),
    ):
        yield operator, operator, (X,), {}
    for operator in ("Sqrt", "Log", "Reciprocal"):
        yield operator, operator, (np.abs(X) + 0.1,), {}
    for operator in ("Asin", "Acos"):
        yield operator, operator, (np.tanh(X),), {}
    for operator in ("LeakyRelu", "Elu", "ThresholdedRelu"):
        yield f"{operator}_alpha", operator, (X,), {"alpha": 0.3}
    yield "selu_given", "Selu", (X,), {"alpha": 2.0, "gamma": 0.5}
    yield "hard_given", "HardSigmoid", (X,), {"alpha": 0.4, "beta": 0.3}
    yield "softplus", "Softplus", (array([-200, -30, -1, 0, 1, 30, 90, 200, 1e30]),), {}
    yield "neg_ints", "Neg", (ints(3, -4),), {}
    yield "prelu_one", "PRelu", (X, [array([0.3])]), {}
    yield "prelu_channels", "PRelu", (X, [floats(3, 1, seed=1)]), {}
    yield "clip_both", "Clip", (X, [array(-0.5)], [array(0.2)]), {}
    yield "clip_crossed", "Clip", (X, [array(0.5)], [array(-0.2)]), {}
    yield "clip_low", "Clip", (array([-np.inf, 1, 3]), [array(0.5)]), {}
    yield "pow_square", "Pow", (X, [array(2.0)]), {}
    yield "pow_int", "Pow", (X, [ints(3)]), {}
    yield "pow_longer", "Pow", (X, [array([[[[2.0]]]])]), {}
    yield "pow_each", "Pow", (np.abs(X), X), {}
    yield "not", "Not", (X > 0,), {}


def several() -> Iterator[Case]:
    whole = np.array([[1, -2, 3], [4, 5, -6]])
    for operator in ("Add", "Sub", "Mul", "Div"):
        yield operator, operator, (X, floats(2, 3, 4, seed=1)), {}
        yield f"{operator}_end", operator, (X, [floats(3, 4, seed=1)]), {}
        yield f"{operator}_one", operator, (X, [array(1.5)]), {}
        yield f"{operator}_around", operator, (X, [floats(3, 1, seed=1)]), {}
        yield f"{operator}_larger", operator, (floats(4), X), {}
        if operator != "Div":
            yield f"{operator}_ints", operator, (whole, [ints(3, 2, 1)]), {}
    for operator in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"):
        yield operator, operator, (np.round(X), np.round(floats(2, 3, 4, seed=1))), {}
        yield f"{operator}_ints", operator, (whole.astype("int32"), [ints(3, kind="int32")]), {}
    yield "equal_bools", "Equal", (X > 0, X > 1), {}
    for operator in ("And", "Or", "Xor"):
        yield operator, operator, (X > 0, [floats(3, 4, seed=1) > 0]), {}
    for operator in ("Sum", "Max", "Min", "Mean"):
        yield operator, operator, tuple(floats(2, 3, seed=seed) for seed in range(3)), {}
        yield f"{operator}_alone", operator, (X,), {}
    yield "sum_shapes", "Sum", (floats(2, 1), floats(3), floats(2, 3)), {}
    yield "where", "Where", (X > 0, X, floats(2, 3, 4, seed=1)), {}
    for kind, number in (("int32", 6), ("int64", 7), ("bool", 9), ("float32", 1)):
        yield f"cast_{kind}", "Cast", (X * 3,), {"to": number}
    yield "cast_bool", "Cast", (X > 0,), {"to": 1}
    yield "cast_long", "Cast", (ints(-1, 300),), {"to": 2}


def layers() -> Iterator[Case]:
    yield "conv", "Conv", (IMAGE, [floats(6, 4, 3, 2)], [floats(6)]), {"pads": [1, 0, 2, 1]}
    yield "conv_steps", "Conv", (IMAGE, [floats(6, 4, 3, 2)]), {"strides": [2, 1]}
    yield "conv_lower", "Conv", (IMAGE, [floats(6, 4, 2, 2)]), {"auto_pad": "SAME_LOWER"}
    given = {"group": 2, "dilations": [2, 1], "pads": [1, 0, 2, 1]}
    yield "conv_groups", "Conv", (IMAGE, [floats(6, 2, 3, 3)]), given
    yield "conv_1d", "Conv", (floats(2, 3, 9), [floats(4, 3, 3)], [floats(4)]), {"pads": [1, 1]}
    yield "conv_3d", "Conv", (floats(1, 2, 4, 5, 3), [floats(3, 2, 2, 2, 2)]), {}
    yield "conv_fed", "Conv", (IMAGE, floats(6, 4, 3, 2)), {}
    turned = (IMAGE, [floats(4, 3, 3, 3)], [floats(3)])
    yield "deconv", "ConvTranspose", turned, {"strides": [2, 3], "pads": [1, 0, 2, 1]}
    more = {"strides": [2, 2], "output_padding": [1, 1], "pads": [1, 1, 1, 1]}
    yield "deconv_more", "ConvTranspose", turned, more
    yield "deconv_shape", "ConvTranspose", turned, {"strides": [2, 2], "output_shape": [14, 12]}
    same = {"strides": [2, 2], "auto_pad": "SAME_LOWER"}
    yield "deconv_lower", "ConvTranspose", turned, same
    yield "deconv_groups", "ConvTranspose", (IMAGE, [floats(4, 3, 3, 3)]), {"group": 2}
    matrix, weights, bias = floats(3, 4), [floats(4, 5)], [floats(5)]
    yield "fc", "Gemm", (matrix, weights, bias), {}
    yield "fc_turned", "Gemm", (matrix, [floats(5, 4)], bias), {"transB": 1}
    yield "fc_plain", "Gemm", (matrix, weights), {}
    yield "fc_one", "Gemm", (matrix, weights, [floats(1)]), {}
    yield "gemm_scaled", "Gemm", (matrix, weights, bias), {"alpha": 0.5, "beta": 2.0}
    yield "gemm_alpha", "Gemm", (matrix, weights), {"alpha": 0.5}
    yield "gemm_left", "Gemm", (floats(4, 3), weights, [floats(3, 1)]), {"transA": 1}
    yield "gemm_fed", "Gemm", (matrix, floats(4, 5), floats(5)), {"beta": 0.5}
    yield "matmul", "MatMul", (matrix, floats(4, 2)), {}
    yield "matmul_rows", "MatMul", (floats(2, 3, 4), [floats(4, 5)]), {}
    yield "matmul_batches", "MatMul", (floats(2, 3, 4), floats(2, 4, 5)), {}
    yield "matmul_more", "MatMul", (floats(3, 4), floats(2, 4, 5)), {}
    yield "matmul_longer", "MatMul", (floats(5, 2, 3, 4), floats(2, 4, 5)), {}
    yield "matmul_vector", "MatMul", (floats(2, 3, 4), floats(4)), {}
    yield "vector_matmul", "MatMul", (floats(4), floats(2, 4, 5)), {}
    yield "vectors", "MatMul", (floats(4), floats(4, seed=1)), {}
    four = [[floats(4, seed=seed)] for seed in (1, 2, 3)]
    variance = [np.abs(floats(4, seed=4)) + 0.1]
    yield "batch", "BatchNormalization", (IMAGE, *four, variance), {"epsilon": 0.01}
    yield "batch_2d", "BatchNormalization", (floats(3, 4), *four, variance), {}
    yield "instance", "InstanceNormalization", (IMAGE, *four[:2]), {"epsilon": 0.01}
    yield "group", "GroupNormalization", (IMAGE, *four[:2]), {"num_groups": 2}
    yield "lrn", "LRN", (IMAGE,), {"size": 3, "alpha": 0.3, "beta": 0.6, "bias": 2.0}
    for operator in ("Softmax", "LogSoftmax"):
        yield operator, operator, (X * 60,), {}
        yield f"{operator}_first", operator, (X,), {"axis": 0}
        yield f"{operator}_1d", operator, (floats(5),), {}


def pooling() -> Iterator[Case]:
    windows: dict[str, dict[str, Any]] = {
        "plain": {"kernel_shape": [2, 3]},
        "pads": {"kernel_shape": [3, 3], "pads": [1, 0, 2, 1], "strides": [2, 1]},
        "ceil": {"kernel_shape": [3, 2], "strides": [3, 4], "ceil_mode": 1},
        "lower": {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
        "valid": {"kernel_shape": [2, 2], "auto_pad": "VALID"},
    }
    for name, given in windows.items():
        yield f"max_{name}", "MaxPool", (IMAGE - 9,), given
        yield f"average_{name}", "AveragePool", (IMAGE,), given
    counted = {**windows["pads"], "count_include_pad": 1}
    yield "average_counted", "AveragePool", (IMAGE,), counted
    for rank, x in ((1, floats(2, 3, 9)), (3, floats(1, 2, 4, 5, 3))):
        for operator in ("MaxPool", "AveragePool"):
            yield f"{operator}_{rank}d", operator, (x,), {"kernel_shape": [2] * rank}
            yield f"Global{operator}_{rank}d", f"Global{operator}", (x,), {}
    for operator in ("GlobalMaxPool", "GlobalAveragePool"):
        yield operator, operator, (IMAGE,), {}
    pads = [ints(0, 0, 1, 2, 0, 0, 2, 1)]
    yield "pad", "Pad", (IMAGE, pads), {}
    yield "pad_value", "Pad", (IMAGE, pads, [array(1.5)]), {}
    yield "pad_axes", "Pad", (IMAGE, [ints(1, 2)], [array(0)], [ints(-1)]), {}
    for mode in ("edge", "reflect"):
        yield f"pad_{mode}", "Pad", (IMAGE, pads), {"mode": mode}
    floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    for name, scales in {
        "twice": [1, 1, 2, 2],
        "odd": [1, 1, 1.7, 3],
        "less": [1, 1, 0.5, 1],
    }.items():
        yield f"resize_{name}", "Resize", (IMAGE, [NONE], [array(scales)]), floor
    yield "resize_half", "Resize", (IMAGE, [NONE], [array([1, 1, 2, 3])]), {}
    yield "resize_axes", "Resize", (IMAGE, [NONE], [array([3, 2])]), {"axes": [3, 2], **floor}
    yield "resize_sizes", "Resize", (IMAGE, [NONE], [NONE], [ints(2, 4, 21, 6)]), floor


def moving() -> Iterator[Case]:
    yield "reshape", "Reshape", (X, [ints(4, -1)]), {}
    yield "reshape_zero", "Reshape", (X, [ints(0, -1, 2)]), {}
    yield "reshape_number", "Reshape", (array([2.0]), [ints()]), {}
    for axis in (0, 1, 2, 3, -1):
        yield f"flatten_{axis}", "Flatten", (X,), {"axis": axis}
    yield "flatten_number", "Flatten", (array(2.0),), {"axis": 0}
    yield "squeeze", "Squeeze", (floats(1, 3, 1), [ints(-1)]), {}
    yield "squeeze_all", "Squeeze", (floats(1, 3, 1),), {}
    yield "squeeze_none", "Squeeze", (X,), {}
    yield "unsqueeze", "Unsqueeze", (X, [ints(-1, 0)]), {}
    yield "transpose", "Transpose", (X,), {"perm": [1, 2, 0]}
    yield "transpose_all", "Transpose", (np.arange(6).reshape(2, 3),), {}
    yield "transpose_bools", "Transpose", (X > 0,), {"perm": [0, 1, 2]}
    yield "concat", "Concat", (X, floats(2, 1, 4)), {"axis": -2}
    yield "concat_ints", "Concat", (ints(1, 2), [ints(3)]), {"axis": 0}
    yield "slice", "Slice", (IMAGE, [ints(1, -3)], [ints(3, 99)], [ints(1, -1)]), {}
    yield "slice_none", "Slice", (X, [ints(0)], [ints(99)]), {}
    yield "slice_bools", "Slice", (X > 0, [ints(1)], [ints(2)], [ints(1)]), {}
    yield "gather", "Gather", (X, [ints(0, -1)]), {}
    yield "gather_number", "Gather", (X, [np.array(-1)]), {"axis": 1}
    yield "gather_fed", "Gather", (X, np.array([[1, -2], [0, 2]])), {"axis": 1}
    yield "gather_ints", "Gather", (ints(5, 6, 7), ints(1, -1, kind="int32")), {}
    yield "tile", "Tile", (X, [ints(2, 1, 3)]), {}
    yield "tile_once", "Tile", (X, [ints(1, 1, 1)]), {}
    yield "expand", "Expand", (floats(3, 1), [ints(2, 1, 4)]), {}
    yield "expand_number", "Expand", (array(2.0), [ints(2, 2)]), {}
    for mode in ("DCR", "CRD"):
        yield (
            f"to_space_{mode}",
            "DepthToSpace",
            (floats(1, 8, 2, 3),),
            {"blocksize": 2, "mode": mode},
        )
    yield "to_depth", "SpaceToDepth", (floats(1, 2, 4, 6),), {"blocksize": 2}
    for operator in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"):
        yield operator, operator, (X,), {}
        yield f"{operator}_axes", operator, (X, [ints(-1, 0)]), {"keepdims": 0}
        yield f"{operator}_none", operator, (X,), {"noop_with_empty_axes": 1}
    for operator in ("ArgMax", "ArgMin"):
        yield operator, operator, (np.round(X),), {"axis": -1, "keepdims": 0}
        yield f"{operator}_ints", operator, (ints(3, 1, 3, 1),), {}


GROUPS = {
    each.__name__: {case[0]: case[1:] for case in each()}
    for each in (elementwise, several, layers, pooling, moving)
}
KINDS = {
    **dict.fromkeys(("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal", "Not"), "bool"),
    **dict.fromkeys(("ArgMax", "ArgMin"), "int64"),
}
CASTS = {6: "int32", 7: "int64", 9: "bool", 1: "float32", 2: "uint8"}


@cache
def crossing_of(group: str) -> Crossing:
    return cross(_trips(GROUPS[group]))


def _trips(cases: dict[str, Any]) -> Trips:
    trips = Trips(opset=23)
    for name, (operator, inputs, attributes) in cases.items():
        fed = [value for value in inputs if not isinstance(value, list)]
        held = [value[0] for value in inputs if isinstance(value, list)]
        kind = fed[-1 if operator == "Where" else 0].dtype.name
        kind = KINDS.get(operator, CASTS[attributes["to"]] if operator == "Cast" else kind)
        trips.add(name, operator, fed, *held, types=(kind,), tolerance=2e-5, **attributes)
    return trips


@pytest.mark.parametrize("name", [f"{g}.{name}" for g, cases in GROUPS.items() for name in cases])
def test_it_computes_the_same(name: str) -> None:
    group, _, case = name.partition(".")
    crossing_of(group).check(case)


def test_operators_of_several_results() -> None:
    trips = Trips(opset=23)
    trips.add("split", "Split", [X], ints(1, 3), types=("float32",) * 2, axis=-1)
    trips.add("split_even", "Split", [X], types=("float32",) * 2, num_outputs=2, axis=2)
    trips.add("top", "TopK", [np.round(X)], ints(2), types=BOTH, axis=1)
    trips.add("max", "MaxPool", [IMAGE], types=("float32", ""), kernel_shape=[2, 2])
    crossing = cross(trips)
    for name in trips.results:
        crossing.check(name)


@pytest.mark.parametrize("opset", [7, 8, 10, 12])
def test_as_older_opsets_have_it(opset: int) -> None:
    trips = Trips(opset=opset)
    trips.add("softmax", "Softmax", [X])
    trips.add("log_softmax", "LogSoftmax", [X], axis=1)
    trips.add("squeeze", "Squeeze", [floats(1, 3, 1)], axes=[0])
    trips.add("flatten", "Flatten", [X], axis=2)
    if opset < 9:
        trips.add("upsample", "Upsample", [IMAGE], scales=[1.0, 1.0, 2.0, 2.5])
    if opset < 10:
        trips.add("slice", "Slice", [X], starts=[1, 0], ends=[-1, 2], axes=[2, 1])
        trips.add("dropout", "Dropout", [X], ratio=0.3)
        trips.add("top", "TopK", [X], types=BOTH, k=2)
    if opset == 10:
        trips.add("resize", "Resize", [IMAGE], array([1, 1, 2, 2.5]))
    if opset < 11:
        trips.add("clip", "Clip", [X], min=-0.3, max=0.4)
        trips.add("pad", "Pad", [IMAGE], pads=[0, 0, 1, 2, 0, 0, 0, 1], value=2.0)
    crossing = cross(trips)
    for name in trips.results:
        crossing.check(name)


def test_every_row_is_tested() -> None:
    tested = {case[0] for cases in GROUPS.values() for case in cases.values()}
    assert {row.operator for row in TABLE} - tested == {"Split", "TopK", "Upsample"}


def test_what_a_model_gives_may_be_constant() -> None:
    to = Emitter("constants", where="constants")
    x = to.input("x", "float32", (2, 3))
    to.output(to.node("Relu", [x], "y"), "float32", (2, 3))
    to.output(to.constant(floats(2), hint="held"), "float32", (2,))
    net = to_caffe2(to.state())
    assert list(predict_of(net).external_output) == ["y", "held"]
    given = tk.run(to_onnx(net), {"x": floats(2, 3)})
    np.testing.assert_array_equal(given["held"], floats(2))


def test_a_weight_is_kept_once_and_as_it_lies() -> None:
    to = Emitter("weights", where="weights")
    x = to.input("x", "float32", (2, 3))
    w = to.constant(floats(3, 4), hint="w")
    to.output(
        to.node("MatMul", [to.node("Gemm", [x, w]), to.constant(floats(4, 4))]), "float32", None
    )
    state = to.state()
    net = to_caffe2(state)
    assert [tensor.shape for tensor in net.values()] == [(4,), (4, 3), (4, 4)]
    assert list(predict_of(net).external_input) == ["x", *net]


def test_indices_that_are_computed_may_count_from_the_end() -> None:
    (gather,) = written("Gather", [(2, 3), ("int64", (2,))], (2, 2), axis=1)
    assert {row.name: row.i for row in gather.arg} == {"axis": 1, "wrap_indices": 1}


def test_what_real_caffe2_refuses_is_copied() -> None:
    """It takes no ratio of 1, also where nothing is dropped."""
    (copied,) = written("Dropout", [(2, 3), array(1.0)], (2, 3))
    assert copied.type == "Copy"
    (dropout,) = written("Dropout", [(2, 3), array(0.25)], (2, 3))
    assert dropout.type == "Dropout"
