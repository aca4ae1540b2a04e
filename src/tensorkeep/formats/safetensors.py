"""safetensors: a JSON header, then the tensors' bytes without gaps; alone or in shards.

Layout: the length of the header as a little-endian uint64, the header padded with spaces, the data.
Tensors are ordered by element type, widest first, then by name, as the reference library orders
them, so that every tensor is aligned to its element size. We pad the header so that the data starts
at a multiple of 64 (`align=8` for the reference library's own padding).

Element types that the format lacks are kept as U8 (complex128 as pairs of F64) and noted under
`tensorkeep` in `__metadata__`, with the nesting, the metadata that is not text, and the digests.

Facts from the format's README and reference library, version 0.8.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import sub
from typing import Any

import xxhash

from tensorkeep import dtypes
from tensorkeep.checksum import digests as digests_of
from tensorkeep.checksum import mismatch
from tensorkeep.dtypes import DTYPES, DType, count_of
from tensorkeep.errors import ArgumentError, CorruptError, MissingError, UnsafeError
from tensorkeep.format import Format, Stream
from tensorkeep.notes import KEY, MAX_AXES, Notes, is_shape, parse_notes
from tensorkeep.source import Source
from tensorkeep.state import MAX_TENSORS, Json, State
from tensorkeep.store import Chunk, Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.text import dump_json, parse_json

MAX_HEADER = 64 << 20  # the reference library reads up to 100 MB; real headers stay far below
INDEX = ".safetensors.index.json"
_SEAL = f"{KEY}.header_xxh3_128"  # the digest of the header, taken with zeros in its place
_ZEROS = "0" * 32

# In the reference library's order; files are laid out from the last to the first.
CODES: dict[str, DType] = {
    "BOOL": dtypes.BOOL,
    "F4": dtypes.FLOAT4_E2M1FN,
    "F6_E2M3": dtypes.FLOAT6_E2M3FN,
    "F6_E3M2": dtypes.FLOAT6_E3M2FN,
    "U8": dtypes.UINT8,
    "I8": dtypes.INT8,
    "F8_E5M2": dtypes.FLOAT8_E5M2,
    "F8_E4M3": dtypes.FLOAT8_E4M3FN,
    "F8_E8M0": dtypes.FLOAT8_E8M0FNU,
    "F8_E4M3FNUZ": dtypes.FLOAT8_E4M3FNUZ,
    "F8_E5M2FNUZ": dtypes.FLOAT8_E5M2FNUZ,
    "I16": dtypes.INT16,
    "U16": dtypes.UINT16,
    "F16": dtypes.FLOAT16,
    "BF16": dtypes.BFLOAT16,
    "I32": dtypes.INT32,
    "U32": dtypes.UINT32,
    "F32": dtypes.FLOAT32,
    "C64": dtypes.COMPLEX64,
    "F64": dtypes.FLOAT64,
    "I64": dtypes.INT64,
    "U64": dtypes.UINT64,
}
_CODE_OF = {kind: code for code, kind in CODES.items()}
_RANK = {code: rank for rank, code in enumerate(CODES)}


# --- reading ------------------------------------------------------------------------------------


def accepts(location: Location) -> bool:
    """A header length that fits followed by `{`, an index of shards, or a folder of either."""
    if not location.key:
        return _in_folder(location) is not None
    if location.name.endswith(INDEX):
        return location.head.lstrip()[:1] == b"{"
    head = location.head
    return len(head) > 8 and head[8:9] == b"{" and 2 <= _length(head) <= location.source.size - 8


def decode(location: Location) -> State:
    """Read the header, or the index and its shards' headers."""
    if not location.key:
        found = _in_folder(location)
        if found is None:
            raise MissingError("holds no safetensors file", where=location.where)
        location = Location(location.store, found)
    if location.name.endswith(INDEX):
        return _decode_index(location)
    return _decode_file(location)


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


def _length(head: bytes | memoryview) -> int:
    return int.from_bytes(head[:8], "little")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What entries of the same dtype and shape share."""

    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


class _Rows(Mapping[str, Tensor]):
    """The tensors of one file, made when they are asked for."""

    def __init__(self, rows: dict[str, tuple[_Kind, int]], source: Source, data: int) -> None:
        self.rows = rows
        self.source = source
        self.data = data

    def __getitem__(self, name: str) -> Tensor:
        kind, start = self.rows[name]
        return Tensor(kind.dtype, kind.shape, self.source, self.data + start, kind.nbytes)

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, name: object) -> bool:
        return name in self.rows


def _decode_file(location: Location) -> State:
    source, where = location.source, location.where
    if source.size < 10:
        raise CorruptError(f"{source.size} bytes are too few for a safetensors file", where=where)
    length = _length(source.read(0, 8))
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
    header = source.read(8, 8 + length)
    data = 8 + length
    rows, texts = _parse_header(header, source.size - data, where)
    _check_seal(source.read(0, data), texts.get(_SEAL), where)
    notes = parse_notes(texts[KEY], where) if KEY in texts else Notes()
    tensors: Mapping[str, Tensor] = _Rows(rows, source, data)
    if notes.stored:
        tensors = {name: _restore(t, notes.stored.get(name)) for name, t in tensors.items()}
    if notes.digests and _SEAL not in texts:
        raise CorruptError("the header's own digest is gone", where=where)
    metadata: dict[str, Json] = {k: v for k, v in texts.items() if k not in (KEY, _SEAL)}
    return State(
        tensors,
        metadata={**metadata, **notes.metadata},
        skeleton=notes.skeleton,
        digests={name: value for name, value in notes.digests.items() if name in rows},
        format="safetensors",
        where=where,
        close=location.close,
    )


def _parse_header(
    header: memoryview, size: int, where: str
) -> tuple[dict[str, tuple[_Kind, int]], dict[str, str]]:
    """Check everything that a header says; `size` is the length of the data behind it."""
    raw = bytes(header)
    if raw.count(b'"data_offsets"') > MAX_TENSORS:
        raise UnsafeError(f"it lists more than {MAX_TENSORS:,} tensors", where=where)
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise CorruptError(f"the header is not UTF-8 at byte {error.start}", where=where) from None
    found = _parse_usual(text, size)
    if found is not None:
        return found
    document = parse_json(text, where, "header")
    if not isinstance(document, dict):
        raise CorruptError("the header is not a JSON object", where=where)
    texts = document.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(v, str) for v in texts.values()):
        raise CorruptError("__metadata__ does not map text to text", where=where)
    rows = {name: _entry(name, entry, where) for name, entry in document.items()}
    end = 0
    for name, (kind, start) in sorted(rows.items(), key=lambda row: (row[1][1], row[1][0].nbytes)):
        if start != end:
            what = "overlap" if start < end else "leave a gap"
            raise CorruptError(
                f"the bytes of {name!r} start at {start}, not {end}: tensors {what}", where=where
            )
        end = start + kind.nbytes
    if end != size:
        raise CorruptError(
            f"the tensors take {end:,} bytes, but {size:,} follow the header",
            where=where,
            cure="It is cut short, or something was written behind it.",
        )
    return rows, texts


def _entry(name: str, entry: Any, where: str) -> tuple[_Kind, int]:
    match entry:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [start, stop]} if (
            len(entry) == 3 and is_shape(shape) and is_shape([start, stop])
        ):
            if code not in CODES:
                raise CorruptError(
                    f"{name!r} has the unknown element type {code!r}",
                    where=where,
                    cure="A newer tensorkeep may know it.",
                )
            kind = _kind(code, tuple(shape))
            if kind is None or stop - start != kind.nbytes:
                raise CorruptError(
                    f"{name!r} has {stop - start} bytes, which is not {code} of shape {shape}",
                    where=where,
                )
            return kind, start
    shown = repr(entry) if len(repr(entry)) < 100 else f"{repr(entry)[:97]}..."
    raise CorruptError(f"the header's entry {name!r} is {shown}, not a tensor", where=where)


def _kind(code: str, shape: tuple[int, ...]) -> _Kind | None:
    """Describe a dtype and shape; None where the elements do not fill whole bytes."""
    dtype = CODES[code]
    count = count_of(shape)
    if dtype.packed and count * dtype.bits % 8:
        return None
    return _Kind(dtype, shape, dtype.nbytes(count))


_ENTRY = re.compile(
    r'"([^"\\\x00-\x1f]*)":\{"dtype":"([A-Z0-9_]+)","shape":\[([0-9,]*)\],'
    r'"data_offsets":\[(0|[1-9][0-9]{0,17}),(0|[1-9][0-9]{0,17})\]\}'
)

_AXES = re.compile(r"((0|[1-9][0-9]{0,17})(,(0|[1-9][0-9]{0,17}))*)?")


def _parse_usual(
    text: str, size: int
) -> tuple[dict[str, tuple[_Kind, int]], dict[str, str]] | None:
    """Parse a sound header written the way every known writer writes it, many times faster.

    Gives None for anything else, which then goes the long way and gets its error message there.
    """
    text = text.rstrip(" ")
    begin = 1
    texts: dict[str, str] = {}
    if text.startswith('{"__metadata__":{'):
        try:
            pairs, begin = json.JSONDecoder(object_pairs_hook=list).raw_decode(text, 16)
        except (ValueError, RecursionError):
            return None
        texts = dict(pairs)
        if len(pairs) != len(texts) or not all(type(v) is str for v in texts.values()):
            return None
        begin += text[begin : begin + 1] == ","
    parts = _ENTRY.split(text[begin:-1])
    names, starts, stops = parts[1::6], parts[4::6], parts[5::6]
    if text[:1] + text[-1:] != "{}" or "".join(parts[0::6]) != "," * (len(names) - 1):
        return None
    if parts[0] or parts[-1] or not names:
        return None
    if starts[0] != "0" or stops[-1] != str(size) or starts[1:] != stops[:-1]:
        return None
    described = list(zip(parts[2::6], parts[3::6], strict=True))
    kinds: dict[tuple[str, str], _Kind] = {}
    for code, axes in set(described):
        if code not in CODES or not _AXES.fullmatch(axes):
            return None
        kind = _kind(code, tuple(map(int, axes.split(",") if axes else ())))
        if kind is None or len(kind.shape) > MAX_AXES:
            return None
        kinds[code, axes] = kind
    rows = list(map(kinds.__getitem__, described))
    begins = list(map(int, starts))
    if list(map(sub, map(int, stops), begins)) != [kind.nbytes for kind in rows]:
        return None
    entries = dict(zip(names, zip(rows, begins, strict=True), strict=True))
    if len(entries) != len(names) or "__metadata__" in entries:
        return None
    return entries, texts


def _restore(tensor: Tensor, stored: tuple[DType, tuple[int, ...]] | None) -> Tensor:
    """Give a tensor the element type that it was kept instead of."""
    if stored is None:
        return tensor
    kind, shape = stored
    return Tensor(kind, shape, tensor.source, tensor.offset, tensor.nbytes)


def _seal(head: bytes) -> bytes:
    """Put the digest of a header or an index into the place kept for it."""
    before, name, after = head.rpartition(f'"{_SEAL}":'.encode())
    seal = xxhash.xxh3_128_hexdigest(head).encode()
    return before + name + after.replace(_ZEROS.encode(), seal, 1)


def _check_seal(head: memoryview, seal: Any, where: str) -> None:
    if seal is None:
        return
    raw = bytes(head)
    if not isinstance(seal, str) or len(seal) != 32 or raw.count(seal.encode()) != 1:
        raise CorruptError("the header's own digest is damaged", where=where)
    found = xxhash.xxh3_128_hexdigest(raw.replace(seal.encode(), _ZEROS.encode()))
    if found != seal:
        raise CorruptError(
            f"the header is damaged: its XXH3-128 is {found}, {seal} was saved",
            where=where,
            cure="Use another copy of the file.",
        )


# --- shards -------------------------------------------------------------------------------------


def _decode_index(location: Location) -> State:
    where = location.where
    document = _read_index(location)
    weight_map: dict[str, str] = document["weight_map"]
    files = list(dict.fromkeys(weight_map.values()))
    _refuse_strays(location, files)
    shards: dict[str, State] = {}
    opened: list[State] = []

    def close() -> None:
        for shard in opened:
            shard.close()
        location.close()

    try:
        for file in files:
            shards[file] = _decode_file(location.sibling(file))
            opened.append(shards[file])
        tensors: dict[str, Tensor] = {}
        digests: dict[str, str] = {}
        metadata: dict[str, Json] = {}
        for name, file in weight_map.items():
            shard = shards[file]
            if name not in shard:
                raise CorruptError(
                    f"the index puts {name!r} in {file}, where it is not", where=where
                )
            tensors[name] = shard[name]
            if name in shard.digests:
                digests[name] = shard.digests[name]
        for file, shard in shards.items():
            metadata.update(shard.metadata)
            for name in shard:
                if weight_map.get(name) != file:
                    raise CorruptError(
                        f"{file} holds {name!r}, which the index does not place there", where=where
                    )
    except BaseException:
        close()
        raise
    extra = document.get("metadata")
    extra = extra if isinstance(extra, dict) else {}
    if digests and _SEAL not in extra:
        close()
        raise CorruptError("the index's own digest is gone", where=where)
    notes = parse_notes(extra[KEY], where) if isinstance(extra.get(KEY), str) else Notes()
    return State(
        tensors,
        metadata={**metadata, **notes.metadata},
        skeleton=notes.skeleton,
        digests=digests,
        format="safetensors",
        where=where,
        close=close,
    )


def _read_index(location: Location) -> dict[str, Any]:
    source, where = location.source, location.where
    if source.size > MAX_HEADER:
        raise UnsafeError(f"an index of {source.size:,} bytes is over the limit", where=where)
    document = parse_json(source.read(0, source.size), where, "index")
    if not isinstance(document, dict) or not isinstance(document.get("weight_map"), dict):
        raise CorruptError("the index has no weight_map", where=where)
    extra = document.get("metadata")
    if isinstance(extra, dict) and _SEAL in extra:
        _check_seal(source.read(0, source.size), extra[_SEAL], where)
    for name, file in document["weight_map"].items():
        if not isinstance(file, str):
            raise CorruptError(f"the index gives {file!r} as the file of {name!r}", where=where)
        if not file.endswith(".safetensors"):
            raise UnsafeError(
                f"the index names {file!r}, which is not a safetensors file", where=where
            )
    return document


_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.safetensors")


def _refuse_strays(location: Location, files: list[str]) -> None:
    """Refuse a shard of the same series that the index does not know: one of the two is stale."""
    series = {m.groups() for file in files if (m := _SHARD.fullmatch(file))}
    folder = posixpath.dirname(location.key)
    for key in location.store.keys(f"{folder}/" if folder else ""):
        name = key[len(folder) + 1 :] if folder else key
        if "/" in name:
            break
        match = _SHARD.fullmatch(name)
        if match and match.groups() in series and name not in files:
            raise CorruptError(
                f"the shard {name} lies beside the index, which does not know it",
                where=location.where,
                cure="Remove it, or fetch the index that belongs to it.",
            )


# --- writing ------------------------------------------------------------------------------------


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
    if align < 8 or align & (align - 1):
        raise ArgumentError(f"align has to be a power of two of at least 8, not {align}")
    if "__metadata__" in state:
        raise ArgumentError(
            "safetensors keeps the name __metadata__ for itself", cure="Rename the tensor."
        )
    tensors = dict(state)
    digests = digests_of(tensors) if checksums else {}
    for name, value in digests.items():  # bytes that were read from a checked file
        if state.digests.get(name, value) != value:
            raise mismatch(name, state.digests[name], value, state.where)
    notes = Notes(_not_text(state.metadata), state.skeleton, {}, digests)
    texts = {k: v for k, v in state.metadata.items() if isinstance(v, str)}
    old = _old_shards(location)
    index = location.name.removesuffix(".safetensors") + INDEX
    if location.name.endswith(INDEX):
        index, max_shard_size = location.name, max_shard_size or 5 * 10**9
    parts = _split(tensors, size_of(max_shard_size))
    if len(parts) == 1 and not location.name.endswith(INDEX):
        yield _file(location.key, tensors, notes, texts, align)
        removed = {*old, index} if old else set()
    else:
        stem = index.removesuffix(INDEX)
        files = _shard_names(stem, len(parts), old)
        weight_map = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        for file, part in zip(files, parts, strict=True):
            own = Notes(digests={name: digests[name] for name in part if name in digests})
            yield _file(location.sibling(file).key, part, own, texts, align)
        yield _index(location.sibling(index).key, weight_map, notes, tensors)
        removed = old - set(files)
        if not location.name.endswith(INDEX):
            removed |= {location.name}
    for name in sorted(removed):
        yield Stream(location.sibling(name).key, None)


def _file(
    key: str, tensors: Mapping[str, Tensor], notes: Notes, texts: Mapping[str, str], align: int
) -> Stream:
    rows = [(name, t, *_storage(t)) for name, t in tensors.items()]
    rows.sort(key=lambda row: (-_RANK[row[2]], row[0]))
    stored = {name: (t.dtype, t.shape) for name, t, code, _ in rows if CODES[code] is not t.dtype}
    texts = {key: texts[key] for key in sorted(texts)}
    if document := replace(notes, stored=stored).dump():
        texts[KEY] = document
    if notes.digests:
        texts[_SEAL] = _ZEROS
    quote: Callable[[str], str] = json.encoder.encode_basestring
    parts = [f'"__metadata__":{dump_json(texts)}'] if texts else []
    end = 0
    for name, tensor, code, shape in rows:
        start, end = end, end + tensor.nbytes
        axes = ",".join(map(str, shape))
        parts.append(
            f'{quote(name)}:{{"dtype":"{code}","shape":[{axes}],"data_offsets":[{start},{end}]}}'
        )
    text = f"{{{','.join(parts)}}}".encode()
    header = text + b" " * (-(8 + len(text)) % align)
    head = len(header).to_bytes(8, "little") + header
    if len(header) > MAX_HEADER:
        raise ArgumentError(
            f"the header would take {len(header):,} bytes, over {MAX_HEADER:,}",
            cure="Split the state with max_shard_size.",
        )
    if notes.digests:
        head = _seal(head)

    def chunks() -> Iterator[Chunk]:
        yield head
        for _, tensor, _, _ in rows:
            yield from tensor.pieces()

    return Stream(key, chunks(), len(head) + end)


def _storage(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """Choose the code and shape that a tensor is stored as."""
    kind = tensor.dtype
    if kind in _CODE_OF and not (kind.packed and tensor.size * kind.bits % 8):
        return _CODE_OF[kind], tensor.shape
    if kind is dtypes.COMPLEX128:
        return "F64", (*tensor.shape, 2)
    return "U8", (tensor.nbytes,)


def _index(
    key: str, weight_map: Mapping[str, str], notes: Notes, tensors: Mapping[str, Tensor]
) -> Stream:
    metadata: dict[str, Json] = {"total_size": sum(t.nbytes for t in tensors.values())}
    if noted := replace(notes, digests={}).dump():
        metadata[KEY] = noted
    if notes.digests:
        metadata[_SEAL] = _ZEROS
    document = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    data = _seal(f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode())
    return Stream(key, [data], len(data))


def _split(tensors: Mapping[str, Tensor], limit: int | None) -> list[dict[str, Tensor]]:
    parts: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if limit is not None and parts[-1] and filled + tensor.nbytes > limit:
            parts.append({})
            filled = 0
        parts[-1][name] = tensor
        filled += tensor.nbytes
    return parts


def _old_shards(location: Location) -> set[str]:
    """List the shards of the index that this save replaces."""
    name = location.name
    index = name if name.endswith(INDEX) else name.removesuffix(".safetensors") + INDEX
    old = location.sibling(index)
    try:
        return set(_read_index(old)["weight_map"].values())
    except (MissingError, CorruptError, UnsafeError):
        return set()
    finally:
        old.close()


def _shard_names(stem: str, count: int, taken: Iterable[str]) -> list[str]:
    """Name shards so that none replaces one that the old index still needs."""
    taken = set(taken)
    for generation in range(len(taken) + 1):
        head = f"{stem}.{generation}" if generation else stem
        names = [f"{head}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
        if taken.isdisjoint(names):
            break
    return names


_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def size_of(value: int | str | None) -> int | None:
    """Read a number of bytes such as "5GB" or "512MiB"."""
    if value is None or (isinstance(value, int) and value > 0):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(value).strip())
    if match is None or match[2].upper() not in _UNITS or not float(match[1]):
        raise ArgumentError(f"{value!r} is not a size", cure='Use a number, or such as "5GB".')
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _not_text(metadata: Mapping[str, Json]) -> dict[str, Json]:
    reserved = (KEY, _SEAL)
    return {k: v for k, v in metadata.items() if not isinstance(v, str) or k in reserved}


FORMAT = Format(
    name="safetensors",
    suffixes=(".safetensors",),
    accepts=accepts,
    decode=decode,
    encode=encode,
    holds=frozenset(DTYPES.values()),
)
