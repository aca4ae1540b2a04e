"""What objects there are below a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tensorkeep.stores.object.connection import Connection
from tensorkeep.stores.object.failures import again

PAGE = 1000  # objects that one request lists


@dataclass(frozen=True, slots=True)
class Entry:
    """An object: its key, its bytes, what tells its versions apart, when it was written."""

    key: str
    size: int
    etag: str
    modified: float  # seconds since 1970, by the clock of the store


def entry_of(connection: Connection, meta: Any, key: str) -> Entry:
    """Take what obstore tells of an object."""
    etag = meta["e_tag"] or ""
    if connection.address.scheme == "gs":
        etag = meta.get("version") or etag
    elif etag and not etag.endswith('"'):  # Azure's, in a list
        etag = f'"{etag}"'
    return Entry(key, meta["size"], etag, meta["last_modified"].timestamp())


def list_entries(connection: Connection, home: str, prefix: str) -> Iterator[Entry]:
    """List objects whose keys, below `home`, start with `prefix`, in the order of their keys."""
    entries = _without_marks(_found(connection, home, home + prefix))
    if _in_order(connection):
        yield from entries
    else:
        yield from sorted(entries, key=lambda entry: entry.key)


def _in_order(connection: Connection) -> bool:
    return not connection.address.root.endswith("--x-s3")  # but for directory buckets


def _found(connection: Connection, home: str, full: str) -> Iterator[Entry]:
    """Ask for the objects of a folder, from shortly before a prefix until behind it.

    obstore knows prefixes of whole parts of keys alone.
    """
    folder = full.rpartition("/")[0]
    in_order = _in_order(connection)
    offset = _before(full) if in_order and not full.endswith("/") else None
    for page in _pages(connection, folder or None, offset):
        for meta in page:
            path = meta["path"]
            if path.startswith(full):
                yield entry_of(connection, meta, path[len(home) :])
            elif in_order and path > full:
                return


def _pages(connection: Connection, folder: str | None, offset: str | None) -> Iterator[Any]:
    """Ask for page after page; an answer that breaks off is asked for again, from its start on."""
    pages = iter(connection.store.list(folder, offset=offset, chunk_size=PAGE))
    last = offset

    def following() -> Any:
        nonlocal pages
        try:
            return next(pages, None)
        except Exception:
            if last == offset or _in_order(connection):
                pages = iter(connection.store.list(folder, offset=last, chunk_size=PAGE))
            raise

    while (page := again(following, connection.patience)) is not None:
        yield page
        last = page[-1]["path"] if len(page) else last


def _without_marks(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Leave out the objects of no bytes before those below them: so consoles mark a folder."""
    empty: Entry | None = None
    for entry in entries:
        if empty is not None and not entry.key.startswith(f"{empty.key}/"):
            yield empty
        empty = None if entry.size else entry
        if empty is None:
            yield entry
    if empty is not None:
        yield empty


def _before(full: str) -> str | None:
    """Give text that sorts before a prefix, with little in between."""
    if not full:
        return None
    last = ord(full[-1])
    if last <= 33 or last == 0xE000:  # before which there are control characters and surrogates
        return full[:-1] or None
    return full[:-1] + chr(last - 1)


def list_folders(connection: Connection, prefix: str) -> list[str]:
    """List the names right below a prefix that have objects below them."""
    ask = partial(connection.store.list_with_delimiter, prefix.rstrip("/") or None)
    found = again(ask, connection.patience)
    return [path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"]]
