"""Writing zip archives: the same bytes for the same members, in one pass.

There are no times and nothing of the platform in them. Stored members start at a multiple of
`align`, so that they can be mapped: an extra field of the local header pads them, as PyTorch does.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple

from tensorkeep.errors import ArgumentError
from tensorkeep.store import Chunk
from tensorkeep.threads import working_ahead
from tensorkeep.wire.zip import (
    CENTRAL,
    CENTRAL_SIGN,
    DEFLATED,
    END,
    END64,
    END64_SIGN,
    END_SIGN,
    FULL16,
    FULL32,
    LOCAL,
    LOCAL_SIGN,
    LOCATOR,
    LOCATOR_SIGN,
    STORED,
    STREAMED,
    TRAILER_SIGN,
    UTF8,
    is_unsafe,
)

_DATE = 0x21  # 1980-01-01, the first that there is
_UNIX = 3 << 8
_REGULAR_FILE = 0o100644 << 16
_PADDING = 0x4246  # the kind of extra field that PyTorch pads with, too
_JOINED = 64 << 10  # cheaper to copy behind their header than to write apart
_WHOLE = 16 << 20  # members up to this size are taken whole, so that nothing follows their data
_WORTH_A_THREAD = 256 << 10
_HELD = 32 << 20  # bytes of members that may wait to be written
_LARGE = 0xFF000000  # from here on zip64: deflate can make a member a little longer
_LEVEL = 6
_VERSION, _VERSION64 = 20, 45


class Part(NamedTuple):
    """A member to write: its name, its size and what gives its bytes, called once."""

    name: str
    size: int
    chunks: Callable[[], Iterable[Chunk]]


def write_zip(parts: Iterable[Part], *, align: int = 64, compress: bool = False) -> Iterator[Chunk]:
    """Give the bytes of an archive in order; each part is read once, and large ones piecewise.

    Args:
        parts: the members, in order.
        align: start the data of stored members at a multiple of this many bytes.
        compress: deflate all members.

    Raises:
        ArgumentError: a name that would be refused on reading.

    >>> len(b"".join(write_zip([Part("a", 2, lambda: [b"hi"])])))
    135
    """
    method = DEFLATED if compress else STORED
    offset = 0
    directory: list[bytes] = []
    for part, data, chunks in _ahead(parts, compress):
        raw = _encoded(part.name)
        large, whole = part.size >= _LARGE, part.size <= _WHOLE
        flags = (0 if raw.isascii() else UTF8) | (0 if whole else STREAMED)
        extra = b"" if compress else _padding(offset, len(raw), large, align)
        local = _local(flags, method, data, part.size, raw, extra, large)
        if part.size <= _JOINED:
            yield b"".join((local, *chunks))
        else:
            yield local
            yield from chunks
        if not whole:
            form = "<4sIQQ" if large else "<4sIII"
            yield struct.pack(form, TRAILER_SIGN, data.crc, data.packed, part.size)
        directory.append(_central(flags, method, data, part.size, raw, offset, large))
        offset += len(local) + data.packed + _trailer(part.size)
    entries = b"".join(directory)
    yield entries
    yield _ending(len(directory), len(entries), offset)


def zip_size(parts: Iterable[Part], *, align: int = 64) -> int:
    """Give the number of bytes that `write_zip` gives when it stores the parts.

    Raises:
        ArgumentError: a name that would be refused on reading.
    """
    offset = directory = count = 0
    for part in parts:
        length, large = len(_encoded(part.name)), part.size >= _LARGE
        directory += CENTRAL.size + length + len(_wide(part.size, part.size, offset, large))
        offset += LOCAL.size + length + len(_padding(offset, length, large, align))
        offset += part.size + _trailer(part.size) + (20 if large else 0)
        count += 1
    return offset + directory + len(_ending(count, directory, offset))


def _ahead(parts: Iterable[Part], compress: bool) -> Iterator[tuple[Part, _Data, Iterable[Chunk]]]:
    """Give the members; a small one is read and summed by a thread while those before are written.

    A large one is read as it is written, and not before.
    """
    waiting: deque[tuple[Part, _Data, Future[list[Chunk]] | None]] = deque()
    held = 0
    with working_ahead(1, "tensorkeep-zip") as pool:
        for part in parts:
            data = _Data(part.chunks, compress)
            whole = part.size <= _WHOLE
            apart = _WORTH_A_THREAD <= part.size <= _WHOLE
            waiting.append((part, data, pool.submit(data.whole) if apart else None))
            held += part.size if whole else 0
            while waiting and (held > _HELD or not whole):
                held -= waiting[0][0].size if waiting[0][0].size <= _WHOLE else 0
                yield _ready(waiting.popleft())
        while waiting:
            yield _ready(waiting.popleft())


def _ready(
    row: tuple[Part, _Data, Future[list[Chunk]] | None],
) -> tuple[Part, _Data, Iterable[Chunk]]:
    part, data, read = row
    if read is not None:
        return part, data, read.result()
    return part, data, data.whole() if part.size <= _WHOLE else data


class _Data:
    """The bytes of a member as they go into the archive; counted and summed as they pass."""

    def __init__(self, chunks: Callable[[], Iterable[Chunk]], compress: bool) -> None:
        self.chunks = chunks
        self.compress = compress
        self.crc = 0
        self.packed = 0

    def whole(self) -> list[Chunk]:
        """Read the member whole."""
        return list(self)

    def __iter__(self) -> Iterator[Chunk]:
        # An object of a quarter megabyte, so none where it is not needed.
        deflater = None
        if self.compress:
            deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        for chunk in self.chunks():
            self.crc = zlib.crc32(chunk, self.crc)
            out = deflater.compress(chunk) if deflater else chunk
            self.packed += len(out)
            yield out
        if deflater:
            last = deflater.flush()
            self.packed += len(last)
            yield last


def _padding(offset: int, name: int, large: bool, align: int) -> bytes:
    """Give the extra field that aligns the data of a member whose header starts at `offset`."""
    gap = -(offset + LOCAL.size + name + (20 if large else 0)) % align
    while 0 < gap < 4:  # a field has a head of 4 bytes
        gap += align
    return struct.pack(f"<HH{gap - 4}x", _PADDING, gap - 4) if gap else b""


def _local(
    flags: int, method: int, data: _Data, size: int, raw: bytes, extra: bytes, large: bool
) -> bytes:
    crc, packed = (0, 0) if flags & STREAMED else (data.crc, data.packed)
    if flags & STREAMED:
        size = 0
    if large:
        extra = struct.pack("<HHQQ", 1, 16, size, packed) + extra
        packed = size = FULL32
    version = _VERSION64 if large else _VERSION
    head = LOCAL.pack(
        LOCAL_SIGN, version, flags, method, 0, _DATE, crc, packed, size, len(raw), len(extra)
    )
    return head + raw + extra


def _central(
    flags: int, method: int, data: _Data, size: int, raw: bytes, offset: int, large: bool
) -> bytes:
    extra = _wide(size, data.packed, offset, large)
    version = _VERSION64 if extra else _VERSION
    head = CENTRAL.pack(
        *(CENTRAL_SIGN, _UNIX | version, version, flags, method, 0, _DATE, data.crc),
        *((FULL32, FULL32) if large else (data.packed, size)),
        *(len(raw), len(extra), 0, 0, 0, _REGULAR_FILE, min(offset, FULL32)),
    )
    return head + raw + extra


def _wide(size: int, packed: int, offset: int, large: bool) -> bytes:
    """Give the extra field for what 32 bits are too narrow for."""
    values = [size, packed] if large else []
    if offset >= FULL32:
        values.append(offset)
    if not values:
        return b""
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values)


def _trailer(size: int) -> int:
    """Give the length of what follows the data."""
    if size <= _WHOLE:
        return 0
    return 24 if size >= _LARGE else 16


def _ending(count: int, length: int, start: int) -> bytes:
    """Give the end of an archive with `count` entries of `length` bytes in all from `start` on."""
    wide = b""
    if count >= FULL16 or length >= FULL32 or start >= FULL32:
        made = (END64.size - 12, _UNIX | _VERSION64, _VERSION64, 0, 0, count, count, length, start)
        wide = END64.pack(END64_SIGN, *made)
        wide += LOCATOR.pack(LOCATOR_SIGN, 0, start + length, 1)
    few = min(count, FULL16)
    short, low = min(length, FULL32), min(start, FULL32)
    return wide + END.pack(END_SIGN, 0, 0, few, few, short, low, 0)


def _encoded(name: str) -> bytes:
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise ArgumentError(f"{name!r} holds a lone surrogate", cure="Rename it.") from None
    if len(raw) > FULL16 or is_unsafe(name):
        raise ArgumentError(
            f"{name[:60]!r} cannot be the name of a member of a zip archive",
            cure="Rename it: no leading slash, no backslash, at most 65,535 bytes.",
        )
    return raw
