"""What one rank writes: safetensors files that any tool opens, and a partial manifest of them.

The header of each file tells of its tensors which boxes of which whole ones they are, as text under
`tensorkeep.pieces`: {NAME IN THE FILE: {"name": ..., "shape": [...], "offsets": [...]}}.
"""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import xxhash

from tensorkeep import checksum
from tensorkeep.checkpoint.folder import Draft, SharedDraft
from tensorkeep.checkpoint.layout import parts_of
from tensorkeep.dtypes import STRING, DType, count_of
from tensorkeep.errors import ArgumentError, CorruptError
from tensorkeep.formats.safetensors.header import parse_header
from tensorkeep.formats.safetensors.manifest import (
    Entry,
    File,
    Manifest,
    Piece,
    Sharded,
    parse_manifest,
)
from tensorkeep.formats.safetensors.single import encode_file
from tensorkeep.notes import Notes
from tensorkeep.source import MemorySource
from tensorkeep.state import Json, name_problem
from tensorkeep.store import Chunk, Late, Progress
from tensorkeep.tensor import Tensor
from tensorkeep.version import __version__
from tensorkeep.wire.seal import NO_DIGEST
from tensorkeep.wire.text import dump_json

PIECES = "tensorkeep.pieces"
EMPTY = "empty.safetensors"
Skeleton = dict[str, Json]


@dataclass(frozen=True, slots=True)
class Part:
    """A box of a tensor, which one rank holds.

    Args:
        name: of the whole tensor, in the state.
        tensor: the elements of the box; its shape is the box's.
        offsets: where the box starts in the whole, an index per axis.
        shape: of the whole tensor.
    """

    name: str
    tensor: Tensor
    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if type(self.name) is not str or not isinstance(self.tensor, Tensor):
            raise ArgumentError(
                f"a part of {self.name!r:.60} is a {type(self.tensor).__name__}",
                cure="Give a name, and a Tensor: Tensor.of(array).",
            )
        for what in ("offsets", "shape"):
            try:
                plain = tuple(operator.index(number) for number in getattr(self, what))
            except TypeError as error:
                raise ArgumentError(f"the {what} of {self.name!r:.60}: {error}") from None
            object.__setattr__(self, what, plain)

    @property
    def is_whole(self) -> bool:
        """Whether the box is all of the tensor."""
        return self.tensor.shape == self.shape

    @property
    def is_empty(self) -> bool:
        """Whether the tensor has no elements: all ranks may hold it, the coordinator puts it."""
        return not count_of(self.shape) and self.tensor.dtype is not STRING


@dataclass(frozen=True, slots=True)
class Shared:
    """What all ranks of a save agree on, and which of them this is."""

    step: int
    token: str
    rank: int
    ranks: int
    limit: int | None = None


@dataclass(slots=True)
class Contribution:
    """What a rank has written."""

    files: dict[str, File] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    pieces: dict[str, list[Piece]] = field(default_factory=dict)
    wholes: dict[str, Part] = field(default_factory=dict)  # of the pieces


def part_name(rank: int) -> str:
    """Name the document of a rank."""
    return f"part-{rank:05}.json"


def write_part(
    draft: SharedDraft,
    shared: Shared,
    parts: Iterable[Part],
    objects: Mapping[str, Json],
    skeleton: Skeleton | None,
    progress: Progress | None,
) -> None:
    """Write the files of a rank, then its document.

    Raises:
        ArgumentError: a part makes no sense.
        StoreError: the disk is full or failed.
    """
    checked = [part for part in parts if _is_kept(part)]
    kept = [part for part in checked if not part.is_empty]
    empty: dict[str, Json] = {
        part.name: [part.tensor.dtype.name, list(part.shape)] for part in checked if part.is_empty
    }
    done = Contribution()
    files = {}
    for stem, inner in parts_of(dict.fromkeys(part.name for part in kept), skeleton).items():
        names = {name: inside for inside, name in inner.items()}
        shards = _split([part for part in kept if part.name in names], shared.limit)
        for number, shard in enumerate(shards, 1):
            file = f"{stem}-rank{shared.rank:05}-{number:05}.safetensors"
            files[file] = _named(shard, names)
    for file, held in files.items():
        _put_file(draft, file, held, done, progress)
    manifest = Manifest(
        step=shared.step,
        time=time.time(),
        metadata={
            "token": shared.token,
            "rank": shared.rank,
            "ranks": shared.ranks,
            "objects": dict(objects),
            "empty": empty,
        },
        writer=f"tensorkeep {__version__}",
        files=done.files,
        tensors=done.entries,
        sharded={
            name: Sharded(done.wholes[name].tensor.dtype, done.wholes[name].shape, pieces)
            for name, pieces in done.pieces.items()
        },
        order=tuple(dict.fromkeys(part.name for part in kept)),
    )
    draft.report(part_name(shared.rank), manifest.dump())


def read_part(data: bytes, where: str, shared: Shared, rank: int) -> Manifest:
    """Read the document of a rank.

    Raises:
        CorruptError: it is damaged, or of another save.
    """
    manifest = parse_manifest(data, where, partial=True)
    told = {key: manifest.metadata.get(key) for key in ("token", "rank", "ranks")}
    if manifest.step != shared.step or told != {
        "token": shared.token,
        "rank": rank,
        "ranks": shared.ranks,
    }:
        raise CorruptError(
            f"it is of step {manifest.step} and {told}, not of rank {rank} of this save",
            where=where,
        )
    return manifest


def _is_kept(part: Part) -> bool:
    """Check a part; empty boxes of tensors that are not empty are left out."""
    box, shape, offsets = part.tensor.shape, part.shape, part.offsets
    problem = name_problem(part.name)
    if problem:
        raise ArgumentError(f"the name {part.name[:60]!r} {problem}")
    inside = len(box) == len(shape) == len(offsets) and all(
        0 <= o <= o + b <= s for o, b, s in zip(offsets, box, shape, strict=True)
    )
    if inside and math.prod(size or 1 for size in shape) >= 2**59:
        raise ArgumentError(f"no tensor can have the shape {shape} of {part.name!r}")
    if not inside:
        raise ArgumentError(
            f"a part of {part.name!r} of shape {box} at {offsets} is not inside of {shape}"
        )
    if part.is_whole:
        return True
    if part.tensor.dtype is STRING:
        raise ArgumentError(f"{part.name!r} holds text, which is not split over ranks")
    return bool(count_of(box)) or part.is_empty


def write_empty(draft: Draft, told: Mapping[str, tuple[DType, tuple[int, ...]]]) -> Contribution:
    """Write the tensors without elements, which belong to no rank, into a file of their own."""
    done = Contribution()
    for inner in parts_of(told, None).values():
        held = {}
        for inside, name in inner.items():
            kind, shape = told[name]
            tensor = Tensor(kind, shape, MemorySource(b""))
            held[inside] = Part(name, tensor, (0,) * len(shape), shape)
        _put_file(draft, EMPTY, held, done, None)
    return done


def _split(parts: list[Part], limit: int | None) -> list[list[Part]]:
    shards: list[list[Part]] = []
    filled = 0
    for part in parts:
        if not shards or (limit is not None and filled + part.tensor.nbytes > limit):
            shards.append([])
            filled = 0
        shards[-1].append(part)
        filled += part.tensor.nbytes
    return shards


def _named(parts: list[Part], names: Mapping[str, str]) -> dict[str, Part]:
    """Give the parts of a file by their names in it; several of one tensor are numbered."""
    held: dict[str, Part] = {}
    used = {names[part.name] for part in parts}
    numbers: dict[str, int] = {}
    for part in parts:
        base = inside = names[part.name]
        while inside in held or (inside != base and inside in used):
            numbers[base] = numbers.get(base, 0) + 1
            inside = f"{base}~{numbers[base]}"
        held[inside] = part
    return held


def _put_file(
    draft: Draft,
    file: str,
    held: Mapping[str, Part],
    done: Contribution,
    progress: Progress | None,
) -> None:
    tensors: dict[str, Tensor] = {inner: part.tensor for inner, part in held.items()}
    known = draft.in_order  # what leaves at once has its header in front
    digests = checksum.digests(tensors) if known else dict.fromkeys(tensors, NO_DIGEST)
    boxes: dict[str, Json] = {
        inner: {"name": part.name, "shape": list(part.shape), "offsets": list(part.offsets)}
        for inner, part in held.items()
    }
    notes, texts = Notes(digests=digests), {PIECES: dump_json(boxes)}
    stream = encode_file(file, tensors, notes, texts, 64, lambda *_: None)
    head = b""

    def chunks() -> Iterator[Chunk | Late]:
        nonlocal head
        for chunk in stream.chunks or ():
            if not head and not isinstance(chunk, Late):
                head = bytes(chunk)
            yield Late(chunk.size, partial(take, chunk)) if isinstance(chunk, Late) else chunk

    def take(late: Late) -> bytes:
        nonlocal head
        head = late.make()
        return head

    size = stream.size or 0
    draft.put(file, chunks(), size, progress)
    starts = parse_header(head[8:], size - len(head), file).starts
    done.files[file] = File(size, xxhash.xxh3_128_hexdigest(head))
    for inner, part in held.items():
        start = len(head) + starts[inner]
        stop = start + part.tensor.nbytes
        if part.is_whole:
            kind = part.tensor.dtype
            entry = Entry(file, inner, kind, part.shape, start, stop, digests[inner])
            if part.name in done.entries:
                raise ArgumentError(f"{part.name!r} was given twice")
            done.entries[part.name] = entry
            continue
        piece = Piece(file, inner, start, stop, digests[inner], part.offsets, part.tensor.shape)
        done.pieces.setdefault(part.name, []).append(piece)
        done.wholes[part.name] = part
