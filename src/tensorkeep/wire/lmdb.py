"""The pages of an LMDB file, checked before the library follows what they say.

LMDB trusts its file: a damaged page kills the process. So each page of the tree is looked at first:
whether it is what its parent says, whether all offsets and sizes stay inside, and whether no page
is used twice. That reads the pages of keys, not those of large values.

Facts: `mdb.c` of LMDB 0.9 (struct MDB_meta, MDB_db, MDB_page, MDB_node), little endian.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tensorkeep.errors import CorruptError, UnsupportedError

_HEAD = 16  # bytes before the content of a page
_BRANCH, _LEAF, _OVERFLOW = 1, 2, 4  # kinds of pages
_BIG, _INNER = 1, 2  # flags of nodes: the value has pages of its own; it is a database
_INTEGER_KEYS, _NO_FOLDER = 8, 0x4000  # flags of the tree of free pages
_NO_PAGE = (1 << 64) - 1
_LONGEST_KEY = 511
_MOST_LEVELS = 32
_TOGETHER = 1024  # pages that are checked at once
_CURE = "Copy the database again, whole, while no process writes to it."

_PAGE = np.dtype(
    [("number", "<u8"), ("pad", "<u2"), ("flags", "<u2"), ("lower", "<u2"), ("upper", "<u2")]
)

Numbers = npt.NDArray[np.int64]


class Tree(NamedTuple):
    """What the file says of one of its two trees (struct MDB_db)."""

    pad: int
    flags: int
    depth: int
    branches: int
    leaves: int
    overflow: int
    entries: int
    root: int


class Values(NamedTuple):
    """Where values and their keys lie in the file, in the order of the keys."""

    starts: Numbers
    sizes: Numbers
    key_starts: Numbers
    key_sizes: Numbers


class Meta(NamedTuple):
    """One of the two first pages: the one with the higher number counts."""

    page_size: int
    free: Tree
    main: Tree
    last_page: int
    number: int


def looks_like_lmdb(head: bytes) -> bool:
    """Say whether the first bytes of a file are those of an LMDB file.

    >>> looks_like_lmdb(bytes(16) + bytes.fromhex("dec0efbe"))
    True
    """
    return head[_HEAD : _HEAD + 4] == b"\xde\xc0\xef\xbe"


def check_pages(data: memoryview, where: str) -> None:
    """Check all pages that the newest commit uses.

    Args:
        data: the file.
        where: how messages name it.

    Raises:
        CorruptError: it is damaged or cut short.
        UnsupportedError: it keeps its keys in a way that Caffe2's databases do not.
    """
    meta = newest_meta(data, where)
    _check_plain(meta, where)
    pages = _Pages(data, meta, where)
    pages.check(meta.main)
    pages.check_free(meta.free)
    pages.check_extents()


def find_values(data: memoryview, meta: Meta, where: str, *, first: bool = False) -> Values:
    """Find all values of a commit, checking the pages that lead to them.

    Args:
        data: the file, no page of which that belongs to the commit may change meanwhile.
        meta: the commit.
        where: how messages name the file.
        first: look at the first page of values alone.

    Raises:
        CorruptError: it is damaged or cut short.
        UnsupportedError: it keeps its keys in a way that Caffe2's databases do not.
    """
    _check_plain(meta, where)
    pages = _Pages(data, meta, where)
    parts = pages.first(meta.main) if first else pages.check(meta.main)
    pages.check_apart()
    if not parts:
        return Values(*np.zeros((4, 0), np.int64))
    return Values(*map(np.concatenate, zip(*parts, strict=True)))


def newest_commit(data: memoryview, where: str) -> int:
    """Give the number of the newest commit.

    Raises:
        CorruptError: the first pages are damaged.
    """
    return newest_meta(data, where).number


def _check_plain(meta: Meta, where: str) -> None:
    if meta.main.flags & 0x7FFF:
        raise UnsupportedError(
            f"its keys have duplicates or an order of their own (flags {meta.main.flags:#x})",
            where=where,
            cure="Only a database of plain keys is read.",
        )


def newest_meta(data: memoryview, where: str) -> Meta:
    """Give what the file says of its newest commit.

    Raises:
        CorruptError: the first pages are damaged.
    """
    first = _meta(data, 0, where)
    second = _meta(data, first.page_size, where)
    newest = max(first, second, key=lambda meta: meta.number)
    agree = first.page_size == second.page_size
    if not agree or (newest.number and newest.number % 2 != (newest is second)):
        raise CorruptError("its two first pages contradict each other", where=where, cure=_CURE)
    return newest


def _meta(data: memoryview, at: int, where: str) -> Meta:
    head = bytes(data[at : at + 152])
    if len(head) < 152 or not looks_like_lmdb(head) or head[20:24] != b"\1\0\0\0":
        raise CorruptError(
            "is no LMDB file, or its first pages are damaged", where=where, cure=_CURE
        )
    free = Tree(*struct.unpack_from("<IHHQQQQQ", head, 40))
    main = Tree(*struct.unpack_from("<IHHQQQQQ", head, 88))
    size = free.pad  # whose place the page size takes
    if size & (size - 1) or not 256 <= size <= 1 << 15:
        raise CorruptError(f"has pages of {size:,} bytes", where=where, cure=_CURE)
    return Meta(size, free, main, *struct.unpack_from("<QQ", head, 136))


class _Pages:
    """The pages of a file, and which of them were seen in use."""

    def __init__(self, data: memoryview, meta: Meta, where: str) -> None:
        self.where = where
        self.size = meta.page_size
        self.last = meta.last_page
        # Free pages at the end need not be in the file.
        self.count = min(len(data) // self.size, meta.last_page + 1)
        self.bytes = np.frombuffer(data, np.uint8, self.count * self.size)
        self.rows = self.bytes.reshape(self.count, self.size)
        self.extents: list[tuple[Numbers, Numbers]] = []
        self.free = 0

    def expect(self, good: Any, problem: str) -> None:
        """Raise an error unless all of something is as it should be."""
        if not np.all(good):
            raise CorruptError(f"is damaged: {problem}", where=self.where, cure=_CURE)

    def require(self, numbers: Numbers, sizes: Numbers) -> None:
        """Check that pages are in the file, each the first of so many."""
        self.expect(numbers >= 2, "a page is not there")
        if np.any(sizes > self.count - numbers):
            found = f"{self.count * self.size:,} bytes of {(self.last + 1) * self.size:,}"
            raise CorruptError(f"is cut short: it has {found}", where=self.where, cure=_CURE)

    def claim(self, numbers: Numbers, sizes: Numbers | None = None) -> None:
        """Note that pages are in use, each the first of so many."""
        sizes = np.ones_like(numbers) if sizes is None else sizes
        self.require(numbers, sizes)
        self.extents.append((numbers, sizes))

    def check_extents(self) -> None:
        """Check that no page is used twice, and that those that are not in the file are free."""
        self.expect(self.last < self.count + self.free, "it counts pages that are not there")
        self.check_apart()

    def check_apart(self) -> None:
        """Check that no page is used twice."""
        if self.extents:
            numbers = np.concatenate([numbers for numbers, _ in self.extents])
            sizes = np.concatenate([sizes for _, sizes in self.extents])
            order = np.argsort(numbers)
            ends = numbers[order] + sizes[order]
            self.expect(ends[:-1] <= numbers[order][1:], "a page is used twice")

    def check(self, tree: Tree) -> list[Values]:
        """Check a tree level by level; give where its values lie in the file."""
        level = self.root(tree)
        if not len(level):
            return []
        branches = 0
        for _ in range(tree.depth - 1):
            self.claim(level)
            branches += len(level)
            level = np.concatenate([self.children(part) for part in _split(level)])
            self.expect(len(level) <= self.count, "a page is used twice")
        self.claim(level)
        before = len(self.extents)
        values = [self.values(part) for part in _split(level)]
        overflow = sum(int(sizes.sum()) for _, sizes in self.extents[before:])
        entries = sum(len(part.starts) for part in values)
        found = branches, len(level), overflow, entries
        said = tree.branches, tree.leaves, tree.overflow, tree.entries
        self.expect(found == said, f"a tree has {found} branches, leaves, ... and says {said}")
        return values

    def first(self, tree: Tree) -> list[Values]:
        """Give where the values of the first leaf page lie in the file."""
        level = self.root(tree)
        for _ in range(tree.depth - 1):
            self.claim(level)
            level = self.children(level)[:1]
        self.claim(level)
        return [self.values(level)] if len(level) else []

    def root(self, tree: Tree) -> Numbers:
        """Give the root of a tree, if it has one."""
        if tree.root == _NO_PAGE:
            self.expect(tree.depth == tree.entries == 0, "a tree has no root")
            return np.zeros(0, np.int64)
        self.expect(0 < tree.depth <= _MOST_LEVELS, f"a tree has {tree.depth} levels")
        self.expect(tree.root <= self.last, "the root of a tree is not there")
        return np.array([tree.root], np.int64)

    def nodes(self, numbers: Numbers, kind: int) -> tuple[Numbers, ...]:
        """Give the places of the nodes of some pages, and their four numbers."""
        pages = self.rows[numbers]
        head = pages[:, :_HEAD].copy().view(_PAGE)[:, 0]
        lower, upper = head["lower"].astype(np.int64), head["upper"].astype(np.int64)
        least = _HEAD + (4 if kind == _BRANCH else 2)
        self.expect(head["number"] == numbers.astype(np.uint64), "a page has another number")
        self.expect(head["flags"] == kind, "a page is of another kind")
        sound = (lower >= least) & (lower % 2 == 0) & (lower <= upper) & (upper <= self.size)
        self.expect(sound, "a page has no sound size")
        counts = (lower - _HEAD) // 2
        words = pages.view("<u2")
        there = np.arange(counts.max())[None, :] < counts[:, None]
        offsets = words[:, _HEAD // 2 :][:, : there.shape[1]][there].astype(np.int64)
        rows = np.repeat(np.arange(len(numbers)), counts)
        inside = (offsets >= upper[rows]) & (offsets % 2 == 0) & (offsets + 8 <= self.size)
        self.expect(inside, "a node lies outside of its page")
        at = (rows * self.size + offsets) // 2
        low, high, flags, key = (words.reshape(-1)[at + i].astype(np.int64) for i in range(4))
        self.expect(key <= _LONGEST_KEY, "a key is too long")
        self.expect(offsets + 8 + key <= self.size, "a key ends outside of its page")
        return numbers[rows] * self.size + offsets, low | high << 16, flags, key

    def children(self, numbers: Numbers) -> Numbers:
        """Give the pages below some branch pages."""
        _, low, high, _ = self.nodes(numbers, _BRANCH)
        return low | high << 32

    def values(self, numbers: Numbers) -> Values:
        """Check the values of some leaf pages; give where they lie in the file."""
        places, sizes, flags, keys = self.nodes(numbers, _LEAF)
        self.expect(keys > 0, "a key is empty")
        self.expect((flags == 0) | (flags == _BIG) | (flags == _INNER), "a node is of no kind")
        big = flags == _BIG
        starts = places + 8 + keys
        room = self.size - starts % self.size
        # A value that ends with its page starts there at the latest where the next page begins.
        room[(starts % self.size == 0) & (starts > places)] = 0
        self.expect(np.where(big, 8, sizes) <= room, "a value ends outside of its page")
        if big.any():
            starts[big] = self._overflow(starts[big], sizes[big])
        return Values(starts, sizes, places + 8, keys)

    def _overflow(self, places: Numbers, sizes: Numbers) -> Numbers:
        """Check the pages that large values have for themselves, and give where those begin."""
        first: npt.NDArray[np.uint64] = self.bytes[places[:, None] + np.arange(8)].view("<u8")[:, 0]
        self.expect(first <= self.last, "a large value is not there")
        numbers = first.astype(np.int64)
        self.require(numbers, np.ones_like(numbers))
        head = self.rows[numbers, :_HEAD].copy().view(_PAGE)[:, 0]
        self.expect(head["number"] == first, "a page has another number")
        self.expect(head["flags"] == _OVERFLOW, "a page is of another kind")
        pages = head["lower"].astype(np.int64) | head["upper"].astype(np.int64) << 16
        self.expect(pages >= -(-(_HEAD + sizes) // self.size), "a large value is cut short")
        self.claim(numbers, pages)
        begins: Numbers = numbers * self.size + _HEAD
        return begins

    def check_free(self, tree: Tree) -> None:
        """Check the tree of the pages that are free: each of its values is a list of them."""
        flags = tree.flags & ~_NO_FOLDER
        self.expect(flags == _INTEGER_KEYS, "the tree of free pages is of another kind")
        for part in self.check(tree):
            for start, size in zip(part.starts.tolist(), part.sizes.tolist(), strict=True):
                self.expect(size >= 8 and size % 8 == 0, "a list of free pages is cut short")
                listed = self.bytes[start : start + size].copy().view("<u8")
                self.expect(listed[0] == len(listed) - 1, "a list of free pages is cut short")
                self.expect(listed[1:] - 2 <= self.last - 2, "a free page is not there")
                numbers = listed[1:].astype(np.int64)
                self.extents.append((numbers, np.ones_like(numbers)))
                self.free += len(numbers)


def _split(numbers: Numbers) -> list[Numbers]:
    return [numbers[at : at + _TOGETHER] for at in range(0, len(numbers), _TOGETHER)]
