"""The inputs of a model with sizes for all axes: given ones, and 1 for the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import index
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.graph import Value, fill_tensor, value_of
from tensorkeep.graph.schema import DIMENSION
from tensorkeep.message import Message
from tensorkeep.models.editing.draft import unknown_name
from tensorkeep.models.exchange.report import Report
from tensorkeep.tensor import Tensor

_MOST = 2**31  # no axis has so many


def fix_constants(graph: Message, constants: Mapping[str, Any], report: Report, where: str) -> None:
    """Turn inputs of a GraphProto into initializers.

    Raises:
        MissingError: there is no such input.
        ArgumentError: its element type or shape is another.
    """
    values = {row.name: value_of(row) for row in graph.input}
    for name, given in constants.items():
        if name not in values:
            raise unknown_name(name, values, "input", where)
        value = values[name]
        tensor = given if isinstance(given, Tensor) else _tensor(given, value, where)
        if value.kind != "tensor" or tensor.dtype.name != value.dtype or _differs(value, tensor):
            raise ArgumentError(
                f"the input {value} cannot be {tensor.dtype} of shape {tensor.shape}", where=where
            )
        fill_tensor(graph.add("initializer", name=name), tensor)
        report.add("fixed", name, "it is a constant now")
    if constants:
        graph["input"] = [row for row in graph.input if row.name not in constants]


def _differs(value: Value, tensor: Tensor) -> bool:
    if value.axes is None:
        return False
    if len(value.axes) != tensor.ndim:
        return True
    pairs = zip(value.axes, tensor.shape, strict=True)
    return any(_is_size(axis) and axis != size for axis, size in pairs)


def _tensor(given: Any, value: Value, where: str) -> Tensor:
    """Take numbers and lists of them as an input's own element type, arrays as they are."""
    if hasattr(given, "dtype") or value.dtype not in dtypes.DTYPES:
        return Tensor.of(given, value.name)
    held = dtypes.dtype(value.dtype).numpy
    try:
        array = np.asarray(given)
        if array.ndim == 0 and value.axes is not None and len(value.axes) == 1:
            array = array.reshape(1)  # the only one of a list
        cast = array.astype(held)
        same = array.dtype.kind == "f" and held.kind == "f"
        fits = array.dtype.kind in "biuf" and (same or bool((cast == array).all()))
    except (ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        raise ArgumentError(f"the input {value} cannot be {str(given)[:80]}", where=where)
    return Tensor.of(cast, value.name)


def fix_shapes(
    graph: Message, shapes: Mapping[str, Sequence[int]], report: Report, where: str
) -> None:
    """Give all axes of the inputs of a GraphProto a size.

    Raises:
        MissingError: there is no such input.
        ArgumentError: a given shape contradicts the model, or a size has to be given.
        UnsupportedError: an input is no tensor.
    """
    rows = {row.name: row for row in graph.input}
    values = {name: value_of(row) for name, row in rows.items()}
    for name in shapes:
        if name not in values:
            raise unknown_name(name, values, "input", where)
    for value in values.values():
        if value.kind != "tensor" or not value.dtype:
            what = "of no known type" if value.kind in ("unknown", "tensor") else f"a {value.kind}"
            raise UnsupportedError(
                f"the input {value.name!r} is {what}; other dialects know tensors alone",
                where=where,
            )
    fixing = _Fixing(where)
    sizes = {name: fixing.given(values[name], shape) for name, shape in shapes.items()}
    left = [value for value in values.values() if value.name not in sizes]
    for value in left:
        fixing.batch(value)
    lacking = [text for value in left if (text := fixing.lacking(value))]
    if lacking:
        raise ArgumentError(
            f"the sizes of its inputs have to be known: {'; '.join(lacking)}",
            where=where,
            cure=f"Give shapes={{{lacking[0].split(':')[0]!r}: (...)}} "
            f"(--shape {lacking[0].split(':')[0]}=1,...).",
        )
    for name, value in values.items():
        shape = sizes.get(name) or fixing.shape(value)
        axes = rows[name].type.make("tensor_type") if "type" not in rows[name] else rows[name].type
        held = axes["tensor_type"].make("shape") if value.axes is None else None
        held = axes["tensor_type"].shape if held is None else held
        held["dim"] = [Message(DIMENSION, dim_value=size) for size in shape]
        if name in sizes and value.axes != sizes[name]:
            report.add("fixed", name, f"its shape is {_listed(shape)}")
        elif value.axes != shape:
            example = ",".join(map(str, (8, *shape[1:])))
            report.add("fixed", name, f"its batch is 1; give --shape {name}={example} for another")


class _Fixing:
    """The sizes of named axes."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.sizes: dict[str, int] = {}

    def given(self, value: Value, shape: Sequence[int]) -> tuple[int, ...]:
        try:
            sizes = tuple(map(index, shape))
        except TypeError:
            sizes = (-1,)
        if not all(0 <= size < _MOST for size in sizes):
            raise ArgumentError(f"no input can have the shape {shape!r}", where=self.where)
        axes = (None,) * len(sizes) if value.axes is None else value.axes
        good = len(axes) == len(sizes)
        for axis, size in zip(axes, sizes, strict=False):
            known = self.sizes.setdefault(axis, size) if isinstance(axis, str) else axis
            good = good and (not _is_size(known) or known == size)
        if not good:
            raise ArgumentError(
                f"the input {value} cannot have the shape {_listed(sizes)}",
                where=self.where,
                cure="Axes of one name are of one size, and those with a size keep it.",
            )
        return sizes

    def batch(self, value: Value) -> None:
        first = value.axes[0] if value.axes else 1
        if isinstance(first, str):
            self.sizes.setdefault(first, 1)

    def shape(self, value: Value) -> tuple[int, ...]:
        found = [self._size(axis, place) for place, axis in enumerate(value.axes or ())]
        return tuple(size for size in found if size is not None)

    def lacking(self, value: Value) -> str:
        if value.axes is None:
            return f"{value.name}: the number of its axes is not known"
        sizes = [self._size(axis, place) for place, axis in enumerate(value.axes)]
        places = [str(place) for place, size in enumerate(sizes) if size is None]
        return f"{value.name}: {value.dtype}{_axes(value)}" if places else ""

    def _size(self, axis: int | str | None, place: int) -> int | None:
        if isinstance(axis, str):
            return self.sizes.get(axis)
        if _is_size(axis):
            return axis
        return 1 if place == 0 else None


def _is_size(axis: object) -> bool:
    return isinstance(axis, int) and axis >= 0


def _axes(value: Value) -> str:
    return f"[{', '.join('?' if axis is None else str(axis) for axis in value.axes or ())}]"


def _listed(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"
