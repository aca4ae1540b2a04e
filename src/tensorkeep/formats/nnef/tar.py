"""Tar archives as folders of files, with nothing unpacked to disk; and their writing.

Read are the regular files of ustar, pax and GNU archives. An archive with anything that could
reach beyond itself is refused as a whole: links, devices, absolute paths, `..`, a name twice.

The grammar is that of tensorkeep.wire.tar.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator

from tensorkeep.errors import CorruptError, MissingError, UnsafeError
from tensorkeep.source import Source, Window
from tensorkeep.state import MAX_TENSORS
from tensorkeep.store import ReadOnlyStore
from tensorkeep.wire import tar
from tensorkeep.wire.tar import BLOCK, DEVICES, FILES, LINKS, SIGN, Member

_MOST_MEMBERS = MAX_TENSORS + 100_000
_HEAD = 256  # bytes of each member that are kept with its place


def members(source: Source) -> Iterator[Member]:
    """Give the files of an archive in order, reading the headers alone.

    Raises:
        CorruptError: it is damaged or cut short.
        UnsafeError: a member is a link or a device, or its name leads out of a folder.
        UnsupportedError: a file with holes.
    """
    for number, member in enumerate(tar.members(source, _HEAD)):
        if number >= _MOST_MEMBERS:
            raise UnsafeError(f"has more than {_MOST_MEMBERS:,} members", where=source.where)
        name = _safe(member.name, source.where)
        if what := LINKS.get(member.kind) or DEVICES.get(member.kind):
            raise UnsafeError(
                f"its member {name[:60]!r} is {what}, where a model has files alone",
                where=source.where,
            )
        if member.kind in FILES and name:
            yield member._replace(name=name)


def _safe(name: str, where: str) -> str:
    """Give a name as a path below the archive's root; empty for the root itself."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raw = name.encode("utf-8", "surrogateescape")
        raise CorruptError(f"a member's name is not UTF-8: {raw[:60]!r}", where=where) from None
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise UnsafeError(
            f"has a member called {name[:60]!r}, which could lead out of a folder", where=where
        )
    return "/".join(part for part in parts if part not in ("", "."))


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

__all__ = ["END", "SIGN", "TarFolder", "member_header", "members", "padding"]
