"""Checkpoints in an object store, where the manifest's appearing is what commits one.

    run/step-00001200/MANIFEST.json                  names the folder of its data
    run/step-00001200/5f3a9c01/model.safetensors     the data of one save, under a name of its own
    run/.tensorkeep/writer                           who saves here
    run/.tensorkeep/verified/step-00001200/DIGEST    when all of it was read and found sound

The manifest is put once all data are there, and only if there is none, or in the place of the very
one that was looked at: of several writers one commits, and the data of the others are removed. To
remove a checkpoint is to delete its manifest first. Data that no manifest names are what a killed
save has left. Whoever takes the run over removes those that are an hour older than that: no save of
its own can have put them, and of a former writer nothing can be committed any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import ClassVar

from tensorkeep.checkpoint.bucket_drafts import BucketDraft, SharedBucketDraft
from tensorkeep.checkpoint.bucket_writer import Writer, since
from tensorkeep.checkpoint.folder import (
    Draft,
    FileInfo,
    Folder,
    Look,
    SharedDraft,
    name_of,
    step_of,
)
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    StoreError,
    TensorKeepError,
)
from tensorkeep.formats.safetensors.manifest import MANIFEST, Manifest, read_manifest
from tensorkeep.hidden import failed_write
from tensorkeep.source import Source
from tensorkeep.store import Location, Store
from tensorkeep.stores import Target
from tensorkeep.stores.object import Entry, ObjectStore
from tensorkeep.threads import working_ahead
from tensorkeep.wire.seal import SEAL

_VERIFIED = ".tensorkeep/verified"
_DATA = re.compile(r"[0-9a-f]{8}")
_FILE = re.compile(r"[^/]+/[0-9a-f]{8}/[^/]+\.(?:safetensors|json)")  # no other is ever put
_AGE = 3600.0  # seconds that leftovers are older than the one who takes over
_TOGETHER = 8  # manifests that are read at a time
_PIECE = 8 << 20  # bytes of a file that are copied at a time
_LOOKS = 3  # at a checkpoint that is replaced meanwhile

Entries = dict[str, Entry]  # by their keys from the step's folder


class BucketFolder(Folder):
    """The checkpoints of one run, in an object store.

    Args:
        store: what is below the run's address.
    """

    shares_bytes: ClassVar[bool] = False
    remote: ClassVar[bool] = True

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.where = store.where
        self._writer: Writer | None = None
        self._left: list[BucketDraft] = []  # whose data could not be removed
        self._stale: set[str] = set()  # keys that could not be
        self._clearing = threading.Lock()

    # --- whose turn it is -----------------------------------------------------------------------

    def exists(self) -> bool:
        return next(self.store.entries(), None) is not None

    def create(self) -> None:
        """Do nothing: there are no folders, but names."""

    def lock(self) -> None:
        """Take the run over: no other writer commits here from now on.

        Raises:
            StoreError: the store failed.
        """
        self._writer = Writer(self.store)
        with contextlib.suppress(StoreError):  # the next one tries again
            self.sweep()

    def unlock(self) -> None:
        if self._writer is not None:
            self._clear()
        self._writer = None

    def check(self) -> None:
        if self._writer is not None:
            self._writer.check()

    @contextlib.contextmanager
    def tending(self) -> Iterator[None]:
        """Remove what killed saves have left; nothing else here disturbs one who saves."""
        self.sweep()
        yield

    def sweep(self) -> list[str]:
        """Remove what killed saves have left. Names it.

        Raises:
            StoreError: the store failed.
        """
        found = self._abandoned()
        self.store.remove(key for keys in found.values() for key in keys)
        return list(found)

    def leftovers(self) -> list[str]:
        return list(self._abandoned())

    def _abandoned(self) -> dict[str, list[str]]:
        """Find old data that no manifest names: their keys, by the folder they are in."""
        at = since(self.store)
        if at is None:
            return {}
        found: dict[str, list[str]] = {}
        for step, entries in self._list().items():
            folders: dict[str, list[Entry]] = {}
            for key, entry in entries.items():
                data, slash, _ = key.partition("/")
                if slash and _DATA.fullmatch(data):
                    folders.setdefault(data, []).append(entry)
            if MANIFEST in entries:
                if len(folders) < 2:
                    continue  # it is the one that is named
                try:
                    folders.pop(read_manifest(self.location(step)).data, None)
                except TensorKeepError:
                    continue  # which of them it named is not known
            for data, rows in folders.items():
                old = max(row.modified for row in rows) < at - _AGE
                if old and all(_FILE.fullmatch(row.key) for row in rows):
                    found[f"{name_of(step)}/{data}"] = [row.key for row in rows]
        return found

    # --- what is there --------------------------------------------------------------------------

    def _list(self) -> dict[int, Entries]:
        """List the objects of all steps, in the order of the steps."""
        found: dict[int, Entries] = {}
        for entry in self.store.entries("step-"):
            name, slash, key = entry.key.partition("/")
            step = step_of(name)
            if slash and step is not None:
                found.setdefault(step, {})[key] = entry
        return dict(sorted(found.items()))

    def _entries(self, step: int) -> Entries:
        before = f"{name_of(step)}/"
        return {e.key.removeprefix(before): e for e in self.store.entries(before)}

    def steps(self) -> list[int]:
        """Give the steps that have a manifest, in order; what has none is none."""
        return [step for step, entries in self._list().items() if MANIFEST in entries]

    def location(self, step: int) -> Location:
        return Location(self.store.below(name_of(step)))

    def there(self, step: int) -> bool:
        return self.store.look(f"{name_of(step)}/{MANIFEST}") is not None

    def has_folder(self, step: int) -> bool:
        return self.there(step)

    def is_own(self, step: int) -> bool:
        try:
            read_manifest(self.location(step))
        except (CorruptError, MissingError):
            return True
        except StoreError:
            raise  # that the store cannot be reached tells nothing
        except TensorKeepError:
            return False
        return True

    def is_removable(self, step: int) -> bool:
        return True

    def look(self, step: int) -> Look:
        found = self._look(step)
        for _ in range(_LOOKS - 1):  # it may have been replaced between the manifest and the list
            if not any(isinstance(info, OSError) for info in found.files.values()):
                break
            before, found = found, self._look(step)
            if before.manifest == found.manifest:
                break
        return found

    def _look(self, step: int) -> Look:
        marks = {e.key: e.modified for e in self.store.entries(f"{_VERIFIED}/{name_of(step)}/")}
        manifest = self._manifest(step)
        return self._seen(step, manifest, self._entries(step), marks)

    def looks(self) -> Iterator[Look]:
        """Look at all steps by one list, and read several manifests at a time."""
        marks = {entry.key: entry.modified for entry in self.store.entries(f"{_VERIFIED}/")}
        rows = {step: e for step, e in self._list().items() if MANIFEST in e}
        steps = iter(rows)
        with working_ahead(_TOGETHER) as pool:
            coming: deque[tuple[int, Future[Manifest | TensorKeepError]]] = deque()
            while True:
                while len(coming) < _TOGETHER and (step := next(steps, None)) is not None:
                    coming.append((step, pool.submit(self._manifest, step)))
                if not coming:
                    return
                step, read = coming.popleft()
                found = self._seen(step, read.result(), rows[step], marks)
                if any(isinstance(info, OSError) for info in found.files.values()):
                    found = self.look(step)
                yield found

    def _manifest(self, step: int) -> Manifest | TensorKeepError:
        try:
            return read_manifest(self.location(step))
        except StoreError:
            raise
        except TensorKeepError as error:
            return error

    def _seen(
        self,
        step: int,
        manifest: Manifest | TensorKeepError,
        entries: Entries,
        marks: Mapping[str, float],
    ) -> Look:
        if isinstance(manifest, TensorKeepError):
            return Look(step, None, manifest)
        files: dict[str, FileInfo | OSError] = {}
        for name in manifest.files:
            entry = entries.get(manifest.key(name))
            files[name] = _missing() if entry is None else _info(entry)
        of_step = f"{_VERIFIED}/{name_of(step)}/"
        marked = any(key.startswith(of_step) for key in marks)
        verified = marks.get(_mark(step, self.identity(step)), 0.0) if marked else 0.0
        return Look(step, manifest, files=files, verified=verified)

    def identity(self, step: int) -> str:
        try:
            with contextlib.closing(self.source(step, MANIFEST)) as source:
                tail = bytes(source.read(max(0, source.size - 200), source.size))
            return tail.rpartition(f'"{SEAL}": "'.encode())[2][:32].decode("ascii", "replace")
        except TensorKeepError:
            return ""

    def info(self, step: int, key: str) -> FileInfo:
        entry = self.store.look(f"{name_of(step)}/{key}")
        if entry is None:
            raise _missing()
        return _info(entry)

    def source(self, step: int, key: str) -> Source:
        return self.store.get(f"{name_of(step)}/{key}")

    def keys(self, step: int) -> list[str]:
        return list(self._entries(step))

    # --- how a checkpoint appears ---------------------------------------------------------------

    @contextlib.contextmanager
    def draft(self, step: int, *, durable: bool) -> Iterator[Draft]:
        """Give a name to put data under; they are removed unless they were committed."""
        self.check()
        self._clear()
        draft = BucketDraft(self.store, step, secrets.token_hex(4), self._entries(step))
        try:
            yield draft
        except OSError as error:
            raise failed_write(error, self.where_of(step)) from error
        finally:
            if not draft.kept and not draft.drop():
                self._left.append(draft)

    def share(self, step: int, token: str, *, durable: bool) -> SharedDraft:
        return SharedBucketDraft(self.store, step, token)

    def commit(self, draft: Draft, step: int, *, replace: bool) -> None:
        assert isinstance(draft, BucketDraft)
        assert draft.manifest
        self.check()
        before = self._entries(step) if draft.before is None else draft.before
        old = before.get(MANIFEST) if replace else None
        draft.kept = True  # from here on, whatever ends this, it may be one
        if not self._put_manifest(draft, step, old):
            draft.kept = False
            self._refuse(step, replace)
        self._look_again(draft, step)
        if replace:
            stale = [key for key in before if key != MANIFEST and not self._is_of(key, draft)]
            self._clear({f"{name_of(step)}/{key}" for key in stale})

    def _put_manifest(self, draft: BucketDraft, step: int, old: Entry | None) -> bool:
        """Put it create-only, or in the place of the one that was looked at; False if too late."""
        key = f"{name_of(step)}/{MANIFEST}"
        try:
            if old is None:
                return self.store.create(key, draft.manifest)
            return self.store.replace(key, draft.manifest, old.etag)
        except StoreError as error:
            with contextlib.suppress(StoreError):
                there = self._manifest(step)
                if isinstance(there, Manifest) and there.data == draft.data:
                    return True
            raise StoreError(
                f"the store did not say whether it is saved: {error.problem}",
                where=self.where_of(step),
                cure=f"Either it is, or what was there before is unchanged. {error.cure}".strip(),
            ) from error

    def _look_again(self, draft: BucketDraft, step: int) -> None:
        """Take the manifest back if another took over before it was put, and swept its data.

        Only one that stood still for an hour, between its last look and that, meets this.
        """
        try:
            self.check()
        except StoreError as error:
            if self._take_back(draft, step):
                raise StoreError(
                    f"is not saved: {error.problem}", where=self.where_of(step), cure=error.cure
                ) from error

    def _take_back(self, draft: BucketDraft, step: int) -> bool:
        """Remove the manifest of a draft whose data are gone; False where they are there."""
        with contextlib.suppress(StoreError):
            there = self._manifest(step)
            if not isinstance(there, Manifest) or there.data != draft.data or draft.is_whole():
                return False
            self.store.remove([f"{name_of(step)}/{MANIFEST}"])
            draft.kept = False
            return True
        return False

    def _refuse(self, step: int, replace: bool) -> None:
        if replace:
            raise StoreError(
                "another process has replaced or removed it meanwhile; this one is not saved",
                where=self.where_of(step),
                cure="Let one process alone save here, and save again.",
            )
        raise ArgumentError(
            f"another process has saved step {step} meanwhile; this one is not saved",
            where=self.where,
            cure="Let one process alone save here, or say overwrite=True to replace it.",
        )

    def _clear(self, keys: Iterable[str] = ()) -> None:
        """Remove objects that count no more; what cannot be removed now is tried again later."""
        with self._clearing:
            self._left = [draft for draft in self._left if not draft.drop()]
            self._stale.update(keys)
            if self._stale:
                with contextlib.suppress(StoreError):
                    self.store.remove(sorted(self._stale))
                    self._stale.clear()

    @staticmethod
    def _is_of(key: str, draft: BucketDraft) -> bool:
        return key.startswith(f"{draft.data}/")

    def discard(self, draft: SharedDraft) -> None:
        assert isinstance(draft, SharedBucketDraft)
        if not draft.kept and not draft.drop():
            self._left.append(draft)

    # --- how one goes, and is mended ------------------------------------------------------------

    def take_out(self, step: int) -> Callable[[], None] | None:
        """Delete the manifest; what is left is then no checkpoint."""
        self.check()
        entries = self._entries(step)
        if MANIFEST not in entries:
            return None
        self.store.remove([f"{name_of(step)}/{MANIFEST}"])

        def free() -> None:
            stale = {f"{name_of(step)}/{key}" for key in entries if key != MANIFEST}
            with contextlib.suppress(StoreError):
                stale.update(
                    mark.key for mark in self.store.entries(f"{_VERIFIED}/{name_of(step)}/")
                )
            self._clear(stale)

        return free

    def freed(self, steps: Iterable[int]) -> int:
        return sum(entry.size for step in steps for entry in self._entries(step).values())

    def verified(self, step: int, digest: str) -> float:
        if not digest:
            return 0.0
        mark = self.store.look(_mark(step, digest))
        return 0.0 if mark is None else mark.modified

    def mark_verified(self, step: int, digest: str, at: float) -> None:
        with contextlib.suppress(TensorKeepError):
            if at and digest:
                self.store.replace(_mark(step, digest), b"read and found sound\n")
            elif digest:
                self.store.remove([_mark(step, digest)])

    def copy_file(self, step: int, key: str, to_step: int, to_key: str) -> None:
        source, target = f"{name_of(step)}/{key}", f"{name_of(to_step)}/{to_key}"
        if self.store.copy(self.store, source, target):
            return
        with contextlib.closing(self.store.get(source)) as found:
            pieces = (
                found.read(start, min(start + _PIECE, found.size))
                for start in range(0, found.size, _PIECE)
            )
            writer = self.store.writer()
            try:
                writer.put(target, pieces, size=found.size)
                writer.commit()
            finally:
                writer.rollback()

    def write_file(self, step: int, key: str, data: bytes) -> None:
        self.store.replace(f"{name_of(step)}/{key}", data)


def _info(entry: Entry) -> FileInfo:
    return FileInfo(entry.size, (entry.key, entry.etag))


def _missing() -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def _mark(step: int, digest: str) -> str:
    return f"{_VERIFIED}/{name_of(step)}/{digest}"


def bucket_of(target: Target) -> ObjectStore | None:
    """Give the store of what is below an address; None where it is a path, or no object store.

    Raises:
        ArgumentError: there is no such kind of store.
    """
    if isinstance(target, Location | Store):
        location = target if isinstance(target, Location) else Location(target)
        store = location.store
        if isinstance(store, ObjectStore):
            return store.below(location.key) if location.key else store
        return None
    address = os.fsdecode(os.fspath(target))
    return None if address.startswith("file://") else ObjectStore(address)
