"""The memory that a worker process fills, from the side of whoever takes batches out of it.

NumPy has every view of an array refer to one array at the root, however it was sliced, reshaped or
wrapped by PyTorch. A weak reference to that root tells when the last of them is gone, and with it
the batch, so that its memory can hold the next one.
"""

from __future__ import annotations

import mmap
import os
import weakref

import numpy as np

from tensorkeep.data.dataset import Batch
from tensorkeep.data.workers import transfer
from tensorkeep.data.workers.serving import Made
from tensorkeep.errors import StoreError

_KEPT = 8  # slots that may be in use; batches beyond are copied out of theirs, as files are few


class Slots:
    """The slots of one worker. Threads may share them; batches stay good when they are dropped."""

    def __init__(self) -> None:
        self._maps: dict[int, mmap.mmap] = {}
        self._free: list[int] = []  # the one used last is taken first: it may be in the cache yet
        self._count = 0
        self._roots: dict[int, weakref.ref[np.ndarray[tuple[int], np.dtype[np.uint8]]]] = {}

    def reserve(self) -> int:
        """Give the number of a slot that nobody looks at."""
        try:
            return self._free.pop()
        except IndexError:
            self._count += 1
            return self._count - 1

    def release(self, slot: int) -> None:
        """Say that nobody looks at a slot."""
        self._free.append(slot)

    def take(self, slot: int, made: Made, descriptor: int | None) -> Batch:
        """Give the batch that lies in a slot, which is in use as long as any view of it lives.

        Raises:
            StoreError: the slot is new, and cannot be mapped.
        """
        if made.capacity:
            self._maps[slot] = _map(made.capacity, descriptor)
        if not made.size:
            self.release(slot)
            return transfer.take(made.fields, np.zeros(0, np.uint8))
        root = np.frombuffer(self._maps[slot], np.uint8)
        batch = transfer.take(made.fields, root)
        if len(self._roots) >= _KEPT:
            batch = {name: array.copy() for name, array in batch.items()}
            self.release(slot)
            return batch
        roots, free = self._roots, self._free

        def gone(reference: object) -> None:  # takes no lock: it may run at any moment
            del roots[slot]
            free.append(slot)

        roots[slot] = weakref.ref(root, gone)
        return batch


def _map(capacity: int, descriptor: int | None) -> mmap.mmap:
    try:
        if descriptor is None:  # the system drops those that the process has no room for
            raise OSError("too many files are open")
        try:
            return mmap.mmap(descriptor, capacity)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{capacity:,} bytes of a worker process cannot be mapped: {error}",
            cure="Hold fewer batches at a time, or raise the limits that ulimit shows.",
        ) from error
