"""The folder that the checkpoints of one run are in, as the rest of this package sees it.

`disk` has it on a filesystem, and `bucket` on an object store. A checkpoint appears whole, once its
draft is committed; a process that dies before that leaves nothing that counts.
"""

from __future__ import annotations

import os
import posixpath
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar

from tensorkeep.errors import ArgumentError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import Manifest
from tensorkeep.source import Source
from tensorkeep.store import Chunks, Location, Progress, Store
from tensorkeep.stores import Target, refuse_lost_slash

_NAME = re.compile(r"step-([0-9]{8,18})")


def name_of(step: int) -> str:
    """Name the folder of a step.

    >>> name_of(1200)
    'step-00001200'
    """
    return f"step-{step:08}"


def step_of(name: str) -> int | None:
    """Give the step that a folder is named after; None where it is no name of ours.

    >>> step_of("step-00001200"), step_of("step-12")
    (1200, None)
    """
    match = _NAME.fullmatch(name)
    step = int(match[1]) if match else None
    return step if step is not None and name_of(step) == name else None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a file that was not read.

    Args:
        size: in bytes.
        same: equal for two names of the same bytes, and no others.
        shared: whether other checkpoints have these bytes too, and they take room but once.
        regular: whether it is a file at all.
    """

    size: int
    same: Hashable
    shared: bool = False
    regular: bool = True


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a step's folder finds.

    Args:
        step: whose folder.
        manifest: None where it cannot be read.
        error: why.
        files: those that the manifest lists, by their names in it; why one cannot be looked at.
        verified: when it was last read and found sound, in seconds since 1970; 0 for never.
    """

    step: int
    manifest: Manifest | None
    error: TensorKeepError | None = None
    files: Mapping[str, FileInfo | OSError] = field(default_factory=dict)
    verified: float = 0.0


class Draft(ABC):
    """A checkpoint that is being written; nothing of it counts before it is committed.

    Attributes:
        data: the folder, beside the manifest, that its files will be in; the manifest's own field.
        in_order: whether bytes leave as they come, so that what is late keeps back the rest.
        kept: it holds what may still be needed, and stays.
    """

    data: str = ""
    in_order: ClassVar[bool] = False
    kept: bool = False

    @abstractmethod
    def put(
        self, name: str, chunks: Chunks, size: int | None = None, progress: Progress | None = None
    ) -> None:
        """Write a file.

        Raises:
            OSError: the disk is full or failed, or the store did.
        """

    @abstractmethod
    def link(self, name: str, step: int, key: str) -> bool:
        """Take a file over from another checkpoint, without its bytes; False where that cannot be.

        Args:
            name: what to call it.
            step: of the checkpoint it is in.
            key: its key from that checkpoint's folder, as `Manifest.key` gives it.
        """

    @abstractmethod
    def finish(self, manifest: Manifest) -> None:
        """Make it ready to be committed, once all else is safe.

        Raises:
            OSError: the disk is full or failed, or the store did.
            StoreError: a file is not there as it was put.
        """


class SharedDraft(Draft):
    """A draft that several processes write, each its own files, until one of them commits it.

    All that fails raises StoreError.
    """

    @abstractmethod
    def report(self, name: str, data: bytes) -> None:
        """Put a small file that only this save needs, once all that was put here before is safe."""

    @abstractmethod
    def names(self) -> list[str]:
        """List the files that are there, whole, whoever put them."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Read a small file; None where it is not there, or not yet whole."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def close(self) -> None:
        """Leave it to the others: nothing is removed."""


class Folder(ABC):
    """The checkpoints of one run.

    Attributes:
        where: names it in messages, as the caller did.
        shares_bytes: whether a file that several checkpoints have is but once on the disk, so that
            damage to it is damage to all.
        remote: whether what cannot be read may be there all the same, behind a network that fails.
    """

    where: str
    shares_bytes: ClassVar[bool] = False
    remote: ClassVar[bool] = False

    # --- whose turn it is -----------------------------------------------------------------------

    @abstractmethod
    def exists(self) -> bool:
        """Say whether there is such a folder."""

    @abstractmethod
    def create(self) -> None:
        """Make the folder, where it is not there.

        Raises:
            StoreError: it cannot be.
        """

    @abstractmethod
    def lock(self) -> None:
        """Become the one that saves here, and remove what dead ones have left.

        Raises:
            StoreError: that cannot be.
        """

    @abstractmethod
    def unlock(self) -> None:
        """Let others in."""

    @abstractmethod
    def check(self) -> None:
        """Make sure that the folder is still the one that was locked, and ours to save in.

        Raises:
            StoreError: it is not.
        """

    @abstractmethod
    def tending(self) -> AbstractContextManager[None]:
        """Let something be removed or mended here, by who does not save.

        Raises:
            StoreError: a training saves here, which is not to be disturbed.
        """

    @abstractmethod
    def leftovers(self) -> list[str]:
        """Name what a killed save has left, or one under way is writing."""

    # --- what is there --------------------------------------------------------------------------

    @abstractmethod
    def steps(self) -> list[int]:
        """Give the steps that have a folder, in order, whatever is in it."""

    def where_of(self, step: int) -> str:
        """Name a step's folder in messages, as the caller named the folder around it."""
        return posixpath.join(self.where, name_of(step))

    @abstractmethod
    def location(self, step: int) -> Location:
        """Give a step's folder, for formats to read."""

    def file(self, step: int, key: str) -> Location:
        """Give a file of a step's folder."""
        return Location(self.location(step).store, key)

    @abstractmethod
    def there(self, step: int) -> bool:
        """Say whether anything has the name of a step."""

    @abstractmethod
    def has_folder(self, step: int) -> bool:
        """Say whether a folder has the name of a step."""

    @abstractmethod
    def is_own(self, step: int) -> bool:
        """Say whether what has the name of a step is, or was, a checkpoint that may be replaced."""

    @abstractmethod
    def is_removable(self, step: int) -> bool:
        """Say whether what has the name of a step is in this folder, and not a link elsewhere."""

    @abstractmethod
    def look(self, step: int) -> Look:
        """Look at a step's folder, without reading its files."""

    def looks(self) -> Iterator[Look]:
        """Look at the folders of all steps, in order."""
        return map(self.look, self.steps())

    @abstractmethod
    def identity(self, step: int) -> str:
        """Give the manifest's own digest, which tells a checkpoint from another of its step.

        Empty where there is none.
        """

    @abstractmethod
    def info(self, step: int, key: str) -> FileInfo:
        """Look at a file.

        Raises:
            OSError: it cannot be; FileNotFoundError where there is none.
        """

    @abstractmethod
    def source(self, step: int, key: str) -> Source:
        """Open a file.

        Raises:
            MissingError: there is none.
            StoreError: it cannot be read.
            UnsafeError: it lies elsewhere.
        """

    @abstractmethod
    def keys(self, step: int) -> list[str]:
        """List what is in a step's folder, by the keys of its files; nothing where it is gone."""

    # --- how a checkpoint appears ---------------------------------------------------------------

    @abstractmethod
    def draft(self, step: int, *, durable: bool) -> AbstractContextManager[Draft]:
        """Give a place to write a checkpoint in; it is removed unless it was committed.

        Raises:
            StoreError: it cannot be made.
        """

    @abstractmethod
    def share(self, step: int, token: str, *, durable: bool) -> SharedDraft:
        """Join the draft that several processes write, which the first of them makes.

        The one that will commit it has locked the folder, and joins before it tells the others the
        token; it stays until all is committed or discarded.

        Args:
            step: of the checkpoint.
            token: what tells this save from any other: 8 hexadecimal digits.
            durable: have each file on the disk once it is put.

        Raises:
            StoreError: it cannot be made.
        """

    @abstractmethod
    def commit(self, draft: Draft, step: int, *, replace: bool) -> None:
        """Have a finished draft be the checkpoint of a step.

        Args:
            draft: what was written.
            step: whose name it gets.
            replace: take the place of what has the name.

        Raises:
            OSError: it cannot be done; what was there is unchanged.
            StoreError: likewise, or it is there, but a loss of power may undo that; the message
                says which.
        """

    @abstractmethod
    def discard(self, draft: SharedDraft) -> None:
        """Remove a draft that will not be committed, whoever wrote what is in it."""

    # --- how one goes, and is mended ------------------------------------------------------------

    @abstractmethod
    def take_out(self, step: int) -> Callable[[], None] | None:
        """Have a checkpoint be none any more; None where it was none.

        Returns:
            What then frees its bytes.

        Raises:
            OSError: it cannot be.
        """

    @abstractmethod
    def freed(self, steps: Iterable[int]) -> int:
        """Give the bytes that there is room for again if some checkpoints go."""

    @abstractmethod
    def verified(self, step: int, digest: str) -> float:
        """Say when a checkpoint was last read and found sound, in seconds since 1970; 0 for never.

        Args:
            step: of the checkpoint.
            digest: its manifest's own one, which tells it from another of that step.
        """

    @abstractmethod
    def mark_verified(self, step: int, digest: str, at: float) -> None:
        """Note that a checkpoint was read and found sound; do nothing where that is not allowed."""

    @abstractmethod
    def copy_file(self, step: int, key: str, to_step: int, to_key: str) -> None:
        """Put a file of one checkpoint in the place of one of another.

        Raises:
            StoreError: it cannot be; that one is unchanged.
            UnsafeError: that one lies elsewhere.
        """

    @abstractmethod
    def write_file(self, step: int, key: str, data: bytes) -> None:
        """Put a small file in the place of one of a checkpoint.

        Raises:
            StoreError: it cannot be; that one is unchanged.
            UnsafeError: that one lies elsewhere.
        """


def open_folder(target: Target) -> Folder:
    """Give the folder of checkpoints that a path, an URL, a Location or a store means.

    Raises:
        ArgumentError: it can hold none.

    >>> import tempfile
    >>> folder = open_folder(tempfile.mkdtemp())
    >>> folder.steps(), folder.there(7)
    ([], False)
    """
    from tensorkeep.checkpoint.bucket import BucketFolder, bucket_of
    from tensorkeep.checkpoint.disk import DiskFolder, folder_at

    if isinstance(target, Store | Location) or "://" in _text(target):
        bucket = bucket_of(target)
        if bucket is not None:
            return BucketFolder(bucket)
        return DiskFolder(folder_at(target))
    refuse_lost_slash(target)
    return DiskFolder(target)


def _text(target: str | os.PathLike[str]) -> str:
    try:
        return os.fsdecode(os.fspath(target))
    except TypeError:
        raise ArgumentError(
            f"the folder of checkpoints is a path, not {type(target).__name__}"
        ) from None


__all__ = [
    "Draft",
    "FileInfo",
    "Folder",
    "Look",
    "SharedDraft",
    "name_of",
    "open_folder",
    "step_of",
]
