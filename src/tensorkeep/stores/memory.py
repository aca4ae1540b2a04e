"""Bytes in a dict: for tests, and for passing states between parts of a program."""

from __future__ import annotations

from collections.abc import Iterator

from tensorkeep.errors import MissingError
from tensorkeep.source import MemorySource, Source
from tensorkeep.store import Chunks, Progress, Store, join


class MemoryStore(Store):
    """A store that lives as long as the object; commit is atomic.

    >>> store = MemoryStore({"a": b"1"})
    >>> store.put("b", [b"2"])
    >>> list(store.keys())
    ['a']
    >>> store.commit()
    >>> list(store.keys())
    ['a', 'b']
    """

    def __init__(self, data: dict[str, bytes] | None = None, where: str = "") -> None:
        self.data = dict(data or {})
        self.where = where
        self._changes: list[tuple[str, bytes | None]] = []

    def keys(self, prefix: str = "") -> Iterator[str]:
        yield from [key for key in self.data if key.startswith(prefix)]

    def get(self, key: str) -> Source:
        if key not in self.data:
            raise MissingError(f"there is no key {key!r}", where=self.where or "memory")
        return MemorySource(self.data[key], f"{self.where}/{key}" if self.where else key)

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        data = join(chunks)
        if progress is not None:
            progress(len(data))
        self._changes.append((key, data))

    def writer(self) -> MemoryStore:
        writer = MemoryStore(where=self.where)
        writer.data = self.data
        return writer

    def delete(self, key: str) -> None:
        self._changes.append((key, None))

    def commit(self) -> None:
        for key, data in self._changes:
            if data is None:
                self.data.pop(key, None)
            else:
                self.data[key] = data
        self._changes.clear()

    def rollback(self) -> None:
        self._changes.clear()
