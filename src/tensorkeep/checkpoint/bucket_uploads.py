"""Uploads of what nobody sees yet: at once, and by the thread that asks for them.

The thread of a save behind may have to finish while the interpreter ends, when none can be started.
"""

from __future__ import annotations

from collections.abc import Iterator

from tensorkeep.errors import StoreError
from tensorkeep.store import Chunks, Late, Progress
from tensorkeep.stores.object.addresses import parse_address
from tensorkeep.stores.object.connection import Connection
from tensorkeep.stores.object.uploading import part_size


def upload(
    connection: Connection,
    address: str,
    chunks: Chunks,
    size: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Put an object; it is there when this returns, and nothing is where it raises.

    Args:
        connection: to its bucket.
        address: of the object.
        chunks: its bytes, in order, none of them late; copied before the next one is asked for.
        size: how many there are, where that is known.
        progress: called with the number of bytes taken since the last call.

    Raises:
        StoreError: the store failed, or other bytes came than were announced.
    """
    part = part_size(size, address)
    parts = _Parts(chunks, part, size, address, progress)
    key = parse_address(address).path
    try:
        if size is not None and size <= part:
            connection.store.put(key, b"".join(parts), use_multipart=False)
        else:
            connection.store.put(
                key,
                iter(parts),
                use_multipart=True,
                chunk_size=part,
                max_concurrency=connection.concurrency,
            )
    except Exception as error:
        raise parts.error or connection.failure(error, address) from None


class _Parts:
    """Chunks as parts of one size; remembers what went wrong in making them."""

    def __init__(
        self,
        chunks: Chunks,
        part: int,
        size: int | None,
        where: str,
        progress: Progress | None,
    ) -> None:
        self.error: BaseException | None = None
        self._chunks = chunks
        self._part = part
        self._size = size
        self._where = where
        self._progress = progress

    def __iter__(self) -> Iterator[bytearray]:
        try:
            yield from self._made()
        except BaseException as error:
            self.error = error
            raise

    def _made(self) -> Iterator[bytearray]:
        total, filled = 0, 0
        part = bytearray(self._room(0))
        for chunk in self._chunks:
            assert not isinstance(chunk, Late)
            view = memoryview(chunk).cast("B")
            total += view.nbytes
            if self._size is not None and total > self._size:
                break
            while view.nbytes:
                taken = min(view.nbytes, len(part) - filled)
                part[filled : filled + taken] = view[:taken]
                filled += taken
                if self._progress is not None:
                    self._progress(taken)
                view = view[taken:]
                if filled == len(part):
                    yield part
                    part, filled = bytearray(self._room(total - view.nbytes)), 0
        if self._size not in (None, total):
            raise StoreError(f"{total:,} bytes came, not {self._size:,}", where=self._where)
        if filled:
            yield part[:filled]

    def _room(self, done: int) -> int:
        """Give the bytes of the next part."""
        left = self._part if self._size is None else self._size - done
        return max(1, min(self._part, left))
