"""A target on an object store: data first, and last what makes them count.

    step-00001200/.tensorkeep.copying    while a copy is under way: what of, and what is whole

    {"of": HEX, "checked": true, "done": {KEY: ETAG}}

What it lists was checked when it was put (or not, if "checked" says so), and still is that if it
has the etag. A copy of other content than this finds it and leaves it alone.

A checkpoint that replaces another one whose files have the same names gets its own in a folder
beside the manifest, which then names that folder: the old one counts until the manifest changes.
"""

from __future__ import annotations

import contextlib
import json
import posixpath
import threading
import time
from functools import partial

from tensorkeep.copying.comparing import is_same
from tensorkeep.copying.content import Checker, Content
from tensorkeep.copying.filling import check_size, check_unchanged
from tensorkeep.copying.neighbours import shareable
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
        self._sound: dict[Content, Location] = {}  # objects that were put by this copy

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
        there = unit.as_in(self._read(manifest.key))
        if there is None:
            return False
        home = self._home(unit)
        sizes = {entry.key: entry.size for entry in self.store.entries(home)}
        return all(sizes.get(home + file.name) == file.size for file in there.files)

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
        place = self._place_of_notes(home, unit)
        notes = _Notes(self.store, place, unit.identity, checked=self._verify)
        notes.begin(overwrite=self._overwrite)
        shared: dict[Content, Location] = {}
        try:
            old, rest = None, set[str]()
            if unit.manifest:
                unit, old, rest = self._beside_old(home, unit)
                missing = unit.files
                shared = self._shareable(home, unit)
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

    def _beside_old(self, home: str, unit: Unit) -> tuple[Unit, Entry | None, set[str]]:
        """Place a checkpoint beside the one that it replaces.

        Returns:
            The checkpoint, the other's manifest, and what nothing needs once that is replaced.
        """
        there = self.store.look(home + MANIFEST)
        if there is None or not self._overwrite:
            return unit, None, set()
        first, second = unit.identity[:8], unit.identity[8:16]
        try:
            old = parse_manifest(self._read(there.key), there.key)
        except TensorKeepError:
            return unit.placed(first), there, set()
        files = {old.key(file) for file in old.files}
        places = (unit, unit.placed(first), unit.placed(second))
        free = next(u for u in places if files.isdisjoint(file.name for file in u.files))
        return free, there, {home + file for file in files}

    def _shareable(self, home: str, unit: Unit) -> dict[Content, Location]:
        run, name = posixpath.split(home.rstrip("/"))
        if not name:
            return {}
        run = f"{run}/" if run else ""
        names = [folder.rstrip("/") for folder in self.store.folders(run)]
        return shareable(name, unit.parent, names, lambda n: Location(self.store.below(run + n)))

    def _copy(
        self,
        home: str,
        file: File,
        shared: dict[Content, Location],
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
            notes.add(entry)
        if file.known is not None:
            self._sound[file.known] = Location(self.store, key)

    def _share(
        self, key: str, file: File, shared: dict[Content, Location], notes: _Notes | None
    ) -> bool:
        """Have the store copy a file that it has already; False where it has none."""
        if notes is not None:
            notes.check()
        if self._copy_inside(file.location, key):
            return True
        if file.known is None:
            return False
        sound = self._sound.get(file.known)
        other = sound or shared.get(file.known)
        if other is None or not (sound or is_same(other, file, verify=self._verify)):
            return False
        with contextlib.suppress(MissingError):  # it was removed meanwhile
            return self._copy_inside(other, key)
        return False

    def _copy_inside(self, source: Location, key: str) -> bool:
        store = source.store
        return isinstance(store, ObjectStore) and self.store.copy(store, source.key, key)

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
        there = {entry.key: entry for entry in self.store.entries(home)}
        for file in unit.files:
            entry = there.get(home + file.name)
            if entry is None or not (notes.has(entry) or self._is_there(entry, file)):
                raise StoreError(
                    "was removed or replaced while the checkpoint was copied",
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

    def __init__(self, store: ObjectStore, key: str, identity: str, *, checked: bool) -> None:
        self._store = store
        self._key = key
        self._of = identity
        self._checked = checked
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
        of, checked, done = self._load()
        if of == self._of and (checked or not self._checked):
            self._checked, self._done = checked, done
        elif of not in ("", self._of) and not overwrite:
            raise ArgumentError(
                "something else is being copied there, or was and has not ended",
                where=f"{self._store.where}/{posixpath.dirname(self._key)}".rstrip("/"),
                cure="Let that end, copy to another name, or say overwrite=True.",
            )
        else:
            self._store.replace(self._key, self._dump())

    def _load(self) -> tuple[str, bool, dict[str, str]]:
        try:
            source = self._store.get(self._key)
            document = json.loads(bytes(source.read(0, source.size)))
            source.close()
            done = {str(key): str(etag) for key, etag in document["done"].items()}
            return str(document["of"]), document["checked"] is True, done
        except (MissingError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return "", False, {}

    def _dump(self) -> bytes:
        document = {"of": self._of, "checked": self._checked, "done": self._done}
        return json.dumps(document).encode()

    def is_whole(self, key: str, size: int) -> bool:
        """Whether an object is what an earlier copy has put."""
        etag = self._done.get(key)
        entry = self._store.look(key) if etag else None
        return entry is not None and entry.etag == etag and entry.size == size

    def has(self, entry: Entry) -> bool:
        """Whether an object is still what this copy or an earlier one has put."""
        return bool(entry.etag) and self._done.get(entry.key) == entry.etag

    def add(self, entry: Entry) -> None:
        """Note an object that is whole.

        Raises:
            _Overtaken: the place is another copy's by now.
        """
        with self._lock:
            self._done[entry.key] = entry.etag
            if entry.size < _LARGE and time.monotonic() - self._written < OFTEN:
                return
            self._written = time.monotonic()
            self.check()
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
