"""What samples are written to, by the ending of a path or by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tensorkeep import formats
from tensorkeep.data.dataset import Field
from tensorkeep.data.writing.columns import ColumnsWriter
from tensorkeep.data.writing.databases import DatabaseWriter
from tensorkeep.data.writing.tar import TarWriter
from tensorkeep.data.writing.writer import Writer
from tensorkeep.errors import ArgumentError
from tensorkeep.formats.table import WRITTEN, endings
from tensorkeep.store import Location
from tensorkeep.stores import DATABASES
from tensorkeep.stores.memory import MemoryStore

_TAR = "tar"
_DATABASES = {name: DATABASES[name] for name in ("leveldb", "lmdb", "minidb", "rocksdb", "sqlite")}


def kind_of(path: str, format: str | None) -> str:
    """Give the name of the kind that a path's ending, or `format`, means.

    Raises:
        ArgumentError: it means none.

    >>> kind_of("train.tar", None), kind_of("train.lmdb", None), kind_of("train.h5", None)
    ('tar', 'lmdb', 'hdf5')
    """
    if format is not None:
        if format == _TAR or format in _DATABASES or format in WRITTEN:
            return format
        raise ArgumentError(
            f"there is no format {format!r} for samples", cure=f"Use one of {_known()}."
        )
    name = os.path.basename(path).lower()
    if name.endswith(".tar") and not name.endswith(".nnef.tar"):
        return _TAR
    for kind, database in _DATABASES.items():
        if name.endswith(database.suffixes):
            return kind
    # The table first: to name all formats in a message takes a while.
    if any(name.endswith(ending) for ending, _ in endings()):
        found = formats.for_writing(Location(MemoryStore(), name)).name
        if found in WRITTEN:
            return found
    raise ArgumentError(
        "the name's ending does not tell what to write samples to",
        where=path,
        cure=f"End it in .tar, .lmdb or .safetensors, or say format=...: {_known()}.",
    )


def make_writer(
    kind: str, fields: Mapping[str, Field], *, durable: bool, options: Mapping[str, Any]
) -> Writer:
    """Make what writes samples.

    Args:
        kind: as `kind_of` gives it.
        fields: what is known of the fields.
        durable: have files on the disk when they are finished.
        options: of the kind.

    Raises:
        ArgumentError: it has no such option.
    """
    if kind == _TAR:
        for option in options:
            if option != "endings":
                raise ArgumentError(f"tar has no option {option!r}", cure="It has endings.")
        return TarWriter(fields, durable=durable, **options)
    if kind in _DATABASES:
        return DatabaseWriter(_DATABASES[kind], fields, durable=durable, **options)
    return ColumnsWriter(formats.by_name(kind), fields, durable=durable, **options)


def _known() -> str:
    return ", ".join((_TAR, *_DATABASES, *WRITTEN))
