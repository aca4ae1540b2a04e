"""Arithmetic, functions, comparisons and logic of ONNX in NNEF."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.exchange import nnef_session
from tests.models.exchange.onnx_nodes import Array, Journey, Trips, floats, lines, written
from tests.models.exchange.settling_here import settling_here

import tensorkeep as tk
from tensorkeep.errors import TranslationError
from tensorkeep.models.exchange import nnef_to_onnx, onnx_to_nnef
from tensorkeep.models.exchange.report import Refused, Report

UNARY = {
    "Abs": "abs",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Exp": "exp",
    "Floor": "floor",
    "Neg": "neg",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Tan": "tan",
    "Tanh": "tanh",
    "Asinh": "asinh",
    "Atan": "atan",
    "Reciprocal": "rcp",
}
INSIDE_ONE = {"Acos": "acos", "Asin": "asin", "Atanh": "atanh"}
POSITIVE = {"Log": "log", "Sqrt": "sqrt"}
BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div"}
COMPARED = {
    "Equal": "eq",
    "Less": "lt",
    "LessOrEqual": "le",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
}
SHAPES = {
    "same": ((2, 3), (2, 3)),
    "lower": ((2, 3, 4), (4,)),
    "higher": ((4,), (2, 3, 4)),
    "crossed": ((3, 1), (2, 1, 4)),
    "number": ((2, 3), ()),
}


def numbers(values: Any, dtype: str = "float32") -> Array:
    """Give an array; of no axes for a number."""
    return np.array(values, dtype)


HALVES = numbers([-2.5, -1.5, -0.5, -0.3, 0.5, 1.5, 2.5, 0.49999997, -0.49999997, 8388609, 1e30])
ZERO = numbers(0, "int64")
EDGES = numbers([np.nan, np.inf, -np.inf, 0.0, -1.5])


def whole(*shape: int, dtype: str = "float32") -> Any:
    """Give small whole numbers, some of them equal."""
    return np.random.default_rng(5).integers(0, 3, shape).astype(dtype)


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    with settling_here():
        yield


def _all() -> Trips:
    trips = Trips()
    for operator in UNARY:
        trips.add(operator, operator, [3 * floats(2, 5)])
    for operator in INSIDE_ONE:
        trips.add(operator, operator, [np.tanh(floats(2, 5))])
    for operator in POSITIVE:
        trips.add(operator, operator, [np.abs(floats(2, 5)) + 0.1])
    trips.add("Acosh", "Acosh", [np.abs(floats(2, 5)) + 1])
    for operator in BINARY:
        for key, (x, y) in SHAPES.items():
            trips.add(f"{operator}_{key}", operator, [floats(*x), 2 + np.abs(floats(*y, seed=1))])
            trips.add(f"{operator}_{key}_weight", operator, [floats(*x)], 2 + floats(*y, seed=1))
    for operator in COMPARED:
        for key, (x, y) in SHAPES.items():
            given = [whole(*x), whole(*y)[::-1] if y else whole()]
            trips.add(f"{operator}_{key}", operator, given, types=("bool",))
    trips.add("Equal_bool", "Equal", [whole(4) > 0, whole(2, 4) > 1], types=("bool",))
    trips.add(
        "Less_ids",
        "Less",
        [numbers([2**62, 5, -7], "int64")],
        numbers([5], "int64"),
        types=("bool",),
    )
    trips.add(
        "Equal_ids",
        "Equal",
        [numbers([2**24 + 1, 3], "int32")],
        numbers(3, "int32"),
        types=("bool",),
    )
    for operator in ("And", "Or", "Xor"):
        trips.add(operator, operator, [whole(2, 3) > 0, whole(3) > 1], types=("bool",))
    trips.add("Not", "Not", [whole(2, 3) > 0], types=("bool",))
    trips.add("Where", "Where", [whole(2, 3) > 0, floats(3), floats(2, 1)])
    ids: dict[str, Any] = {"types": ("int64",)}
    trips.add("Where_ids", "Where", [whole(2) > 0, numbers([1, 2**60], "int64")], ZERO, **ids)
    trips.add("Where_numbers", "Where", [whole(2) > 0], *numbers([[1], [0]], "int64"), **ids)
    halves: dict[str, Any] = {"types": ("float16",)}
    trips.add("Where_halves", "Where", [whole(2) > 0], *numbers([[1], [0.1]], "float16"), **halves)
    for operator in ("Max", "Min", "Sum", "Mean"):
        trips.add(operator, operator, [floats(2, 1, 3), floats(3, seed=1), floats(4, 1, seed=2)])
        trips.add(f"{operator}_one", operator, [floats(2, 3)])
    trips.add("Max_ids", "Max", [numbers([-(2**60), 7], "int64")], numbers(3, "int64"), **ids)
    trips.add("Clip", "Clip", [floats(3, 4)], numbers(-0.5), numbers(0.25))
    trips.add("Clip_least", "Clip", [floats(3, 4)], numbers(-0.5))
    trips.add("Clip_most", "Clip", [floats(3, 4), None], numbers(0.25))
    trips.add("Clip_crossed", "Clip", [floats(3, 4)], numbers(0.5), numbers(-0.25))
    trips.add("Clip_given", "Clip", [floats(3, 4), np.array(0.5, "f"), np.array(-0.25, "f")])
    trips.add("Clip_nothing", "Clip", [floats(3, 4)])
    trips.add(
        "Clip_ids",
        "Clip",
        [numbers([-(2**60), 3, 2**60], "int64")],
        ZERO,
        numbers(9, "int64"),
        types=("int64",),
    )
    trips.add("Pow", "Pow", [np.abs(floats(2, 3)), floats(3, seed=1)])
    trips.add("Pow_int", "Pow", [floats(2, 3)], numbers(3, "int64"))
    trips.add("Pow_double", "Pow", [np.abs(floats(2, 3))], numbers([0.5, 2, 3], "float64"))
    trips.add("Round", "Round", [HALVES], tolerance=0)
    trips.add("Round_half", "Round", [HALVES[:9].astype("float16")], **halves, tolerance=0)
    trips.add("IsNaN", "IsNaN", [EDGES], types=("bool",))
    for key, (below, above) in {
        "both": (1, 1),
        "below": (1, 0),
        "above": (0, 1),
        "no": (0, 0),
    }.items():
        sides = {"detect_negative": below, "detect_positive": above}
        trips.add(f"IsInf_{key}", "IsInf", [EDGES], types=("bool",), **sides)
    many = np.r_[np.linspace(-5, 5, 2001), 10.0 ** -np.arange(1, 20)].astype("f")
    trips.add("Erf", "Erf", [many], tolerance=5e-7)
    trips.add("Erf_half", "Erf", [many[:2001].astype("float16")], **halves, tolerance=1e-3)
    for operator in ("Add", "Mul"):
        double, half = floats(3).astype("d"), floats(3).astype("float16")
        name = f"{operator}_double"
        trips.add(name, operator, [double], numbers(0.1, "float64"), types=("float64",))
        trips.add(f"{operator}_half", operator, [half], numbers(0.1, "float16"), **halves)
    return trips


@pytest.fixture(scope="module")
def trips() -> Trips:
    return _all()


@pytest.fixture(scope="module")
def journey(trips: Trips) -> Journey:
    return trips.run()


@pytest.mark.parametrize("name", sorted(_all().results))
def test_there_and_back(journey: Journey, name: str) -> None:
    journey.check(name)


def test_shapes_are_those_that_nnef_infers(journey: Journey) -> None:
    for name, shape in nnef_session.inferred_shapes(journey.document).items():
        assert shape == journey.before[name].shape, name


def test_nnef_computes_the_same(tmp_path: Path) -> None:
    trips = Trips()
    for operator in ("Exp", "Tanh", "Sign", "Reciprocal"):
        trips.add(operator, operator, [floats(2, 3)])
    for operator in (*BINARY, "Max", "Min"):
        for key in ("lower", "higher", "crossed"):
            x, y = SHAPES[key]
            trips.add(f"{operator}_{key}", operator, [floats(*x), 2 + np.abs(floats(*y, seed=1))])
    trips.add("Less", "Less", [whole(2, 3), whole(3)], types=("bool",))
    trips.add("Xor", "Xor", [whole(2, 3) > 0, whole(3) > 1], types=("bool",))
    trips.add("Where", "Where", [whole(2, 3) > 0, floats(3), floats(2, 1)])
    trips.add("Round", "Round", [HALVES[:9]], tolerance=0)
    trips.add("Erf", "Erf", [floats(20)], tolerance=1e-6)
    trips.add("Clip", "Clip", [floats(3, 4)], numbers(-0.5), numbers(0.25))
    journey = trips.run()
    journey.after = nnef_session.run(journey.document, trips.feeds, tmp_path)
    for name in trips.results:
        for output in trips.results[name]:
            np.testing.assert_allclose(journey.after[output], journey.before[output], 1e-5, 1e-6)


@pytest.mark.parametrize("operator", [*UNARY, *INSIDE_ONE, *POSITIVE])
def test_functions_are_one_operation(operator: str) -> None:
    name = {**UNARY, **INSIDE_ONE, **POSITIVE}[operator]
    assert lines(written(operator, [(2, 3)], (2, 3))) == [f"y = {name}(x = a)"]


def test_missing_axes_are_put_before() -> None:
    to = written("Add", [(2, 3, 4), (4,)], (2, 3, 4))
    assert lines(to) == [
        "unsqueeze = unsqueeze(input = b, axes = [0, 1])",
        "y = add(x = a, y = unsqueeze)",
    ]


def test_a_weight_keeps_its_shape() -> None:
    to = written("Add", [(2, 3, 4), np.zeros(4, "f")], (2, 3, 4))
    assert to.variables["b"].shape == (4,)
    assert lines(to)[0] == "unsqueeze = unsqueeze(input = b, axes = [0, 1])"


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_weight_of_one_number_is_that_number(shape: tuple[int, ...]) -> None:
    to = written("Mul", [(2, 3), np.full(shape, 0.1, "f")], (2, 3))
    assert lines(to) == ["y = mul(x = a, y = 0.1)"]
    assert not to.variables


def test_a_number_of_more_axes_stays_a_tensor() -> None:
    to = written("Mul", [(3,), np.full((1, 1), 0.1, "f")], (1, 3))
    assert lines(to)[-1] == "y = mul(x = unsqueeze, y = b)"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_text_cannot_say_is_a_variable(value: float) -> None:
    to = written("Add", [(2,), np.array(value, "f")], (2,))
    assert lines(to) == ["y = add(x = a, y = b)"]


@pytest.mark.parametrize("kind", ["int32", "int64", "uint32"])
def test_wide_integers_are_not_computed_with(kind: str) -> None:
    trips = Trips()
    operators = ["Add", "Sub", "Mul", "Div", "Max", "Less", "Equal", "Mod"]
    for operator in operators:
        result = "bool" if operator in COMPARED else kind
        trips.add(operator, operator, [np.ones(2, kind), np.ones(2, kind)], types=(result,))
    with pytest.raises(TranslationError, match=f"Add at Add_y0: it computes with {kind}") as caught:
        trips.run()
    assert [refusal.operator for refusal in caught.value.refusals] == operators


def test_integers_beyond_float32_are_no_bounds() -> None:
    trips = Trips()
    trips.add("case", "Less", [np.ones(2, "int64")], numbers([2**24, 1], "int64"), types=("bool",))
    with pytest.raises(TranslationError, match="computes with int64"):
        trips.run()


NARROW: dict[str, Callable[[Array, Array], Array]] = {
    "Add": lambda x, y: x + y,
    "Sub": lambda x, y: x - y,
    "Mul": lambda x, y: x * y,
    "Div": lambda x, y: np.trunc(x / y),
    "Max": np.maximum,
    "Min": np.minimum,
    "Mod": lambda x, y: x % y,
}


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16"])
def test_narrow_integers_are_exact(kind: str) -> None:
    """ONNX Runtime computes with hardly any of these: the results are NumPy's."""
    rng, info = np.random.default_rng(1), np.iinfo(kind)
    x, y = (rng.integers(info.min, info.max + 1, 4000).astype(kind) for _ in range(2))
    x[:2], y[:2] = info.max, (1, info.min or 1)
    y[y == 0] = 3
    trips = Trips()
    names = [name for name in NARROW if name != "Mul" or info.bits == 8]
    for name in names:
        trips.add(name, name, [x, y], types=(kind,))
    document = onnx_to_nnef.translate(trips.to.state(), Report("onnx", "nnef"))
    back = tk.run(nnef_to_onnx.translate(document, Report("nnef", "onnx")), trips.feeds)
    for name in names:
        wide = NARROW[name](x.astype("int64"), y.astype("int64")).astype("int64")
        np.testing.assert_array_equal(back[f"{name}_y0"], wide.astype(kind), name)


@pytest.mark.parametrize("kind", ["int16", "uint16"])
def test_products_of_16_bits_are_refused(kind: str) -> None:
    trips = Trips()
    trips.add("case", "Mul", [np.ones(2, kind), np.ones(2, kind)], types=(kind,))
    with pytest.raises(TranslationError, match=f"{kind}, whose products"):
        trips.run()


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_remainders_of_floats_are_refused(kind: str) -> None:
    trips = Trips()
    trips.add("case", "Mod", [np.ones(2, kind), np.ones(2, kind)], types=(kind,), fmod=1)
    with pytest.raises(TranslationError, match="is not exact by NNEF's operations"):
        trips.run()


def test_rounding_is_not_left_to_nnef() -> None:
    made = lines(written("Round", [(3,)], (3,)))
    assert not [line for line in made if "= round(" in line]


def test_clamp_needs_bounds_in_order() -> None:
    low, high = np.array(0.5, "f"), np.array(-0.5, "f")
    assert lines(written("Clip", [(3,), low, high], (3,))) == [
        "max = max(x = a, y = 0.5)",
        "y = min(x = max, y = -0.5)",
    ]
    assert lines(written("Clip", [(3,), high, low], (3,))) == [
        "y = clamp(x = a, a = -0.5, b = 0.5)"
    ]
    assert lines(written("Clip", [(3,)], (3,), since=6, min=0.0, max=6.0)) == [
        "y = clamp(x = a, a = 0.0, b = 6.0)"
    ]


def test_bounds_that_are_endless_are_none() -> None:
    endless = [np.array(-np.inf, "f"), np.array(np.inf, "f")]
    assert lines(written("Clip", [(3,), *endless], (3,))) == ["y = copy(x = a)"]
    to = written("Clip", [(3,)], (3,), since=6, min=0.0, max=np.inf)
    assert lines(to) == ["y = max(x = a, y = 0.0)"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_attributes_that_text_cannot_say_are_refused(value: float) -> None:
    with pytest.raises(Refused, match="a number that text cannot say"):
        written("LeakyRelu", [(3,)], (3,), alpha=value)


def test_extremes_of_unsigned_integers_are_refused() -> None:
    """ONNX Runtime could not run the way back, which chooses by Where."""
    trips = Trips()
    given = [np.ones(2, "uint64"), numbers(3, "uint64")]
    trips.add("case", "Max", given[:1], given[1], types=("uint64",))
    with pytest.raises(TranslationError, match="computes with uint64"):
        trips.run()


def test_axes_of_old_broadcasting_are_followed() -> None:
    to = written("Add", [(2, 3, 4, 5), (3, 4)], (2, 3, 4, 5), since=6, broadcast=1, axis=1)
    assert lines(to) == [
        "unsqueeze = unsqueeze(input = b, axes = [0])",
        "y = add(x = a, y = unsqueeze)",
    ]


def test_the_error_function_is_told() -> None:
    to = written("Erf", [(3,)], (3,))
    assert [str(remark) for remark in to.report.remarks] == [
        "changed y: NNEF has no erf: a quotient of polynomials is it to 4e-7"
    ]
