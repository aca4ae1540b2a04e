"""safetensors: a JSON header, then the tensors' bytes without gaps; alone or in shards.

Tensors are ordered by element type, widest first, then by name, as the reference library orders
them, so that every tensor is aligned to its element size. We pad the header so that the data starts
at a multiple of 64 (`align=8` for the reference library's own padding).

Element types that the format lacks are kept as U8 (complex128 as pairs of F64) and noted under
`tensorkeep` in `__metadata__`, with the nesting, the metadata that is not text, and the digests.

Facts from the format's README and reference library, version 0.8.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from tensorkeep import checksum
from tensorkeep.checksum import mismatch
from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import ArgumentError, MissingError
from tensorkeep.format import Format, Stream
from tensorkeep.formats.safetensors.checkpoint import FORMAT as CHECKPOINT
from tensorkeep.formats.safetensors.checkpoint import is_checkpoint
from tensorkeep.formats.safetensors.shards import (
    INDEX,
    decode_index,
    encode_index,
    is_own,
    old_shards,
    shard_names,
    split,
)
from tensorkeep.formats.safetensors.single import decode_file, encode_file
from tensorkeep.notes import KEY, Notes
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.wire.seal import NO_DIGEST, SEAL
from tensorkeep.wire.sizes import size_of

_MAX_ALIGN = 1 << 20


def accepts(location: Location) -> bool:
    """A header length that fits followed by `{`, an index of shards, or a folder of either."""
    if not location.key:
        return not is_checkpoint(location) and _in_folder(location) is not None
    if location.name.endswith(INDEX):
        return location.head.lstrip()[:1] == b"{"
    head = location.head
    length = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= length <= location.source.size - 8


def decode(location: Location) -> State:
    """Read the header, or the index and its shards' headers."""
    if not location.key:
        found = _in_folder(location)
        if found is None:
            raise MissingError("holds no safetensors file", where=location.where)
        location = Location(location.store, found)
    if location.name.endswith(INDEX):
        return decode_index(location)
    return decode_file(location)


def instead(location: Location) -> Location | None:
    """Give the index of the shards that a name stands for."""
    if location.suffix != ".safetensors":
        return None
    index = location.beside(location.name.removesuffix(".safetensors") + INDEX)
    return index if any(True for _ in index.store.keys(index.key)) else None


def _in_folder(location: Location) -> str | None:
    """Find the one file or index to open in a folder; None where there is none or a choice."""
    names = []
    for key in location.store.keys():
        if "/" in key:
            break
        names.append(key)
    for suffix in (INDEX, ".safetensors"):
        found = [name for name in names if name.endswith(suffix)]
        if len(found) == 1:
            return found[0]
        if found:
            return None
    return None


def encode(
    state: State,
    location: Location,
    *,
    checksums: bool = True,
    align: int = 64,
    max_shard_size: int | str | None = None,
) -> Iterator[Stream]:
    """Write one file, or shards and their index.

    Args:
        state: what to write.
        location: the file to write; with shards, the file they are named after.
        checksums: keep an XXH3-128 of each tensor and of the header.
        align: start the data at a multiple of this many bytes (a power of two, 8 at least).
        max_shard_size: start another shard before one has more than this many bytes of tensors
            ("5GB", "500MB", or a number).
    """
    if type(align) is not int or not 8 <= align <= _MAX_ALIGN or align & (align - 1):
        raise ArgumentError(
            f"align cannot be {align!r}", cure=f"Give a power of two from 8 to {_MAX_ALIGN:,}."
        )
    if "__metadata__" in state:
        raise ArgumentError(
            "safetensors keeps the name __metadata__ for itself", cure="Rename the tensor."
        )
    tensors = dict(state.items())
    digests = dict.fromkeys(tensors, NO_DIGEST) if checksums else None  # filled in writing
    if digests is not None and location.store.in_order:  # so that the header can go first
        digests |= {n: d for n, d in state.digests.items() if n in tensors}
        digests |= checksum.digests({n: t for n, t in tensors.items() if n not in state.digests})

    def check(name: str, found: str) -> None:
        if digests is not None:
            digests[name] = found
        if state.digests.get(name, found) != found:  # it was damaged before it came here
            raise mismatch(name, state.digests[name], found, state.where)

    noted = _not_text(state.metadata)
    notes = Notes(noted, state.skeleton, {}, digests)
    texts = {k: str(v) for k, v in state.metadata.items() if k not in noted}
    old = old_shards(location)
    index = location.name.removesuffix(".safetensors") + INDEX
    if location.name.endswith(INDEX):
        index, max_shard_size = location.name, max_shard_size or 5 * 10**9
    parts = split(tensors, size_of(max_shard_size))
    stem = index.removesuffix(INDEX)
    own_old = {file for file in old if is_own(file, stem)}
    if len(parts) == 1 and not location.name.endswith(INDEX):
        yield encode_file(location.key, tensors, notes, texts, align, check)
        removed = {*own_old, index} if old else set()
    else:
        files = shard_names(stem, len(parts), old)
        weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        for file, part in zip(files, parts, strict=True):
            own = Notes(digests=None if digests is None else {name: digests[name] for name in part})
            yield encode_file(location.beside(file).key, part, own, texts, align, check)
        if not tensors:  # no shard has a place for the text
            notes = replace(notes, metadata=state.metadata)
        yield encode_index(location.beside(index).key, weight_map, notes, tensors)
        removed = own_old - set(files)
        if not location.name.endswith(INDEX):
            removed |= {location.name}
    for name in sorted(removed, key=lambda name: (not name.endswith(INDEX), name)):
        yield Stream(location.beside(name).key, None)


def _not_text(metadata: Mapping[str, Json]) -> dict[str, Json]:
    reserved = (KEY, SEAL)
    return {k: v for k, v in metadata.items() if not isinstance(v, str) or k in reserved}


FORMAT = Format(
    name="safetensors",
    suffixes=(".safetensors", INDEX),
    accepts=accepts,
    decode=decode,
    encode=encode,
    instead=instead,
    compares_digests=True,
    holds=frozenset(DTYPES.values()),
    checked_by="XXH3-128",
    sharded="an index",
)

__all__ = ["CHECKPOINT", "FORMAT"]
