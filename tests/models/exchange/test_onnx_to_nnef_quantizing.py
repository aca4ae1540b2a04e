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

from tensorkeep.models.exchange.report import Refused

X = floats(2, 3, 4) * 3
X[0, 0] = [0.25, 0.75, 1.25, -0.25]  # halves, by a scale of 0.5
KINDS = ("int8", "uint8", "int16", "uint16")
SCALES = array([0.5, 0.1, 0.03])


def zeros(kind: str) -> Array:
    """Give zero points of three channels."""
    return np.array([3, 0, 5] if kind.startswith("u") else [-3, 0, 5], kind)


def pair(trips: Trips, name: str, x: str, scale: Array, zero: Array | None, axis: int = 1) -> str:
    """Add QuantizeLinear and DequantizeLinear."""
    held = [trips.to.constant(scale), None if zero is None else trips.to.constant(zero)]
    middle = trips.to.node("QuantizeLinear", [x, *held], f"{name}_q", axis=axis)
    return trips.to.node("DequantizeLinear", [middle, *held], f"{name}_y", axis=axis)


@pytest.fixture(scope="module")
def journey() -> Journey:
    trips = Trips(opset=21)
    x = trips.input("x", X)
    for kind in KINDS:
        zero = np.array(7, kind)
        trips.output(f"pair_{kind}", pair(trips, f"pair_{kind}", x, array(0.5), zero))
        name = f"axis_{kind}"
        trips.output(name, pair(trips, name, x, SCALES, zeros(kind), axis=1))
        for name, scale, offset in (
            (f"alone_{kind}", array(0.5), zero),
            (f"alone_axis_{kind}", SCALES, zeros(kind)),
        ):
            trips.add(name, "QuantizeLinear", [X], scale, offset, types=(kind,), axis=1)
        stored = np.arange(24, dtype=kind).reshape(X.shape)
        trips.add(f"back_{kind}", "DequantizeLinear", [stored], array(0.3), zero)
        trips.add(f"back_axis_{kind}", "DequantizeLinear", [stored], SCALES, zeros(kind), axis=-2)
        weight = trips.to.constant(stored, hint=f"stored_{kind}")
        held = [trips.to.constant(array(0.3)), trips.to.constant(zero)]
        plain = trips.to.node("DequantizeLinear", [weight, *held], f"weight_{kind}_y")
        sum = trips.to.node("Add", [x, plain], f"weight_{kind}_sum")
        trips.output(f"weight_{kind}", sum)
    trips.output("weight", plain)
    trips.output("no_zero", pair(trips, "no_zero", x, array(0.25), None))
    saturated = trips.input("saturated", array([1e6, -1e6, np.inf, -np.inf]))
    trips.output("far", pair(trips, "far", saturated, array(0.5), np.array(3, "int8")))
    stored = array([100000, -5, 7], "int32")
    trips.add("back_int32", "DequantizeLinear", [stored], array(0.001))
    trips.add("given", "QuantizeLinear", [X, array(0.1), np.array(4, "uint8")], types=("uint8",))
    dynamic = ("uint8", "float32", "uint8")
    trips.add("dynamic", "DynamicQuantizeLinear", [X], types=dynamic)
    trips.add("dynamic_positive", "DynamicQuantizeLinear", [np.abs(X) + 1], types=dynamic)
    trips.add("dynamic_nothing", "DynamicQuantizeLinear", [X * 0], types=dynamic)
    a = np.random.default_rng(1).integers(0, 255, (2, 3, 8)).astype("uint8")
    b = np.random.default_rng(2).integers(-128, 127, (8, 4)).astype("int8")
    whole = ("int32",)
    trips.add("product", "MatMulInteger", [a], b, types=whole)
    trips.add("product_given", "MatMulInteger", [a, b.astype("uint8")], types=whole)
    trips.add(
        "product_zero", "MatMulInteger", [a], b, array(12, "uint8"), array(3, "int8"), types=whole
    )
    columns = array([1, 2, -3, 4], "int8")
    trips.add("product_columns", "MatMulInteger", [a], b, array(12, "uint8"), columns, types=whole)
    image = np.random.default_rng(3).integers(0, 255, (1, 2, 5, 5)).astype("uint8")
    filters = np.random.default_rng(4).integers(0, 255, (3, 2, 3, 3)).astype("uint8")
    trips.add("conv", "ConvInteger", [image], filters, types=whole, pads=[1, 1, 1, 1])
    trips.add(
        "conv_zero",
        "ConvInteger",
        [image],
        filters,
        array(9, "uint8"),
        array(4, "uint8"),
        types=whole,
    )
    b_scales = array([0.02, 0.1, 0.05, 0.03])
    for name, scale in (("one", array(0.02)), ("columns", b_scales)):
        zeros_b = array(3, "int8") if name == "one" else array([3, 1, 0, -2], "int8")
        weights = (array(0.1), array(12, "uint8"), b, scale, zeros_b, array(0.4))
        full = f"scaled_product_{name}"
        trips.add(full, "QLinearMatMul", [a], *weights, array(110, "uint8"), types=("uint8",))
    for name, scale in (("one", array(0.02)), ("channels", b_scales[:3])):
        zeros_b = array(4, "uint8") if name == "one" else array([4, 4, 4], "uint8")
        weights = (array(0.1), array(9, "uint8"), filters, scale, zeros_b, array(3.0))
        last = array(110, "uint8"), array([100, -50, 7], "int32")
        full = f"scaled_conv_{name}"
        pads = [1, 1, 1, 1]
        trips.add(full, "QLinearConv", [image], *weights, *last, types=("uint8",), pads=pads)
    return trips.run()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["pair", "axis", "alone", "alone_axis", "back", "back_axis", "weight"]
)
def test_what_comes_back_computes_the_same(journey: Journey, name: str, kind: str) -> None:
    journey.check(f"{name}_{kind}")


@pytest.mark.parametrize(
    "name",
    [
        *("no_zero", "far", "back_int32", "given", "dynamic", "dynamic_positive"),
        *("dynamic_nothing", "product", "product_given", "product_zero", "product_columns"),
        *("conv", "conv_zero", "scaled_product_one", "scaled_product_columns"),
        *("scaled_conv_one", "scaled_conv_channels", "weight"),
    ],
)
def test_other_quantization_comes_back(journey: Journey, name: str) -> None:
    journey.check(name)


def test_weights_stay_integers(journey: Journey) -> None:
    for kind in KINDS:
        assert journey.document[f"stored_{kind}"].dtype.name == kind


def test_a_pair_is_said_in_graph_quant() -> None:
    trips = Trips(opset=21)
    x = trips.input("x", X)
    trips.output("pair", pair(trips, "pair", x, array(0.1), np.array(7, "uint8")))
    journey = trips.run()
    (said,) = journey.document.document.quantization.items()  # type: ignore[union-attr]
    assert said[0] == "pair_y"
    assert (said[1].name, said[1].arguments) == (
        "zero_point_linear_quantize",
        {"zero_point": 7, "scale": 0.1, "bits": 8, "signed": False, "symmetric": False},
    )
    back = there_and_back(trips.to.state())
    operators = [node.op_type for node in back.graph.model.graph.node]  # type: ignore[union-attr]
    assert operators.index("QuantizeLinear") + 1 == operators.index("DequantizeLinear")


def test_halves_are_rounded_to_even() -> None:
    to = written(
        "QuantizeLinear",
        [(4,), array(0.5), np.array(0, "int8")],
        (4,),
        types=("int8",),
    )
    assert lines(to) == [
        "div = div(x = a, y = 0.5)",
        "floor = floor(x = div)",
        "sub = sub(x = div, y = floor)",
        "mul = mul(x = floor, y = 0.5)",
        "floor_2 = floor(x = mul)",
        "ne = ne(x = mul, y = floor_2)",
        "eq = eq(x = sub, y = 0.5)",
        "and = and(x = eq, y = ne)",
        "gt = gt(x = sub, y = 0.5)",
        "or = or(x = gt, y = and)",
        "ceil = ceil(x = div)",
        "select = select(condition = or, true_value = ceil, false_value = floor)",
        "clamp = clamp(x = select, a = -128.0, b = 127.0)",
        "y = cast<integer>(input = clamp)",
    ]
    assert to.types["y"] == "int8"


@pytest.mark.parametrize(
    ("inputs", "kind", "attributes", "reason"),
    [
        ([(4,), array(1), np.array(0, "int32")], "int32", {}, "it quantizes to int32"),
        ([(4,), array([1, 1])], "uint8", {"axis": 0}, "2 scales are not one for each"),
        ([(4,), array([[1]])], "uint8", {}, "not one or a row"),
        ([(4,), array([1, 1])], "uint8", {"block_size": 2}, "scales in blocks"),
        ([np.ones(4, "float16"), array(1, "float16")], "uint8", {}, "other numbers than float32"),
    ],
)
def test_what_nnef_does_not_quantize_is_refused(
    inputs: list[Any], kind: str, attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Refused) as refused:
        written("QuantizeLinear", inputs, (4,), types=(kind,), **attributes)
    assert reason in refused.value.reason


def test_sums_that_scalars_do_not_hold_are_refused() -> None:
    deep = [np.ones((1, 300), "uint8"), np.full((300, 1), 255, "uint8")]
    with pytest.raises(Refused, match="may be more than 2\\^24"):
        written("MatMulInteger", deep, (1, 1), types=("int32",))


def test_small_weights_make_small_sums() -> None:
    deep = [np.ones((1, 3000), "uint8"), np.ones((3000, 1), "int8")]
    to = written("MatMulInteger", deep, (1, 1), types=("int32",))
    assert lines(to)[-1] == "y = cast<integer>(input = matmul)"
