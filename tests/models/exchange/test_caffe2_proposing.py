"""Boxes that Caffe2's operators propose, choose and spread over levels, against loops."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.arrays import floats
from tests.models.exchange.caffe2_nets import check, model, op, outputs_of, translated
from tests.models.exchange.test_caffe2_detecting import inside, moved, roi_align

from tensorkeep.errors import TranslationError
from tensorkeep.message import Message

RANDOM = np.random.default_rng(31)


def overlap(a: Any, b: Any, edge: float) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]) + edge, 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]) + edge, 0.0)
    areas = [(c[2] - c[0] + edge) * (c[3] - c[1] + edge) for c in (a, b)]
    return float(width * height / (sum(areas) - width * height))


def suppress(boxes: Any, order: list[int], threshold: float, most: int, edge: float) -> list[int]:
    keep: list[int] = []
    for i in order:
        if most > 0 and len(keep) >= most:
            break
        if all(overlap(boxes[i], boxes[j], edge) <= threshold for j in keep):
            keep.append(i)
    return keep


def proposals(
    scores: Any, deltas: Any, info: Any, anchors: Any, least: float, edge: float, **sizes: Any
) -> Any:
    rois, chances = [], []
    for n, (h, w, scale) in enumerate(info):
        rows = []
        for y, x, a in product(*map(range, (scores.shape[2], scores.shape[3], len(anchors)))):
            anchor = anchors[a] + floats([x, y, x, y]) * sizes.get("stride", 8)
            box = moved(anchor, deltas[n, 4 * a : 4 * a + 4, y, x], [1.0] * 4, edge)
            rows.append((scores[n, a, y, x], inside(box, int(w), int(h), edge)))
        rows.sort(key=lambda row: -row[0])
        rows = rows[: sizes["pre"]]
        kept = []
        for i, (_, (x1, y1, x2, y2)) in enumerate(rows):
            width, height = x2 - x1 + edge, y2 - y1 + edge
            large = width >= least * scale and height >= least * scale
            if large and x1 + width / 2 < w and y1 + height / 2 < h:
                kept.append(i)
        boxes = [row[1] for row in rows]
        for i in suppress(boxes, kept, 0.5, sizes["post"], edge):
            rois.append([n, *boxes[i]])
            chances.append(rows[i][0])
    return floats(rois), floats(chances)


@pytest.mark.parametrize(("edge", "post"), [(1.0, 4), (0.0, 0)])
def test_proposals_of_two_images(edge: float, post: int) -> None:
    anchors = floats([[-8, -4, 12, 9], [-3, -9, 6, 14], [-12, -12, 15, 15]])
    scores = RANDOM.uniform(size=(2, 3, 3, 4)).astype(np.float32)
    deltas = (RANDOM.normal(size=(2, 12, 3, 4)) * 0.4).astype(np.float32)
    info = floats([[27.5, 35, 0.5], [24, 32, 1.25]])
    made, chances = proposals(scores, deltas, info, anchors, 7.0, edge, pre=25, post=post)
    operator = op(
        "GenerateProposals",
        "scores deltas info anchors",
        "rois probs",
        spatial_scale=0.125,
        pre_nms_topN=25,
        post_nms_topN=post,
        nms_thresh=0.5,
        min_size=7.0,
        legacy_plus_one=int(edge),
    )
    state = model(operator, weights={"anchors": anchors}, outputs="rois probs")
    assert len(made) > 4
    feeds = {"scores": scores, "deltas": deltas, "info": info}
    check(state, feeds, {"rois": made, "probs": chances})


def limited(scores: Any, boxes: Any, splits: list[int], **settings: Any) -> dict[str, Any]:
    """Choose boxes as the operator is documented to: by class, then by image."""
    most, edge, begin = settings["most"], settings["edge"], settings.get("begin", 1)
    found: dict[str, list[Any]] = {name: [] for name in ("s", "b", "c", "n", "k", "m")}
    start, classes = 0, scores.shape[1]
    for size in splits:
        mine, theirs = scores[start : start + size], boxes[start : start + size]
        keep: dict[int, list[int]] = {}
        for j in range(1, classes):
            column = mine[:, j - 1 + begin]
            box = 0 if settings.get("agnostic") else j - 1 + begin
            order = [int(i) for i in np.argsort(-column) if column[i] > 0.3]
            keep[j] = suppress(theirs[:, 4 * box : 4 * box + 4], order, 0.4, most, edge)
        pairs = [(j, i) for j, rows in keep.items() for i in rows]
        if most > 0:
            pairs.sort(key=lambda pair: -mine[pair[1], pair[0] - 1 + begin])
            pairs = sorted(pairs[:most], key=lambda pair: pair[0])
        for j, i in pairs:
            box = 0 if settings.get("agnostic") else j - 1 + begin
            found["s"].append(mine[i, j - 1 + begin])
            found["b"].append(theirs[i, 4 * box : 4 * box + 4])
            found["c"].append(float(j - settings.get("less", 0)))
            found["k"].append(i)
        found["n"].append(len(pairs))
        found["m"].append([sum(p[0] == j for p in pairs) for j in range(classes)])
        start += size
    types = {"k": np.int32, "m": np.int32}
    return {name: np.array(rows, types.get(name, np.float32)) for name, rows in found.items()}


def random_boxes(count: int, classes: int) -> Any:
    corners = RANDOM.uniform(0, 30, (count, classes, 2))
    sizes = RANDOM.uniform(4, 18, (count, classes, 2))
    return np.concatenate([corners, corners + sizes], 2).reshape(count, -1).astype(np.float32)


WORDS: dict[str, Any] = {"score_thresh": 0.3, "nms": 0.4}


@pytest.mark.parametrize("most", [6, 0, 100])
def test_boxes_limited_in_one_image(most: int) -> None:
    scores = RANDOM.uniform(size=(14, 4)).astype(np.float32)
    boxes, fewer = random_boxes(14, 4), random_boxes(14, 3)
    ops = [
        op("BoxWithNMSLimit", "s b", "s1 b1 c1 n1 k1 m1", detections_per_im=most, **WORDS),
        op(
            "BoxWithNMSLimit",
            "s f",
            "s2 b2 c2",
            detections_per_im=most,
            input_boxes_include_bg_cls=0,
            output_classes_include_bg_cls=0,
            legacy_plus_one=0,
            **WORDS,
        ),
        op(
            "BoxWithNMSLimit",
            "s4 a",
            "s3 b3 c3",
            detections_per_im=most,
            cls_agnostic_bbox_reg=1,
            **WORDS,
        ),
    ]
    once = np.ascontiguousarray(boxes[:, :4])
    ways = [
        ("1", limited(scores, boxes, [14], most=most, edge=1.0)),
        ("2", limited(scores, fewer, [14], most=most, edge=0.0, begin=0, less=1)),
        ("3", limited(scores, once, [14], most=most, edge=1.0, agnostic=True)),
    ]
    expected = {
        f"{name}{way}": array
        for way, found in ways
        for name, array in found.items()
        if way == "1" or name in "sbc"
    }
    feeds = {"s": scores, "s4": scores.reshape(14, 4, 1, 1), "b": boxes, "f": fewer, "a": once}
    check(model(*ops), feeds, expected, needs="shape")


@pytest.mark.parametrize("most", [5, 0])
def test_boxes_limited_in_three_images(most: int) -> None:
    splits = floats([6, 1, 9])
    scores = RANDOM.uniform(size=(16, 3)).astype(np.float32)
    scores[6] = 0.1  # so that the second image has none
    boxes = random_boxes(16, 3)
    operator = op("BoxWithNMSLimit", "s b n", "s1 b1 c1 n1 k1 m1", detections_per_im=most, **WORDS)
    found = limited(scores, boxes, [6, 1, 9], most=most, edge=1.0)
    assert found["n"][1] == 0
    expected = {f"{name}1": array for name, array in found.items()}
    check(model(operator), {"s": scores, "b": boxes, "n": splits}, expected, needs="shape")


def test_no_boxes_are_good_enough() -> None:
    operator = op("BoxWithNMSLimit", "s b", "s1 b1 c1 n1", detections_per_im=5, score_thresh=2.0)
    feeds = {"s": np.ones((3, 2), np.float32), "b": random_boxes(3, 2)}
    found = outputs_of(model(operator), feeds, {"s": ("R", 2), "b": ("R", 8)})
    shapes = {name: array.shape for name, array in found.items()}
    assert shapes == {"s1": (0,), "b1": (0, 4), "c1": (0,), "n1": (1,)}
    assert found["n1"].tolist() == [0.0]


def levels(rois: Any, least: int, most: int, scale: float = 224, edge: float = 1.0) -> list[int]:
    made = []
    for _, x1, y1, x2, y2 in rois.tolist():
        side = math.sqrt((x2 - x1 + edge) * (y2 - y1 + edge))
        level = math.floor(4 + math.log2(side / scale + 1e-6))
        made.append(min(max(level, least), most))
    return made


def test_regions_over_the_levels_of_a_pyramid() -> None:
    def some(count: int) -> Any:
        corners = RANDOM.uniform(0, 100, (count, 2))
        sizes = np.exp(RANDOM.uniform(2, 7, (count, 2)))
        image = RANDOM.integers(0, 2, (count, 1))
        return np.concatenate([image, corners, corners + sizes], 1).astype(np.float32)

    rois = {f"r{level}": some(5 + level) for level in (2, 3, 4)}
    scores = {f"s{level}": RANDOM.uniform(size=5 + level).astype(np.float32) for level in (2, 3, 4)}
    scores["s3"][2] = scores["s2"][1] = 0.99  # of equal ones the first comes first
    inputs = "r2 r3 r4 s2 s3 s4"
    words: dict[str, Any] = {"rpn_min_level": 2, "rpn_max_level": 4}
    ops = [
        op("CollectRpnProposals", inputs, "all", rpn_post_nms_topN=15, **words),
        op("DistributeFpnProposals", "all", "a2 a3 a4 a5 back", roi_min_level=2, roi_max_level=5),
        op("CollectAndDistributeFpnRpnProposals", inputs, "b b2 b3 b4 b5 again", **words),
    ]
    every = np.concatenate(list(rois.values()))
    order = np.argsort(-np.concatenate(list(scores.values())), kind="stable")
    expected = {}
    for name, rows, last in (("a", every[order[:15]], "back"), ("b", every[order], "again")):
        expected["all" if name == "a" else "b"] = rows
        mine = np.array(levels(rows, 2, 5))
        assert len(set(mine.tolist())) > 2
        for level in range(2, 6):
            expected[f"{name}{level}"] = rows[mine == level]
        spread = np.concatenate([np.flatnonzero(mine == level) for level in range(2, 6)])
        expected[last] = np.argsort(spread).astype(np.int32)
    check(model(*ops, outputs=" ".join(expected)), {**rois, **scores}, expected)


def test_a_detector_from_its_maps_to_its_boxes() -> None:
    """A pyramid of two levels, as detectron2 exports it, without the layers that learn."""
    anchors = [floats([[-4, -4, 4, 4], [-2, -6, 2, 6]]) * scale for scale in (1, 2)]
    maps = [RANDOM.normal(size=(1, 3, size, size)).astype(np.float32) for size in (8, 4)]
    scores = [RANDOM.uniform(size=(1, 2, size, size)).astype(np.float32) for size in (8, 4)]
    deltas = [(RANDOM.normal(size=(1, 8, s, s)) * 0.3).astype(np.float32) for s in (8, 4)]
    info = floats([[32, 32, 1]])
    words: dict[str, Any] = {"legacy_plus_one": 0}
    ops = []
    for i in (0, 1):
        inputs = f"s{i} d{i} info a{i}"
        settings: dict[str, Any] = {"nms_thresh": 0.5, "min_size": 0.0, "post_nms_topN": 9, **words}
        scale = 0.25 / 2**i
        ops.append(
            op("GenerateProposals", inputs, f"r{i} p{i}", spatial_scale=scale, **settings),
        )
        window: dict[str, Any] = {"pooled_h": 2, "pooled_w": 2, "sampling_ratio": 2, "aligned": 1}
        ops.append(op("RoIAlign", f"m{i} l{i}", f"f{i}", spatial_scale=scale, **window))
    spread: dict[str, Any] = {"roi_canonical_scale": 10, "roi_min_level": 3, "roi_max_level": 4}
    ops[3:3] = [
        op("CollectRpnProposals", "r0 r1 p0 p1", "rois", rpn_min_level=2, rpn_max_level=3),
        op("DistributeFpnProposals", "rois", "l0 l1 back", **spread, **words),
    ]
    ops.append(ops.pop(1))  # which needs the regions of its level first
    ops += [
        op("Concat", "f0 f1", "shuffled dims", axis=0),
        op("BatchPermutation", "shuffled back", "features"),
        op("FC", "features head_w head_b", "scored"),
        op("FC", "features box_w box_b", "shifts"),
        op("Softmax", "scored", "chances"),
        op("BBoxTransform", "rois shifts info", "boxes n", **words),
        op("BoxWithNMSLimit", "chances boxes n", "s b c", score_thresh=0.3, nms=0.4, **words),
    ]
    weights = {
        **{f"a{i}": anchors[i] for i in (0, 1)},
        "head_w": RANDOM.normal(size=(3, 12)).astype(np.float32),
        "head_b": np.zeros(3, np.float32),
        "box_w": (RANDOM.normal(size=(12, 12)) * 0.05).astype(np.float32),
        "box_b": np.zeros(12, np.float32),
    }
    found = []
    for i in (0, 1):
        given = scores[i], deltas[i], info, anchors[i], 0.0, 0.0
        found.append(proposals(*given, pre=999, post=9, stride=4 * 2**i))
    rois = np.concatenate([row[0] for row in found])
    rois = rois[np.argsort(-np.concatenate([row[1] for row in found]), kind="stable")]
    features = np.zeros((len(rois), 3, 2, 2), np.float32)
    for i, level in enumerate((3, 4)):
        mine = [level == each for each in levels(rois, 3, 4, 10, 0.0)]
        features[mine] = roi_align(maps[i], rois[mine], 0.25 / 2**i, (2, 2), 2, True)
    flat = features.reshape(len(rois), -1)
    powers = np.exp(flat @ weights["head_w"].T)
    chances = powers / powers.sum(1, keepdims=True)
    shifts = flat @ weights["box_w"].T
    boxes = np.zeros_like(shifts)
    for row, (roi, shift) in enumerate(zip(rois, shifts, strict=True)):
        for k in range(3):
            box = moved(roi[1:], shift[4 * k : 4 * k + 4], [1.0] * 4, 0.0)
            boxes[row, 4 * k : 4 * k + 4] = inside(box, 32, 32, 0.0)
    final = limited(chances, boxes, [len(rois)], most=100, edge=0.0)
    assert len(final["s"]) > 3
    feeds = {
        f"{n}{i}": v[i] for n, v in (("m", maps), ("s", scores), ("d", deltas)) for i in (0, 1)
    }
    state = model(*ops, weights=weights, outputs="s b c")
    check(state, {**feeds, "info": info}, {name: final[name] for name in "sbc"}, tolerance=1e-4)


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        (op("BoxWithNMSLimit", "s b", "x y z", soft_nms_enabled=1), "suppression is not soft"),
        (op("BoxWithNMSLimit", "s b", "x y z", rotated=1), "ONNX has no rotated boxes"),
        (op("BoxWithNMSLimit", "o b", "x y z"), "its scores are of 1 classes"),
        (op("GenerateProposals", "s s s b", "x y"), "its anchors have 16 numbers each"),
        (op("CollectRpnProposals", "s b", "x"), "it has 2 inputs, and 5 levels"),
        (op("DistributeFpnProposals", "s", "x y"), "it has 2 outputs for 4 levels"),
        (op("DistributeFpnProposals", "s", "x", roi_max_level=1), "its levels are from 2 to 1"),
    ],
)
def test_refusals(operator: Message, reason: str) -> None:
    shapes = {"s": (5, 4), "b": (5, 16), "o": (5, 1)}
    with pytest.raises(TranslationError) as caught:
        translated(model(operator), {name: shapes[name] for name in operator.input})
    assert reason in str(caught.value)
