"""Tar archives as folders of files, with nothing unpacked to disk; and their writing.

Read are the regular files of ustar, pax and GNU archives. An archive with anything that could
reach beyond itself is refused as a whole: links, devices, absolute paths, `..`, a name twice.

Facts from POSIX.1-2017 (pax) and from the GNU tar manual.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from tensorkeep.errors import (
    CorruptError,
    MissingError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.source import Source, Window
from tensorkeep.state import MAX_TENSORS
from tensorkeep.store import ReadOnlyStore

BLOCK = 512
SIGN = slice(257, 262)  # where a header says b"ustar"

_MOST_MEMBERS = MAX_TENSORS + 100_000
_MOST_EXTENDED = 64 << 10  # bytes of a long name or of pax records
_HEAD = 256  # bytes of each member that are kept with its place
_LINKS = {b"1": "a hard link", b"2": "a link"}
_DEVICES = {b"3": "a device", b"4": "a device", b"6": "a pipe"}


class Member(NamedTuple):
    """One regular file: where its bytes start, how many there are, and the first of them."""

    name: str
    start: int
    size: int
    head: bytes


def members(source: Source) -> Iterator[Member]:
    """Give the files of an archive in order, reading the headers alone.

    Raises:
        CorruptError: it is damaged or cut short.
        UnsafeError: a member is a link or a device, or its name leads out of a folder.
        UnsupportedError: a file with holes.
    """
    at, longer, pax = 0, "", {}
    for _ in range(_MOST_MEMBERS):
        if at + BLOCK > source.size:
            raise _cut(source.where)
        header = bytes(source.read(at, at + BLOCK))
        at += BLOCK
        if not header.strip(b"\0"):
            return
        kind, size = header[156:157], _checked_size(header, source.where)
        if kind in (b"x", b"L"):
            data = _extended(source, at, size)
            if kind == b"x":
                pax = _records(data, source.where)
            else:
                longer = _text(data.split(b"\0")[0], source.where)
        elif kind not in (b"g", b"K"):
            name = _safe(pax.get("path") or longer or _name(header, source.where), source.where)
            size = _pax_size(pax, size, source.where)
            _refuse(kind, name, pax, source.where)
            if at + size > source.size:
                raise _cut(source.where)
            if kind in (b"0", b"\0", b"7") and name:
                head = bytes(source.read(at, at + min(size, _HEAD)))
                yield Member(name, at, size, head)
            longer, pax = "", {}
        at += -(-size // BLOCK) * BLOCK
    raise UnsafeError(f"has more than {_MOST_MEMBERS:,} members", where=source.where)


def _checked_size(header: bytes, where: str) -> int:
    """Check the sum of a header, and give the size that it says."""
    bare = header[:148] + b" " * 8 + header[156:]
    known = _octal(header[148:156])
    # Some writers took the bytes for signed ones.
    if known != sum(bare) and known != sum(memoryview(bare).cast("b")):
        raise CorruptError(
            "a header in the archive does not fit its own checksum",
            where=where,
            cure="Use another copy of the file.",
        )
    field = header[124:136]
    size = int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)
    if size is None or size >= 1 << 60:
        raise CorruptError("a member of the archive has no size", where=where)
    return size


def _octal(field: bytes) -> int | None:
    digits = field.split(b"\0")[0].strip()
    return int(digits, 8) if re.fullmatch(rb"[0-7]+", digits) else None


def _name(header: bytes, where: str) -> str:
    name, prefix = header[:100].split(b"\0")[0], header[345:500].split(b"\0")[0]
    if header[257:263] == b"ustar\0" and prefix:
        name = prefix + b"/" + name
    return _text(name, where)


def _text(name: bytes, where: str) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise CorruptError(f"a member's name is not UTF-8: {name[:60]!r}", where=where) from None


def _extended(source: Source, at: int, size: int) -> bytes:
    if size > _MOST_EXTENDED:
        raise UnsafeError(
            f"an extended header of {size:,} bytes is over the limit of {_MOST_EXTENDED:,}",
            where=source.where,
        )
    if at + size > source.size:
        raise _cut(source.where)
    return bytes(source.read(at, at + size))


def _records(data: bytes, where: str) -> dict[str, str]:
    """Parse pax records: "LENGTH KEY=VALUE", each ending with a line break."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data):
        length = re.compile(rb"([0-9]{1,6}) ").match(data, at)
        stop = at + int(length[1]) if length else 0
        if length is None or stop <= length.end() or data[stop - 1 : stop] != b"\n":
            raise CorruptError("an extended header of the archive is damaged", where=where)
        key, equals, value = data[length.end() : stop - 1].partition(b"=")
        if not equals:
            raise CorruptError("an extended header of the archive is damaged", where=where)
        if key in (b"path", b"size") or key.startswith(b"GNU.sparse"):
            found[key.decode()] = _text(value, where)
        at = stop
    return found


def _pax_size(pax: dict[str, str], size: int, where: str) -> int:
    if "size" not in pax:
        return size
    if not re.fullmatch("[0-9]{1,18}", pax["size"]):
        raise CorruptError(f"a member of the archive has the size {pax['size']!r:.40}", where=where)
    return int(pax["size"])


def _safe(name: str, where: str) -> str:
    """Give a name as a path below the archive's root; empty for the root itself."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise UnsafeError(
            f"has a member called {name[:60]!r}, which could lead out of a folder", where=where
        )
    return "/".join(part for part in parts if part not in ("", "."))


def _refuse(kind: bytes, name: str, pax: dict[str, str], where: str) -> None:
    if what := _LINKS.get(kind) or _DEVICES.get(kind):
        raise UnsafeError(
            f"its member {name[:60]!r} is {what}, where a model has files alone", where=where
        )
    if kind == b"S" or any(key.startswith("GNU.sparse") for key in pax):
        raise UnsupportedError(
            f"its member {name[:60]!r} has holes",
            where=where,
            cure="Pack it without --sparse.",
        )


def _cut(where: str) -> CorruptError:
    return CorruptError(
        "the archive is cut short", where=where, cure="The download or save did not finish."
    )


class _File(Window):
    """A member, the first bytes of which are known already."""

    __slots__ = ("_head",)

    def __init__(self, inner: Source, member: Member) -> None:
        super().__init__(inner, member.start, member.size, f"{inner.where}: {member.name}")
        self._head = member.head

    def _read(self, start: int, stop: int) -> memoryview:
        if stop <= len(self._head):
            return memoryview(self._head)[start:stop]
        return super()._read(start, stop)


class TarFolder(ReadOnlyStore):
    """The files of an archive by their names; read only.

    Args:
        source: the archive, unpacked.

    Raises:
        CorruptError: it is damaged, or has a name twice.
        UnsafeError: it could reach beyond itself.
    """

    fixed = "an archive is read here, not written"

    def __init__(self, source: Source) -> None:
        self.where = source.where
        self._source = source
        self._members: dict[str, Member] = {}
        for member in members(source):
            if member.name in self._members:
                raise CorruptError(f"has the member {member.name[:60]!r} twice", where=source.where)
            self._members[member.name] = member

    def keys(self, prefix: str = "") -> Iterator[str]:
        yield from (name for name in self._members if name.startswith(prefix))

    def get(self, key: str) -> Source:
        if key not in self._members:
            raise MissingError(f"there is no member {key!r:.80}", where=self.where)
        return _File(self._source, self._members[key])


def member_header(name: str, size: int) -> bytes:
    """Give what stands before the bytes of a file: the same for the same name and size.

    >>> len(member_header("graph.nnef", 100)), len(member_header("ü.dat", 100))
    (512, 1536)
    """
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)


def padding(size: int) -> bytes:
    """Give the zeros that fill the last block of a file."""
    return bytes(-size % BLOCK)


END = bytes(2 * BLOCK)
