"""caffe2: blobs in a database, as Caffe2's Save, Checkpoint and predictor exporter left them.

A minidb is one file; other databases (LMDB, LevelDB, RocksDB, SQLite) are whole stores. A tensor
is one record or several chunks, other blobs are one; only their heads are read on opening. What is
missing of a tensor is remarked, and is an error when it is read.

We write Caffe2's records, and beside them a text blob `!!tensorkeep` with the nesting, the
metadata, digests, and the types that Caffe2 lacks, whose tensors are kept as bytes. Caffe2 loads
such a database like any other; `plain=True` leaves the blob out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from tensorkeep.database import Database
from tensorkeep.dtypes import DTYPES
from tensorkeep.dtypes import STRING as STRINGS
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    FormatError,
    MissingError,
    TensorKeepError,
    UnsupportedError,
)
from tensorkeep.format import Format, Stream
from tensorkeep.formats.caffe2.bare import read_tensor, tensor_proto
from tensorkeep.formats.caffe2.blobs import NOT_READ, Gathered, gather, tensor_names
from tensorkeep.formats.caffe2.recognise import is_tensors
from tensorkeep.formats.caffe2.sealing import (
    Prepared,
    finish,
    prepare,
    refuse_unplain,
)
from tensorkeep.formats.caffe2.sealing import (
    losses as lost_before,
)
from tensorkeep.source import Source
from tensorkeep.state import State
from tensorkeep.store import HEAD, Chunk, Late, Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.caffe2.arguments import Range
from tensorkeep.wire.caffe2.decode import Part, parse_part
from tensorkeep.wire.caffe2.encode import Record, encode_blob
from tensorkeep.wire.caffe2.exports import META_NET_DEF, read_export
from tensorkeep.wire.caffe2.options import SaveOptions
from tensorkeep.wire.caffe2.states import Assembly, blob_name_of
from tensorkeep.wire.caffe2.values import KINDS, STRING, TENSOR, Blob
from tensorkeep.wire.minidb import looks_like_minidb, read_records, record_header

NAME = "caffe2"
NOTES = "!!tensorkeep"
_MOST_MISSING, _MOST_TIMES = 1 << 30, 1000  # bytes of an incomplete tensor


def accepts(location: Location) -> bool:
    """A minidb file, or a whole database."""
    if not location.key:
        return isinstance(location.store, Database)
    return looks_like_minidb(location.head, location.source.size)


def decode(location: Location) -> State:
    """Read the heads of all records."""
    if _is_protodb(location):
        return _decode_protodb(location)
    assembly = Assembly()
    text = None
    held = 0
    unread: dict[str, Part] = {}
    for part in _parts(location):
        held += part.size
        if part.key == NOTES and part.kind == STRING:
            text = part.content
        elif part.head.problem is not None and part.head.problem[0] is UnsupportedError:
            unread[_name(part)] = part
        else:
            assembly.add(_name(part), part)
    blobs = {name: assembly.result(name, partial=True) for name in assembly}
    gathered = gather(blobs, assembly.describe)
    _note_unread(gathered, unread, blobs)
    checks: dict[str, Callable[[], None]] = {}
    for blob_name in assembly:
        if not assembly.done(blob_name):
            refuse = partial(_refuse, assembly, blob_name)
            for name in tensor_names(gathered, blob_name):
                tensor = gathered.tensors[name]
                _check_claim(name, tensor, held, location.where)
                checks[name] = refuse
                if blobs[blob_name].kind != TENSOR:  # in pieces, of which the last is no part
                    gathered.tensors[name] = _refusing(tensor, refuse)
    state = finish(gathered, text, location, format=NAME, checks=checks)
    export = blobs.get(META_NET_DEF)
    return state if export is None else _as_model(state, export)


def _as_model(state: State, export: Blob) -> State:
    """Give the state of a predictor's export its nets; what is no such stays tensors alone."""
    if export.kind != STRING or not isinstance(export.value, bytes):
        return state
    try:
        return state.replace(document=read_export(export.value, state.where))
    except TensorKeepError:
        return state


def _refuse(assembly: Assembly, name: str) -> None:
    assembly.result(name)


def _note_unread(gathered: Gathered, unread: dict[str, Part], blobs: Mapping[str, Blob]) -> None:
    """Note the blobs that nothing here reads, unless there is nothing else."""
    for name, part in unread.items():
        if not blobs or name in blobs:
            part.check()
        kind = part.kind if part.kind != TENSOR else f"{TENSOR} of data_type {part.code}"
        gathered.note(NOT_READ, name, kind)


class _Refusing(Source):
    """Bytes that are an error when they are read."""

    __slots__ = ("_refuse",)

    def __init__(self, size: int, where: str, refuse: Callable[[], None]) -> None:
        self._refuse = refuse
        super().__init__(size, where)

    def _read(self, start: int, stop: int) -> memoryview:
        self._refuse()
        raise CorruptError("it is not complete", where=self.where)


def _refusing(tensor: Tensor, refuse: Callable[[], None]) -> Tensor:
    source = _Refusing(tensor.nbytes, tensor.source.where, refuse)
    return Tensor(tensor.dtype, tensor.shape, source, 0, tensor.nbytes)


def _check_claim(name: str, tensor: Tensor, held: int, where: str) -> None:
    """Refuse an incomplete tensor of a size that no file like this was cut from.

    Whoever reads it whole allocates all of it before its gaps are met.
    """
    if tensor.nbytes > _MOST_MISSING + _MOST_TIMES * held:
        raise CorruptError(
            f"the blob {name!r} claims {tensor.nbytes:,} bytes, in a file with {held:,} of records",
            where=where,
            cure="It is damaged, or made to exhaust memory.",
        )


def _is_protodb(location: Location) -> bool:
    return not location.key and getattr(location.store, "kind", "") == "protodb"


def _decode_protodb(location: Location) -> State:
    """Read a database whose records are TensorProtos."""
    blobs: dict[str, Blob] = {}
    text = None
    for key, source in location.store.records():
        _, blob = read_tensor(Range(source, 0, source.size), source.where)
        if key == NOTES and isinstance(blob.value, Tensor) and blob.value.dtype is STRINGS:
            text = "".join(blob.value.numpy().reshape(-1)).encode("utf-8", "surrogateescape")
            continue
        blobs[key] = blob
    if not blobs and text is None:
        raise MissingError("the database holds no records", where=location.where)
    return finish(gather(blobs), text, location, format=NAME)


def _parts(location: Location) -> Iterator[Part]:
    if not location.key:
        if not isinstance(location.store, Database):
            raise UnsupportedError("is a folder, not a database", where=location.where)
        empty = True
        for key, source in location.store.records():
            empty = False
            yield _parse(key, source, 0, source.size)
        if empty:
            raise MissingError("the database holds no records", where=location.where)
        return
    for key, start, stop in read_records(location.source):
        yield _parse(key, location.source, start, stop)


def _parse(key: str, source: Source, start: int, stop: int) -> Part:
    try:
        part = parse_part(key, source, start=start, stop=stop)
        if part.kind:
            return part
        problem: FormatError = CorruptError(f"{key[:60]!r} has no type", where=source.where)
    except FormatError as error:
        problem = error
    head, size = bytes(source.read(start, min(stop, start + HEAD))), stop - start
    if is_tensors(head, size):
        raise UnsupportedError(
            f"the record {key[:60]!r} is a TensorProtos: this is a database of training data",
            where=source.where,
            cure="Read it with tensorkeep.data.open, or tk.Batches.",
        )
    raise problem


def _name(part: Part) -> str:
    """Tell the blob from the key, of which tensors have an index at the end."""
    if not part.chunked:
        return part.key
    name = blob_name_of(part.key)
    # An index that is no number comes of no writer that knows names with #% in them.
    return name if name != part.key else blob_name_of(part.key, strict=False)


def encode(
    state: State,
    location: Location,
    *,
    plain: bool = False,
    chunk_size: int = 1_000_000,
    byte_holder: bool = False,
    fp16_as_bytes: bool = False,
) -> Iterator[Stream]:
    """Write a minidb file, or replace what a whole database holds.

    Args:
        state: what to write.
        location: the file or the database.
        plain: nothing but what Caffe2 itself writes; what would be lost is refused.
        chunk_size: the elements per record; -1 for each tensor in one.
        byte_holder: keep bool and 8- and 16-bit types as bytes, which is smaller and faster.
        fp16_as_bytes: the same for float16 alone.
    """
    options = SaveOptions(chunk_size, False, byte_holder, fp16_as_bytes)
    if NOTES in state:
        raise ArgumentError(f"the name {NOTES} is kept for notes", cure="Rename the tensor.")
    kinds = frozenset((TENSOR,)) if _is_protodb(location) else KINDS
    prepared = prepare(state, kinds=kinds)
    if plain:
        refuse_unplain(prepared, NAME)
        if not prepared.blobs:
            raise ArgumentError("there is nothing to save", where=location.where)
    if location.key:
        yield Stream(location.key, _minidb(prepared, options, plain))
        return
    protodb = _is_protodb(location)
    old = _old_keys(location)
    for key, chunks, size in _tensors(prepared) if protodb else _records(prepared, options):
        old.discard(key)
        yield Stream(key, chunks, size)
    if not plain:
        old.discard(NOTES)
        notes = _tensor_notes if protodb else _notes
        yield Stream(NOTES, notes(prepared.text())[1])
    for key in sorted(old):
        yield Stream(key, None)


def losses(state: State) -> list[str]:
    """Say which blobs a state lacks, and that a net which is no part of an export is left out."""
    lost = lost_before(state)
    if state.document is not None and state.dialect == FORMAT.dialect and META_NET_DEF not in state:
        lost.append(f"the model, {state.document.summary()}, is left out")
    return lost


def _records(prepared: Prepared, options: SaveOptions) -> Iterator[Record]:
    as_bytes = replace(options, byte_holder=True)
    # A blob that is no tensor has its name as the key, which can be that of a chunk of a tensor.
    others = {n: b.kind for n, b in prepared.blobs.items() if b.kind != TENSOR and "#%" in n}
    for name, blob in prepared.blobs.items():
        chosen = as_bytes if name in prepared.notes.stored else options
        for record in encode_blob(name, blob, chosen):
            if others and blob.kind == TENSOR and record[0] in others:
                problem = f"the tensor {name!r} and the {others[record[0]]} {record[0]!r}"
                raise UnsupportedError(f"{problem} need the same key", cure="Rename one of them.")
            yield record


def _notes(text: bytes) -> Record:
    (record,) = encode_blob(NOTES, Blob(STRING, text))
    return record


def _tensors(prepared: Prepared) -> Iterator[Record]:
    """Give the records of a protodb, which are TensorProtos."""
    for name, blob in prepared.blobs.items():
        yield name, *tensor_proto(name, blob)


def _tensor_notes(text: bytes) -> Record:
    tensor = Tensor.of(np.array(text.decode(), object))
    return NOTES, *tensor_proto(NOTES, Blob(TENSOR, tensor))


def _minidb(prepared: Prepared, options: SaveOptions, plain: bool) -> Iterator[Chunk | Late]:
    if not plain:
        _, _, size = _notes(prepared.draft)
        head = record_header(NOTES, size)
        yield Late(len(head) + size, lambda: head + b"".join(_notes(prepared.text())[1]))
    for key, chunks, size in _records(prepared, options):
        yield record_header(key, size)
        yield from chunks


def _old_keys(location: Location) -> set[str]:
    """List what a database holds, all of which is going to be replaced.

    Raises:
        UnsupportedError: it holds something that is no blob.
    """
    try:
        if _is_protodb(location):  # which takes nothing but tensors
            return set(location.store.keys())
        return {part.key for part in _parts(location)}
    except MissingError:
        return set()
    except CorruptError as error:
        raise UnsupportedError(
            f"it holds something else than Caffe2's blobs, which saving would remove ({error})",
            where=location.where,
            cure="Save to another database, or remove this one first.",
        ) from None


FORMAT = Format(
    name=NAME,
    suffixes=(".minidb",),
    accepts=accepts,
    decode=decode,
    encode=encode,
    losses=losses,
    compares_digests=True,
    whole_stores=True,
    holds=frozenset(DTYPES.values()),
    dialect="caffe2",
    checked_by="XXH3-128",
    sharded="chunks as records",
)
