"""A State as a file: magic number, digest, header, and then the chunks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import xxhash

from tensorkeep.checksum import mismatch
from tensorkeep.errors import ArgumentError
from tensorkeep.format import Stream
from tensorkeep.formats.protobuf.fields import MAGIC, VARINT, InChunk, InState
from tensorkeep.formats.protobuf.header import DIGEST, MAX_HEADER, Draft, head_of, sized
from tensorkeep.formats.protobuf.unknown import take_unknown
from tensorkeep.message.schema import encode_varint
from tensorkeep.state import State
from tensorkeep.store import Chunk, Late, Location
from tensorkeep.tensor import Tensor

ALIGN = 64
_CHUNK = 1 << 30
_LARGEST = (2 << 30) - (1 << 16)  # protobuf's own libraries read messages below 2 GiB
_PIECE = 2 << 20  # bytes that are still in cache when they are written after they were hashed
_PACKED = 8  # times that packing takes more than what it gives

_DATA, _PADDING = head_of(InChunk.DATA), head_of(InChunk.PADDING)
_CHUNK_HEAD = head_of(InState.CHUNK)


class _Part(NamedTuple):
    """A chunk: what stands before its data, and which bytes of which tensor they are."""

    head: bytes
    name: str
    start: int
    stop: int


def encode(
    state: State, location: Location, *, checksums: bool = True, chunk_size: int = _CHUNK
) -> Iterator[Stream]:
    """Write one file.

    Args:
        state: what to write.
        location: where to.
        checksums: keep an XXH3-128 of each tensor and of the header.
        chunk_size: the most bytes of a tensor in one message, below 2 GiB; less where it is to be
            read by something that takes smaller messages only.

    Raises:
        ArgumentError: a chunk size that is none.
    """
    if type(chunk_size) is not int or not 1 <= chunk_size <= _LARGEST:
        raise ArgumentError(
            f"chunk_size cannot be {chunk_size!r}",
            where=location.where,
            cure=f"Give a number of bytes from 1 to {_LARGEST:,}.",
        )
    unknown, metadata = take_unknown(state)
    draft = Draft(state, metadata, unknown, checksums=checksums)
    digests = dict.fromkeys(state, bytes(DIGEST))  # filled in writing

    def front() -> bytes:
        header = draft.encode(digests.values())
        sealed = sized(InState.DIGEST, xxhash.xxh3_128_digest(header)) if checksums else b""
        return MAGIC + sealed + sized(InState.HEADER, header)

    first = front()
    if len(first) > MAX_HEADER:
        raise ArgumentError(
            f"the names, the nesting and the metadata take {len(first):,} bytes",
            where=location.where,
            cure=f"A header holds {MAX_HEADER:,}; keep large values in tensors.",
        )
    parts, size = _lay_out(state, len(first), chunk_size)

    def chunks() -> Iterator[Chunk | Late]:
        yield Late(len(first), front) if checksums else first
        hasher = xxhash.xxh3_128()
        for head, name, start, stop in parts:
            tensor = state[name]
            hashed = checksums or name in state.digests
            if head:
                yield head
            for piece in _pieces(tensor, start, stop):
                if hashed:
                    hasher.update(piece)
                yield piece
            if hashed and stop == tensor.nbytes:
                digests[name] = hasher.digest()
                found, hasher = digests[name].hex(), xxhash.xxh3_128()
                if state.digests.get(name, found) != found:  # damaged before it came here
                    raise mismatch(name, state.digests[name], found, state.where)
        if unknown.state:
            yield unknown.state

    yield Stream(location.key, chunks(), size + len(unknown.state))


def _lay_out(state: State, at: int, chunk_size: int) -> tuple[list[_Part], int]:
    """Choose the chunks; gives them and where the last one ends."""
    parts: list[_Part] = []
    for place, (name, tensor) in enumerate(state.items()):
        if not tensor.nbytes:
            parts.append(_Part(b"", name, 0, 0))
        if tensor.nbytes > chunk_size:  # a few bytes can declare more chunks than can be listed
            tensor.source.reach(tensor.offset, tensor.offset + tensor.nbytes)
        for start in range(0, tensor.nbytes, chunk_size):
            stop = min(start + chunk_size, tensor.nbytes)
            head = _chunk_head(at, place, start, stop - start)
            parts.append(_Part(head, name, start, stop))
            at += len(head) + stop - start
    return parts, at


def _chunk_head(at: int, place: int, offset: int, size: int) -> bytes:
    """Give what stands before the data of a chunk that starts at `at`.

    >>> (4090 + len(_chunk_head(4090, 7, 0, 1 << 20))) % 64
    0
    """
    fields = head_of(InChunk.TENSOR, VARINT) + encode_varint(place) if place else b""
    if offset:
        fields += head_of(InChunk.OFFSET, VARINT) + encode_varint(offset)
    data = _DATA + encode_varint(size)
    inner = len(fields) + len(data) + size
    padding, pad = b"", 0
    while True:
        head = _CHUNK_HEAD + encode_varint(inner + len(padding)) + fields + padding + data
        over = -(at + len(head)) % ALIGN
        if not over:
            return head
        # The length before it all can grow by a byte with it; it is then tried again with more.
        pad = pad + over if padding else (over - len(_PADDING) - 1) % ALIGN
        padding = _PADDING + encode_varint(pad) + bytes(pad)


def _pieces(tensor: Tensor, start: int, stop: int) -> Iterator[memoryview]:
    size = _PIECE // _PACKED if tensor.dtype.packed else _PIECE
    for first in range(start, stop, size):
        last = min(first + size, stop)
        yield tensor.source.read(tensor.offset + first, tensor.offset + last)
