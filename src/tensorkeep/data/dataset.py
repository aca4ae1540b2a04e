"""Dataset: samples by their number, given many at once. Every kind of source is one of these.

with tk.data.open("train.lmdb") as dataset:
    len(dataset), dataset.fields
    dataset[17]                       # one sample: {"image": array, "label": array}
    dataset.gather([17, 3, 99])       # a batch: the same fields, each with a first axis of 3,
                                      # but of lists, the columns of nested data, a longer one
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.data.stacking import stack
from tensorkeep.errors import ArgumentError, ClosedError, TensorKeepError

Rows = npt.NDArray[np.int64]
Sample = dict[str, Any]
Batch = dict[str, npt.NDArray[Any]]
_Read = TypeVar("_Read")
Progress = Callable[[int, int], None]  # is called with the samples done and how many there are

JSON = "json"  # what Field.dtype is for values of JSON

_TOGETHER = 8 << 20  # bytes that verifying reads at once
_UNKNOWN = 1 << 16  # bytes that a sample is taken to have where they differ


def _checking(read: Callable[[Any, Rows], _Read]) -> Callable[[Any, Any], _Read]:
    """Check the numbers that a method of a dataset is given."""

    @wraps(read)
    def checked(self: Dataset, rows: npt.ArrayLike | Sequence[int]) -> _Read:
        return read(self, self.check(rows))

    return checked


@dataclass(frozen=True, slots=True)
class Field:
    """What is known of a field of every sample.

    Args:
        dtype: the name of the element type, as `tensorkeep.dtypes` calls it; "json" for values of
            JSON; "" where samples differ or nobody has looked.
        shape: of one sample; None where samples differ or nobody has looked.
    """

    dtype: str = ""
    shape: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int | None:
        """The bytes that it takes in memory; None where samples differ, or for text."""
        kind = dtypes.DTYPES.get(self.dtype)
        if kind is None or kind is dtypes.STRING or self.shape is None:
            return None
        return math.prod(self.shape) * -(-kind.bits // 8)

    def __str__(self) -> str:
        shape = "any shape" if self.shape is None else str(self.shape)
        return f"{self.dtype or 'any type'}, {shape}"


def json_in(fields: Mapping[str, Field]) -> list[str]:
    """Name the fields whose values are JSON: their dicts and lists stay what they are in batches.

    >>> json_in({"image": Field("uint8"), "meta": Field(JSON)})
    ['meta']
    """
    return [name for name, field in fields.items() if field.dtype == JSON]


class Lying(NamedTuple):
    """A field of some samples that lies in memory, or in a map, as it will in the batch.

    Args:
        view: the memory, as bytes.
        starts: where in it the field of each sample begins.
        dtype: its element type.
        shape: of one sample.
    """

    view: npt.NDArray[np.uint8]
    starts: Rows
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Dataset(ABC):
    """Samples by number: what every source of training data is read through.

    Threads may share one. A subclass gives `gather`, or `samples` where samples may differ in
    shape; the other follows from it. What they give is memory of the caller's own, writable.

    Args:
        count: how many samples there are.
        fields: what each of them has, by name; empty where nobody knows before reading.
        where: names it in messages.
        kind: what it is, in a word: "safetensors", "lmdb", "tar".
        block: how many neighbours cost as much to read as one of them, such as the rows of a
            compressed chunk.
    """

    def __init_subclass__(cls) -> None:
        """Have the numbers checked that a subclass is asked for: a wrong one gives no sample."""
        super().__init_subclass__()
        for name in ("gather", "samples"):
            if name in vars(cls):
                setattr(cls, name, _checking(vars(cls)[name]))

    foreign = False  # an object of the caller's gives the samples, which threads may not share

    def __init__(
        self,
        count: int,
        fields: Mapping[str, Field],
        *,
        where: str,
        kind: str,
        block: int = 1,
    ) -> None:
        self._count = count
        self.fields = dict(fields)
        self.where = where
        self.kind = kind
        self.block = block
        self._closed = False

    def __len__(self) -> int:
        return self._count

    def gather(self, rows: Rows) -> Batch:
        """Give the samples of some numbers as one batch, in the order of the numbers.

        Args:
            rows: numbers in any order, those below 0 counted from the end; one may come twice.
                A subclass is given them checked, as int64 from 0 up to below the length.

        Raises:
            ArgumentError: there is no sample of such a number.
            ClosedError: the dataset was closed.
            CorruptError: a sample is damaged; the message names it.
            UnsupportedError: samples differ in shape or type, and so make no batch.
        """
        names = [self.name(int(row)) for row in rows]
        return stack(self.samples(rows), names, self.where, json_in(self.fields))

    def samples(self, rows: Rows) -> list[Sample]:
        """Give samples one by one, which may differ in shape.

        Raises:
            CorruptError: a sample is damaged; the message names it.
        """
        batch = self.gather(rows)
        return [{name: values[i] for name, values in batch.items()} for i in range(len(rows))]

    def lying(self, rows: Rows) -> dict[str, Lying]:
        """Say where fields lie that are only to be copied, so that several datasets' are at once.

        The numbers are from 0 up to below the length. What is not told of is read by `some`.
        """
        return {}

    def some(self, rows: Rows, names: Collection[str]) -> Batch:
        """Give some fields of a batch."""
        return {name: values for name, values in self.gather(rows).items() if name in names}

    def name(self, row: int) -> str:
        """Say what messages call a sample: its number, and its key where it has one."""
        return f"sample {row}"

    @cached_property
    def digest(self) -> str:
        """32 hex digits that tell this data from other data, found in milliseconds.

        They cover the names, types and shapes of all fields, the number of samples, the sizes of
        the files, and their bytes: all of them where the file brings digests of its own, otherwise
        a sample of them. The path and the time are not part of it.
        """
        return self._digest()

    @property
    def flat(self) -> frozenset[str]:
        """The fields of which a batch has no row for each sample, but all elements of their lists.

        They stand one sample's behind the other's; other fields, the lengths, tell them apart.
        """
        return frozenset()

    @abstractmethod
    def _digest(self) -> str: ...

    @property
    def nbytes(self) -> int | None:
        """The bytes that a sample takes in memory; None where samples differ."""
        sizes = [field.nbytes for field in self.fields.values()]
        known = [size for size in sizes if size is not None]
        return sum(known) if sizes and len(known) == len(sizes) else None

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Read everything; say what is damaged, a sentence each, with the sample's name."""
        together = max(1, _TOGETHER // max(self.nbytes or _UNKNOWN, 1))
        damaged: list[str] = []
        for start in range(0, len(self), together):
            stop = min(start + together, len(self))
            damaged += self._damage(np.arange(start, stop))
            if progress is not None:
                progress(stop, len(self))
        return damaged

    def _damage(self, rows: Rows) -> list[str]:
        """Read samples; where that fails, halve them until the damaged ones are found."""
        try:
            self._probe(rows)
        except ClosedError:  # which is no damage
            raise
        except TensorKeepError as error:
            if len(rows) == 1:
                return [str(error)]
            half = len(rows) // 2
            return self._damage(rows[:half]) + self._damage(rows[half:])
        return []

    def _probe(self, rows: Rows) -> None:
        """Read samples afresh, to find out whether they can be read."""
        self.samples(rows)

    def __getitem__(self, index: int) -> Sample:
        """Give one sample, from the end where the number is negative.

        Raises:
            ArgumentError: there is no such sample (an IndexError too).
        """
        try:
            row = operator.index(index)
        except TypeError:
            raise ArgumentError(
                f"a sample has a number, not {index!r}",
                where=self.where,
                cure="gather() takes several.",
            ) from None
        return self.samples(self.check(np.array([row])))[0]

    def check(self, rows: npt.ArrayLike | Sequence[int]) -> Rows:
        """Give numbers as an int64 array, those from the end as those from the start.

        Raises:
            ArgumentError: there is no sample of such a number.
            ClosedError: the dataset was closed.
        """
        if self._closed:
            raise ClosedError("was closed before this was read", where=self.where)
        numbers = np.asarray(rows)
        if numbers.size == 0:
            return np.zeros(0, np.int64)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
            raise ArgumentError(
                f"samples have numbers, not {numbers.dtype} of shape {numbers.shape}",
                where=self.where,
            )
        wrong = (numbers >= len(self)) | (numbers < -len(self))
        if wrong.any():
            raise ArgumentError(
                f"there is no sample {int(numbers[wrong][0])}: it has {len(self):,}",
                where=self.where,
            )
        found = numbers.astype(np.int64)
        found[found < 0] += len(self)
        return found

    def close(self) -> None:
        """Release what it is read from; batches that were given out stay good."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where!r}, {len(self):,} samples)"
