"""The course of a run: each tensor over the steps, two checkpoints at a time, memory flat."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from tensorkeep.api import ProgressReport
from tensorkeep.checkpoint import Checkpoint
from tensorkeep.checksum import each
from tensorkeep.errors import CorruptError, MissingError, TensorKeepError
from tensorkeep.sampling import sample
from tensorkeep.state import State
from tensorkeep.stores import Target
from tensorkeep.tensor import Tensor
from tensorkeep.threads import at_once
from tensorkeep.viewer.answers import Course
from tensorkeep.viewer.steps import OURS, listed, open_step

Vector = npt.NDArray[np.float64]

_MOST_TENSORS = 2_000
_MOST_VALUES = 400_000  # tensors times steps: what a page can still draw
_PIECE = 1 << 16  # elements: whole bytes and whole blocks of every element type
_WORTH_THREADS = 4 << 20
_KEPT = 64 << 20  # bytes of samples that the next step need not read again
_FEW = 3  # tensors to name in a problem
_LONGEST = 500  # characters of what is told of each


def course(target: Target, *, exact: bool, report: ProgressReport) -> Course:
    """Follow each tensor over the steps: its norm, and how far each step moved it.

    Floating and complex tensors are followed, and integers of two axes or more. What has NaN or
    infinite values has no norm. A tensor whose stored digest did not change is not read again.
    Steps that are damaged, or removed meanwhile, are told in `problems` and skipped: the next one
    is compared with the last before them.

    Args:
        target: the folder of the run, or its place in a bucket.
        exact: read all, and compare it with the stored digests; else look at the same few elements
            of each tensor at every step, from which norms and counts are scaled to the whole.
        report: called with the bytes done and the total.

    Raises:
        MissingError: there is no such folder.
    """
    # Of two of the same step the later one counts: ours.
    rows = {row.step: row for row in sorted(listed(target), key=_is_ours)}
    sound = [row for _, row in sorted(rows.items()) if not row.problem]
    problems = {step: row.problem for step, row in rows.items() if row.problem}
    most = min(_MOST_TENSORS, max(1, _MOST_VALUES // max(1, len(sound))))
    followed = _Followed(exact, most)
    done, total = 0, sum(row.size for row in sound)
    with contextlib.ExitStack() as stack:
        for row in sound:
            try:
                state = open_step(target, row)
            except (TensorKeepError, OSError) as error:
                problems[row.step] = _told(error)
            else:
                with contextlib.ExitStack() as opened:
                    opened.enter_context(state)
                    progress = _within(report, done, row.size, total)
                    problem = followed.take(row.step, state, progress)
                    if problem:
                        problems[row.step] = problem
                    if followed.steps and followed.steps[-1] == row.step:
                        stack.close()  # the one before
                        stack.push(opened.pop_all())
            done += row.size
            report(done, total)
        return followed.course({str(step): problems[step] for step in sorted(problems)})


def _is_ours(row: Checkpoint) -> bool:
    return row.format == OURS


def _told(error: Exception) -> str:
    if isinstance(error, MissingError):
        return "It was removed meanwhile."
    return str(error)[:_LONGEST]


def _within(report: ProgressReport, start: int, size: int, total: int) -> Callable[[float], None]:
    return lambda share: report(start + int(size * share), total)


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known of a tensor at a step: None where it cannot be told."""

    norm: float | None
    broken: int
    update: float | None = None


class _Followed:
    """The tensors that are followed, and what was found of them so far."""

    def __init__(self, exact: bool, most: int) -> None:
        self.steps: list[int] = []
        self._exact = exact
        self._most = most
        self._names: dict[str, None] = {}
        self._left_out: set[str] = set()
        self._rows: list[dict[str, _Found]] = []
        self._known: dict[tuple[str, str, int], _Found] = {}  # by digest, type and size
        self._before: State | None = None
        self._kept: dict[str, npt.NDArray[Any]] = {}  # what was sampled of it
        self._taken: dict[str, npt.NDArray[Any]] = {}  # and of the step that is being measured
        self._room = _KEPT  # bytes

    def take(self, step: int, state: State, progress: Callable[[float], None]) -> str:
        """Measure a step, unless nothing of it can be read; say what was damaged."""
        tensors = {name: state[name] for name in self._chosen(state)}
        done, total = 0, max(1, sum(tensor.nbytes for tensor in tensors.values()))
        row, failed = dict[str, _Found](), dict[str, str]()
        self._taken, self._room = {}, _KEPT
        for name, found in self._finding(state, tensors):
            if isinstance(found, _Found):
                row[name] = found
            else:
                failed[name] = found
            done += tensors[name].nbytes
            progress(done / total)
        if row or not tensors:
            self.steps.append(step)
            self._rows.append(row)
            self._before, self._kept = state, self._taken
        shown = [f"{name}: {problem}"[:_LONGEST] for name, problem in list(failed.items())[:_FEW]]
        more = len(failed) - len(shown)
        return "; ".join([*shown, *([f"and {more:,} more"] if more > 0 else [])])

    def _finding(
        self, state: State, tensors: dict[str, Tensor]
    ) -> Iterable[tuple[str, _Found | str]]:
        """Measure tensors, several at a time where that pays."""
        if not self._exact and any(tensor.source.remote for tensor in tensors.values()):
            found: list[tuple[str, _Found | str]] = []
            at_once([partial(self._named, state, name) for name in tensors], found.append)
            return found
        threads = self._exact and sum(row.nbytes for row in tensors.values()) >= _WORTH_THREADS
        return each(lambda name: self._find(state, name), tensors, threads=threads)

    def _named(self, state: State, name: str) -> tuple[str, _Found | str]:
        return name, self._find(state, name)

    def _chosen(self, state: State) -> Iterator[str]:
        for name, tensor in state.items():
            if not _is_followed(tensor):
                continue
            if name in self._names or len(self._names) < self._most:
                self._names[name] = None
                yield name
            else:
                self._left_out.add(name)

    def _find(self, state: State, name: str) -> _Found | str:
        """Measure a tensor, or say why it cannot be read."""
        tensor, digest = state[name], state.digests.get(name)
        key = (digest or "", tensor.dtype.name, tensor.size)
        previous = self._previous(name, tensor)
        before = self._rows[-1].get(name) if self._rows else None
        try:
            if digest and self._before and before and self._before.digests.get(name) == digest:
                known = self._known.get(key)
                if known is not None:
                    still = None if known.norm is None or previous is None else 0.0
                    return _Found(known.norm, known.broken, still)
            found = self._measure(name, tensor, previous, before, digest)
        except (TensorKeepError, OSError) as error:
            return error.problem if isinstance(error, TensorKeepError) else str(error)
        if digest:
            self._known[key] = found
        return found

    def _previous(self, name: str, tensor: Tensor) -> Tensor | None:
        if self._before is None or name not in self._before or name not in self._rows[-1]:
            return None
        previous = self._before[name]
        return previous if previous.shape == tensor.shape and _is_followed(previous) else None

    def _measure(
        self,
        name: str,
        tensor: Tensor,
        previous: Tensor | None,
        before: _Found | None,
        digest: str | None,
    ) -> _Found:
        of_own, of_change = _Norm(), _Norm()
        old = None if previous is None else self._of_before(name, previous)
        hasher = xxhash.xxh3_128() if self._exact and digest else None
        count = 0
        for values in _pieces(tensor, hasher) if self._exact else self._sampled(name, tensor):
            count += len(values)
            vector = of_own.add(values)
            if old is not None:
                try:
                    other = _vector(next(old))
                except (TensorKeepError, OSError):  # it was sound, and is gone now
                    old = None
                    continue
                if other.shape == vector.shape:
                    with np.errstate(all="ignore"):
                        of_change.add(vector - other)
        if hasher is not None and digest and hasher.hexdigest() != digest:
            raise CorruptError(f"its XXH3-128 is {hasher.hexdigest()}, {digest} was saved")
        scale = tensor.size / count if count else 1.0
        norm = _scaled(of_own.value, math.sqrt(scale))
        broken = of_own.broken if scale == 1 else math.ceil(of_own.broken * scale)
        if old is None or before is None or before.norm is None or norm is None:
            return _Found(norm, broken)
        return _Found(norm, broken, _ratio(_scaled(of_change.value, math.sqrt(scale)), before.norm))

    def _sampled(self, name: str, tensor: Tensor) -> Iterator[npt.NDArray[Any]]:
        """Give a sample, in one piece, and keep it for the next step where there is room."""
        values = sample(tensor)
        self._room -= values.nbytes
        if self._room >= 0:
            self._taken[name] = values
        yield values

    def _of_before(self, name: str, previous: Tensor) -> Iterator[npt.NDArray[Any]]:
        """Give again what was measured of the step before."""
        if self._exact:
            yield from _pieces(previous)
        else:
            kept = self._kept.get(name)
            yield sample(previous) if kept is None else kept

    def course(self, problems: dict[str, str]) -> Course:
        """Give what was found, by name."""
        nothing = _Found(None, 0)
        names = list(self._names)
        columns = [[row.get(name, nothing) for row in self._rows] for name in names]
        return Course(
            steps=self.steps,
            names=names,
            norms=[[found.norm for found in column] for column in columns],
            updates=[[found.update for found in column] for column in columns],
            broken=[[found.broken for found in column] for column in columns],
            exact=self._exact,
            left_out=len(self._left_out - set(names)),
            problems=problems,
        )


def _is_followed(tensor: Tensor) -> bool:
    """Whether a tensor has a norm that tells something: counters and generators' states do not."""
    kind = tensor.dtype.kind
    if kind in ("int", "uint"):
        return tensor.ndim >= 2
    return kind in ("float", "complex", "blocks") and not tensor.dtype.opaque


def _pieces(tensor: Tensor, hasher: Any = None) -> Iterator[npt.NDArray[Any]]:
    """Give the elements piece by piece, each good until the next."""
    group, width = tensor.dtype.group
    room = memoryview(bytearray(min(_PIECE // group * width, tensor.nbytes)))
    for start in range(0, tensor.size, _PIECE):
        count = min(_PIECE, tensor.size - start)
        data = room[: tensor.dtype.nbytes(count)]
        # A file is read, not mapped: memory stays flat.
        tensor.source.readinto(tensor.offset + start // group * width, data)
        if hasher is not None:
            hasher.update(data)
        yield tensor.decode(data, (count,))


def _vector(values: npt.NDArray[Any]) -> Vector:
    """Give elements as float64; a complex one is two of them."""
    with np.errstate(all="ignore"):
        if values.dtype.kind == "c":
            return values.astype(np.complex128).view(np.float64)
        return values.astype(np.float64)


@dataclass(slots=True)
class _Norm:
    """A Euclidean norm, piece by piece."""

    broken: int = 0
    _value: float = field(default=0.0)

    def add(self, values: npt.NDArray[Any]) -> Vector:
        """Take one more piece, and give it as a vector of float64."""
        vector = _vector(values)
        with np.errstate(all="ignore"):
            squared = float(np.einsum("i,i->", vector, vector))  # @ wakes threads, which costs more
        if 1e-280 < squared < math.inf:
            self._value = math.hypot(self._value, math.sqrt(squared))
        elif len(vector):
            self._add_extreme(vector, 2 if values.dtype.kind == "c" else 1)
        return vector

    def _add_extreme(self, vector: Vector, parts: int) -> None:
        """Take what has values that are not finite, or whose squares float64 does not hold."""
        finite = np.isfinite(vector)
        self.broken += int(np.count_nonzero(~finite.reshape(-1, parts).all(axis=1)))
        largest = float(np.abs(vector[finite]).max(initial=0))
        if largest:
            scaled = vector[finite] / largest
            norm = largest * math.sqrt(float(scaled @ scaled))
            self._value = math.hypot(self._value, norm)

    @property
    def value(self) -> float | None:
        """The norm; None where it is not a finite number."""
        return None if self.broken or not math.isfinite(self._value) else self._value


def _scaled(norm: float | None, factor: float) -> float | None:
    if norm is None or not math.isfinite(norm * factor):
        return None
    return norm * factor


def _ratio(change: float | None, before: float) -> float | None:
    if change is None:
        return None
    if not before:
        return None if change else 0.0
    return change / before if math.isfinite(change / before) else None
