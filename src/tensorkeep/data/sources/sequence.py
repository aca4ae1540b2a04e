"""Anything with `len()` and numbers in brackets: a list of dicts, a torch, HF or grain dataset.

A sample may be a dict of fields, a named tuple, a tuple or list, whose fields are then called "0",
"1" and so on, or a lone array, number or text, which is the field "data". Where the object has
`__getitems__`, as torch and Hugging Face name reading many at once, a batch is read by one call.

Samples are read from several threads at once unless `Batches` is given `workers=1`; an object that
cannot stand that, such as one that holds an open file, is for one worker or for processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tensorkeep import frameworks
from tensorkeep.data.dataset import Batch, Dataset, Field, Rows, Sample
from tensorkeep.data.fingerprint import combine
from tensorkeep.data.sources.arrays import LONE
from tensorkeep.data.sources.chosen import no_field
from tensorkeep.data.stacking import stack
from tensorkeep.errors import SampleError, TensorKeepError

_LOOKS = 64  # evenly spaced samples of a list that its digest looks at
_TOLD = ("digest", "_fingerprint")  # attributes by which an object says what it holds


class SequenceDataset(Dataset):
    """Samples of an object that gives them by number.

    The first sample is read at once, for the names of the fields. Shapes are not known before they
    are read, since nothing says that all samples are alike.

    The digest is what the object says of itself in a text attribute `digest` or, as Hugging Face's
    do, `_fingerprint`. That of a list or tuple is of its length and up to 64 evenly spaced samples.
    That of any other object is only of its length, its class and the names of the fields: what its
    code would give is not asked for, since it may be slow, or augment at random.

    Args:
        items: the object.
        fields: read only these.

    Raises:
        SampleError: the object failed to give its length or its first sample.
        MissingError: there is no such field.
    """

    foreign = True

    def __init__(self, items: Any, fields: Sequence[str] | None = None) -> None:
        kind = type(items)
        where = f"the {kind.__name__}"
        try:
            count = len(items)
        except Exception as error:
            raise SampleError(f"its length cannot be told: {error!r}", where=where) from error
        super().__init__(count, {}, where=where, kind="sequence")
        self._items = items
        self._names = None if fields is None else list(fields)
        if len(self):
            self.fields = {name: Field() for name in self._read(np.zeros(1, np.int64))[0]}

    def gather(self, rows: Rows) -> Batch:
        """Read samples and stack them.

        Raises:
            SampleError: the object failed to give one; the message names it.
            UnsupportedError: samples differ in shape or type, and so make no batch.
        """
        return stack(self._read(rows), [self.name(int(row)) for row in rows], self.where)

    def samples(self, rows: Rows) -> list[Sample]:
        """Read samples one by one; their arrays are copied, since the object may keep them.

        Raises:
            SampleError: the object failed to give one; the message names it.
        """
        return [
            {name: self._own(value, row, name) for name, value in sample.items()}
            for sample, row in zip(self._read(rows), rows.tolist(), strict=True)
        ]

    def _own(self, value: Any, row: int, field: str) -> Any:
        found = frameworks.to_array(value, f"{self.name(row)}, field {field!r}")
        return value if found is None else np.array(found[1])

    def _read(self, rows: Rows) -> list[Sample]:
        numbers = rows.tolist()
        return [
            self._fields_of(item, row)
            for item, row in zip(self._given(numbers), numbers, strict=True)
        ]

    def _given(self, numbers: list[int]) -> list[Any]:
        many = getattr(self._items, "__getitems__", None)
        if many is None or len(numbers) < 2:
            return [self._one(row) for row in numbers]
        try:
            found = list(many(numbers))
        except Exception as error:
            for row in numbers:  # one of which it fails on
                self._one(row)
            raise self._failed(
                f"samples {numbers[0]} and {len(numbers) - 1} more", error
            ) from error
        if len(found) != len(numbers):
            raise SampleError(
                f"__getitems__ gave {len(found)} samples for {len(numbers)} numbers",
                where=self.where,
            )
        return found

    def _one(self, row: int) -> Any:
        try:
            return self._items[row]
        except Exception as error:
            raise self._failed(self.name(row), error) from error

    def _failed(self, name: str, error: Exception) -> TensorKeepError:
        if isinstance(error, TensorKeepError):
            return SampleError(f"{name} cannot be read: {error}", where=self.where)
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return SampleError(f"{name} cannot be read: {said}", where=self.where)

    def _fields_of(self, item: Any, row: int) -> Sample:
        sample = _named(item)
        if isinstance(item, Mapping) and len(sample) != len(item):
            twice = next(str(name) for name in item if not isinstance(name, str))
            raise SampleError(f"{self.name(row)} has two fields called {twice!r}", where=self.where)
        if self._names is None:
            return sample
        for name in self._names:
            if name not in sample:
                raise no_field(name, list(sample), f"{self.where}, {self.name(row)}")
        return {name: sample[name] for name in self._names}

    def _probe(self, rows: Rows) -> None:
        self._read(rows)

    def _digest(self) -> str:
        told = next(
            (t for name in _TOLD if isinstance(t := getattr(self._items, name, 0), str)), ""
        )
        kind = type(self._items)
        names = list(self.fields)
        if told:
            return combine("told", told, len(self), *names)
        if kind not in (list, tuple):
            return combine("object", f"{kind.__module__}.{kind.__qualname__}", len(self), *names)
        rows = np.unique(np.linspace(0, max(0, len(self) - 1), _LOOKS).astype(np.int64))
        parts = [_looked_at(sample) for sample in self._read(rows[: len(self)])]
        return combine("list", len(self), *names, *(part for sample in parts for part in sample))

    def __reduce__(self) -> tuple[Any, ...]:
        return SequenceDataset, (self._items, self._names)


def _named(item: Any) -> Sample:
    """Give a sample as a dict of its fields."""
    if isinstance(item, Mapping):
        return {str(name): value for name, value in item.items()}
    if isinstance(item, tuple | list):
        names = getattr(item, "_fields", None) or map(str, range(len(item)))
        return dict(zip(names, item, strict=True))
    return {LONE: item}


def _looked_at(sample: Sample) -> list[str | bytes]:
    """Give what tells a sample from another: the type, shape and bytes of each field."""
    parts: list[str | bytes] = []
    for name, value in sample.items():
        found = frameworks.to_array(value, name)
        array = np.asarray(value) if found is None else found[1]
        text = array.dtype.hasobject
        data = repr(value).encode("utf-8", "surrogatepass") if text else array.tobytes()
        parts += [str(array.dtype), str(array.shape), data]
    return parts
