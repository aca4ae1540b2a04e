"""What is copied in these tests, and how copies are compared."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

import tensorkeep as tk
from tensorkeep.copying import work
from tensorkeep.stores import locate

SMALL_PIECE = 64 << 10


def state(step: int, count: int = 100_000) -> dict[str, Any]:
    """Make a state of which a part never changes."""
    rng = np.random.default_rng(7)
    return {
        "model": {
            "frozen": rng.standard_normal(count).astype(np.float32),
            "w": np.random.default_rng(step).standard_normal(count).astype(np.float32),
        },
        "step": step,
    }


def make_run(target: Any, steps: tuple[int, ...] = (1, 2, 3), count: int = 100_000) -> None:
    with tk.Checkpointer(target, max_shard_size=f"{4 * count}") as ck:
        for step in steps:
            ck.save(step, state(step, count))


def files_of(folder: Path) -> dict[str, bytes]:
    """Read all that is not hidden below a folder."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    rows = {str(path.relative_to(folder)): path for path in paths}
    hidden = [name for name in rows if any(part.startswith(".") for part in Path(name).parts)]
    return {name: path.read_bytes() for name, path in rows.items() if name not in hidden}


def objects_of(url: str) -> dict[str, bytes]:
    """Read all objects below an address that are not hidden."""
    store = locate(url.rstrip("/") + "/").store
    found = {}
    for key in store.keys():
        source = store.get(key)
        if not any(part.startswith(".") for part in key.split("/")):
            found[key] = bytes(source.read(0, source.size))
        source.close()
    return found


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.tensorkeep.*"))


def flip(path: Path, at: int) -> None:
    """Change one byte of a file, `at` of them from its start or end, in a file of its own."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.unlink()
    path.write_bytes(data)


class CutShort(Exception):  # noqa: N818
    """What ends a copy in the middle."""


def cut_after(count: int) -> Any:
    """Give a report of progress that ends the copy once so many bytes are done."""

    def report(done: int, total: int) -> None:
        if done >= count:
            raise CutShort

    return report


def small_pieces(monkeypatch: Any) -> None:
    """Let files be read and written in small pieces, so that small ones can be cut short."""
    monkeypatch.setattr(work, "PIECE", SMALL_PIECE)


def copy_slowly(source: str, target: str, environment: dict[str, str]) -> None:
    """Copy piece by piece, so that a kill comes in the middle: for a process of its own."""
    os.environ.update(environment)
    work.PIECE = SMALL_PIECE
    tk.copy(source, target, progress=lambda done, total: time.sleep(0.02))
