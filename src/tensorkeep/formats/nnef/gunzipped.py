"""What a gzip file unpacks to, read anywhere without unpacking it to disk or memory.

It is unpacked once, from the start; on the way the state of the unpacking is kept every few
megabytes, and a read goes on from the last one before it.
"""

from __future__ import annotations

import threading
import zlib

from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.source import Source

MAGIC = b"\x1f\x8b\x08"

_GZIP = 16 + zlib.MAX_WBITS
_INPUT, _OUTPUT = 64 << 10, 1 << 20
_SPACING = 1 << 20  # bytes between the states that are kept, at first
_MOST_STATES = 128
_BOMB_SIZE, _BOMB_RATIO = 1 << 30, 200
_UNKNOWN = 1 << 62


def peek(data: bytes, most: int) -> bytes:
    """Unpack the beginning of a gzip file as far as it goes; nothing here raises.

    >>> import gzip
    >>> peek(gzip.compress(b"weights")[:20], 3), peek(b"no", 3)
    (b'wei', b'')
    """
    try:
        return zlib.decompressobj(_GZIP).decompress(data, most)
    except zlib.error:
        return b""


def check_ratio(unpacked: int, packed: int, where: str) -> None:
    """Refuse what becomes far more than it is.

    Raises:
        UnsafeError: it does.
    """
    if unpacked > _BOMB_SIZE and unpacked > _BOMB_RATIO * packed:
        raise UnsafeError(
            f"unpacks to over {_BOMB_RATIO} times its size: at least {unpacked:,} bytes",
            where=where,
            cure="It was made to fill the memory; if it was not, unpack it yourself.",
        )


class _Unpacking:
    """An unpacking under way: `taken` bytes have been read of the file, and `done` been given."""

    __slots__ = ("done", "inflater", "inner", "pending", "taken")

    def __init__(self, inner: Source) -> None:
        self.inner = inner
        self.inflater = zlib.decompressobj(_GZIP)
        self.pending = b""
        self.taken = self.done = 0

    def copy(self) -> _Unpacking:
        twin = _Unpacking.__new__(_Unpacking)
        twin.inner, twin.inflater = self.inner, self.inflater.copy()
        twin.pending, twin.taken, twin.done = self.pending, self.taken, self.done
        return twin

    def step(self, most: int) -> bytes:
        """Give the next bytes, at most so many; none at the end.

        Raises:
            CorruptError: the file is damaged or cut short.
        """
        while True:
            if self.inflater.eof and not self._next_member():
                return b""
            if not self.pending:
                self.pending = self._take()
            try:
                out = self.inflater.decompress(self.pending, most)
            except zlib.error as error:
                raise CorruptError(
                    f"its gzip data is damaged: {error}",
                    where=self.inner.where,
                    cure="Use another copy of the file.",
                ) from None
            self.pending = self.inflater.unconsumed_tail
            if out:
                self.done += len(out)
                return out
            if not self.pending and not self.inflater.eof and self.taken == self.inner.size:
                raise CorruptError(
                    f"its gzip data ends early, after {self.done:,} unpacked bytes",
                    where=self.inner.where,
                    cure="The download or save did not finish; use another copy.",
                )

    def _take(self) -> bytes:
        stop = min(self.taken + _INPUT, self.inner.size)
        data = bytes(self.inner.read(self.taken, stop))
        self.taken = stop
        return data

    def _next_member(self) -> bool:
        """Go on to what follows a whole gzip member, zeros aside; False where nothing does."""
        rest = self.inflater.unused_data.lstrip(b"\0")
        while not rest and self.taken < self.inner.size:
            rest = self._take().lstrip(b"\0")
        if rest:
            self.inflater, self.pending = zlib.decompressobj(_GZIP), rest
        return bool(rest)


class Gunzipped(Source):
    """The unpacked bytes of a gzip file; its size is known once `finish` has been through.

    >>> import gzip
    >>> from tensorkeep.source import MemorySource
    >>> source = Gunzipped(MemorySource(gzip.compress(b"weights")))
    >>> bytes(source.read(1, 4)), source.finish(), source.size
    (b'eig', None, 7)
    """

    __slots__ = ("_front", "_live", "_lock", "_packed", "_spacing", "_states")

    def __init__(self, packed: Source) -> None:
        super().__init__(_UNKNOWN, packed.where)
        self._packed = packed
        self._lock = threading.Lock()
        self._front = _Unpacking(packed)  # the furthest so far
        self._live = self._front
        self._states = [self._front.copy()]
        self._spacing = _SPACING

    def finish(self) -> None:
        """Unpack the rest, which gzip's CRC-32 checks.

        Raises:
            CorruptError: it is damaged.
            UnsafeError: it becomes far more than it is.
        """
        with self._lock:
            self._live = self._front
            while self._step(_OUTPUT):
                pass
            self.size = self._front.done

    def _step(self, most: int) -> bytes:
        live = self._live
        out = live.step(most)
        if live is self._front:
            check_ratio(live.done, live.taken, self.where)
            if live.done >= self._states[-1].done + self._spacing:
                self._states.append(live.copy())
                if len(self._states) > _MOST_STATES:
                    self._states = self._states[::2]
                    self._spacing *= 2
        return out

    def _read(self, start: int, stop: int) -> memoryview:
        parts = []
        with self._lock:
            self._go_to(start)
            missing = stop - start
            while missing:
                out = self._step(min(missing, _OUTPUT))
                if not out:
                    raise CorruptError(
                        f"unpacks to {self._live.done:,} bytes, and one of its members goes on "
                        "beyond them",
                        where=self.where,
                        cure="It is cut short, or a header in it lies about sizes.",
                    )
                parts.append(out)
                missing -= len(out)
        return memoryview(parts[0] if len(parts) == 1 else b"".join(parts))

    def _go_to(self, start: int) -> None:
        nearest = next(state for state in reversed(self._states) if state.done <= start)
        known = [each for each in (self._live, self._front) if nearest.done <= each.done <= start]
        self._live = max(known, key=lambda each: each.done) if known else nearest.copy()
        while self._live.done < start and self._step(min(start - self._live.done, _OUTPUT)):
            pass
