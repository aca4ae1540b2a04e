"""A checkpoint: a folder of safetensors files, state.json, and the manifest that vouches for them.

It is read as one state. Each top-level entry of the nesting has files of its own (`model` has
`model.safetensors`, or shards and the usual index), in which tensors go by their names below that
entry, so that other tools open them unchanged.
"""

from __future__ import annotations

import posixpath
import re

import xxhash

from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import CorruptError
from tensorkeep.format import Format
from tensorkeep.formats.safetensors.manifest import (
    MANIFEST,
    STATE,
    Entry,
    File,
    Manifest,
    read_manifest,
)
from tensorkeep.formats.safetensors.single import decode_file
from tensorkeep.notes import Notes, parse_notes
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor

_ENDING = ".safetensors"
_FOLDER = re.compile(r"step-[0-9]{8,18}")


def is_checkpoint(location: Location) -> bool:
    """Say whether a location is a folder with a manifest in it, or one that should have one."""
    if location.key:
        return False
    if any(key == MANIFEST for key in location.store.keys(MANIFEST)):
        return True
    named = _FOLDER.fullmatch(posixpath.basename(location.store.where))
    return named is not None and any(key == STATE for key in location.store.keys(STATE))


def decode(location: Location) -> State:
    """Read the manifest and the headers, and check the length of every file and each small one."""
    manifest = read_manifest(location)
    files = {name: Location(location.store, name) for name in manifest.files}

    def close() -> None:
        for file in files.values():
            file.close()

    try:
        notes = Notes()
        tensors: dict[str, Tensor] = {}
        shards: dict[str, State] = {}
        for name, file in files.items():
            location.sibling(name)  # refuses a name that leads elsewhere
            _check_size(file, manifest.files[name])
            if name.endswith(_ENDING):
                _check_head(file, manifest.files[name])
                shards[name] = decode_file(file)
                continue
            data = bytes(file.source.read(0, file.source.size))
            _check_digest(data, manifest.files[name], file.where, "it")
            if name == STATE:
                notes = parse_notes(data, file.where)
        for name, entry in manifest.tensors.items():
            tensors[name] = _tensor(entry, shards, location)
        places = {(entry.file, entry.name) for entry in manifest.tensors.values()}
        if not len(tensors) == len(places) == sum(map(len, shards.values())):
            raise CorruptError("the manifest does not list each tensor once", where=location.where)
        return State(
            tensors,
            metadata={**manifest.metadata, "checkpoint": about(manifest)},
            skeleton=notes.skeleton,
            digests={name: entry.digest for name, entry in manifest.tensors.items()},
            format="checkpoint",
            where=location.where,
            close=close,
        )
    except BaseException:
        close()
        raise


def about(manifest: Manifest) -> dict[str, Json]:
    """Say what a manifest tells beside its tensors."""
    return {
        "step": manifest.step,
        "time": manifest.time,
        "reason": manifest.reason,
        "metrics": dict(manifest.metrics),
        "parent": manifest.parent,
        "writer": manifest.writer,
    }


def _check_size(file: Location, expected: File) -> None:
    size = file.source.size
    if size != expected.size:
        raise CorruptError(
            f"is {size:,} bytes long, {expected.size:,} were saved",
            where=file.where,
            cure="Use another checkpoint.",
        )


def _check_head(file: Location, expected: File) -> None:
    length = int.from_bytes(file.source.read(0, min(8, file.source.size)), "little")
    stop = 8 + length
    if stop > file.source.size:
        raise CorruptError("its header's length is damaged", where=file.where)
    _check_digest(bytes(file.source.read(0, stop)), expected, file.where, "its header")


def _check_digest(data: bytes, expected: File, where: str, what: str) -> None:
    found = xxhash.xxh3_128_hexdigest(data)
    if found != expected.digest:
        raise CorruptError(
            f"{what} is damaged: the XXH3-128 of its {len(data):,} bytes is {found}, "
            f"{expected.digest} was saved",
            where=where,
            cure="Use another checkpoint.",
        )


def _tensor(entry: Entry, shards: dict[str, State], location: Location) -> Tensor:
    shard = shards.get(entry.file)
    if shard is not None and entry.name in shard:
        tensor = shard[entry.name]
        found = (tensor.dtype, tensor.shape, tensor.offset, tensor.offset + tensor.nbytes)
        stored = shard.digests.get(entry.name)
        if (*found, stored) == (entry.dtype, entry.shape, entry.start, entry.stop, entry.digest):
            return tensor
    raise CorruptError(
        f"the manifest says of {entry.name!r} in {entry.file} what that file does not",
        where=posixpath.join(location.where, MANIFEST),
        cure="One of them belongs to another checkpoint.",
    )


FORMAT = Format(
    name="checkpoint",
    suffixes=(),
    accepts=is_checkpoint,
    decode=decode,
    encode=None,
    holds=frozenset(DTYPES.values()),
    written_by="tensorkeep.Checkpointer",
    checked_by="XXH3-128",
    sharded="an index",
)
