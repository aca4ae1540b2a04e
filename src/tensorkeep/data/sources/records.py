"""Databases of training data as Caffe2 makes them: one TensorProtos message a record.

Those of Caffe, whose records are Datum messages, are read too, with the fields "data" and "label".

    with open_records("train.lmdb") as dataset:
        dataset.gather([17, 3])     # {"image": uint8 (2, 3, 64, 64), "label": int32 (2,)}

Samples come in stored order, which in a database that sorts its keys is that of the keys. Records
that are laid out alike, or at least made alike, are not parsed one by one: their values are copied
out of the file at once, after what is around the values has been compared.

Facts: caffe2.proto and Caffe2's TensorProtosDBInput (PyTorch 1.10).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.data import fingerprint
from tensorkeep.data.dataset import Batch, Dataset, Field, Rows, Sample
from tensorkeep.data.ranges import Bytes, Numbers, gather
from tensorkeep.data.sources.chosen import absolute, no_field
from tensorkeep.data.sources.layout import (
    Kind,
    Layout,
    Layouts,
    Place,
    field_names,
    finish,
    of_datum,
    of_protos,
)
from tensorkeep.data.sources.outline import Outlines
from tensorkeep.data.sources.places import find_kind, first_value, open_places
from tensorkeep.data.sources.remembered import Remembered
from tensorkeep.errors import (
    FormatError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.formats.caffe2.recognise import is_blob, is_tensors
from tensorkeep.source import MemorySource, Source
from tensorkeep.store import HEAD
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.datum import decode_datum, is_datum
from tensorkeep.wire.caffe2.protos import decode_record

_LOOKED = 64  # records that are looked at for the fields, and for the digest
_LOOKED_BYTES = 64 << 20  # of all these, where fewer are looked at
_HASHED = 64 << 10  # bytes of each that the digest covers

_Array = npt.NDArray[Any]
_Grammar = tuple[
    Callable[[Source, int, int, str], list[tuple[str, Tensor]]],
    Callable[[bytes], dict[str, Place] | None],
]


def open_records(path: str, fields: Sequence[str] | None = None) -> RecordsDataset:
    """Open a database of training data.

    Args:
        path: a minidb, LMDB, LevelDB, RocksDB or SQLite database; "lmdb:PATH" says which.
        fields: read only these.

    Raises:
        MissingError: nothing is there.
        UnknownFormatError: no database is.
        UnsupportedError: its records are saved weights.
        CorruptError: it is damaged.
        MissingError: there is no such field.
    """
    return RecordsDataset(path, fields=fields)


def recognises(path: str) -> bool:
    """Say whether a path is a database whose first record is a TensorProtos or a Datum."""
    try:
        first = first_value(*find_kind(path))
    except (TensorKeepError, OSError):
        return False
    if first is None or is_blob(*first):
        return False
    return is_tensors(*first) or is_datum(*first)


class RecordsDataset(Dataset):
    """The records of a database, each of them a sample.

    The records are those that were there when it was opened, though others write to the database.
    Of an LMDB the pages of that commit are kept in use; but where the place is read-only that
    cannot be noted, and nobody may write to it. In other kinds than LMDB and minidb, a record that
    is replaced meanwhile is read as it is by then. Labels and the like are read once and
    remembered.

    What `fields` says is what 64 evenly spaced records have; one that differs is found when it is
    read. The digest covers these fields, the number of records, the sizes of all of them, and the
    keys and the first 64 KiB of those 64: it is that of the same records in any kind of database.

    Args:
        path: the database.
        db_type: its type, as `stores.DATABASES` has it, where the bytes do not tell.
        fields: read only these.

    Raises:
        MissingError, UnsupportedError, CorruptError, ArgumentError: as for `open_records`; also
            where there is no such `db_type`.
    """

    def __init__(
        self, path: str, db_type: str | None = None, fields: Sequence[str] | None = None
    ) -> None:
        kind, place = find_kind(path, db_type)
        self._opened_with = absolute(place), kind.kind, None if fields is None else list(fields)
        self._places = places = open_places(kind, place)
        super().__init__(len(places.sizes), {}, where=path, kind=kind.kind)
        try:
            self._read, parse = self._grammar()
            self._layouts = Layouts(parse)
            self._outlines = Outlines() if parse is of_protos else None
            self._found = found = self._look()
            self.fields = found if fields is None else _chosen(found, fields, path)
        except BaseException:
            places.close()
            raise
        self._wanted = None if fields is None else list(dict.fromkeys(fields))
        self._remembered = Remembered(len(self), self._wanted)

    def __reduce__(self) -> tuple[object, ...]:
        return RecordsDataset, self._opened_with

    def gather(self, rows: Rows) -> Batch:
        batch = self._together(rows)
        return super().gather(rows) if batch is None else batch

    def samples(self, rows: Rows) -> list[Sample]:
        batch = self._together(rows)
        if batch is None:
            return list(self._one_by_one(rows))
        return [{name: values[i] for name, values in batch.items()} for i in range(len(rows))]

    def name(self, row: int) -> str:
        return f"sample {row} ({self._places.key(row)!r})"

    def close(self) -> None:
        super().close()
        self._places.close()

    def _probe(self, rows: Rows) -> None:
        if self._together(rows, afresh=True) is None:
            deque(self._one_by_one(rows), maxlen=0)

    # --- many at once --------------------------------------------------------------------------

    def _together(self, rows: Rows, *, afresh: bool = False) -> Batch | None:
        """Gather a batch, `afresh` without what is remembered; None where its records differ."""
        if not len(rows):
            return {name: _empty(field) for name, field in self.fields.items()}
        with self._places.unchanged():
            view, starts, sizes = self._places.fetch(rows)
            known = None if afresh else self._remembered.batch(rows, view, starts)
            if known is not None:
                return known
            groups, rest = self._sort(view, starts, sizes)
            for group in groups:
                self._remembered.note(rows[group.places], group.layout, group.looked)
            walked, rest = self._walk(view, starts, sizes, rest)
            decoded = {i: self._decode(view, rows, starts, sizes, i) for i in rest}
            names = self._names(groups, walked, decoded)
            if names is None:
                return None
            columns = [_Column(name, groups, walked, decoded) for name in names]
            if not all(column.uniform for column in columns):
                return None
            return {column.name: column.fill(view, starts) for column in columns}

    def _sort(self, view: Bytes, starts: Numbers, sizes: Numbers) -> tuple[list[_Group], list[int]]:
        """Sort records by their layouts; give the numbers of those that have none."""
        groups: list[_Group] = []
        rest: list[int] = []
        if self._outlines is not None and self._outlines.known and not self._layouts.any:
            return groups, list(range(len(sizes)))  # which has many sizes
        for size, places in _by_size(sizes):
            known = iter(self._layouts.of_size(size))
            while places.size:
                layout = next(known, None)
                if layout is None:
                    at = int(starts[places[0]])
                    layout = self._layouts.learn(view[at : at + size].tobytes())
                    if layout is None:
                        rest += places.tolist()
                        break
                    # Another thread may have learned it too.
                fits, looked = layout.match(view, starts[places])
                if fits is None:
                    groups.append(_Group(places, layout, looked))
                    break
                if fits.any():
                    groups.append(_Group(places[fits], layout, [found[fits] for found in looked]))
                    places = places[~fits]
        return groups, rest

    def _walk(
        self, view: Bytes, starts: Numbers, sizes: Numbers, rest: list[int]
    ) -> tuple[list[_Walked], list[int]]:
        """Read records that consist of the same; give the numbers of those that do not."""
        walked: list[_Walked] = []
        left: list[int] = []
        places = np.sort(np.array(rest, np.int64))
        known = iter(self._outlines.known if self._outlines is not None else ())
        while places.size and self._outlines is not None:
            outline, first = next(known, None), int(starts[places[0]])
            if outline is None:
                data = view[first : first + int(sizes[places[0]])].tobytes()
                outline = self._outlines.learn(data)
                if outline is None:
                    left.append(int(places[0]))
                    places = places[1:]
                    continue
            fits, values = outline.read(view, starts[places], sizes[places], self._wanted)
            if fits.any():
                walked.append(_Walked(places[fits], values))
                places = places[~fits]
        return walked, [*left, *places.tolist()]

    def _names(
        self, groups: list[_Group], walked: list[_Walked], decoded: dict[int, Sample]
    ) -> list[str] | None:
        """Give the fields to read; None where not all records have the same ones."""
        if self._wanted is not None:
            return self._wanted
        sets = [
            *(group.layout.places.keys() for group in groups),
            *(group.values.keys() for group in walked),
            *map(dict.keys, decoded.values()),
        ]
        return list(sets[0]) if all(names == sets[0] for names in sets) else None

    # --- one by one ----------------------------------------------------------------------------

    def _one_by_one(self, rows: Rows) -> Iterator[Sample]:
        with self._places.unchanged():
            view, starts, sizes = self._places.fetch(rows)
            for i in range(len(rows)):
                yield self._decode(view, rows, starts, sizes, i)

    def _decode(self, view: Bytes, rows: Rows, starts: Numbers, sizes: Numbers, i: int) -> Sample:
        where = f"{self.where}: {self.name(int(rows[i]))}"
        start = int(starts[i])
        source = MemorySource(view.data, self.where)
        found = self._read(source, start, start + int(sizes[i]), where)
        sample = dict(zip(field_names(name for name, _ in found), found, strict=True))
        wanted = sample if self._wanted is None else self._wanted
        missing = [name for name in wanted if name not in sample]
        if missing:
            raise UnsupportedError(
                f"has no field {missing[0]!r}, but {', '.join(sample) or 'none'}", where=where
            )
        try:
            return {name: _value(sample[name][1]) for name in wanted}
        except FormatError as error:
            raise type(error)(error.problem, where=where, cure=error.cure) from None

    # --- what is there -------------------------------------------------------------------------

    def _grammar(self) -> _Grammar:
        """Tell by the first record how records are read.

        Raises:
            UnsupportedError: they are saved weights.
        """
        if len(self):
            with self._places.unchanged():
                view, starts, sizes = self._places.fetch(np.zeros(1, np.int64))
                start, size = int(starts[0]), int(sizes[0])
                head = view[start : start + min(size, HEAD)].tobytes()
            if is_blob(head, size):
                raise UnsupportedError(
                    "its records are BlobProtos: saved weights, not training data",
                    where=self.where,
                    cure="Read it with tensorkeep.open or load.",
                )
            if is_datum(head, size) and not is_tensors(head, size):
                return decode_datum, of_datum
        return decode_record, of_protos

    def _look(self) -> dict[str, Field]:
        """Find what fields there are, in some records: all of them are not looked at."""
        fields: dict[str, Field] | None = None
        rows = self._spread()
        with self._places.unchanged():
            view, starts, sizes = self._places.fetch(rows)
            for row, start, size in zip(
                rows.tolist(), starts.tolist(), sizes.tolist(), strict=True
            ):
                where = f"{self.where}: {self.name(row)}"
                source = MemorySource(view.data, self.where)
                try:
                    found = self._read(source, start, start + size, where)
                except FormatError:
                    if row == 0:
                        raise
                    continue  # damaged: who reads it will be told
                names = field_names(name for name, _ in found)
                described = {
                    name: Field(str(tensor.dtype), tensor.shape)
                    for name, (_, tensor) in zip(names, found, strict=True)
                }
                fields = described if fields is None else _common(fields, described)
        return fields or {}

    def _spread(self) -> Rows:
        count = len(self)
        sizes = int(self._places.sizes.sum(dtype=np.int64))
        most = max(2, min(_LOOKED, _LOOKED_BYTES * count // max(sizes, 1)))
        return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))

    def _digest(self) -> str:
        rows = self._spread()
        sizes = np.ascontiguousarray(self._places.sizes, "<u4")
        parts: list[str | bytes | int] = [len(self), sizes.tobytes()]
        parts += [f"{name}: {field}" for name, field in self._found.items()]
        with self._places.unchanged():
            view, starts, sizes = self._places.fetch(rows)
            for row, start, size in zip(
                rows.tolist(), starts.tolist(), sizes.tolist(), strict=True
            ):
                parts += [self._places.key(row), view[start : start + min(size, _HASHED)].tobytes()]
        return fingerprint.combine(*parts)


class _Group(NamedTuple):
    """Records of a batch that have the same layout: their numbers, and what was looked at."""

    places: npt.NDArray[np.int64]
    layout: Layout
    looked: list[Bytes]


class _Walked(NamedTuple):
    """Records of a batch that consist of the same: their numbers, and their fields."""

    places: npt.NDArray[np.int64]
    values: dict[str, _Array]


class _Column:
    """A field of a batch, which comes from records that were read in one way or several."""

    def __init__(
        self,
        name: str,
        groups: list[_Group],
        walked: list[_Walked],
        decoded: dict[int, Sample],
    ) -> None:
        self.name = name
        self._decoded = {i: sample[name] for i, sample in decoded.items()}
        found = [(group, group.layout.places.get(name)) for group in groups]
        self._parts = [(group, place) for group, place in found if place is not None]
        kinds = {place.kind for _, place in self._parts}
        self._walked = [(group.places, group.values[name]) for group in walked]
        kinds |= {Kind(values.dtype, values.shape[1:]) for _, values in self._walked}
        kinds |= {_kind(value) for value in self._decoded.values()}
        self._kind = next(iter(kinds))
        self.uniform = len(kinds) == 1 and len(found) == len(self._parts)

    def fill(self, view: Bytes, starts: Numbers) -> _Array:
        """Give the values of all records, in a fresh array."""
        if len(self._walked) == 1 and len(self._walked[0][0]) == len(starts):
            return self._walked[0][1]
        if not self._decoded and not self._walked:
            if len(self._parts) == 1:
                return _of_group(*self._parts[0], view, starts)
            if len({(place.large, place.coding, place.size) for _, place in self._parts}) == 1:
                place = self._parts[0][1]
                if place.large:
                    return finish(gather(view, self._begins(starts), place.size), place)
        out = np.empty((len(starts), *self._kind.shape), self._kind.dtype)
        for group, place in self._parts:
            out[group.places] = _of_group(group, place, view, starts)
        for places, values in self._walked:
            out[places] = values
        for i, value in self._decoded.items():
            out[i] = value
        return out

    def _begins(self, starts: Numbers) -> Numbers:
        """Say where the values of each record begin."""
        begins = starts.copy()
        for group, place in self._parts:
            begins[group.places] += place.start
        return begins


def _of_group(group: _Group, place: Place, view: Bytes, starts: Numbers) -> _Array:
    if not place.large:
        return group.layout.values(place, group.looked, len(group.places))
    return finish(gather(view, starts[group.places] + place.start, place.size), place)


def _by_size(sizes: Numbers) -> Iterable[tuple[int, npt.NDArray[np.int64]]]:
    """Give the numbers of the records of each size."""
    if (sizes == sizes[0]).all():
        return [(int(sizes[0]), np.arange(len(sizes)))]
    least = sizes == sizes.min()
    most = np.flatnonzero(~least)
    if (sizes[most] == sizes[most[0]]).all():  # as often: a label takes one byte or two
        few = np.flatnonzero(least)
        return [(int(sizes[few[0]]), few), (int(sizes[most[0]]), most)]
    order = np.argsort(sizes, kind="stable")
    cuts = np.flatnonzero(np.diff(sizes[order])) + 1
    return [(int(sizes[part[0]]), part) for part in np.split(order, cuts)]


def _kind(value: Any) -> Kind:
    if isinstance(value, np.ndarray | np.generic):
        return Kind(value.dtype, value.shape)
    return Kind(np.dtype(object), ())  # bytes


def _value(tensor: Tensor) -> Any:
    """Read a tensor of one record into memory of its own; strings as bytes."""
    if tensor.dtype is not dtypes.STRING:
        return np.array(tensor.numpy())[()]
    data = tensor.read()
    first = 8 * (tensor.size + 1)  # behind where each string ends
    ends = np.frombuffer(data[:first], "<u8").tolist()
    out = np.empty(tensor.size, object)
    out[:] = [bytes(data[first + a : first + b]) for a, b in pairwise(ends)]
    return out.reshape(tensor.shape)[()]


def _common(one: dict[str, Field], other: dict[str, Field]) -> dict[str, Field]:
    """Give what holds for the samples of both descriptions."""
    return {
        name: Field(
            field.dtype if field.dtype == other[name].dtype else "",
            field.shape if field.shape == other[name].shape else None,
        )
        for name, field in one.items()
        if name in other
    }


def _empty(field: Field) -> _Array:
    dtype = object if field.dtype in ("", "string") else dtypes.dtype(field.dtype).numpy
    return np.empty((0, *(field.shape or ())), dtype)


def _chosen(found: dict[str, Field], fields: Sequence[str], where: str) -> dict[str, Field]:
    for name in fields:
        if name not in found and found:
            raise no_field(name, list(found), where)
    return {name: found[name] for name in fields if name in found}
