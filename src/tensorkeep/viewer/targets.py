"""What may be given to look at: a path, an URL, a store, or what a program holds in memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tensorkeep.checkpoint import Checkpointer
from tensorkeep.checkpoint.disk import DiskFolder
from tensorkeep.errors import TensorKeepError
from tensorkeep.state import State
from tensorkeep.store import Location, Store
from tensorkeep.stores import Target, is_url
from tensorkeep.stores.object.addresses import parse_address

Stamp = tuple[int, int, int]  # what changes where a file is replaced or written to

_CUT = "…"


def path_of(target: Any) -> str:
    """Give the path to show; empty of what is in memory alone."""
    if isinstance(target, str | os.PathLike):
        path = os.fsdecode(os.fspath(target))
        return _without_secrets(path) if is_url(path) else path
    if isinstance(target, Location | Store | State):
        return target.where
    if isinstance(target, Checkpointer):
        return target._folder.where
    return ""


def _without_secrets(url: str) -> str:
    """Give an URL without a login and a query, which may be a signature.

    >>> _without_secrets("https://me:word@host/a.npz?signature=1")
    'https://host/a.npz'
    """
    try:
        return parse_address(url).where
    except TensorKeepError:
        return f"{url.partition('://')[0]}://{_CUT}"


def stamp_of(target: Any, step: int | None) -> Stamp | None:
    """Give what tells a file from what it becomes later; None of what is no file."""
    if step is not None or not isinstance(target, str | os.PathLike):
        return None
    try:
        info = os.stat(target)
    except (OSError, ValueError):  # an URL, or gone
        return None
    return info.st_ino, info.st_size, info.st_mtime_ns


def may_be_run(target: Any) -> bool:
    """Whether it is worth listing: a folder, or objects below an address."""
    if isinstance(target, Location):
        return not target.key
    if isinstance(target, Store):
        return True
    if not isinstance(target, str | os.PathLike):
        return False
    path = os.fsdecode(os.fspath(target))
    return os.path.isdir(path) or (is_url(path) and "." not in path.rpartition("/")[2])


def folder_of(checkpointer: Checkpointer) -> Target:
    """Give where a Checkpointer saves."""
    folder = checkpointer._folder
    return folder.path if isinstance(folder, DiskFolder) else folder.location(0).store


def plain(value: Any) -> Any:
    """Give the nesting of what a program holds: of a module or an optimizer its state_dict."""
    if isinstance(value, Mapping) or not hasattr(value, "state_dict"):
        return value
    return value.state_dict()
