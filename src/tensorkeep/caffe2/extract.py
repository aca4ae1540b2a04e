"""Blobs out of the records of databases, whole, or one element or section of them.

Facts: caffe2/operators/load_save_op.h (extract, extractAll, extractFrom) and
load_save_op_util.cc (BuildBlobNameFromDbKey).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from tensorkeep.caffe2.paths import recognise
from tensorkeep.caffe2.places import Place, places_of
from tensorkeep.caffe2.reader import DBReader
from tensorkeep.database import Database
from tensorkeep.dtypes import FLOAT32, DType
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, TensorKeepError
from tensorkeep.source import Source
from tensorkeep.stores import open_database
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.decode import Part, parse_part
from tensorkeep.wire.caffe2.sections import count_values
from tensorkeep.wire.caffe2.states import Assembly, blob_name_of
from tensorkeep.wire.caffe2.values import TENSOR, Blob, Device

Records = Iterable[tuple[str, Source]] | Database | DBReader
Origin = Records | str | os.PathLike[str]


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
        for name in names:
            if not name.startswith(self.add_prefix):
                continue
            stored = name[len(self.add_prefix) :]
            for key, source in database.records(stored):
                if key == stored or key.startswith(f"{stored}#%"):
                    yield key, source
                elif key > f"{stored}#%\U0010ffff":
                    break

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
        records: a path, a database, a DBReader, or pairs of keys and sources.
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
    if isinstance(records, str | os.PathLike):
        path = os.fspath(records)
        with open_database(recognise(path), path, "read") as database:
            return _run(extraction, database, device, section)
    return _run(extraction, records, device, section)


def extract_all(records: Origin, **options: Any) -> dict[str, Blob]:
    """Read every blob; the options are those of `extract`."""
    return extract(records, None, **options)


def extract_from(records: Origin, names: Collection[str], **options: Any) -> dict[str, Blob]:
    """Read the blobs that are named; the options are those of `extract`."""
    return extract(records, names, **options)


def _run(
    extraction: Extraction,
    records: Records,
    device: Device | None,
    section: Mapping[str, Any] | None,
) -> dict[str, Blob]:
    where = records.where if isinstance(records, Database) else str(records)
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
