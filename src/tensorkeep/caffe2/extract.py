"""Blobs out of the records of databases, whole, or one element or section of them.

Facts: caffe2/operators/load_save_op.h (extract, extractAll, extractFrom) and
load_save_op_util.cc (BuildBlobNameFromDbKey).
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from tensorkeep.caffe2.db import DB
from tensorkeep.caffe2.paths import recognise
from tensorkeep.caffe2.places import Place, places_of
from tensorkeep.caffe2.reader import DBReader
from tensorkeep.database import Database, key_bytes, key_text
from tensorkeep.dtypes import FLOAT32, DType
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, TensorKeepError
from tensorkeep.source import MemorySource, Source
from tensorkeep.stores import open_database
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.decode import Part, parse_part
from tensorkeep.wire.caffe2.sections import count_values
from tensorkeep.wire.caffe2.states import Assembly, blob_name_of
from tensorkeep.wire.caffe2.values import TENSOR, Blob, Device

_SKIPPED = 32 << 10  # bytes of records that are passed over before the next one is looked for
_RECORD = 1 << 10  # what passing over a record costs, as so many bytes
Records = Iterable[tuple[str, Source]] | Database | DBReader
Origin = Records | Iterable[tuple[str, Source | bytes]] | DB | str | os.PathLike[str]


def build_blob_name_from_db_key(
    key: str, strip_prefix: str = "", add_prefix: str = "", *, strict: bool = True
) -> str:
    """Tell the name of a blob from the key of its record.

    The chunk's index goes; then what stands before and in the first occurrence of `strip_prefix`;
    then `add_prefix` comes in front.

    Args:
        key: the key, such as "gpu_0/w#%0".
        strip_prefix: what goes; nothing where it does not occur.
        add_prefix: what comes.
        strict: cut at the last "#%" and digits; Caffe2, at the first "#%" in the name.

    >>> build_blob_name_from_db_key("gpu_0/w#%0", "gpu_0/", "loaded/")
    'loaded/w'
    >>> build_blob_name_from_db_key("a#%b#%0"), build_blob_name_from_db_key("a#%b#%0", strict=False)
    ('a#%b', 'a')
    """
    return _rename(blob_name_of(key, strict=strict), strip_prefix, add_prefix)


def strip(name: str, prefix: str) -> str:
    """Drop what stands before the first occurrence of a prefix, and the prefix.

    >>> strip("gpu_0/conv1_w", "gpu_0/"), strip("fc_w", "gpu_0/")
    ('conv1_w', 'fc_w')
    """
    _, found, rest = name.partition(prefix) if prefix else ("", "", name)
    return rest if found else name


def _rename(name: str, strip_prefix: str, add_prefix: str) -> str:
    return add_prefix + strip(name, strip_prefix)


class Extraction:
    """What is gathered from one or several databases in one go.

    Args:
        names: the blobs to take, as they are called with the prefixes applied; None for all.
        strip_prefix: as of `build_blob_name_from_db_key`.
        add_prefix: likewise.
        strict: refuse damage that Caffe2 did not notice.
        thorough: have the values that are varints counted at once, rather than when they are read.
    """

    def __init__(
        self,
        names: Collection[str] | None = None,
        *,
        strip_prefix: str = "",
        add_prefix: str = "",
        strict: bool = True,
        thorough: bool = False,
    ) -> None:
        if isinstance(names, str):
            raise ArgumentError("takes a list of names, not one", cure=f"Give [{names!r}].")
        self.names = None if names is None else dict.fromkeys(names)
        self.strip_prefix = strip_prefix
        self.add_prefix = add_prefix
        self.strict = strict
        self.thorough = thorough
        self.assembly = Assembly(strict=strict)
        self._db_of: dict[str, str] = {}
        self._whole: dict[str, Blob | None] = {}  # None: the assembly has its parts

    def take(self, records: Records, db: str) -> None:
        """Take what is wanted of the records of one database.

        A DBReader is left on the last record that was needed. Of other databases all keys are
        looked at where `strict` is set, so that a repeated or damaged record is found.

        Raises:
            CorruptError: a record is damaged, or a blob is in another database too.
        """
        if self.names is not None and not self.names:
            return
        names, whole = self.names, self._whole
        stops = names is not None and (isinstance(records, DBReader) or not self.strict)
        renamed = bool(self.strip_prefix or self.add_prefix)
        owners, states, strict = self._db_of, self.assembly.states, self.strict
        for key, source, start, stop, data in self._choose(records):
            # Nearly all keys of most files end so.
            name = key[:-3] if strict and key[-3:] == "#%0" else blob_name_of(key, strict=strict)
            if renamed:
                name = _rename(name, self.strip_prefix, self.add_prefix)
            if names is not None and name not in names:
                continue
            if owners.setdefault(name, db) is not db:
                raise CorruptError(
                    f"the blob {name!r} is in {owners[name]} as well",
                    where=db,
                    cure="Load from one of them, or load other names from each.",
                )
            part = parse_part(key, source, "", strict, start, stop, data)
            if whole.get(name) is not None:
                raise CorruptError(f"the blob {name!r} is there already", where=part.where)
            if part.head.offset >= 0 and name not in states:  # nearly all blobs of most files
                whole[name] = _tensor_blob(part)
            elif self._add(name, part):
                whole[name] = None
            else:
                continue
            if stops and names is not None and len(whole) == len(names):
                return

    def _add(self, name: str, part: Part) -> bool:
        if self.thorough:
            count_values(part)
        return self.assembly.add(name, part)

    def _choose(self, records: Records) -> Iterator[Place]:
        """Give the records that may be wanted: of a sorted database it is asked for them alone."""
        if isinstance(records, DBReader):
            return places_of(records.remaining())
        names = None if self.strip_prefix else self.names
        if isinstance(records, Database) and records.sorted and names is not None:
            return places_of(self._find(records, names))
        return places_of(records, strict=self.strict)

    def _find(self, database: Database, names: Iterable[str]) -> Iterator[tuple[str, Source]]:
        """Give the records of some names in one pass; where many others lie between, it skips."""
        prefix = self.add_prefix
        stored = {name[len(prefix) :] for name in names if name.startswith(prefix)}
        # The keys of a name are the name, and all that start with it and "#%".
        begins = sorted({key_bytes(name + end) for name in stored for end in ("", "#%")})
        at = 0
        while at < len(begins):
            skipped = 0
            for key, source in database.records(start=key_text(begins[at])):
                if _names_one(key, stored):
                    skipped = 0
                    yield key, source
                    continue
                skipped += _RECORD + source.size
                if skipped > _SKIPPED:
                    at = bisect_right(begins, key_bytes(key))
                    break
            else:
                return

    def __contains__(self, name: object) -> bool:
        return name in self._whole

    def validate(self) -> None:
        """Refuse blobs of which parts are missing.

        Raises:
            CorruptError: a chunk of a tensor is missing.
        """
        self.assembly.validate()

    def blobs(self, device: Device | None = None) -> dict[str, Blob]:
        """Give the whole blobs; on `device`, or where they were saved from.

        Raises:
            CorruptError: the bytes of one are not what its kind needs.
        """
        result = self.assembly.result
        return _placed({name: blob or result(name) for name, blob in self._whole.items()}, device)

    def rescued(self, device: Device | None = None) -> dict[str, Blob]:
        """Give what can be had of every blob; to read what is missing of a tensor is an error."""
        blobs = {name: blob for name, blob in self._whole.items() if blob is not None}
        for name in self.assembly:
            with suppress(TensorKeepError):
                blobs[name] = self.assembly.result(name, partial=True)
        return _placed(blobs, device)


def _names_one(key: str, stored: Collection[str]) -> bool:
    """Say whether a key is one of the names, or one of them with "#%" and more."""
    if key in stored:
        return True
    end = key.rfind("#%")
    while end >= 0:
        if key[:end] in stored:
            return True
        end = key.rfind("#%", 0, end + 1)
    return False


def _tensor_blob(part: Part) -> Blob:
    """Give the tensor of a part that is all of it and needs no decoding."""
    head = part.head
    kind: DType = head.dtype or FLOAT32
    tensor = Tensor(
        kind, head.shape, part.source, part.start + head.offset, kind.nbytes(head.count)
    )
    return Blob(TENSOR, tensor, head.device)


def _placed(blobs: dict[str, Blob], device: Device | None) -> dict[str, Blob]:
    if device is not None:
        for blob in blobs.values():
            blob.device = device
    return blobs


def extract(
    records: Origin,
    names: Collection[str] | None = None,
    *,
    strip_prefix: str = "",
    add_prefix: str = "",
    device: Device | None = None,
    section: Mapping[str, Any] | None = None,
    strict: bool = True,
) -> dict[str, Blob]:
    """Read blobs of a database: all of them, or those that are named.

    Args:
        records: a path, a database, a DBReader, or pairs of keys and sources or bytes.
        names: the blobs to read, with the prefixes applied; None for all.
        strip_prefix: what goes from the start of stored names.
        add_prefix: what comes in front of them.
        device: where the blobs are said to live; None keeps what was saved.
        section: by name, an index that takes part of a tensor, such as `np.s_[3:5]`; only what
            it needs of the tensor is read.
        strict: refuse damage that Caffe2 did not notice.

    Raises:
        CorruptError: a record or blob is damaged, or part of it is missing.
        MissingError: a name, or one in `section`, is not there.
        ArgumentError: an index that does not fit the tensor.

    >>> import tempfile
    >>> import numpy as np
    >>> from tensorkeep.caffe2 import save
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save({"w": np.arange(12.0).reshape(4, 3), "s": b"text"}, f"{folder}/x.minidb")
    ...     part = extract(f"{folder}/x.minidb", ["w"], section={"w": np.s_[1:3, 0]})
    ...     part["w"].value.numpy().tolist()
    [3.0, 6.0]
    """
    extraction = Extraction(names, strip_prefix=strip_prefix, add_prefix=add_prefix, strict=strict)
    if isinstance(records, DB):
        records = records.database
    if isinstance(records, str | os.PathLike):
        path = os.fspath(records)
        with open_database(recognise(path), path, "read") as database:
            return _run(extraction, database, device, section)
    if not isinstance(records, Database | DBReader):
        records = _sources(records)
    return _run(extraction, records, device, section)


def _sources(pairs: Iterable[tuple[str, Source | bytes]]) -> Iterator[tuple[str, Source]]:
    for key, value in pairs:
        yield key, value if isinstance(value, Source) else MemorySource(value, repr(key))


def extract_all(records: Origin, **options: Any) -> dict[str, Blob]:
    """Read every blob; the options are those of `extract`.

    Raises:
        ArgumentError: names are given.

    >>> from tensorkeep.caffe2 import serialize_blob
    >>> extract_all([("s", serialize_blob("s", "text"))])["s"].value
    b'text'
    """
    if "names" in options:
        raise ArgumentError("every blob is read; names were given", cure="Use extract_from.")
    return extract(records, None, **options)


def extract_from(records: Origin, names: Collection[str], **options: Any) -> dict[str, Blob]:
    """Read the blobs that are named; the options are those of `extract`.

    >>> from tensorkeep.caffe2 import serialize_blob
    >>> records = [(name, serialize_blob(name, name)) for name in "abc"]
    >>> list(extract_from(records, ["b"], add_prefix="new/"))
    Traceback (most recent call last):
    tensorkeep.errors.MissingError: records: there is no blob 'b'
    >>> list(extract_from(records, ["new/b"], add_prefix="new/"))
    ['new/b']
    """
    return extract(records, names, **options)


def _run(
    extraction: Extraction,
    records: Records,
    device: Device | None,
    section: Mapping[str, Any] | None,
) -> dict[str, Blob]:
    where = "records"
    if isinstance(records, Database | DBReader):
        where = records.where if isinstance(records, Database) else records.source
    extraction.take(records, where)
    extraction.validate()
    blobs = extraction.blobs(device)
    for name in (*(extraction.names or ()), *(section or ())):
        if name not in blobs:
            raise MissingError(f"there is no blob {name!r}", where=where)
    for name, index in (section or {}).items():
        blob = blobs[name]
        if not isinstance(blob.value, Tensor):
            raise ArgumentError(f"the blob {name!r} is a {blob.kind}, which has no sections")
        blobs[name] = Blob(blob.kind, Tensor.of(blob.value[index]), blob.device)
    return blobs
