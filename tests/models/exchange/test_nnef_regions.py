"""NNEF's regions of interest in ONNX, against loops in NumPy."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tests.models.exchange.nnef_texts import document_text, read, to_onnx
from tests.models.exchange.window_references import check

from tensorkeep.errors import TranslationError
from tensorkeep.models.exchange.nnef_to_onnx import translate
from tensorkeep.models.exchange.report import Report

X = np.random.default_rng(9).normal(size=(2, 3, 7, 9)).astype(np.float32)
ROIS = np.array(
    [[0, 0, 8, 6], [1.2, 2.4, 6.1, 5.7], [3, 1, 3, 1], [2.6, 0.3, 8.4, 4.9], [0, 0, 9, 7]],
    np.float32,
)
INPUTS = {"x": X, "r": ROIS, "n": np.array([0, 1, 1, 0, 1])}


def pooled(
    x: np.ndarray,
    rois: np.ndarray,
    batches: np.ndarray,
    size: Sequence[int],
    pool: Callable[..., Any],
) -> Any:
    """Pool cells of rounded regions whose last element is part of them."""
    made = np.zeros((len(rois), x.shape[1], *size), x.dtype)
    for k, (roi, batch) in enumerate(zip(rois, batches, strict=True)):
        x1, y1, x2, y2 = (int(np.floor(each + 0.5)) for each in roi)
        height, width = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for i, j in np.ndindex(*size):
            top = min(max(y1 + i * height // size[0], 0), x.shape[2])
            end = min(max(y1 - (-(i + 1) * height // size[0]), 0), x.shape[2])
            left = min(max(x1 + j * width // size[1], 0), x.shape[3])
            right = min(max(x1 - (-(j + 1) * width // size[1]), 0), x.shape[3])
            cell = x[batch, :, top:end, left:right]
            made[k, :, i, j] = pool(cell, axis=(1, 2)) if cell.size else 0
    return made


def resampled(
    x: np.ndarray, rois: np.ndarray, batches: np.ndarray, size: Sequence[int], method: str
) -> Any:
    """Interpolate between elements, those at the edges going on beyond them."""
    made = np.zeros((len(rois), x.shape[1], *size), np.float64)

    def position(first: float, last: float, at: int, count: int) -> float:
        if method == "symmetric":
            return first + (at + 0.5) * (last - first) / count - 0.5
        if method == "asymmetric":
            return first + at * (last - first) / count
        return first + at * (last - 1 - first) / max(count - 1, 1)

    for k, ((x1, y1, x2, y2), batch) in enumerate(zip(rois, batches, strict=True)):
        for i, j in np.ndindex(*size):
            y = min(max(position(y1, y2, i, size[0]), 0), x.shape[2] - 1)
            z = min(max(position(x1, x2, j, size[1]), 0), x.shape[3] - 1)
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    weight = max(0, 1 - abs(y - row)) * max(0, 1 - abs(z - column))
                    made[k, :, i, j] += weight * x[batch, :, row, column]
    return made


def aligned(
    x: np.ndarray,
    rois: np.ndarray,
    batches: np.ndarray,
    size: Sequence[int],
    rate: Sequence[int],
    method: str,
    pool: Callable[..., Any],
) -> Any:
    finer = resampled(x, rois, batches, [size[0] * rate[0], size[1] * rate[1]], method)
    cells = finer.reshape(len(rois), x.shape[1], size[0], rate[0], size[1], rate[1])
    return pool(cells, axis=(3, 5)).astype(np.float32)


def test_pools() -> None:
    check(
        [
            ("max_roi_pool(x, r, n, output_size = [2, 3])",
             lambda x, r, n: pooled(x, r, n, [2, 3], np.max)),
            ("max_roi_pool(x, r, n, output_size = [1, 1])",
             lambda x, r, n: pooled(x, r, n, [1, 1], np.max)),
            ("avg_roi_pool(x, r, n, output_size = [2, 3])",
             lambda x, r, n: pooled(x, r, n, [2, 3], np.mean)),
            ("avg_roi_pool(x, r, n, output_size = [4, 1])",
             lambda x, r, n: pooled(x, r, n, [4, 1], np.mean)),
        ],
        INPUTS,
    )  # fmt: skip


def test_samples() -> None:
    def of(method: str, size: Sequence[int]) -> Callable[..., np.ndarray]:
        return lambda x, s, n: resampled(x, s, n, size, method).astype(np.float32)

    regions = ROIS[[0, 1, 3, 4, 4]]  # one without any extent is aligned to before its start
    check(
        [
            (f"roi_resample(x, s, n, output_size = {size}, method = '{method}')", of(method, size))
            for method in ("symmetric", "asymmetric", "aligned")
            for size in ([2, 3], [5, 1])
        ],
        {"x": X, "s": regions, "n": INPUTS["n"]},
        tolerance=1e-4,
    )


def test_aligned_pools() -> None:
    def of(pool: Callable[..., Any], rate: Sequence[int], method: str) -> Callable[..., np.ndarray]:
        return lambda x, s, n: aligned(x, s, n, [2, 2], rate, method, pool)

    cases = []
    for rate, method in (([2, 2], "symmetric"), ([1, 3], "aligned"), ([1, 1], "symmetric")):
        given = f"output_size = [2, 2], sampling_rate = {rate}, resize_method = '{method}'"
        cases.append((f"avg_roi_align(x, s, n, {given})", of(np.mean, rate, method)))
        cases.append((f"max_roi_align(x, s, n, {given})", of(np.max, rate, method)))
    check(cases, {"x": X, "s": ROIS[[0, 1, 3, 4, 4]], "n": INPUTS["n"]}, tolerance=1e-4)


def test_how_regions_are_read_is_told() -> None:
    report = Report("nnef", "onnx")
    lines = ["p = max_roi_pool(x, r, n, output_size = [2, 3]);"]
    translate(read(document_text(lines, INPUTS, {}, ["p"])), report)
    assert "changed p: its regions are read as [x1, y1, x2, y2]" in str(report.remarks[0])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("max_roi_pool(r, r, n, output_size = [2, 3])", "an input of 2 axes, where 4 are expected"),
        ("max_roi_pool(x, x, n, output_size = [2, 3])", "regions of shape [2, 3, 7, 9]"),
        ("max_roi_pool(x, r, n, output_size = [2])", "1 in output_size, where 2 are expected"),
        ("avg_roi_pool(x, r, n, output_size = [])", "output_size = [], where two positive"),
        ("avg_roi_pool(x, r, n, output_size = [0, 1])", "output_size = [0, 1], where two positive"),
        ("roi_resample(x, r, m, output_size = [1, 1])", "not one number for each region"),
        ("roi_resample(x, r, n, output_size = [1, 1], method = 'cubic')", "method = cubic"),
        ("max_roi_align(x, r, n, output_size = [1, 1], sampling_rate = [0, 1])", "two positive"),
    ],
)
def test_refused(line: str, reason: str) -> None:
    inputs = INPUTS | {"m": np.array([0])}
    with pytest.raises(TranslationError) as caught:
        to_onnx(document_text([f"p = {line};"], inputs, {}, ["p"]))
    assert reason in str(caught.value)
