"""Resizing by whole factors: nearest_ and area_downsample, nearest_ and multilinear_upsample."""

from __future__ import annotations

from typing import Any

from tensorkeep.models.exchange.nnef_to_onnx.chain import Chain
from tensorkeep.models.exchange.nnef_to_onnx.pooling import total
from tensorkeep.models.exchange.nnef_to_onnx.reader import Reader
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.nnef_to_onnx.windows import Window
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation

# How ONNX says where the elements of the larger tensor lie in the smaller one.
_METHODS = {"symmetric": "half_pixel", "asymmetric": "asymmetric", "aligned": "align_corners"}
_MOST_AXES = 3  # that ONNX Runtime interpolates on


@TABLE.row("nearest_downsample", becomes="Slice")
def _nearest_downsample(op: Operation, reader: Reader) -> None:
    factors, shape = _smaller(op, reader)
    to, count = reader.to, len(factors)
    rows = ([0] * count, list(shape[2:]), list(range(2, 2 + count)), factors)
    where = [to.constant(row, "int64") for row in rows]
    value = reader.number(op.arguments.get("input"))
    narrow = _resized(shape, factors, smaller=True)
    reader.make(op, "Slice", [value, *where], narrow, reader.type(op.arguments.get("input")))


@TABLE.row("area_downsample", becomes="AveragePool")
def _area_downsample(op: Operation, reader: Reader) -> None:
    factors, shape = _smaller(op, reader)
    narrow = _resized(shape, factors, smaller=True)
    ones, none = (1,) * len(shape), ((0, 0),) * len(shape)
    size = (1, 1, *factors)
    window = Window(size, none, size, ones, shape, narrow, "constant")
    chain = Chain(reader.to, reader.number(op.arguments.get("input")))
    dtype = reader.type(op.arguments.get("input"))
    total(chain, window, dtype, normalize=True)
    reader.give(reader.reference(op), chain.end(reader.result(op)), narrow, dtype)


@TABLE.row("nearest_upsample", becomes="Resize")
def _nearest_upsample(op: Operation, reader: Reader) -> None:
    factors, shape = _factors(op, reader)
    chain = Chain(reader.to, reader.number(op.arguments.get("input")))
    _enlarge(chain, factors, "asymmetric", mode="nearest", nearest_mode="floor")
    wide = _resized(shape, factors)
    dtype = reader.type(op.arguments.get("input"))
    reader.give(reader.reference(op), chain.end(reader.result(op)), wide, dtype)


@TABLE.row("multilinear_upsample", becomes="Resize", note="up to three axes; all methods")
def _multilinear_upsample(op: Operation, reader: Reader) -> None:
    factors, shape = _factors(op, reader)
    method = reader.word(op, "method", *_METHODS)
    border = reader.word(op, "border", "replicate", "constant")
    if len(factors) > _MOST_AXES:
        raise Refused(f"interpolates on {len(factors)} axes, where ONNX Runtime does on 3 at most")
    to = reader.to
    chain = Chain(to, reader.number(op.arguments.get("input")))
    # Zeros beyond a constant border are put there, and what only they give is cut off again.
    before, after = int(method == "symmetric"), int(method != "aligned")
    zeros = border == "constant" and method != "aligned" and max(factors, default=1) > 1
    if zeros:
        added = [before] * len(factors) + [after] * len(factors)
        _pad_spatial(chain, added)
    _enlarge(chain, factors, _METHODS[method], mode="linear")
    if zeros:
        cut = [-before * factor for factor in factors] + [-after * factor for factor in factors]
        _pad_spatial(chain, cut)
    wide = _resized(shape, factors)
    dtype = reader.type(op.arguments.get("input"))
    reader.give(reader.reference(op), chain.end(reader.result(op)), wide, dtype)


def _enlarge(chain: Chain, factors: list[int], method: str, **attributes: Any) -> Chain:
    scales = chain.to.constant([1.0, 1.0, *map(float, factors)], "float32", "scales")
    attributes["coordinate_transformation_mode"] = method
    return chain.then("Resize", None, scales, **attributes)


def _pad_spatial(chain: Chain, pads: list[int]) -> Chain:
    half = len(pads) // 2
    whole = [0, 0, *pads[:half], 0, 0, *pads[half:]]
    return chain.then("Pad", chain.to.constant(whole, "int64", "pads"), mode="constant")


def _factors(op: Operation, reader: Reader) -> tuple[list[int], tuple[int, ...]]:
    factors = reader.integers(op, "factor")
    shape = reader.shape(op.arguments.get("input"))
    if len(factors) != len(shape) - 2 or any(factor < 1 for factor in factors):
        raise Refused(f"has factor = {factors} for an input of shape {list(shape)}")
    return factors, shape


def _smaller(op: Operation, reader: Reader) -> tuple[list[int], tuple[int, ...]]:
    factors, shape = _factors(op, reader)
    if any(size % factor for size, factor in zip(shape[2:], factors, strict=True)):
        raise Refused(f"has factor = {factors}, which does not divide {list(shape[2:])}")
    return factors, shape


def _resized(
    shape: tuple[int, ...], factors: list[int], *, smaller: bool = False
) -> tuple[int, ...]:
    rows = zip(shape[2:], factors, strict=True)
    return (*shape[:2], *[size // each if smaller else size * each for size, each in rows])
