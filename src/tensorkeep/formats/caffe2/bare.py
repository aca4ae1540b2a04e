"""caffe2-blob: a bare BlobProto, TensorProto or TensorProtos file.

`workspace.SerializeBlob` gave BlobProtos, never in chunks; a TensorProtos is one record of a
training database, or a whole protodb. The ending says which is written; .blobproto means a
BlobProto for one tensor, a TensorProtos for several. Before them stands a field that Caffe2 skips,
with the nesting, the metadata and digests; `plain=True` leaves it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import ArgumentError, CorruptError, LossError
from tensorkeep.format import Format, Stream
from tensorkeep.formats.caffe2.blobs import gather, read_blob
from tensorkeep.formats.caffe2.recognise import is_blob, is_tensor, is_tensors
from tensorkeep.formats.caffe2.sealing import (
    BARE_NOTES,
    Prepared,
    finish,
    losses,
    notes_field,
    prepare,
    refuse_unplain,
    take_notes,
)
from tensorkeep.message.schema import encode_varint
from tensorkeep.source import Source
from tensorkeep.state import State
from tensorkeep.store import HEAD, Chunk, Late, Location
from tensorkeep.wire.caffe2.arguments import Range, walk
from tensorkeep.wire.caffe2.encode import encode_blob
from tensorkeep.wire.caffe2.options import NEVER, SaveOptions
from tensorkeep.wire.caffe2.values import KINDS, TENSOR, Blob

NAME = "caffe2-blob"
_LEAD = b"\x12\x06Tensor\x1a"  # of a BlobProto: what stands before the length of its TensorProto
_PROTO = b"\x0a"  # of a TensorProtos: what stands before the length of each
_LAST_OF_LENGTH = 0x7F  # the bytes of a length before its last are larger
_SINGLE, _SEVERAL = ".tensorproto", (".tensorprotos", ".protodb")
_TENSORS = frozenset((TENSOR,))
_WHOLE = SaveOptions(chunk_size=NEVER)


def accepts(location: Location) -> bool:
    """One of the three messages, or our notes before one."""
    if not location.key:
        return False
    head, size = location.head, location.source.size
    if head.startswith(BARE_NOTES):
        return True
    return is_blob(head, size) or is_tensor(head, size) or is_tensors(head, size)


def decode(location: Location) -> State:
    """Read all but the numbers in the tensors."""
    source, where = location.source, location.where
    text, start = take_notes(source, where, BARE_NOTES)
    rest = Range(source, start, source.size)
    head, size = bytes(source.read(start, min(start + HEAD, source.size))), rest.size
    if is_tensors(head, size) or not size:
        rows = _read_tensors(rest, where)
    elif is_tensor(head, size):
        rows = [read_tensor(rest, where)]
    elif is_blob(head, size):
        rows = [(_name(rest, 1, where), read_blob(source, rest.start, rest.stop, where))]
        return finish(gather(dict(rows)), text, location, format=NAME)
    else:
        raise CorruptError("is not a BlobProto, TensorProto or TensorProtos", where=where)
    blobs = dict(rows) if text is not None else _named(rows)  # ours have names, each its own
    return finish(gather(blobs), text, location, format=NAME)


def _read_tensors(held: Range, where: str) -> list[tuple[str, Blob]]:
    found = []
    for number, wire, start, stop in walk(held.source, held.start, held.stop, where):
        if (number, wire) != (1, 2):
            raise CorruptError(f"field {number} cannot stand in a TensorProtos", where=where)
        found.append(read_tensor(Range(held.source, start, stop), where))
    return found


def read_tensor(held: Range, where: str) -> tuple[str, Blob]:
    """Read a bare TensorProto: its name and itself.

    Raises:
        CorruptError: it is not one.
    """
    name = _name(held, 7, where)
    head = _LEAD + encode_varint(held.size)
    source = _Prefixed(head, held, f"{where}: {name}" if name else where)
    return name, read_blob(source, 0, source.size, source.where)


def _name(held: Range, field: int, where: str) -> str:
    for number, wire, start, stop in walk(held.source, held.start, held.stop, where):
        if (number, wire) == (field, 2):
            return Range(held.source, start, stop).text()
    return ""


def _named(rows: Iterable[tuple[str, Blob]]) -> dict[str, Blob]:
    """Name what has no name, or another's, by its place."""
    blobs: dict[str, Blob] = {}
    for place, (name, blob) in enumerate(rows):
        free = name if name and name not in blobs else f"{name}:{place}" if name else str(place)
        while free in blobs:
            free += "_"
        blobs[free] = blob
    return blobs


class _Prefixed(Source):
    """A few bytes, and behind them a part of another source."""

    __slots__ = ("_held", "_prefix")

    def __init__(self, prefix: bytes, held: Range, where: str) -> None:
        self._prefix = prefix
        self._held = held
        super().__init__(len(prefix) + held.size, where)

    def _read(self, start: int, stop: int) -> memoryview:
        first, at = len(self._prefix), self._held.start - len(self._prefix)
        if start >= first:
            return self._held.source.read(start + at, stop + at)
        rest = self._held.source.read(self._held.start, max(stop, first) + at)
        return memoryview(self._prefix[start:stop] + rest)


def encode(state: State, location: Location, *, plain: bool = False) -> Iterator[Stream]:
    """Write what the ending says: a BlobProto for one blob, a TensorProto, or a TensorProtos.

    Args:
        state: what to write.
        location: the file to write.
        plain: nothing but the message; what would be lost is refused.
    """
    name = location.name.lower()
    single, several = name.endswith(_SINGLE), name.endswith(_SEVERAL)
    if single and len(state) > 1:
        problem = f"a TensorProto holds one tensor, not {len(state)}"
        raise ArgumentError(problem, where=location.where, cure="Call it .tensorprotos.")
    prepared = prepare(state, kinds=_TENSORS if single or several else KINDS)
    if len(prepared.blobs) != 1:
        several, prepared = not single, prepare(state, kinds=_TENSORS)
    if plain:
        _refuse_unplain(prepared, location, nameless=not single and not several)
    blobs = prepared.blobs

    def chunks() -> Iterator[Chunk | Late]:
        if not plain:
            yield notes_field(prepared, BARE_NOTES)
        for name, blob in blobs.items():
            if several:
                yield from _proto(name, blob)
            else:
                yield from tensor_proto(name, blob)[0] if single else _message(name, blob)

    yield Stream(location.key, chunks())


def _refuse_unplain(prepared: Prepared, location: Location, *, nameless: bool) -> None:
    """Refuse what the message alone does not hold, to which tensors without a name can belong."""
    refuse_unplain(prepared, NAME)
    if not prepared.blobs:
        raise ArgumentError("there is nothing to save", where=location.where)
    if not nameless and "" in prepared.blobs:
        raise LossError(
            "a TensorProto without a name is read under its number",
            where=location.where,
            cure="Leave plain out, or name the tensor.",
        )


def _message(name: str, blob: Blob) -> Iterable[Chunk]:
    ((_, chunks, _),) = encode_blob(name, blob, _WHOLE)
    return chunks


def tensor_proto(name: str, blob: Blob) -> tuple[Iterator[Chunk], int]:
    """Give a bare TensorProto, which is what a BlobProto has inside: its bytes and their number."""
    ((_, chunks, size),) = encode_blob(name, blob, _WHOLE)
    whole = iter(chunks)
    first = bytes(next(whole))
    letters = len(name.encode("utf-8", "surrogateescape"))
    start = 1 + len(encode_varint(letters)) + letters + len(_LEAD)
    while first[start] > _LAST_OF_LENGTH:
        start += 1
    return chain((first[start + 1 :],), whole), size - start - 1


def _proto(name: str, blob: Blob) -> Iterator[Chunk]:
    chunks, size = tensor_proto(name, blob)
    yield _PROTO + encode_varint(size)
    yield from chunks


FORMAT = Format(
    name=NAME,
    suffixes=(".blobproto", ".tensorproto", ".tensorprotos", ".protodb"),
    accepts=accepts,
    decode=decode,
    encode=encode,
    losses=losses,
    compares_digests=True,
    holds=frozenset(DTYPES.values()),
    checked_by="XXH3-128",
)
