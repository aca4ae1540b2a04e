"""The index of a bundle: a sorted table whose first value is the header, under an empty key.

Every other value says of one tensor what it is and where it lies in the data files. A tensor that
was saved in slices has an entry which lists them, and each slice an entry of its own, under a key
that starts with a zero byte. Facts: tensor_bundle.h of TensorFlow.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tensorkeep.errors import CorruptError, UnsafeError, UnsupportedError
from tensorkeep.formats.tensorflow.entries import Entry, read_entry
from tensorkeep.formats.tensorflow.protos import PROTOS
from tensorkeep.message import Message
from tensorkeep.source import Source
from tensorkeep.state import MAX_TENSORS
from tensorkeep.wire.sstable import read_table

VERSION = 1  # the latest that a reader has to know
_MAX_SHARDS = 100_000  # five digits of a file name


@dataclass(frozen=True)
class Bundle:
    """An index, read."""

    shards: int
    big: bool
    producer: int
    entries: dict[str, Entry] = field(default_factory=dict)
    parts: dict[bytes, Entry] = field(default_factory=dict)  # the slices, by key


def read_index(source: Source) -> Bundle:
    """Read an index, and check each of its blocks.

    Raises:
        CorruptError: it is damaged.
        UnsupportedError: it needs a later reader.
    """
    where = source.where
    table = read_table(source)
    first, value = next(table, (b"\0", memoryview(b"")))
    if first:
        raise CorruptError("the index does not start with its header", where=where)
    bundle = _header(value, where)
    known: dict[bytes, tuple[int, ...]] = {}
    for number, (key, value) in enumerate(table):
        if number >= MAX_TENSORS:
            raise UnsafeError(f"it lists more than {MAX_TENSORS:,} tensors", where=where)
        entry = read_entry(bytes(value), known, where)
        if not 0 <= entry.shard < bundle.shards:
            raise CorruptError(
                f"the index puts a tensor in shard {entry.shard} of {bundle.shards}", where=where
            )
        if key[:1] == b"\0":
            bundle.parts[key] = entry
        else:
            bundle.entries[key.decode("utf-8", "surrogateescape")] = entry
    return bundle


def _header(value: memoryview, where: str) -> Bundle:
    header = Message.parse(PROTOS["BundleHeaderProto"], bytes(value), where=where)
    version = header.version
    if version.min_consumer > VERSION:
        raise UnsupportedError(
            f"its header asks for a reader of version {version.min_consumer}, this is {VERSION}",
            where=where,
            cure="Update tensorkeep.",
        )
    if header.endianness not in (0, 1) or not 0 < header.num_shards <= _MAX_SHARDS:
        raise CorruptError(
            f"its header has {header.num_shards} shards and byte order {header.endianness}",
            where=where,
        )
    return Bundle(header.num_shards, header.endianness == 1, version.producer)
