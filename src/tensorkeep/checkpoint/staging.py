"""Staging: one copy of the state in memory, so that training may go on while it is written.

The copy goes into one block that the next save uses again: filling warm memory is many times faster
than filling memory that the system has to find first. Tensors whose files are shared with the
checkpoint before are not copied at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.checkpoint.crew import Crew, Task
from tensorkeep.dtypes import STRING
from tensorkeep.errors import StoreError
from tensorkeep.source import MemorySource, Source
from tensorkeep.syscalls import available_memory
from tensorkeep.tensor import Tensor

_ALIGN = 64
_PIECE = 16 << 20  # bytes that one thread copies at a time
_SMALL = 4 << 20  # tensors below this are copied several in one task
_MARGIN = 256 << 20  # bytes of memory that are left to others
_WORTH_IT = 64 << 20  # bytes that are staged whatever the system says of its memory


class Hollow(Source):
    """The bytes of a tensor whose file is shared: they are not here, and nobody reads them."""

    __slots__ = ()

    def __init__(self, size: int) -> None:
        super().__init__(size, "the staged state")

    def _read(self, start: int, stop: int) -> memoryview:
        raise StoreError("was to be shared, and was not copied", where=self.where)


class Buffer:
    """The memory that is staged in, used again by each save.

    >>> buffer = Buffer()
    >>> buffer.stage({"w": Tensor.of(np.arange(3))}, Crew(0))["w"].numpy().tolist()
    [0, 1, 2]
    """

    def __init__(self) -> None:
        self._block: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    @property
    def size(self) -> int:
        """How many bytes it holds now."""
        return self._block.size

    def shortage(self, needed: int) -> str:
        """Say why there is no room for that many bytes; empty where there is."""
        if needed <= max(self.size, _WORTH_IT):
            return ""
        available = available_memory()
        if available is None or needed + _MARGIN <= available + self.size:
            return ""
        return f"{needed:,} bytes are needed for a copy, {available:,} are available"

    def stage(self, tensors: Mapping[str, Tensor], crew: Crew) -> dict[str, Tensor]:
        """Copy tensors; those given are good until the next call.

        Raises:
            MemoryError: there is no room for the copy.
        """
        places: dict[str, int] = {}
        end = 0
        for name, tensor in tensors.items():
            places[name] = end
            end += -(-tensor.nbytes // _ALIGN) * _ALIGN
        if end > self.size:
            self._block = np.empty(0, np.uint8)  # before there are two of them
            self._block = np.empty(end, np.uint8)
        source = MemorySource(self._block.data, "the staged state")
        crew.run(_bundled(self._tasks(tensors, places)))
        return {
            name: Tensor(tensor.dtype, tensor.shape, source, places[name], tensor.nbytes)
            for name, tensor in tensors.items()
        }

    def _tasks(
        self, tensors: Mapping[str, Tensor], places: Mapping[str, int]
    ) -> Iterator[tuple[int, Task]]:
        for name, tensor in tensors.items():
            whole = tensor.dtype.packed or tensor.dtype is STRING
            step = max(tensor.nbytes, 1) if whole else _PIECE
            for start in range(0, tensor.nbytes, step):
                stop = min(start + step, tensor.nbytes)
                yield stop - start, partial(self._fill, tensor, start, stop, places[name])

    def _fill(self, tensor: Tensor, start: int, stop: int, place: int) -> None:
        # NumPy's copies let other threads run, which those of memoryviews do not.
        if tensor.dtype.packed or tensor.dtype is STRING:
            at = place
            for piece in tensor.pieces():
                self._block[at : at + piece.nbytes] = np.frombuffer(piece, np.uint8)
                at += piece.nbytes
            return
        view = tensor.source.read(tensor.offset + start, tensor.offset + stop)
        self._block[place + start : place + stop] = np.frombuffer(view, np.uint8)


def _bundled(tasks: Iterator[tuple[int, Task]]) -> Iterator[Task]:
    """Put small tasks together, so that each is worth handing to a thread."""
    bundle: list[Task] = []
    size = 0
    for count, task in tasks:
        bundle.append(task)
        size += count
        if size >= _SMALL:
            yield partial(_run, bundle)
            bundle, size = [], 0
    if bundle:
        yield partial(_run, bundle)


def _run(tasks: list[Callable[[], Any]]) -> None:
    for task in tasks:
        task()
