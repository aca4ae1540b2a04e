"""Shards of WebDataset: tar archives whose members are the fields of samples.

    0017.image.npy   0017.cls         ->  sample 17: {"image": array, "cls": 3}
    0018.image.npy   0018.cls

Samples are read at random from the archive as it lies: members are not compressed, so that knowing
where they are is enough, and nothing is unpacked. `tensorkeep.data.members` says what makes a
sample, `tensorkeep.data.decoding` what its fields become. Fields of .npy files that all have the
same header are batches in one copy from the map, and whole numbers are kept with the index.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from tensorkeep.data import fingerprint, index
from tensorkeep.data.dataset import Batch, Dataset, Field, Rows, Sample
from tensorkeep.data.decoding import array_names, decode_array_of, decoder
from tensorkeep.data.members import Members, is_sound, members_of, read_members
from tensorkeep.data.ranges import gather, joined, view_of
from tensorkeep.data.sources.chosen import no_field
from tensorkeep.data.stacking import stack
from tensorkeep.errors import (
    ArgumentError,
    MissingError,
    TensorKeepError,
    UnknownFormatError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.source import FileSource, Source
from tensorkeep.wire.npy import Header, read_header
from tensorkeep.wire.tar import BLOCK, SIGN, looks_like_tar

_SUFFIX = ".tar"
_PACKED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}
_PACKED_ENDINGS = (".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_LOOKED_AT = 64  # samples whose bytes are part of the digest
_PIECE = 64 << 10  # bytes of each that are


def recognises(path: str | os.PathLike[str]) -> bool:
    """Say whether a path is a tar archive, or one that was compressed.

    >>> recognises("no-such-file.tar")
    False
    """
    name = os.fspath(path)
    try:
        if not os.path.isfile(name):
            return False
        with open(name, "rb") as file:
            head = file.read(BLOCK)
    except (OSError, ValueError):
        return False
    if looks_like_tar(head) or head[SIGN] == b"ustar":
        return True
    lower = name.lower()
    if lower.endswith(_SUFFIX):
        return not head.strip(b"\0")  # of no members
    return lower.endswith(_PACKED_ENDINGS) and _packed_by(head) is not None


def open_tar(path: str | os.PathLike[str], fields: Sequence[str] | None = None) -> TarDataset:
    """Open a shard; only these of its fields, where they are named.

    Raises:
        CorruptError: it is damaged or cut short.
        MissingError: there is no such file or field, or a sample lacks a field.
        UnsupportedError: it is compressed.
    """
    return TarDataset(path, fields)


class TarDataset(Dataset):
    """The samples of a tar archive.

    Args:
        path: of the archive.
        fields: which to read; all where None.
    """

    def __init__(self, path: str | os.PathLike[str], fields: Sequence[str] | None = None) -> None:
        name = os.path.abspath(os.fspath(path))
        self._source: Source = FileSource(name)
        try:
            self._members = _find_members(name, self._source)
            self._columns = _columns(self._members, self._source, fields)
        except BaseException:
            self._source.close()
            raise
        self._opened = (name, None if fields is None else tuple(fields))
        known = {field: column.field for field, column in self._columns.items()}
        super().__init__(len(self._members), known, where=name, kind="tar")

    def __reduce__(self) -> tuple[object, ...]:
        return open_tar, self._opened

    def gather(self, rows: Rows) -> Batch:
        names = _Names(self, rows)
        return {field: column.batch(rows, names, field) for field, column in self._columns.items()}

    def samples(self, rows: Rows) -> list[Sample]:
        names = _Names(self, rows)
        columns = [column.values(rows, names, field) for field, column in self._columns.items()]
        rows_of_values = zip(*columns, strict=True)
        return [dict(zip(self._columns, values, strict=True)) for values in rows_of_values]

    def name(self, row: int) -> str:
        return f"sample {row} ({self._members.key(row)[:60]!r})"

    def close(self) -> None:
        super().close()
        self._source.close()

    def _digest(self) -> str:
        count = len(self)
        looked_at = sorted(set(np.linspace(0, max(count - 1, 0), _LOOKED_AT).astype(int).tolist()))
        parts: list[str | bytes | int] = ["tar", count, _hashed(self._members.keys)]
        parts.append(_hashed(self._members.stops))
        for field, column in self._columns.items():
            parts += [field, str(self.fields[field]), _hashed(column.sizes)]
            for row in looked_at if count else ():
                start = int(column.starts[row])
                stop = start + min(int(column.sizes[row]), _PIECE)
                parts.append(xxhash.xxh3_128_digest(self._source.read(start, stop)))
        return fingerprint.combine(*parts)


def _hashed(numbers: npt.NDArray[Any]) -> bytes:
    return xxhash.xxh3_128_digest(np.ascontiguousarray(numbers).view(np.uint8).data)


def _packed_by(head: bytes) -> tuple[str, str] | None:
    return next((by for sign, by in _PACKED.items() if head.startswith(sign)), None)


def _find_members(path: str, source: Source) -> Members:
    head = bytes(source.read(0, min(BLOCK, source.size)))
    if by := _packed_by(head):
        raise UnsupportedError(
            f"is compressed by {by[0]}, and so can be read from its start only",
            where=path,
            cure=f"Unpack it: {by[1]} {os.path.basename(path)}",
        )
    if not looks_like_tar(head) and head[SIGN] != b"ustar" and head.strip(b"\0"):
        raise UnknownFormatError("is no tar archive: it starts with no header of one", where=path)
    found = index.find(
        path,
        "tar",
        fingerprint.sampled(source).hex(),
        lambda: read_members(source).index(),
        lambda kept: is_sound(kept, source.size),
    )
    return members_of(found)


# --- fields -----------------------------------------------------------------------------------


class _Names:
    """What messages call some samples, found out when one is needed."""

    def __init__(self, dataset: Dataset, rows: Rows) -> None:
        self.where = dataset.where
        self._dataset = dataset
        self._rows = rows

    def all(self) -> list[str]:
        return [self._dataset.name(row) for row in self._rows.tolist()]

    def place(self, at: int, field: str) -> str:
        return f"{self.where}: {self._dataset.name(int(self._rows[at]))}, field {field!r}"


class _Column(ABC):
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
    def batch(self, rows: Rows, names: _Names, field: str) -> npt.NDArray[Any]: ...

    def values(self, rows: Rows, names: _Names, field: str) -> list[Any]:
        return list(self.batch(rows, names, field))


class _Numbers(_Column):
    """Whole numbers, which the index holds."""

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.int64],
    ) -> None:
        super().__init__(Field("int64", ()), starts, sizes)
        self._numbers = numbers

    def batch(self, rows: Rows, names: _Names, field: str) -> npt.NDArray[Any]:
        return self._numbers[rows]


class _Arrays(_Column):
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

    def batch(self, rows: Rows, names: _Names, field: str) -> npt.NDArray[Any]:
        source, header = self._source, self._header
        starts = self.starts[rows] + header.length
        if not source.mapped:
            data, _ = joined(source, starts, np.full(len(rows), header.nbytes))
        elif header.nbytes:
            data = gather(view_of(source), starts, header.nbytes)
        else:
            data = np.empty(0, np.uint8)
        return data.reshape(-1).view(header.numpy).reshape(len(rows), *header.shape)


class _Decoded(_Column):
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

    def batch(self, rows: Rows, names: _Names, field: str) -> npt.NDArray[Any]:
        values = self.values(rows, names, field)
        if not values or any(isinstance(v, dict | list) or v is None for v in values):
            column = np.empty(len(values), object)  # JSON
            for at, value in enumerate(values):
                column[at] = value
            return column
        return stack([{field: value} for value in values], names.all(), names.where)[field]

    def values(self, rows: Rows, names: _Names, field: str) -> list[Any]:
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


def _columns(found: Members, source: Source, fields: Sequence[str] | None) -> dict[str, _Column]:
    """Make what reads each field."""
    if isinstance(fields, str) or (fields is not None and not len(fields)):
        raise ArgumentError(f"fields is a list of names, not {fields!r}", where=source.where)
    columns: dict[str, _Column] = {}
    for field, suffix in found.fields.items():
        if fields is not None and not any(
            name == field or name.startswith(f"{field}.") for name in fields
        ):
            continue
        samples, chosen = found.places(suffix)
        if len(samples) != len(found):
            raise _lacking(found, field, samples, source.where)
        starts, sizes = found.starts[chosen], found.sizes[chosen]
        ending = suffix.rpartition(".")[2]
        if suffix in found.numbers:
            columns[field] = _Numbers(starts, sizes, found.numbers[suffix])
        elif header := _shared_header(found, suffix, starts, sizes, source):
            columns[field] = _Arrays(starts, sizes, source, header)
        elif ending == "npz":
            data = source.read(int(starts[0]), int(starts[0] + sizes[0]))
            called = f"{source.where}: sample 0 ({found.key(0)[:60]!r}), field {field!r}"
            for name in array_names(data, called):
                decode = partial(_decode_named, name)
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
    columns: Mapping[str, _Column], fields: Sequence[str], there: list[str], where: str
) -> dict[str, _Column]:
    """Pick fields in the order asked for; the name of a .npz file means all of its arrays."""
    chosen: dict[str, _Column] = {}
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


__all__ = ["TarDataset", "open_tar", "recognises"]
