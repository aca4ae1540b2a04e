"""Tasks that fail in all ways that a task can, for workers to import."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from tensorkeep.bulk import Item
from tensorkeep.bulk.verifying import verify
from tensorkeep.errors import CorruptError, MissingError, StoreError
from tensorkeep.state import Json

if TYPE_CHECKING:
    import pytest


def without_main(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare worker processes the import of what has started this one, which is all of pytest."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))


def measure(item: Item) -> dict[str, Json]:
    data = Path(item.where).read_bytes()
    return {"bytes": len(data), "sum": sum(data)}


def act(item: Item) -> dict[str, Json]:
    """Do what the name of an item says; counts in a file how often that was."""
    path = Path(item.where)
    with open(path, "a") as file:
        file.write("tried\n")
    tried = len(path.read_text().splitlines())
    name = path.name
    if name.startswith("once") and tried > 1:
        return {"tried": tried}
    match name.rpartition("-")[2]:
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "network":
            raise StoreError("the connection was reset", where=item.where, cure="Try again.")
        case "corrupt":
            raise CorruptError("its header is cut short", where=item.where)
        case "missing":
            raise MissingError("holds no tensor 'w'", where=item.where)
        case "bug":
            raise ZeroDivisionError("division by zero")
        case "damaged":
            return {"problem": "1 of 2 tensors"}
        case "nothing":
            return {"skipped": "there was nothing to do"}
        case "odd":
            return {"value": object()}  # type: ignore[dict-item]
        case "slow":
            (path.parent / f"{os.getpid()}.pid").touch()
            time.sleep(60)
    return {"tried": tried}


def act_or_verify(item: Item) -> dict[str, Json]:
    """Verify what is a file of tensors."""
    return verify(item) if item.where.endswith(".npz") else act(item)


def tries(path: Path) -> int:
    return len(path.read_text().splitlines())
