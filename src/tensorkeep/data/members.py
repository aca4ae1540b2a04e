"""The members of a tar archive as samples: which belong together, and where each lies.

A sample is a run of members with the same name up to the first dot of its last part, the key; what
follows the dot is the suffix. So `cats/0017.image.npy` and `cats/0017.cls` are the sample
`cats/0017`, with the suffixes `image.npy` and `cls`. Passed over are folders, links and devices,
names without a dot or with nothing before or behind it, and those of the whole archive, which begin
`__like_this__`. These are the rules of the library WebDataset.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.data.decoding import NUMBERS, whole_number
from tensorkeep.data.index import Index
from tensorkeep.data.ranges import inside
from tensorkeep.errors import CorruptError, UnsupportedError
from tensorkeep.source import Source
from tensorkeep.wire.npy import MAGIC
from tensorkeep.wire.tar import FILES, members

Numbers = npt.NDArray[np.int64]

_HEAD = 256  # bytes of each member that are looked at: nearly all headers of arrays fit
MOST_SUFFIXES = 1000
_OF_THE_ARCHIVE = re.compile(r"__[^/]*__($|/)")


@dataclass(frozen=True)
class Members:
    """Where the members of every sample lie.

    Args:
        suffixes: what kinds of members there are, in the order in which they appear.
        kinds: for each member the number of its suffix; members in the order of the archive.
        starts: where each begins.
        sizes: their lengths.
        firsts: the number of the first member of each sample, and at the end how many there are.
        keys: the keys of all samples, back to back.
        stops: where each key ends.
        numbers: by suffix, what all of its members hold, where those are whole numbers.
        heads: by suffix, the length of the header that all of its members share, where they are
            .npy files with the same header.
    """

    suffixes: list[str]
    kinds: Numbers
    starts: Numbers
    sizes: Numbers
    firsts: Numbers
    keys: npt.NDArray[np.uint8]
    stops: Numbers
    numbers: dict[str, Numbers]
    heads: dict[str, int]

    def __len__(self) -> int:
        """Give the number of samples."""
        return len(self.stops)

    @cached_property
    def fields(self) -> dict[str, str]:
        """Name the fields: each with its suffix.

        A field is called by what stands before the last dot, `image` for `image.npy`, or by the
        suffix where that has no dot or where two would be called the same.
        """
        short = {suffix: suffix.rpartition(".")[0] or suffix for suffix in self.suffixes}
        taken = Counter(short.values())
        taken.update(suffix for suffix, name in short.items() if name != suffix)
        return {(name if taken[name] == 1 else suffix): suffix for suffix, name in short.items()}

    def places(self, suffix: str) -> tuple[Numbers, Numbers]:
        """Say which samples have a member of this suffix, and which member that is."""
        chosen = np.flatnonzero(self.kinds == self.suffixes.index(suffix))
        return np.searchsorted(self.firsts, chosen, side="right") - 1, chosen

    def key(self, row: int) -> str:
        """Give the key of a sample."""
        start = int(self.stops[row - 1]) if row else 0
        return self.keys[start : int(self.stops[row])].tobytes().decode("utf-8", "surrogateescape")

    def index(self) -> Index:
        """Give it as what can be kept beside the archive."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            name: getattr(self, name) for name in ("kinds", "starts", "sizes", "firsts", "stops")
        }
        arrays["keys"] = self.keys[None]  # one row: the length of arrays tells of samples
        for suffix, numbers in self.numbers.items():
            arrays[f"numbers.{self.suffixes.index(suffix)}"] = numbers
        return Index("tar", arrays, {"suffixes": list(self.suffixes), "heads": dict(self.heads)})


def is_sound(index: Index, size: int) -> bool:
    """Say whether an archive of so many bytes can have this index."""
    try:
        found = members_of(index)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        return False
    arrays: list[npt.NDArray[Any]] = [found.kinds, found.starts, found.sizes, found.firsts]
    arrays += [found.stops, *found.numbers.values()]
    if any(part.ndim != 1 or part.dtype != np.int64 for part in arrays):
        return False
    count, samples = len(found.kinds), len(found.stops)
    return (
        found.keys.dtype == np.uint8
        and found.keys.ndim == 1
        and len(found.sizes) == count
        and inside(found.starts, found.sizes, size)
        and (not count or 0 <= found.kinds.min() <= found.kinds.max() < len(found.suffixes))
        and len(found.firsts) == samples + 1
        and _rises(found.firsts, count)
        and int(found.firsts[0]) == 0
        and (not samples or _rises(found.stops, len(found.keys)))
        and all(len(part) == int((found.kinds == found.suffixes.index(suffix)).sum())
                for suffix, part in found.numbers.items())
    )  # fmt: skip


def _rises(numbers: Numbers, end: int) -> bool:
    return bool((np.diff(numbers) >= 0).all()) and int(numbers[0]) >= 0 and int(numbers[-1]) == end


def members_of(index: Index) -> Members:
    """Take what was kept; `is_sound` says whether it can be believed."""
    arrays: dict[str, Any] = index.arrays
    suffixes, heads = index.notes["suffixes"], index.notes["heads"]
    if type(suffixes) is not list or type(heads) is not dict:
        raise TypeError("no index of an archive")
    prefix = "numbers."
    return Members(
        [str(suffix) for suffix in suffixes],
        arrays["kinds"],
        arrays["starts"],
        arrays["sizes"],
        arrays["firsts"],
        arrays["keys"].reshape(-1),
        arrays["stops"],
        {
            str(suffixes[int(name.removeprefix(prefix))]): values
            for name, values in arrays.items()
            if name.startswith(prefix)
        },
        {str(suffix): int(str(length)) for suffix, length in heads.items()},
    )


class _Suffix:
    """What is found out about all members of one suffix while they go by."""

    def __init__(self, number: int, name: str) -> None:
        ending = name.rpartition(".")[2]
        self.number = number
        self.name = name
        self.sample = -1  # that it was last seen in
        self.numbers = array("q") if ending in NUMBERS else None
        self.is_array = ending == "npy"
        self.header: bytes | None = None
        self.size = -1

    def see(self, head: bytes, size: int) -> None:
        """Look at the first bytes of a member."""
        if self.numbers is not None:
            number = whole_number(head) if size <= _HEAD else None
            if number is None:
                self.numbers = None
            else:
                self.numbers.append(number)
        elif self.is_array:
            if self.header is None:
                self.header, self.size = _npy_header(head), size
                self.is_array = bool(self.header)
            elif size != self.size or not head.startswith(self.header):
                self.is_array = False


def _npy_header(head: bytes) -> bytes:
    """Give the header of an array, empty where it is not all there."""
    if head[:8] != MAGIC + b"\x01\x00":  # later versions are for headers that do not fit anyway
        return b""
    length = 10 + int.from_bytes(head[8:10], "little")
    return head[:length] if length <= len(head) else b""


def read_members(source: Source) -> Members:
    """Walk over an archive.

    Raises:
        CorruptError: it is damaged or cut short, or a sample has two members of one suffix.
        UnsupportedError: samples have so many suffixes that their names cannot be meant so.
    """
    suffixes: dict[str, _Suffix] = {}
    spelt: dict[str, _Suffix] = {}  # by how they are written, in whatever case
    kinds, starts, sizes, firsts = array("q"), array("q"), array("q"), array("q")
    keys: list[bytes] = []
    sample, current = -1, ""
    for name, kind, start, size, head in members(source, _HEAD, whole=True):
        if kind not in FILES:
            continue
        last = name.rfind("/") + 1
        dot = name.find(".", last)
        if dot <= last or dot == len(name) - 1:
            continue
        if name.startswith("__") and _OF_THE_ARCHIVE.match(name):
            continue
        key, suffix = name[:dot], name[dot + 1 :]
        if sample < 0 or key != current:
            sample, current = sample + 1, key
            firsts.append(len(kinds))
            keys.append(key.encode("utf-8", "surrogateescape"))
        seen = spelt.get(suffix)
        if seen is None:
            lower = suffix.lower()
            seen = suffixes.setdefault(lower, _Suffix(len(suffixes), lower))
            spelt[suffix] = seen
            _check_count(spelt, key, source.where)
        if seen.sample == sample:
            raise CorruptError(
                f"the sample {key[:60]!r} has {suffix[:60]!r} twice", where=source.where
            )
        seen.sample = sample
        seen.see(head, size)
        kinds.append(seen.number)
        starts.append(start)
        sizes.append(size)
    firsts.append(len(kinds))
    return Members(
        list(suffixes),
        kinds=np.array(kinds, np.int64),
        starts=np.array(starts, np.int64),
        sizes=np.array(sizes, np.int64),
        firsts=np.array(firsts, np.int64),
        keys=np.frombuffer(b"".join(keys), np.uint8),
        stops=np.cumsum([len(key) for key in keys], dtype=np.int64),
        numbers={
            row.name: np.array(row.numbers, np.int64)
            for row in suffixes.values()
            if row.numbers is not None
        },
        heads={
            row.name: len(row.header) for row in suffixes.values() if row.is_array and row.header
        },
    )


def _check_count(suffixes: dict[str, _Suffix], key: str, where: str) -> None:
    if len(suffixes) > MOST_SUFFIXES:
        raise UnsupportedError(
            f"its samples have over {MOST_SUFFIXES:,} fields by their members' names (the last is "
            f"{key[:60]!r}): a sample's key ends at the first dot",
            where=where,
            cure="Name the members KEY.FIELD.ENDING, with no dot in the key.",
        )


__all__ = ["Members", "is_sound", "members_of", "read_members"]
