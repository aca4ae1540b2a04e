"""Write one checkpoint into a draft: shards, indexes, state.json, and the manifest last."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import xxhash

from tensorkeep.checkpoint.folder import Draft
from tensorkeep.checkpoint.layout import Plan, Shard
from tensorkeep.checkpoint.lineage import Parent
from tensorkeep.checkpoint.rng import RNG
from tensorkeep.checkpoint.staging import Hollow
from tensorkeep.checksum import digest, mismatch
from tensorkeep.formats.safetensors.header import parse_header
from tensorkeep.formats.safetensors.manifest import STATE, Entry, File, Manifest
from tensorkeep.formats.safetensors.shards import INDEX, encode_index
from tensorkeep.formats.safetensors.single import encode_file
from tensorkeep.notes import Notes
from tensorkeep.state import Json
from tensorkeep.store import Chunk, Late, Progress, join
from tensorkeep.tensor import Tensor
from tensorkeep.wire.seal import NO_DIGEST


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint holds beside its tensors."""

    step: int
    skeleton: dict[str, Json] | None
    rng: dict[str, Json] | None = None
    metrics: Mapping[str, float | str] = field(default_factory=dict)
    metadata: Mapping[str, Json] = field(default_factory=dict)
    reason: str = ""
    writer: str = "tensorkeep"


def write(
    draft: Draft,
    contents: Contents,
    plan: Plan,
    tensors: Mapping[str, Tensor],
    parent: Parent | None,
    progress: Progress | None = None,
) -> tuple[Manifest, int]:
    """Write a checkpoint; nothing of it counts before the draft is committed.

    Args:
        draft: where to write.
        contents: what it holds beside the tensors.
        plan: which tensor goes into which file.
        tensors: all of the state; those whose files are shared are not read.
        parent: the checkpoint that files are shared with.
        progress: called with the number of bytes dealt with since the last call.

    Returns:
        The manifest, and how many bytes were shared instead of written.

    Raises:
        OSError: the disk is full or failed.
    """
    files: dict[str, File] = {}
    entries: dict[str, Entry] = {}
    shared = 0
    for stem, shards in plan.parts.items():
        for shard in shards:
            if parent and shard.shared and _share(draft, shard, parent, entries):
                files[shard.file] = parent.manifest.files[shard.shared]
                shared += files[shard.file].size
                if progress is not None:
                    progress(sum(tensors[name].nbytes for name in shard.names.values()))
                continue
            held = {inner: tensors[name] for inner, name in shard.names.items()}
            if parent and any(isinstance(t.source, Hollow) for t in held.values()):
                held = _held(parent, shard)  # the filesystem cannot share files
            files[shard.file] = _put_shard(draft, shard, held, entries, progress)
            if parent and shard.shared:
                _compare(shard, parent, entries)
        if len(shards) > 1:
            files[f"{stem}{INDEX}"] = _put_index(draft, f"{stem}{INDEX}", shards, tensors, entries)
    files[STATE] = _put_state(draft, contents)
    manifest = Manifest(
        step=contents.step,
        time=time.time(),
        reason=contents.reason,
        metrics=contents.metrics,
        metadata=contents.metadata,
        parent=parent.name if parent else None,
        writer=contents.writer,
        files=files,
        tensors={name: entries[name] for name in tensors},
        data=draft.data,
    )
    draft.finish(manifest)
    return manifest, shared


def _share(draft: Draft, shard: Shard, parent: Parent, entries: dict[str, Entry]) -> bool:
    if not draft.link(shard.file, parent.step, parent.manifest.key(shard.shared)):
        return False
    known = parent.manifest.tensors
    entries.update((n, replace(known[n], file=shard.file)) for n in shard.names.values())
    return True


def _held(parent: Parent, shard: Shard) -> dict[str, Tensor]:
    """Give the tensors of a shard as the parent's file has them."""
    source = parent.source(shard.shared)
    rows = {inner: parent.manifest.tensors[name] for inner, name in shard.names.items()}
    return {
        inner: Tensor(row.dtype, row.shape, source, row.start, row.stop - row.start)
        for inner, row in rows.items()
    }


def _compare(shard: Shard, parent: Parent, entries: Mapping[str, Entry]) -> None:
    for name in shard.names.values():
        found, expected = entries[name].digest, parent.manifest.tensors[name].digest
        if found != expected:
            raise mismatch(name, expected, found, parent.where_of(shard.shared))


def _put_shard(
    draft: Draft,
    shard: Shard,
    tensors: Mapping[str, Tensor],
    entries: dict[str, Entry],
    progress: Progress | None,
) -> File:
    digests = dict.fromkeys(tensors, NO_DIGEST)
    if draft.in_order:  # the header leaves before what is behind it
        digests = {inner: digest(tensor) for inner, tensor in tensors.items()}
    stream = encode_file(shard.file, tensors, Notes(digests=digests), {}, 64, lambda *_: None)
    head = b""

    def chunks() -> Iterator[Chunk | Late]:
        nonlocal head
        for place, chunk in enumerate(stream.chunks or ()):
            if isinstance(chunk, Late):
                yield Late(chunk.size, partial(take, chunk))
                continue
            if not place:
                head = bytes(chunk)
            yield chunk

    def take(late: Late) -> bytes:
        nonlocal head
        head = late.make()
        return head

    size = stream.size or 0
    draft.put(shard.file, chunks(), size, progress)
    starts = parse_header(head[8:], size - len(head), shard.file).starts
    for inner, name in shard.names.items():
        tensor, start = tensors[inner], len(head) + starts[inner]
        entries[name] = Entry(
            file=shard.file,
            name=inner,
            dtype=tensor.dtype,
            shape=tensor.shape,
            start=start,
            stop=start + tensor.nbytes,
            digest=digests[inner],
        )
    return File(size, xxhash.xxh3_128_hexdigest(head))


def _put_index(
    draft: Draft,
    index: str,
    shards: list[Shard],
    tensors: Mapping[str, Tensor],
    entries: Mapping[str, Entry],
) -> File:
    """Write the usual index, which tells other tools where each tensor is."""
    weight_map = {i: shard.file for shard in shards for i in shard.names}
    inner = {i: name for shard in shards for i, name in shard.names.items()}
    digests = {i: entries[name].digest for i, name in inner.items()}
    held = {i: tensors[name] for i, name in inner.items()}
    stream = encode_index(index, weight_map, Notes(digests=digests), held)
    return _put(draft, index, join(stream.chunks or ()))


def _put_state(draft: Draft, contents: Contents) -> File:
    text = Notes(skeleton={**(contents.skeleton or {}), RNG: contents.rng}).dump()
    return _put(draft, STATE, text.encode())


def _put(draft: Draft, file: str, data: bytes) -> File:
    draft.put(file, [data], len(data))
    return File(len(data), xxhash.xxh3_128_hexdigest(data))
