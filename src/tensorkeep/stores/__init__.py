"""Where bytes are kept: one file per store, one row here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tensorkeep.database import Database, Mode
from tensorkeep.errors import ArgumentError
from tensorkeep.store import Location, Store
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.leveldb import LeveldbDatabase
from tensorkeep.stores.lmdb import LmdbDatabase
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.stores.minidb import MinidbStore
from tensorkeep.stores.protodb import ProtodbStore
from tensorkeep.stores.rocksdb import RocksdbDatabase
from tensorkeep.stores.sqlite import SqliteDatabase

STORES: dict[str, type[Store]] = {
    "file": FileStore,
    "leveldb": LeveldbDatabase,
    "lmdb": LmdbDatabase,
    "memory": MemoryStore,
    "minidb": MinidbStore,
    "rocksdb": RocksdbDatabase,
    "sqlite": SqliteDatabase,
}

# Caffe2's names of db types, and ours.
DATABASES: dict[str, type[Database]] = {
    "LMDB": LmdbDatabase,
    "LevelDB": LeveldbDatabase,
    "MiniDB": MinidbStore,
    "ProtoDB": ProtodbStore,
    "RocksDB": RocksdbDatabase,
    "leveldb": LeveldbDatabase,
    "lmdb": LmdbDatabase,
    "minidb": MinidbStore,
    "protodb": ProtodbStore,  # which keeps TensorProtos only, and so is no store for anything
    "rocksdb": RocksdbDatabase,
    "sqlite": SqliteDatabase,
}

# Those that a plain path means. Files of minidb and protodb are read as any other file is: a format
# knows their bytes.
_RECOGNISED: tuple[type[Database], ...] = (
    LmdbDatabase,
    LeveldbDatabase,
    RocksdbDatabase,
    SqliteDatabase,
)

_STEP = re.compile(r"step-([0-9]{1,18})")

Target = str | os.PathLike[str] | Location | Store


def open_database(
    db_type: str, path: str | os.PathLike[str], mode: Mode = "read", **options: Any
) -> Database:
    """Open a database by the name that Caffe2 gives its type.

    Args:
        db_type: one of `DATABASES`, such as "minidb" or "lmdb".
        path: its file or folder.
        mode: "read", "write" or "new".
        options: what the engine takes.

    Raises:
        ArgumentError: there is no such type.
        MissingError: there is nothing to read.
        StoreError: it cannot be opened.

    >>> import tempfile
    >>> with open_database("sqlite", f"{tempfile.mkdtemp()}/weights.sqlite", "new") as database:
    ...     database.put("w", [b"1234"])
    ...     database.commit()
    ...     list(database.keys())
    ['w']
    """
    if db_type not in DATABASES:
        raise ArgumentError(
            f"there is no db_type {db_type!r}", cure=f"Use one of {', '.join(DATABASES)}."
        )
    return DATABASES[db_type](path, mode, **options)


def locate(target: Target) -> Location:
    """Find the store and key that a path, an URL, a Store or a Location means.

    A database is named by a path to it, by `lmdb:PATH` and the like, or, where there is nothing
    yet, by an ending such as .lmdb.

    Raises:
        ArgumentError: an empty path, or an URL of a store that is not known.

    >>> locate("runs/model.safetensors").key
    'model.safetensors'
    >>> locate("lmdb:/tmp/new").store.kind
    'lmdb'
    """
    if isinstance(target, Location):
        return Location(target.store, target.key)  # of which the caller may have opened another
    if isinstance(target, Store):
        return Location(target)
    try:
        path = os.fsdecode(os.fspath(target))
    except TypeError:
        raise ArgumentError(
            f"a path, a Location or a Store is needed, not {type(target).__name__}",
            cure='Give the path as text, such as "model.safetensors".',
        ) from None
    kind, path = _scheme(path)
    if not path or "\0" in path:
        raise ArgumentError(f"{path!r} is not a path", cure="Give the name of a file or folder.")
    if kind is None:
        path = _with_zeros(path)
    kind = kind or _database_at(path)
    if kind is not None:
        return Location(kind(path, "write" if _is_new(path) else "read"))
    if os.path.isdir(path):
        return Location(FileStore(path))
    folder, name = os.path.split(path)
    if not name:
        return Location(FileStore(folder))
    return Location(FileStore(Path(folder) if folder else ".", named=name), name)


def _scheme(path: str) -> tuple[type[Database] | None, str]:
    """Split what names a store off a path."""
    name, colon, rest = path.partition(":")
    if colon and name in DATABASES:
        return DATABASES[name], rest.removeprefix("//")
    scheme = re.match(r"([a-z][a-z0-9+]+)://", path)
    if scheme is None:
        return None, path
    if scheme[1] != "file":
        raise ArgumentError(
            f"no store is called {scheme[1]!r}",
            where=path,
            cure="Only file:// is known as an URL; a Store of another kind is passed itself.",
        )
    return None, unquote(path[len("file://") :].removeprefix("localhost"))


def _with_zeros(path: str) -> str:
    """Give the checkpoint's folder that a path means whose step lacks the leading zeros."""
    folder, name = os.path.split(path.rstrip("/"))
    match = _STEP.fullmatch(name)
    if match is None or os.path.lexists(path):
        return path
    full = os.path.join(folder, f"step-{int(match[1]):08}")
    return full if os.path.isdir(full) else path


def _database_at(path: str) -> type[Database] | None:
    """Give the database that is at a path, or that its ending means."""
    for kind in _RECOGNISED:
        if kind.recognises(path):
            return kind
    ending = os.path.splitext(path.rstrip("/"))[1].lower()
    named: tuple[type[Database], ...] = (*_RECOGNISED, ProtodbStore)
    return next((kind for kind in named if ending in kind.suffixes), None)


def _is_new(path: str) -> bool:
    return not os.path.exists(path) or (os.path.isdir(path) and not os.listdir(path))
