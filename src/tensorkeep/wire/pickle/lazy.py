"""Reading a pickle whose large byte strings stay where they are in the file.

The machine of `machine`, on bytes that are fetched as it comes to them. A byte string of 16 KiB or
more becomes a `Span` and is stepped over, so that opening a pickle of arrays reads what lies
between them.
"""

from __future__ import annotations

from typing import Any, cast

from tensorkeep.errors import TensorKeepError
from tensorkeep.source import Source
from tensorkeep.wire.pickle.machine import ENDINGS, MAX_STEPS, Unpickled, ended
from tensorkeep.wire.pickle.opcodes import TABLE
from tensorkeep.wire.pickle.stack import (
    MAX_CALLS_COST,
    Allowed,
    CutShortError,
    Stack,
)
from tensorkeep.wire.pickle.values import Buildable

LEAST = 16 << 10
MAX_READ = 1 << 30  # bytes that are no large byte strings
_STRIDE = 4096
_FIRST_PAGE, _LAST_PAGE = 4 << 10, 64 << 10  # behind a jump, and where reading goes on

# The instructions for byte strings, and how wide the length behind them is.
_BYTEARRAY = 0x96
_LENGTHS = {ord("B"): 4, 0x8E: 8, _BYTEARRAY: 8}
_FRAME, _FRAME_LENGTH = 0x95, 8
_BUILD = ord("b")


class Span:
    """A byte string that was not read: where it lies, and what it is read as."""

    __slots__ = ("_read", "kind", "offset", "size", "source")

    def __init__(
        self, source: Source, offset: int, size: int, kind: type[bytes | bytearray] = bytes
    ) -> None:
        self.kind = kind
        self._read: bytes | bytearray | None = None
        self.source = source
        self.offset = offset
        self.size = size

    def __len__(self) -> int:
        return self.size

    def read(self) -> bytes | bytearray:
        """Read the bytes, once."""
        if self._read is None:
            self._read = self.kind(self.source.read(self.offset, self.offset + self.size))
        return self._read


class Followed(Buildable):
    """What has bytes of its own behind the instruction that gives it its state."""

    __slots__ = ()

    def follow(self, source: Source, at: int) -> int:
        """Take the bytes from `at` on; give where the pickle goes on."""
        raise NotImplementedError


class _LazyStack(Stack):
    """A stack on which functions may be given byte strings that were not read."""

    __slots__ = ()

    def call(self, function: Any, args: Any, kwargs: dict[str, Any] | None = None) -> Any:
        if type(args) is tuple:
            self.budget -= sum(len(arg) for arg in args if type(arg) is Span)
        return super().call(function, args, kwargs)


class _Paged:
    """The bytes of a source as the machine's instructions ask for them, a page at a time."""

    __slots__ = ("_at", "_page", "_source", "_wide", "read", "size")

    def __init__(self, source: Source) -> None:
        self._source = source
        self.size = source.size
        self._at = 0
        self._page = b""
        self._wide = _FIRST_PAGE
        self.read = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, int):
            place = index - self._at
            if 0 <= place < len(self._page):
                return self._page[place]
            self._turn(index, index + 1)
            return self._page[0]  # an IndexError behind the end, as of bytes
        start, stop = index.start, min(index.stop, self.size)
        if not self._at <= start <= stop <= self._at + len(self._page):
            self._turn(start, stop)
        return self._page[start - self._at : max(0, stop - self._at)]

    def find(self, part: bytes, start: int, stop: int) -> int:
        """Find a byte as bytes.find does."""
        at, stop, width = start, min(stop, self.size), 256  # names are short, texts need not be
        while at < stop:
            piece = self[at : min(at + width, stop)]
            if (found := piece.find(part)) >= 0:
                return at + int(found)
            at += len(piece)
            width = min(2 * width, _LAST_PAGE)
        return -1

    def _turn(self, start: int, stop: int) -> None:
        """Have the page start where it is asked for; pages grow while one follows the other."""
        follows = 0 <= start - self._at <= len(self._page)
        self._wide = min(2 * self._wide, _LAST_PAGE) if follows else _FIRST_PAGE
        self._at = min(start, self.size)
        last = min(max(stop, start + self._wide), self.size)
        self._page = bytes(self._source.read(self._at, max(last, self._at)))
        self.read += len(self._page)


def read_pickle_lazily(source: Source, *, allowed: Allowed) -> Unpickled:
    r"""Read the pickle that a source starts with.

    Args:
        source: the bytes.
        allowed: as for `read_pickle`; functions get a `Span` where a byte string is large.

    Raises:
        CorruptError: as for `read_pickle`.
        UnsafeError: as for `read_pickle`, or more than a gigabyte is no large byte string.
        UnsupportedError: as for `read_pickle`.

    >>> from tensorkeep.source import MemorySource
    >>> data = b"\x80\x03B\x00\x40\x00\x00" + bytes(16384) + b"."
    >>> read_pickle_lazily(MemorySource(data), allowed={}).value.offset
    7
    """
    data = _Paged(source)
    stack = _LazyStack(cast(bytes, data), source.where, allowed, None)
    stack.budget = MAX_CALLS_COST * min(source.size, MAX_READ // MAX_CALLS_COST) + source.size
    at, steps = 0, 0
    try:
        while True:
            stack.check_limits()
            steps += _STRIDE
            if steps > MAX_STEPS:
                raise stack.hostile(f"has over {MAX_STEPS:,} instructions")
            if data.read > MAX_READ:
                raise stack.hostile(f"has over {MAX_READ:,} bytes beside its arrays")
            for _ in range(_STRIDE):
                code = data[at]
                width = _LENGTHS.get(code)
                if width is not None:
                    start = at + 1 + width
                    size = int.from_bytes(data[at + 1 : start], "little")
                    if size >= LEAST:
                        if start + size > source.size:
                            raise CutShortError(
                                f"its pickle has a byte string of {size:,} bytes at byte {start}, "
                                f"but there are {source.size:,}",
                                where=source.where,
                                cure="It is cut short.",
                            )
                        kind = bytearray if code == _BYTEARRAY else bytes
                        stack.items.append(Span(source, start, size, kind))
                        at = start + size
                        continue
                if code == _FRAME:
                    at += 1 + _FRAME_LENGTH
                    continue
                at = TABLE[code](stack, at + 1)
                if code == _BUILD and isinstance(stack.items[-1], Followed):
                    at = stack.items[-1].follow(source, at)
    except TensorKeepError:
        raise
    except ENDINGS as error:
        return ended(stack, at, error)
