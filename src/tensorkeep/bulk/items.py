"""Item: what one task is about, and what tells whether it has changed since."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from xxhash import xxh3_128_hexdigest

from tensorkeep.errors import ArgumentError
from tensorkeep.stores import DATABASES, locate
from tensorkeep.stores.object import ObjectStore
from tensorkeep.stores.object.addresses import scheme_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """A file, folder or URL to work on.

    Args:
        where: its path or URL.
        name: its path below the folder, bucket or glob that it was found by.
        size: bytes; 0 where nobody has looked.
        mark: changes when it does, by lengths and times or ETags; empty where that is not known.
        target: what a task writes, where it writes anything.
    """

    where: str
    name: str = ""
    size: int = 0
    mark: str = ""
    target: str = ""

    @property
    def key(self) -> str:
        """What tells it from the others of a run."""
        return f"{self.where} -> {self.target}" if self.target else self.where

    def absolute(self) -> Item:
        """Give it as a process in another folder has to know it."""
        target = _absolute(self.target) if self.target else ""
        return replace(self, where=_absolute(self.where), target=target)


@dataclass(frozen=True, slots=True)
class Part:
    """A file of an item: its key, its bytes, what tells its versions apart."""

    key: str
    size: int
    mark: str


def is_url(path: str) -> bool:
    """Say whether a text names something in an object store.

    >>> is_url("s3://bucket/run/"), is_url("file:///tmp/a.npz"), is_url("lmdb:/tmp/a")
    (True, False, False)
    """
    return scheme_of(path) not in ("", "file", *DATABASES)


def as_item(given: Item | str | os.PathLike[str]) -> Item:
    """Look at what a path names; what is not there is an item as well, which its task will miss.

    Raises:
        ArgumentError: it is no path.
    """
    if isinstance(given, Item):
        return given
    path = path_of(given)
    name = os.path.basename(path.rstrip("/"))
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return Item(path, name)
    if stat.S_ISREG(info.st_mode):
        return item_of(path, name, [part_of("", info)])
    return Item(path, name)


def path_of(given: str | os.PathLike[str]) -> str:
    """Give a path as text.

    Raises:
        ArgumentError: it is no path.
    """
    try:
        return os.fsdecode(os.fspath(given))
    except TypeError:
        problem = f"an item is a path or an Item, not {type(given).__name__}"
        raise ArgumentError(problem) from None


def listed(given: Iterable[T]) -> list[T]:
    """Give all that there is to work on.

    Raises:
        ArgumentError: it is one thing, rather than several.
    """
    if isinstance(given, Item | str | bytes | os.PathLike) or not isinstance(given, Iterable):
        kind = type(given).__name__
        raise ArgumentError(f"several items are needed, not one {kind}", cure="Give a list.")
    return list(given)


def part_of(key: str, info: os.stat_result) -> Part:
    """Describe a file by what the filesystem says of it."""
    return Part(key, info.st_size, str(info.st_mtime_ns))


def item_of(where: str, name: str, parts: Iterable[Part]) -> Item:
    """Make an item of its files."""
    listed = sorted(parts, key=lambda part: part.key)
    told = [f"{part.key}:{part.size}:{part.mark}" for part in listed]
    known = all(part.mark for part in listed)
    text = "\n".join(told).encode("utf-8", "surrogateescape")
    mark = f"{listed[0].size}:{listed[0].mark}" if len(told) == 1 else xxh3_128_hexdigest(text)
    return Item(where, name, sum(part.size for part in listed), mark if known else "")


def modified(where: str) -> float | None:
    """Say when something was written last, in seconds since 1970; None where it is not there."""
    times: list[float] = []
    if is_url(where):
        location = locate(where)
        store = location.store
        if not isinstance(store, ObjectStore):
            return None
        if not location.key:
            return max((entry.modified for entry in store.entries()), default=None)
        looks = (store.look(key) for key in (location.key, f"{location.key}.index.json"))
        return max((entry.modified for entry in looks if entry is not None), default=None)
    for path in (where, f"{where}.index.json"):  # the second, where it is in shards
        with suppress(OSError, ValueError):
            times.append(os.stat(path).st_mtime)
            for folder, _, names in os.walk(path):
                times += [os.stat(os.path.join(folder, name)).st_mtime for name in names]
    return max(times, default=None)


def _absolute(path: str) -> str:
    return path if ":" in path.partition("/")[0] else os.path.abspath(path)
