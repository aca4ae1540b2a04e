"""What the next checkpoint can share with the one before: its files, as far as they are sound."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import xxhash

from tensorkeep.checkpoint.crew import Crew
from tensorkeep.checkpoint.folder import Folder, name_of
from tensorkeep.checksum import digest
from tensorkeep.errors import TensorKeepError
from tensorkeep.formats.safetensors.manifest import Manifest
from tensorkeep.source import FileSource
from tensorkeep.tensor import Tensor

_TRUSTED = 3600.0  # seconds for which a file is shared without being read again


@dataclass(frozen=True, slots=True)
class Parent:
    """The checkpoint whose files may be shared, and whether one of them still is what it was."""

    name: str
    path: str
    manifest: Manifest
    is_sound: Callable[[str], bool]


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
        """Give the checkpoint to share files with; None where there is none that is any good."""
        if self._last is None or self._last[0] in self.damaged:
            return None
        step, manifest = self._last
        path = self._folder.path_of(step)
        return Parent(name_of(step), path, manifest, partial(self._is_sound, path, manifest))

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
        if self._last is None:
            return True
        step, manifest = self._last
        path = self._folder.path_of(step)
        for name, file in manifest.files.items():
            now = time.monotonic()
            if now - self._sound.get(file.digest, now) < _TRUSTED or name not in _held(manifest):
                continue
            try:
                sound = is_sound(path, manifest, name)
            except TensorKeepError:
                sound = False
            if not sound:
                self.damaged.add(step)
                return False
            self._sound[file.digest] = now
        return True

    def _is_sound(self, path: str, manifest: Manifest, file: str) -> bool:
        """Say whether a file may be shared; one that this process never read or wrote is read."""
        expected = manifest.files[file]
        at = self._sound.get(expected.digest)
        try:
            if at is not None:
                return os.stat(os.path.join(path, file)).st_size == expected.size
            if not is_sound(path, manifest, file):
                return False
        except (OSError, TensorKeepError):
            return False
        self._sound[expected.digest] = time.monotonic()
        return True


def _held(manifest: Manifest) -> set[str]:
    return {entry.file for entry in manifest.tensors.values()}


def is_sound(path: str, manifest: Manifest, file: str) -> bool:
    """Read a safetensors file of a checkpoint, and compare it with what the manifest says of it.

    Raises:
        TensorKeepError: it cannot be read.
    """
    expected = manifest.files[file]
    source = FileSource(os.path.join(path, file))
    try:
        if source.size != expected.size:
            return False
        stop = 8 + int.from_bytes(source.read(0, 8), "little")
        if xxhash.xxh3_128_hexdigest(source.read(0, stop)) != expected.digest:
            return False
        rows = (entry for entry in manifest.tensors.values() if entry.file == file)
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
