"""Tar archives: a header of 512 bytes before each member, whose bytes fill whole blocks of 512.

A header holds the name in 100 bytes, behind numbers in octal digits (or, in GNU's way, in base 256
behind a byte of 0x80): at 124 the size, at 148 the sum of the header's own bytes, counted with
spaces in the sum's place. At 156 stands the kind of member, at 257 "ustar", and at 345 what goes
before the name. Longer names and sizes stand in a member before the one they are meant for: pax
records (kind x) or GNU's long name (kind L). A block of zeros ends the archive.

Nothing is unpacked and no link is followed: members are places in the archive.

Facts from POSIX.1-2017 (pax) and from the GNU tar manual.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.source import Source

BLOCK = 512
SIGN = slice(257, 262)  # where a header says b"ustar"
FILES = frozenset((b"0", b"\0", b"7"))  # the kinds of plain files
LINKS = {b"1": "a hard link", b"2": "a link"}
DEVICES = {b"3": "a device", b"4": "a device", b"6": "a pipe"}
FOLDER = b"5"

_EMPTY = frozenset((*LINKS, *DEVICES, FOLDER))  # nothing follows their headers, whatever they say
_EXTENDED = frozenset(
    (b"x", b"X", b"L", b"g", b"K")
)  # about the next; the archive; a link's target
_MOST_EXTENDED = 64 << 10  # bytes of a long name or of pax records
_MOST_SIZE = 1 << 60
_BATCH = 512  # headers whose sums are checked at once
_ZEROS = bytes(BLOCK)
_AHEAD = 64 << 10
_SMALL = 16 << 10  # members up to here are read past rather than jumped over
_TAIL = 64 << 10  # bytes behind the end in which another archive is looked for
_LENGTH = re.compile(rb"([0-9]{1,6}) ")


class Member(NamedTuple):
    """One member: where its bytes start, how many there are, and the first of them.

    `name` is as the archive has it, bytes that are not UTF-8 as surrogates.
    """

    name: str
    kind: bytes
    start: int
    size: int
    head: bytes


def members(source: Source, head: int = 0, *, whole: bool = False) -> Iterator[Member]:
    """Give the members of an archive in order, reading the headers and `head` bytes of each.

    Args:
        source: the archive.
        head: how many of the first bytes of each member to give with it.
        whole: read ahead, in large pieces where members are small, and refuse another archive
            behind the end. Otherwise nothing is read but the headers and heads.

    Raises:
        CorruptError: it is damaged or cut short; raised after the members before were given.
        UnsafeError: an extended header is longer than any honest one.
        UnsupportedError: a file with holes, or another archive behind the end.

    >>> import io, tarfile
    >>> from tensorkeep.source import MemorySource
    >>> archive = io.BytesIO()
    >>> with tarfile.open(fileobj=archive, mode="w") as tar:
    ...     tar.addfile(tarfile.TarInfo("a.txt"))
    >>> [(m.name, m.start, m.size) for m in members(MemorySource(archive.getvalue()))]
    [('a.txt', 512, 0)]
    """
    walk = _Walk(source, head, whole)
    most = 1
    while not walk.done:
        found, error = walk.several(most)
        yield from found
        if error is not None:
            raise error
        most = min(2 * most, _BATCH)


def looks_like_tar(head: bytes) -> bool:
    """Tell an archive by its first block: a header whose sum is right.

    >>> looks_like_tar(bytes(512))
    False
    """
    header = bytes(head[:BLOCK])
    return len(header) == BLOCK and header != _ZEROS and not _wrong_sums([header])


class _Walk:
    """A walk from header to header. What a header says is believed once its sum was checked."""

    def __init__(self, source: Source, head: int, whole: bool) -> None:
        self.done = False
        self._whole = whole
        self._piece = b""  # what was read, and where that lies
        self._first = self._last = 0
        self._source = source
        self._head = head
        self._at = 0
        self._name = ""  # a long one, for the next member
        self._pax: dict[str, str] = {}

    def several(self, most: int) -> tuple[list[Member], TensorKeepError | None]:
        """Go over up to so many headers: the members that are sound, and what stopped it."""
        found: list[tuple[int, Member]] = []
        headers: list[bytes] = []
        error: TensorKeepError | None = None
        try:
            while len(headers) < most:
                header = self._next()
                if header == _ZEROS:
                    self.done = True
                    if self._whole:
                        self._look_behind()
                    break
                headers.append(header)
                member = self._member(header)
                if member is not None:
                    found.append((len(headers), member))
        except TensorKeepError as reason:
            error = reason
        if wrong := _wrong_sums(headers):
            found = [row for row in found if row[0] <= wrong[0]]
            error = CorruptError(
                "a header in the archive does not fit its own checksum",
                where=self._source.where,
                cure="Use another copy of the file.",
            )
        return [member for _, member in found], error

    def _next(self) -> bytes:
        at = self._at
        if at + BLOCK > self._source.size:
            raise _cut(self._source.where)
        self._at = at + BLOCK
        return self._bytes(at, at + BLOCK)

    def _bytes(self, start: int, stop: int) -> bytes:
        first = self._first
        if first <= start and stop <= self._last:
            return self._piece[start - first : stop - first]
        if not self._whole:
            return bytes(self._source.read(start, stop))
        # Read rather than mapped, since touching a page of a map brings in many around it.
        small = start - first <= _AHEAD + _SMALL
        end = max(stop, min(self._source.size, start + (_AHEAD if small else 2 * BLOCK)))
        piece = bytearray(end - start)
        self._source.readinto(start, memoryview(piece))
        self._piece, self._first, self._last = bytes(piece), start, end
        return self._piece[: stop - start]

    def _member(self, header: bytes) -> Member | None:
        """Take a header for what it is, and go to the next."""
        source, start, kind = self._source, self._at, header[156:157]
        size = _number(header[124:136])
        if kind in _EMPTY:
            size = 0
        if size is None or size >= _MOST_SIZE:
            raise CorruptError("a member of the archive has no size", where=source.where)
        if kind in _EXTENDED:
            if kind == b"L":
                self._name = _text(self._extended(start, size).split(b"\0")[0])
            elif kind in b"xX":
                self._pax = _records(self._extended(start, size), source.where)
            self._at = start + size + -size % BLOCK
            return None
        pax, name = self._pax, self._name
        if pax or name:
            name = pax.get("path") or name
            if kind not in _EMPTY:
                size = _pax_size(pax, size, source.where)
            self._name, self._pax = "", {}
        if not name:
            name = _name(header)
        if kind == b"S" or (pax and any(key.startswith("GNU.sparse") for key in pax)):
            raise UnsupportedError(
                f"its member {name[:60]!r} has holes",
                where=source.where,
                cure="Pack it without --sparse.",
            )
        stop = start + size
        if stop > source.size:
            raise _cut(source.where)
        self._at = stop + -size % BLOCK
        head = self._bytes(start, min(stop, start + self._head)) if self._head else b""
        return Member(name, FOLDER if _is_old_folder(kind, name) else kind, start, size, head)

    def _extended(self, start: int, size: int) -> bytes:
        source = self._source
        if size > _MOST_EXTENDED:
            raise UnsafeError(
                f"an extended header of {size:,} bytes is over the limit of {_MOST_EXTENDED:,}",
                where=source.where,
            )
        if start + size > source.size:
            raise _cut(source.where)
        return self._bytes(start, start + size)

    def _look_behind(self) -> None:
        """Refuse archives that were joined by `cat`, whose later parts everyone would miss."""
        source = self._source
        for at in range(self._at, min(source.size - BLOCK + 1, self._at + _TAIL), BLOCK):
            block = self._bytes(at, at + BLOCK)
            if block == _ZEROS:
                continue
            if block[SIGN] == b"ustar":
                raise UnsupportedError(
                    f"another archive begins at byte {at:,}, behind the end",
                    where=source.where,
                    cure="Keep the archives in files of their own, or join them by "
                    "tar --concatenate.",
                )
            return


def _wrong_sums(headers: list[bytes]) -> list[int]:
    """Say which headers do not have the sum that they tell."""
    if not headers:
        return []
    blocks = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, BLOCK)
    around = 8 * ord(" ") - blocks[:, 148:156].sum(axis=1, dtype=np.int64)
    sums = (blocks.sum(axis=1, dtype=np.int64) + around).tolist()
    told = [_number(header[148:156]) for header in headers]
    return [
        i
        for i, (found, known) in enumerate(zip(sums, told, strict=True))
        if found != known and known != _signed_sum(headers[i])
    ]


def _signed_sum(header: bytes) -> int:
    """Sum as those writers did that took the bytes for signed ones."""
    return sum(memoryview(header[:148] + b" " * 8 + header[156:]).cast("b"))


@lru_cache(4096)  # sizes and sums repeat
def _number(field: bytes) -> int | None:
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else None


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if header[345] and header[257:263] == b"ustar\0":
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return _text(name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _is_old_folder(kind: bytes, name: str) -> bool:
    return kind == b"\0" and name.endswith("/")


def _records(data: bytes, where: str) -> dict[str, str]:
    """Parse pax records: "LENGTH KEY=VALUE", each ending with a line break."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        length = _LENGTH.match(data, at)
        stop = at + int(length[1]) if length else 0
        if length is None or stop <= length.end() or data[stop - 1 : stop] != b"\n":
            raise CorruptError("an extended header of the archive is damaged", where=where)
        key, equals, value = data[length.end() : stop - 1].partition(b"=")
        if not equals:
            raise CorruptError("an extended header of the archive is damaged", where=where)
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse"):
            found[_text(key)] = _text(value)
        at = stop
    return found


def _pax_size(pax: dict[str, str], size: int, where: str) -> int:
    if "size" not in pax:
        return size
    if not re.fullmatch("[0-9]{1,18}", pax["size"]):
        raise CorruptError(f"a member of the archive has the size {pax['size']!r:.40}", where=where)
    return int(pax["size"])


def _cut(where: str) -> CorruptError:
    return CorruptError(
        "the archive is cut short", where=where, cure="The download or save did not finish."
    )
