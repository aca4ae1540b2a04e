"""Regions of interest: pools and samples of a fixed size from regions of feature maps.

A region is [x1, y1, x2, y2] in elements of the input. Pools take it as ONNX's MaxRoiPool does:
bounds are rounded, the last element is part of it, and cells overlap where they do not divide it.
Samples are what multilinear_upsample would give of what is between the bounds. MaxRoiPool and
RoiAlign would say most of it, but ONNX Runtime has none of their newest versions: what a cell is
made of becomes a matrix for the rows of the maps, and one for their columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.models.exchange.emitting import Emitter, number_of
from tensorkeep.models.exchange.nnef_to_onnx.chain import Chain
from tensorkeep.models.exchange.nnef_to_onnx.reader import INTEGERS, Reader
from tensorkeep.models.exchange.nnef_to_onnx.table import TABLE
from tensorkeep.models.exchange.nnef_to_onnx.windows import check_made
from tensorkeep.models.exchange.report import Refused
from tensorkeep.wire.nnef.operations import Operation

_METHODS = ("symmetric", "asymmetric", "aligned")
_READ = "its regions are read as [x1, y1, x2, y2] in elements of the input"
_NOTE = f"{_READ}; the maps are repeated for each region"
_ROWS, _COLUMNS = 0, 1


@dataclass(frozen=True, slots=True)
class _Regions:
    """What is pooled: feature maps, one set for each region, and the regions.

    Attributes:
        to: the graph that grows.
        maps: the ONNX value of [regions, channels, rows, columns].
        bounds: that of the regions: [regions, 4].
        extents: the numbers of rows and columns.
        size: the numbers of rows and columns of what a region becomes.
        shape: of the result.
        dtype: of it all.
    """

    to: Emitter
    maps: str
    bounds: str
    extents: tuple[int, int]
    size: tuple[int, int]
    shape: tuple[int, ...]
    dtype: str

    def constant(self, value: npt.ArrayLike) -> str:
        """Name a constant to compute with."""
        return self.to.constant(value, self.dtype)

    def bound(self, axis: int, *, last: bool) -> Chain:
        """Give the first or last bounds on an axis, as [regions, 1, 1, 1]."""
        column = self.to.constant([1 - axis + 2 * last], "int64")
        return Chain(self.to, self.bounds).then("Gather", column, axis=1).shaped([-1, 1, 1, 1])


@TABLE.row("max_roi_pool", becomes="Gather, Where, ReduceMax", note=_NOTE)
def _max_roi_pool(op: Operation, reader: Reader) -> None:
    regions = _read(op, reader)
    to, lowest = reader.to, regions.constant(-np.inf)
    three, four = (to.constant([axis], "int64", "axes") for axis in (3, 4))
    rows, columns = (_cells(regions, axis) for axis in (_ROWS, _COLUMNS))
    chain = Chain(to, regions.maps)
    chain.then("Unsqueeze", to.constant([2], "int64", "axes"))
    chain.then("Where", to.node("Unsqueeze", [rows, four]), lowest, place=1)
    rows_first = chain.then("ReduceMax", three, keepdims=0).value  # [regions, ..., cells, columns]
    chain = Chain(to, rows_first).then("Unsqueeze", three)
    mask = to.node("Unsqueeze", [columns, to.constant([2], "int64", "axes")])
    chain.then("Where", mask, lowest, place=1).then("ReduceMax", four, keepdims=0)
    nothing = to.node("Equal", [chain.value, lowest])  # where a cell is beyond the map
    chain.then("Where", nothing, regions.constant(0), place=2)
    _give(op, reader, regions, chain)


@TABLE.row("avg_roi_pool", becomes="Gather, MatMul, MatMul, Div", note=_NOTE)
def _avg_roi_pool(op: Operation, reader: Reader) -> None:
    regions = _read(op, reader)
    weights = []
    for axis in (_ROWS, _COLUMNS):
        chain = Chain(reader.to, _cells(regions, axis)).then("Cast", to=number_of(regions.dtype))
        last = reader.to.constant([3], "int64", "axes")
        counts = reader.to.node("ReduceSum", [chain.value, last], keepdims=1)
        counts = reader.to.node("Max", [counts, regions.constant(1)])
        weights.append(chain.then("Div", counts).value)
    _give(op, reader, regions, _combined(regions, *weights))


@TABLE.row("roi_resample", becomes="Gather, MatMul, MatMul", note=_NOTE)
def _roi_resample(op: Operation, reader: Reader) -> None:
    regions = _read(op, reader)
    method = reader.word(op, "method", *_METHODS)
    _give(op, reader, regions, _sampled(regions, [1, 1], method))


@TABLE.row("avg_roi_align", becomes="Gather, MatMul, MatMul, AveragePool", note=_NOTE)
def _avg_roi_align(op: Operation, reader: Reader) -> None:
    _align(op, reader, "AveragePool")


@TABLE.row("max_roi_align", becomes="Gather, MatMul, MatMul, MaxPool", note=_NOTE)
def _max_roi_align(op: Operation, reader: Reader) -> None:
    _align(op, reader, "MaxPool")


def _align(op: Operation, reader: Reader, pool: str) -> None:
    regions = _read(op, reader)
    rates = reader.integers(op, "sampling_rate", 2)
    if len(rates) != 2 or min(rates) < 1:
        raise Refused(f"has sampling_rate = {rates}, where two positive numbers are expected")
    chain = _sampled(regions, rates, reader.word(op, "resize_method", *_METHODS))
    if rates != [1, 1]:
        chain.then(pool, kernel_shape=rates, strides=rates)
    _give(op, reader, regions, chain)


def _sampled(regions: _Regions, rates: list[int], method: str) -> Chain:
    """Add what interpolates, so often in each row and column of each region."""
    weights = []
    for axis in (_ROWS, _COLUMNS):
        count, extent = regions.size[axis] * rates[axis], regions.extents[axis]
        check_made(max(count, extent))
        first = regions.bound(axis, last=False).value
        span = regions.bound(axis, last=True).then("Sub", first)
        if method == "aligned":  # from the first element to the last one
            span.then("Sub", regions.constant(1))
        shifts = {
            "symmetric": (0.5, count),
            "asymmetric": (0.0, count),
            "aligned": (0.0, count - 1),
        }
        shift, steps = shifts[method]
        parts = (np.arange(count) + shift) / max(steps, 1)
        at = span.then("Mul", regions.constant(parts.reshape(1, 1, -1, 1))).then("Add", first)
        if shift:
            at.then("Sub", regions.constant(shift))
        at.then("Clip", regions.constant(0), regions.constant(extent - 1))
        # An element counts the less the farther it is, up to the next one.
        at.then("Sub", regions.constant(_elements(extent))).then("Abs")
        weights.append(at.then("Sub", regions.constant(1), place=1).then("Relu").value)
    return _combined(regions, *weights)


def _combined(regions: _Regions, rows: str, columns: str) -> Chain:
    """Add sums of elements, weighted by matrices of [regions, 1, cells, elements]."""
    across = regions.to.node("Transpose", [columns], perm=[0, 1, 3, 2])
    return Chain(regions.to, regions.maps).then("MatMul", rows, place=1).then("MatMul", across)


def _cells(regions: _Regions, axis: int) -> str:
    """Name which elements of an axis are in each cell: [regions, 1, cells, elements]."""
    to, cells, extent = regions.to, regions.size[axis], regions.extents[axis]
    check_made(max(cells, extent))
    half, one = regions.constant(0.5), regions.constant(1)
    first = regions.bound(axis, last=False).then("Add", half).then("Floor").value
    size = regions.bound(axis, last=True).then("Add", half).then("Floor")
    size.then("Sub", first).then("Add", one).then("Max", one)
    elements = regions.constant(_elements(extent))
    places = np.arange(cells + 1).reshape(1, 1, -1, 1)
    found = []
    for cut, rounding, compare in (
        (places[:, :, :-1], "Floor", "GreaterOrEqual"),
        (places[:, :, 1:], "Ceil", "Less"),
    ):
        # The product of whole numbers first: it is exact, so that a cell's end is.
        bound = Chain(to, size.value).then("Mul", regions.constant(cut))
        bound.then("Div", regions.constant(cells)).then(rounding).then("Add", first)
        found.append(to.node(compare, [elements, bound.value]))
    return to.node("And", found)


def _elements(extent: int) -> npt.NDArray[Any]:
    return np.arange(extent).reshape(1, 1, 1, -1)


def _read(op: Operation, reader: Reader) -> _Regions:
    """Check what an operation is given, and add what repeats the maps for each region."""
    given, rois = op.arguments.get("input"), op.arguments.get("rois")
    index = op.arguments.get("batch_index")
    dtype = reader.common_number(given, rois)
    shape, bounds = reader.shape(given), reader.shape(rois)
    if len(shape) != 4:
        raise Refused(f"takes regions of an input of {len(shape)} axes, where 4 are expected")
    if len(bounds) != 2 or bounds[1] != 4:
        raise Refused(f"has regions of shape {list(bounds)}, where [regions, 4] is expected")
    if reader.shape(index) != bounds[:1]:
        raise Refused("has a batch_index that is not one number for each region")
    if reader.type(index) not in INTEGERS or reader.type(index) == "uint64":
        raise Refused(f"has a batch_index of {reader.type(index)}, where integers are expected")
    size = reader.integers(op, "output_size", 2)
    if len(size) != 2 or min(size) < 1:
        raise Refused(f"has output_size = {size}, where two positive numbers are expected")
    reader.report.add("changed", reader.result(op), _READ)
    maps = [reader.value(given, dtype), reader.value(index, "int64")]
    return _Regions(
        reader.to,
        reader.to.node("Gather", maps, axis=0),
        reader.value(rois, dtype),
        (shape[2], shape[3]),
        (size[0], size[1]),
        (bounds[0], shape[1], *size),
        dtype,
    )


def _give(op: Operation, reader: Reader, regions: _Regions, chain: Chain) -> None:
    value = chain.end(reader.result(op))
    reader.give(reader.reference(op), value, regions.shape, regions.dtype)
