"""The zip archives of PyTorch 1.6 and later, TorchScript's among them.

    NAME/data.pkl            the nesting; a tensor names its storage
    NAME/data/KEY            the storages, each the bytes of its elements, mostly not compressed
    NAME/byteorder           "little" or "big"; little where it is missing
    NAME/version             and other members, which nothing here depends on
    NAME/code/...            TorchScript: the program; never read

CRC-32s of zero are those that PyTorch did not compute. Facts from torch 2.13's serialization.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from tensorkeep.errors import CorruptError, TensorKeepError, UnsafeError, UnsupportedError
from tensorkeep.formats.pytorch.noted import NOTES, Noted, read_note
from tensorkeep.formats.pytorch.reading import state_of
from tensorkeep.formats.pytorch.rebuilding import ALLOWED
from tensorkeep.formats.pytorch.storages import Storage, read_identifier
from tensorkeep.source import MemorySource, Source
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.wire.pickle.machine import Unpickled, read_pickle
from tensorkeep.wire.zip import (
    DEFLATED,
    MAGIC,
    Inflated,
    Member,
    check_member,
    data_start,
    member_names,
    open_member,
    read_directory,
)

_PICKLE = "data.pkl"
_MAX_PICKLE = 1 << 30
_MAX_NOTES = 64 << 20


def is_archive(location: Location) -> bool:
    """A zip archive with a data.pkl, or an exported program."""
    if not location.head.startswith(MAGIC):
        return False
    try:
        names = list(member_names(location.source))
    except TensorKeepError:
        return False
    return any(_is_pickle(name) or _is_exported(name) for name in names)


def _is_pickle(name: bytes) -> bool:
    return name == b"data.pkl" or (name.endswith(b"/data.pkl") and name.count(b"/") == 1)


def _is_exported(name: bytes) -> bool:
    return name.endswith(b"archive_format") and name.count(b"/") < 2


class Archive(NamedTuple):
    """What an archive holds: its pickle, our notes, whether a program; and what closes it."""

    unpickled: Unpickled
    noted: Noted | None
    program: bool
    checked: bool
    close: Callable[[], None]


def decode_archive(location: Location) -> State:
    """Read the directory and the pickle; the storages stay where they are."""
    archive = read_archive(location.source, location.where)

    def close() -> None:
        archive.close()
        location.close()

    return state_of(
        archive.unpickled,
        location.source.size,
        location.where,
        close=close,
        noted=archive.noted,
        check=_checked if archive.checked else None,
        told=("the code of its TorchScript program is left out",) if archive.program else (),
    )


def read_archive(source: Source, where: str) -> Archive:
    """Read the directory and the pickle of an archive.

    Raises:
        CorruptError: either is damaged.
        UnsafeError: they are made to exhaust their reader.
        UnsupportedError: it is an archive of another kind.
    """
    members = read_directory(source)
    pickles = [name for name in members if _is_pickle(name.encode())]
    if len(pickles) != 1:
        if any(_is_exported(name.encode()) for name in members):
            raise UnsupportedError(
                "is a program that torch.export wrote, which is not read here",
                where=where,
                cure="Load it with torch.export.load and save its state_dict().",
            )
        raise CorruptError(f"has {len(pickles)} members called {_PICKLE}, not one", where=where)
    prefix = pickles[0].removesuffix(_PICKLE)
    opened = _Storages(source, members, prefix, where)
    for name, member in members.items():  # a damaged name would be one that nobody asks for
        if not name.startswith(f"{prefix}data/"):
            data_start(opened.quick, member)
    unpickled = read_pickle(
        _content(source, members[pickles[0]], _MAX_PICKLE),
        where,
        allowed=ALLOWED,
        persistent=opened.find,
    )
    note = members.get(prefix + NOTES)
    noted = None
    if note is not None:
        noted = read_note(bytes(_content(source, note, _MAX_NOTES)), where)
    program = any(name.startswith(f"{prefix}code/") for name in members)
    return Archive(unpickled, noted, program, bool(members[pickles[0]].crc), opened.close)


def _checked() -> None:
    """Do nothing: the pickle was checked when the file was opened."""


def _content(source: Source, member: Member, most: int) -> memoryview:
    """Read a member whole, and check it where it has a checksum."""
    if member.size > most:
        raise UnsafeError(
            f"its member {member.name!r} of {member.size:,} bytes is over the limit of {most:,}",
            where=source.where,
        )
    if member.crc:
        check_member(source, member)
    return open_member(source, member).read(0, member.size)


class _Storages:
    """The storages of an archive, each found when the pickle first names it."""

    def __init__(self, source: Source, members: dict[str, Member], prefix: str, where: str) -> None:
        self.source = source
        # Thousands of headers are read here: through one view where that costs nothing.
        self.quick = MemorySource(source.read(0, source.size), where) if source.mapped else source
        self.members = members
        self.prefix = prefix
        self.where = where
        self.swapped = self._byte_order() == b"big"
        self.found: dict[str, Storage] = {}
        self.inflated: list[Inflated] = []

    def close(self) -> None:
        for source in self.inflated:
            source.close()

    def _byte_order(self) -> bytes:
        member = self.members.get(f"{self.prefix}byteorder")
        if member is None:
            return b"little"
        order = bytes(_content(self.source, member, 64))
        if order not in (b"little", b"big"):
            raise CorruptError(f"its byte order is {order!r}", where=self.where)
        return order

    def find(self, identifier: Any) -> Storage:
        """Give the storage that the pickle means."""
        kind, key, numel = read_identifier(identifier, self.where)
        storage = self.found.get(key)
        if storage is not None:
            if (storage.kind, storage.numel) != (kind, numel):
                raise CorruptError(f"names the storage {key[:60]!r} in two ways", where=self.where)
            return storage
        storage = self.found[key] = Storage(kind, numel)
        member = self.members.get(f"{self.prefix}data/{key}")
        if member is None:
            if storage.nbytes:
                raise CorruptError(f"lacks the storage {key[:60]!r}", where=self.where)
            return storage
        if member.size != storage.nbytes:
            raise CorruptError(
                f"the storage {key[:60]!r} takes {storage.nbytes:,} bytes, but its member has "
                f"{member.size:,}",
                where=self.where,
                cure="It is cut short, or its header lies about sizes.",
            )
        start = data_start(self.quick, member)
        if member.method == DEFLATED:
            inflated = Inflated(self.source, member, start)
            self.inflated.append(inflated)
            storage.source = inflated
        else:
            storage.source, storage.start = self.source, start
        storage.swapped = self.swapped
        if member.crc:
            storage.check = _once(partial(check_member, self.source, member))
        return storage


def _once(check: Callable[[], None]) -> Callable[[], None]:
    """Give a check that is done for the first tensor of a storage alone, if it is sound."""
    passed = False

    def checked() -> None:
        nonlocal passed
        if not passed:
            check()
            passed = True

    return checked
