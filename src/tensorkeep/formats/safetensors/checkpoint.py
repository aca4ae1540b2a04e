"""A checkpoint: a folder of safetensors files, state.json, and the manifest that vouches for them.

It is read as one state. Each top-level entry of the nesting has files of its own (`model` has
`model.safetensors`, or shards and the usual index), in which tensors go by their names below that
entry, so that other tools open them unchanged.
"""

from __future__ import annotations

import posixpath
import re

from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import CorruptError
from tensorkeep.format import Format
from tensorkeep.formats.safetensors.manifest import (
    MANIFEST,
    STATE,
    Entry,
    Manifest,
    read_manifest,
)
from tensorkeep.formats.safetensors.sharded import (
    PieceChecks,
    ShardedTensors,
    ShardFiles,
    check_digest,
    check_head,
    check_size,
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
    return named is not None and any(map(_is_state, location.store.keys()))


def _is_state(key: str) -> bool:
    """Say whether a key is that of state.json, beside the manifest or in a folder of its own."""
    return posixpath.basename(key) == STATE and key.count("/") <= 1


def decode(location: Location) -> State:
    """Read the manifest and the headers, and check the length of every file and each small one.

    Where tensors are in pieces, the manifest and the nesting alone are read: files may be many.
    """
    manifest = read_manifest(location)
    if manifest.sharded:
        return _decode_sharded(location, manifest)
    files = {name: Location(location.store, manifest.key(name)) for name in manifest.files}

    def close() -> None:
        for file in files.values():
            file.close()

    try:
        notes = Notes()
        tensors: dict[str, Tensor] = {}
        shards: dict[str, State] = {}
        for name, file in files.items():
            location.sibling(name)  # refuses a name that leads elsewhere
            check_size(file, manifest.files[name])
            if name.endswith(_ENDING):
                check_head(file, manifest.files[name])
                shards[name] = decode_file(file)
                continue
            data = bytes(file.source.read(0, file.source.size))
            check_digest(data, manifest.files[name], file.where, "it")
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


def _decode_sharded(location: Location, manifest: Manifest) -> State:
    state = Location(location.store, manifest.key(STATE))
    try:
        for name in manifest.files:
            location.sibling(name)  # refuses a name that leads elsewhere
        check_size(state, manifest.files[STATE])
        data = bytes(state.source.read(0, state.source.size))
        check_digest(data, manifest.files[STATE], state.where, "it")
        tensors = ShardedTensors(ShardFiles(location, manifest, state.source))
    finally:
        state.close()
    return State(
        tensors,
        metadata={**manifest.metadata, "checkpoint": about(manifest)},
        skeleton=parse_notes(data, state.where).skeleton,
        digests={name: entry.digest for name, entry in manifest.tensors.items()},
        checks=PieceChecks(tensors),
        remarks={
            name: f"in {len(tensor.pieces):,} pieces"
            for name, tensor in manifest.sharded.items()
            if len(tensor.pieces) > 1
        },
        format="checkpoint",
        where=location.where,
        close=tensors.files.close,
    )


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
    sharded="an index, or pieces of tensors",
)
