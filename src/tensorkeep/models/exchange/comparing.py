"""Compare what two models compute from the same data, output by output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.errors import ArgumentError, MismatchError
from tensorkeep.graph import Value
from tensorkeep.models.opening import Model
from tensorkeep.models.running import Session, session
from tensorkeep.state import State

RANDOM = "random"


class Agreement(NamedTuple):
    """How far one output of two models is apart.

    Attributes:
        output: its name in the first model.
        largest: the largest absolute difference; infinite where shapes differ or one alone is NaN.
        relative: that against the largest magnitude in the first model's output.
        shape: of the first model's output.
    """

    output: str
    largest: float
    relative: float
    shape: tuple[int, ...]


def compare(
    a: Model, b: Model, inputs: Any = RANDOM, *, constants: Mapping[str, Any] | None = None
) -> list[Agreement]:
    """Run two models on the same data and tell how far their outputs are apart.

    Inputs and outputs go by their names, or by their places where those differ.

    Args:
        a: a path, or the State of a model; one of another dialect runs as the ONNX model that it is
            translated to.
        b: likewise.
        inputs: as `tensorkeep.run` takes them, by the names of the first; "random" makes numbers of
            the shapes that the two declare, the same ones every time.
        constants: what inputs of the first are that were fixed in the second, by name.

    Raises:
        MismatchError: the two do not have as many inputs or outputs.
        UnsupportedError: one of them cannot be run.

    >>> from tensorkeep.models.running.examples import doubling
    >>> compare(doubling(), doubling())
    [Agreement(output='y', largest=0.0, relative=0.0, shape=(1,))]
    """
    with session(a) as first, session(b) as second:
        ranks = {value.name: value.axes for value in first.inputs}
        fixed = {
            name: np.reshape(value, 1)
            if len(ranks.get(name) or ()) == np.ndim(value) + 1
            else value
            for name, value in (constants or {}).items()
        }
        mine = [value for value in first.inputs if value.name not in fixed]
        theirs = _pair([v.name for v in mine], [v.name for v in second.inputs], "inputs")
        if isinstance(inputs, str) and inputs == RANDOM:
            given: Mapping[str, Any] = sample(
                mine, [_input_of(second, theirs[v.name]) for v in mine]
            )
        else:
            given = _by_name(mine, inputs)
        wanted = {theirs[name]: value for name, value in given.items() if name in theirs}
        found = first.run({**given, **fixed}, cast=True)
        other = second.run(wanted, cast=True)
    pairs = _pair(list(found), list(other), "outputs")
    return [_agree(name, found[name], other[pairs[name]]) for name in found]


def _input_of(loaded: Session, name: str) -> Value:
    return next(value for value in loaded.inputs if value.name == name)


def sample(
    values: Sequence[Value], others: Sequence[Value] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Make data for inputs, the same every time; axes that are open are those of `others`, or 1.

    Raises:
        ArgumentError: an input is no tensor of numbers, or has no rank.
    """
    generator = np.random.default_rng(0)
    pairs = zip(values, others or values, strict=True)
    return {value.name: _sample(value, other, generator) for value, other in pairs}


def _sample(value: Value, other: Value, generator: np.random.Generator) -> npt.NDArray[Any]:
    kind = dtypes.DTYPES.get(value.dtype)
    axes = other.axes if value.axes is None else value.axes
    if value.kind != "tensor" or kind is None or axes is None or kind is dtypes.STRING:
        raise ArgumentError(
            f"there is no random data for {value}", cure="Give the data as a file or arrays."
        )
    known = other.axes if other.axes is not None and len(other.axes) == len(axes) else axes
    shape = tuple(
        next((size for size in pair if isinstance(size, int) and size >= 0), 1)
        for pair in zip(axes, known, strict=True)
    )
    if kind is dtypes.BOOL:
        return generator.integers(0, 2, shape).astype(bool)
    if kind.kind in ("int", "uint"):
        return generator.integers(0, 2, shape).astype(kind.numpy)
    return generator.normal(size=shape).astype(kind.numpy)


def _by_name(wanted: Sequence[Value], given: Any) -> Mapping[str, Any]:
    if isinstance(given, State):
        given = {name: tensor.numpy() for name, tensor in given.items()}
        if len(given) == len(wanted) == 1:
            return {wanted[0].name: next(iter(given.values()))}
    if isinstance(given, Mapping):
        return given
    if len(wanted) != 1:
        names = ", ".join(value.name for value in wanted)
        raise ArgumentError(f"takes {names}, so that they have to be named")
    return {wanted[0].name: given}


def _pair(mine: list[str], other: list[str], what: str) -> dict[str, str]:
    if len(mine) != len(other):
        raise MismatchError(f"one model has {len(mine)} {what}, the other {len(other)}")
    if set(mine) == set(other):
        return {name: name for name in mine}
    return dict(zip(mine, other, strict=True))


def _agree(name: str, a: Any, b: Any) -> Agreement:
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
        apart = 0.0 if a == b else np.inf
        return Agreement(name, apart, apart, ())
    if a.shape != b.shape:
        return Agreement(name, np.inf, np.inf, a.shape)
    if a.dtype.kind in "OUS" or b.dtype.kind in "OUS":
        apart = 0.0 if np.array_equal(a, b) else np.inf
        return Agreement(name, apart, apart, a.shape)
    if not a.size:
        return Agreement(name, 0.0, 0.0, a.shape)
    wide = np.complex128 if "c" in (a.dtype.kind, b.dtype.kind) else np.float64
    x, y = a.astype(wide), b.astype(wide)
    with np.errstate(all="ignore"):
        apart = np.abs(x - y)
        apart[(x == y) | (np.isnan(x) & np.isnan(y))] = 0
        apart[np.isnan(apart)] = np.inf
        magnitude = np.max(np.abs(x[np.isfinite(x)]), initial=0.0)
    largest = float(apart.max())
    relative = largest / float(magnitude) if magnitude else (0.0 if not largest else np.inf)
    return Agreement(name, largest, relative, a.shape)
