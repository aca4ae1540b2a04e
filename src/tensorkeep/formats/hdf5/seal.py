"""Checksums of an HDF5 file, behind its end: the library and all other readers stop before them.

    document        the digests of the tensors' canonical bytes (tensorkeep.notes); may be empty
    ranges          pairs of uint64: which bytes are not elements of tensors
    count, length   uint64: of the ranges; of the document in bytes
    structure       XXH3-128 of all bytes in the ranges
    seal            XXH3-128 of everything above
    magic           "tensorkeep-seal" and a line break

It is checked before the library sees a byte, so that damage is told for what it is. Whoever opens
the file for writing cuts it off at the end that its superblock states, and the checksums with it:
a file that was changed has none, rather than wrong ones.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import xxhash

from tensorkeep.errors import CorruptError
from tensorkeep.source import Source

_MAGIC = b"tensorkeep-seal\n"
_TAIL = struct.Struct("<QQ16s16s16s")
_PAIR = 16
_PIECE = 4 << 20
_DAMAGED = "Use another copy of the file."


@dataclass(frozen=True, slots=True)
class Seal:
    """What stands behind the end of a file.

    Args:
        document: the digests, as `tensorkeep.notes` writes them.
        end: where the HDF5 file itself ends.
    """

    document: bytes
    end: int


def is_sealed(source: Source) -> bool:
    """Say whether checksums stand behind the end of a file."""
    return (
        source.size >= _TAIL.size and source.read(source.size - len(_MAGIC), source.size) == _MAGIC
    )


def build_seal(document: bytes, ranges: Iterable[tuple[int, int]], structure: bytes) -> bytes:
    """Give the bytes to write behind the end."""
    pairs = [bound for pair in ranges for bound in pair]
    body = document + struct.pack(f"<{len(pairs)}Q", *pairs)
    counts = struct.pack("<QQ", len(pairs) // 2, len(document)) + structure
    return body + counts + xxhash.xxh3_128_digest(body + counts) + _MAGIC


def check_seal(source: Source, where: str) -> Seal | None:
    """Find the checksums of a file and compare its structure with them; None where it has none.

    Raises:
        CorruptError: the structure, or the seal itself, is damaged.
    """
    if source.size < _TAIL.size:
        return None
    tail = bytes(source.read(source.size - _TAIL.size, source.size))
    count, length, structure, seal, magic = _TAIL.unpack(tail)
    if magic != _MAGIC:
        return None
    start = source.size - _TAIL.size - length - _PAIR * count
    if start < 0:
        raise CorruptError("the checksums behind its end are damaged", where=where, cure=_DAMAGED)
    body = bytes(source.read(start, source.size - _TAIL.size))
    if xxhash.xxh3_128_digest(body + tail[:32]) != seal:
        raise CorruptError("the checksums behind its end are damaged", where=where, cure=_DAMAGED)
    pairs = struct.unpack(f"<{2 * count}Q", body[length:])
    hasher = xxhash.xxh3_128()
    for first, last in zip(pairs[::2], pairs[1::2], strict=True):
        for at in range(first, min(last, start), _PIECE):
            hasher.update(source.read(at, min(at + _PIECE, last, start)))
    if hasher.digest() != structure:
        raise CorruptError(
            "its structure is damaged: the XXH3-128 is not the one that was saved",
            where=where,
            cure=_DAMAGED,
        )
    return Seal(body[:length], start)
