"""Operators of Caffe2 on regions of images, against loops over boxes and pixels."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.arrays import floats
from tests.models.exchange.caffe2_nets import check, model, op, outputs_of, translated

from tensorkeep.errors import TranslationError
from tensorkeep.message import Message

RANDOM = np.random.default_rng(23)
X = RANDOM.normal(size=(2, 3, 9, 11)).astype(np.float32)
ROIS = floats([[0, 1.3, 2.1, 15.2, 12.9], [1, 0, 0, 21, 17], [1, 18, 3, 30, 9], [0, 7, 7, 6, 6]])


def bilinear(image: Any, y: float, x: float) -> float:
    height, width = image.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = int(y), int(x)
    if top >= height - 1:
        y = top = height - 1
    if left >= width - 1:
        x = left = width - 1
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, along = y - top, x - left
    upper = image[top, left] * (1 - along) + image[top, right] * along
    lower = image[bottom, left] * (1 - along) + image[bottom, right] * along
    return float(upper * (1 - down) + lower * down)


def roi_align(
    x: Any, rois: Any, scale: float, size: tuple[int, int], ratio: int, aligned: bool
) -> Any:
    made = np.zeros((len(rois), x.shape[1], *size), np.float32)
    for r, roi in enumerate(rois):
        image = int(roi[0]) if len(roi) == 5 else 0
        x1, y1, x2, y2 = (float(v) * scale - 0.5 * aligned for v in roi[-4:])
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        step = height / size[0], width / size[1]
        points = [ratio if ratio > 0 else math.ceil(s) for s in step]
        for c, row, col in product(range(x.shape[1]), range(size[0]), range(size[1])):
            total = 0.0
            for i, j in product(range(points[0]), range(points[1])):
                y = y1 + row * step[0] + (i + 0.5) * step[0] / points[0]
                at = x1 + col * step[1] + (j + 0.5) * step[1] / points[1]
                total += bilinear(x[image, c], y, at)
            made[r, c, row, col] = total / max(points[0] * points[1], 1)
    return made


def roi_pool(x: Any, rois: Any, scale: float, size: tuple[int, int]) -> Any:
    made = np.zeros((len(rois), x.shape[1], *size), np.float32)
    for r, (image, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (math.floor(v * scale + 0.5) for v in corners)
        steps = max(y2 - y1 + 1, 1) / size[0], max(x2 - x1 + 1, 1) / size[1]
        for row, col in product(range(size[0]), range(size[1])):
            top, bottom = (math.floor(row * steps[0]), math.ceil((row + 1) * steps[0]))
            left, right = (math.floor(col * steps[1]), math.ceil((col + 1) * steps[1]))
            rows = slice(min(max(top + y1, 0), 9), min(max(bottom + y1, 0), 9))
            cols = slice(min(max(left + x1, 0), 11), min(max(right + x1, 0), 11))
            window = x[int(image), :, rows, cols]
            if window.size:
                made[r, :, row, col] = window.max((1, 2))
    return made


def test_regions_aligned() -> None:
    last = np.ascontiguousarray(X.transpose(0, 2, 3, 1))
    good = ROIS[:3]
    ops = [
        op("RoIAlign", "x rois", "a", spatial_scale=0.5, pooled_h=2, pooled_w=3, sampling_ratio=2),
        op("RoIAlign", "x rois", "b", spatial_scale=0.5, pooled_h=3, pooled_w=2),
        op("RoIAlign", "x good", "c", spatial_scale=0.5, pooled_h=2, pooled_w=2, aligned=1),
        op("RoIAlign", "x four", "d", spatial_scale=0.25),
        op("RoIAlign", "last rois", "e", pooled_h=2, sampling_ratio=1, order="NHWC"),
    ]
    expected = {
        "a": roi_align(X, ROIS, 0.5, (2, 3), 2, False),
        "b": roi_align(X, ROIS, 0.5, (3, 2), 0, False),
        "c": roi_align(X, good, 0.5, (2, 2), 0, True),
        "d": roi_align(X, ROIS[:, 1:], 0.25, (1, 1), 0, False),
        "e": roi_align(X, ROIS, 1.0, (2, 1), 1, False).transpose(0, 2, 3, 1),
    }
    weights = {"rois": ROIS, "good": good, "four": np.ascontiguousarray(ROIS[:, 1:])}
    check(model(*ops, weights=weights), {"x": X, "last": last}, expected)


def test_regions_pooled() -> None:
    ops = [op("RoIPool", "x rois", "y", spatial_scale=0.5, pooled_h=3, pooled_w=2, is_test=1)]
    expected = {"y": roi_pool(X, ROIS, 0.5, (3, 2))}
    check(model(*ops), {"x": X, "rois": ROIS}, expected)


def moved(box: Any, delta: Any, weights: Any, edge: float) -> Any:
    x1, y1, x2, y2 = (float(v) for v in box)
    width, height = x2 - x1 + edge, y2 - y1 + edge
    dx, dy, dw, dh = (float(d) / w for d, w in zip(delta, weights, strict=True))
    limit = math.log(1000 / 16)
    x, y = dx * width + x1 + width / 2, dy * height + y1 + height / 2
    w, h = math.exp(min(dw, limit)) * width, math.exp(min(dh, limit)) * height
    return [x - w / 2, y - h / 2, x + w / 2 - edge, y + h / 2 - edge]


def inside(box: Any, width: int, height: int, edge: float) -> Any:
    limits = [width - edge, height - edge] * 2
    return [max(min(v, limit), 0.0) for v, limit in zip(box, limits, strict=True)]


INFO = floats([[40.4, 50, 1.5], [30, 36, 0.75]])


def transformed(rois: Any, deltas: Any, weights: Any, edge: float, scales: bool) -> Any:
    made = np.zeros_like(deltas)
    for r, roi in enumerate(rois):
        height, width, scale = (float(v) for v in INFO[int(roi[0]) if len(roi) == 5 else 0])
        image = int(width / scale + 0.5), int(height / scale + 0.5)
        for k in range(deltas.shape[1] // 4):
            box = moved(roi[-4:] / scale, deltas[r, 4 * k : 4 * k + 4], weights, edge)
            kept = np.array(inside(box, *image, edge))
            made[r, 4 * k : 4 * k + 4] = kept * (scale if scales else 1)
    return made


def test_boxes_transformed() -> None:
    rois = floats([[0, 1, 2, 20, 30], [0, 8, 3, 44, 22], [1, 0, 0, 10, 12], [1, 5, 5, 9, 9]])
    deltas = RANDOM.normal(size=(4, 12)).astype(np.float32)
    deltas[0, 2] = 9  # more than a box may grow
    four = np.ascontiguousarray(rois[:2, 1:])
    ten = [10.0, 10.0, 5.0, 5.0]
    ops = [
        op("BBoxTransform", "rois deltas info", "a splits", weights=ten, apply_scale=0),
        op("BBoxTransform", "rois deltas info", "b", legacy_plus_one=0),
        op("BBoxTransform", "four less first", "c count", correct_transform_coords=1),
    ]
    weights = {"rois": rois, "info": INFO, "four": four, "first": INFO[:1]}
    ones = [1.0] * 4
    expected = {
        "a": transformed(rois, deltas, ten, 1.0, False),
        "splits": floats([2, 2]),
        "b": transformed(rois, deltas, ones, 0.0, True),
        "c": transformed(four, deltas[:2], ones, 1.0, True),
        "count": floats([2]),
    }
    feeds = {"deltas": deltas, "less": np.ascontiguousarray(deltas[:2])}
    check(model(*ops, weights=weights), feeds, expected)


def peak(heat: Any) -> tuple[float, float, float]:
    """Find the highest point of a heat map between its pixels."""
    side = len(heat)
    y, x = np.unravel_index(heat.argmax(), heat.shape)

    def near(dy: int, dx: int) -> float:
        row = y + dy if 0 <= y + dy < side else y - dy
        col = x + dx if 0 <= x + dx < side else x - dx
        return float(heat[row, col])

    slope = -np.array([near(0, 1) - near(0, -1), near(1, 0) - near(-1, 0)]) / 2
    cross = (near(1, 1) - near(1, -1) - near(-1, 1) + near(-1, -1)) / 4
    bend = np.array(
        [
            [near(0, -1) - 2 * near(0, 0) + near(0, 1), cross],
            [cross, near(-1, 0) - 2 * near(0, 0) + near(1, 0)],
        ]
    )
    if abs(np.linalg.det(bend)) < 1e-4:
        return float(x), float(y), near(0, 0)
    shift = np.linalg.solve(bend, slope)
    if np.abs(shift).max() > 1.5:
        shift *= 1.5 / np.abs(shift).max()
    height = near(0, 0) - slope @ shift + shift @ bend @ shift / 2
    return float(x + shift[0]), float(y + shift[1]), float(height)


def test_keypoints() -> None:
    maps = RANDOM.normal(size=(2, 5, 4, 4)).astype(np.float32)
    maps[0, 0] = 3  # flat, and its highest pixel the first one
    boxes = floats([[1, 2, 9, 8.5], [4, 4, 4.2, 4.3]])
    made = np.zeros((2, 4, 5), np.float32)
    for n, k in product(range(2), range(5)):
        x, y, height = peak(maps[n, k])
        x1, y1, x2, y2 = boxes[n]
        powers = np.exp(maps[n, k])
        made[n, :, k] = [
            x1 + (0.5 + x) * max(x2 - x1, 1) / 4,
            y1 + (0.5 + y) * max(y2 - y1, 1) / 4,
            height,
            powers.max() / powers.sum(),
        ]
    plain = made.copy()
    plain[:, 3] = 0
    ops = [
        op("HeatmapMaxKeypoint", "maps boxes", "y", should_output_softmax=1),
        op("HeatmapMaxKeypoint", "maps boxes", "z"),
        op("AliasWithName", "boxes", "same", name="boxes", is_backward=0),
    ]
    feeds = {"maps": maps, "boxes": boxes}
    expected = {"y": made, "z": plain, "same": boxes}
    check(model(*ops), feeds, expected, needs="shape", tolerance=1e-4)


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        (op("RoIAlign", "x x", "y"), "its regions have 4 axes"),
        (op("RoIAlign", "x r", "y", pooled_h=0), "its pooled_h and pooled_w are 0 and 1"),
        (op("RoIPool", "x r", "y", order="NHWC"), "its argument order is NHWC"),
        (op("RoIPool", "x r", "y z"), "its output 2 ('z') is used"),
        (op("BBoxTransform", "r r r", "y", rotated=1), "ONNX has no rotated boxes"),
        (
            op("BBoxTransform", "r r r", "y", correct_transform_coords=0),
            "its argument correct_transform_coords is 0, which releases of Caffe2 read differently",
        ),
        (op("HeatmapMaxKeypoint", "x r", "y"), "its heat maps are 9 by 11"),
        (op("RoIAlignRotated", "x r", "y"), "there is no translation of this operator"),
    ],
)
def test_refusals(operator: Message, reason: str) -> None:
    state = model(operator)
    with pytest.raises(TranslationError) as caught:
        translated(state, {n: {"x": X.shape, "r": (4, 5)}[n] for n in operator.input})
    assert reason in str(caught.value)


def test_no_regions() -> None:
    state = model(op("RoIAlign", "x rois", "y", pooled_h=2), outputs="y")
    found = outputs_of(state, {"x": X, "rois": ROIS[:0]}, {"x": X.shape, "rois": ("R", 5)})
    assert found["y"].shape == (0, 3, 2, 1)
