from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.onnx_nodes import Array, Journey, Trips, array, floats, lines, written

from tensorkeep.models.exchange.onnx_to_nnef.sampling import Axis, cubic, linear, nearest
from tensorkeep.models.exchange.report import Refused

X = floats(1, 2, 4, 6)
LARGE = floats(1, 2, 11, 14)
PLAIN = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
COORDINATES = (*PLAIN, "half_pixel_symmetric")
ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SCALES = {
    "twice": (2, 3),
    "one_axis": (1, 2),
    "fraction": (1.5, 2.3),
    "half": (0.5, 0.5),
    "third": (0.5, 1 / 3),
    "mixed": (0.7, 1.25),
}
SIZES = {"up": (8, 12), "odd": (7, 11), "down": (2, 3), "one": (1, 1), "flat": (4, 1)}
EVEN = ("twice", "one_axis", "half")  # whose places are never just between two elements
OTHERS = (
    *("size_axes", "integers", "rank3", "rank5", "batch", "cubic_outside", "cubic_slope"),
    *("not_larger", "not_smaller", "same", "tf"),
    *("crop_nearest", "crop_linear", "crop_cubic", "crop_axes"),
)
Given = Sequence[Array | None]


def scales(*values: float) -> Given:
    """Give scales where Resize takes them, without a region of interest."""
    return [None, array([1, 1, *values])]


def sizes(*values: int) -> Given:
    """Give sizes where Resize takes them."""
    return [None, None, array([1, 2, *values], "int64")]


def add(
    trips: Trips, name: str, x: Array, given: Sequence[Array | None], **attributes: Any
) -> None:
    """Add a node whose scales or sizes are constants."""
    names: list[str | None] = [trips.input(f"{name}_x", x)]
    names += [None if value is None else trips.to.constant(value) for value in given]
    trips.to.node("Resize", names, f"{name}_y", **attributes)
    trips.output(name, f"{name}_y", x.dtype.name)


@pytest.fixture(scope="module")
def journey() -> Journey:
    trips = Trips()
    for way in COORDINATES:
        asked: dict[str, Any] = {"coordinate_transformation_mode": way}
        for mode in ("linear", "cubic"):
            for name, factors in SCALES.items():
                add(trips, f"{mode}_{way}_{name}", X, scales(*factors), mode=mode, **asked)
            for name, lengths in SIZES.items():
                add(trips, f"{mode}_{way}_{name}", X, sizes(*lengths), mode=mode, **asked)
        for rounding in ROUNDING:
            for name in [*SCALES, *SIZES]:
                given = scales(*SCALES[name]) if name in SCALES else sizes(*SIZES[name])
                if way in PLAIN or name in EVEN:
                    full = f"{rounding}_{way}_{name}"
                    add(trips, full, X, given, nearest_mode=rounding, **asked)
    for mode in ("linear", "cubic"):
        for name, factors in {**SCALES, "much": (0.3, 0.2)}.items():
            for outside in (0, 1) if mode == "cubic" else (0,):
                asked = {"antialias": 1, "mode": mode, "exclude_outside": outside}
                add(trips, f"smooth_{mode}_{name}_{outside}", LARGE, scales(*factors), **asked)
    for way in COORDINATES:
        asked = {"antialias": 1, "coordinate_transformation_mode": way, "mode": "linear"}
        add(trips, f"smooth_{way}", LARGE, scales(0.4, 1.5), **asked)
    two = [None, None, array([6, 9], "int64")]
    add(trips, "size_axes", X, two, axes=[2, -1], mode="linear")
    add(trips, "integers", np.arange(48, dtype="int32").reshape(X.shape), scales(2, 2))
    add(trips, "rank3", floats(1, 2, 5), [None, array([1, 1, 2])], mode="linear")
    add(trips, "rank5", floats(1, 2, 2, 3, 2), [None, array([1, 1, 2, 2, 2])], mode="linear")
    add(trips, "batch", X, [None, array([2, 1.5, 1, 1])])
    add(trips, "cubic_outside", X, scales(1.5, 1.5), mode="cubic", exclude_outside=1)
    add(trips, "cubic_slope", X, scales(2, 2), mode="cubic", cubic_coeff_a=-0.5)
    crop: dict[str, Any] = {"coordinate_transformation_mode": "tf_crop_and_resize"}
    region = array([0, 0, 0.2, 0.1, 1, 1, 0.9, 0.7])
    for mode in ("nearest", "linear", "cubic"):
        given = [region, None, array([1, 2, 5, 7], "int64")]
        add(trips, f"crop_{mode}", X, given, mode=mode, **crop)
    other = [array([0.2, 0.1, 0.8, 0.9]), None, array([1, 5], "int64")]
    add(trips, "crop_axes", X, other, axes=[2, 3], mode="linear", **crop)
    kept = {"axes": [2, 3], "mode": "linear"}
    add(trips, "not_larger", X, two, keep_aspect_ratio_policy="not_larger", **kept)
    add(trips, "not_smaller", X, two, keep_aspect_ratio_policy="not_smaller", **kept)
    add(trips, "same", X, scales(1, 1), mode="linear")
    add(
        trips,
        "tf",
        X,
        scales(2, 2),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    return trips.run()


@pytest.fixture(scope="module")
def older() -> dict[str, Journey]:
    """Give models of the opsets where Upsample, and the first Resize, were."""
    nine, ten, eleven = Trips(opset=9), Trips(opset=10), Trips(opset=11)
    factors = array([1, 1, 2, 3])
    for mode in ("nearest", "linear"):
        nine.add(f"upsample_{mode}", "Upsample", [X], factors, mode=mode)
        ten.add(f"resize_{mode}", "Resize", [X], factors, mode=mode)
    ten.add("resize_half", "Resize", [X], array([1, 1, 0.5, 0.5]), mode="nearest")
    for name in ("tf_half_pixel_for_nn", "half_pixel"):
        weights = np.zeros(0, "float32"), array([1, 1, 1.5, 0.5])
        eleven.add(name, "Resize", [X], *weights, coordinate_transformation_mode=name)
    return {"nine": nine.run(), "ten": ten.run(), "eleven": eleven.run()}


@pytest.mark.parametrize("way", PLAIN)
@pytest.mark.parametrize("mode", ["linear", "cubic", *ROUNDING])
def test_what_comes_back_computes_the_same(journey: Journey, mode: str, way: str) -> None:
    for name in [*SCALES, *SIZES]:
        journey.check(f"{mode}_{way}_{name}")


@pytest.mark.parametrize("mode", ["linear", "cubic", *ROUNDING])
def test_symmetric_coordinates_come_back(journey: Journey, mode: str) -> None:
    for name in EVEN if mode in ROUNDING else [*SCALES, *SIZES]:
        journey.check(f"{mode}_half_pixel_symmetric_{name}")


@pytest.mark.parametrize("name", [*SCALES, "much"])
@pytest.mark.parametrize(("mode", "outside"), [("linear", 0), ("cubic", 0), ("cubic", 1)])
def test_smoothing_comes_back(journey: Journey, mode: str, outside: int, name: str) -> None:
    journey.check(f"smooth_{mode}_{name}_{outside}")


@pytest.mark.parametrize("way", COORDINATES)
def test_smoothing_by_any_coordinates_comes_back(journey: Journey, way: str) -> None:
    journey.check(f"smooth_{way}")


@pytest.mark.parametrize("name", OTHERS)
def test_other_ways_come_back(journey: Journey, name: str) -> None:
    journey.check(name)


@pytest.mark.parametrize(
    ("opset", "name"),
    [
        *(("nine", "upsample_nearest"), ("nine", "upsample_linear"), ("ten", "resize_nearest")),
        *(("ten", "resize_linear"), ("ten", "resize_half"), ("eleven", "tf_half_pixel_for_nn")),
        ("eleven", "half_pixel"),
    ],
)
def test_what_is_older_comes_back_as_it_was_meant(
    older: dict[str, Journey], opset: str, name: str
) -> None:
    older[opset].check(name)


@pytest.mark.parametrize(
    ("factors", "attributes", "line"),
    [
        ((2, 3), {}, "y = nearest_upsample(input = a, factor = [2, 3])"),
        (
            (0.5, 0.5),
            {"coordinate_transformation_mode": "asymmetric"},
            "y = nearest_downsample(input = a, factor = [2, 2])",
        ),
        ((2, 3), {"mode": "linear"}, "y = multilinear_upsample(input = a, factor = [2, 3])"),
        (
            (2, 2),
            {"mode": "linear", "coordinate_transformation_mode": "asymmetric"},
            "y = multilinear_upsample(input = a, factor = [2, 2], method = asymmetric)",
        ),
        (
            (2, 2),
            {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
            "y = multilinear_upsample(input = a, factor = [2, 2], method = aligned)",
        ),
        ((0.5, 0.5), {"mode": "linear"}, "y = area_downsample(input = a, factor = [2, 2])"),
        ((1, 1), {"mode": "linear"}, "y = copy(x = a)"),
        ((1, 1), {}, "y = copy(x = a)"),
    ],
)
def test_what_nnef_has_an_operation_for_becomes_it(
    factors: tuple[float, float], attributes: dict[str, Any], line: str
) -> None:
    shape = (1, 2, int(4 * factors[0]), int(6 * factors[1]))
    to = written("Resize", [(1, 2, 4, 6), *scales(*factors)], shape, **attributes)
    assert lines(to) == [line]
    assert not to.report.remarks


def test_other_factors_are_gathered() -> None:
    to = written("Resize", [(1, 1, 4, 2), *scales(1.5, 1)], (1, 1, 6, 2))
    assert lines(to) == ["y = gather(input = a, indices = y_indices_2, axis = 2)"]
    assert to.variables["y_indices_2"].numpy().tolist() == [0, 0, 1, 2, 2, 3]
    assert "gathered by constant indices" in str(to.report.remarks[0])


def test_other_interpolations_are_products() -> None:
    to = written("Resize", [(1, 1, 2, 3), *scales(1.5, 1)], (1, 1, 3, 3), mode="linear")
    assert lines(to) == [
        "reshape = reshape(input = a, shape = [1, 2, 3])",
        "matmul = matmul(A = y_weights_2, B = reshape)",
        "y = reshape(input = matmul, shape = [1, 1, 3, 3])",
    ]
    assert to.variables["y_weights_2"].shape == (1, 3, 2)
    assert "a product with constant weights" in str(to.report.remarks[0])


def test_weights_sum_to_one() -> None:
    for way in COORDINATES:
        for axis in (Axis(4, 9, 2.25), Axis(9, 4, 4 / 9), Axis(1, 3, 3.0)):
            every = [
                linear(axis, way),
                cubic(axis, way, -0.75, exclude_outside=False),
                cubic(axis, way, -0.75, exclude_outside=True),
            ]
            for weights in every:
                np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


def test_halves_go_where_it_is_said() -> None:
    axis = Axis(4, 2, 0.5)  # at 0.5 and 2.5
    assert nearest(axis, "half_pixel", "round_prefer_floor").tolist() == [0, 2]
    assert nearest(axis, "half_pixel", "round_prefer_ceil").tolist() == [1, 3]


@pytest.mark.parametrize(
    ("inputs", "attributes", "reason"),
    [
        (
            scales(2, 2),
            {"coordinate_transformation_mode": "of_some_kind"},
            "nothing for the coordinates of 'of_some_kind'",
        ),
        (
            [array([0, 0, 0, -0.1, 1, 1, 1, 1]), *scales(2, 2)[1:]],
            {"coordinate_transformation_mode": "tf_crop_and_resize"},
            "a region (-0.1 to 1) that is not within its axis",
        ),
        (
            [array([0, 0, 0, 0.1, 1, 1, 1, 1]), *scales(2, 1)[1:]],
            {"coordinate_transformation_mode": "tf_crop_and_resize"},
            "it crops an axis and keeps its length of 6",
        ),
        (
            [array([0, 1]), *scales(2, 2)[1:]],
            {"coordinate_transformation_mode": "tf_crop_and_resize"},
            "its region of 2 numbers is not two for each axis",
        ),
        (scales(2, 2), {"nearest_mode": "up"}, "its nearest_mode is 'up'"),
        (scales(2, 2), {"mode": "area"}, "its mode is 'area'"),
        (scales(2), {}, "3 scales are not one for each of 4 axes"),
        (scales(2, -1), {}, "not all positive"),
        (scales(2, float("nan")), {}, "not all positive"),
        ([None, (4,)], {}, "its scales ('c') is computed when it runs"),
        (sizes(3, 3), {}, "are not those of its output"),
        (scales(1e-9, 2), {"mode": "linear", "antialias": 1}, "is not (1, 2, 4, 6) by its scales"),
        (scales(4, 2), {}, "is not (1, 2, 4, 6) by its scales"),
        (
            sizes(8, 11),
            {"coordinate_transformation_mode": "half_pixel_symmetric"},
            "just between two elements",
        ),
    ],
)
def test_what_nnef_does_not_say_is_refused(
    inputs: list[Any], attributes: dict[str, Any], reason: str
) -> None:
    width = 11 if "half_pixel_symmetric" in attributes.values() else 12
    shape = (1, 2, 8, 6 if "keeps its length" in reason else width)
    with pytest.raises(Refused) as refused:
        written("Resize", [(1, 2, 4, 6), *inputs], shape, **attributes)
    assert reason in refused.value.reason


def test_a_neighbour_that_an_old_opset_does_not_tell_is_refused() -> None:
    factors = array([1, 1, 0.7])
    with pytest.raises(Refused, match="not told before opset 11"):
        written("Resize", [(1, 1, 10), factors], (1, 1, 7), since=10, mode="nearest")


def test_a_huge_interpolation_is_refused() -> None:
    factors = array([1, 1, 1.5])
    with pytest.raises(Refused, match="too many weights"):
        written("Resize", [(1, 1, 4000), None, factors], (1, 1, 6000), mode="linear")
