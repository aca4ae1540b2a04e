"""The files of PyTorch 0.1.10 to 1.5: pickles one behind the other, then the storages.

pickle    0x1950a86a20f9469cfc6c
pickle    1001, the version
pickle    {"little_endian": true, ...}
pickle    the nesting; a tensor names its storage
pickle    the keys of the storages, in order
storages  each the number of its elements in 8 bytes, then the elements
"""

from __future__ import annotations

from typing import Any

from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.formats.pytorch.reading import state_of
from tensorkeep.formats.pytorch.rebuilding import ALLOWED
from tensorkeep.formats.pytorch.storages import Storage, read_identifier, width_of
from tensorkeep.source import Source
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.wire.pickle.machine import read_pickle_in
from tensorkeep.wire.pickle.plain import PLAIN

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
_HEAD = 32
_SPELLED = MAGIC.to_bytes(10, "little"), str(MAGIC).encode()


def is_legacy(location: Location) -> bool:
    """A pickle of the magic number, of whatever protocol."""
    head = location.head[:_HEAD]
    return head[:1] in (b"\x80", b"L", b"I") and any(magic in head for magic in _SPELLED)


def decode_legacy(location: Location) -> State:
    """Read the pickles, and find where each storage starts."""
    source, where = location.source, location.where
    magic, at, _ = read_pickle_in(source, 0, allowed={})
    version, at, _ = read_pickle_in(source, at, allowed={})
    if magic != MAGIC or version != VERSION:
        raise UnsupportedError(
            "is not of the version 1001 of PyTorch's older files",
            where=where,
            cure="Save it again with a PyTorch that reads it.",
        )
    system, at, _ = read_pickle_in(source, at, allowed=PLAIN)
    storages = _Storages(where)
    unpickled = read_pickle_in(source, at, allowed=ALLOWED, persistent=storages.find)
    keys, at, _ = read_pickle_in(source, unpickled.end, allowed=PLAIN)
    little = system.get("little_endian") if isinstance(system, dict) else None
    if type(little) is not bool or type(keys) is not list:
        raise CorruptError("does not say how its storages are kept", where=where)
    storages.place(source, at, keys, swapped=not little)
    return state_of(unpickled, source.size, where, close=location.close)


class _Storages:
    """The storages that the pickle names; where they are is known once it is read."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.roots: dict[str, Storage] = {}
        self.views: list[tuple[Storage, Storage, int]] = []

    def find(self, identifier: Any) -> Any:
        """Give the storage, or the class, that the pickle means."""
        if type(identifier) is tuple and identifier[:1] == ("module",) and len(identifier) == 4:
            return identifier[1]  # a class, with its source code, which is left alone
        kind, key, numel = read_identifier(identifier, self.where)
        view = identifier[5] if len(identifier) > 5 else None
        root = self.roots.get(key)
        if root is None:
            root = self.roots[key] = Storage(kind, numel)
        elif (root.kind, root.numel) != (kind, numel):
            raise CorruptError(f"names the storage {key[:60]!r} in two ways", where=self.where)
        if view is None:
            return root
        if type(view) is not tuple or len(view) != 3 or not all(type(n) is int for n in view[1:]):
            raise CorruptError("names a view of a storage that is none", where=self.where)
        offset, length = view[1:]
        if not 0 <= offset <= offset + length <= numel:
            raise CorruptError("names a view that is not inside its storage", where=self.where)
        found = Storage(kind, length)
        self.views.append((found, root, offset))
        return found

    def place(self, source: Source, at: int, keys: list[Any], *, swapped: bool) -> None:
        """Find the storages one behind the other."""
        if set(map(type, keys)) - {str} or len(listed := set(keys)) != len(keys):
            raise CorruptError("lists the keys of its storages wrongly", where=self.where)
        if missing := [key for key in self.roots if key not in listed]:
            raise CorruptError(f"lacks the storage {missing[0][:60]!r}", where=self.where)
        for key in keys:
            root = self.roots.get(key)
            if root is None:
                raise CorruptError(
                    f"lists the storage {key[:60]!r}, which no tensor uses", where=self.where
                )
            at = place_storage(root, source, at, swapped=swapped)
        for view, root, offset in self.views:
            view.source, view.swapped = root.source, root.swapped
            view.start = root.start + offset * width_of(root.kind)


def place_storage(storage: Storage, source: Source, at: int, *, swapped: bool) -> int:
    """Note where a storage is that starts with the number of its elements; give where it ends.

    Raises:
        CorruptError: it is not of the size that it should have, or the file is too short.
    """
    numel = int.from_bytes(source.read(at, at + 8), "little")
    if numel != storage.numel:
        raise CorruptError(
            f"a storage at byte {at:,} has {numel:,} elements, not {storage.numel:,}",
            where=source.where,
        )
    storage.source, storage.start, storage.swapped = source, at + 8, swapped
    end = at + 8 + storage.nbytes
    if end > source.size:
        raise CorruptError(
            f"its storages need {end:,} bytes, but it has {source.size:,}",
            where=source.where,
            cure="It is cut short: fetch or save it again.",
        )
    return end
