"""Pads, gathers and scatters from ONNX to NNEF."""

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
from tensorkeep.models.exchange.report import Refused

X = floats(2, 3, 4)
AROUND = [0, 1, 2, 1, 0, 3]


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    with settling_here():
        yield


def numbers(values: Any, dtype: str = "int64") -> Array:
    """Give an array."""
    return np.array(values, dtype)


def _pads() -> Trips:
    trips = Trips()
    for mode in ("constant", "reflect", "edge", "wrap"):
        trips.add(f"Pad_{mode}", "Pad", [X], numbers([0, 1, 2, 1, 1, 3]), mode=mode)
        ids = (9 * X).astype("int64")
        typed: dict[str, Any] = {"types": ("int64",), "mode": mode}
        trips.add(f"Pad_{mode}_ids", "Pad", [ids], numbers(AROUND), **typed)
    for value in (1.5, 0.1, -np.inf):
        trips.add(f"Pad_{value}", "Pad", [X], numbers(AROUND), numbers(value, "float32"))
    x = trips.input("Pad_given_x0", X)
    filling = trips.input("Pad_given_x1", numbers(2.5, "float32"))
    trips.to.node("Pad", [x, trips.to.constant(AROUND, "int64"), filling], "Pad_given_y0")
    trips.output("Pad_given", "Pad_given_y0")
    trips.tolerances["Pad_given"] = 0
    trips.add("Pad_less", "Pad", [X], numbers([0, -1, 2, 0, 1, -1]))
    trips.add("Pad_nothing", "Pad", [X], numbers([0] * 6))
    true, tenth = numbers(True, "bool"), numbers(0.1, "float16")
    trips.add("Pad_bool", "Pad", [X > 0], numbers(AROUND), true, types=("bool",))
    half = X.astype("float16")
    trips.add("Pad_half", "Pad", [half], numbers(AROUND), tenth, types=("float16",))
    return trips


def _gathers() -> Trips:
    trips = Trips()
    for axis in (0, 1, -1):
        trips.add(f"Gather_{axis}", "Gather", [X], numbers([[1, 0], [0, 1]]), axis=axis)
    trips.add("Gather_behind", "Gather", [X], numbers([-1, 0]), axis=2)
    trips.add("Gather_one", "Gather", [X], numbers(-1), axis=1)
    trips.add("Gather_given", "Gather", [X, numbers([2, 0])], axis=1)
    trips.add("Gather_given_narrow", "Gather", [X, numbers([[1]], "int32")], axis=1)
    trips.add("Gather_ids", "Gather", [X.astype("int64")], numbers([1]), axis=1, types=("int64",))
    places = np.random.default_rng(2).integers(-2, 2, (2, 2, 3))
    trips.add("GatherElements", "GatherElements", [X], places, axis=1)
    trips.add("GatherND", "GatherND", [X], numbers([[0, -1], [1, 2]]))
    trips.add("GatherND_batch", "GatherND", [X], numbers([[1], [2]]), batch_dims=1)
    to, new = numbers([[[0, 2, 1, -1]]]), floats(1, 1, 4, seed=3)
    trips.add("ScatterElements", "ScatterElements", [X], to, new, axis=1)
    to, new = numbers([[0, 1], [1, -1]]), floats(2, 4, seed=3)
    trips.add("ScatterND", "ScatterND", [X], to, new)
    trips.add("Compress", "Compress", [X], numbers([False, True, True], "bool"), axis=1)
    trips.add("Compress_flat", "Compress", [X], numbers([False, True, True], "bool"))
    lengths = numbers([3, 1])
    trips.add("Reverse", "ReverseSequence", [X], lengths, batch_axis=0, time_axis=1)
    return trips


@pytest.fixture(scope="module")
def pads() -> Journey:
    return _pads().run()


@pytest.fixture(scope="module")
def gathers() -> Journey:
    return _gathers().run()


@pytest.mark.parametrize("name", _pads().results)
def test_pads_there_and_back(pads: Journey, name: str) -> None:
    pads.check(name)


@pytest.mark.parametrize("name", _gathers().results)
def test_gathers_there_and_back(gathers: Journey, name: str) -> None:
    gathers.check(name)


def test_shapes_are_those_that_nnef_infers(pads: Journey, gathers: Journey) -> None:
    for each in (pads, gathers):
        for name, shape in nnef_session.inferred_shapes(each.document).items():
            assert shape == each.before[name].shape, name


def test_nnef_computes_the_same(tmp_path: Path) -> None:
    trips = Trips()
    for mode in ("constant", "reflect", "edge", "wrap"):
        trips.add(f"Pad_{mode}", "Pad", [X], numbers([0, 1, 2, 1, 1, 3]), mode=mode)
    trips.add("Pad_infinite", "Pad", [X], numbers(AROUND), numbers(-np.inf, "float32"))
    trips.add("Gather", "Gather", [X], numbers([[1, 0], [0, -1]]), axis=1)
    places = np.random.default_rng(2).integers(-2, 2, (2, 2, 3))
    trips.add("GatherElements", "GatherElements", [X], places, axis=1)
    trips.add("ScatterND", "ScatterND", [X], numbers([[0, 1], [1, -1]]), floats(2, 4, seed=3))
    journey = trips.run()
    journey.after = nnef_session.run(journey.document, trips.feeds, tmp_path)
    for (output,) in trips.results.values():
        np.testing.assert_array_equal(journey.after[output], journey.before[output])


@pytest.mark.parametrize(("mode", "border"), [("reflect", "reflect"), ("edge", "replicate")])
def test_borders_have_other_names(mode: str, border: str) -> None:
    to = written("Pad", [(2, 5), numbers([0, 1, 0, 2])], (2, 8), mode=mode)
    assert lines(to) == [f"y = pad(input = a, padding = [(0,0), (1,2)], border = {border})"]


def test_numbers_are_padded_with() -> None:
    to = written("Pad", [(5,), numbers([1, 2]), numbers(0.1, "float32")], (8,))
    assert lines(to) == ["y = pad(input = a, padding = [(1,2)], value = 0.1)"]
    to = written("Pad", [(5,)], (8,), since=2, pads=(1, 2), value=0.5)
    assert lines(to) == ["y = pad(input = a, padding = [(1,2)], value = 0.5)"]


def test_infinity_is_put_beside() -> None:
    to = written("Pad", [(5,), numbers([0, 2]), numbers(-np.inf, "float32")], (7,))
    assert [line.split(" = ")[1] for line in lines(to)] == [
        "reshape(input",
        "tile(input",
        "concat(values",
    ]


def test_axes_may_be_named() -> None:
    args = [numbers([1, 2]), numbers(0, "float32"), numbers([-1])]
    to = written("Pad", [(2, 5), *args], (2, 8))
    assert lines(to) == ["y = pad(input = a, padding = [(0,0), (1,2)])"]


@pytest.mark.parametrize(
    ("pads", "mode", "problem"),
    [
        ([5, 0], "reflect", "reflects more than there is"),
        ([-1, 2], "edge", "cuts off and fills up by 'edge'"),
        ([1, 2], "other", "its mode is 'other'"),
        ([-3, -2], "constant", "cuts off all there is"),
        ([1, 2, 3], "constant", "has 3 pads for 1 axes"),
    ],
)
def test_pads_that_nnef_cannot_say_are_refused(pads: list[int], mode: str, problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        written("Pad", [(5,), numbers(pads)], (5 + sum(pads[:2]),), mode=mode)


def test_one_place_is_sliced() -> None:
    to = written("Gather", [(2, 5), numbers(-1)], (2,), axis=1)
    assert lines(to) == [
        "slice = slice(input = a, axes = [1], begin = [4], end = [5])",
        "y = squeeze(input = slice, axes = [1])",
    ]


def test_places_are_counted_from_the_front() -> None:
    to = written("Gather", [(2, 5), numbers([-1, 0])], (2, 2), axis=1)
    (operation,) = to.operations
    (_, name) = operation.inputs()
    assert to.variables[name].numpy().tolist() == [4, 0]
    same = written("Gather", [(2, 5), numbers([4, 0])], (2, 2), axis=1)
    assert lines(same) == ["y = gather(input = a, indices = b, axis = 1)"]


def test_places_that_are_computed_are_told() -> None:
    trips = Trips()
    trips.add("case", "Gather", [X, numbers([2, 0])], axis=1)
    (remark,) = [each for each in trips.run().report.remarks if each.kind == "changed"]
    assert "must not be negative" in remark.text


@pytest.mark.parametrize("operator", ["GatherElements", "GatherND", "ScatterND"])
def test_places_of_elements_have_to_be_constant(operator: str) -> None:
    trips = Trips()
    given = [floats(2, 3), numbers([[0, 1], [1, 0]])]
    trips.add("case", operator, [*given, *([floats(2)] if operator == "ScatterND" else [])])
    with pytest.raises(TranslationError, match=r"indices \('case_x1'\) is computed when it runs"):
        trips.run()


def test_scattering_to_one_place_twice_is_refused() -> None:
    with pytest.raises(Refused, match="to one place several times"):
        written("ScatterND", [(3,), numbers([[1], [-2]]), (2,)], (3,))


def test_scattering_that_combines_is_refused() -> None:
    with pytest.raises(Refused, match="combines by 'add'"):
        written("ScatterND", [(3,), numbers([[1]]), (1,)], (3,), reduction=b"add")


def test_places_outside_are_refused() -> None:
    for operator in ("Gather", "GatherElements", "GatherND"):
        with pytest.raises(Refused, match="are not all of"):
            written(operator, [(3,), numbers([3])], (1,))
