"""What of an HDF5 file may be followed: links that stay inside it, and sizes that it can hold.

An HDF5 file can name other files in four ways: external links, external storage, virtual datasets
and links of a user's own class. None is followed. Soft links are resolved here, part by part, since
the library would follow an external link on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tensorkeep.errors import UnsafeError, UnsupportedError
from tensorkeep.formats.hdf5.file import damage, h5py
from tensorkeep.source import Source
from tensorkeep.state import MAX_TENSORS
from tensorkeep.tensor import Tensor

MAX_DEPTH = 128
_MAX_AGAIN = 1000
_MAX_HOPS = 40  # soft links on the way that one leads
_MAX_STEPS = 256  # groups on it
# What deflate can do at best is 1032 to 1; what was never written takes no room at all.
_RATIO = 1100
_FREE = 64 << 20
_FREE_IN_ALL = 1 << 30


def walk(group: Any, where: str, groups: dict[str, Any] | None = None) -> Iterator[tuple[str, Any]]:
    """Give the path and the `h5py.Dataset` of all that a group holds, in the order of its links.

    A dataset that several links lead to comes once for each, as the same object. Paths have slashes
    between the names of groups and none in front.

    Args:
        group: where to begin.
        where: names the file in messages.
        groups: filled with the groups that were met, by path.

    Raises:
        UnsafeError: a link or a dataset leads out of the file, groups go round in a circle, or
            there are more objects or levels than any state has.
        UnsupportedError: a soft link leads nowhere.
    """
    library = h5py(where)
    known: dict[int, Any] = {}
    entered: set[int] = set()
    met = again = 0
    with damage(where):
        root = library.h5o.get_info(group.id).addr
        levels = [(_links(group, "", where), {root})]
    while levels:
        links, around = levels[-1]
        found = next(links, None)
        if found is None:
            levels.pop()
            continue
        path, thing, address = found
        met += 1
        if met > MAX_TENSORS:
            raise UnsafeError(f"holds more than {MAX_TENSORS:,} objects", where=where)
        if isinstance(thing, library.h5d.DatasetID):
            if address not in known:
                known[address] = library.Dataset(thing)
                check_dataset(known[address], f"{where}: {path}")
            yield path, known[address]
        elif isinstance(thing, library.h5g.GroupID):
            if address in around:
                raise UnsafeError(
                    "is a group that holds itself, so its names never end",
                    where=f"{where}: {path}",
                )
            if len(levels) >= MAX_DEPTH:
                raise UnsafeError(f"nests groups over {MAX_DEPTH} levels deep", where=where)
            again += address in entered
            entered.add(address)
            if again > _MAX_AGAIN:
                raise UnsafeError(
                    f"reaches its groups more than {_MAX_AGAIN:,} times by other names",
                    where=where,
                )
            inner = library.Group(thing)
            if groups is not None:
                groups[path] = inner
            levels.append((_links(inner, f"{path}/", where), around | {address}))


def _links(group: Any, above: str, where: str) -> Iterator[tuple[str, Any, int]]:
    """Give the path, the opened object and the address of each thing in a group."""
    library = h5py(where)
    opened, hard = library.h5o.open, library.h5l.TYPE_HARD
    holder = group.id if above else library.h5g.open(group.id, b"/")  # of a file, its root
    found: list[tuple[bytes, int, int]] = []
    with damage(f"{where}: {above}" if above else where):
        tracked = (
            holder.get_create_plist().get_link_creation_order() & library.h5p.CRT_ORDER_TRACKED
        )
        holder.links.iterate(
            lambda link, info: found.append((link, info.type, info.u)),
            info=True,
            idx_type=library.h5.INDEX_CRT_ORDER if tracked else library.h5.INDEX_NAME,
        )
    for link, kind, address in found:
        path = above + link.decode("utf-8", "surrogateescape")
        with damage(f"{where}: {path}"):
            if kind == hard:
                thing = opened(holder, link)
            else:
                at, last, address = resolve(holder, link, f"{where}: {path}")
                thing = opened(at, last)
        yield path, thing, address


def resolve(parent: Any, link: bytes, where: str) -> tuple[Any, bytes, int]:
    """Follow soft links to the group and the hard link that they end at, and its address.

    Args:
        parent: the low-level id of the group that holds the link.
        link: its name.
        where: names the link in messages.

    Raises:
        UnsafeError: one leads to another file, or round in a circle.
        UnsupportedError: one leads nowhere.
    """
    library = h5py(where)
    at, waiting, hops, target = parent, [link], 0, b""
    for _ in range(_MAX_STEPS):
        part = waiting.pop()
        if hops and not at.links.exists(part):
            raise UnsupportedError(
                f"is a soft link to {target.decode(errors='replace')!r}, which is not there",
                where=where,
                cure="Remove the link, for instance with h5py's `del file[name]`.",
            )
        info = at.links.get_info(part)
        if info.type == library.h5l.TYPE_SOFT:
            hops += 1
            if hops > _MAX_HOPS:
                break
            target = at.links.get_val(part)
            if target.startswith(b"/"):
                at = library.h5g.open(at, b"/")
            waiting += [part for part in target.split(b"/") if part not in (b"", b".")][::-1]
            if not waiting:
                return at, b".", library.h5o.get_info(at).addr
        elif info.type != library.h5l.TYPE_HARD:
            raise _leads_out(at, part, info.type == library.h5l.TYPE_EXTERNAL, where)
        elif not waiting:
            return at, part, info.u
        else:
            at = library.h5g.open(at, part)
    raise UnsafeError("is a soft link that leads round in a circle", where=where)


def _leads_out(parent: Any, link: bytes, external: bool, where: str) -> UnsafeError:
    if not external:
        return UnsafeError("is a link of a class of someone's own, not followed here", where=where)
    file, target = parent.links.get_val(link)
    shown = f"{target.decode(errors='replace')!r} in the file {file.decode(errors='replace')!r}"
    return UnsafeError(
        f"is an external link, to {shown}; other files are not read",
        where=where,
        cure="Open that file itself, or copy the object into this one.",
    )


def check_dataset(dataset: Any, where: str) -> None:
    """Refuse a dataset whose elements are in other files.

    Raises:
        UnsafeError: they are, by external storage or as a virtual dataset.
    """
    library = h5py(where)
    if dataset.id.get_offset() is not None:  # they are in this one
        return
    plan = dataset.id.get_create_plist()
    if plan.get_layout() == library.h5d.VIRTUAL:
        raise UnsafeError(
            "is a virtual dataset, made up of others in other files; those are not read",
            where=where,
            cure="Copy it into a file of its own with h5py first.",
        )
    if plan.get_external_count():
        file = plan.get_external(0)[0].decode(errors="replace")
        raise UnsafeError(
            f"keeps its elements outside, in the file {file!r}; other files are not read",
            where=where,
            cure="Copy it into a file of its own with h5py first.",
        )


def check_expansion(nbytes: int, stored: int, where: str) -> None:
    """Compare what a dataset says it holds with what its stored bytes can give.

    Raises:
        UnsafeError: no compression gives that much.
    """
    if nbytes > _FREE + _RATIO * stored:
        raise UnsafeError(
            f"says it holds {nbytes:,} bytes, and has {stored:,} bytes of them in the file",
            where=where,
            cure="A file like that is made to fill the memory; nothing was read.",
        )


def check_total(tensors: Iterable[Tensor], source: Source, where: str) -> None:
    """Compare what all decoded tensors of a file hold together with the file's length.

    Raises:
        UnsafeError: no file of that length has so much in it.
    """
    total = sum(tensor.nbytes for tensor in tensors if tensor.source is not source)
    if total > _FREE_IN_ALL + _RATIO * source.size:
        raise UnsafeError(
            f"says it holds {total:,} bytes in {source.size:,}",
            where=where,
            cure="A file like that is made to fill the memory; nothing was read.",
        )
