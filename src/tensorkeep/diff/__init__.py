"""diff: what differs between two files, tensor by tensor, read side by side in small pieces."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tensorkeep.api import ProgressReport, check_progress, open
from tensorkeep.diff.tensors import Comparison, compare_tensors
from tensorkeep.diff.values import Change, changes, scalars
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.state import State, check_globs
from tensorkeep.stores import Target
from tensorkeep.tensor import Tensor

__all__ = ["Change", "Comparison", "Difference", "diff", "diff_states", "scalars"]


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

    >>> import tempfile, numpy as np, tensorkeep as tk
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
        return diff_states(left, right, rtol=rtol, atol=atol, names=names, progress=progress)


def diff_states(
    a: State,
    b: State,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
    names: str | Iterable[str] | None = None,
    progress: ProgressReport | None = None,
    angles: bool = False,
    trust_digests: bool = False,
) -> Difference:
    """Compare two states that are open, as `diff` compares files.

    Args:
        a: the one.
        b: what to compare it with.
        rtol: the tolerance relative to the value in `b`.
        atol: the absolute tolerance.
        names: globs of the tensors to compare; metadata and nesting are then left out.
        progress: called with the bytes of `a` compared so far and the total.
        angles: find each `cosine` too, for which equal parts have to be measured as well.
        trust_digests: do not read tensors whose stored digests say that they are identical.

    Raises:
        MissingError: a glob matches nothing in either.
        CorruptError: one of the two is damaged.

    >>> a, b = State({"w": Tensor.of([3.0, 4.0])}), State({"w": Tensor.of([4.0, 3.0])})
    >>> found = diff_states(a, b, angles=True).tensors[0]
    >>> found.mean_absolute, round(found.cosine, 3)
    (1.0, 0.96)
    """
    chosen = _chosen(a, b, names)
    common = [name for name in chosen if name in a and name in b]
    report = _reporter(progress, sum(a[name].nbytes for name in common))
    tensors = []
    for name in common:
        if trust_digests and _same_digest(name, a, b):
            tensors.append(_identical(name, a[name]))
            report(a[name].nbytes)
        else:
            tensors.append(compare_tensors(name, a[name], b[name], rtol, atol, report, angles))
    return Difference(
        a=a.where,
        b=b.where,
        only_in_a=[name for name in chosen if name not in b],
        only_in_b=[name for name in chosen if name not in a],
        tensors=tensors,
        values=changes(a, b, rtol, atol) if names is None else [],
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


def _same_digest(name: str, a: State, b: State) -> bool:
    """Whether what was stored says that two tensors are the same; digests say nothing of types."""
    digest, one, other = a.digests.get(name), a[name], b[name]
    same = one.dtype is other.dtype and one.shape == other.shape
    return same and digest is not None and digest == b.digests.get(name)


def _identical(name: str, tensor: Tensor) -> Comparison:
    kinds, shapes = (tensor.dtype, tensor.dtype), (tensor.shape, tensor.shape)
    return Comparison(name, kinds, shapes, identical=True, differing=0)
