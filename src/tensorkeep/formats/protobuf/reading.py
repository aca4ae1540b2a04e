"""A file as a State: its fields walked without what the chunks hold."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import xxhash

from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.formats.protobuf.fields import (
    BYTES,
    FIXED64,
    MAGIC,
    VARINT,
    Fields,
    InChunk,
    InState,
    expect,
    refuse,
)
from tensorkeep.formats.protobuf.header import DIGEST, MAX_HEADER, Header, Row, parse_header
from tensorkeep.formats.protobuf.unknown import Unknown
from tensorkeep.source import Source
from tensorkeep.state import MAX_TENSORS, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.elements import Joined

_MAX_FIELDS = 6 * MAX_TENSORS


class _Chunk(NamedTuple):
    """A chunk of a tensor: where in the tensor it belongs, and where in the file it lies."""

    offset: int
    start: int
    stop: int


@dataclass(slots=True)
class _Records:
    """Where the fields of a State lie."""

    digest: bytes | None = None
    header: tuple[int, int] | None = None
    chunks: defaultdict[int, list[_Chunk]] = field(default_factory=lambda: defaultdict(list))
    odd: set[int] = field(default_factory=set)  # tensors whose chunks have unknown fields
    unknown: Unknown = field(default_factory=Unknown)


def decode(location: Location) -> State:
    """Read the header, and find the chunks."""
    source, where = location.source, location.where
    records = _walk(source, where)
    header = _read_header(source, records, where)
    tensors = _place(header.rows, records, source, where)
    digests = {row.name: row.digest.hex() for row in header.rows if row.digest}
    if header.checksums and len(digests) < len(header.rows):
        refuse("a tensor's digest is gone", where)
    names = [row.name for row in header.rows]
    remarks = {
        names[place]: "in several chunks"
        for place, chunks in records.chunks.items()
        if len(chunks) > 1
    }
    remarks |= {names[place]: "has fields that are not known here" for place in records.odd}
    return State(
        tensors,
        metadata={**header.metadata, **records.unknown.describe()},
        skeleton=header.skeleton,
        digests=digests,
        remarks=remarks,
        format="protobuf",
        where=where,
        close=location.close,
    )


def _walk(source: Source, where: str) -> _Records:
    """Find the fields of the State; those that stand once may not stand twice."""
    found = _Records()
    size, at = source.size, 0
    magic = False
    fields = Fields(source, where, _MAX_FIELDS)
    while at < size:
        begin = at
        number, wire, start, at = fields.at(at, size)
        if number == InState.CHUNK:
            expect(wire, BYTES, "a chunk", where)
            _take_chunk(fields, start, at, found, where)
        elif number == InState.HEADER:
            expect(wire, BYTES, "the header", where)
            if found.header is not None:
                refuse("has two headers", where)
            found.header = start, at
        elif number == InState.DIGEST:
            expect(wire, BYTES, "the header's digest", where)
            if found.digest is not None or at - start != DIGEST:
                refuse("the header's digest is damaged, or there are two", where)
            found.digest = bytes(source.read(start, at))
        elif number == InState.MAGIC:
            expect(wire, FIXED64, "the magic number", where)
            if magic or bytes(source.read(start, at)) != MAGIC[1:]:
                refuse("the magic number is another, or stands there twice", where)
            magic = True
        elif found.unknown.fits(at - begin):
            found.unknown.state += source.read(begin, at)
    if not magic:
        raise CorruptError(
            "is not a tensorkeep State message: the magic number is missing",
            where=where,
            cure="It is a protobuf message of another schema, or damaged.",
        )
    return found


def _take_chunk(fields: Fields, at: int, stop: int, found: _Records, where: str) -> None:
    tensor = offset = first = last = 0
    odd = False
    while at < stop:
        number, wire, start, at = fields.at(at, stop)
        if number == InChunk.DATA:
            expect(wire, BYTES, "the data of a chunk", where)
            if last:
                refuse("a chunk has data twice", where)
            first, last = start, at
        elif number == InChunk.PADDING:
            expect(wire, BYTES, "the padding of a chunk", where)
        elif number == InChunk.TENSOR:
            expect(wire, VARINT, "the tensor of a chunk", where)
            tensor = fields.number(start)
        elif number == InChunk.OFFSET:
            expect(wire, VARINT, "the offset of a chunk", where)
            offset = fields.number(start)
        else:
            odd = True
    if odd:
        found.odd.add(tensor)
    if first < last:
        found.chunks[tensor].append(_Chunk(offset, first, last))


def _read_header(source: Source, records: _Records, where: str) -> Header:
    if records.header is None:
        refuse("has no header", where)
    start, stop = records.header
    if stop - start > MAX_HEADER:
        raise UnsafeError(
            f"its header of {stop - start:,} bytes is over the limit of {MAX_HEADER:,}",
            where=where,
        )
    data = bytes(source.read(start, stop))
    if records.digest is not None:
        hashed = xxhash.xxh3_128_digest(data)
        if hashed != records.digest:
            raise CorruptError(
                f"the header is damaged: its XXH3-128 is {hashed.hex()}, "
                f"{records.digest.hex()} was saved",
                where=where,
                cure="Use another copy of the file.",
            )
    header = parse_header(data, where, records.unknown)
    if header.checksums and records.digest is None:
        refuse("the header's own digest is gone", where)
    return header


def _place(rows: list[Row], records: _Records, source: Source, where: str) -> dict[str, Tensor]:
    """Give the tensors the bytes of their chunks."""
    chunks = records.chunks
    highest = max((*chunks, *records.odd), default=-1)
    if highest >= len(rows):
        refuse(f"holds a chunk of tensor {highest:,}, but there are {len(rows):,}", where)
    tensors: dict[str, Tensor] = {}
    for place, (name, kind, shape, nbytes, _) in enumerate(rows):
        own = chunks.get(place, [])
        if len(own) == 1 and own[0] == (0, own[0].start, own[0].start + nbytes):
            tensors[name] = Tensor(kind, shape, source, own[0].start, nbytes)
        else:
            joined = _join(own, nbytes, source, f"{where}: {name}")
            tensors[name] = Tensor(kind, shape, joined, 0, nbytes)
    return tensors


def _join(chunks: list[_Chunk], nbytes: int, source: Source, where: str) -> Joined:
    """Put the chunks of a tensor in order; they have to cover it once, without gaps."""
    chunks.sort()
    end = 0
    for offset, start, stop in chunks:
        if offset != end:
            what = "missing" if offset > end else "there twice"
            refuse(f"bytes {min(offset, end):,} to {max(offset, end):,} of it are {what}", where)
        end += stop - start
    if end != nbytes:
        what = "missing" if end < nbytes else "too many"
        refuse(f"its chunks hold {end:,} bytes of {nbytes:,}, so some are {what}", where)
    return Joined([(source, start, stop) for _, start, stop in chunks], where)
