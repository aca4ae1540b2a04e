"""The tar archives of PyTorch before 0.1.10.

sys_info   a pickle
storages   a pickle of their number; for each a pickle (KEY, LOCATION, CLASS), the number of
           its elements in 8 bytes, and the elements; at the end a pickle of views
           [(KEY, ROOT, OFFSET, LENGTH), ...]
tensors    a pickle of their number; for each a pickle (KEY, STORAGE, CLASS), the number of
           axes in 8 bytes, their sizes, their strides and the offset, 8 bytes each
pickle     the nesting; a tensor or storage is a persistent identifier, its key
"""

from __future__ import annotations

import struct
from typing import Any

from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.formats.pytorch.legacy import place_storage
from tensorkeep.formats.pytorch.reading import state_of
from tensorkeep.formats.pytorch.rebuilding import ALLOWED, Rebuilt
from tensorkeep.formats.pytorch.storages import Storage, storage_kind, width_of
from tensorkeep.source import Source, Window
from tensorkeep.state import MAX_TENSORS, State
from tensorkeep.store import Location
from tensorkeep.wire.pickle.machine import read_pickle_in
from tensorkeep.wire.pickle.plain import PLAIN
from tensorkeep.wire.pickle.values import shown

_BLOCK = 512
_MEMBERS = ("sys_info", "pickle", "tensors", "storages")
_MAX_ENTRIES = 100
_MAX_AXES = 64


def is_tar(location: Location) -> bool:
    """A tar archive that starts with one of the four members."""
    head = location.head
    name = head[:100].rstrip(b"\0").removeprefix(b"./")
    return head[257:262] == b"ustar" and name in [member.encode() for member in _MEMBERS]


def decode_tar(location: Location) -> State:
    """Read the pickles, and find where each storage starts."""
    source, where = location.source, location.where
    members = _read_members(source)
    if missing := [name for name in _MEMBERS[1:] if name not in members]:
        raise CorruptError(f"lacks the member {missing[0]!r}", where=where)
    system: Any = {}
    if "sys_info" in members:
        system = read_pickle_in(members["sys_info"], 0, allowed=PLAIN).value
    swapped = isinstance(system, dict) and system.get("little_endian") is False
    objects: dict[int, Any] = dict(_storages(members["storages"], swapped=swapped))
    objects |= _tensors(members["tensors"], objects)

    def find(identifier: Any) -> Any:
        if type(identifier) is tuple and identifier:
            return identifier[0]  # a class, with its source code, which is left alone
        try:
            return objects[int(identifier)]
        except (KeyError, ValueError, TypeError):
            raise CorruptError(
                f"its pickle names the object {shown(identifier)}, which is not there",
                where=where,
            ) from None

    unpickled = read_pickle_in(members["pickle"], 0, allowed=ALLOWED, persistent=find)
    return state_of(unpickled, source.size, where, close=location.close)


def _read_members(source: Source) -> dict[str, Source]:
    """Find the members by their headers."""
    members: dict[str, Source] = {}
    at = 0
    for _ in range(_MAX_ENTRIES):
        if at + _BLOCK > source.size:
            break
        head = bytes(source.read(at, at + _BLOCK))
        if not head.strip(b"\0"):
            break
        name = head[:100].split(b"\0")[0].removeprefix(b"./").decode("latin-1")
        try:
            size = int(head[124:136].strip(b" \0") or b"0", 8)
        except ValueError:
            raise CorruptError("a member of its archive has no size", where=source.where) from None
        at += _BLOCK
        if head[156:157] in (b"0", b"\0") and name in _MEMBERS:
            if name in members:
                raise CorruptError(f"has the member {name!r} twice", where=source.where)
            members[name] = Window(source, at, size)
        at += -(-size // _BLOCK) * _BLOCK
    return members


def _count(source: Source) -> tuple[int, int]:
    count, at, _ = read_pickle_in(source, 0, allowed={})
    if type(count) is not int or count < 0:
        raise CorruptError("a member does not say how much it holds", where=source.where)
    if count > MAX_TENSORS:
        raise UnsafeError(f"it holds more than {MAX_TENSORS:,} tensors", where=source.where)
    return count, at


def _row(source: Source, at: int) -> tuple[Any, Any, Any, int]:
    row, at, _ = read_pickle_in(source, at, allowed=ALLOWED)
    if type(row) is not tuple or len(row) != 3 or type(row[0]) is not int:
        raise CorruptError("a member holds what is no entry", where=source.where)
    return *row, at


def _storages(source: Source, *, swapped: bool) -> dict[int, Storage]:
    count, at = _count(source)
    found: dict[int, Storage] = {}
    for _ in range(count):
        key, _, cls, at = _row(source, at)
        numel = int.from_bytes(source.read(at, at + 8), "little")
        found[key] = Storage(storage_kind(cls, source.where), numel)
        at = place_storage(found[key], source, at, swapped=swapped)
    views = read_pickle_in(source, at, allowed=PLAIN).value
    for view in views if type(views) is list else ():
        whole = type(view) is tuple and len(view) == 4 and all(type(n) is int for n in view)
        root = found.get(view[1]) if whole else None
        if root is None or not 0 <= view[2] <= view[2] + view[3] <= root.numel:
            raise CorruptError("has a view of a storage that is none", where=source.where)
        made = found[view[0]] = Storage(root.kind, view[3])
        made.source, made.swapped = root.source, root.swapped
        made.start = root.start + view[2] * width_of(root.kind)
    return found


def _tensors(source: Source, storages: dict[int, Any]) -> dict[int, Rebuilt]:
    count, at = _count(source)
    found: dict[int, Rebuilt] = {}
    for _ in range(count):
        key, storage, _, at = _row(source, at)
        axes = int.from_bytes(source.read(at, at + 4), "little")
        if axes > _MAX_AXES or type(storage) is not int or storage not in storages:
            raise CorruptError("has a tensor that cannot be", where=source.where)
        end = at + 8 + 16 * axes + 8
        numbers = struct.unpack(f"<{2 * axes + 1}q", source.read(at + 8, end))
        found[key] = Rebuilt(
            storages[storage], numbers[-1], numbers[:axes], numbers[axes : 2 * axes]
        )
        at = end
    return found
