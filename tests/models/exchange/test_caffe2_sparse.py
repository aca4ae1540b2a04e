"""Operators of Caffe2 on sparse features, against loops over segments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.models.exchange.arrays import floats, int32s, int64s
from tests.models.exchange.caffe2_nets import check, model, op, translated

from tensorkeep.errors import TranslationError
from tensorkeep.message import Message

RANDOM = np.random.default_rng(13)
LENGTHS = int32s([2, 0, 3, 1, 0])
ROWS = RANDOM.normal(size=(6, 2, 3)).astype(np.float32)
TABLE = RANDOM.normal(size=(9, 4)).astype(np.float32)
INDICES = int64s([3, 8, 0, 3, 5, 1])
WEIGHTS = RANDOM.normal(size=6).astype(np.float32)
HOW: dict[str, Any] = {"Sum": np.sum, "Mean": np.mean, "Max": np.max}


def reduced(rows: Any, lengths: Any, how: str) -> Any:
    made, start = [], 0
    for length in lengths:
        mine = rows[start : start + length]
        made.append(HOW[how](mine, axis=0) if length else np.zeros_like(rows[0]))
        start += length
    return np.array(made, np.float32)


@pytest.mark.parametrize("lengths", [LENGTHS, int32s([0, 6]), int32s([1, 1, 4])])
def test_reductions_by_lengths(lengths: Any) -> None:
    looked = TABLE[INDICES]
    places = np.concatenate([np.arange(length) for length in lengths])
    scaled = looked * WEIGHTS[places][:, None]
    ops = [
        *(op(f"Lengths{how}", "rows n", f"l{how}") for how in HOW),
        *(op(f"SparseLengths{how}", "table i n", f"s{how}") for how in HOW),
        op("LengthsWeightedSum", "rows w n", "lw"),
        op("SparseLengthsWeightedSum", "table w i n", "sw"),
        op("SparseLengthsPositionalWeightedSum", "table w i n", "sp"),
        op("SparseLengthsSum", "half i n", "sh"),
    ]
    half = TABLE.astype(np.float16)
    expected = {
        **{f"l{how}": reduced(ROWS, lengths, how) for how in HOW},
        **{f"s{how}": reduced(looked, lengths, how) for how in HOW},
        "lw": reduced(ROWS * WEIGHTS[:, None, None], lengths, "Sum"),
        "sw": reduced(looked * WEIGHTS[:, None], lengths, "Sum"),
        "sp": reduced(scaled, lengths, "Sum"),
        "sh": reduced(half[INDICES].astype(np.float32), lengths, "Sum"),
    }
    feeds = {"rows": ROWS, "w": WEIGHTS, "i": INDICES, "n": lengths}
    check(model(*ops, weights={"table": TABLE, "half": half}), feeds, expected, needs="rank")


def test_no_rows_at_all() -> None:
    state = model(op("SparseLengthsSum", "table i n", "y"), weights={"table": TABLE})
    feeds = {"i": INDICES[:0], "n": int32s([0, 0])}
    check(state, feeds, {"y": np.zeros((2, 4), np.float32)}, needs="rank")


def test_reductions_by_numbers() -> None:
    rising, mixed = int32s([0, 0, 1, 1, 1, 2]), int32s([2, 0, 2, 5, 0, 2])

    def by(rows: Any, ids: Any, how: str, count: int) -> Any:
        made = np.zeros((count, *rows.shape[1:]), np.float32)
        for i in set(ids.tolist()):
            made[i] = HOW[how](rows[ids == i], axis=0)
        return made

    looked = TABLE[INDICES]
    ops = [
        op("SortedSegmentSum", "rows a", "ss"),
        op("SortedSegmentMean", "rows a", "sm"),
        op("SortedSegmentRangeMax", "rows a", "sx"),
        op("UnsortedSegmentSum", "rows b", "us"),
        op("UnsortedSegmentMean", "rows b", "um", num_segments=8),
        op("SparseUnsortedSegmentSum", "table i b", "zs"),
        op("UnsortedSegmentWeightedSum", "rows w b", "uw"),
    ]
    expected = {
        "ss": by(ROWS, rising, "Sum", 3),
        "sm": by(ROWS, rising, "Mean", 3),
        "sx": by(ROWS, rising, "Max", 3),
        "us": by(ROWS, mixed, "Sum", 6),
        "um": by(ROWS, mixed, "Mean", 8),
        "zs": by(looked, mixed, "Sum", 6),
        "uw": by(ROWS * WEIGHTS[:, None, None], mixed, "Sum", 6),
    }
    feeds = {"rows": ROWS, "a": rising, "b": mixed, "i": INDICES, "w": WEIGHTS}
    check(model(*ops, weights={"table": TABLE}), feeds, expected, needs="rank")


def test_dense_and_one_hot() -> None:
    index, size = int64s([1, 4, 1]), int64s([6])
    dense = np.zeros((6, 2), np.float32)
    values = floats([[1, 2], [3, 4], [5, 6]])
    for i, row in zip(index, values, strict=True):
        dense[i] += row
    table = int64s([[2, 3], [4, 1], [2, 5]])
    hot = np.zeros((3, 7), np.float32)
    hot[0, 2] = hot[0, 6] = hot[2, 1] = 1
    ops = [
        op("SparseToDense", "i v", "d", output_first_dim=6),
        op("SparseToDense", "i v", "e"),
        op("SparseToDense", "i v like", "f"),
        op("OneHot", "i size", "h"),
        op("OneHot", "i k", "k2"),
        op("BatchOneHot", "x lens vals", "b"),
        op("SegmentOneHot", "s members wide", "z"),
    ]
    expected = {
        "d": dense,
        "e": dense[:5],
        "f": dense,
        "h": np.eye(6, dtype=np.float32)[index],
        "k2": np.eye(6, dtype=np.float32)[index],
        "b": int64s([[1, 0, 0, 1, 0], [0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        "z": hot,
    }
    feeds = {
        "i": index,
        "v": values,
        "like": np.zeros((6, 1), np.float32),
        "size": size,
        "x": table,
        "lens": int32s([2, 3]),
        "vals": int64s([2, 4, 1, 3, 5]),
        "s": int32s([2, 0, 1]),
        "members": int64s([2, 6, 1]),
        "wide": int64s([7]),
    }
    check(model(*ops, weights={"k": size}), feeds, expected, needs="rank")


def test_masks_and_ragged_forms() -> None:
    mask = np.array([True, False, True, True, False, False])
    spans = int32s([[[0, 1], [2, 2]], [[4, 2], [1, 0]]])
    data = floats([9, 8, 7, 6, 5, 4])
    repeated = int64s([7, 2, 7, 5, 2])
    ops = [
        op("BooleanMask", "rows mask", "m mi"),
        op("BooleanMaskLengths", "n mask", "ml"),
        op("LengthsToSegmentIds", "n", "ids"),
        op("LengthsToRanges", "n", "ranges"),
        op("LengthsRangeFill", "n", "fill"),
        op("LengthsTile", "five n", "tiled"),
        op("GatherRanges", "data spans", "g gl"),
        op("Unique", "r", "u ui"),
        op("Unique", "r", "once"),
    ]
    five = np.arange(10, dtype=np.float32).reshape(5, 2)
    expected = {
        "m": ROWS[mask],
        "mi": np.flatnonzero(mask),
        "ml": int32s([1, 0, 2, 0, 0]),
        "ids": int32s([0, 0, 2, 2, 2, 3]),
        "ranges": int32s([[0, 2], [2, 0], [2, 3], [5, 1], [6, 0]]),
        "fill": int32s([0, 1, 0, 1, 2, 0]),
        "tiled": np.repeat(five, LENGTHS, 0),
        "g": floats([9, 7, 6, 5, 4]),
        "gl": int32s([3, 2]),
        "u": int64s([2, 5, 7]),
        "ui": int32s([2, 0, 2, 1, 0]),
        "once": int64s([2, 5, 7]),
    }
    feeds = {"rows": ROWS, "mask": mask, "n": LENGTHS, "five": five, "data": data}
    check(model(*ops), {**feeds, "spans": spans, "r": repeated}, expected)


def test_segments_packed_and_unpacked() -> None:
    packed = np.zeros((5, 3, 2, 3), np.float32)
    start = 0
    for i, length in enumerate(LENGTHS):
        packed[i, :length] = ROWS[start : start + length]
        start += length
    beside = packed.copy()
    for i, length in enumerate(LENGTHS):
        beside[i, length:] = -np.inf
    ops = [
        op("PackSegments", "n rows", "packed"),
        op("PackSegments", "n rows", "beside", pad_minf=1),
        op("UnpackSegments", "n packed", "again"),
    ]
    state = model(*ops, outputs="packed beside again")
    expected = {"packed": packed, "beside": beside, "again": ROWS}
    check(state, {"n": LENGTHS, "rows": ROWS}, expected, needs="rank")


def test_sequences_masked() -> None:
    x = RANDOM.normal(size=(3, 4)).astype(np.float32)
    ends, centers = int32s([4, 0, 2]), int32s([0, 3, 1])
    row, column = np.arange(3)[:, None], np.arange(4)
    masks = {
        "sequence": column >= ends[:, None],
        "window": np.abs(column - centers[:, None]) > 1,
        "upper": column > row,
        "lower": column < row,
        "upperdiag": column >= row,
        "lowerdiag": column <= row,
    }
    second = {"sequence": "x ends", "window": "x centers"}
    ops = [
        op("SequenceMask", second.get(mode, "x"), mode, mode=mode, radius=1, fill_val=-5.0)
        for mode in masks
    ]
    ops.append(op("SequenceMask", "x ends", "plain", mode="sequence"))
    expected = {mode: np.where(gone, np.float32(-5), x) for mode, gone in masks.items()}
    expected["plain"] = np.where(masks["sequence"], np.float32(-np.inf), x)
    check(model(*ops), {"x": x, "ends": ends, "centers": centers}, expected)


@pytest.mark.parametrize(
    ("operator", "reason"),
    [
        (op("LengthsSum", "x", "y"), "it has 1 input, and needs 2"),
        (op("LengthsSum", "x i x", "y"), "it has 3 inputs, where 2 are known"),
        (op("SparseToDense", "i x x", "y", output_first_dim=3), "it has 3 inputs, where 2"),
        (op("SequenceMask", "x", "y", mode="odd"), "its argument mode is 'odd'"),
        (op("SequenceMask", "x", "y", mode="upper", batch=1), "it has the argument batch"),
    ],
)
def test_refusals(operator: Message, reason: str) -> None:
    shapes = {"x": (2, 3), "i": (2,)}
    with pytest.raises(TranslationError) as caught:
        translated(model(operator), {name: shapes[name] for name in operator.input})
    assert reason in str(caught.value)
