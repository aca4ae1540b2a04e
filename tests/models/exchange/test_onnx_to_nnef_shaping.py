"""Movements of data from ONNX to NNEF: shapes, axes, slices, repetitions, casts."""

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
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.report import Refused, Report
from tensorkeep.models.exchange.settled import Node, Settled

X = floats(2, 3, 4)
SLICES: dict[str, tuple[list[int], list[int], list[int] | None, list[int] | None]] = {
    "plain": ([1], [3], [1], None),
    "past": ([0], [2**60], [2], None),
    "from_end": ([-2], [-1], [2], None),
    "steps": ([0, 1], [3, 4], [1, 2], [2, 3]),
    "backward": ([-1], [-(2**60)], [2], [-1]),
    "backward_steps": ([3], [0], [2], [-2]),
    "mixed": ([2, 0], [0, 4], [1, 2], [-1, 2]),
    "whole": ([0], [3], [1], None),
    "no_axes": ([1, 1], [2, 3], None, None),
}


@pytest.fixture(scope="module", autouse=True)
def _here() -> Iterator[None]:
    with settling_here():
        yield


def numbers(values: Any, dtype: str = "int64") -> Array:
    """Give an array."""
    return np.array(values, dtype)


def _shapes() -> Trips:
    trips = Trips()
    for name, shape in {
        "plain": [4, 6],
        "copied": [0, -1],
        "flat": [-1],
        "more": [1, 2, 12],
    }.items():
        trips.add(f"Reshape_{name}", "Reshape", [X], numbers(shape))
    trips.add("Reshape_number", "Reshape", [floats(1, 1)], numbers([]))
    for axis in (0, 1, 2, 3, -1):
        trips.add(f"Flatten_{axis}", "Flatten", [X], axis=axis)
    trips.add("Squeeze", "Squeeze", [floats(1, 3, 1)], numbers([-1]))
    trips.add("Squeeze_all", "Squeeze", [floats(1, 3, 1)])
    trips.add("Squeeze_none", "Squeeze", [X])
    trips.add("Unsqueeze", "Unsqueeze", [X], numbers([-1, 0]))
    trips.add("Transpose", "Transpose", [X], perm=[1, 2, 0])
    trips.add("Transpose_all", "Transpose", [X])
    trips.add("Concat", "Concat", [X, floats(2, 1, 4)], floats(2, 2, 4, seed=1), axis=-2)
    trips.add("Concat_one", "Concat", [X], axis=0)
    trips.add("Expand", "Expand", [floats(3, 1)], numbers([2, 1, 4]))
    trips.add("Expand_same", "Expand", [X], numbers([1]))
    trips.add("Expand_number", "Expand", [np.array(2.5, "f")], numbers([2, 2]))
    trips.add("Tile", "Tile", [X], numbers([2, 1, 3]))
    trips.add("Identity", "Identity", [X])
    many: dict[str, Any] = {"types": ("float32", "float32")}
    trips.add("Split", "Split", [X], numbers([1, 2]), axis=1, **many)
    trips.add("Split_even", "Split", [X], axis=-1, num_outputs=2, **many)
    trips.add("Split_uneven", "Split", [X], axis=1, num_outputs=2, **many)
    for name, (starts, ends, axes, steps) in SLICES.items():
        given = [numbers(starts), numbers(ends)]
        given += [] if axes is None else [numbers(axes)]
        given += [] if steps is None else [numbers(steps)]
        trips.add(f"Slice_{name}", "Slice", [X], *given)
    for mode in ("DCR", "CRD"):
        trips.add(
            f"DepthToSpace_{mode}", "DepthToSpace", [floats(1, 8, 2, 3)], blocksize=2, mode=mode
        )
    trips.add("SpaceToDepth", "SpaceToDepth", [floats(1, 2, 4, 6)], blocksize=2)
    for upper in (0, 1):
        for offset in (-1, 0, 2):
            name = f"Trilu_{upper}_{offset}"
            trips.add(name, "Trilu", [X], numbers(offset), upper=upper)
    ids = numbers([[1, -1], [7, 0]])
    for axis in (0, 1, -1):
        trips.add(f"OneHot_{axis}", "OneHot", [ids], numbers(4), floats(2), axis=axis)
    trips.add("Dropout", "Dropout", [X], types=("float32", "bool"))
    trips.add("Size", "Size", [X], types=("int64",))
    return trips


def _types() -> Trips:
    trips = Trips()
    for kind in ("int64", "int32", "uint8", "int8", "bool", "float16", "float64"):
        x = (3 * X).astype(kind)
        typed: dict[str, Any] = {"types": (kind,)}
        trips.add(f"Reshape_{kind}", "Reshape", [x], numbers([-1]), **typed)
        trips.add(f"Transpose_{kind}", "Transpose", [x], **typed)
        trips.add(f"Concat_{kind}", "Concat", [x], x, axis=0, **typed)
        trips.add(f"Slice_{kind}", "Slice", [x], numbers([1]), numbers([2]), **typed)
        trips.add(f"Tile_{kind}", "Tile", [x], numbers([2, 1, 1]), **typed)
    kinds = ("float32", "float64", "float16", "int64", "int32", "uint8", "bool")
    for source in kinds:
        for number, target in zip((1, 11, 10, 7, 6, 2, 9), kinds, strict=True):
            x = numbers([0, 1, 2, 100], source)
            name = f"Cast_{source}_{target}"
            trips.add(name, "Cast", [x], to=number, types=(target,))
    return trips


@pytest.fixture(scope="module")
def shapes() -> Journey:
    return _shapes().run()


@pytest.fixture(scope="module")
def types() -> Journey:
    return _types().run()


@pytest.mark.parametrize("name", _shapes().results)
def test_shapes_there_and_back(shapes: Journey, name: str) -> None:
    shapes.check(name)


@pytest.mark.parametrize("name", _types().results)
def test_types_there_and_back(types: Journey, name: str) -> None:
    types.check(name)


def test_shapes_are_those_that_nnef_infers(shapes: Journey, types: Journey) -> None:
    for each in (shapes, types):
        for name, shape in nnef_session.inferred_shapes(each.document).items():
            assert shape == each.before[name].shape, name


def test_nnef_computes_the_same(tmp_path: Path) -> None:
    trips = Trips()
    trips.add("Flatten", "Flatten", [X], axis=2)
    trips.add("Transpose", "Transpose", [X], perm=[1, 2, 0])
    trips.add("Split", "Split", [X], numbers([1, 2]), axis=1, types=("float32", "float32"))
    trips.add("Expand", "Expand", [floats(3, 1)], numbers([2, 1, 4]))
    for name, (starts, ends, axes, steps) in SLICES.items():
        given = [numbers(starts), numbers(ends), numbers(axes or [0, 1])]
        given += [] if steps is None else [numbers(steps)]
        trips.add(f"Slice_{name}", "Slice", [X], *given)
    trips.add("OneHot", "OneHot", [numbers([[1, -1], [7, 0]])], numbers(4), floats(2), axis=1)
    trips.add("Cast", "Cast", [10 * X], to=7, types=("int64",))
    journey = trips.run()
    journey.after = nnef_session.run(journey.document, trips.feeds, tmp_path)
    for outputs in trips.results.values():
        for output in outputs:
            np.testing.assert_array_equal(journey.after[output], journey.before[output])


def test_an_end_of_zero_is_not_the_end_of_the_axis() -> None:
    """NNEF takes an end of zero for the end of the axis, where ONNX takes nothing."""
    trips = Trips()
    trips.add("case", "Slice", [X], numbers([0]), numbers([0]), numbers([1]))
    with pytest.raises(TranslationError, match="'case_y0' has no elements"):
        trips.run()


def test_ends_are_places_on_the_axis() -> None:
    to = written("Slice", [(2, 5), numbers([-3]), numbers([2**62]), numbers([1])], (2, 3))
    assert lines(to) == ["y = slice(input = a, axes = [1], begin = [2], end = [5])"]


def test_backward_slices_are_gathered() -> None:
    args = [numbers([-1]), numbers([-9]), numbers([1]), numbers([-2])]
    to = written("Slice", [(2, 5), *args], (2, 3))
    assert lines(to) == ["y = gather(input = a, indices = places, axis = 1)"]
    assert to.variables["places"].numpy().tolist() == [4, 2, 0]


def test_sizes_are_ratios() -> None:
    to = written("Split", [(2, 6), numbers([1, 5])], (2, 1), (2, 5), axis=-1)
    assert lines(to) == ["y, y1 = split(value = a, axis = 1, ratios = [1, 5])"]


def test_parts_that_nothing_takes_stay() -> None:
    """ONNX Runtime ends its process at such a model."""
    node = Node("Split", "", "", ["a"], ["", "y"], {"axis": 1, "num_outputs": 2}, 18)
    types = {"a": "float32", "y": "float32"}
    model = Settled([node], ["a"], ["y"], types, {"a": (2, 3), "y": (2, 1)}, {})
    to = Writer(model, Report("onnx", "nnef"))
    TABLE["Split"].translate(node, to)
    assert lines(to) == ["split, y = split(value = a, axis = 1, ratios = [2, 1])"]


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(Refused, match=r"it splits 6 into \[1, 4\]"):
        written("Split", [(2, 6), numbers([1, 4])], (2, 1), (2, 4), axis=-1)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_flatten_tells_both_sizes(axis: int) -> None:
    shape = (int(np.prod(X.shape[:axis])), int(np.prod(X.shape[axis:])))
    to = written("Flatten", [X.shape], shape, axis=axis)
    assert lines(to) == [f"y = reshape(input = a, shape = [{shape[0]}, {shape[1]}])"]


def test_what_is_empty_is_left_out_of_concat() -> None:
    to = written("Concat", [(2, 3), (2, 3), np.zeros((2, 0), "f")], (2, 6), axis=1)
    assert lines(to) == ["y = concat(values = [a, b], axis = 1)"]


def test_blocks_are_transposed() -> None:
    dcr = written("DepthToSpace", [(1, 8, 2, 3)], (1, 2, 4, 6), blocksize=2, mode=b"DCR")
    crd = written("DepthToSpace", [(1, 8, 2, 3)], (1, 2, 4, 6), blocksize=2, mode="CRD")
    assert lines(dcr)[1] == "transpose = transpose(input = reshape, axes = [0, 3, 4, 1, 5, 2])"
    assert lines(crd)[1] == "transpose = transpose(input = reshape, axes = [0, 1, 4, 2, 5, 3])"


def test_narrowing_integers_is_told() -> None:
    trips = Trips()
    trips.add("case", "Cast", [numbers([1, 2])], to=6, types=("int32",))
    (remark,) = [each for each in trips.run().report.remarks if each.kind == "changed"]
    assert remark.text == "integers are taken to fit int32: those of NNEF have no width"


@pytest.mark.parametrize(("number", "kind"), [(16, "bfloat16"), (17, "float8_e4m3fn")])
def test_types_that_nnef_lacks_are_refused(number: int, kind: str) -> None:
    trips = Trips()
    trips.add("case", "Cast", [X], to=number, types=(kind,))
    with pytest.raises(TranslationError, match=f"{kind}.* NNEF does not have"):
        trips.run()


def test_dropping_at_random_is_refused() -> None:
    trips = Trips()
    trips.add("case", "Dropout", [X], np.array(0.5, "f"), np.array(True))
    with pytest.raises(TranslationError, match=r"drops at random.*Export the model for inference"):
        trips.run()


def test_shapes_that_are_computed_are_refused() -> None:
    trips = Trips()
    trips.add("case", "Reshape", [X, numbers([4, 6])])
    with pytest.raises(TranslationError, match="is not known before it runs"):
        trips.run()


def test_constants_that_nobody_can_have_meant_are_refused() -> None:
    with pytest.raises(Refused, match="it would take a constant of 1,099,511,627,776 elements"):
        written("Trilu", [(1 << 20, 1 << 20)], (1 << 20, 1 << 20))
    args = [numbers([-1]), numbers([-(2**62)]), numbers([0]), numbers([-1])]
    with pytest.raises(Refused, match="it would take a constant"):
        written("Slice", [(1 << 40,), *args], (1 << 40,))
