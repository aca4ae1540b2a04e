"""What the next checkpoint can share with the one before: its files, as far as they are sound."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import xxhash

from tensorkeep.checkpoint.crew import Crew
from tensorkeep.checkpoint.folder import Folder, name_of
from tensorkeep.checksum import digest
from tensorkeep.errors import TensorKeepError
from tensorkeep.formats.safetensors.manifest import Entry, Manifest
from tensorkeep.source import Source
from tensorkeep.tensor import Tensor

_TRUSTED = 3600.0  # seconds for which a file is shared without being read again


@dataclass(frozen=True, slots=True)
class Parent:
    """The checkpoint whose files may be shared, and whether one of them still is what it was."""

    folder: Folder
    step: int
    manifest: Manifest
    is_sound: Callable[[str], bool]

    @property
    def name(self) -> str:
        """What its folder is called."""
        return name_of(self.step)

    def where_of(self, file: str) -> str:
        """Name one of its files in messages."""
        return self.folder.file(self.step, self.manifest.key(file)).where

    def source(self, file: str) -> Source:
        """Open one of its files."""
        return self.folder.source(self.step, self.manifest.key(file))


class Lineage:
    """Remembers the last checkpoint, what of it had not changed, and which files are sound.

    Tensors that had changed when they were last compared are expected to change again, and are not
    compared before they are written, but by the digest that writing them gives.
    """

    def __init__(self, folder: Folder) -> None:
        self.still: set[str] = set()  # tensors that had not changed when they were last compared
        self.damaged: set[int] = set()  # steps whose checkpoints are no good
        self._folder = folder
        self._last: tuple[int, Manifest] | None = None
        self._compared = False
        self._sound: dict[str, float] = {}  # when a file, by its digest, was read or written

    def adopt(self, step: int, manifest: Manifest | None, *, verified: bool = False) -> None:
        """Take a checkpoint that is there as the one before the next."""
        self.still, self._compared = set(), False
        self._last = None if manifest is None else (step, manifest)
        if manifest is not None and verified:
            now = time.monotonic()
            self._sound.update((file.digest, now) for file in manifest.files.values())

    def remember(self, step: int, manifest: Manifest, parent: Parent | None) -> None:
        """Take the checkpoint that was just saved as the one before the next."""
        now = time.monotonic()
        before = parent.manifest if parent else Manifest(step=0, time=0.0)
        shared = {file.digest for file in before.files.values()}
        digests = {file.digest for file in manifest.files.values()}
        self._sound = {key: at for key, at in self._sound.items() if key in digests}
        self._sound.update((key, now) for key in digests - shared)
        self.still = {
            name
            for name, entry in manifest.tensors.items()
            if name in before.tensors and before.tensors[name].digest == entry.digest
        }
        self._compared = parent is not None
        self._last = step, manifest
        self.damaged.discard(step)

    def parent(self) -> Parent | None:
        """Give the checkpoint to share files with; None where there is none that is any good.

        The files of one with tensors in pieces are those of its processes, and hold other things.
        """
        if self._last is None or self._last[0] in self.damaged or self._last[1].sharded:
            return None
        step, manifest = self._last
        return Parent(self._folder, step, manifest, partial(self._is_sound, step, manifest))

    def expected(self, tensors: Mapping[str, Tensor], frozen: set[str]) -> dict[str, str]:
        """Give the digests of tensors that may well be what they were."""
        parent = self.parent()
        found = {}
        for name, entry in parent.manifest.tensors.items() if parent else ():
            tensor = tensors.get(name)
            if tensor is None or (tensor.dtype, tensor.shape) != (entry.dtype, entry.shape):
                continue
            if not self._compared or name in self.still or name in frozen:
                found[name] = entry.digest
        return found

    def distrust(self) -> None:
        """Share nothing with the last checkpoint: it is damaged."""
        if self._last is not None:
            self.damaged.add(self._last[0])

    def recheck(self) -> bool:
        """Read again the files that were not read or written for long; False where one is bad.

        A file that many checkpoints share is as good as lost once the disk damages it, so that is
        to be found out while the state is still in memory, to be written anew.
        """
        if self._last is None or not self._folder.shares_bytes:
            return True
        step, manifest = self._last
        for name, file in manifest.files.items() if not manifest.sharded else ():
            now = time.monotonic()
            if now - self._sound.get(file.digest, now) < _TRUSTED or name not in _held(manifest):
                continue
            try:
                sound = is_sound(self._folder, step, manifest, name)
            except TensorKeepError:
                sound = False
            if not sound:
                self.damaged.add(step)
                return False
            self._sound[file.digest] = now
        return True

    def _is_sound(self, step: int, manifest: Manifest, file: str) -> bool:
        """Say whether a file may be shared; one that this process never read or wrote is read."""
        expected = manifest.files[file]
        at = self._sound.get(expected.digest)
        try:
            if at is not None:
                return self._folder.info(step, manifest.key(file)).size == expected.size
            if not is_sound(self._folder, step, manifest, file):
                return False
        except (OSError, TensorKeepError):
            return False
        self._sound[expected.digest] = time.monotonic()
        return True


def _held(manifest: Manifest) -> set[str]:
    return {entry.file for entry in manifest.tensors.values()}


def entries_of(manifest: Manifest) -> Iterator[tuple[str, Entry]]:
    """Give what lies in the files, with the names of the tensors: each whole, or each piece."""
    yield from manifest.tensors.items()
    for name, held in manifest.sharded.items():
        for piece in held.pieces:
            yield (
                name,
                Entry(
                    piece.file,
                    piece.name,
                    held.dtype,
                    piece.shape,
                    piece.start,
                    piece.stop,
                    piece.digest,
                ),
            )


def is_sound(
    folder: Folder,
    step: int,
    manifest: Manifest,
    file: str,
    entries: Iterable[Entry] | None = None,
) -> bool:
    """Read a safetensors file of a checkpoint, and compare it with what the manifest says of it.

    Args:
        folder: where the checkpoint is.
        step: of it.
        manifest: of it.
        file: its name in the manifest.
        entries: those that lie in the file, where they are known.

    Raises:
        TensorKeepError: it cannot be read.
    """
    expected = manifest.files[file]
    source = folder.source(step, manifest.key(file))
    try:
        if source.size != expected.size:
            return False
        stop = 8 + int.from_bytes(source.read(0, 8), "little")
        if xxhash.xxh3_128_hexdigest(source.read(0, stop)) != expected.digest:
            return False
        rows = (
            (e for _, e in entries_of(manifest) if e.file == file) if entries is None else entries
        )
        return all(
            digest(Tensor(row.dtype, row.shape, source, row.start, row.stop - row.start))
            == row.digest
            for row in rows
        )
    finally:
        source.close()


def matching(tensors: Mapping[str, Tensor], expected: Mapping[str, str], crew: Crew) -> set[str]:
    """Hash tensors on all threads; name those that have the digest expected of them."""
    found: dict[str, str] = {}

    def hash_one(name: str) -> None:
        found[name] = digest(tensors[name])

    # The largest first, so that no thread is left with one at the end.
    names = sorted(expected, key=lambda name: -tensors[name].nbytes)
    crew.run([partial(hash_one, name) for name in names])
    return {name for name in names if found[name] == expected[name]}
