"""Find items: files by paths and globs, all that lies below folders, objects below URLs.

A folder that is one checkpoint, one zarr store or one database is one item, and so is a file that
is kept in several: an index of shards, the first part of a split model.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase

from tensorkeep import formats
from tensorkeep.bulk.items import Item, Part, as_item, is_url, item_of, listed, part_of, path_of
from tensorkeep.database import Database
from tensorkeep.errors import (
    CorruptError,
    MissingError,
    StoreError,
    TensorKeepError,
    UnknownFormatError,
)
from tensorkeep.formats.table import endings
from tensorkeep.hidden import is_unfinished
from tensorkeep.store import Location
from tensorkeep.stores import locate
from tensorkeep.stores.object import ObjectStore

# Files that make the folder that they are in one state: checkpoints of ours, Orbax's and PyTorch's
# distributed ones, zarr, NNEF, SavedModel, LMDB, LevelDB and RocksDB.
_SIGNS = {
    *("MANIFEST.json", "_CHECKPOINT_METADATA", "_METADATA", ".metadata"),
    *("zarr.json", ".zgroup", ".zarray", ".zmetadata"),
    *("graph.nnef", "saved_model.pb", "saved_model.pbtxt", "data.mdb", "CURRENT"),
}
_INDEX = (".safetensors.index.json", ".bin.index.json", ".msgpack.index.json")
_SPLIT = re.compile(r"(.+)-([0-9]{5})-of-[0-9]{5}\.gguf")
_TABLE, _DATA = ".index", ".data-"
_NOTED = b'"tensorkeep"'  # in JSON that keeps tensors; other JSON is settings and vocabularies
_INDEX_LIMIT = 64 << 20


def find(paths: Iterable[str | os.PathLike[str]]) -> list[Item]:
    """List what paths, globs, folders and URLs mean, each item once, in their order.

    A path that names a file or one state is that; what is below a folder is what tensorkeep opens,
    without what is hidden. In object stores it is told by the names alone.

    Raises:
        MissingError: a glob matches nothing.
        StoreError: a folder or bucket cannot be listed.

    >>> import tempfile, numpy as np, tensorkeep as tk
    >>> folder = tempfile.mkdtemp()
    >>> tk.save({"w": np.ones(3)}, f"{folder}/a.npz")
    >>> [item.name for item in find([folder])]
    ['a.npz']
    """
    found: dict[str, Item] = {}
    for path in listed(paths):
        for item in _find(path_of(path)):
            found.setdefault(item.where, item)
    return list(found.values())


def matching(paths: Iterable[str]) -> list[Item]:
    """List what paths and globs name, without looking into folders.

    Raises:
        MissingError: a glob matches nothing.
    """
    found: dict[str, Item] = {}
    for path in listed(paths):
        literal = is_url(path) or os.path.lexists(path) or not _globs(path)
        for match in [path] if literal else _matches(path):
            found.setdefault(match, as_item(match))
    return list(found.values())


def means_many(path: str) -> bool:
    """Say whether a path stands for what is found by it rather than for one file or state."""
    if is_url(path):
        return path.endswith("/") or _globs(path)
    if not os.path.lexists(path):
        return _globs(path)
    if not os.path.isdir(path):
        return False
    if any(os.path.isfile(os.path.join(path, sign)) for sign in _SIGNS):
        return not _opens(path)  # one state, however many files are in it
    found = len(list(itertools.islice(_below(path), 2)))
    return found > 1 or (found == 1 and not _opens(path))


def _find(path: str) -> Iterator[Item]:
    if is_url(path):
        yield from _remote(path)
    elif not os.path.lexists(path) and _globs(path):
        yield from _matching(path)
    elif os.path.isdir(path):
        yield from _folder(path)
    else:
        yield as_item(path)


def _matching(path: str) -> Iterator[Item]:
    if "**" in path.split("/"):  # which glob would follow through links, in circles perhaps
        fixed = _fixed(path)
        items = list(_below(fixed, _pattern(path.removeprefix(fixed))))
        if not items:
            raise MissingError("nothing matches", where=path)
        yield from items
        return
    for match in _matches(path):
        yield from _folder(match) if os.path.isdir(match) else [as_item(match)]


def _matches(path: str) -> list[str]:
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise MissingError("nothing matches", where=path)
    return found


def _globs(path: str) -> bool:
    return glob.has_magic(path)


# --- folders ------------------------------------------------------------------------------------


def _folder(path: str) -> Iterator[Item]:
    items = list(_below(path))
    yield from items or [as_item(path)]  # of an empty one, the task says what is wrong


def _below(path: str, matches: Callable[[str], bool] = lambda key: True) -> Iterator[Item]:
    path = path or "."

    def read(key: str) -> bytes:
        with open(os.path.join(path, key), "rb") as file:
            return file.read(_INDEX_LIMIT)

    def opens(key: str) -> bool:
        return _opens(os.path.join(path, key))

    name = os.path.basename(os.path.abspath(path))
    files = [part for part in _listed(path) if matches(part.key)]
    for key, parts in _grouped(files, read):
        where = os.path.join("" if path == "." else path, key) if key else path
        if len(parts) > 1 or not key or os.path.isdir(where) or opens(key):
            yield item_of(where, key or name, parts)


def _listed(path: str) -> Iterator[Part]:
    """List all files below a folder, those of hidden folders left out."""

    def fail(error: OSError) -> None:
        if error.filename == path:
            raise StoreError(f"cannot be listed: {error.strerror}", where=path) from error

    for folder, folders, names in os.walk(path, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = "" if folder == path else os.path.relpath(folder, path).replace(os.sep, "/") + "/"
        for name in sorted(name for name in names if not is_unfinished(name)):
            with contextlib.suppress(OSError):  # a link to nothing, or gone by now
                yield part_of(below + name, os.stat(os.path.join(folder, name)))


def _opens(path: str) -> bool:
    """Say whether a path names what tensorkeep opens, or a damaged file of such a kind."""
    try:
        location = locate(path)
        try:
            if isinstance(location.store, Database):
                return True
            found = formats.detect(location)
            return found.name not in ("json", "architecture") or _NOTED in location.head
        except CorruptError:
            return _is_named(path) and not path.lower().endswith(".json")
        finally:
            location.close()
    except UnknownFormatError:
        return False
    except TensorKeepError:
        return not os.path.isdir(path) and _is_named(path)


def _is_named(key: str) -> bool:
    lower = key.lower()
    return any(lower.endswith(suffix) for suffix, _ in endings())


# --- object stores ------------------------------------------------------------------------------


def _remote(url: str) -> Iterator[Item]:
    fixed = _fixed(url) if _globs(url) else url
    if not fixed.endswith("/") and fixed == url:
        location = locate(url)
        if location.key:
            yield _object(url, location)
            return
    location = locate(fixed)
    store = location.store
    if not isinstance(store, ObjectStore) or not store.lists:
        raise StoreError("cannot be listed", where=url, cure="Name the files one by one.")
    parts = [Part(entry.key, entry.size, entry.etag) for entry in store.entries(location.key)]
    shown = [part for part in parts if not _is_hidden(part.key)]
    if fixed != url:
        matches = _pattern(url.removeprefix(fixed))
        shown = [part for part in shown if matches(part.key)]

    def read(key: str) -> bytes:
        source = store.get(key)
        try:
            return bytes(source.read(0, min(source.size, _INDEX_LIMIT)))
        finally:
            source.close()

    base = fixed.rstrip("/")
    items = []
    for key, files in _grouped(shown, read):
        sign = len(files) > 1 or not key or posixpath.basename(files[0].key) in _SIGNS
        if sign or (_is_named(key) and not key.lower().endswith(".json")):
            items.append(item_of(f"{base}/{key}" if key else base, key or "", files))
    if not items and fixed != url:
        raise MissingError("nothing matches", where=url)
    if not items:
        raise MissingError("nothing that can be opened lies below", where=url)
    yield from items


def _object(url: str, location: Location) -> Item:
    name = posixpath.basename(url)
    store = location.store
    with contextlib.suppress(TensorKeepError):  # which the task will meet, and tell
        entry = store.look(location.key) if isinstance(store, ObjectStore) else None
        if entry is not None:
            return item_of(url, name, [Part("", entry.size, entry.etag)])
    return Item(url, name)


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in posixpath.dirname(key).split("/"))


def _fixed(url: str) -> str:
    """Give what stands before the first part of an URL or path that has a wildcard.

    >>> _fixed("s3://bucket/run/*/a.npz"), _fixed("**/a.npz")
    ('s3://bucket/run/', '')
    """
    parts = url.split("/")
    first = next(number for number, part in enumerate(parts) if _globs(part))
    return "".join(f"{part}/" for part in parts[:first])


def _pattern(pattern: str) -> Callable[[str], bool]:
    """Give what matches keys as a glob does; `**` is any number of folders.

    >>> matches = _pattern("*/a-[0-9].npz")
    >>> matches("x/a-1.npz"), matches("x/y/a-1.npz"), _pattern("**/a.npz")("x/y/a.npz")
    (True, False, True)
    >>> _pattern("a?b")("a/b"), _pattern("a[.*]/**")("a*/b"), _pattern("a/a")("a")
    (False, True, False)
    """
    wanted = pattern.split("/")
    return lambda key: _fits(key.split("/"), wanted)


def _fits(parts: list[str], wanted: list[str]) -> bool:
    if not wanted:
        return True  # what lies below a folder that matches is part of it
    first, *rest = wanted
    if first == "**":
        while rest[:1] == ["**"]:
            rest.pop(0)
        return any(_fits(parts[skipped:], rest) for skipped in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], first) and _fits(parts[1:], rest)


def _parents(key: str) -> Iterator[str]:
    while key := posixpath.dirname(key):
        yield key


# --- both ---------------------------------------------------------------------------------------


def _grouped(parts: list[Part], read: Callable[[str], bytes]) -> Iterator[tuple[str, list[Part]]]:
    """Give the keys of what may be items, each with its files; "" for all that was listed."""
    parts = sorted(parts, key=lambda part: part.key)
    signed = {
        posixpath.dirname(part.key) for part in parts if posixpath.basename(part.key) in _SIGNS
    }
    files = {part.key: part for part in parts}
    wholes: dict[str, list[Part]] = {}
    order: list[str] = []
    for part in parts:
        whole = _topmost(part.key, signed)
        if whole is None:
            order.append(part.key)
            continue
        if whole not in wholes:
            order.append(whole)
        wholes.setdefault(whole, []).append(part)
    others = [key for key in order if key not in wholes]
    companions = _companions(others, read)
    owned = {key for keys in companions.values() for key in keys}
    for key in order:
        if key in wholes:
            yield key, wholes[key]
        elif key not in owned and not posixpath.basename(key).startswith("."):
            mine = [files[each] for each in companions.get(key, ()) if each in files]
            yield key, [files[key], *mine]


def _topmost(key: str, folders: set[str]) -> str | None:
    inside = [parent for parent in (*_parents(key), "") if parent in folders]
    return inside[-1] if inside else None


def _companions(keys: list[str], read: Callable[[str], bytes]) -> dict[str, list[str]]:
    """Give the files that belong to another: shards, further parts, data beside a table."""
    found: dict[str, list[str]] = {}
    there = set(keys)
    firsts: dict[str, str] = {}
    for key in keys:
        if key.endswith(_INDEX):
            folder = posixpath.dirname(key)
            shards = (posixpath.join(folder, name) for name in _shards(read, key))
            found[key] = [shard for shard in shards if shard in there]
        elif (split := _SPLIT.fullmatch(key)) and int(split[2]) == 1:
            firsts[split[1]] = key
    for key in keys:
        split = _SPLIT.fullmatch(key)
        if split and firsts.get(split[1], key) != key:
            found.setdefault(firsts[split[1]], []).append(key)
        table, data, _ = key.rpartition(_DATA)
        if data and table + _TABLE in there:
            found.setdefault(table + _TABLE, []).append(key)
    return found


def _shards(read: Callable[[str], bytes], index: str) -> list[str]:
    try:
        names = json.loads(read(index))["weight_map"].values()
        return sorted({name for name in names if isinstance(name, str)})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError):
        return []  # whoever opens it says what is wrong
