"""The fields of a tar shard, each read in the way that its members allow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.data.dataset import Dataset, Field, Lying, Rows, json_in
from tensorkeep.data.decoding import array_names, decode_array_of, decoder
from tensorkeep.data.members import Members
from tensorkeep.data.ranges import gather, joined, view_of
from tensorkeep.data.sources.chosen import no_field
from tensorkeep.data.stacking import stack
from tensorkeep.errors import (
    ArgumentError,
    MissingError,
    TensorKeepError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.source import Source
from tensorkeep.wire.npy import Header, read_header


class Names:
    """What messages call some samples, found out when one is needed."""

    def __init__(self, dataset: Dataset, rows: Rows) -> None:
        self.where = dataset.where
        self._dataset = dataset
        self._rows = rows

    def all(self) -> list[str]:
        return [self._dataset.name(row) for row in self._rows.tolist()]

    def place(self, at: int, field: str) -> str:
        return f"{self.where}: {self._dataset.name(int(self._rows[at]))}, field {field!r}"


class Column(ABC):
    """A field of all samples.

    Args:
        field: what is known of it.
        starts: where each sample's lies in the archive.
        sizes: how long it is there.
    """

    def __init__(
        self, field: Field, starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
    ) -> None:
        self.field = field
        self.starts = starts
        self.sizes = sizes

    @abstractmethod
    def batch(self, rows: Rows, names: Names, field: str) -> npt.NDArray[Any]: ...

    def values(self, rows: Rows, names: Names, field: str) -> list[Any]:
        return list(self.batch(rows, names, field))

    def lying(self, rows: Rows) -> Lying | None:
        return None


class _Numbers(Column):
    """Whole numbers, which the index holds."""

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64],
    ) -> None:
        super().__init__(Field("int64", ()), starts, sizes)
        self._numbers = numbers

    def batch(self, rows: Rows, names: Names, field: str) -> npt.NDArray[Any]:
        return self._numbers[rows]


class _Arrays(Column):
    """Arrays of one type and shape, which lie in the archive as they do in memory."""

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        source: Source,
        header: Header,
    ) -> None:
        super().__init__(Field(header.dtype.name, header.shape), starts, sizes)
        self._source = source
        self._header = header

    def batch(self, rows: Rows, names: Names, field: str) -> npt.NDArray[Any]:
        source, header = self._source, self._header
        starts = self.starts[rows] + header.length
        if not source.mapped:
            data, _ = joined(source, starts, np.full(len(rows), header.nbytes))
        elif header.nbytes:
            data = gather(view_of(source), starts, header.nbytes)
        else:
            data = np.empty(0, np.uint8)
        return data.reshape(-1).view(header.numpy).reshape(len(rows), *header.shape)

    def lying(self, rows: Rows) -> Lying | None:
        source, header = self._source, self._header
        if not source.mapped or not header.nbytes:
            return None
        starts = self.starts[rows] + header.length
        return Lying(view_of(source), starts, np.dtype(header.numpy), header.shape)


class _Decoded(Column):
    """Values that are decoded one by one, and may differ in shape."""

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        source: Source,
        decode: Any,
        field: Field,
    ) -> None:
        super().__init__(field, starts, sizes)
        self._source = source
        self._decode = decode

    def batch(self, rows: Rows, names: Names, field: str) -> npt.NDArray[Any]:
        values = self.values(rows, names, field)
        if not values:
            return np.empty(0, object)
        samples = [{field: value} for value in values]
        return stack(samples, names.all(), names.where, json_in({field: self.field}))[field]

    def values(self, rows: Rows, names: Names, field: str) -> list[Any]:
        found = []
        starts = self.starts[rows]
        stops = starts + self.sizes[rows]
        for at, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            data = self._source.read(start, stop)
            try:
                found.append(self._decode(data, names.place(at, field)))
            except MemoryError:
                raise UnsafeError(
                    f"its {stop - start:,} bytes take more memory than there is",
                    where=names.place(at, field),
                ) from None
        return found


def columns_of(found: Members, source: Source, fields: Sequence[str] | None) -> dict[str, Column]:
    """Make what reads each field."""
    if isinstance(fields, str) or (fields is not None and not len(fields)):
        raise ArgumentError(f"fields is a list of names, not {fields!r}", where=source.where)
    columns: dict[str, Column] = {}
    for field, suffix in found.fields.items():
        ending = suffix.rpartition(".")[2]
        if fields is not None and not any(
            name == field or (ending == "npz" and name.startswith(f"{field}.")) for name in fields
        ):
            continue
        samples, chosen = found.places(suffix)
        if len(samples) != len(found):
            raise _lacking(found, field, samples, source.where)
        starts, sizes = found.starts[chosen], found.sizes[chosen]
        if suffix in found.numbers:
            columns[field] = _Numbers(starts, sizes, found.numbers[suffix])
        elif header := _shared_header(found, suffix, starts, sizes, source):
            columns[field] = _Arrays(starts, sizes, source, header)
        elif ending == "npz":
            data = source.read(int(starts[0]), int(starts[0] + sizes[0]))
            called = f"{source.where}: sample 0 ({found.key(0)[:60]!r}), field {field!r}"
            for name in array_names(data, called):
                decode = partial(_decode_named, name)
                if f"{field}.{name}" in found.fields:
                    raise UnsupportedError(
                        f"the array {name!r} in {suffix!r} is called {field}.{name}, as is another "
                        "member of a sample",
                        where=source.where,
                        cure="Rename one of them.",
                    )
                columns[f"{field}.{name}"] = _Decoded(starts, sizes, source, decode, Field())
        else:
            how = decoder(ending)
            columns[field] = _Decoded(starts, sizes, source, how.decode, how.field)
    if fields is None:
        return columns
    return _chosen(columns, fields, list(found.fields), source.where)


def _decode_named(name: str, data: memoryview, where: str) -> Any:
    return decode_array_of(data, name, where)


def _chosen(
    columns: Mapping[str, Column], fields: Sequence[str], there: list[str], where: str
) -> dict[str, Column]:
    """Pick fields in the order asked for; the name of a .npz file means all of its arrays."""
    chosen: dict[str, Column] = {}
    for name in fields:
        meant = [key for key in columns if key == name]
        meant = meant or [key for key in columns if key.startswith(f"{name}.") and name in there]
        if not meant:
            raise no_field(name, list(dict.fromkeys([*columns, *there])), where)
        chosen |= {key: columns[key] for key in meant}
    return chosen


def _shared_header(
    found: Members,
    suffix: str,
    starts: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    source: Source,
) -> Header | None:
    """Give the header that all arrays of a field have, where they lie as they do in memory."""
    length = found.heads.get(suffix)
    if length is None or not len(sizes) or (sizes != sizes[0]).any():
        return None
    start, size = int(starts[0]), int(sizes[0])
    try:
        header = read_header(
            source.read(start, start + min(length, size)),
            lambda count: source.read(start, start + count),
            size,
            source.where,
            {},
        )
    except TensorKeepError:  # told when a sample is read, by its name
        return None
    return header if header.canonical and header.length == length else None


def _lacking(found: Members, field: str, samples: Rows, where: str) -> MissingError:
    """Name the first sample without a field, and the fields that all have."""
    has = np.zeros(len(found), bool)
    has[samples] = True
    row = int(np.argmin(has))
    whole = [
        name for name, suffix in found.fields.items() if len(found.places(suffix)[0]) == len(found)
    ]
    return MissingError(
        f"sample {row} ({found.key(row)[:60]!r}) has no field {field!r}, which "
        f"{len(samples):,} of {len(found):,} samples have",
        where=where,
        cure=f"Read the fields that all have: fields={whole}."
        if whole
        else "A sample's members have to stand one behind another.",
    )


__all__ = ["Column", "Names", "columns_of"]
