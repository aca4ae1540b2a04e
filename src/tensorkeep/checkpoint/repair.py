"""Repair a folder of checkpoints: only what can be made exactly what was saved, and nothing else.

An index of shards is rebuilt from the manifest, and taken only if it has the digest that the
manifest has of it. A damaged file is replaced by a sound one of the same digest, where another
checkpoint shares its content but not the file itself. Of all else it is said what is lost.
"""

from __future__ import annotations

import contextlib
import posixpath
import shlex
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import xxhash

from tensorkeep import api
from tensorkeep.api import ProgressReport
from tensorkeep.checkpoint.folder import Folder, open_folder
from tensorkeep.checkpoint.lineage import entries_of, is_sound
from tensorkeep.checkpoint.listing import read_checkpoint
from tensorkeep.checkpoint.retention import check
from tensorkeep.checksum import digest
from tensorkeep.errors import MissingError, StoreError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import STATE, Entry, Manifest
from tensorkeep.formats.safetensors.shards import INDEX, encode_index, is_own
from tensorkeep.hidden import reason
from tensorkeep.notes import Notes
from tensorkeep.source import Source
from tensorkeep.store import join
from tensorkeep.stores import Target
from tensorkeep.tensor import Tensor
from tensorkeep.verify import verify

_SHOWN = 20  # damaged tensors to name
_ENDING = ".safetensors"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be, and what became of it.

    Args:
        where: the file, or the checkpoint's folder.
        problem: what is wrong with it.
        action: what was done, or would be without `dry_run`; empty where it is beyond repair.
        step: of the checkpoint; None for what is none.
        lost: the names of the tensors that nothing brings back.
        sound: the names of those that can still be loaded.
        cure: how to rescue them.
    """

    where: str
    problem: str
    action: str = ""
    step: int | None = None
    lost: list[str] = field(default_factory=list)
    sound: list[str] = field(default_factory=list)
    cure: str = ""

    @property
    def repaired(self) -> bool:
        """Whether it is, or can be, repaired."""
        return bool(self.action)


def repair(
    folder: Target, *, dry_run: bool = False, progress: ProgressReport | None = None
) -> list[Finding]:
    """Read every checkpoint of a folder, and repair what can be made what it was.

    Args:
        folder: the checkpoints of one run.
        dry_run: change nothing, and say what would be done.
        progress: called with the bytes read and the total.

    Returns:
        What is wrong, or was; nothing where all is sound.

    Raises:
        MissingError: there is no such folder.
        StoreError: a training saves there, or the filesystem refuses.

    >>> import tempfile, numpy as np
    >>> from tensorkeep.checkpoint import Checkpointer
    >>> path = tempfile.mkdtemp()
    >>> with Checkpointer(path) as ck:
    ...     _ = ck.save(1, {"w": np.zeros(3)})
    >>> repair(path)
    []
    """
    run = open_folder(folder)
    if not run.exists():
        raise MissingError("there is no such folder", where=run.where)
    left = run.leftovers()
    if not left and not run.steps():
        return []  # which is not ours to put a lock in
    if dry_run:
        return [*_swept(run, left), *_Repair(run, True, progress).findings()]
    with run.tending():  # which sweeps
        there = set(run.leftovers())
        found = list(_swept(run, [name for name in left if name not in there]))
        return found + list(_Repair(run, False, progress).findings())


def _swept(run: Folder, names: list[str]) -> Iterator[Finding]:
    for name in names:
        aside = name.endswith(".aside")
        yield Finding(
            posixpath.join(run.where, name),
            "was moved aside by a save that never finished"
            if aside
            else "was left by a save that never finished",
            "put back, or removed where its place is taken" if aside else "removed",
        )


class _Repair:
    """One pass over a folder: reads every file once, then repairs what it can."""

    def __init__(self, run: Folder, dry_run: bool, progress: ProgressReport | None) -> None:
        self._run = run
        self._dry_run = dry_run
        self._progress = progress
        self._manifests: dict[int, Manifest] = {}
        self._entries: dict[int, dict[str, list[Entry]]] = {}  # of each step, by their files
        self._unreadable: dict[int, str] = {}
        self._known: dict[tuple[Hashable, str], bool] = {}  # a file and its digest: it is sound
        self._sources: dict[str, list[tuple[int, str]]] = {}  # sound files by their digest

    def findings(self) -> Iterator[Finding]:
        for step in self._run.steps():
            row, manifest = read_checkpoint(self._run, step)
            if manifest is None or manifest.step != step:
                self._unreadable[step] = row.problem
            else:
                self._manifests[step] = manifest
                rows = self._entries.setdefault(step, {})
                for _, entry in entries_of(manifest):
                    rows.setdefault(entry.file, []).append(entry)
        damaged = self._read()
        for step in self._run.steps():
            if step in self._unreadable:
                yield self._beyond_manifest(step)
            elif step in damaged:
                yield from self._mend(step, damaged[step])

    def _read(self) -> dict[int, list[str]]:
        """Read every file; name those of each step that are not what its manifest says."""
        damaged: dict[int, list[str]] = {}
        done, total = 0, sum(manifest.size for manifest in self._manifests.values())
        for step, manifest in self._manifests.items():
            for name, file in manifest.files.items():
                if self._is_sound(step, name):
                    self._sources.setdefault(file.digest, []).append((step, name))
                else:
                    damaged.setdefault(step, []).append(name)
                done += file.size
                if self._progress is not None:
                    self._progress(done, total)
        return damaged

    def _is_sound(self, step: int, name: str) -> bool:
        manifest = self._manifests[step]
        expected = manifest.files[name]
        try:
            info = self._run.info(step, manifest.key(name))
            key = info.same, expected.digest
            if key not in self._known:
                self._known[key] = False
                if name.endswith(_ENDING):
                    rows = self._entries[step].get(name, [])
                    self._known[key] = is_sound(self._run, step, manifest, name, rows)
                elif info.size == expected.size:
                    with contextlib.closing(self._run.source(step, manifest.key(name))) as data:
                        found = xxhash.xxh3_128_hexdigest(data.read(0, data.size))
                    self._known[key] = found == expected.digest
            return self._known[key] and info.size == expected.size
        except (OSError, TensorKeepError):
            return False

    def _mend(self, step: int, names: list[str]) -> Iterator[Finding]:
        left: dict[str, str] = {}
        for name in names:
            rows = self._entries[step].get(name, [])
            problem = _problem(self._run, step, self._manifests[step], name, rows)
            try:
                action = self._relink(step, name) or self._rebuild(step, name)
            except TensorKeepError as error:
                left[name] = f"{problem}, and its repair fails: {error.problem}"
                continue
            if action:
                yield Finding(self._where(step, name), problem, action, step)
            else:
                left[name] = problem
        if left:
            mark = self._run.identity(step)
            if not self._dry_run and self._run.verified(step, mark):
                self._run.mark_verified(step, mark, 0.0)
            yield self._beyond(step, left)
        elif not self._dry_run and not check(self._run, step):
            yield Finding(
                self._run.where_of(step),
                "is still damaged after its repair",
                step=step,
                cure="The disk may be failing: copy the folder to another one.",
            )

    def _where(self, step: int, name: str) -> str:
        return posixpath.join(self._run.where_of(step), self._manifests[step].key(name))

    def _relink(self, step: int, name: str) -> str:
        """Replace a file by a sound one of another checkpoint; say so, or nothing without any."""
        manifest = self._manifests[step]
        expected = manifest.files[name]
        for other, file in self._sources.get(expected.digest, []):
            if self._manifests[other].files[file].size != expected.size:
                continue
            if not self._dry_run:
                key = self._manifests[other].key(file)
                self._run.copy_file(other, key, step, manifest.key(name))
            return f"replaced by the sound copy {self._where(other, file)}"
        return ""

    def _rebuild(self, step: int, name: str) -> str:
        """Write the index of shards anew; say so, or nothing where it is none or cannot be."""
        if not name.endswith(INDEX):
            return ""
        manifest = self._manifests[step]
        for data in _indexes(self._run, step, manifest, name):
            if xxhash.xxh3_128_hexdigest(data) == manifest.files[name].digest:
                if not self._dry_run:
                    self._run.write_file(step, manifest.key(name), data)
                return "rebuilt from the manifest"
        return ""

    def _beyond(self, step: int, left: Mapping[str, str]) -> Finding:
        """Say what is lost of a checkpoint, and how the rest is rescued."""
        run, manifest = self._run, self._manifests[step]
        gone = {name for name in left if name.endswith(_ENDING)}
        readable = {name for name in gone if _opens(run, step, manifest, name)}
        opens = len(readable) == len(left)
        bad = {
            name
            for name, entry in entries_of(manifest)
            if entry.file in gone
            and not (entry.file in readable and _same(run, step, manifest, entry))
        }
        lost = [name for name in manifest.names if name in bad]
        sound = [name for name in manifest.names if name not in bad]
        if opens:
            quoted = shlex.quote(run.where)
            cure = f"Run `tensorkeep checkpoints {quoted} restore {step} --to FILE --names NAME`"
        else:
            kept = map(manifest.key, manifest.files.keys() - gone)
            cure = _by_files(run.where_of(step), kept)
        told = "; ".join(f"{name} {problem}" for name, problem in left.items())
        if STATE in left:
            told += "; the numbers, the text and the nesting are lost"
        return Finding(
            self._run.where_of(step),
            f"{told}; {len(lost):,} of {len(manifest.names):,} tensors "
            f"{'is' if len(lost) == 1 else 'are'} lost",
            step=step,
            lost=lost,
            sound=sound,
            cure=f"{cure} to rescue what is sound." if sound else "Remove it.",
        )

    def _beyond_manifest(self, step: int) -> Finding:
        """Say which files of a checkpoint without a sound manifest are sound by themselves."""
        sound: dict[str, list[str]] = {}
        for key in self._run.keys(step):
            with contextlib.suppress(TensorKeepError, OSError):
                file = self._run.file(step, key)
                if key.endswith(_ENDING) and (found := verify(file)).ok and found.checked:
                    with api.open(file) as state:
                        sound[key] = list(state)
        cure = _by_files(self._run.where_of(step), sound)
        return Finding(
            self._run.where_of(step),
            self._unreadable[step],
            step=step,
            sound=[name for names in sound.values() for name in names],
            cure=f"{cure} to rescue what is sound." if sound else "Remove it.",
        )


def _by_files(where: str, files: Iterable[str]) -> str:
    """Say how to rescue files one by one, each of which is a safetensors file of its own."""
    shards = sorted(name for name in files if name.endswith(_ENDING))
    if not shards:
        return ""
    first = shlex.quote(posixpath.join(where, shards[0]))
    others = f", and likewise {', '.join(shards[1:])}," if shards[1:] else ""
    return f"Run `tensorkeep convert {first} FILE`{others}"


def _problem(
    folder: Folder, step: int, manifest: Manifest, name: str, rows: Iterable[Entry]
) -> str:
    """Say what is wrong with a file."""
    expected = manifest.files[name]
    try:
        info = folder.info(step, manifest.key(name))
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {reason(error)}"
    if not info.regular:
        return "is no file"
    if info.size != expected.size:
        return f"is {info.size:,} bytes long, {expected.size:,} were saved"
    if not name.endswith(_ENDING) or not _opens(folder, step, manifest, name):
        return "is damaged" if not name.endswith(_ENDING) else "has a damaged header"
    bad = [row for row in rows if not _same(folder, step, manifest, row)]
    places = [f"bytes {row.start} to {row.stop} ({row.name})" for row in bad[:_SHOWN]]
    more = f" and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
    return f"is damaged in {', '.join(places)}{more}"


def _opens(folder: Folder, step: int, manifest: Manifest, name: str) -> bool:
    """Say whether a safetensors file has its length and its header."""
    expected = manifest.files[name]
    try:
        with contextlib.closing(folder.source(step, manifest.key(name))) as source:
            if source.size != expected.size:
                return False
            head = source.read(0, 8 + int.from_bytes(source.read(0, 8), "little"))
            return xxhash.xxh3_128_hexdigest(head) == expected.digest
    except (OSError, TensorKeepError):
        return False


def _same(folder: Folder, step: int, manifest: Manifest, row: Entry) -> bool:
    """Say whether a tensor is what was saved."""
    try:
        with contextlib.closing(folder.source(step, manifest.key(row.file))) as source:
            tensor = Tensor(row.dtype, row.shape, source, row.start, row.stop - row.start)
            return digest(tensor) == row.digest
    except (OSError, TensorKeepError):
        return False


def _indexes(folder: Folder, step: int, manifest: Manifest, name: str) -> Iterator[bytes]:
    """Write the index of shards from the manifest, in each order that its digests may have had."""
    stem = name.removesuffix(INDEX)
    files = sorted(file for file in manifest.files if is_own(file, stem))
    rows: dict[str, dict[str, Entry]] = {file: {} for file in files}
    for entry in manifest.tensors.values():
        if entry.file in rows:
            rows[entry.file][entry.name] = entry
    yield _index(name, rows)
    with contextlib.suppress(TensorKeepError, OSError):
        for file in files:  # one that is shared may have an order of its own
            with api.open(folder.file(step, manifest.key(file))) as shard:
                rows[file] = {inner: rows[file][inner] for inner in shard if inner in rows[file]}
        yield _index(name, rows)


def _index(name: str, rows: Mapping[str, Mapping[str, Entry]]) -> bytes:
    entries = {inner: entry for held in rows.values() for inner, entry in held.items()}
    weight_map = {inner: entry.file for inner, entry in entries.items()}
    digests = {inner: entry.digest for inner, entry in entries.items()}
    held = {
        inner: Tensor(
            entry.dtype,
            entry.shape,
            _Unread(entry.stop, name),
            entry.start,
            entry.stop - entry.start,
        )
        for inner, entry in entries.items()
    }
    stream = encode_index(name, weight_map, Notes(digests=digests), held)
    return join(stream.chunks or ())


class _Unread(Source):
    """Bytes of which only the number is asked."""

    __slots__ = ()

    def _read(self, start: int, stop: int) -> memoryview:
        raise StoreError("is not read here", where=self.where)
