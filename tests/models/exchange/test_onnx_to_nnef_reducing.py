"""Reductions of ONNX in NNEF, whose own keep the axes, and have neither product nor cumulation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.exchange import nnef_session
from tests.models.exchange.onnx_nodes import Array, Journey, Trips, floats, lines, written
from tests.models.exchange.settling_here import settling_here

from tensorkeep.errors import TranslationError

X = floats(2, 3, 5)
OPERATORS = {
    "ReduceSum": "sum_reduce",
    "ReduceMean": "mean_reduce",
    "ReduceMax": "max_reduce",
    "ReduceMin": "min_reduce",
    "ReduceL1": "sum_reduce",
    "ReduceL2": "sum_reduce",
    "ReduceSumSquare": "sum_reduce",
    "ReduceLogSum": "sum_reduce",
    "ReduceLogSumExp": "sum_reduce",
    "ReduceProd": "mul",
}
AXES: dict[str, list[int] | None] = {
    "one": [1],
    "last": [-1],
    "two": [2, 0],
    "all": None,
    "empty": [],
}


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    with settling_here():
        yield


def numbers(values: Any, dtype: str = "float32") -> Array:
    """Give an array."""
    return np.array(values, dtype)


def _reductions() -> Trips:
    trips = Trips()
    for operator in OPERATORS:
        x = np.abs(X) + 0.5 if "Log" in operator else X
        for key, axes in AXES.items():
            for keeps in (0, 1):
                given = [] if axes is None else [numbers(axes, "int64")]
                trips.add(f"{operator}_{key}_{keeps}", operator, [x], *given, keepdims=keeps)
        nothing: dict[str, Any] = {"noop_with_empty_axes": 1}
        trips.add(f"{operator}_nothing", operator, [x], **nothing)
    return trips


def _others() -> Trips:
    trips = Trips()
    ids: dict[str, Any] = {"types": ("int64",)}
    ties = np.random.default_rng(1).integers(0, 3, (4, 6)).astype("f")
    for operator in ("ArgMax", "ArgMin"):
        for axis in (0, 1, -1):
            for last in (0, 1):
                name = f"{operator}_{axis}_{last}"
                trips.add(name, operator, [ties], axis=axis, select_last_index=last, **ids)
                dropped: dict[str, Any] = {"axis": axis, "select_last_index": last, "keepdims": 0}
                trips.add(f"{name}_dropped", operator, [ties], **dropped, **ids)
        trips.add(f"{operator}_bytes", operator, [ties.astype("uint8")], **ids)
    for exclusive in (0, 1):
        for reverse in (0, 1):
            name = f"CumSum_{exclusive}{reverse}"
            given: dict[str, Any] = {"exclusive": exclusive, "reverse": reverse}
            trips.add(name, "CumSum", [X], numbers(-1, "int64"), **given)
    trips.add("CumSum_infinite", "CumSum", [numbers([1, np.inf, 2, -np.inf])], numbers(0, "int64"))
    for operator in ("ReduceMax", "ReduceMin"):
        over = numbers([1], "int64")
        for kind in ("int8", "uint8"):
            small = ties.astype(kind)
            trips.add(f"{operator}_{kind}", operator, [small], over, keepdims=0, types=(kind,))
        trips.add(f"{operator}_bool", operator, [ties > 1], over, types=("bool",))
    return trips


@pytest.fixture(scope="module")
def reductions() -> Journey:
    return _reductions().run()


@pytest.fixture(scope="module")
def others() -> Journey:
    return _others().run()


@pytest.mark.parametrize("name", _reductions().results)
def test_reductions_there_and_back(reductions: Journey, name: str) -> None:
    reductions.check(name)


@pytest.mark.parametrize("name", _others().results)
def test_others_there_and_back(others: Journey, name: str) -> None:
    others.check(name)


def test_shapes_are_those_that_nnef_infers(reductions: Journey, others: Journey) -> None:
    for each in (reductions, others):
        for name, shape in nnef_session.inferred_shapes(each.document).items():
            assert shape == each.before[name].shape, name


def test_nnef_computes_the_same(tmp_path: Path) -> None:
    trips = Trips()
    for operator in OPERATORS:
        x = np.abs(X) + 0.5 if "Log" in operator else X
        trips.add(operator, operator, [x], numbers([0, 2], "int64"), keepdims=0)
    for operator in ("ArgMax", "ArgMin"):
        trips.add(operator, operator, [X], axis=1, select_last_index=1, types=("int64",))
    trips.add("CumSum", "CumSum", [X], numbers(1, "int64"), reverse=1, exclusive=1)
    journey = trips.run()
    journey.after = nnef_session.run(journey.document, trips.feeds, tmp_path)
    for name, (output,) in trips.results.items():
        np.testing.assert_allclose(
            journey.after[output], journey.before[output], 1e-5, 1e-5, err_msg=name
        )


def test_large_numbers_do_not_become_infinite() -> None:
    trips = Trips(opset=18)
    edges = numbers([[-np.inf, -np.inf], [np.inf, 1], [1000, 1000], [-1000, -1001]])
    trips.add("case", "ReduceLogSumExp", [edges], numbers([1], "int64"))
    trips.run().check("case")


def test_cumulated_products_are_those_of_numpy() -> None:
    """ONNX Runtime has no CumProd."""
    to = written("CumProd", [(4,), numbers(0, "int64")], (4,))
    assert [line for line in lines(to) if "= mul(" in line or "= pad(" in line] == [
        "pad = pad(input = a, padding = [(1,0)], value = 1.0)",
        "mul = mul(x = a, y = slice)",
        "pad_2 = pad(input = mul, padding = [(2,0)], value = 1.0)",
        "mul_2 = mul(x = mul, y = slice_2)",
    ]


@pytest.mark.parametrize(("operator", "name"), OPERATORS.items())
def test_axes_that_are_not_kept_are_squeezed(operator: str, name: str) -> None:
    to = written(operator, [(2, 3, 4), numbers([-1], "int64")], (2, 3), keepdims=0)
    made = lines(to)
    assert any(f"= {name}(" in line for line in made)
    assert made[-1].startswith("y = squeeze(")
    assert made[-1].endswith("axes = [2])")


def test_no_axes_are_all_of_them() -> None:
    for axes in ([], [numbers([], "int64")]):
        to = written("ReduceSum", [(2, 3), *axes], (1, 1))
        assert lines(to) == ["y = sum_reduce(input = a, axes = [0, 1])"]


def test_no_axes_are_none_where_that_is_said() -> None:
    to = written("ReduceSum", [(2, 3)], (2, 3), noop_with_empty_axes=1)
    assert lines(to) == ["y = copy(x = a)"]
    to = written("ReduceSumSquare", [(2, 3)], (2, 3), noop_with_empty_axes=1)
    assert lines(to) == ["sqr = sqr(x = a)", "y = copy(x = sqr)"]


def test_axes_are_an_attribute_of_elder_operators() -> None:
    to = written("ReduceMean", [(2, 3, 4)], (2, 1, 4), since=11, axes=(-2,))
    assert lines(to) == ["y = mean_reduce(input = a, axes = [1])"]


def test_the_first_of_equal_ones_is_plain() -> None:
    to = written("ArgMax", [(2, 3)], (2, 1), types=("int64",), axis=1)
    assert lines(to)[0] == "argmax_reduce = argmax_reduce(input = a, axes = [1])"


def test_sums_of_integers_are_refused() -> None:
    trips = Trips()
    for operator in ("ReduceSum", "ReduceProd", "ReduceMax"):
        trips.add(operator, operator, [np.ones((2, 3), "int32")], types=("int32",))
    trips.add("CumSum", "CumSum", [np.ones(3, "int32")], numbers(0, "int64"), types=("int32",))
    with pytest.raises(
        TranslationError, match="is int32, where NNEF computes with scalars"
    ) as caught:
        trips.run()
    assert len(caught.value.refusals) == 4


def test_axes_that_are_computed_are_refused() -> None:
    trips = Trips()
    trips.add("case", "ReduceSum", [X, numbers([1], "int64")])
    with pytest.raises(TranslationError, match=r"axes \('case_x1'\) is computed when it runs"):
        trips.run()
