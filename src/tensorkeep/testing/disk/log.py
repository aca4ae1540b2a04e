"""What was done to a disk, in order, and what of it a power cut may leave.

The assumptions are told in `tensorkeep.testing.disk`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise, product
from math import prod
from typing import Literal, TypeAlias

SECTOR = 512  # bytes that reach the disk together

Model = Literal["posix", "ordered"]


@dataclass(eq=False, slots=True)
class Inode:
    """A file, folder or symbolic link, whatever its names are.

    Args:
        kind: which of them it is.
        label: the path it first had, for messages.
        target: where a symbolic link leads.
    """

    kind: Literal["file", "folder", "link"]
    label: str
    target: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """Bytes that were written to a file."""

    inode: Inode
    offset: int
    data: bytes

    def __str__(self) -> str:
        return f"write {len(self.data)} bytes at {self.offset} of {self.inode.label}"


@dataclass(frozen=True, slots=True, eq=False)
class Resize:
    """A file that was given another size; `grow`: at least this one, as a reservation does."""

    inode: Inode
    size: int
    grow: bool = False

    def __str__(self) -> str:
        return f"{'reserve' if self.grow else 'truncate'} {self.inode.label} to {self.size} bytes"


@dataclass(frozen=True, slots=True, eq=False)
class Sync:
    """An fsync of a file or folder, which has returned."""

    inode: Inode

    def __str__(self) -> str:
        return f"sync {self.inode.label or 'the folder itself'}"


Change: TypeAlias = tuple[Inode, str, Inode | None]  # the folder, the name, what it then names


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Names that changed together: one call that creates, renames, swaps, links or removes."""

    text: str
    changes: tuple[Change, ...]

    @property
    def swaps(self) -> bool:
        """Whether two names took each other's place."""
        return len(self.changes) == 2 and all(new for _, _, new in self.changes)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A text that a test put between the calls."""

    text: str

    def __str__(self) -> str:
        return f"mark {self.text!r}"


Event: TypeAlias = Write | Resize | Sync | Entries | Mark

# What did not reach the disk whole: by the place in the log, from where to where its bytes did, and
# whether the file got its size all the same. What is not in it is there.
Part: TypeAlias = tuple[int, int, bool]
Losses: TypeAlias = Mapping[int, Part]
_LOST: Part = (0, 0, False)
_Choice: TypeAlias = Part | None

# A path below the root -> the bytes of a file, the Inode of a folder or link.
Tree: TypeAlias = dict[str, tuple[Inode, bytes]]


@dataclass
class Log:
    """Everything that was done below a folder, and how a disk may look that lost some of it.

    Args:
        root: the folder.
        events: what was done, in order; the first ones make what was there before.
        start: how many events make what was there before, which is safe on the disk.
    """

    root: Inode
    events: list[Event] = field(default_factory=list)
    start: int = 0
    _contents: dict[tuple[Inode, tuple[tuple[int, _Choice], ...]], bytes] = field(
        default_factory=dict
    )
    _needed: dict[tuple[Model, int], dict[int, set[int]]] = field(default_factory=dict)

    def marks(self, point: int) -> tuple[str, ...]:
        """Give the texts of the marks among the first `point` events."""
        return tuple(event.text for event in self.events[:point] if isinstance(event, Mark))

    def tree(self, point: int, losses: Losses) -> Tree:
        """Give what the disk holds after the first `point` events, some of which were lost."""
        folders: dict[Inode, dict[str, Inode]] = defaultdict(dict)
        files: dict[Inode, list[tuple[int, _Choice]]] = defaultdict(list)
        for i, event in enumerate(islice(self.events, point)):
            choice = losses.get(i)
            if isinstance(event, Entries):
                for folder, name, new in event.changes if choice is None else ():
                    if new is None:
                        folders[folder].pop(name, None)
                    else:
                        folders[folder][name] = new
            elif isinstance(event, Write | Resize) and choice != _LOST:
                files[event.inode].append((i, choice))
        tree: Tree = {}
        left = [("", self.root)]
        while left:
            below, folder = left.pop()
            for name, inode in folders[folder].items():
                data = b""
                if inode.kind == "folder":
                    left.append((f"{below}{name}/", inode))
                elif inode.kind == "file":
                    data = self._data(inode, tuple(files[inode]))
                tree[below + name] = inode, data
        return tree

    def _data(self, inode: Inode, done: tuple[tuple[int, _Choice], ...]) -> bytes:
        """Give the bytes of a file to which some events were done, and remember a few."""
        found = self._contents.get((inode, done))
        if found is None:
            data = bytearray()
            for i, choice in done:
                event = self.events[i]
                if isinstance(event, Write):
                    start, stop, grows = choice or (0, len(event.data), True)
                    end = event.offset + (len(event.data) if grows else stop)
                    if len(data) < end:
                        data.extend(bytes(end - len(data)))
                    part = memoryview(event.data)[start:stop]
                    data[event.offset + start : event.offset + stop] = part
                elif isinstance(event, Resize):
                    if len(data) < event.size:
                        data.extend(bytes(event.size - len(data)))
                    elif not event.grow:
                        del data[event.size :]
            found = bytes(data)
            while len(self._contents) >= 64:
                del self._contents[next(iter(self._contents))]
            self._contents[inode, done] = found
        return found

    def losses(self, point: int, model: Model, count: int, draw: random.Random) -> Iterator[Losses]:
        """Give what a power cut after the first `point` events may lose.

        Args:
            point: how many events were done.
            model: which losses there are, see `tensorkeep.testing.disk`.
            count: how many cases to give at most: all where they are fewer, else the extreme ones
                and others.
            draw: chooses the others.
        """
        needs = self._needs(model)
        open_ = self._unsettled(point, model)
        options = [_options(self.events[i], draw) for i in open_]

        def closed(choices: Mapping[int, _Choice]) -> Losses:
            lost = {i: choice for i, choice in choices.items() if choice is not None}
            for i in open_:  # what needs something that is lost is lost
                if any(lost.get(need) == _LOST for need in needs[i]):
                    lost[i] = _LOST
            return lost

        if prod(len(some) for some in options) <= count:
            for choices in product(*options):
                yield closed(dict(zip(open_, choices, strict=True)))
            return
        everything: Losses = dict.fromkeys(open_, _LOST)
        data = {i: _LOST for i in open_ if not isinstance(self.events[i], Entries)}
        yield from islice(({}, everything, data), count)
        for _ in range(count - 3):
            style, chosen = draw.randrange(3), draw.randrange(len(open_))
            if style == 0:  # all but one
                yield closed({open_[chosen]: draw.choice(options[chosen][1:])})
            elif style == 1:  # only one, and what it needs
                kept = _with_needs({open_[chosen]}, needs)
                yield {i: _LOST for i in open_ if i not in kept}
            else:
                yield closed(dict(zip(open_, map(draw.choice, options), strict=True)))

    def _unsettled(self, point: int, model: Model) -> list[int]:
        """Give the events among the first `point` that no later sync among them has made safe."""
        synced: dict[Inode, int] = {}
        for i, event in enumerate(islice(self.events, point)):
            if isinstance(event, Sync):
                synced[event.inode] = i
        safe, found = set(), []
        for i, event in enumerate(islice(self.events, point)):
            if isinstance(event, Entries):
                folders = [synced.get(folder, -1) > i for folder, _, _ in event.changes]
                if any(folders) if model == "ordered" else all(folders):
                    safe.add(i)
                else:
                    found.append(i)
            elif isinstance(event, Write | Resize) and synced.get(event.inode, -1) < i:
                found.append(i)
        safe = _with_needs(safe, self._needs(model))
        return [i for i in found if i not in safe]

    def _needs(self, model: Model) -> dict[int, set[int]]:
        """Give for each event those without which it cannot have reached the disk."""
        key = model, len(self.events)
        if key not in self._needed:
            self._needed[key] = self._ordered() if model == "ordered" else self._consistent()
        return self._needed[key]

    def _ordered(self) -> dict[int, set[int]]:
        names = [i for i, event in enumerate(self.events) if isinstance(event, Entries)]
        needs: dict[int, set[int]] = defaultdict(set)
        needs.update({i: {before} for before, i in pairwise(names)})
        return needs

    def _consistent(self) -> dict[int, set[int]]:
        needs: dict[int, set[int]] = defaultdict(set)
        last: dict[tuple[Inode, str], int] = {}  # the last change of a name
        freed: dict[tuple[Inode, str], int] = {}  # the last one that took a folder's name
        holds: dict[tuple[Inode, str], Inode | None] = {}
        removals: dict[Inode, set[int]] = defaultdict(set)  # from a folder
        home: dict[Inode, tuple[Inode, str]] = {}  # where a folder is
        moves: list[int] = []  # of folders to other folders
        for i, event in enumerate(self.events):
            if not isinstance(event, Entries):
                continue
            new = [inode for _, _, inode in event.changes]
            for folder, name, inode in event.changes:
                place, old = (folder, name), holds.get((folder, name))
                if place in last and (inode is None or event.swaps):
                    needs[i].add(last[place])  # what is moved or removed got there before
                if place in freed:
                    needs[i].add(freed[place])
                if old is not None and old.kind == "folder":
                    freed[place] = i
                    needs[i].add(last[place])
                    if old not in new:
                        needs[i] |= removals[old]  # a folder that goes is empty
            across = len({folder for folder, _, _ in event.changes}) > 1
            if across:  # what is moved goes to a folder that is there
                for folder, _, inode in event.changes:
                    above = folder
                    while inode is not None and above in home:
                        needs[i].add(last[home[above]])
                        above = home[above][0]
            if across and any(inode is not None and inode.kind == "folder" for inode in new):
                needs[i].update(moves[-1:])  # none ends up inside itself
                moves.append(i)
            for folder, name, inode in event.changes:
                last[folder, name], holds[folder, name] = i, inode
                if inode is None:
                    removals[folder].add(i)
                elif inode.kind == "folder":
                    home[inode] = folder, name
        return needs


def _options(event: Event, draw: random.Random) -> list[_Choice]:
    """Give what may become of an event that nothing has made safe; first that it is there."""
    if not isinstance(event, Write):
        return [None, _LOST]
    size = len(event.data)
    options: list[_Choice] = [None, _LOST, (0, 0, True)]
    first = SECTOR - event.offset % SECTOR
    if first < size:  # it may be torn where a sector ends
        cut = first + SECTOR * draw.randrange((size - first + SECTOR - 1) // SECTOR)
        options.append(draw.choice([(0, cut, False), (0, cut, True), (cut, size, True)]))
    return options


def _with_needs(chosen: set[int], needs: Mapping[int, set[int]]) -> set[int]:
    """Add what the chosen events need, and what that needs."""
    found, left = set(chosen), list(chosen)
    while left:
        new: Sequence[int] = [i for i in needs.get(left.pop(), ()) if i not in found]
        found.update(new)
        left.extend(new)
    return found
