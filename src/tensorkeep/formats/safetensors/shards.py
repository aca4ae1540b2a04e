"""Shards: several safetensors files, and the index that says which tensor is where.

The index is the one that Hugging Face tools write and read: `{"metadata": {"total_size": N},
"weight_map": {NAME: FILE}}`.
"""

from __future__ import annotations

import json
import posixpath
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from tensorkeep.errors import CorruptError, MissingError, StoreError, UnsafeError
from tensorkeep.format import Stream
from tensorkeep.formats.safetensors.single import decode_file
from tensorkeep.notes import KEY, Notes, parse_notes
from tensorkeep.state import Json, State
from tensorkeep.store import Late, Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.seal import NO_DIGEST, SEAL, check_seal, seal
from tensorkeep.wire.shard_index import check_files, read_index

INDEX = ".safetensors.index.json"


def decode_index(location: Location) -> State:
    """Read an index and the headers of its shards, and check each against the other."""
    where = location.where
    document = _read_index(location)
    weight_map: dict[str, str] = document["weight_map"]
    if not weight_map and not isinstance(document.get("metadata"), dict):
        raise CorruptError("the index names no tensor", where=where)
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
            shards[file] = decode_file(location.sibling(file))
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
        extra = document.get("metadata")
        extra = extra if isinstance(extra, dict) else {}
        noted = extra.get(KEY)
        notes = parse_notes(noted, where, weight_map) if isinstance(noted, str) else Notes()
        if SEAL not in extra and (digests or notes.digests is not None):
            raise CorruptError(
                "the index's own digest is gone",
                where=where,
                cure="Use another copy; if another tool wrote this index, open the shards alone.",
            )
        if notes.digests is not None and notes.digests != digests:
            raise CorruptError(
                "the shards are not those that the index was saved with",
                where=where,
                cure="Open it again if a save is under way; otherwise use another copy.",
            )
        if notes.digests is not None:
            tensors = {name: tensors[name] for name in notes.digests}  # as they were saved
        return State(
            tensors,
            metadata={**metadata, **notes.metadata},
            skeleton=notes.skeleton,
            digests=digests,
            format="safetensors",
            where=where,
            close=close,
        )
    except BaseException:
        close()
        raise


def _read_index(location: Location) -> dict[str, Any]:
    data, document = read_index(location)
    extra = document.get("metadata")
    if isinstance(extra, dict) and SEAL in extra:
        check_seal(data, extra[SEAL], location.where)
    check_files(document["weight_map"], (".safetensors",), "safetensors", location.where)
    return document


def is_own(file: str, stem: str) -> bool:
    """Say whether a file is a shard named after this index, which may be deleted with it."""
    pattern = rf"{re.escape(stem)}(\.[0-9a-f]{{8}})?-\d{{5}}-of-\d{{5}}\.safetensors"
    return re.fullmatch(pattern, file) is not None


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


def encode_index(
    key: str, weight_map: Mapping[str, str], notes: Notes, tensors: Mapping[str, Tensor]
) -> Stream:
    """Write the index."""

    def whole() -> bytes:
        metadata: dict[str, Json] = {"total_size": sum(t.nbytes for t in tensors.values())}
        if noted := notes.dump():
            metadata[KEY] = noted
        if notes.digests is not None:
            metadata[SEAL] = NO_DIGEST
        document = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
        return seal(f"{json.dumps(document, indent=2, ensure_ascii=False)}\n".encode())

    size = len(whole())  # the digests are known once the shards are written
    return Stream(key, [Late(size, whole)], size)


def split(tensors: Mapping[str, Tensor], limit: int | None) -> list[dict[str, Tensor]]:
    """Fill shards in order, each up to the limit or with one tensor that is larger."""
    parts: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if limit is not None and parts[-1] and filled + tensor.nbytes > limit:
            parts.append({})
            filled = 0
        parts[-1][name] = tensor
        filled += tensor.nbytes
    return parts


def old_shards(location: Location) -> set[str]:
    """List the shards of the index that this save replaces."""
    name = location.name
    index = name if name.endswith(INDEX) else name.removesuffix(".safetensors") + INDEX
    old = location.beside(index)
    try:
        return set(_read_index(old)["weight_map"].values())
    except (MissingError, StoreError, CorruptError, UnsafeError):
        return set()
    finally:
        old.close()


def shard_names(stem: str, count: int, taken: Iterable[str]) -> list[str]:
    """Name shards so that none replaces one that the old index still needs."""
    taken = set(taken)
    names = _numbered(stem, count)
    while not taken.isdisjoint(names):
        names = _numbered(f"{stem}.{secrets.token_hex(4)}", count)
    return names


def _numbered(stem: str, count: int) -> list[str]:
    return [f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
