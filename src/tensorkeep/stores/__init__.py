"""Where bytes are kept: one file per store, one row here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from tensorkeep.errors import ArgumentError
from tensorkeep.store import Location, Store
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.memory import MemoryStore

STORES: dict[str, type[Store]] = {
    "file": FileStore,
    "memory": MemoryStore,
}

Target = str | os.PathLike[str] | Location | Store


def locate(target: Target) -> Location:
    """Find the store and key that a path, an URL, a Store or a Location means.

    Raises:
        ArgumentError: an empty path, or an URL of a store that is not known.

    >>> locate("runs/model.safetensors").key
    'model.safetensors'
    """
    if isinstance(target, Location):
        return target
    if isinstance(target, Store):
        return Location(target)
    try:
        path = os.fsdecode(os.fspath(target))
    except TypeError:
        raise ArgumentError(
            f"a path, a Location or a Store is needed, not {type(target).__name__}",
            cure='Give the path as text, such as "model.safetensors".',
        ) from None
    if not path or "\0" in path:
        raise ArgumentError(f"{path!r} is not a path", cure="Give the name of a file or folder.")
    if scheme := re.match(r"([a-z][a-z0-9+]+)://", path):
        if scheme[1] != "file":
            raise ArgumentError(
                f"no store is called {scheme[1]!r}",
                where=path,
                cure="Only file:// is known as an URL; a Store of another kind is passed itself.",
            )
        path = unquote(path[len("file://") :].removeprefix("localhost"))
    if os.path.isdir(path):
        return Location(FileStore(path))
    folder, name = os.path.split(path)
    if not name:
        return Location(FileStore(folder))
    return Location(FileStore(Path(folder) if folder else ".", named=name), name)
