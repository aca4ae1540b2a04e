"""What the tests of minidb files share: short ways to make and to look at one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorkeep.database import Mode
from tensorkeep.store import Store
from tensorkeep.stores.minidb import MinidbStore
from tensorkeep.wire.minidb import record_header

Pairs = list[tuple[str, bytes]]


def pack(pairs: Pairs) -> bytes:
    return b"".join(record_header(key, len(value)) + value for key, value in pairs)


def contents(store: Store) -> Pairs:
    return [(key, bytes(source.read(0, source.size))) for key, source in store.records()]


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def save(path: Path, mode: Mode = "write", *, pairs: Pairs, **options: Any) -> None:
    with MinidbStore(path, mode, **options) as store:
        for key, value in pairs:
            store.put(key, [value], size=len(value), durable=False)
        store.commit()
