"""diff: what differs between two files, tensor by tensor, read side by side in small pieces."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.api import ProgressReport, check_progress, open
from tensorkeep.dtypes import STRING, UINT64, DType, count_of
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.graph.comparing import compare
from tensorkeep.state import State, check_globs
from tensorkeep.stores import Target
from tensorkeep.tensor import Tensor
from tensorkeep.tree import unflatten

_PIECE = 1 << 16  # elements compared at a time: what is computed from them stays in cache
_WHOLE = ("bool", "int", "uint")
Array = npt.NDArray[Any]


@dataclass(slots=True)
class Comparison:
    """How a tensor of one file compares with the tensor of the same name in the other.

    Args:
        name: its name.
        dtypes: its element type in the one and in the other.
        shapes: its shape in the one and in the other.
        identical: the same type, shape and bits.
        differing: how many elements differ by more than the tolerances; None where the shapes
            differ, or text meets numbers, so that no element has a counterpart.
        max_absolute: the largest difference; infinite where no number tells it, as between NaN
            and a number or between two texts.
        max_absolute_at: the index of that element; None where no values differ.
        max_relative: the largest difference relative to the other file's value, where that is
            finite and not 0.
        max_relative_at: the index of that element.
    """

    name: str
    dtypes: tuple[DType, DType]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    identical: bool = False
    differing: int | None = None
    max_absolute: int | float = 0
    max_absolute_at: tuple[int, ...] | None = None
    max_relative: float = 0.0
    max_relative_at: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        """The number of elements in the one file."""
        return count_of(self.shapes[0])

    @property
    def equal(self) -> bool:
        """True where type and shape are the same and all values are, within the tolerances."""
        return self.differing == 0 and self.dtypes[0] is self.dtypes[1]


@dataclass(frozen=True, slots=True)
class Change:
    """A value of the metadata or the nesting that differs: its place, and both sides as text."""

    place: str
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What `diff` found.

    Args:
        a: the one file.
        b: the other file.
        only_in_a: the tensors that the other has not.
        only_in_b: the tensors that the one has not.
        tensors: the comparison of every tensor that both have, equal ones too.
        values: the differences of the metadata, of the numbers and text in the nesting, and of
            what a model is besides its tensors.
    """

    a: str
    b: str
    only_in_a: list[str]
    only_in_b: list[str]
    tensors: list[Comparison]
    values: list[Change]

    @property
    def equal(self) -> bool:
        """True where names, types, shapes, metadata and nesting are the same, and all values are.

        Values count as the same within the tolerances that were given.
        """
        same = all(tensor.equal for tensor in self.tensors)
        return same and not (self.only_in_a or self.only_in_b or self.values)


def diff(
    a: Target,
    b: Target,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    names: str | Iterable[str] | None = None,
    progress: ProgressReport | None = None,
) -> Difference:
    """Compare two files, of the same format or not: names, types, shapes, values and metadata.

    Two elements are the same where |a - b| <= atol + rtol * |b|, or where both are NaN. Integers
    are compared exactly; where the element types differ, the values they stand for are compared
    (an integer of 64 bits with a float as two float64). Complex numbers differ by the magnitude of
    their difference. Memory stays flat whatever the size of the tensors.

    Args:
        a: a path, an URL, a Location or a Store.
        b: what to compare it with.
        rtol: the tolerance relative to the value in `b`.
        atol: the absolute tolerance.
        names: globs of the tensors to compare; metadata and nesting are then left out.
        progress: called with the bytes of `a` compared so far and the total.

    Raises:
        ArgumentError: a tolerance is negative or not a number.
        MissingError: one of the two is not there, or a glob matches nothing in either.
        CorruptError: one of the two is damaged.

    >>> import tempfile, tensorkeep as tk
    >>> folder = tempfile.mkdtemp()
    >>> tk.save({"w": np.zeros(3), "step": 1}, f"{folder}/a.safetensors")
    >>> tk.save({"w": np.array([0, 0, 0.5]), "step": 2}, f"{folder}/b.safetensors")
    >>> found = diff(f"{folder}/a.safetensors", f"{folder}/b.safetensors")
    >>> found.equal, found.tensors[0].max_absolute, found.tensors[0].max_absolute_at
    (False, 0.5, (2,))
    >>> found.values
    [Change(place='step', a='1', b='2')]
    """
    tolerances: tuple[object, ...] = (rtol, atol)
    for tolerance in tolerances:
        if not isinstance(tolerance, int | float) or not tolerance >= 0:
            raise ArgumentError(
                f"a tolerance cannot be {tolerance!r}", cure="Give a number of at least 0."
            )
    check_progress(progress)
    with open(a) as left, open(b) as right:
        chosen = _chosen(left, right, names)
        common = [name for name in chosen if name in left and name in right]
        report = _reporter(progress, sum(left[name].nbytes for name in common))
        return Difference(
            a=left.where,
            b=right.where,
            only_in_a=[name for name in chosen if name not in right],
            only_in_b=[name for name in chosen if name not in left],
            tensors=[_compare(n, left[n], right[n], rtol, atol, report) for n in common],
            values=_changes(left, right, rtol, atol) if names is None else [],
        )


def _chosen(a: State, b: State, names: str | Iterable[str] | None) -> list[str]:
    every = list(dict.fromkeys((*a, *b)))
    if names is None:
        return every
    wanted: set[str] = set()
    for glob in check_globs(names):
        found = [glob] if glob in a or glob in b else fnmatch.filter(every, glob)
        if not found:
            raise MissingError(f"neither {a.where} nor {b.where} has a tensor called {glob!r}")
        wanted.update(found)
    return [name for name in every if name in wanted]


def _reporter(progress: ProgressReport | None, total: int) -> Callable[[int], None]:
    done = 0

    def report(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return report


# --- tensors ------------------------------------------------------------------------------------


def _compare(
    name: str, a: Tensor, b: Tensor, rtol: float, atol: float, report: Callable[[int], None]
) -> Comparison:
    result = Comparison(name, (a.dtype, b.dtype), (a.shape, b.shape))
    if a.shape != b.shape or (a.dtype is STRING) != (b.dtype is STRING):
        report(a.nbytes)
        return result
    result.identical = a.dtype is b.dtype
    result.differing = 0
    if a.dtype is b.dtype and a.dtype.kind == "blocks":  # their bytes say whether they are equal
        result.identical = all(x == y for x, y in zip(a.pieces(), b.pieces(), strict=True))
        if result.identical or a.dtype.opaque:
            result.differing = 0 if result.identical else a.size
            report(a.nbytes)
            return result
    for start, x, y in _side_by_side(a, b):
        if not _same_bits(a.dtype, b.dtype, x, y):
            result.identical = False
            result.differing += _measure(result, start, x, y, rtol, atol)
        report(a.nbytes * len(x) // max(a.size, 1))
    return result


def _side_by_side(a: Tensor, b: Tensor) -> Iterator[tuple[int, Array, Array]]:
    """Give the elements of two tensors of one shape piece by piece, after where each starts."""
    flat_a, flat_b = _flat(a), _flat(b)
    step = max(a.size, 1) if a.dtype is STRING else _PIECE
    for start in range(0, a.size, step):
        yield start, flat_a[start : start + step], flat_b[start : start + step]


def _flat(tensor: Tensor) -> Tensor:
    return Tensor(tensor.dtype, (tensor.size,), tensor.source, tensor.offset, tensor.nbytes)


def _same_bits(a: DType, b: DType, x: Array, y: Array) -> bool:
    if a is not b:
        return False
    if a is STRING:
        return bool(np.array_equal(x, y))
    return bool(np.array_equal(x.view(np.uint8), y.view(np.uint8)))


def _measure(result: Comparison, start: int, x: Array, y: Array, rtol: float, atol: float) -> int:
    """Note the largest differences of the piece that starts at `start`; count those that matter."""
    gap, size = _gaps(*result.dtypes, x, y)
    loose = gap.astype(np.float64)
    with np.errstate(all="ignore"):
        within = (loose <= atol + rtol * size) & (loose < np.inf)
        relative = np.where((size > 0) & (size < np.inf), loose / size, 0.0)
    shape = result.shapes[0]
    at = int(np.argmax(gap))
    if gap[at] > result.max_absolute:
        result.max_absolute, result.max_absolute_at = gap.item(at), _index(start + at, shape)
    at = int(np.argmax(relative))
    if relative[at] > result.max_relative:
        result.max_relative, result.max_relative_at = relative.item(at), _index(start + at, shape)
    return len(gap) - int(np.count_nonzero(within | (gap == 0)))


def _gaps(a: DType, b: DType, x: Array, y: Array) -> tuple[Array, npt.NDArray[np.float64]]:
    """Give how far elements lie apart, exactly where they are integers, and the size of `y`'s."""
    if a is STRING:
        return np.where(x != y, np.inf, 0.0), np.zeros(len(y))
    if a.kind in _WHOLE and b.kind in _WHOLE:
        return _integer_gaps(a, b, x, y)
    common = np.complex128 if "complex" in (a.kind, b.kind) else np.float64
    with np.errstate(all="ignore"):
        x, y = x.astype(common), y.astype(common)
        gap = np.abs(x - y)
        gap[x == y] = 0  # of two infinities the difference is NaN
        unknown = np.isnan(gap)
        gap[unknown] = np.where(np.isnan(x[unknown]) & np.isnan(y[unknown]), 0, np.inf)
        return gap, np.abs(y)


def _integer_gaps(a: DType, b: DType, x: Array, y: Array) -> tuple[Array, npt.NDArray[np.float64]]:
    if a.kind != "int" and b.kind != "int":
        x, y = x.astype(np.uint64), y.astype(np.uint64)
    elif UINT64 not in (a, b):
        x, y = x.astype(np.int64), y.astype(np.int64)
    else:  # no type of NumPy holds both
        x, y = x.astype(object), y.astype(object)
        return abs(x - y), abs(y).astype(np.float64)
    # Taken modulo 2**64 the difference is right even where it does not fit in an int64.
    gap = np.maximum(x, y).view(np.uint64) - np.minimum(x, y).view(np.uint64)
    return gap, np.abs(y.astype(np.float64))


def _index(at: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(int, np.unravel_index(at, shape)))


# --- values beside the tensors ------------------------------------------------------------------


def scalars(state: State) -> dict[str, object]:
    """Collect the numbers, text and bytes of a state's nesting by their dotted place in it.

    >>> state = State({}, skeleton={"tree": {"step": 3, "betas": {"$tuple": [0.9, 0.99]}}})
    >>> scalars(state)
    {'step': 3, 'betas.0': 0.9, 'betas.1': 0.99}
    """
    return {path: value for path, value in _leaves(state) if not isinstance(value, _Part)}


@dataclass(frozen=True, slots=True)
class _Part:
    """What a place of the nesting holds that is no value: a kind of container, or a tensor."""

    text: str

    def __getitem__(self, index: object) -> _Part:
        return self  # the nesting makes scalars of some tensors

    def tobytes(self) -> _Part:
        return self  # and bytes of others


_ABSENT = _Part("absent")


def _leaves(state: State) -> Iterator[tuple[str, object]]:
    if state.skeleton is not None and "tree" in state.skeleton:
        nesting = unflatten(state.skeleton, state, lambda name, *_: _Part(name), state.where)
        yield from _walk(nesting, "")


def _walk(value: object, place: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        children = [(str(key), child) for key, child in value.items()]
    elif isinstance(value, list | tuple):
        children = [(str(i), child) for i, child in enumerate(value)]
    elif value != _Part(place):  # a tensor elsewhere than its name says is tied, or renamed
        yield place, value
        return
    else:
        return
    if type(value) is not dict or not children:
        yield place, _Part(f"{type(value).__name__} of {len(children)}")
    for key, child in children:
        yield from _walk(child, f"{place}.{key}" if place else key)


def _changes(a: State, b: State, rtol: float, atol: float) -> list[Change]:
    """Compare metadata and nesting.

    Containers and ties count where both files keep a nesting; against a file of flat names only
    the values do.
    """
    both = all("tree" in (state.skeleton or {}) for state in (a, b))
    left, right = (dict(_leaves(s)) if both else scalars(s) for s in (a, b))
    pairs = [
        *_pairs(a.metadata, b.metadata, "metadata."),
        *_pairs(left, right, ""),
    ]
    found = [
        Change(place, _text(x), _text(y))
        for place, x, y in pairs
        if _text(x) != _text(y) and not _close(x, y, rtol, atol)
    ]
    return found + [Change(f"model: {place}", x, y) for place, x, y in _models(a, b)]


def _models(a: State, b: State) -> Iterator[tuple[str, str, str]]:
    """Compare what models are besides their tensors; of two dialects only that they are two."""
    one, other = a.document, b.document
    if one is None and other is None:
        yield from compare(a.graph, b.graph)
    elif one is None or other is None or one.dialect != other.dialect:
        yield "dialect", _summary(a), _summary(b)
    else:
        left, right = dict(one.parts()), dict(other.parts())
        for place in dict.fromkeys((*left, *right)):
            x, y = left.get(place, _ABSENT.text), right.get(place, _ABSENT.text)
            if x != y:
                yield place, x, y


def _summary(state: State) -> str:
    if not state.dialect:
        return _ABSENT.text
    held = repr(state.graph) if state.document is None else state.document.summary()
    return f"{state.dialect}: {held}"


def _pairs(
    a: Mapping[str, object], b: Mapping[str, object], prefix: str
) -> Iterator[tuple[str, object, object]]:
    for key in dict.fromkeys((*a, *b)):
        yield prefix + key, a.get(key, _ABSENT), b.get(key, _ABSENT)


def _text(value: object) -> str:
    if isinstance(value, _Part):
        return value.text
    if isinstance(value, dict | list):  # the order of keys says nothing
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    return repr(value)


def _close(x: object, y: object, rtol: float, atol: float) -> bool:
    if not (isinstance(x, float) and isinstance(y, float)):
        return False
    return abs(x - y) <= atol + rtol * abs(y) and abs(x - y) < math.inf
