"""A State as one GGUF file, or as parts of a size."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import xxhash

from tensorkeep.dtypes import BLOCKS, BOOL, DTYPES, DType
from tensorkeep.errors import ArgumentError, StoreError, UnsupportedError
from tensorkeep.format import Stream
from tensorkeep.formats.gguf.header import (
    ALIGNMENT,
    MAGIC,
    MAX_AXES,
    MAX_HEADER,
    USUAL_ALIGNMENT,
)
from tensorkeep.formats.gguf.reading import (
    ARCHITECTURE,
    DEFAULT_ARCHITECTURE,
    NUMBERS,
    PART,
    SPLIT,
    TYPES,
)
from tensorkeep.formats.gguf.values import encode_text, encode_value, implied
from tensorkeep.notes import KEY, Notes
from tensorkeep.quantized import quantized
from tensorkeep.state import Json, State
from tensorkeep.store import Chunk, Late, Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.seal import NO_DIGEST, SEAL
from tensorkeep.wire.sizes import size_of

MAX_NAME = 63  # what llama.cpp has room for
_VERSION = 3
_HASHED = 2 << 20  # bytes that are still in cache when they are written after they were hashed
_MAX_ALIGN = 1 << 20
# What gguf's Python reader puts among the keys itself.
_TAKEN = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", KEY, SEAL, *SPLIT)
# What llama.cpp calls a file most of whose tensors are of a type.
_FILE_TYPES = {"q4_0": 2, "q8_0": 7}
_SIGNED = {f"uint{bits}": DTYPES[f"int{bits}"] for bits in (8, 16, 32, 64)}


def losses(state: State) -> list[str]:
    """Say which names are longer than llama.cpp has room for."""
    long = [name for name in state if len(name.encode()) > MAX_NAME]
    if not long:
        return []
    some = f"{len(long):,} names are" if len(long) > 1 else f"the name {long[0]!r} is"
    return [f"{some} longer than the {MAX_NAME} bytes that llama.cpp reads"]


def encode(
    state: State,
    location: Location,
    *,
    checksums: bool = True,
    align: int | None = None,
    quantize: str | None = None,
    max_shard_size: int | str | None = None,
) -> Iterator[Stream]:
    """Write one file, or parts.

    Args:
        state: what to write.
        location: the file to write; with parts, the file they are named after.
        checksums: keep an XXH3-128 of each tensor and of the header.
        align: start every tensor at a multiple of this many bytes (a power of two); that of the
            metadata, or 32.
        quantize: "q8_0" or "q4_0" for the floats of two axes and more whose rows are whole blocks.
        max_shard_size: start another part before one has more than this many bytes of tensors
            ("5GB", "500MB", or a number).
    """
    tensors, texts = dict(state.items()), dict(state.metadata)
    if quantize is not None:
        tensors = _quantized(tensors, quantize)
        texts["general.quantization_version"], texts["general.file_type"] = 2, _FILE_TYPES[quantize]
    alignment = _alignment(texts, align)
    keys, noted = _keys(texts, alignment)
    limit = size_of(max_shard_size)
    parts = _split(tensors, limit) if limit is not None else [tensors]
    notes = Notes(noted, state.skeleton)
    for number, part in enumerate(parts):
        digests = dict.fromkeys(part, NO_DIGEST) if checksums else None
        own = replace(notes if not number else Notes(), digests=digests)
        head = keys if not number else {}
        key = location.key
        if len(parts) > 1:
            key = _part_location(location, number, len(parts)).key
            if not number:
                _refuse_present(location, len(parts))
            head = head | _split_keys(number, len(parts), len(tensors))
            if number and ALIGNMENT in keys:
                head[ALIGNMENT] = keys[ALIGNMENT]
        yield _File(part, head, own, alignment).stream(key)
    if len(parts) > 1:
        yield Stream(location.key, None)


def _quantized(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    if name not in _FILE_TYPES:
        raise ArgumentError(
            f"quantize cannot be {name!r}", cure=f"Give one of {', '.join(_FILE_TYPES)}."
        )
    kind = BLOCKS[name]
    return {
        name: quantized(t, kind)
        if t.ndim > 1 and t.dtype.kind == "float" and not t.shape[-1] % kind.block
        else t
        for name, t in tensors.items()
    }


def _alignment(metadata: dict[str, Json], align: int | None) -> int:
    given = metadata.get(ALIGNMENT)
    if align is None and given is None:
        return USUAL_ALIGNMENT
    value = align if align is not None else given
    if type(value) is not int or not 8 <= value <= _MAX_ALIGN or value & (value - 1):
        if align is None:  # what is only metadata is kept as such
            return USUAL_ALIGNMENT
        raise ArgumentError(
            f"align cannot be {align!r}", cure=f"Give a power of two from 8 to {_MAX_ALIGN:,}."
        )
    if align is not None and (value != USUAL_ALIGNMENT or given is not None):
        metadata[ALIGNMENT] = value
    return value


def _keys(metadata: Mapping[str, Json], alignment: int) -> tuple[dict[str, bytes], dict[str, Json]]:
    """Encode what GGUF has types for; gives the keys' encoded values and the rest."""
    keys = {ARCHITECTURE: encode_value(DEFAULT_ARCHITECTURE, "string")}
    types = metadata.get(TYPES)
    asked: dict[str, Any] = types if isinstance(types, dict) else {}
    noted: dict[str, Json] = {}
    for key, value in metadata.items():
        if key == TYPES:
            continue
        if (key == ALIGNMENT and value != alignment) or key in _TAKEN or not _is_key(key):
            noted[key] = value
            continue
        if key == ARCHITECTURE and value == DEFAULT_ARCHITECTURE:
            noted[key] = value
        try:
            keys[key] = encode_value(value, asked.get(key) or implied(value) or "nothing")
        except (ValueError, KeyError, TypeError):
            noted[key] = value
    told = {
        k: s for k, s in asked.items() if k in keys.keys() - noted and s != implied(metadata[k])
    }
    if types is not None and told != types:  # reading would not find all of it
        noted[TYPES] = types
    return keys, noted


def _is_key(key: str) -> bool:
    try:
        return 0 < len(key.encode()) < 1 << 16
    except UnicodeEncodeError:
        return False


def _split_keys(number: int, count: int, tensors: int) -> dict[str, bytes]:
    values = zip(SPLIT, (number, count, tensors), ("uint16", "uint16", "int32"), strict=True)
    return {key: encode_value(value, kind) for key, value, kind in values}


@dataclass(frozen=True, slots=True)
class _File:
    """One file: its tensors in order, its encoded values, its notes, whose digests are filled."""

    tensors: Mapping[str, Tensor]
    keys: Mapping[str, bytes]
    notes: Notes
    alignment: int

    def stream(self, key: str) -> Stream:
        stored = {}
        for name, tensor in self.tensors.items():
            kind, shape = _storage(tensor)
            if kind is not tensor.dtype or shape != tensor.shape:
                stored[name] = tensor.dtype, tensor.shape
        notes = replace(self.notes, stored=stored)
        first = self._head(notes)
        if len(first) > MAX_HEADER:
            raise UnsupportedError(
                f"a header of {len(first):,} bytes is over the limit of {MAX_HEADER:,}"
            )

        def chunks() -> Iterator[Chunk | Late]:
            yield first if notes.digests is None else Late(len(first), lambda: self._head(notes))
            for name, tensor in self.tensors.items():
                hasher = xxhash.xxh3_128()
                for piece in tensor.pieces(_HASHED):
                    if notes.digests is not None:
                        hasher.update(piece)
                    yield piece
                if notes.digests is not None:
                    notes.digests[name] = hasher.hexdigest()
                if gap := self._padded(tensor.nbytes) - tensor.nbytes:
                    yield bytes(gap)

        size = len(first) + sum(self._padded(tensor.nbytes) for tensor in self.tensors.values())
        return Stream(key, chunks(), size)

    def _head(self, notes: Notes) -> bytes:
        keys: dict[str, bytes] = {}
        if notes.digests is not None:  # first, so that no damage to the counts hides it
            keys[SEAL] = encode_value(NO_DIGEST, "string")
        keys |= self.keys
        if document := notes.dump():
            keys[KEY] = encode_value(document, "string")
        parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(self.tensors), len(keys))]
        parts += [part for key, value in keys.items() for part in (encode_text(key), value)]
        seal_at = sum(map(len, parts[:4])) - len(NO_DIGEST)
        offset = 0
        for name, tensor in self.tensors.items():
            kind, shape = _storage(tensor)
            parts.append(encode_text(name))
            form = f"<I{len(shape)}QIQ"
            parts.append(struct.pack(form, len(shape), *shape[::-1], NUMBERS[kind], offset))
            offset += self._padded(tensor.nbytes)
        head = b"".join(parts)
        if notes.digests is not None:
            seal = xxhash.xxh3_128_hexdigest(head).encode()
            head = head[:seal_at] + seal + head[seal_at + len(seal) :]
        return head + bytes(self._padded(len(head)) - len(head))

    def _padded(self, size: int) -> int:
        return -(-size // self.alignment) * self.alignment


def _storage(tensor: Tensor) -> tuple[DType, tuple[int, ...]]:
    """Choose the type and shape that a tensor is stored as."""
    kind, shape = tensor.dtype, tensor.shape
    if kind not in NUMBERS:
        kind = _SIGNED.get(kind.name) or (DTYPES["int8"] if kind is BOOL else kind)
    if kind not in NUMBERS:
        return DTYPES["int8"], (tensor.nbytes,)
    if len(shape) > MAX_AXES:
        shape = (math.prod(shape[: 1 - MAX_AXES]), *shape[1 - MAX_AXES :])
    return kind, shape


def _split(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Fill parts in order, each up to the limit or with one tensor that is larger."""
    parts: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if parts[-1] and filled + tensor.nbytes > limit:
            parts.append({})
            filled = 0
        parts[-1][name] = tensor
        filled += tensor.nbytes
    return parts


def _part_location(location: Location, number: int, count: int) -> Location:
    stem = location.name[:-5] if location.name.lower().endswith(".gguf") else location.name
    return location.beside(f"{stem}-{number + 1:05}-of-{count:05}.gguf")


def _refuse_present(location: Location, count: int) -> None:
    """Refuse to replace parts of another save: they could not be replaced all at once."""
    if count > 0xFFFF:
        raise ArgumentError(f"{count:,} parts are too many", cure="Give a larger max_shard_size.")
    first = _part_location(location, 0, count)
    stem = first.key[: -len("-00001-of-00001.gguf")]
    for key in location.store.keys(f"{stem}-"):
        found = PART.fullmatch(key)
        if found and found[1] == stem:
            raise StoreError(
                "is a part of an earlier save, and the parts cannot be replaced all at once",
                where=Location(location.store, key).where,
                cure="Remove the parts first, or save under another name.",
            )
