"""One safetensors file: its header's tensors as lazy ones, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import xxhash

from tensorkeep.dtypes import DType
from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.format import Stream
from tensorkeep.formats.safetensors.header import Header, parse_header
from tensorkeep.notes import KEY, Notes, parse_notes
from tensorkeep.source import Source
from tensorkeep.state import Json, State
from tensorkeep.store import Chunk, Late, Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.safetensors import CODES, MAX_HEADER, build_header, storage
from tensorkeep.wire.seal import NO_DIGEST, SEAL, check_seal

_HASHED = 2 << 20  # bytes that are still in cache when they are written after they were hashed
# Hugging Face tools refuse a file that has metadata but does not say this, whoever wrote it.
_FORMAT = "pt"
_RANK = {code: rank for rank, code in enumerate(CODES)}


@dataclass(frozen=True, slots=True)
class _Tensors(Mapping[str, Tensor]):
    """The tensors of one file, made when they are asked for."""

    header: Header
    source: Source
    data: int  # where the data starts

    def __getitem__(self, name: str) -> Tensor:
        kind = self.header.kinds[name]
        start = self.data + self.header.starts[name]
        return Tensor(kind.dtype, kind.shape, self.source, start, kind.nbytes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.kinds)

    def __len__(self) -> int:
        return len(self.header.kinds)

    def __contains__(self, name: object) -> bool:
        return name in self.header.kinds


def decode_file(location: Location) -> State:
    """Read the header of one file."""
    source, where = location.source, location.where
    if source.size < 10:
        raise CorruptError(f"{source.size} bytes are too few for a safetensors file", where=where)
    length = int.from_bytes(source.read(0, 8), "little")
    if length > source.size - 8:
        raise CorruptError(
            f"its header should be {length:,} bytes long, but the file ends after "
            f"{source.size - 8:,}",
            where=where,
            cure="It is cut short, or not a safetensors file.",
        )
    if length > MAX_HEADER:
        raise UnsafeError(
            f"its header of {length:,} bytes is over the limit of {MAX_HEADER:,}", where=where
        )
    data = 8 + length
    header = parse_header(bytes(source.read(8, data)), source.size - data, where)
    texts = header.texts
    check_seal(source.read(0, data), texts.get(SEAL), where)
    notes = parse_notes(texts[KEY], where, header.kinds) if KEY in texts else Notes()
    if notes.digests is not None and SEAL not in texts:
        raise CorruptError("the header's own digest is gone", where=where)
    if notes.digests:
        header = header.in_order_of(notes.digests)  # which is that of the state that was saved
    tensors: Mapping[str, Tensor] = _Tensors(header, source, data)
    if notes.stored:
        tensors = {name: _restore(t, notes.stored.get(name)) for name, t in tensors.items()}
    metadata: dict[str, Json] = {k: v for k, v in texts.items() if k not in (KEY, SEAL)}
    if KEY in texts and texts.get("format") == _FORMAT:
        metadata.pop("format")
    return State(
        tensors,
        metadata={**metadata, **notes.metadata},
        skeleton=notes.skeleton,
        digests=notes.digests,
        format="safetensors",
        where=where,
        close=location.close,
    )


def _restore(tensor: Tensor, stored: tuple[DType, tuple[int, ...]] | None) -> Tensor:
    """Give a tensor the element type that it was kept instead of."""
    if stored is None:
        return tensor
    kind, shape = stored
    return Tensor(kind, shape, tensor.source, tensor.offset, tensor.nbytes)


def encode_file(
    key: str,
    tensors: Mapping[str, Tensor],
    notes: Notes,
    texts: Mapping[str, str],
    align: int,
    check: Callable[[str, str], None],
) -> Stream:
    """Write one file: header, then the tensors in the reference library's order.

    Where `notes` has a dict of digests, it is filled while the tensors are written, and the header
    comes last; `check` is called with the name and the digest of each. If all digests are there
    already the header comes first, and each tensor has to be what its digest says.
    """
    rows = [(name, t, *storage(t)) for name, t in tensors.items()]
    rows.sort(key=lambda row: (-_RANK[row[2]], row[0]))
    stored = {name: (t.dtype, t.shape) for name, t, code, _ in rows if CODES[code] is not t.dtype}
    notes = replace(notes, stored=stored)
    if notes.dump() and texts.get("format") == _FORMAT:  # told from one of ours by being noted
        notes = replace(notes, metadata={**notes.metadata, "format": _FORMAT})

    def head() -> bytes:
        kept = {key: texts[key] for key in sorted(texts)}
        if document := notes.dump():
            kept = {"format": _FORMAT, **kept, KEY: document}
        if notes.digests is not None:
            kept[SEAL] = NO_DIGEST
        entries = ((name, code, shape, t.nbytes) for name, t, code, shape in rows)
        return build_header(entries, kept, align)

    first = head()
    known = notes.digests is None or NO_DIGEST not in notes.digests.values()
    expected = dict(notes.digests or {}) if known else {}

    def chunks() -> Iterator[Chunk | Late]:
        yield first if known else Late(len(first), head)
        for name, tensor, _, _ in rows:
            if notes.digests is None:
                yield from tensor.pieces()
                continue
            hasher = xxhash.xxh3_128()
            for piece in tensor.pieces(_HASHED):
                hasher.update(piece)
                yield piece
            notes.digests[name] = found = hasher.hexdigest()
            check(name, found)
            if known and found != expected[name]:
                raise CorruptError(
                    f"the tensor {name!r} changed while it was saved",
                    where=tensor.source.where,
                    cure="Save a copy of it, or nothing that is being written to.",
                )

    return Stream(key, chunks(), len(first) + sum(tensor.nbytes for _, tensor, _, _ in rows))
