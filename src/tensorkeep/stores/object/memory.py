"""Bytes of an object that are likely to be asked for next, kept or fetched ahead.

Small reads, such as those of headers and directories, go by aligned blocks, of which the last used
stay; the more of them come in a row, the more is fetched by a request. Where reads go on in a row,
the next pieces are fetched meanwhile, several at a time. Both are bounded, whatever the object is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import numpy as np

Fill = Callable[[int, memoryview], None]
Start = Callable[[Callable[[], None]], "Future[None]"]

BLOCK = 256 << 10
_BLOCKS = 16  # that stay
_ROW = 4  # blocks that one request fetches at most
_HEADER = 16 << 20  # bytes from the start on that are kept at most
_PIECE = 4 << 20  # what one request fetches ahead
_AHEAD = 64 << 20  # bytes that are fetched ahead at most
_PROVEN = 2 << 20  # bytes read in a row before anything is fetched ahead
_SKIP = 1 << 20  # bytes that a row of reads may leave out
_ROWS = 4  # rows of reads that are followed at a time


def room(size: int) -> memoryview:
    """Give memory of `size` bytes, not yet written to."""
    return np.empty(size, np.uint8).data if size else memoryview(bytearray())


class Blocks:
    """The aligned blocks around small reads; threads share it, and fetch no block twice.

    Args:
        fill: fetches.
        size: the bytes of the object.
        head: its first bytes, which are here already and stay: whole blocks, or all there is.
    """

    def __init__(self, fill: Fill, size: int, head: memoryview) -> None:
        self._fill = fill
        self._size = size
        self._head = head
        self._lock = threading.Lock()
        self._held: OrderedDict[int, memoryview] = OrderedDict()
        self._coming: dict[int, threading.Event] = {}
        self._next = 0  # the block behind the last that was fetched
        self._row = 1

    def held(self, start: int, buffer: memoryview) -> tuple[int, int]:
        """Copy what is here of a range's beginning and end; say how far, and from where on."""
        size = buffer.nbytes
        head = self._head
        first = min(max(0, len(head) - start), size)
        buffer[:first] = head[start : start + first]
        last = size
        with self._lock:
            while first < last and (block := self._held.get((start + first) // BLOCK)) is not None:
                skip = (start + first) % BLOCK
                count = min(last - first, block.nbytes - skip)
                buffer[first : first + count] = block[skip : skip + count]
                self._held.move_to_end((start + first) // BLOCK)
                first += count
            while first < last and (at := (start + last - 1) // BLOCK) in self._held:
                begin = max(first, at * BLOCK - start)
                skip = start + begin - at * BLOCK
                buffer[begin:last] = self._held[at][skip : skip + last - begin]
                last = begin
        return first, last

    def keep(self, start: int, data: memoryview) -> None:
        """Keep the rest of a header, which is looked at more than once."""
        with self._lock:
            if start == len(self._head) and start + data.nbytes <= _HEADER:
                self._head = memoryview(bytes(self._head) + data)

    def read(self, start: int, buffer: memoryview) -> None:
        """Fill a small buffer, from blocks that are fetched for it where they are not here."""
        while True:
            first, last = self.held(start, buffer)
            if first == last:
                return
            here, wanted = (start + first) // BLOCK, (start + last - 1) // BLOCK
            claimed = range(0)
            with self._lock:
                event = self._coming.get(here)
                if event is None and here not in self._held:
                    claimed = self._claim(here, wanted)
            if event is not None:
                event.wait()
            elif claimed:
                self._fetch(claimed)

    def _claim(self, first: int, last: int) -> range:
        self._row = min(2 * self._row, _ROW) if first == self._next else 1
        end = min(max(last + 1, first + self._row), -(-self._size // BLOCK))
        taken = [at for at in range(first, end) if at in self._held or at in self._coming]
        claimed = range(first, taken[0] if taken else end)
        event = threading.Event()
        self._coming.update(dict.fromkeys(claimed, event))
        return claimed

    def _fetch(self, blocks: range) -> None:
        start, stop = blocks.start * BLOCK, min(blocks.stop * BLOCK, self._size)
        try:
            memory = room(stop - start)
            self._fill(start, memory)
            with self._lock:
                self._next = blocks.stop
                for at in blocks:
                    self._held[at] = memory[at * BLOCK - start : (at + 1) * BLOCK - start]
                while len(self._held) > _BLOCKS:
                    self._held.popitem(last=False)
        finally:
            with self._lock:
                for at in blocks:
                    event = self._coming.pop(at)
            event.set()


class _Row:
    """Reads that go on where the one before ended, and what is fetched ahead of them."""

    __slots__ = ("ahead", "at", "end", "run")

    def __init__(self, at: int) -> None:
        self.at = self.end = at  # behind the last read; behind the last piece that is fetched
        self.run = 0  # bytes read in a row
        self.ahead: deque[tuple[int, memoryview, Future[None]]] = deque()


class ReadAhead:
    """Follows reads, and fetches ahead of those that go on in a row.

    Args:
        fill: fetches.
        start: has another thread call something, or refuses with RuntimeError once it is closed.
        size: the bytes of the object.
    """

    def __init__(self, fill: Fill, start: Start, size: int) -> None:
        self._fill = fill
        self._start = start
        self._size = size
        self._lock = threading.Lock()
        self._rows: deque[_Row] = deque()

    def take(self, start: int, buffer: memoryview) -> int:
        """Copy what was fetched ahead into the beginning of a buffer; say how much that is."""
        stop = start + buffer.nbytes
        done = 0
        for at, memory, future in self._follow(start, stop):
            first = start + done - at
            count = min(memory.nbytes - first, buffer.nbytes - done)
            if first < 0 or count <= 0:
                continue
            try:
                future.result()
            except BaseException:  # asking again tells what is wrong
                break
            buffer[done : done + count] = memory[first : first + count]
            done += count
        return done

    def _follow(self, start: int, stop: int) -> list[tuple[int, memoryview, Future[None]]]:
        with self._lock:
            row = next((row for row in self._rows if 0 <= start - row.at <= _SKIP), None)
            followed = row is not None
            if row is None:
                row = _Row(start)
                self._rows.append(row)
                if len(self._rows) > _ROWS:
                    self._rows.popleft()
            row.at = stop
            row.run += stop - start
            taken = [piece for piece in row.ahead if piece[0] < stop]
            while row.ahead and row.ahead[0][0] + row.ahead[0][1].nbytes <= stop:
                row.ahead.popleft()
            if followed and row.run >= _PROVEN:
                self._extend(row)
            return taken

    def _extend(self, row: _Row) -> None:
        others = sum(piece[1].nbytes for other in self._rows for piece in other.ahead)
        end = min(self._size, row.at + min(2 * row.run, _AHEAD))
        row.end = max(row.end, row.at)
        while row.end < end and others < _AHEAD:
            memory = room(min(_PIECE, self._size - row.end))
            at = row.end
            try:
                future = self._start(partial(self._fill, at, memory))
            except RuntimeError:
                return
            row.ahead.append((at, memory, future))
            row.end += memory.nbytes
            others += memory.nbytes

    def clear(self) -> None:
        """Forget what was fetched."""
        with self._lock:
            self._rows.clear()
