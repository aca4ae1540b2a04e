"""Entries of the index: what a tensor is, and where it lies.

As TensorFlow writes them, all but those of slices are taken apart by one regular expression, for
there can be many thousands; anything else goes the careful way.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.formats.tensorflow.protos import PROTOS
from tensorkeep.message import Message

Box = tuple[tuple[int, int], ...]  # by axis, where a slice starts and how long it is
FULL = -1  # the length of a slice that goes along all of an axis

_MAX_ENTRY = 1 << 20  # bytes: what is longer is damage, or an attack on our memory
_MAX_AXES = 64  # what NumPy can hold
_MAX_SLICES = 10_000

# dtype, shape, shard_id, offset, size and crc32c, in this order.
_USUAL = re.compile(
    rb"\x08([\x01-\x7f])\x12([\x00-\x7f])((?:\x12\x00|\x12[\x02-\x0a]\x08[\x80-\xff]*[\x01-\x7f])*)"
    rb"(?:\x18([\x80-\xff]{0,2}[\x01-\x7f]))?(?:\x20([\x80-\xff]{0,8}[\x01-\x7f]))?"
    rb"(?:\x28([\x80-\xff]{0,8}[\x01-\x7f]))?(?:\x35(.{4}))?",
    re.DOTALL,
)


class Entry(NamedTuple):
    """What the index says of a tensor, or of a slice of one."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: tuple[Box, ...]


def read_entry(value: bytes, known: dict[bytes, tuple[int, ...]], where: str) -> Entry:
    """Read an entry.

    Args:
        value: what the index holds of a tensor.
        known: shapes that were read before, by their bytes; added to.
        where: names the file in messages.

    Raises:
        CorruptError: it is damaged.
        UnsafeError: it is longer than any real one.
    """
    usual = _USUAL.fullmatch(value)
    if usual is None or len(usual[3]) != usual[2][0]:
        return _read_carefully(value, where)
    shape = known.get(usual[3])
    if shape is None:
        shape = known[usual[3]] = _shape(
            Message.parse(PROTOS["TensorShapeProto"], usual[3], where=where), where
        )
    shard, offset, size = (_number(usual[place]) for place in (4, 5, 6))
    crc = int.from_bytes(usual[7] or b"", "little")
    return Entry(usual[1][0], shape, shard, offset, size, crc, ())


def _number(varint: bytes | None) -> int:
    value = 0
    for byte in reversed(varint or b""):
        value = value << 7 | byte & 127
    return value


def _shape(shape: Message, where: str) -> tuple[int, ...]:
    if len(shape.dim) > _MAX_AXES:
        raise UnsafeError(
            f"a tensor of {len(shape.dim)} axes is over the limit of {_MAX_AXES}", where=where
        )
    sizes = tuple(axis["size"] for axis in shape.dim)
    if shape.unknown_rank or any(size < 0 for size in sizes):
        raise CorruptError(f"a tensor of the index has shape {sizes}", where=where)
    return sizes


def _read_carefully(value: bytes, where: str) -> Entry:
    if len(value) > _MAX_ENTRY:
        raise UnsafeError(f"an entry of {len(value):,} bytes is over the limit", where=where)
    entry = Message.parse(PROTOS["BundleEntryProto"], value, where=where)
    shape = _shape(entry.shape, where)
    if len(entry.slices) > _MAX_SLICES:
        raise UnsafeError(
            f"a tensor in {len(entry.slices):,} slices is over the limit of {_MAX_SLICES:,}",
            where=where,
        )
    offset, size = entry.offset, entry["size"]
    if offset < 0 or size < 0:
        raise CorruptError(
            f"the index gives a tensor {size} bytes from byte {offset} on", where=where
        )
    slices = tuple(
        tuple(
            (extent.start, extent.length if "length" in extent else FULL) for extent in row.extent
        )
        for row in entry.slices
    )
    return Entry(entry.dtype, shape, entry.shard_id, offset, size, entry.crc32c, slices)
