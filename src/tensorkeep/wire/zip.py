"""Zip archives, as far as tensor formats use them: stored or deflated members, zip64, CRC-32.

The directory at the end is what counts. A member's local header is read when its bytes are, and has
to agree with the directory. Nothing is ever written to a path, but names that could lead out of a
folder are refused all the same. Deflated members are inflated when they are first read, into
exactly the size that the directory declares.

Facts from PKWARE's APPNOTE 6.3.10.
"""

from __future__ import annotations

import re
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
from tensorkeep.source import Source, Window
from tensorkeep.state import MAX_TENSORS
from tensorkeep.store import Chunk

STORED, DEFLATED = 0, 8

_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
STREAMED = 0x0008  # the sizes and the CRC-32 follow the data
UTF8 = 0x0800
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
_MAX_MEMBERS = MAX_TENSORS + 100
_MAX_COMMENT = 0xFFFF
_PIECE = 1 << 20
_MAX_RATIO = 1032  # deflate cannot do better
_BOMB_SIZE, _BOMB_RATIO = 1 << 30, 200

LOCAL_SIGN, CENTRAL_SIGN, TRAILER_SIGN = b"PK\x03\x04", b"PK\x01\x02", b"PK\x07\x08"
END_SIGN, END64_SIGN, LOCATOR_SIGN = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
MAGIC = (LOCAL_SIGN, END_SIGN)  # of the first member, or of an empty archive

# Signature, version needed, flags, method, time, date, CRC-32, packed size, size, and the lengths
# of the name and of the extra fields.
LOCAL = struct.Struct("<4sHHHHHIIIHH")
# The same behind the maker's version; then the length of a comment, the disk, two kinds of
# attributes, and where the local header starts.
CENTRAL = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LENGTHS = struct.Struct("<HHH")
END = struct.Struct("<4sHHHHIIH")
END64 = struct.Struct("<4sQHHIIQQQQ")
LOCATOR = struct.Struct("<4sIQI")


class Member(NamedTuple):
    """One entry of the directory.

    `packed` is its length in the archive, `header` where its local header starts, and its data
    ends before `limit`.
    """

    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    header: int
    limit: int


def read_directory(source: Source) -> dict[str, Member]:
    r"""Read the directory and check its entries against one another and against the file.

    Raises:
        CorruptError: it is damaged, cut short or contradicts itself.
        UnsafeError: it is made to exhaust or to mislead its reader.
        UnsupportedError: the archive is encrypted, split, or compressed in another way.

    >>> from tensorkeep.source import MemorySource
    >>> list(read_directory(MemorySource(b"PK\x05\x06" + bytes(18))))
    []
    """
    count, start, stop = _find_directory(source)
    rows = _parse_directory(bytes(source.read(start, stop)), count, source.where)
    return _checked(rows, start, source.where)


def data_start(source: Source, member: Member) -> int:
    """Find where a member's data starts, and check its local header.

    Raises:
        CorruptError: the header is not the one that the directory describes.
    """
    raw = member.name.encode(_codec(member.flags, member.name))
    fixed = member.header + LOCAL.size
    head = source.read(member.header, fixed + len(raw))
    sign, _, flags, method, _, _, crc, packed, size, length, extra = LOCAL.unpack_from(head)
    start: int = fixed + length + extra
    agrees = (
        sign == LOCAL_SIGN
        and method == member.method
        and not (flags ^ member.flags) & (_ENCRYPTED | UTF8)
        and length == len(raw)
        and head[LOCAL.size :] == raw
        and start + member.packed <= member.limit
    )
    if agrees and not flags & STREAMED:
        agrees = (
            crc == member.crc
            and packed in (member.packed, FULL32)
            and size in (member.size, FULL32)
        )
    if not agrees:
        raise CorruptError(
            f"the header of the member {member.name!r} differs from the directory's entry",
            where=source.where,
        )
    return start


def open_member(source: Source, member: Member) -> Source:
    """Give a member's bytes; deflated ones are inflated on the first read, and kept.

    Raises:
        CorruptError: its local header is damaged.
    """
    start = data_start(source, member)
    if member.method == DEFLATED:
        return Inflated(source, member, start)
    return Window(source, start, member.size, f"{source.where}: {member.name}")


def check_member(source: Source, member: Member) -> None:
    """Read a member through and compare its CRC-32.

    Raises:
        CorruptError: it differs.
    """
    start = data_start(source, member)
    if member.method == DEFLATED:
        for _ in Inflated(source, member, start).pieces():
            pass
        return
    crc, stop = 0, start + member.size
    for at in range(start, stop, _PIECE):
        crc = zlib.crc32(source.read(at, min(at + _PIECE, stop)), crc)
    if crc != member.crc:
        raise _damaged(member, crc, source.where)


class Inflated(Source):
    """A deflated member: inflated once, when it is first read, into the size that it declares."""

    __slots__ = ("_data", "_inner", "_lock", "_member", "_start")

    def __init__(self, inner: Source, member: Member, start: int) -> None:
        self._inner = inner
        self._member = member
        self._start = start
        self._data: memoryview | None = None
        self._lock = threading.Lock()
        super().__init__(member.size, f"{inner.where}: {member.name}")

    def close(self) -> None:
        self._data = None

    def head(self, count: int) -> memoryview:
        """Give the first bytes, inflating no more than those."""
        if self._data is not None:
            return self._data[:count]
        stop = self._start + min(self._member.packed, 2 * count + 1024)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            data = inflater.decompress(self._inner.read(self._start, stop), count)
        except zlib.error as error:
            raise self._broken(error) from None
        short = len(data) < min(count, self.size)
        return self.read(0, min(count, self.size)) if short else memoryview(data)

    def pieces(self) -> Iterator[bytes]:
        """Inflate from the start, a piece at a time; all of it is checked once it is through.

        Raises:
            CorruptError: the data is damaged, or not of the declared size.
        """
        crc = done = 0
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        stop = self._start + self._member.packed
        for at in range(self._start, stop, _PIECE):
            waiting: Chunk = self._inner.read(at, min(at + _PIECE, stop))
            full = True
            while (waiting or full) and not inflater.eof:  # a full piece may leave output behind
                try:
                    piece = inflater.decompress(waiting, _PIECE)
                except zlib.error as error:
                    raise self._broken(error) from None
                waiting, full = inflater.unconsumed_tail, len(piece) == _PIECE
                done += len(piece)
                if done > self.size:
                    raise self._broken(f"it holds more than the {self.size:,} bytes declared")
                crc = zlib.crc32(piece, crc)
                yield piece
        if done != self.size or not inflater.eof:
            raise self._broken(f"{done:,} bytes come out, not {self.size:,}")
        if crc != self._member.crc:
            raise _damaged(self._member, crc, self._inner.where)

    def _read(self, start: int, stop: int) -> memoryview:
        with self._lock:
            if self._data is None:
                fresh = memoryview(bytearray(self.size))
                at = 0
                for piece in self.pieces():
                    fresh[at : at + len(piece)] = piece
                    at += len(piece)
                self._data = fresh.toreadonly()
            return self._data[start:stop]

    def _broken(self, problem: object) -> CorruptError:
        return CorruptError(
            f"its compressed data is damaged: {problem}",
            where=self.where,
            cure="Use another copy of the file.",
        )


def member_names(source: Source) -> Iterator[bytes]:
    """Give the raw names in the directory, and no more, for telling formats apart.

    Raises:
        CorruptError: there is no sound directory.
    """
    count, start, stop = _find_directory(source)
    data = bytes(source.read(start, stop))
    at, unpack = 0, _LENGTHS.unpack_from
    for _ in range(count):
        if at + CENTRAL.size > len(data):
            raise _short(source.where)
        name, extra, comment = unpack(data, at + 28)
        at += CENTRAL.size + name + extra + comment
        yield data[at - name - extra - comment : at - extra - comment]


def _find_directory(source: Source) -> tuple[int, int, int]:
    """Find the directory: how many entries, where it starts and stops."""
    size, where = source.size, source.where
    begin = max(0, size - END.size)
    tail = bytes(source.read(begin, size))
    if not tail.startswith(END_SIGN):  # a comment stands behind it
        begin = max(0, begin - _MAX_COMMENT)
        tail = bytes(source.read(begin, size))
    at = tail.rfind(END_SIGN, 0, max(0, len(tail) - END.size + 4))
    if at < 0:
        raise CorruptError(
            "is not a zip archive, or its end is missing",
            where=where,
            cure="It is cut short: fetch or save it again.",
        )
    _, disk, first_disk, here, count, length, start, comment = END.unpack_from(tail, at)
    end = begin + at
    if end + END.size + comment != size:
        raise CorruptError("something follows the end of the zip archive", where=where)
    if (disk or first_disk or here != count) and FULL16 not in (disk, first_disk, here, count):
        raise UnsupportedError("is one part of a split zip archive", where=where)
    if end >= LOCATOR.size + END64.size:
        locator = source.read(end - LOCATOR.size, end)
        if locator[:4] == LOCATOR_SIGN:
            end, count, length, start = _zip64_end(source, end - LOCATOR.size)
    if start + length != end:
        raise CorruptError(
            f"its directory should take bytes {start:,} to {start + length:,}, but the end of the "
            f"archive is at {end:,}",
            where=where,
            cure="It is damaged, or something stands before or inside it.",
        )
    if count > _MAX_MEMBERS:
        raise UnsafeError(f"lists {count:,} members, over {_MAX_MEMBERS:,}", where=where)
    if count * CENTRAL.size > length:
        raise CorruptError(
            f"says it lists {count:,} members in {length:,} bytes, which is too few", where=where
        )
    return count, start, end


def _zip64_end(source: Source, locator: int) -> tuple[int, int, int, int]:
    _, disk, at, disks = LOCATOR.unpack(source.read(locator, locator + LOCATOR.size))
    if at + END64.size > locator:
        raise CorruptError("its zip64 end is outside the file", where=source.where)
    record = END64.unpack(source.read(at, at + END64.size))
    sign, length, _, _, disk_here, first_disk, here, count, size, start = record
    if sign != END64_SIGN or at + 12 + length != locator or here != count:
        raise CorruptError("its zip64 end is damaged", where=source.where)
    if disk or disk_here or first_disk or disks > 1:
        raise UnsupportedError("is one part of a split zip archive", where=source.where)
    return at, count, size, start


_Row = tuple[str, int, int, int, int, int, int]  # a Member without its limit


def _parse_directory(data: bytes, count: int, where: str) -> list[_Row]:
    rows: list[_Row] = []
    at, width, unpack = 0, CENTRAL.size, CENTRAL.unpack_from
    for _ in range(count):
        if at + width > len(data):
            raise _short(where)
        sign, _, _, flags, method, _, _, crc, packed, size, *rest = unpack(data, at)
        n, extra, comment, disk, _, _, offset = rest
        begin = at + width
        at = begin + n + extra + comment
        if sign != CENTRAL_SIGN or at > len(data):
            raise _short(where)
        raw = data[begin : begin + n]
        try:
            name = raw.decode(_codec(flags, raw))
        except UnicodeDecodeError:
            problem = f"a member's name is not UTF-8: {raw[:60]!r}"
            raise CorruptError(problem, where=where) from None
        if FULL32 in (size, packed, offset):
            field = _zip64_field(data[begin + n : begin + n + extra])
            try:
                size, packed, offset = _widen((size, packed, offset), field)
            except struct.error:
                raise CorruptError(
                    f"the zip64 sizes of {name!r} are missing", where=where
                ) from None
        if flags & _ENCRYPTED or method not in (STORED, DEFLATED) or disk not in (0, FULL16):
            raise _unreadable(name, flags, method, where)
        rows.append((name, flags, method, crc, packed, size, offset))
    if at != len(data):
        raise _short(where)
    return rows


def _short(where: str) -> CorruptError:
    return CorruptError("its directory is damaged", where=where, cure="Use another copy.")


def _zip64_field(extra: bytes) -> bytes:
    """Find the extra field that holds the sizes that 32 bits are too narrow for."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return b""


def _widen(values: tuple[int, int, int], field: bytes) -> Iterator[int]:
    at = 0
    for value in values:
        if value == FULL32:
            (value,) = struct.unpack_from("<Q", field, at)
            at += 8
        yield value


def _unreadable(name: str, flags: int, method: int, where: str) -> UnsupportedError:
    if flags & _ENCRYPTED:
        return UnsupportedError(
            f"the member {name!r} is encrypted", where=where, cure="Decrypt the archive first."
        )
    return UnsupportedError(
        f"the member {name!r} is compressed by method {method} or lies on another disk",
        where=where,
        cure="Pack the archive again, stored or deflated.",
    )


def _codec(flags: int, name: str | bytes) -> str:
    return "utf-8" if flags & UTF8 or name.isascii() else "cp437"


_UNSAFE = re.compile(r"[\0\\]|\A/|(?:\A|/)\.\.(?:/|\Z)")


def is_unsafe(name: str) -> bool:
    """Say whether a name could lead out of the folder that an archive is unpacked in."""
    return _UNSAFE.search(name) is not None


def _checked(rows: list[_Row], end: int, where: str) -> dict[str, Member]:
    """Check the entries against one another, and find how far each member may reach."""
    joined = "\n" + "\n".join([row[0] for row in rows])
    if any(mark in joined for mark in ("\0", "\\", "..", "\n/")):
        for row in rows:
            if is_unsafe(row[0]):
                raise UnsafeError(
                    f"has a member called {row[0][:60]!r}, which could lead out of a folder",
                    where=where,
                )
    starts = sorted([row[6] for row in rows])
    limits = dict(zip(starts, [*starts, end][1:], strict=True))
    members: dict[str, Member] = {}
    size = packed = 0
    for row in rows:
        member = Member(*row, limits[row[6]])
        if member.header + LOCAL.size + len(member.name) + member.packed > member.limit:
            raise CorruptError(
                f"the member {member.name!r} does not fit before byte {member.limit:,}, where the "
                "next one or the directory starts",
                where=where,
            )
        if member.method == STORED and member.packed != member.size:
            raise CorruptError(f"the stored member {member.name!r} has two sizes", where=where)
        if member.size > _MAX_RATIO * member.packed:
            raise CorruptError(
                f"the member {member.name!r} says that {member.packed:,} bytes hold "
                f"{member.size:,}, which deflate cannot do",
                where=where,
            )
        members[member.name] = member
        size += member.size
        packed += member.packed
    if len(members) != len(rows) or len(limits) != len(rows):
        raise CorruptError("lists a member twice", where=where)
    if size > _BOMB_SIZE and size > _BOMB_RATIO * packed:
        raise UnsafeError(
            f"would grow from {packed:,} to {size:,} bytes, which only a zip bomb does",
            where=where,
        )
    return members


def _damaged(member: Member, crc: int, where: str) -> CorruptError:
    return CorruptError(
        f"the member {member.name!r} is damaged: its CRC-32 is {crc:08x}, {member.crc:08x} was "
        "saved",
        where=where,
        cure="Use another copy of the file.",
    )
