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
import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from tensorkeep.data import fingerprint, index
from tensorkeep.data.dataset import Batch, Dataset, Lying, Rows, Sample
from tensorkeep.data.members import Members, is_sound, members_of, read_members
from tensorkeep.data.sources.tar_fields import Names, columns_of
from tensorkeep.errors import UnknownFormatError, UnsupportedError
from tensorkeep.source import FileSource
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
_KEPT = 4 << 20  # members whose places are remembered, at some 40 bytes each


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
        self._source = FileSource(name)
        try:
            self._members = _find_members(name, self._source)
            self._columns = columns_of(self._members, self._source, fields)
        except BaseException:
            self._source.close()
            raise
        self._opened = (name, None if fields is None else tuple(fields))
        known = {field: column.field for field, column in self._columns.items()}
        super().__init__(len(self._members), known, where=name, kind="tar")

    def __reduce__(self) -> tuple[object, ...]:
        return open_tar, self._opened

    def gather(self, rows: Rows) -> Batch:
        return self.some(rows, self._columns)

    def some(self, rows: Rows, names: Collection[str]) -> Batch:
        called = Names(self, rows)
        return {field: self._columns[field].batch(rows, called, field) for field in names}

    def lying(self, rows: Rows) -> dict[str, Lying]:
        found = {field: column.lying(rows) for field, column in self._columns.items()}
        return {field: lying for field, lying in found.items() if lying is not None}

    def samples(self, rows: Rows) -> list[Sample]:
        names = Names(self, rows)
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


def _find_members(path: str, source: FileSource) -> Members:
    head = bytes(source.read(0, min(BLOCK, source.size)))
    if by := _packed_by(head):
        raise UnsupportedError(
            f"is compressed by {by[0]}, and so can be read from its start only",
            where=path,
            cure=f"Unpack it: {by[1]} {os.path.basename(path)}",
        )
    if not looks_like_tar(head) and head[SIGN] != b"ustar" and head.strip(b"\0"):
        raise UnknownFormatError("is no tar archive: it starts with no header of one", where=path)
    info = source.info()
    state = (path, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
    found = _KNOWN.find(state)
    if found is None:
        kept = index.find(
            path,
            "tar",
            fingerprint.sampled(source).hex(),
            lambda: read_members(source).index(),
            lambda kept: is_sound(kept, source.size),
        )
        found = members_of(kept)
        _KNOWN.keep(state, found)
    return found


class _Known:
    """Where the members of archives lie that were opened before in this process.

    Of a thousand shards that are one dataset only some are open at once; those that are opened
    again and again are not walked over each time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[object, ...], Members] = OrderedDict()
        self._count = 0

    def find(self, state: tuple[object, ...]) -> Members | None:
        with self._lock:
            found = self._found.get(state)
            if found is not None:
                self._found.move_to_end(state)
            return found

    def keep(self, state: tuple[object, ...], found: Members) -> None:
        with self._lock:
            if state not in self._found:
                self._found[state] = found
                self._count += len(found.starts)
            while self._count > _KEPT:
                self._count -= len(self._found.popitem(last=False)[1].starts)


_KNOWN = _Known()


__all__ = ["TarDataset", "open_tar", "recognises"]
