"""Who saves in an object store: whoever put the writer's object last.

A store has no locks, and a machine that was cut off may come back after another took its place. So
the one that opens a run to save in it puts an object with a name of its own, and each that is about
to commit looks whether it is still its own there.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from typing import Any

from tensorkeep.errors import MissingError, StoreError
from tensorkeep.stores.object import ObjectStore

WRITER = ".tensorkeep/writer"
_MAX = 4096  # bytes


class Writer:
    """Take a run over, from whoever saves there.

    Args:
        run: where the checkpoints are.

    Raises:
        StoreError: the store failed, or cannot tell who of several was first.
    """

    def __init__(self, run: ObjectStore) -> None:
        self._run = run
        self._id = secrets.token_hex(16)
        if not run.connection.creates:  # which is to be known before anything is saved
            run.create(f"{WRITER}-{self._id}", b"")
            run.remove([f"{WRITER}-{self._id}"])
        about = {
            "id": self._id,
            "host": os.uname().nodename,
            "pid": os.getpid(),
            "since": round(time.time()),
        }
        run.replace(WRITER, json.dumps(about).encode())

    def check(self) -> None:
        """Make sure that nobody has taken over since.

        Raises:
            StoreError: somebody has; the message says who.
        """
        about = _read(self._run)
        if about is None:
            raise StoreError(
                "the folder of checkpoints was removed",
                where=self._run.where,
                cure="Make a new Checkpointer.",
            )
        if about.get("id") != self._id:
            raise StoreError(
                f"another Checkpointer has taken over here{_describe(about)}",
                where=self._run.where,
                cure="End this training, or make a new Checkpointer, which takes over in turn.",
            )


def since(run: ObjectStore) -> float | None:
    """Say when the writer took over, in seconds since 1970 by the store's clock."""
    found = run.look(WRITER)
    return None if found is None else found.modified


def _read(run: ObjectStore) -> dict[str, Any] | None:
    try:
        with contextlib.closing(run.get(WRITER)) as source:
            about = json.loads(bytes(source.read(0, min(source.size, _MAX))))
    except MissingError:
        return None
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _describe(about: dict[str, Any]) -> str:
    """Say who it is, as far as it told."""
    with contextlib.suppress(ValueError, TypeError, LookupError, OverflowError):
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(about["since"])))
        return f": process {int(about['pid'])} on {about['host']!s:.60}, since {at}"
    return ""


__all__ = ["WRITER", "Writer", "since"]
