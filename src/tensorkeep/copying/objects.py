"""A target on an object store: data first, and last what makes them count.

    step-00001200/.tensorkeep.copying    while a copy is under way: what of, and what is whole

    {"of": HEX, "done": {KEY: ETAG}}

What it lists was checked when it was put, and still is that if it has the etag. A copy of other
content than this finds it and leaves it alone.
"""

from __future__ import annotations

import json
import posixpath
import threading
import time
from functools import partial

from tensorkeep.copying.comparing import is_same
from tensorkeep.copying.content import Checker, Content, listed
from tensorkeep.copying.disk import near
from tensorkeep.copying.filling import check_size, check_unchanged
from tensorkeep.copying.sources import File, Unit
from tensorkeep.copying.tally import Copied
from tensorkeep.copying.work import Work
from tensorkeep.errors import ArgumentError, MissingError, StoreError, TensorKeepError
from tensorkeep.formats.safetensors.manifest import MANIFEST, parse_manifest
from tensorkeep.store import Location
from tensorkeep.stores.object import Entry, ObjectStore

_COPYING = ".tensorkeep.copying"
OFTEN = 1.0  # seconds between two notes of what is whole
_LARGE = 8 << 20  # bytes of an object that is worth one
_SUFFIX = ".safetensors"


class Objects:
    """Keys below one of a store, that units are copied to.

    Args:
        store: where.
        prefix: of the keys: "" or one that ends in "/".
        overwrite: replace what has other content.
        verify: hash what passes, and what is there already.
    """

    def __init__(self, store: ObjectStore, prefix: str, *, overwrite: bool, verify: bool) -> None:
        self.store = store
        self.where = f"{store.where}/{prefix}".rstrip("/")
        self._prefix = prefix
        self._overwrite = overwrite
        self._verify = verify

    def missing(self, unit: Unit) -> list[File]:
        """List the files of a unit that are not there yet.

        Raises:
            ArgumentError: something else is there, which is not to be replaced.
        """
        home = self._home(unit)
        if unit.manifest:
            there = self.store.look(home + MANIFEST)
            if there is None:
                return unit.files
            if self._holds(unit, there):
                return []
            self._refuse(home + MANIFEST)
            return unit.files
        left = []
        for file in unit.files:
            entry = self.store.look(home + file.name)
            if entry is None:
                left.append(file)
            elif not self._is_there(entry, file):
                self._refuse(entry.key)
                left.append(file)
        return left

    def _home(self, unit: Unit) -> str:
        return f"{self._prefix}{unit.name}/" if unit.name else self._prefix

    def _refuse(self, key: str) -> None:
        if not self._overwrite:
            raise ArgumentError(
                "is there already, with other content",
                where=f"{self.store.where}/{key.removesuffix(MANIFEST)}".rstrip("/"),
                cure="Copy to another name, or say overwrite=True.",
            )

    def _holds(self, unit: Unit, manifest: Entry) -> bool:
        """Whether a checkpoint is the unit: its manifest vouches for its files."""
        if manifest.size != len(unit.manifest) or self._read(manifest.key) != unit.manifest:
            return False
        home = self._home(unit)
        sizes = {entry.key: entry.size for entry in self.store.entries(home)}
        return all(sizes.get(home + file.name) == file.size for file in unit.files)

    def _read(self, key: str) -> bytes:
        source = self.store.get(key)
        try:
            return bytes(source.read(0, source.size))
        finally:
            source.close()

    def _is_there(self, entry: Entry, file: File) -> bool:
        if entry.size != file.size:
            return False
        there = Location(self.store, entry.key)
        return is_same(there, file, verify=self._verify, etag=entry.etag)

    def put(self, unit: Unit, missing: list[File], work: Work, copied: Copied) -> None:
        """Copy the files of a unit that are not there.

        Raises:
            ArgumentError: something else is or has appeared there.
            CorruptError: the source is damaged.
            StoreError: the store failed, or the source cannot be read.
        """
        home = self._home(unit)
        if len(missing) == 1 and not unit.manifest:
            self._copy(home, missing[0], {}, None, work, copied)
            return
        notes = _Notes(self.store, self._place_of_notes(home, unit), unit.identity)
        notes.begin(overwrite=self._overwrite)
        try:
            old, rest = self._make_way(home, unit)
            shared = self._shareable(home, unit) if unit.manifest else {}
            data = missing if unit.manifest or unit.folder else missing[:-1]
            work.run([partial(self._copy, home, f, shared, notes, work, copied) for f in data])
            for file in missing[len(data) :]:
                self._copy(home, file, {}, notes, work, copied)
            if unit.manifest:
                self._commit(home, unit, notes, old)
                self.store.remove(rest)
        except _Overtaken as error:
            if not self.missing(unit):  # another copy of the same has finished
                return
            raise StoreError(
                "another copy has taken this place",
                where=f"{self.store.where}/{home}".rstrip("/"),
                cure="Copy again once that is done.",
            ) from error
        except BaseException:
            notes.write()
            raise
        notes.remove()

    def _place_of_notes(self, home: str, unit: Unit) -> str:
        return home + (_COPYING if unit.folder else f".{unit.main}{_COPYING}")

    def _make_way(self, home: str, unit: Unit) -> tuple[Entry | None, set[str]]:
        """Give the manifest that is to be replaced, and what is of no use after that.

        One whose files are in the way of the new ones goes first: it would vouch for others.
        """
        there = self.store.look(home + MANIFEST) if unit.manifest else None
        if there is None or not self._overwrite:
            return None, set()
        new = {home + file.name for file in unit.files}
        old = self._files_of(there)
        if old.isdisjoint(new):
            return there, old
        self.store.remove([there.key])
        return None, old - new

    def _files_of(self, manifest: Entry) -> set[str]:
        home = posixpath.dirname(manifest.key)
        try:
            parsed = parse_manifest(self._read(manifest.key), manifest.key)
        except TensorKeepError:
            return {entry.key for entry in self.store.entries(f"{home}/" if home else "")}
        return {posixpath.join(home, parsed.key(file)) for file in parsed.files}

    def _shareable(self, home: str, unit: Unit) -> dict[Content, str]:
        """Find the files of checkpoints beside this one that it may have in common with them."""
        run, name = posixpath.split(home.rstrip("/"))
        found: dict[Content, str] = {}
        if not name:
            return found
        run = f"{run}/" if run else ""
        names = [folder.rstrip("/") for folder in self.store.folders(run)]
        for other in near(name, unit, names):
            folder = f"{run}{other}"
            try:
                manifest = parse_manifest(self._read(f"{folder}/{MANIFEST}"), folder)
            except TensorKeepError:
                continue
            for file, content in listed(manifest).items():
                if file.endswith(_SUFFIX):
                    found.setdefault(content, f"{folder}/{manifest.key(file)}")
        return found

    def _copy(
        self,
        home: str,
        file: File,
        shared: dict[Content, str],
        notes: _Notes | None,
        work: Work,
        copied: Copied,
    ) -> None:
        key = home + file.name
        try:
            before = notes.is_whole(key, file.size) if notes is not None else None
            if before:
                work.moved(file.size)
                copied.add(key.removeprefix(self._prefix), skipped=file.size)
                return
            if self._share(key, file, shared, notes):
                work.moved(file.size)
                copied.add(key.removeprefix(self._prefix), shared=file.size)
            else:
                self._upload(key, file, notes, work)
                copied.add(key.removeprefix(self._prefix), transferred=file.size)
        finally:
            file.close()
        entry = self.store.look(key)
        if entry is None or entry.size != file.size:
            found = "is gone" if entry is None else f"has {entry.size:,} bytes, not {file.size:,}"
            raise StoreError(
                f"{found} right after it was put: another program writes here",
                where=f"{self.store.where}/{key}",
                cure="Copy again once that is done.",
            )
        if notes is not None:
            notes.add(key, entry)

    def _share(
        self, key: str, file: File, shared: dict[Content, str], notes: _Notes | None
    ) -> bool:
        """Have the store copy a file that it has already; False where it has none."""
        if notes is not None:
            notes.check()
        other = shared.get(file.known) if file.known is not None else None
        if other is not None:
            there = self.store.look(other)
            if (
                there is not None
                and there.size == file.size
                and self.store.copy(self.store, other, key)
            ):
                return True
        source = file.location.store
        return isinstance(source, ObjectStore) and self.store.copy(source, file.location.key, key)

    def _upload(self, key: str, file: File, notes: _Notes | None, work: Work) -> None:
        check_size(file)
        checker = Checker(file.content, file.location.where) if self._verify else None
        writer = self.store.writer()
        try:
            chunks = work.checked(file.location.source, checker, 0)
            writer.put(key, chunks, size=file.size, progress=work.moved)
            check_unchanged(file, verify=self._verify)
            if notes is not None:
                notes.check()
            writer.commit()
        finally:
            writer.rollback()

    def _commit(self, home: str, unit: Unit, notes: _Notes, old: Entry | None) -> None:
        """Put the manifest, once all that it names is there."""
        notes.check()
        there = {entry.key: entry.size for entry in self.store.entries(home)}
        for file in unit.files:
            if there.get(home + file.name) != file.size:
                raise StoreError(
                    "was removed while the checkpoint was copied",
                    where=f"{self.store.where}/{home}{file.name}",
                    cure="Copy it again.",
                )
        key = home + MANIFEST
        if old is not None and self.store.replace(key, unit.manifest, old.etag):
            return
        if not self.store.create(key, unit.manifest) and self._read(key) != unit.manifest:
            raise ArgumentError(
                "another checkpoint of its name has appeared meanwhile",
                where=f"{self.store.where}/{home}".rstrip("/"),
                cure="Copy to another name, or say overwrite=True.",
            )


class _Overtaken(Exception):  # noqa: N818
    """The place is another copy's by now."""


class _Notes:
    """The object that says what is being copied and what of it is whole."""

    def __init__(self, store: ObjectStore, key: str, identity: str) -> None:
        self._store = store
        self._key = key
        self._of = identity
        self._done: dict[str, str] = {}
        self._lock = threading.Lock()
        self._written = time.monotonic()

    def begin(self, *, overwrite: bool) -> None:
        """Take the target, or go on where a copy of the same content has ended.

        Raises:
            ArgumentError: other content is being copied there.
        """
        if self._store.create(self._key, self._dump()):
            return
        of, done = self._load()
        if of == self._of:
            self._done = done
        elif of and not overwrite:
            raise ArgumentError(
                "something else is being copied there, or was and has not ended",
                where=f"{self._store.where}/{posixpath.dirname(self._key)}".rstrip("/"),
                cure="Let that end, copy to another name, or say overwrite=True.",
            )
        else:
            self._store.replace(self._key, self._dump())

    def _load(self) -> tuple[str, dict[str, str]]:
        try:
            source = self._store.get(self._key)
            document = json.loads(bytes(source.read(0, source.size)))
            source.close()
            done = {str(key): str(etag) for key, etag in document["done"].items()}
            return str(document["of"]), done
        except (MissingError, ValueError, LookupError, TypeError, AttributeError):
            return "", {}

    def _dump(self) -> bytes:
        return json.dumps({"of": self._of, "done": self._done}).encode()

    def is_whole(self, key: str, size: int) -> bool:
        """Whether an object is what an earlier copy has put."""
        etag = self._done.get(key)
        entry = self._store.look(key) if etag else None
        return entry is not None and entry.etag == etag and entry.size == size

    def add(self, key: str, entry: Entry) -> None:
        """Note an object that is whole."""
        with self._lock:
            self._done[key] = entry.etag
            if entry.size < _LARGE and time.monotonic() - self._written < OFTEN:
                return
            self._written = time.monotonic()
            self._store.replace(self._key, self._dump())

    def write(self) -> None:
        """Note all that is whole, for the copy that goes on."""
        with self._lock:
            try:
                if self._load()[0] == self._of:
                    self._store.replace(self._key, self._dump())
            except TensorKeepError:
                return  # the store may be what failed; objects are then put again

    def check(self) -> None:
        """Make sure that the place is still this copy's, before something there is changed.

        Raises:
            _Overtaken: another copy has taken it, or has finished.
        """
        if self._load()[0] != self._of:
            raise _Overtaken

    def remove(self) -> None:
        """Remove it: the copy is whole."""
        self._store.remove([self._key])
