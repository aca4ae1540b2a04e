"""Where Resize looks: the positions in an axis that each place of its result is taken from.

Positions are computed in float32, as ONNX Runtime does, so that places on an edge fall as there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tensorkeep.models.exchange.report import Refused

_MOST_PLACES = 1 << 24  # also as far as float32 counts
Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis that is resized: how long it is, how long it becomes, and by what factor.

    The region is what is cropped to, from 0, the first element, to 1, the last.
    """

    length: int
    out: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)

    @property
    def is_kept(self) -> bool:
        """Whether nothing is done."""
        return self.length == self.out and self.scale == 1 and self.region == (0, 1)


def positions(axis: Axis, mode: str) -> Floats:
    """Give the position that each place is taken from, which may be outside of the axis.

    >>> positions(Axis(2, 4, 2.0), "half_pixel")
    array([-0.25,  0.25,  0.75,  1.25], dtype=float32)
    """
    if axis.out > _MOST_PLACES:
        raise Refused(f"an axis of {axis.out:,} places is too long to be written out")
    place, scale = np.arange(axis.out, dtype=np.float32), np.float32(axis.scale)
    half = np.float32(0.5)
    if mode == "asymmetric":
        return place / scale
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and axis.out > 1):
        return (place + half) / scale - half
    if mode == "pytorch_half_pixel":
        return np.zeros(axis.out, np.float32)
    if mode == "tf_half_pixel_for_nn":
        return (place + half) / scale
    if mode == "align_corners":
        last = np.float32(axis.out - 1)
        return place * np.float32(axis.length - 1) / last if axis.out > 1 else place
    if mode == "half_pixel_symmetric":
        exact = np.float32(axis.length) * scale
        center = np.float32(axis.length) / np.float32(2)
        offset = center * (np.float32(1) - np.float32(axis.out) / exact)
        return offset + (place + half) / scale - half
    if mode == "tf_crop_and_resize":
        return _cropped(axis, place)
    raise Refused(f"NNEF has nothing for the coordinates of {mode!r}")


def _cropped(axis: Axis, place: Floats) -> Floats:
    if axis.length == axis.out and axis.scale == 1:
        raise Refused(
            f"it crops an axis and keeps its length of {axis.length}, and so ONNX Runtime does not"
            " crop it",
            "Crop by Slice, and resize to another size.",
        )
    begin, end = map(np.float32, axis.region)
    last = np.float32(axis.length - 1)
    if axis.out > 1:
        found = begin * last + place * (end - begin) * last / np.float32(axis.out - 1)
    else:
        found = (place + np.float32(0.5)) * (begin + end) * last  # the one place is 0
    if not np.all((found >= 0) & (found <= last)):
        raise Refused(
            f"it crops to a region ({begin:g} to {end:g}) that is not within its axis",
            "NNEF has nothing for what is outside.",
        )
    return found


def nearest(axis: Axis, mode: str, rounding: str) -> Indices:
    """Give the index that each place is a copy of.

    >>> nearest(Axis(2, 4, 2.0), "asymmetric", "floor").tolist()
    [0, 0, 1, 1]
    """
    found = positions(axis, mode)
    taken = _rounded(axis, found, rounding)
    if mode == "half_pixel_symmetric" and axis.scale * axis.length != axis.out:
        for nudge in (np.float32(-1e-4), np.float32(1e-4)):
            if not np.array_equal(taken, _rounded(axis, found + nudge, rounding)):
                raise Refused(
                    f"a place of its axis of {axis.length} is taken from just between two elements",
                    "Give sizes, or scales that divide the axis.",
                )
    return taken


def _rounded(axis: Axis, found: Floats, rounding: str) -> Indices:
    half = np.float32(0.5)
    if rounding == "round_prefer_floor":
        rounded = np.ceil(found - half)
    elif rounding == "round_prefer_ceil":
        rounded = np.floor(found + half)
    elif rounding in ("floor", "ceil"):
        rounded = np.floor(found) if rounding == "floor" else np.ceil(found)
    else:
        raise Refused(f"its nearest_mode is {rounding!r}, which ONNX does not have")
    indices: Indices = np.clip(rounded, 0, axis.length - 1).astype(np.int64)
    return indices


def linear(axis: Axis, mode: str) -> Floats:
    """Give the weights [out, length] of an interpolation between two neighbours.

    >>> linear(Axis(2, 3, 1.5), "align_corners").tolist()
    [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """
    last = axis.length - 1
    found = np.clip(positions(axis, mode), 0, np.float32(last))
    low = np.floor(found).astype(np.int64)
    share = found - low.astype(np.float32)
    weights = np.zeros((axis.out, axis.length), np.float32)
    places = np.arange(axis.out)
    np.add.at(weights, (places, low), np.float32(1) - share)
    np.add.at(weights, (places, np.minimum(low + 1, last)), share)
    return weights


def cubic(axis: Axis, mode: str, slope: float, *, exclude_outside: bool) -> Floats:
    """Give the weights [out, length] of a cubic convolution over four neighbours.

    R. Keys, "Cubic convolution interpolation for digital image processing", 1981.
    """
    found, places = positions(axis, mode), np.arange(axis.out)
    low = np.floor(found).astype(np.int64)
    share = found - low.astype(np.float32)
    offsets = np.array([[-1], [0], [1], [2]])
    values = _keys(np.abs(share - offsets.astype(np.float32)), slope)
    index = low + offsets
    if exclude_outside:
        values = np.where((index < 0) | (index >= axis.length), np.float32(0), values)
        values = values / values.sum(axis=0, dtype=np.float32)
    weights = np.zeros((axis.out, axis.length), np.float32)
    for row, value in zip(np.clip(index, 0, axis.length - 1), values, strict=True):
        np.add.at(weights, (places, row), value)
    return weights


def smoothed(
    axis: Axis, mode: str, slope: float | None = None, *, exclude_outside: bool = False
) -> Floats:
    """Give the weights [out, length] of a filter that is as wide as what it makes one of.

    Args:
        axis: what becomes how long.
        mode: of coordinates.
        slope: of a cubic convolution; None interpolates linearly.
        exclude_outside: whether what is outside of the axis has no weight; else it has that of the
            end.
    """
    wide = np.float32(max(1 / axis.scale, 1))
    reach = wide * np.float32(1 if slope is None else 2)
    weights = np.zeros((axis.out, axis.length), np.float32)
    for place, center in enumerate(positions(axis, mode) + np.float32(0.5)):
        first, last = (int(np.floor(center + end + np.float32(0.5))) for end in (-reach, reach))
        if exclude_outside:
            first, last = max(first, 0), min(last, axis.length)
        taps = np.arange(first, last, dtype=np.float32)
        away = np.abs((taps - center + np.float32(0.5)) / wide)
        values = np.maximum(1 - away, 0) if slope is None else _keys(away, slope)
        total = values.sum(dtype=np.float32)
        indices = np.clip(np.arange(first, last), 0, axis.length - 1)
        np.add.at(weights[place], indices, values / total if total else values)
    return weights


def _keys(away: Floats, slope: float) -> Floats:
    """Give the weight of elements by how far away they are, less than two."""
    a = np.float32(slope)
    near = ((a + 2) * away - (a + 3)) * away * away + 1
    far = ((a * away - 5 * a) * away + 8 * a) * away - 4 * a
    found: Floats = np.where(away <= 1, near, np.where(away < 2, far, 0)).astype(np.float32)
    return found


def is_identity(weights: Floats) -> bool:
    """Whether each place is its own."""
    out, length = weights.shape
    return out == length and np.array_equal(weights, np.eye(out))


def repeats(indices: Indices, length: int) -> int:
    """Give the factor by which an axis is repeated element by element; 0 where it is not."""
    factor = len(indices) // length
    plain = np.repeat(np.arange(length), factor)
    return factor if np.array_equal(plain, indices) else 0


def strides(indices: Indices, length: int) -> int:
    """Give the stride by which every so many-th element is taken; 0 where it is not."""
    factor = length // len(indices)
    plain = np.arange(len(indices)) * factor
    whole = factor and length % factor == 0 and len(indices) * factor == length
    return factor if whole and np.array_equal(plain, indices) else 0


def areas(weights: Floats) -> int:
    """Give the factor by which neighbours are averaged in blocks; 0 where they are not."""
    out, length = weights.shape
    if length % out:
        return 0
    factor = length // out
    plain = np.kron(np.eye(out), np.ones((1, factor))) / factor
    return factor if np.array_equal(plain, weights) else 0
