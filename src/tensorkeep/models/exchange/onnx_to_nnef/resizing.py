"""Resize and Upsample.

What NNEF has an operation for becomes that: whole factors, nearest or linear. All else is computed
from constants, since the sizes are known: the nearest by `gather`, and an interpolation along an
axis by the product with a matrix of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tensorkeep.models.exchange.onnx_to_nnef import sampling
from tensorkeep.models.exchange.onnx_to_nnef.operands import attribute, floats
from tensorkeep.models.exchange.onnx_to_nnef.sampling import Axis, Floats, Indices
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import NUMBERS, Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, normal
from tensorkeep.wire.nnef.operations import Reference

METHODS = {
    "half_pixel": "symmetric",
    "pytorch_half_pixel": "symmetric",
    "half_pixel_symmetric": "symmetric",
    "asymmetric": "asymmetric",
    "align_corners": "aligned",
}
_MOST_WEIGHTS = 1 << 22


class Way(NamedTuple):
    """How an operand is resized: nearest, linear or cubic, and by what coordinates."""

    mode: str
    coordinates: str
    rounding: str


@TABLE.row(
    "Upsample",
    becomes="nearest_upsample, multilinear_upsample",
    note="as Resize with asymmetric coordinates",
)
def _upsample(node: Node, to: Writer) -> None:
    shape = to.shape(node.input(0))
    if node.since >= 9:
        scales = [float(value) for value in to.model.array(node.input(1), "its scales").reshape(-1)]
    elif node.since >= 7:
        scales = [float(value) for value in node.attributes["scales"]]
    else:
        sizes = (node.attributes["height_scale"], node.attributes["width_scale"])
        scales = [1.0] * (len(shape) - 2) + [float(value) for value in sizes]
    _sampled(node, to, _scaled(node, to, scales), _old(node))


@TABLE.row(
    "Resize",
    becomes="nearest_upsample, nearest_downsample, multilinear_upsample, area_downsample",
    note="other factors and modes by gather or matmul with constants; crops from within the axes",
)
def _resize(node: Node, to: Writer) -> None:
    if node.since < 11:
        scales = to.model.array(node.input(1), "its scales").reshape(-1)
        _sampled(node, to, _scaled(node, to, [float(value) for value in scales]), _old(node))
        return
    coordinates = node.word("coordinate_transformation_mode", "half_pixel")
    rounding = node.word("nearest_mode", "round_prefer_floor")
    axes = _axes(node, to)
    if coordinates == "tf_crop_and_resize":
        axes = _with_regions(node, to, axes)
    _sampled(node, to, axes, Way(node.word("mode", "nearest"), coordinates, rounding))


def _with_regions(node: Node, to: Writer, axes: list[Axis]) -> list[Axis]:
    """Give axes what is cropped to: all starts come first, then all ends."""
    rank = len(axes)
    chosen = [normal(int(axis), rank) for axis in node.attributes.get("axes", range(rank))]
    given = to.model.array(node.input(1), "its region of interest").reshape(-1).tolist()
    if len(given) != 2 * len(chosen):
        raise Refused(f"its region of {len(given)} numbers is not two for each axis")
    ends = zip(given[: len(chosen)], given[len(chosen) :], strict=True)
    regions = dict(zip(chosen, ends, strict=True))
    return [replace(axis, region=regions.get(k, (0.0, 1.0))) for k, axis in enumerate(axes)]


def _old(node: Node) -> Way:
    """Give what resizing was before its coordinates had a name."""
    mode = node.word("mode", "nearest")
    return Way("linear" if mode in ("linear", "bilinear") else mode, "asymmetric", "")


def _scaled(node: Node, to: Writer, scales: Sequence[float]) -> list[Axis]:
    shape, out = to.shape(node.input(0)), to.shape(node.output())
    if len(scales) != len(shape) or len(out) != len(shape):
        raise Refused(f"its {len(scales)} scales are not one for each axis of {shape}")
    if not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise Refused(f"its scales {list(scales)} are not all positive")
    axes = [Axis(*each) for each in zip(shape, out, scales, strict=True)]
    if any(abs(axis.length * axis.scale - axis.out) > 1.01 for axis in axes):
        raise Refused(f"its output {out} is not {shape} by its scales {list(scales)}")
    return axes


def _axes(node: Node, to: Writer) -> list[Axis]:
    shape, out = to.shape(node.input(0)), to.shape(node.output())
    rank = len(shape)
    chosen = [normal(int(axis), rank) for axis in node.attributes.get("axes", range(rank))]
    scales = [1.0] * rank
    if node.input(2) and 0 not in to.shape(node.input(2)):
        given = to.model.array(node.input(2), "its scales").reshape(-1)
        if len(given) != len(chosen):
            raise Refused(f"its {len(given)} scales are not one for each of {len(chosen)} axes")
        for axis, scale in zip(chosen, given, strict=True):
            scales[axis] = float(scale)
        return _scaled(node, to, scales)
    sizes = to.model.integers(node.input(3), "its sizes")
    if len(sizes) != len(chosen):
        raise Refused(f"its {len(sizes)} sizes are not one for each of {len(chosen)} axes")
    for axis, size in zip(chosen, sizes, strict=True):
        scales[axis] = float(np.float32(size) / np.float32(shape[axis]))
    policy = node.word("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch" and chosen:
        choose = min if policy == "not_larger" else max
        common = choose(scales[axis] for axis in chosen)
        scales = [common if axis in chosen else 1.0 for axis in range(rank)]
    elif any(out[axis] != size for axis, size in zip(chosen, sizes, strict=True)):
        raise Refused(f"its sizes {sizes} are not those of its output {out}")
    return _scaled(node, to, scales)


def _sampled(node: Node, to: Writer, axes: list[Axis], way: Way) -> None:
    x = to.tensor(node.input(0))
    if way.mode == "nearest":
        _nearest(node, to, x, axes, way)
    elif way.mode in ("linear", "cubic"):
        floats(to, node.input(0))
        _interpolate(node, to, x, axes, way)
    else:
        raise Refused(f"its mode is {way.mode!r}, which ONNX does not have")


def _indices(axis: Axis, way: Way) -> Indices:
    if way.rounding:
        return sampling.nearest(axis, way.coordinates, way.rounding)
    places = sampling.positions(axis, way.coordinates)
    if axis.scale < 1 and np.any(places != np.floor(places)):
        raise Refused(
            "its nearest neighbour between two elements is not told before opset 11",
            "Convert it to a newer opset first.",
        )
    return sampling.nearest(axis, way.coordinates, "floor")


def _nearest(node: Node, to: Writer, x: Reference, axes: list[Axis], way: Way) -> None:
    taken = {k: _indices(axis, way) for k, axis in enumerate(axes) if not axis.is_kept}
    lengths = {k: axes[k].length for k in taken}
    taken = {k: of for k, of in taken.items() if not np.array_equal(of, np.arange(lengths[k]))}
    if not taken:
        to.apply("copy", x, output=node.output())
        return
    if to.model.type(node.input(0)) in NUMBERS and min(taken) >= 2:
        for operation, factor_of in (
            ("nearest_upsample", sampling.repeats),
            ("nearest_downsample", sampling.strides),
        ):
            factors = [
                factor_of(taken[k], lengths[k]) if k in taken else 1 for k in range(2, len(axes))
            ]
            if all(factors):
                to.emit(operation, {"input": x, "factor": factors}, node.output())
                return
    text = f"elements along {_told(list(taken))} are gathered by constant indices"
    to.report.add("expanded", str(node), text)
    shape = to.shape_of(x)
    for axis, index in taken.items():
        last = node.output() if axis == max(taken) else None
        indices = to.variable(index, f"{node.output()}_indices_{axis}")
        arguments = {"input": x, "indices": indices, "axis": axis}
        shape = (*shape[:axis], len(index), *shape[axis + 1 :])
        x = to.emit("gather", arguments, last, shape=shape)


def _interpolate(node: Node, to: Writer, x: Reference, axes: list[Axis], way: Way) -> None:
    matrices = [_weights(to, node, axis, way) for axis in axes]
    changed = [k for k, of in enumerate(matrices) if not sampling.is_identity(of)]
    if not changed:
        to.apply("copy", x, output=node.output())
    elif all(axis >= 2 for axis in changed) and _plain(node, to, x, axes, matrices, way):
        pass
    else:
        text = f"the interpolation along {_told(changed)} is a product with constant weights"
        to.report.add("expanded", str(node), text)
        for axis in changed:
            last = node.output() if axis == changed[-1] else None
            x = _multiplied(node, to, x, axis, matrices[axis], last)


def _plain(
    node: Node, to: Writer, x: Reference, axes: list[Axis], matrices: list[Floats], way: Way
) -> bool:
    """Emit NNEF's own operation where it is just this."""
    blocks = [sampling.areas(weights) for weights in matrices[2:]]
    if all(blocks):
        to.emit("area_downsample", {"input": x, "factor": blocks}, node.output())
        return True
    whole = all(axis.out % axis.length == 0 for axis in axes[2:])
    factors = [axis.out // axis.length for axis in axes[2:]]
    method = METHODS.get(way.coordinates)
    given = [axis.scale for axis in axes[2:]]
    smooth = node.attributes.get("antialias", 0)
    if way.mode != "linear" or not whole or not method or smooth:
        return False
    if method != "aligned" and given != factors:
        return False
    arguments: dict[str, object] = {"input": x, "factor": factors}
    if method != "symmetric":
        arguments["method"] = method
    to.emit("multilinear_upsample", arguments, node.output())
    return True


def _weights(to: Writer, node: Node, axis: Axis, way: Way) -> Floats:
    if axis.is_kept:
        return np.eye(1, dtype=np.float32)
    if axis.length * axis.out > _MOST_WEIGHTS:
        raise Refused(f"an axis of {axis.length:,} resized to {axis.out:,} has too many weights")
    slope = attribute(to, node, "cubic_coeff_a", -0.75) if way.mode == "cubic" else None
    outside = bool(node.attributes.get("exclude_outside", 0))
    if node.attributes.get("antialias", 0):
        return sampling.smoothed(axis, way.coordinates, slope, exclude_outside=outside)
    if slope is None:
        return sampling.linear(axis, way.coordinates)
    return sampling.cubic(axis, way.coordinates, slope, exclude_outside=outside)


def _multiplied(
    node: Node, to: Writer, x: Reference, axis: int, weights: Floats, output: str | None
) -> Reference:
    """Multiply along an axis: [before, length, after] with weights [1, out, length]."""
    shape = to.shape_of(x)
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    out = (*shape[:axis], len(weights), *shape[axis + 1 :])
    held = weights.astype(to.type_of(x))
    hint = f"{node.output()}_weights_{axis}"
    if after == 1:
        flat = to.reshape(x, [before, shape[axis]])
        factors = {"A": flat, "B": to.variable(held, hint), "transposeB": True}
        made = to.emit("matmul", factors, shape=[before, len(weights)])
    else:
        flat = to.reshape(x, [before, shape[axis], after])
        factors = {"A": to.variable(held[np.newaxis], hint), "B": flat}
        made = to.emit("matmul", factors, shape=[before, len(weights), after])
    return to.reshape(made, out, output)


def _told(axes: list[int]) -> str:
    return "axis " + ", ".join(map(str, axes))
