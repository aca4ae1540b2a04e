"""Several datasets one behind the other, as one."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.data.dataset import Batch, Dataset, Field, Lying, Progress, Rows, Sample
from tensorkeep.data.fingerprint import combine
from tensorkeep.data.memory import empty
from tensorkeep.data.ranges import gather, span
from tensorkeep.data.stacking import stack
from tensorkeep.errors import ArgumentError, CorruptError, TensorKeepError, UnsupportedError

_WORTH = 1 << 10  # bytes of a field that is copied from all parts at once
AT_ONCE = 128  # files that are open at once: systems allow a process a thousand or so


@dataclass(frozen=True)
class Part:
    """One of several datasets, and what is known of it before it is opened.

    Args:
        open: opens it; called again where it was closed in between.
        count: its samples.
        fields: what each of them has.
        where: names it in messages.
        digest: where it is known; asked of the dataset where it is empty.
        block: neighbours that are read together.
        check: compares it with what was written; gives the problem, empty where there is none.
        given: it was opened by somebody else, who closes it.
    """

    open: Callable[[], Dataset]
    count: int
    fields: Mapping[str, Field]
    where: str
    digest: str = ""
    block: int = 1
    check: Callable[[], str] | None = None
    given: bool = False


class JoinedDataset(Dataset):
    """The samples of several datasets, in their order.

    Of parts that are opened from files, the 128 used last are kept open.

    Args:
        parts: the datasets, or what is known of those that are opened when they are needed.
        where: names all of them in messages.
        opened: those of the parts that are open already, by their numbers.
        reopen: gives it in another process; the parts themselves are sent where it is None.

    Raises:
        ArgumentError: there are no parts.
        UnsupportedError: their fields differ.
    """

    def __init__(
        self,
        parts: Sequence[Dataset | Part],
        *,
        where: str = "",
        opened: Mapping[int, Dataset] | None = None,
        reopen: Callable[[], Dataset] | None = None,
    ) -> None:
        if not parts:
            raise ArgumentError("there are no datasets to join", where=where)
        self.parts = [part if isinstance(part, Part) else _part(part) for part in parts]
        counts = [part.count for part in self.parts]
        self._stops = np.cumsum(counts, dtype=np.int64)
        fields = _agreed(self.parts)
        first = self.parts[0]
        super().__init__(
            sum(counts),
            fields,
            where=where or f"{first.where} and {len(parts) - 1} more",
            kind="joined",
            block=max(part.block for part in self.parts),
        )
        self.foreign = any(dataset.foreign for dataset in (opened or {}).values()) or any(
            isinstance(part, Dataset) and part.foreign for part in parts
        )
        self._reopen = reopen
        self._lock = threading.Lock()
        self._open: OrderedDict[int, Dataset] = OrderedDict(opened or {})

    @property
    def flat(self) -> frozenset[str]:
        """The fields that are in lists, in the first part as in all."""
        return self._opened(0).flat

    def gather(self, rows: Rows) -> Batch:
        """Give samples as one batch; each part is asked once for all of its rows.

        Raises:
            CorruptError: a sample is damaged; the message names it.
            UnsupportedError: samples differ in shape or type, and so make no batch.
        """
        shares = [(part, at, own, self._opened(part)) for part, at, own in self._split(rows)]
        if not shares:
            return self._opened(0).gather(rows)
        if len(shares) == 1:
            return shares[0][3].gather(shares[0][2])
        flat = next((dataset.flat for _, _, _, dataset in shares if dataset.flat), None)
        if flat:
            return self._one_by_one(rows, flat)
        out = _copied(len(rows), [(at, dataset.lying(own)) for _, at, own, dataset in shares])
        done = list(out)
        for part, at, own, dataset in shares:
            rest = [name for name in dataset.fields if name not in done]
            batch = dataset.some(own, rest) if done else dataset.gather(own)
            for name, values in batch.items():
                if name not in out:
                    out[name] = empty((len(rows), *values.shape[1:]), values.dtype)
                self._check_alike(name, out, values, part)
                out[name][at] = values
            if {*done, *batch} != out.keys():
                raise self._other_fields(list(out), [*done, *batch], part)
        return {name: out[name] for name in self.fields or out}

    def _one_by_one(self, rows: Rows, flat: frozenset[str]) -> Batch:
        """Make a batch of columns, whose lists are as long as each sample has it."""
        samples = self.samples(rows)
        names = [self.name(row) for row in rows.tolist()]
        rest = [{name: v for name, v in one.items() if name not in flat} for one in samples]
        stacked = stack(rest, names, self.where)
        return {
            name: np.concatenate([one[name] for one in samples]) if name in flat else stacked[name]
            for name in samples[0]
        }

    def samples(self, rows: Rows) -> list[Sample]:
        """Give samples one by one, which may differ in shape."""
        out: list[Sample] = [{} for _ in rows]
        for part, at, own in self._split(rows):
            for i, sample in zip(at.tolist(), self._opened(part).samples(own), strict=True):
                out[i] = sample
        return out

    def _split(self, rows: Rows) -> Iterator[tuple[int, npt.NDArray[np.intp], Rows]]:
        """Give for each part that has some of the rows: its number, their places, its own rows."""
        if not len(rows):
            return
        owners = np.searchsorted(self._stops, rows, side="right")
        order = np.argsort(owners, kind="stable")
        cuts = np.flatnonzero(np.diff(owners[order])) + 1
        for at in np.split(order, cuts):
            part = int(owners[at[0]])
            yield part, at, rows[at] - self._start(part)

    def _start(self, part: int) -> int:
        return int(self._stops[part]) - self.parts[part].count

    def _opened(self, number: int) -> Dataset:
        with self._lock:
            dataset = self._open.get(number)
            if dataset is None:
                part = self.parts[number]
                dataset = part.open()
                if len(dataset) != part.count:
                    dataset.close()
                    raise CorruptError(
                        f"had {part.count:,} samples, and has {len(dataset):,} now",
                        where=part.where,
                        cure="It was changed since; open all of it again.",
                    )
                self._open[number] = dataset
            self._open.move_to_end(number)
            while len(self._open) > AT_ONCE:  # closed once no other thread reads from it
                self._open.popitem(last=False)
        return dataset

    def _check_alike(self, name: str, out: Batch, values: npt.NDArray[Any], part: int) -> None:
        wanted = out[name]
        if (wanted.shape[1:], wanted.dtype) != (values.shape[1:], values.dtype):
            raise UnsupportedError(
                f"the field {name!r} is {wanted.dtype} of shape {wanted.shape[1:]} in one part, "
                f"and {values.dtype} of shape {values.shape[1:]} in {self.parts[part].where}, "
                "which make no batch",
                where=self.where,
                cure="Make them alike with each=..., or leave it out with fields=[...].",
            )

    def _other_fields(self, one: list[str], other: list[str], part: int) -> UnsupportedError:
        return _differing("one part", one, self.parts[part].where, other)

    def name(self, row: int) -> str:
        """Say what messages call a sample: that of its part, and the file."""
        part = int(np.searchsorted(self._stops, row, side="right"))
        if not 0 <= row < len(self):
            return super().name(row)
        own = self._opened(part).name(row - self._start(part))
        return f"{own} of {self.parts[part].where} (sample {row} of all)"

    def _digest(self) -> str:
        parts = [
            part.digest or self._opened(number).digest for number, part in enumerate(self.parts)
        ]
        return combine("joined", len(self), *parts)

    def verify(self, progress: Progress | None = None) -> list[str]:
        """Verify every part: as a whole where it is known what was written, or else each sample."""
        found: list[str] = []
        done = 0
        for number, part in enumerate(self.parts):
            problem = part.check() if part.check else ""
            if problem:
                found.append(f"{part.where}: {problem}")
            if problem or not part.check:
                try:
                    found += self._opened(number).verify()
                except TensorKeepError as error:  # damage can stop the opening itself
                    found.append(str(error))
            done += part.count
            if progress is not None:
                progress(done, len(self))
        return found

    def close(self) -> None:
        """Close the parts that were opened here; datasets that were given stay open."""
        super().close()
        with self._lock:
            opened, self._open = self._open, OrderedDict()
        for number, dataset in opened.items():
            if not self.parts[number].given:
                dataset.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._reopen is not None:
            return self._reopen, ()
        parts = [self._opened(number) for number in range(len(self.parts))]
        return _joined, (parts, self.where)


def _joined(parts: list[Dataset], where: str) -> JoinedDataset:
    return JoinedDataset(parts, where=where)


def _part(dataset: Dataset) -> Part:
    return Part(
        partial(_itself, dataset),
        len(dataset),
        dataset.fields,
        dataset.where,
        block=dataset.block,
        given=True,
    )


def _itself(dataset: Dataset) -> Dataset:
    return dataset


def _agreed(parts: Sequence[Part]) -> dict[str, Field]:
    """Give the fields of all parts, as far as they are known.

    Raises:
        UnsupportedError: they differ.
    """
    known = [part for part in parts if part.fields]
    if not known:
        return {}
    first = known[0]
    fields = dict(first.fields)
    for part in known[1:]:
        if part.fields.keys() != fields.keys():
            raise _differing(first.where, list(fields), part.where, list(part.fields))
        for name, field in part.fields.items():
            one = fields[name]
            if one.dtype and field.dtype and one.dtype != field.dtype:
                raise _unlike(name, first, part)
            if one.shape is not None and field.shape is not None and one.shape != field.shape:
                raise _unlike(name, first, part)
            unsure = one.shape is None or field.shape is None
            dtype = one.dtype if field.dtype else ""
            fields[name] = Field(dtype, None if unsure else one.shape)
    return fields


def _unlike(name: str, one: Part, other: Part) -> UnsupportedError:
    return UnsupportedError(
        f"the field {name!r} is {one.fields[name]} in {one.where} and {other.fields[name]} in "
        f"{other.where}",
        cure="Leave it out with fields=[...], or read them apart.",
    )


def _differing(
    one: str, fields: Sequence[str], other: str, others: Sequence[str]
) -> UnsupportedError:
    return UnsupportedError(
        f"{one} has the fields {', '.join(fields)}, and {other} {', '.join(others)}",
        cure="Name those that all of them have with fields=[...].",
    )


def _copied(
    count: int, shares: Sequence[tuple[npt.NDArray[np.intp], Mapping[str, Lying]]]
) -> Batch:
    """Copy the fields that lie in memory in all parts, all of their samples at once."""
    out: Batch = {}
    for name, first in shares[0][1].items():
        lying = [told.get(name) for _, told in shares]
        alike = [
            each
            for each in lying
            if each is not None and (each.dtype, each.shape) == (first.dtype, first.shape)
        ]
        size = first.dtype.itemsize * math.prod(first.shape)
        if len(alike) < len(lying) or size < _WORTH:
            continue
        whole, begins = span([each.view for each in alike])
        starts = np.empty(count, np.int64)
        for (at, _), each, begin in zip(shares, alike, begins, strict=True):
            starts[at] = each.starts + begin
        data = gather(whole, starts, size)
        out[name] = data.reshape(-1).view(first.dtype).reshape(count, *first.shape)
    return out
