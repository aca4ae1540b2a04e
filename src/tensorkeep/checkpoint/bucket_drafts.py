"""Drafts in an object store: data under a name of their own, which no manifest tells of yet."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Mapping
from typing import ClassVar

from tensorkeep.checkpoint.bucket_uploads import upload
from tensorkeep.checkpoint.folder import Draft, SharedDraft, name_of
from tensorkeep.errors import MissingError, StoreError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import Manifest
from tensorkeep.store import Chunks, Progress
from tensorkeep.stores.object import Entry, ObjectStore


class BucketDraft(Draft):
    """The data of a checkpoint that is being written.

    Args:
        run: where the checkpoints are.
        step: of the checkpoint.
        token: the name of its data's folder, which nothing else has.
        before: what was there for that step when it was looked at, by its key from the step's
            folder; None where that is to be looked at when it is committed.
    """

    in_order: ClassVar[bool] = True

    def __init__(
        self, run: ObjectStore, step: int, token: str, before: Mapping[str, Entry] | None = None
    ) -> None:
        self.data = token
        self.before = before
        self.manifest = b""
        self._sizes: dict[str, int] = {}  # of its files
        self._run = run
        self._store = run.below(f"{name_of(step)}/{token}")

    def put(
        self, name: str, chunks: Chunks, size: int | None = None, progress: Progress | None = None
    ) -> None:
        where = posixpath.join(self._store.where, name)
        upload(self._store.connection, where, chunks, size, progress)

    def link(self, name: str, step: int, key: str) -> bool:
        """Have the store copy a file of another checkpoint."""
        try:
            return self._store.copy(self._run, f"{name_of(step)}/{key}", name)
        except MissingError:
            return False

    def finish(self, manifest: Manifest) -> None:
        """Look once more at what was put, by one list, before anything is told of it."""
        self._sizes = {name: file.size for name, file in manifest.files.items()}
        if problem := self._problem():
            raise StoreError(
                f"what was uploaded as {problem}", where=self._store.where, cure="Save again."
            )
        self.manifest = manifest.dump()

    def is_whole(self) -> bool:
        """Say whether all data are there still.

        Raises:
            StoreError: the store failed.
        """
        return not self._problem()

    def _problem(self) -> str:
        found = {entry.key: entry.size for entry in self._store.entries()}
        for name, size in self._sizes.items():
            if name not in found:
                return f"{name} is gone: who else saves here has removed it, as it seems"
            if found[name] != size:
                return f"{name} has {found[name]:,} bytes, not {size:,}"
        return ""

    def drop(self) -> bool:
        """Remove the data; False where the store does not let it now."""
        with contextlib.suppress(TensorKeepError):
            self._store.remove(entry.key for entry in self._store.entries())
            return True
        return False


class SharedBucketDraft(BucketDraft, SharedDraft):
    """The data of a checkpoint that several processes write."""

    def report(self, name: str, data: bytes) -> None:
        self.put(name, [data], len(data))

    def names(self) -> list[str]:
        return [entry.key for entry in self._store.entries()]

    def read(self, name: str) -> bytes | None:
        try:
            with contextlib.closing(self._store.get(name)) as source:
                return bytes(source.read(0, source.size))
        except MissingError:
            return None

    def remove(self, name: str) -> None:
        self._store.remove([name])

    def close(self) -> None:
        """Do nothing: nothing is held."""


__all__ = ["BucketDraft", "SharedBucketDraft"]
