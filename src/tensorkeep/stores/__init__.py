"""Where bytes are kept: one file per store, one row here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tensorkeep.database import Database, Mode
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.store import Location, Store
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.leveldb import LeveldbDatabase
from tensorkeep.stores.lmdb import LmdbDatabase
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.stores.minidb import MinidbStore
from tensorkeep.stores.object import ObjectStore
from tensorkeep.stores.object.addresses import SCHEMES, parse_address, scheme_of
from tensorkeep.stores.protodb import ProtodbStore
from tensorkeep.stores.rocksdb import RocksdbDatabase
from tensorkeep.stores.sqlite import SqliteDatabase

STORES: dict[str, type[Store]] = {
    "file": FileStore,
    "leveldb": LeveldbDatabase,
    "lmdb": LmdbDatabase,
    "memory": MemoryStore,
    "minidb": MinidbStore,
    "object": ObjectStore,
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
    yet, by an ending such as .lmdb. An URL of a bucket (s3://, gs://, az://) or a web server means
    an object there, or all that lies below it: see `remote`.

    Raises:
        ArgumentError: an empty path, or an URL of a store that is not known.
        StoreError: what an URL means has to be looked up, and the store cannot be reached.

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
    if is_url(path):
        return remote(path)
    refuse_lost_slash(target)
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


def refuse_lost_slash(target: str | os.PathLike[str]) -> None:
    """Refuse an URL that was made a Path, which drops one of its slashes.

    Raises:
        ArgumentError: it is one.
    """
    if not isinstance(target, os.PathLike):
        return
    path = os.fsdecode(os.fspath(target))
    if is_url(path.replace(":/", "://", 1)):
        raise ArgumentError(
            f"{path!r} was an URL, before a Path dropped one of its slashes",
            cure='Give it as text, such as "s3://models/llama.safetensors".',
        )


def remote(url: str, **options: Any) -> Location:
    """Give an object, or all objects below an address, with options; it goes wherever a path does.

    What is not given comes from the usual places: variables such as AWS_PROFILE, AWS_REGION,
    AWS_ENDPOINT_URL, AZURE_STORAGE_ACCOUNT_NAME and GOOGLE_APPLICATION_CREDENTIALS, and AWS's files
    of profiles.

    Args:
        url: "s3://bucket/key", "gs://bucket/key", "az://container/key", "https://host/path". One
            that ends in a slash means all that lies below it, as does one whose name has no ending
            and below which there are objects.
        options: `region`, `endpoint`, `profile` (of AWS), `skip_signature` (True for public
            buckets), `credential_provider`, and all else that obstore takes for the store;
            `cache` (a folder that keeps what was read), `cache_size` (its bytes), `whole` (read all
            of a file at once, where a server gives no parts), `patience` (seconds that a request
            is tried, 60), `concurrency` (requests of one transfer at a time, 8), `client_options`
            and `retry_config` (of obstore).

    Raises:
        ArgumentError: it is no such address, or there is no such option.
        UnsafeError: it has parts such as "..".
        StoreError: what it means has to be looked up, and the store cannot be reached.

    >>> weights = remote("s3://models/llama.safetensors", region="eu-west-1", patience=10)
    >>> weights.where, weights.key
    ('s3://models/llama.safetensors', 'llama.safetensors')
    """
    if not isinstance(url, str):
        raise ArgumentError(
            f"an address of objects is a str, not {type(url).__name__}",
            cure='Such as "s3://models/llama.safetensors"; a Path drops one of the slashes.',
        )
    address = parse_address(url)
    whole = ObjectStore.at(address, options)
    if address.folder or not address.path:
        return Location(whole)
    folder, name = address.split()
    store = ObjectStore.at(folder, options)
    if "." in name or not store.lists or store.look(name) is not None:
        return Location(store, name)
    if any(True for _ in whole.keys()):
        return Location(whole)
    if match := _STEP.fullmatch(name):  # a step whose leading zeros were left out
        full = store.below(f"step-{int(match[1]):08}")
        if any(True for _ in full.keys()):
            return Location(full)
    return Location(store, name)


def is_url(path: str) -> bool:
    """Say whether a path is the URL of objects.

    >>> is_url("s3://models/llama.safetensors"), is_url("file:///tmp/a.npy"), is_url("a.npy")
    (True, False, False)
    """
    return scheme_of(path) in SCHEMES


def refuse_remote_database(location: Location) -> None:
    """Refuse a database among objects, which an engine could read from a disk alone.

    Raises:
        UnsupportedError: the name means one.
    """
    if isinstance(location.store, ObjectStore):
        ending = os.path.splitext(location.where.rstrip("/"))[1].lower()
        for kind in _RECOGNISED:
            if ending in kind.suffixes:
                raise _on_disks_alone(kind.kind, location.where)


def _on_disks_alone(kind: str, where: str) -> UnsupportedError:
    return UnsupportedError(
        f"is a database of {kind}, which is read and written on a disk alone",
        where=where,
        cure=f"Copy it here first, with `tensorkeep copy {where} FOLDER`.",
    )


def _scheme(path: str) -> tuple[type[Database] | None, str]:
    """Split what names a store off a path."""
    name, colon, rest = path.partition(":")
    if colon and name in DATABASES:
        if is_url(rest):
            raise _on_disks_alone(name, rest)
        return DATABASES[name], rest.removeprefix("//")
    scheme = re.match(r"([a-z][a-z0-9+]+)://", path)
    if scheme is None:
        return None, path
    if scheme[1] != "file":
        raise ArgumentError(
            f"no store is called {scheme[1]!r}",
            where=path,
            cure="URLs begin with s3://, gs://, az://, https://, http:// or file://; "
            "a Store of another kind is passed itself.",
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
