"""What a model is given, by the names of its inputs: looked at before anything runs.

An input that is a lazy Tensor is read piece by piece, so that a batch may be larger than memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep import api, dtypes, frameworks
from tensorkeep.dtypes import DType
from tensorkeep.errors import ArgumentError
from tensorkeep.graph import Value
from tensorkeep.models.running.casting import cast_exactly
from tensorkeep.similar import did_you_mean
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor

Shape = tuple[int, ...]
_BATCH = "Say batch_size={0}, to run it in pieces of so many rows."


class Fed(NamedTuple):
    """A tensor to give to a model: what the model says of it, what it is, what to cast it to."""

    value: Value
    data: npt.NDArray[Any] | Tensor
    cast: DType | None

    @property
    def dtype(self) -> DType:
        if isinstance(self.data, Tensor):
            return self.data.dtype
        return dtypes.STRING if self.data.dtype == object else dtypes.of_numpy(self.data.dtype)

    @property
    def shape(self) -> Shape:
        return tuple(self.data.shape)

    def read(self, start: int | None = None, stop: int | None = None) -> npt.NDArray[Any]:
        """Give the values, or some of its rows."""
        if start is None:
            array = self.data.numpy() if isinstance(self.data, Tensor) else self.data
        else:
            array = np.asarray(self.data[start:stop])
        if self.cast is None or dtypes.of_numpy(array.dtype) is self.cast:
            return array
        return cast_exactly(array, self.cast, name_of(self.value))

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def name_of(value: Value) -> str:
    """Name an input in messages."""
    return f"input {value.name!r}"


@contextmanager
def named(inputs: Any, wanted: Sequence[Value], known: Sequence[Value]) -> Iterator[dict[str, Any]]:
    """Give what was given by the names of inputs; a file that was named is open for so long.

    Args:
        inputs: a mapping, a State, a path, or the one input.
        wanted: the inputs that have to be given.
        known: all that may be.

    Raises:
        ArgumentError: some are missing, or not inputs of the model.
        MissingError: there is no such file.
    """
    if isinstance(inputs, str | os.PathLike | Location):
        with api.open(inputs) as state, named(state, wanted, known) as found:
            yield found
        return
    given = inputs if isinstance(inputs, Mapping) else {"": inputs}
    names = {value.name for value in known}
    if len(given) == 1 and len(wanted) == 1 and not names & set(given):
        only = next(iter(given))
        if not only or isinstance(inputs, State) or not isinstance(inputs, Mapping):
            given = {wanted[0].name: given[only]}
    elif not isinstance(inputs, Mapping):
        raise ArgumentError(
            f"takes {_listed(wanted)}, so that they have to be named", cure='Give {"NAME": array}.'
        )
    for name in given:
        if name not in names:
            raise _unknown(str(name), wanted, names)
    missing = [v for v in wanted if v.name not in given and v.kind != "optional"]
    if missing:
        raise ArgumentError(f"also takes {_listed(missing)}", cure="Give all of its inputs.")
    yield dict(given)


def _unknown(name: str, wanted: Sequence[Value], names: Iterable[str]) -> ArgumentError:
    cure = did_you_mean(name, names, 2) or f"It takes {_listed(wanted)}."
    return ArgumentError(f"has no input called {name!r}", cure=cure)


def _listed(values: Sequence[Value]) -> str:
    return "; ".join(map(str, values)) or "no inputs"


def look_at(value: Value, data: Any, *, cast: bool) -> Fed | Any:
    """Give what is fed to a tensor input; for inputs of other kinds, what was given.

    Raises:
        ArgumentError: it is no array, nor numbers.
        UnsupportedError: an array that cannot be read.
    """
    if value.kind == "sequence" or (value.kind == "optional" and _is_sequence(data)):
        if not isinstance(data, list | tuple):
            raise ArgumentError("takes a list of arrays", where=name_of(value))
        return [_array_of(value, item) for item in data]
    if value.kind != "tensor":
        return _array_of(value, data) if value.kind == "optional" and data is not None else data
    target = dtypes.DTYPES.get(value.dtype)
    array = data if isinstance(data, Tensor) else _array_of(value, data)
    # Numbers of Python's own have no width, so they are given that of the input.
    loose = isinstance(data, bool | int | float | complex | list | tuple)
    fed = Fed(value, array, None)
    if target is not None and fed.dtype is not target and (cast or loose):
        return fed._replace(cast=target)
    return fed


def _is_sequence(data: Any) -> bool:
    return isinstance(data, list | tuple) and not any(
        isinstance(item, int | float) for item in data
    )


def _array_of(value: Value, data: Any) -> npt.NDArray[Any]:
    if isinstance(data, Tensor):
        return data.numpy()
    found = frameworks.to_array(data, name_of(value))
    if found is not None:
        array = found[1]
    else:
        try:
            array = np.asarray(data)
        except ValueError as error:
            raise ArgumentError(f"is no array: {error}", where=name_of(value)) from None
    if array.dtype == object and not all(isinstance(v, str | bytes) for v in array.flat):
        raise ArgumentError(
            f"is a {type(data).__name__}, not an array of numbers or text", where=name_of(value)
        )
    return array


def check(fed: Sequence[Fed], rows_free: frozenset[str] = frozenset()) -> None:
    """Compare element types and shapes with what the model says of its inputs.

    Args:
        fed: the inputs.
        rows_free: those whose first axis is of any size, since they are run in pieces.

    Raises:
        ArgumentError: one does not fit, or two contradict each other.
    """
    sizes: dict[str, tuple[int, str]] = {}
    for each in fed:
        value = each.value
        if each.cast is None and value.dtype and each.dtype.name != value.dtype:
            raise _does_not_fit(
                each, f"Give it as {value.dtype}, or say cast=True, which loses no value."
            )
        if value.axes is None:
            continue
        skip = value.name in rows_free
        if not fits(each.shape, value.axes, skip):
            raise _does_not_fit(each, _hint(each))
        for axis, size in zip(value.axes, each.shape, strict=True):
            if not isinstance(axis, str):
                continue
            known, other = sizes.setdefault(axis, (size, value.name))
            if known != size:
                raise ArgumentError(
                    f"takes {value}, and {axis} is {size} here, but {known} in {other!r}",
                    where=name_of(value),
                    cure="Say check=False, if the model means something else by the name.",
                )


def fits(shape: Shape, axes: Sequence[int | str | None], skip_first: bool = False) -> bool:
    """Whether a shape has as many axes, and those sizes that are known.

    >>> fits((2, 3), ("N", 3)), fits((3,), ("N", 3)), fits((8, 3), (4, 3), skip_first=True)
    (True, False, True)
    """
    if len(shape) != len(axes):
        return False
    pairs = list(zip(axes, shape, strict=True))[skip_first:]
    return all(not isinstance(axis, int) or axis in (size, -1) for axis, size in pairs)


def _does_not_fit(fed: Fed, cure: str) -> ArgumentError:
    return ArgumentError(f"takes {fed.value}, not {fed}", where=name_of(fed.value), cure=cure)


def _hint(fed: Fed) -> str:
    """Say what would make a shape fit."""
    shape, axes, name = fed.shape, fed.value.axes or (), fed.value.name
    if len(shape) == len(axes):
        if fits(shape, axes, skip_first=True):
            return _BATCH.format(axes[0])
        orders = sorted(permutations(range(len(shape))), key=_distance) if len(shape) <= 5 else []
        for order in orders:
            if fits(tuple(shape[axis] for axis in order), axes):
                return f"{_layouts(order)}It fits as {name}.transpose{order}."
    if fits((1, *shape), axes):
        return f"It fits with an axis for the batch: {name}[None]."
    if shape[:1] == (1,) and fits(shape[1:], axes):
        return f"It fits without its first axis: {name}[0]."
    if shape and fits((*shape, 1), axes):
        return f"It fits with a last axis: {name}[..., None]."
    return f"It has {len(shape)} axes, not {len(axes)}." if len(shape) != len(axes) else ""


def _layouts(order: tuple[int, ...]) -> str:
    if order == (0, 3, 1, 2):
        return "The model takes channels first (NCHW). "
    return "The model takes channels last (NHWC). " if order == (0, 2, 3, 1) else ""


def _distance(order: tuple[int, ...]) -> tuple[bool, int]:
    """Put the changes of layout that are usual first, then those that move less."""
    return order not in ((0, 3, 1, 2), (0, 2, 3, 1)), sum(a != b for a, b in enumerate(order))
