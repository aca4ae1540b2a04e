"""Which tensor goes into which file: a part for each top-level entry, shards within a part.

Tensors that do not change and those that do go into different shards, so that the shards of the
former can be shared with the checkpoint before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from tensorkeep.checkpoint.lineage import Parent
from tensorkeep.errors import ArgumentError
from tensorkeep.formats.safetensors.shards import split
from tensorkeep.state import Json, name_problem
from tensorkeep.tensor import Tensor

_STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SERIES = re.compile(r".*-[0-9]{5}-of-[0-9]{5}")  # how the shards of another part may be named
_WORTH_A_SHARD = 1 << 20  # bytes
_MAX_PARTS = 1_000
_MAX_FILES = 9_000  # with the indexes and state.json fewer than a manifest may list


@dataclass(frozen=True, slots=True)
class Shard:
    """The tensors of one file.

    Args:
        names: each one's name in the state, by its name in the file.
        shared: the file of the parent that holds just these; empty where it has to be written.
        file: its own name.
    """

    names: dict[str, str]
    shared: str = ""
    file: str = ""


@dataclass(frozen=True)
class Plan:
    """The files of a checkpoint's tensors: by the stem of their names, the shards."""

    parts: dict[str, list[Shard]]

    @cached_property
    def shared(self) -> set[str]:
        """The names of tensors that need not be written."""
        shards = (shard for part in self.parts.values() for shard in part)
        return {name for shard in shards if shard.shared for name in shard.names.values()}


def plan(
    tensors: Mapping[str, Tensor],
    skeleton: Mapping[str, Json] | None,
    *,
    same: set[str],
    still: set[str],
    parent: Parent | None,
    limit: int | None,
) -> Plan:
    """Say which tensor goes into which file.

    Args:
        tensors: all of the state.
        skeleton: of the state.
        same: the names of those that are what they were in the parent.
        still: the names of those that are expected not to change.
        parent: the checkpoint to share files with.
        limit: how many bytes a shard holds at most.

    Raises:
        ArgumentError: the limit would make more files than a checkpoint may have.
    """
    parts = _plan(tensors, skeleton, same, still, parent, limit)
    if _count(parts) > _MAX_FILES and parent is not None:
        parts = _plan(tensors, skeleton, same, still, None, limit)
    if _count(parts) > _MAX_FILES:
        raise ArgumentError(
            f"max_shard_size={limit} makes {_count(parts):,} files, {_MAX_FILES:,} are possible",
            cure="Give a larger one.",
        )
    return Plan(parts)


def _count(parts: Mapping[str, list[Shard]]) -> int:
    return sum(map(len, parts.values()))


def _plan(
    tensors: Mapping[str, Tensor],
    skeleton: Mapping[str, Json] | None,
    same: set[str],
    still: set[str],
    parent: Parent | None,
    limit: int | None,
) -> dict[str, list[Shard]]:
    parts: dict[str, list[Shard]] = {}
    for stem, part in parts_of(tensors, skeleton).items():
        shared = _shared(part, same, parent)
        done = {name for shard in shared for name in shard.names.values()}
        left = {inner: name for inner, name in part.items() if name not in done}
        shards = shared + _split(left, tensors, still | same, limit)
        parts[stem] = [
            replace(shard, file=file)
            for shard, file in zip(shards, _file_names(stem, len(shards)), strict=True)
        ]
    return parts


def _shared(part: Mapping[str, str], same: set[str], parent: Parent | None) -> list[Shard]:
    """Find the parent's files that hold nothing but tensors of a part that have not changed."""
    if parent is None or not same:
        return []
    files: dict[str, dict[str, str]] = {}
    for name, entry in parent.manifest.tensors.items():
        files.setdefault(entry.file, {})[entry.name] = name
    return [
        Shard(held, file)
        for file, held in files.items()
        if all(name in same and part.get(inner) == name for inner, name in held.items())
        and parent.is_sound(file)
    ]


def _split(
    left: Mapping[str, str], tensors: Mapping[str, Tensor], still: set[str], limit: int | None
) -> list[Shard]:
    quiet = {inner: name for inner, name in left.items() if name in still}
    if sum(tensors[name].nbytes for name in quiet.values()) < _WORTH_A_SHARD:
        quiet = {}
    moving = {inner: name for inner, name in left.items() if inner not in quiet}
    shards = []
    for group in (quiet, moving):
        rows = {inner: tensors[name] for inner, name in group.items()}
        shards += [Shard({i: group[i] for i in found}) for found in split(rows, limit) if found]
    return shards


def _file_names(stem: str, count: int) -> list[str]:
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]


Parts = dict[str, dict[str, str]]  # by the stem of its files: name in the file -> in the state


def parts_of(names: Iterable[str], skeleton: Mapping[str, Json] | None) -> Parts:
    """Sort tensors into parts.

    >>> tree = {"model": {"w": "$"}, "optimizer": {"m": "$"}, "scale": "$"}
    >>> parts_of(["model.w", "optimizer.m", "scale"], {"tree": tree})
    {'model': {'w': 'model.w'}, 'optimizer': {'m': 'optimizer.m'}, 'state': {'scale': 'scale'}}
    >>> parts_of(["encoder.w"], None)
    {'model': {'encoder.w': 'encoder.w'}}
    """
    stems = _stems(_containers(skeleton))
    loose = next(n for n in _numbered("model", "state") if n.lower() not in stems.taken)
    parts: Parts = {}
    for name in names:
        stem, inner = stems.find(name) or (loose, name)
        part = parts.setdefault(stem, {})
        free = (n for n in (inner, name, *(f"{name}~{i}" for i in range(2, 100))) if n not in part)
        part[next(n for n in free if n and n != "__metadata__" and not name_problem(n))] = name
    return parts


@dataclass(frozen=True, slots=True)
class _Stems:
    of: dict[str, str]  # the stem of a top-level key
    taken: set[str]

    def find(self, name: str) -> tuple[str, str] | None:
        """Give the part of a tensor and its name there."""
        at = name.find(".")
        while at > 0:
            if stem := self.of.get(name[:at]):
                return stem, name[at + 1 :]
            at = name.find(".", at + 1)
        return None


def _stems(keys: Iterable[str]) -> _Stems:
    stems = _Stems({}, set())
    for key in keys:  # some filesystems do not tell capitals from small letters
        if len(stems.of) == _MAX_PARTS:
            break
        taken = key.lower() in stems.taken
        if not taken and _STEM.fullmatch(key) and not _SERIES.fullmatch(key):
            stems.of[key] = key
            stems.taken.add(key.lower())
    return stems


def _numbered(*names: str) -> Iterable[str]:
    yield from names
    for number in range(2, 1 << 30):
        yield f"{names[-1]}-{number}"


def _containers(skeleton: Mapping[str, Json] | None) -> list[str]:
    """List the top-level keys that hold more than one value."""
    tree = (skeleton or {}).get("tree")
    if not isinstance(tree, dict):
        return []
    tag = next(iter(tree), "")
    pairs = tree.get(tag) if tag in ("$dict", "$ordereddict") else list(tree.items())
    if not isinstance(pairs, list) or (tag.startswith("$") and pairs is not tree.get(tag)):
        return []
    rows = [pair for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2]
    return [key for key, value in rows if isinstance(key, str) and _is_container(value)]


def _is_container(value: Json) -> bool:
    leaves = ("$array", "$scalar", "$bytes", "$int", "$float", "$complex")
    return isinstance(value, list) or (
        isinstance(value, dict) and next(iter(value), "") not in leaves
    )
