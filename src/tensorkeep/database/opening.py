"""Opening databases: once for all of a process, and though others close or change them."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

from tensorkeep.database.engine import Engine, explaining
from tensorkeep.database.handle import await_closing
from tensorkeep.errors import CorruptError, StoreError, TensorKeepError

_BUSY = 0.2  # seconds to wait for another process that is just closing it
_CHANGING = 5.0  # seconds to wait for another process that is changing it
_ENGINES: WeakValueDictionary[tuple[object, ...], Engine] = WeakValueDictionary()
_OPENING = threading.RLock()  # a collection of garbage may open one in between


def share(
    kind: type[Engine], path: str, where: str, options: Mapping[str, Any], *, writable: bool
) -> Engine:
    """Give the engine that this process has open on a path, or open it; to be left in the end.

    Raises:
        StoreError: another process holds it, or the disk failed.
        CorruptError: it is damaged.
    """
    key = (kind, os.getpid(), identity(path))
    with _OPENING:
        found = _ENGINES.get(key)
        if found is not None and (found.writable or not writable) and found.enter():
            return found
        engine = _open(kind, path, where, options, writable)
        engine.enter()
        _ENGINES[key] = engine
        if found is not None:
            found.give_way(engine)
        return engine


def settle() -> None:
    """Wait until no other thread is opening a database."""
    with _OPENING:
        pass


def _open(
    kind: type[Engine], path: str, where: str, options: Mapping[str, Any], writable: bool
) -> Engine:
    """Open an engine; again for a while, where another process is closing or changing it."""
    begin = time.monotonic()
    while True:
        await_closing(path)
        names = _names(path)
        try:
            with explaining(kind, where):
                return kind(path, options, writable=writable)
        except (StoreError, CorruptError) as error:
            waited = time.monotonic() - begin
            if getattr(error, "errno", None) == errno.EAGAIN:
                if waited > _BUSY:
                    raise
            elif writable or _names(path) == names:
                raise
            elif waited > _CHANGING:
                raise _changing(where) from error
        time.sleep(0.01)


def _names(path: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(path))
    except OSError:  # a file, or gone
        return frozenset()


def _changing(where: str) -> TensorKeepError:
    return StoreError(
        f"was being changed by another process each time that it was opened in {_CHANGING:g} "
        "seconds",
        where=where,
        cure="Open it when that one writes less, or read a copy of the folder.",
    )


def identity(path: str) -> tuple[int, int] | None:
    """Tell one file or folder from the next of that name; None for nothing or an empty folder."""
    try:
        info = os.stat(path)
        if stat.S_ISDIR(info.st_mode):
            with os.scandir(path) as entries:
                if next(entries, None) is None:
                    return None
    except OSError:
        return None
    return info.st_dev, info.st_ino
