"""Stores that count what is read, and stores that die in the middle of a write."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

from tensorkeep import api
from tensorkeep.errors import StoreError
from tensorkeep.format import Format
from tensorkeep.source import Source
from tensorkeep.store import Chunk, Chunks, Late, Location, Progress, Store
from tensorkeep.testing.equality import assert_equal_states


class CountingStore(Store):
    """Pass everything on to another store, and note the ranges that are read.

    >>> from tensorkeep.stores.memory import MemoryStore
    >>> store = CountingStore(MemoryStore({"a": bytes(100)}))
    >>> _ = store.get("a").read(10, 14)
    >>> store.ranges, store.bytes_read
    ([('a', 10, 14)], 4)
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.where = inner.where
        self.ranges: list[tuple[str, int, int]] = []

    @property
    def bytes_read(self) -> int:
        """The lengths of all ranges together."""
        return sum(stop - start for _, start, stop in self.ranges)

    def keys(self, prefix: str = "") -> Iterator[str]:
        return self.inner.keys(prefix)

    def get(self, key: str) -> Source:
        return _CountingSource(self.inner.get(key), key, self.ranges)

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self.inner.put(key, chunks, size=size, durable=durable, progress=progress)

    def delete(self, key: str) -> None:
        self.inner.delete(key)

    def commit(self) -> None:
        self.inner.commit()

    def rollback(self) -> None:
        self.inner.rollback()


class _CountingSource(Source):
    __slots__ = ("_inner", "_key", "_ranges")

    def __init__(self, inner: Source, key: str, ranges: list[tuple[str, int, int]]) -> None:
        super().__init__(inner.size, inner.where)
        self._inner = inner
        self._key = key
        self._ranges = ranges

    def close(self) -> None:
        self._inner.close()

    def _read(self, start: int, stop: int) -> memoryview:
        self._ranges.append((self._key, start, stop))
        return self._inner.read(start, stop)


class FailingStore(CountingStore):
    """Pass everything on to another store until the k-th write, which fails like a full disk.

    Each chunk and each commit is a write. The chunk that fails is taken half, as a disk does.

    Args:
        inner: the store that would take the writes.
        fail_at: how many writes go well; the next one raises.
        code: the errno of the failure.
    """

    def __init__(self, inner: Store, fail_at: int, code: int = errno.ENOSPC) -> None:
        super().__init__(inner)
        self.left = fail_at
        self.code = code

    def put(
        self,
        key: str,
        chunks: Chunks,
        *,
        size: int | None = None,
        durable: bool = True,
        progress: Progress | None = None,
    ) -> None:
        failing = self._failing(chunks)
        self.inner.put(key, failing, size=size, durable=durable, progress=progress)

    def commit(self) -> None:
        self._count()
        self.inner.commit()

    def _failing(self, chunks: Chunks) -> Iterator[Chunk | Late]:
        for chunk in chunks:
            if not self.left and not isinstance(chunk, Late):
                yield memoryview(chunk)[: len(chunk) // 2]
            self._count()
            yield chunk

    def _count(self) -> None:
        if not self.left:
            error = StoreError(os.strerror(self.code), where=self.where)
            error.errno = self.code
            raise error
        self.left -= 1


def check_failing_saves(
    format: Format, old: Any, new: Any, make_store: Callable[[], Store], **options: Any
) -> int:
    """Check that a save over `old` that fails at any write leaves `old`, and nothing beside it.

    Args:
        format: what to write.
        old: a state that is saved well.
        new: a state whose save fails at its first write, its second and so on.
        make_store: gives an empty store.
        options: what the format's `encode` takes.

    Returns:
        How many writes a whole save takes.

    Raises:
        AssertionError: a failed save left something else than `old`.
    """
    store = make_store()
    location = Location(store, f"state{format.suffixes[0]}")
    api.save(old, location, format=format.name, durable=False, **options)
    before = set(store.keys())
    writes = 0
    while True:
        failing = Location(FailingStore(store, writes), location.key)
        try:
            api.save(new, failing, format=format.name, durable=False, **options)
        except StoreError:
            left = set(store.keys())
            if left != before:
                raise AssertionError(f"a failed save left {sorted(left ^ before)}") from None
            assert_equal_states(api.load(location), old)
            writes += 1
            location.close()
            location = Location(store, location.key)
        else:
            break
    assert_equal_states(api.load(Location(store, location.key)), new)
    return writes
