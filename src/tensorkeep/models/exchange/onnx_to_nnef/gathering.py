"""Gathers and scatters: by NNEF's gather, of places along one axis."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tensorkeep.models.exchange.onnx_to_nnef.shaping import taken
from tensorkeep.models.exchange.onnx_to_nnef.table import TABLE
from tensorkeep.models.exchange.onnx_to_nnef.writer import Writer
from tensorkeep.models.exchange.report import Refused
from tensorkeep.models.exchange.settled import Node, Shape, normal
from tensorkeep.wire.nnef.operations import Reference

Places = npt.NDArray[np.int64]


@TABLE.row("Gather", becomes="gather", note="slice of one place; indices that run are not negative")
def _gather(node: Node, to: Writer) -> None:
    shape, indices = to.shape(node.input(0)), node.input(1)
    axis = normal(node.attributes.get("axis", 0), len(shape))
    value = to.tensor(node.input(0))
    if not to.model.is_constant(indices):
        text = f"its indices ({indices!r}) must not be negative, since NNEF counts from the front"
        to.report.add("changed", str(node), text)
        arguments = {"input": value, "indices": to.tensor(indices), "axis": axis}
        to.emit("gather", arguments, node.output())
        return
    places = _places(to, indices, shape[axis])
    if places.ndim == 0:
        place = int(places)
        part = _part(to, value, axis, place)
        to.squeeze(part, [axis], node.output())
    elif (to.model.array(indices) >= 0).all():
        arguments = {"input": value, "indices": to.tensor(indices), "axis": axis}
        to.emit("gather", arguments, node.output())
    else:
        arguments = {"input": value, "indices": to.variable(places, indices), "axis": axis}
        to.emit("gather", arguments, node.output())


def _part(to: Writer, value: Reference, axis: int, place: int) -> Reference:
    shape = list(to.shape_of(value))
    shape[axis] = 1
    return to.apply("slice", value, axes=[axis], begin=[place], end=[place + 1], shape=shape)


def _places(to: Writer, name: str, size: int) -> Places:
    """Give constant indices, counted from the front."""
    places = to.model.array(name, "indices").astype(np.int64)
    if places.size and not -size <= int(places.min()) <= int(places.max()) < size:
        raise Refused(f"its indices ({name!r}) are not all of {size}")
    return np.where(places < 0, places + size, places)


@TABLE.row("GatherElements", becomes="reshape, gather", note="the indices have to be constant")
def _gather_elements(node: Node, to: Writer) -> None:
    shape = to.shape(node.input(0))
    axis = normal(node.attributes.get("axis", 0), len(shape))
    to.affordable(math.prod(shape))
    places = _places(to, node.input(1), shape[axis])
    _pick(to, to.tensor(node.input(0)), _flat_elements(shape, places, axis), node)


def _flat_elements(shape: Shape, places: Places, axis: int) -> Places:
    """Give where in a flattened tensor elements along an axis are."""
    at: list[Places] = list(np.indices(places.shape, np.int64))
    at[axis] = places
    return np.asarray(np.ravel_multi_index(tuple(at), shape), np.int64)


@TABLE.row("GatherND", becomes="reshape, gather", note="the indices have to be constant")
def _gather_nd(node: Node, to: Writer) -> None:
    shape, indices = to.shape(node.input(0)), to.model.array(node.input(1), "indices")
    batch = node.attributes.get("batch_dims", 0)
    to.affordable(math.prod(shape))
    _pick(to, to.tensor(node.input(0)), _flat_nd(shape, indices.astype(np.int64), batch), node)


def _flat_nd(shape: Shape, indices: Places, batch: int) -> Places:
    """Give where in a flattened tensor the parts are that tuples of indices name."""
    depth = indices.shape[-1]
    sizes = np.array(shape[batch : batch + depth], np.int64)
    if ((indices < -sizes) | (indices >= sizes)).any():
        raise Refused(f"its indices are not all of {tuple(sizes.tolist())}")
    indices = np.where(indices < 0, indices + sizes, indices)
    numbers = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    outer = shape[:batch]
    rows = numbers.reshape(math.prod(outer), *shape[batch:])
    flat = indices.reshape(math.prod(outer), -1, depth)
    picked = [row[tuple(each.T)] for row, each in zip(rows, flat, strict=True)]
    whole = np.stack(picked)
    return whole.reshape(*indices.shape[:-1], *shape[batch + depth :])


def _pick(to: Writer, value: Reference, places: Places, node: Node) -> None:
    """Gather elements of a flattened tensor; those of one axis need no reshape after it."""
    flat = to.reshape(value, [math.prod(to.shape_of(value))])
    arguments = {"input": flat, "indices": to.variable(places, "places"), "axis": 0}
    to.emit("gather", arguments, node.output())
    to.report.add("expanded", str(node), "its constant indices are places in the flattened tensor")


@TABLE.row(
    "ScatterElements",
    "Scatter",
    "ScatterND",
    becomes="reshape, concat, gather",
    note="the indices have to be constant and all different, the reduction none",
)
def _scatter(node: Node, to: Writer) -> None:
    if node.word("reduction", "none") != "none":
        raise Refused(f"it combines by {node.word('reduction', '')!r} what it scatters")
    shape, updates = to.shape(node.input(0)), to.shape(node.input(2))
    to.affordable(math.prod(shape))
    if node.operator == "ScatterND":
        indices = to.model.array(node.input(1), "indices").astype(np.int64)
        places = _flat_nd(shape, indices, 0)
    else:
        axis = normal(node.attributes.get("axis", 0), len(shape))
        places = _flat_elements(shape, _places(to, node.input(1), shape[axis]), axis)
    if len(np.unique(places)) < places.size:
        raise Refused("it scatters to one place several times")
    if not places.size:
        to.alias(node.output(), to.tensor(node.input(0)))
        return
    count = math.prod(shape)
    source = np.arange(count, dtype=np.int64)
    source[places.reshape(-1)] = count + np.arange(places.size)
    flat = to.reshape(to.tensor(node.input(0)), [count])
    new = to.reshape(to.tensor(node.input(2)), [math.prod(updates)])
    both = to.emit("concat", {"values": [flat, new], "axis": 0}, shape=[count + places.size])
    places_of_all = to.variable(source.reshape(shape), "places")
    to.emit("gather", {"input": both, "indices": places_of_all, "axis": 0}, node.output())
    to.report.add("expanded", str(node), "its constant indices choose between old and new values")


@TABLE.row("Compress", becomes="gather", note="the condition has to be constant")
def _compress(node: Node, to: Writer) -> None:
    condition = to.model.array(node.input(1), "the condition").reshape(-1)
    places = np.flatnonzero(condition).tolist()
    value = to.tensor(node.input(0))
    axis = node.attributes.get("axis")
    if axis is None:
        value, axis = to.reshape(value, [math.prod(to.shape_of(value))]), 0
    taken(to, value, normal(axis, len(to.shape_of(value))), places, node.output())


@TABLE.row("ReverseSequence", becomes="reshape, gather", note="the lengths have to be constant")
def _reverse_sequence(node: Node, to: Writer) -> None:
    shape = to.shape(node.input(0))
    to.affordable(math.prod(shape))
    lengths = to.model.integers(node.input(1), "the lengths")
    time = normal(node.attributes.get("time_axis", 0), len(shape))
    batch = normal(node.attributes.get("batch_axis", 1), len(shape))
    numbers = np.arange(math.prod(shape), dtype=np.int64).reshape(shape)
    rows = np.moveaxis(numbers, (batch, time), (0, 1)).copy()
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = row[:length][::-1].copy()
    places = np.moveaxis(rows, (0, 1), (batch, time))
    _pick(to, to.tensor(node.input(0)), np.ascontiguousarray(places), node)
