"""Objects that are to be all that lie below a key: for formats that write a folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tensorkeep.errors import UnsafeError
from tensorkeep.source import Source
from tensorkeep.store import Chunks, Progress, Store

if TYPE_CHECKING:
    from tensorkeep.stores.object import ObjectStore


class Draft(Store):
    """The objects below a key, which are replaced one by one: see `ObjectStore.draft`.

    Args:
        store: what has them.
        key: what they are below; empty for all of the store.
    """

    in_order = True

    def __init__(self, store: ObjectStore, key: str) -> None:
        self.where = store.where
        self._store = store
        self._prefix = f"{key}/" if key else ""
        self._put: set[str] = set()

    def keys(self, prefix: str = "") -> Iterator[str]:
        return self._store.keys(prefix)

    def get(self, key: str) -> Source:
        return self._store.get(key)

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        if not key.startswith(self._prefix):
            raise UnsafeError(f"the key {key[:60]!r} leads out of the folder", where=self.where)
        self._store.put(key, chunks, size=size, durable=durable, progress=progress)
        self._put.add(key)

    def delete(self, key: str) -> None:
        """Do nothing: what was not put is not in the new folder."""

    def commit(self) -> None:
        if not self._put:
            return
        for key in list(self._store.keys(self._prefix)):
            if key not in self._put:
                self._store.delete(key)
        self._store.commit_together()
        self._put.clear()

    def rollback(self) -> None:
        self._put.clear()
        self._store.rollback()
