"""Datasets in several files: names, what is there of one, and the order in which it changes.

A dataset appears with its index, `train.tar.index.json`, when all shards are there. Until then
`train.tar.partial.json` lists those that are, so that a write that was killed can go on behind
them. A dataset that is replaced stays as it is meanwhile: the new shards have names of their own
(`train.5f3a9c01-00000.tar`), and the old ones are removed after the new index stands.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from dataclasses import replace

import xxhash

from tensorkeep.data.writing.manifest import (
    INDEX,
    MOST_SHARDS,
    PARTIAL,
    Manifest,
    Shard,
    is_manifest,
    read_manifest,
)
from tensorkeep.errors import ArgumentError, MissingError, StoreError, TensorKeepError
from tensorkeep.hidden import failed_write, remove, sharing, take_place

_PIECE = 4 << 20
_READ_BY = ".index.safetensors"


class Series:
    """The files of one dataset.

    Args:
        target: what it is called, such as "train.tar"; no file has that very name.
        durable: have everything on the disk before it counts.

    Raises:
        MissingError: the folder does not exist.
        StoreError: a file has that name.
    """

    def __init__(self, target: str, *, durable: bool) -> None:
        self.target = target
        self.index = target + INDEX
        self._partial = target + PARTIAL
        self._durable = durable
        self._folder, name = os.path.split(target)
        self._stem, self._ending = os.path.splitext(name)
        self._written = b""
        if not os.path.isdir(self._folder or "."):
            raise MissingError(
                "the folder to save in does not exist", where=self._folder, cure="Create it first."
            )
        if os.path.lexists(target):
            raise StoreError(
                "is there already, and would be read instead of the shards",
                where=target,
                cure="Remove it first, or give another name.",
            )
        if os.path.lexists(self.index) and not is_manifest(self.index):
            raise StoreError(
                "is there already, and is no index of a dataset",
                where=self.index,
                cure="Remove it first, or give another name.",
            )

    def path(self, manifest: Manifest, number: int) -> str:
        """Give the path of a shard.

        Raises:
            ArgumentError: there are too many.
        """
        if number >= MOST_SHARDS:
            raise ArgumentError(
                f"more than {MOST_SHARDS:,} shards are too many",
                where=self.target,
                cure="Make them larger.",
            )
        run = f".{manifest.run}" if manifest.run else ""
        return os.path.join(self._folder, f"{self._stem}{run}-{number:05d}{self._ending}")

    def finished(self) -> Manifest | None:
        """Give the manifest of the finished dataset, if there is one and nothing replaces it."""
        if os.path.lexists(self._partial) or not os.path.lexists(self.index):
            return None
        found = read_manifest(self.index)
        if found.replaces:  # a kill came between the new index and the end of the old shards
            found = self._clear(found)
        return self._check(found, self.index)

    def resumed(self) -> Manifest | None:
        """Give the manifest of a dataset that was begun, its shards checked by their sizes.

        Raises:
            CorruptError: it, or a shard, is damaged.
        """
        if not os.path.lexists(self._partial):
            return None
        found = self._check(read_manifest(self._partial), self._partial)
        self._written = found.dump()
        self._remove_unlisted(found)
        return found

    def _check(self, manifest: Manifest, path: str) -> Manifest:
        for shard in manifest.shards:
            shard.find(path)
        return manifest

    def begin(self, manifest: Manifest) -> Manifest:
        """Announce a new dataset; what was begun before is given up, what is finished stays."""
        old: tuple[str, ...] = ()
        if os.path.lexists(self.index):
            with contextlib.suppress(TensorKeepError):  # it is damaged: its shards stay
                before = read_manifest(self.index)
                old = (*before.replaces, *(shard.file for shard in before.shards))
        if os.path.lexists(self._partial):
            self._give_up(old)
        run = secrets.token_hex(4) if self._taken() else ""
        manifest = replace(manifest, run=run, replaces=tuple(filter(self._is_ours, old)))
        self._write(manifest)
        return manifest

    def _give_up(self, kept: tuple[str, ...]) -> None:
        """Remove the shards of a write that did not come to its end."""
        with contextlib.suppress(TensorKeepError):  # it is damaged: its shards stay
            begun = read_manifest(self._partial)
            self._remove_unlisted(begun)
            for shard in begun.shards:
                if shard.file not in kept:
                    self._remove(shard.file)
        remove(self._partial)

    def _remove_unlisted(self, manifest: Manifest) -> None:
        """Remove the shard that was finished when a kill came before the manifest listed it."""
        self._remove(os.path.basename(self.path(manifest, len(manifest.shards))))

    def _remove(self, name: str) -> None:
        """Remove a shard, and the index that reading it made; nothing that is not of this name."""
        if self._is_ours(name):
            remove(os.path.join(self._folder, name))
            remove(os.path.join(self._folder, name + _READ_BY))

    def _taken(self) -> bool:
        pattern = re.compile(rf"{re.escape(self._stem)}-\d+{re.escape(self._ending)}")
        return any(map(pattern.fullmatch, os.listdir(self._folder or ".")))

    def _is_ours(self, name: str) -> bool:
        stem, ending = re.escape(self._stem), re.escape(self._ending)
        return re.fullmatch(rf"{stem}(\.[0-9a-f]{{8}})?-\d{{5}}{ending}", name) is not None

    def add(self, manifest: Manifest, path: str, samples: int) -> Manifest:
        """Note a shard that is finished.

        Raises:
            StoreError: another process writes this dataset.
        """
        nbytes, digest = _measure(path)
        shard = Shard(os.path.basename(path), samples, nbytes, digest)
        manifest = replace(manifest, shards=(*manifest.shards, shard))
        self._write(manifest)
        return manifest

    def _write(self, manifest: Manifest) -> None:
        if self._written:
            self._check_alone()
        manifest.write(self._partial, durable=self._durable)
        self._written = manifest.dump()

    def _check_alone(self) -> None:
        try:
            with open(self._partial, "rb") as file:
                found = file.read()
        except FileNotFoundError:
            found = b""
        except OSError as error:
            raise failed_write(error, self._partial) from error
        if found != self._written:
            raise StoreError(
                "another process writes this dataset",
                where=self.target,
                cure="Let one of them write it.",
            )

    def finish(self, manifest: Manifest) -> Manifest:
        """Let the dataset appear in the place of the one before, whose shards are then removed."""
        self._check_alone()
        try:
            with sharing(self._folder or ".") as folder:
                take_place(self._partial, self.index)
                if self._durable:
                    os.fsync(folder)
        except OSError as error:
            raise failed_write(error, self.index) from error
        return self._clear(manifest) if manifest.replaces else manifest

    def _clear(self, manifest: Manifest) -> Manifest:
        """Remove the shards that a finished dataset has replaced."""
        kept = {shard.file for shard in manifest.shards}
        for name in manifest.replaces:
            if name not in kept:
                self._remove(name)
        manifest = replace(manifest, replaces=())
        manifest.write(self.index, durable=self._durable)
        return manifest


def paths(target: str, manifest: Manifest) -> tuple[str, ...]:
    """Give the paths of all shards."""
    return tuple(os.path.join(os.path.dirname(target), shard.file) for shard in manifest.shards)


def size_on_disk(path: str) -> int:
    """Give the bytes of a file, or of all files in a folder."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(path)
        for name in names
    )


def _measure(path: str) -> tuple[int, str]:
    """Give the bytes of a shard and their digest, which a folder has none of."""
    try:
        if os.path.isdir(path):
            return size_on_disk(path), ""
        digest, nbytes = xxhash.xxh3_128(), 0
        with open(path, "rb", buffering=0) as file:
            buffer = memoryview(bytearray(_PIECE))
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                nbytes += count
    except OSError as error:
        raise failed_write(error, path) from error
    return nbytes, digest.hexdigest()
