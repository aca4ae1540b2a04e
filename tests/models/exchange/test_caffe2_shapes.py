"""Operators of Caffe2 that reshape, join, select, reduce and multiply, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis.strategies import integers
from tests.models.exchange.caffe2_nets import check, model, op, translated

from tensorkeep.errors import TranslationError
from tensorkeep.message import Message
from tensorkeep.state import State
from tensorkeep.wire.caffe2.nets import Nets

RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(2, 3, 4)).astype(np.float32)
Y = RANDOM.normal(size=(2, 5, 4)).astype(np.float32)


def numbers(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype(np.float32)


def test_shapes() -> None:
    ops = [
        op("Reshape", "x", "r old", shape=[0, -1]),
        op("Reshape", "x s", "rs none"),
        op("Flatten", "x", "f"),
        op("Flatten", "x", "f2", axis=2),
        op("FlattenToVec", "x", "v"),
        op("ExpandDims", "x", "e", dims=[0, 2]),
        op("Squeeze", "e", "q", dims=[2, 0]),
        op("Transpose", "x", "t"),
        op("Transpose", "x", "u", axes=[1, 0, 2]),
        op("Shape", "x", "h"),
        op("Shape", "x", "h2", axes=[2, 0]),
        op("Size", "x", "n"),
        op("ResizeLike", "f x", "l"),
    ]
    expected = {
        "r": X.reshape(2, 12),
        "old": np.array([2, 3, 4]),
        "rs": X.reshape(4, 6),
        "f": X.reshape(2, 12),
        "f2": X.reshape(6, 4),
        "v": X.reshape(-1),
        "e": X.reshape(1, 2, 1, 3, 4),
        "q": X,
        "t": X.T,
        "u": X.transpose(1, 0, 2),
        "h": np.array([2, 3, 4]),
        "h2": np.array([4, 2]),
        "n": np.array(24),
        "l": X,
    }
    state = model(*ops, weights={"s": np.array([4, -1])}, outputs=" ".join(expected))
    check(state, {"x": X}, expected)


def test_shapes_that_need_sizes() -> None:
    ops = [
        op("MergeDim", "x", "m"),
        op("PrependDim", "x", "p", dim_size=2),
        op("Tile", "x", "t", tiles=3, axis=1),
        op("Concat", "x y", "c sizes", axis=1),
        op("Concat", "x x", "a one", axis=1, add_axis=1),
    ]
    expected = {
        "m": X.reshape(6, 4),
        "p": X.reshape(2, 1, 3, 4),
        "t": np.tile(X, (1, 3, 1)),
        "c": np.concatenate([X, Y], 1),
        "sizes": np.array([3, 5], np.int32),
        "a": np.stack([X, X], 1),
        "one": np.array([1, 1], np.int32),
    }
    check(model(*ops, outputs=" ".join(expected)), {"x": X, "y": Y}, expected, needs="shape")


def test_joining_and_parting() -> None:
    image = numbers(1, 2, 2, 3)
    ops = [
        op("Concat", "x x", "c sizes", axis=-1),
        op("Concat", "i i", "channels", order="NHWC"),
        op("DepthConcat", "i i", "depth"),
        op("Split", "x", "a b c2", axis=1),
        op("Split", "x", "d e", axis=2, split=[1, 3]),
        op("Split", "x n", "f g", axis=2),
        op("Split", "x", "h i2", axis=0, add_axis=1),
    ]
    expected = {"c": np.concatenate([X, X], 2), "channels": np.concatenate([image, image], 3)}
    expected["depth"] = np.concatenate([image, image], 1)
    expected |= {"a": X[:, :1], "b": X[:, 1:2], "c2": X[:, 2:], "d": X[..., :1], "e": X[..., 1:]}
    expected |= {"f": X[..., :3], "g": X[..., 3:], "h": X[0], "i2": X[1]}
    state = model(*ops, weights={"n": np.array([3, 1], np.int32)}, outputs=" ".join(expected))
    check(state, {"x": X, "i": image}, expected)


def test_slices_count_from_behind_the_end() -> None:
    ops = [
        op("Slice", "x", "a", starts=[0, 1, 0], ends=[-1, -1, -1]),
        op("Slice", "x", "b", starts=[0, 0, -3], ends=[-1, -1, -2]),
        op("Slice", "x", "c", starts=[1], ends=[2]),
        op("Slice", "x", "d", starts=[0, 0, 0], ends=[-1, 9, -1]),
        op("Slice", "x", "e", starts=[0, -1, 0], ends=[-1, -1, -1]),
        op("Slice", "x s t", "f"),
    ]
    expected = {"a": X[:, 1:], "b": X[..., 2:3], "c": X[1:2], "d": X, "e": X[:, 3:]}
    expected["f"] = X[..., 1:3]
    weights = {"s": np.array([0, 0, 1]), "t": np.array([-1, -1, -3])}
    weights["t"] = np.array([-1, -1, 3])
    check(model(*ops, weights=weights), {"x": X}, expected)


@settings(max_examples=40, deadline=None)
@given(integers(-7, 7), integers(-7, 7), integers(0, 2))
def test_any_slice(start: int, end: int, axis: int) -> None:
    size = X.shape[axis]
    first = min(start if start >= 0 else size + 1 + start, size)
    past = min(end if end >= 0 else size + 1 + end, size)
    assume(0 <= first <= past)  # else Caffe2 refuses to run
    starts, ends = [0, 0, 0], [-1, -1, -1]
    starts[axis], ends[axis] = start, end
    chosen = [slice(None)] * 3
    chosen[axis] = slice(first, past)
    state = model(op("Slice", "x", "y", starts=starts, ends=ends))
    check(state, {"x": X}, {"y": X[tuple(chosen)]})


def test_selecting() -> None:
    index, table = np.array([[2, 0], [1, 1]], np.int32), numbers(3, 2)
    ops = [
        op("Gather", "table i", "g"),
        op("Gather", "x i", "g1", axis=1),
        op("BatchGather", "x i", "b"),
        op("NumpyTile", "x n", "tiled"),
        op("Expand", "table s", "e"),
        op("TopK", "x", "top places", k=2),
        op("TopK", "x k", "first where", axis=1),
        op("ArgMax", "x", "most"),
        op("ArgMin", "x", "least", axis=1, keepdims=0),
    ]
    order = np.argsort(-X, axis=2, kind="stable")[..., :2]
    second = np.argsort(-X, axis=1, kind="stable")[:, :1]
    expected = {
        "g": table[index],
        "g1": X[:, index],
        "b": X[:, index],
        "tiled": np.tile(X, (2, 1, 3)),
        "e": np.broadcast_to(table, (4, 3, 2)),
        "top": np.take_along_axis(X, order, 2),
        "places": order,
        "first": np.take_along_axis(X, second, 1),
        "where": second,
        "most": X.argmax(2)[..., None],
        "least": X.argmin(1),
    }
    weights = {"table": table, "n": np.array([2, 1, 3]), "s": np.array([4, 1, 2])}
    weights["k"] = np.array([1])
    state = model(*ops, weights=weights, outputs=" ".join(expected))
    check(state, {"x": X, "i": index}, expected)


def test_reductions() -> None:
    wide = X.astype(np.float64)
    functions: dict[str, Callable[..., Any]] = {
        "Sum": np.sum,
        "Mean": np.mean,
        "Max": np.max,
        "Min": np.min,
    }
    ops: list[Message] = []
    expected: dict[str, Any] = {}
    for kind, function in functions.items():
        ops += [
            op(f"Reduce{kind}", "x", f"{kind}_all", keepdims=0),
            op(f"Reduce{kind}", "x", f"{kind}_some", axes=[-1, 0]),
            op(f"ReduceFront{kind}", "x", f"{kind}_front", num_reduce_dim=2),
            op(f"ReduceBack{kind}", "x", f"{kind}_back"),
        ]
        expected |= {
            f"{kind}_all": function(wide),
            f"{kind}_some": function(wide, (0, 2), keepdims=True),
            f"{kind}_front": function(wide, (0, 1)),
            f"{kind}_back": function(wide, 2),
        }
    ops += [op("RowwiseMax", "x", "rows"), op("ColwiseMax", "x", "columns")]
    expected |= {"rows": wide.max(2), "columns": wide.max(1)}
    ops += [op("ReduceL1", "x", "l1", axes=[1]), op("ReduceL2", "x", "l2", axes=[1], keepdims=0)]
    ops += [op("SumElements", "x", "total"), op("SumElements", "x", "average", average=1)]
    expected |= {"l1": np.abs(wide).sum(1, keepdims=True), "l2": np.sqrt((wide**2).sum(1))}
    expected |= {"total": wide.sum(), "average": wide.mean()}
    singles = {name: np.asarray(array, np.float32) for name, array in expected.items()}
    check(model(*ops), {"x": X}, singles)


def test_fully_connected() -> None:
    flat, x4 = X.reshape(2, 12), numbers(2, 3, 4, 1)
    weights = {"w": numbers(5, 12), "v": numbers(12, 5), "b": numbers(5), "u": numbers(5, 4)}
    weights |= {"w4": weights["w"].reshape(1, 1, 5, 12), "row": weights["b"].reshape(1, 5)}
    ops = [
        op("FC", "x w b", "y"),
        op("FC", "f w b", "yf"),
        op("FCTransposed", "x v b", "yt"),
        op("FC", "x u row", "y2", axis=2),
        op("FC", "x4 u b", "y4", axis=2),
        op("FC", "x w4 b", "yw", axis_w=3),
    ]
    product = flat @ weights["w"].T + weights["b"]
    expected = {
        "y": product,
        "yf": product,
        "yt": flat @ weights["v"] + weights["b"],
        "y2": X @ weights["u"].T + weights["b"],
        "y4": x4.reshape(2, 3, 4) @ weights["u"].T + weights["b"],
        "yw": product,
    }
    feeds = {"x": X, "f": flat, "x4": x4}
    check(model(*ops, weights=weights), feeds, expected)


def test_products() -> None:
    a, b = numbers(3, 4), numbers(5, 4)
    c, d, e = numbers(2, 4, 3), numbers(2, 4, 5), numbers(2, 4, 3)
    ops = [
        op("MatMul", "a b", "y", trans_b=1),
        op("MatMul", "x b", "flat", axis_a=2, trans_b=1),
        op("BatchMatMul", "x d", "batch"),
        op("BatchMatMul", "c d", "turned", trans_a=1),
        op("DotProduct", "a a", "dot"),
        op("SquaredL2Distance", "c e", "squares"),
        op("L1Distance", "c e", "sizes"),
        op("ElementwiseLinear", "a w v", "line"),
        op("RowMul", "a r", "rows"),
    ]
    weights = {"w": numbers(4), "v": numbers(4), "r": numbers(3)}
    expected = {
        "y": a @ b.T,
        "flat": X.reshape(6, 4) @ b.T,
        "batch": X @ d,
        "turned": c.transpose(0, 2, 1) @ d,
        "dot": (a * a).sum(1),
        "squares": ((c - e) ** 2).sum((1, 2)) / 2,
        "sizes": np.abs(c - e).sum((1, 2)),
        "line": a * weights["w"] + weights["v"],
        "rows": a * weights["r"].reshape(-1, 1),
    }
    feeds = {"a": a, "b": b, "c": c, "d": d, "e": e, "x": X}
    check(model(*ops, weights=weights), feeds, expected, needs="rank")


def test_what_is_computed_while_it_runs() -> None:
    shape, k = np.array([4, -1], np.int32), np.array([2], np.int32)
    wide = numbers(2, 12)
    ops = [
        op("Reshape", "x s", "r old"),
        op("TopK", "x k", "top where"),
        op("Expand", "x e", "wide"),
        op("Tile", "x n a", "tiled"),
        op("ElementwiseLinear", "x w w", "line", axis=1),
        op("Mul", "x one", "m", broadcast=1),
        op("GivenTensorBoolFill", "", "truth", shape=[2], values=[1, 0]),
        op("DiagonalFill", "", "eye", shape=[2, 2], value=1.0),
    ]
    weights = {"n": np.array([2]), "a": np.array([1]), "w": wide[0]}
    expected = {
        "r": X.reshape(4, 6),
        "top": -np.sort(-X, 2)[..., :2],
        "wide": np.broadcast_to(X, (3, 2, 3, 4)),
        "tiled": np.tile(X, (1, 2, 1)),
        "line": (X.reshape(2, 12) * wide[0] + wide[0]).reshape(2, 3, 4),
        "m": X * 2,
        "truth": np.array([True, False]),
        "eye": np.eye(2, dtype=np.float32),
    }
    feeds = {
        "x": X,
        "s": shape,
        "k": k,
        "e": np.array([3, 1, 1, 1]),
        "one": np.array([2], np.float32),
    }
    check(model(*ops, weights=weights), feeds, expected, needs="rank")


def test_normalizing_vectors() -> None:
    gamma, beta = numbers(3, 4), numbers(3, 4)
    zero = X.copy()
    zero[0, 1] = 0
    ops = [
        op("LayerNorm", "x", "y mean std", epsilon=1e-3),
        op("LayerNorm", "x g b", "affine m s", elementwise_affine=1),
        op("LayerNorm", "x", "last lm ls", axis=2),
        op("Normalize", "z", "l2"),
        op("Normalize", "z", "l2a", axis=1),
        op("NormalizeL1", "z", "l1"),
    ]
    wide = X.astype(np.float64)

    def layer(axes: tuple[int, ...], epsilon: float) -> Any:
        mean = wide.mean(axes, keepdims=True)
        std = np.sqrt(wide.var(axes, keepdims=True) + epsilon)
        return (wide - mean) / std, mean, std

    y, mean, std = layer((1, 2), 1e-3)
    norms = np.maximum(np.sqrt((zero.astype(np.float64) ** 2).sum(2, keepdims=True)), 1e-12)
    sums = np.abs(zero).sum(2, keepdims=True)
    expected = {
        "y": y,
        "mean": mean.reshape(2, 1),
        "std": std.reshape(2, 1),
        "affine": layer((1, 2), 1e-5)[0] * gamma + beta,
        "last": layer((2,), 1e-5)[0],
        "lm": layer((2,), 1e-5)[1],
        "l2": zero / norms,
        "l2a": zero / np.sqrt((zero**2).sum(1, keepdims=True)),
        "l1": zero / np.where(sums == 0, 1, sums),
    }
    singles = {name: np.asarray(array, np.float32) for name, array in expected.items()}
    state = model(*ops, weights={"g": gamma, "b": beta}, outputs=" ".join(expected))
    check(state, {"x": X, "z": zero}, singles, needs="rank")


def declared(state: State) -> State:
    """Say that w is a weight, however it is used, and s an input."""
    nets = state.document
    assert isinstance(nets, Nets)
    nets.inputs = ["x", "s"]
    return state.replace(document=nets)


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (op("Split", "x", "y z", axis=1), "its axis has 3 elements, which 2 outputs do not share"),
        (op("Split", "x", "y z", axis=1, split=[1, 1]), "its parts have 2 elements, and its axis"),
        (op("Transpose", "x", "y", axes=[0, 0, 1]), "its argument axes is [0, 0, 1], which is no"),
        (op("Squeeze", "x", "y"), "its argument dims is []"),
        (op("ChannelShuffle", "x", "y", group=2), "its 3 channels are not 2 groups"),
        (op("Slice", "x", "y", starts=[0], ends=[0, 1]), "it has 1 starts and 2 ends"),
        (op("Gather", "x w", "y", match_outer=1), "its argument match_outer is 1"),
        (op("SpatialBN", "x w w w w", "y"), "it is in training mode (is_test is not 1)"),
        (op("LRN", "x", "y", size=2), "its argument size is 2, where an odd number is needed"),
        (op("MaxPool", "x", "y", kernel=2), "its windows have 2 axes, and its input has 3"),
        (op("Conv", "x w", "y"), "it has no kernel"),
        (op("Conv", "x w", "y", kernel=3, pad_t=1), "it has some of pad_t, pad_l, pad_b and pad_r"),
        (op("Conv", "x w", "y", kernel=0), "a kernel, stride or dilation is not above zero"),
        (op("Conv", "x w", "y", kernel=2, order="CHW"), "its argument order is 'CHW', and NCHW"),
        (op("MaxPool", "x", "y", kernels=[2], pads=[2, 2]), "a pad is not smaller than the kernel"),
        (
            op("Conv", "x w", "y", kernel=2, legacy_pad=9),
            "its argument legacy_pad is 9, and 0 to 3",
        ),
        (
            op("Conv", "x w", "y", kernel=2, legacy_pad=1, pad=1),
            "it has both pads and a legacy_pad",
        ),
        (op("Conv", "x w", "y", kernel=2, strides=[1]), "which do not fit together"),
        (op("Conv", "x w", "y", kernels=[2]), "its filter has the shape (3,), and its kernel is"),
        (op("Conv", "x w", "y", kernels=[2], legacy_pad=2, dilations=[2]), "both legacy_pad and a"),
        (op("MaxPool", "x", "y", kernels=[1], legacy_pad=2, stride=2), "which do not fit together"),
        (
            op("MaxPool", "x", "y", kernels=[1], legacy_pad=2, strides=[2]),
            "smaller than its stride",
        ),
        (op("MaxPool", "x", "y", kernels=[1], legacy_pad=3, strides=[5]), "outside of the image"),
        (op("MaxPool", "x", "y", kernels=[2], dilations=[2]), "it has a dilation, which pooling"),
        (op("MaxPool", "x", "y", global_pooling=1, stride=2), "global_pooling and stride=2"),
        (op("MaxPool", "x", "y", global_pooling=1, pad=2), "it has global_pooling and pad=2"),
        (op("MaxPool", "x", "y", global_pooling=1, pads=[2]), "it has global_pooling and pads"),
        (op("MaxPool", "x", "y", global_pooling=1, strides=[2]), "global_pooling and strides or"),
        (op("ConvTranspose", "x w", "y", kernel=2, legacy_pad=1), "it has a legacy_pad, or no"),
        (op("ConvTranspose", "x w", "y", kernel=2, dilation=2), "it has a dilation, which Caffe2"),
        (op("ConvTranspose", "x w", "y", kernel=2, adjs=[1]), "its adj is [1], and its kernel"),
        (op("PadImage", "x", "y", mode="wrap"), "its argument mode is 'wrap'"),
        (op("PadImage", "x", "y", pads=[1, 1], kernels=[1]), "or pads that are not four"),
        (op("UpsampleNearest", "x", "y", scale=0), "its argument scale is 0"),
        (op("ResizeNearest", "x s", "y"), "its second input, the scales, is not a constant"),
        (op("ResizeNearest3D", "x", "y", order="NHWC"), "its argument order is NHWC"),
        (op("Concat", "x x", "y", order="CHW"), "its argument order is 'CHW'"),
        (op("Split", "x", "y z", split=[1, 1, 1]), "it has 2 outputs, and 3 sizes of parts"),
        (op("Reshape", "x s", "y", shape=[1]), "both an argument shape and a second input"),
        (op("BatchMatMul", "w x", "y", trans_a=1), "its argument trans_a is 1, and what it turns"),
        (op("Slice", "x s s", "y"), "its second input, the starts, ('s') is not a constant"),
        (op("Slice", "x", "y", starts=[0] * 4, ends=[1] * 4), "it has 4 starts, and its input 3"),
        (op("Tile", "x", "y", tiles=-1), "its tiles are -1"),
        (op("TopK", "x", "y i"), "it has no k"),
        (op("WeightedSum", "x", "y"), "it has 1 inputs, where pairs are expected"),
        (op("Pow", "x", "y"), "it has no exponent"),
        (op("Cast", "x", "y"), "it has no argument to"),
        (op("FloatToHalf", "x", "y", clip=1), "its argument clip is 1"),
        (op("PRelu", "x s", "y"), "the number of its slopes is not known"),
        (op("Mul", "x w", "y", broadcast=1, axis=1, axis_str="C"), "both axis and axis_str"),
        (op("Mul", "x w", "y", broadcast=1, axis_str="Q"), "axis_str is 'Q', which is not in"),
        (op("Mul", "w x", "y", broadcast=1), "broadcast=1 gives 3 axes to one of 1"),
        (op("GivenTensorFill", "x", "y"), "it takes its shape from an input"),
        (
            op("GivenTensorFill", "", "y", shape=[2], values=[1.0]),
            "has the shape (2,), but 1 values",
        ),
        (op("GivenTensorStringFill", "x", "y"), "it takes its shape from an input"),
        (op("TopK", "x", "a b y", k=1), "its output 3 ('y') is used"),
        (op("ReduceFrontSum", "x w", "y"), "it has 2 inputs, where 1 are known"),
        (op("ReduceMean", "i", "y"), "it is the mean of integers"),
        (op("FC", "x w", "y"), "it has 2 inputs, and needs 3"),
        (op("FC", "x w w", "y", axis=5), "its axis is 5, and 'x' has 3 axes"),
    ],
)
def test_what_is_refused(operator: Any, words: str) -> None:
    weights = {"w": np.zeros(3, np.float32), "i": np.zeros(3, np.int32)}
    state = model(operator, weights=weights, outputs="y")
    shapes = {"x": (2, 3, 4)} if "x" in operator.input else {}
    with pytest.raises(TranslationError) as caught:
        translated(declared(state), shapes)
    assert words in str(caught.value)
