"""tensorflow: a checkpoint of TensorFlow, as `tf.train.Checkpoint` and `Saver` write it.

    PREFIX.index                  what each tensor is and where it lies (see `bundle`)
    PREFIX.data-00000-of-00002    the bytes of tensors, back to back

Tensors are called what TensorFlow's own `list_variables` calls them: for objects that is the way
from the root to a variable, followed by `/.ATTRIBUTES/VARIABLE_VALUE`. The names that the variables
themselves had are metadata, as `full_names`. A folder stands for its latest checkpoint, a
SavedModel for its variables; its graph is not read. What no element type holds is listed as
`unread`.

Each tensor has a CRC-32C in the index, which `verify` compares; each block of the index has one of
its own, compared when it is opened.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from tensorkeep.dtypes import STRING
from tensorkeep.errors import CorruptError, MissingError
from tensorkeep.format import Format
from tensorkeep.formats.tensorflow import graph
from tensorkeep.formats.tensorflow.bundle import Bundle, read_index
from tensorkeep.formats.tensorflow.elements import (
    HELD,
    Element,
    describe,
    element,
    translated,
)
from tensorkeep.formats.tensorflow.entries import Entry
from tensorkeep.formats.tensorflow.places import (
    INDEX,
    accepts,
    find_index,
    instead,
    is_saved_model,
)
from tensorkeep.formats.tensorflow.slices import Joined, Part, check_cover, resolve, slice_key
from tensorkeep.formats.tensorflow.strings import Strings, check_bytes
from tensorkeep.source import Source
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor

Check = Callable[[], None]


def decode(location: Location) -> State:
    """Read the index, and the lengths of strings."""
    index = find_index(location)
    reading = _Reading(index, read_index(index.source))
    try:
        reading.read_all()
        about = reading.about()
        if is_saved_model(location):
            about["graph"] = "not read: only the variables of a SavedModel are"
        return State(
            reading.tensors,
            metadata={"tensorflow": about},
            checks=reading.checks,
            remarks=reading.remarks,
            format="tensorflow",
            where=index.where,
            close=reading.close,
        )
    except BaseException:
        reading.close()
        raise


class _Reading:
    """What is known of a bundle while its entries become tensors."""

    def __init__(self, index: Location, bundle: Bundle) -> None:
        self.index = index
        self.bundle = bundle
        self.tensors: dict[str, Tensor] = {}
        self.checks: dict[str, Check] = {}
        self.remarks: dict[str, str] = {}
        self.unread: dict[str, Json] = {}
        self._shards: dict[int, Location] = {}
        self._parts = dict(bundle.parts)

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()
        self.index.close()

    def read_all(self) -> None:
        """Make the tensors.

        Raises:
            CorruptError: entries contradict one another, or the data files.
            MissingError: a data file is not there.
        """
        self._check_apart()
        for name, entry in self.bundle.entries.items():
            kind = element(entry.dtype)
            if kind is None:
                self.unread[name] = describe(entry.dtype)
            elif entry.slices:
                self._add_slices(name, entry, kind)
            else:
                self._add(name, entry, kind)
            if kind is not None and kind.remark:
                self.remarks[name] = kind.remark
        if self._parts and not self.unread:
            raise CorruptError("the index has slices of no tensor", where=self.index.where)

    def about(self) -> dict[str, Json]:
        """Give what belongs to the whole checkpoint."""
        about: dict[str, Json] = {
            "shards": self.bundle.shards,
            "byte_order": "big" if self.bundle.big else "little",
            "producer": self.bundle.producer,
        }
        found = self.tensors.get(graph.KEY)
        if found is not None and found.dtype is STRING:
            names, problem = graph.full_names(found)
            if names:
                about["full_names"] = dict(names)
            if problem:
                about["object_graph"] = f"not read: {problem}"
        if self.unread:
            about["unread"] = self.unread
        return about

    def _add(self, name: str, entry: Entry, kind: Element) -> None:
        source, count = self._shard(entry.shard), math.prod(entry.shape)
        if kind.dtype is STRING:
            self._check_range(name, entry, source)
            strings = Strings(source, entry.offset, entry.size, count, self.bundle.big)
            self.tensors[name] = Tensor(STRING, entry.shape, strings, 0, strings.size)
            self.checks[name] = partial(strings.check, entry.crc)
            return
        self._check_range(name, entry, source, count * kind.width)
        self.checks[name] = partial(check_bytes, source, entry.offset, entry.size, entry.crc, name)
        other = translated(source, entry.offset, kind, count, self.bundle.big)
        where = (source, entry.offset) if other is None else (other, 0)
        self.tensors[name] = Tensor(kind.dtype, entry.shape, *where, kind.dtype.nbytes(count))

    def _add_slices(self, name: str, entry: Entry, kind: Element) -> None:
        where = self.index.where
        if kind.dtype is STRING:
            self.unread[name] = "strings in slices"
            for box in entry.slices:
                self._parts.pop(slice_key(name, box), None)
            return
        parts: list[Part] = []
        checks: list[Check] = []
        for box in entry.slices:
            part = self._parts.pop(slice_key(name, box), None)
            if part is None:
                raise CorruptError(f"the slice {box} of {name!r} is not there", where=where)
            starts, lengths = resolve(box, entry.shape, where)
            if part.shape != lengths or part.dtype != entry.dtype or part.slices:
                raise CorruptError(f"the slice {box} of {name!r} is another", where=where)
            source = self._shard(part.shard)
            self._check_range(name, part, source, math.prod(lengths) * kind.width)
            parts.append(Part(starts, lengths, source, part.offset))
            checks.append(partial(check_bytes, source, part.offset, part.size, part.crc, name))
        check_cover(parts, entry.shape, name, where)
        joined: Source = Joined(parts, entry.shape, kind.width, where)
        count = math.prod(entry.shape)
        joined = translated(joined, 0, kind, count, self.bundle.big) or joined
        self.tensors[name] = Tensor(kind.dtype, entry.shape, joined, 0, kind.dtype.nbytes(count))
        self.checks[name] = partial(_check_each, checks)
        self.remarks[name] = f"{len(parts)} slices"

    def _check_range(self, name: str, entry: Entry, source: Source, size: int = -1) -> None:
        if size not in (-1, entry.size):
            raise CorruptError(
                f"{name!r} of shape {entry.shape} takes {size:,} bytes, not {entry.size:,}",
                where=self.index.where,
            )
        stop = entry.offset + entry.size
        if stop > source.size:
            raise CorruptError(
                f"{name!r} needs bytes {entry.offset} to {stop}, but there are {source.size}",
                where=source.where,
                cure="The file is cut short; use another copy.",
            )

    def _check_apart(self) -> None:
        """Refuse tensors that share bytes, as none that was written does."""
        rows = [row for row in self.bundle.entries.values() if not row.slices]
        rows += self.bundle.parts.values()
        spans = sorted((row.shard, row.offset, row.size) for row in rows if row.size)
        for (shard, offset, size), (other, behind, _) in pairwise(spans):
            if shard == other and offset + size > behind:
                raise CorruptError(
                    f"two tensors of the index share byte {behind} of shard {shard}",
                    where=self.index.where,
                )

    def _shard(self, number: int) -> Source:
        if number not in self._shards:
            prefix = posixpath.basename(self.index.key).removesuffix(INDEX)
            name = f"{prefix}.data-{number:05}-of-{self.bundle.shards:05}"
            shard = self.index.sibling(name)
            try:
                _ = shard.source
            except MissingError:
                raise MissingError(
                    f"needs the data file {name}, which is not there",
                    where=self.index.where,
                    cure="Put it into the same folder; a checkpoint is all of its files.",
                ) from None
            self._shards[number] = shard
        return self._shards[number].source


def _check_each(checks: list[Check]) -> None:
    for check in checks:
        check()


FORMAT = Format(
    name="tensorflow",
    suffixes=(INDEX,),
    accepts=accepts,
    decode=decode,
    encode=None,
    holds=HELD,
    instead=instead,
    written_by="tf.train.Checkpoint, Saver and SavedModel of TensorFlow",
    checked_by="CRC-32C",
    sharded="an index",
    safe_by="the graph is not read",
)

__all__ = ["FORMAT"]
