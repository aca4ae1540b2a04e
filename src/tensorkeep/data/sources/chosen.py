"""Some fields of a dataset, where whatever it is read from gives all of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from tensorkeep.data.dataset import Batch, Dataset, Progress, Rows, Sample
from tensorkeep.data.fingerprint import combine
from tensorkeep.errors import MissingError
from tensorkeep.similar import did_you_mean
from tensorkeep.stores import is_url


class ChosenDataset(Dataset):
    """A dataset with the fields that were asked for, in that order.

    Args:
        dataset: what has them.
        fields: their names.

    Raises:
        MissingError: it has no such field.
    """

    def __init__(self, dataset: Dataset, fields: Sequence[str]) -> None:
        for name in fields:
            if dataset.fields and name not in dataset.fields:
                raise no_field(name, list(dataset.fields), dataset.where)
        kept = {name: dataset.fields[name] for name in fields} if dataset.fields else {}
        super().__init__(
            len(dataset), kept, where=dataset.where, kind=dataset.kind, block=dataset.block
        )
        self.foreign = dataset.foreign
        self._dataset = dataset
        self._names = list(fields)

    @property
    def flat(self) -> frozenset[str]:
        """The chosen fields that are in lists."""
        return self._dataset.flat.intersection(self._names)

    def gather(self, rows: Rows) -> Batch:
        """Give samples as one batch, of the chosen fields alone."""
        return self._of(self._dataset.gather(rows)) if len(rows) else self._dataset.gather(rows)

    def samples(self, rows: Rows) -> list[Sample]:
        """Give samples one by one, of the chosen fields alone."""
        return [self._of(sample) for sample in self._dataset.samples(rows)]

    def _of(self, given: dict[str, Any]) -> dict[str, Any]:
        for name in self._names:
            if name not in given:
                raise no_field(name, list(given), self.where)
        return {name: given[name] for name in self._names}

    def name(self, row: int) -> str:
        """Say what messages call a sample."""
        return self._dataset.name(row)

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Read everything, the other fields too."""
        return self._dataset.verify(progress)

    def _digest(self) -> str:
        return combine(self._dataset.digest, *self._names)

    def close(self) -> None:
        """Leave what it is read from open: it was opened by somebody else."""
        super().close()

    def __reduce__(self) -> tuple[Any, ...]:
        return ChosenDataset, (self._dataset, self._names)


def absolute(path: str) -> str:
    """Give a path by which another folder's process, or this one later, finds the same file."""
    return os.path.abspath(path) if os.path.lexists(path) and not is_url(path) else path


def no_field(name: str, fields: Sequence[str], where: str) -> MissingError:
    """Say that there is no such field, and which there are."""
    more = f" and {len(fields) - 8} more" if len(fields) > 8 else ""
    has = f"It has {', '.join(fields[:8])}{more}." if fields else ""
    return MissingError(
        f"has no field {name!r}", where=where, cure=did_you_mean(str(name), fields) or has
    )
