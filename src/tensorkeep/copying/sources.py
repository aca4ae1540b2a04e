"""What is to be copied: the files of each unit, which appears at the target as a whole."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import xxhash

from tensorkeep import formats
from tensorkeep.copying.content import Content, listed, name_in, own
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    TensorKeepError,
    UnknownFormatError,
)
from tensorkeep.formats.onnx.files import files_named
from tensorkeep.formats.safetensors.manifest import MANIFEST, Manifest, parse_manifest
from tensorkeep.store import Location, Store
from tensorkeep.stores import Target, locate
from tensorkeep.stores.file import FileStore
from tensorkeep.stores.object import ObjectStore
from tensorkeep.wire.shard_index import check_files, read_index

INDEX = ".index.json"
_STEP = re.compile(r"step-[0-9]{8,18}")
_SHORT = re.compile(r"step-([0-9]{1,7})")
_TENSORFLOW = re.compile(r"\.data-[0-9]{5}-of-[0-9]{5}")
_URL = re.compile(r"[a-z][a-z0-9+]+://")


@dataclass(frozen=True)
class File:
    """A file to copy.

    Args:
        name: its path below the target's folder.
        location: where it is.
        size: its bytes.
        version: what tells it from another one of that name, without its bytes being read.
        etag: what its store calls this version; "" on a disk.
        known: what a manifest says of its bytes.
    """

    name: str
    location: Location
    size: int
    version: str
    etag: str = ""
    known: Content | None = None

    @cached_property
    def content(self) -> Content:
        """What its bytes have to be, as far as that is told by a manifest, itself or its store."""
        return self.known or own(self.location, self.etag)

    def close(self) -> None:
        """Close it if it was opened."""
        self.location.close()


@dataclass(frozen=True)
class Unit:
    """Files that appear together.

    Args:
        name: of the folder below the target that they get; "" where that is the target itself.
        where: names it in messages.
        files: all but the manifest; of a model's files the one that names the others comes last.
        manifest: the bytes of a checkpoint's manifest.
        folder: whether they make up a folder, rather than being put into one.
        parsed: the manifest.
        source: of a checkpoint, its folder.
    """

    name: str
    where: str
    files: list[File]
    manifest: bytes = b""
    folder: bool = True
    parsed: Manifest | None = None
    source: Location | None = field(default=None, repr=False)

    @cached_property
    def identity(self) -> str:
        """What tells this content from another, in 32 hex digits: a checkpoint's is everywhere."""
        if self.manifest:
            return xxhash.xxh3_128_hexdigest(self.manifest)
        rows = (f"{file.name}\0{file.location.where}\0{file.version}" for file in self.files)
        return xxhash.xxh3_128_hexdigest("\n".join(rows).encode(errors="surrogatepass"))

    @property
    def parent(self) -> str | None:
        """The checkpoint whose files this one may share."""
        return self.parsed.parent if self.parsed is not None else None

    def placed(self, data: str) -> Unit:
        """Give this checkpoint with its files in a folder beside the manifest, which names it."""
        assert self.parsed is not None
        manifest = replace(self.parsed, data=data)
        names = map(manifest.key, manifest.files)
        files = [replace(file, name=name) for file, name in zip(self.files, names, strict=True)]
        return replace(self, files=files, manifest=manifest.dump(), parsed=manifest)

    def as_in(self, manifest: bytes) -> Unit | None:
        """Give this checkpoint as a manifest of it places its files; None if it is another's."""
        if manifest == self.manifest:
            return self
        with contextlib.suppress(TensorKeepError):
            there = self.placed(parse_manifest(manifest, self.where).data)
            if there.manifest == manifest:
                return there
        return None

    @property
    def size(self) -> int:
        """The bytes of all files, the manifest left out."""
        return sum(file.size for file in self.files)

    @property
    def main(self) -> str:
        """The name of the file that names the others."""
        return self.files[-1].name

    def vanished(self) -> bool:
        """Whether this was a checkpoint that is gone by now, or is another one."""
        try:
            return self.source is not None and _manifest(self.source) != self.manifest
        except MissingError:
            return True


@dataclass(frozen=True)
class Found:
    """What a source is: its units, and the name that it would have in another folder.

    Args:
        name: the last part of its path.
        kind: "file", "checkpoint", "run" or "folder".
        steps: the names of a run's checkpoints, oldest first.
        location: the source.
    """

    name: str
    kind: str
    location: Location
    steps: tuple[str, ...] = ()

    def units(self) -> Iterator[Unit | str]:
        """Give the units, or the name of a checkpoint that was there and is gone."""
        if self.kind == "file":
            yield _model(self.location)
        elif self.kind == "folder":
            yield _folder(self.location)
        elif self.kind == "checkpoint":
            yield _checkpoint(self.location, "")
        for step in self.steps:
            try:
                yield _checkpoint(below(self.location, step), step)
            except MissingError:
                yield step


def place(target: Target) -> Location:
    """Find what a path or URL means as files; a database is the files that it is in.

    Raises:
        ArgumentError: it is in a store that has no files.
    """
    if not isinstance(target, Location | Store):
        try:
            path = os.fsdecode(os.fspath(target))
        except TypeError:
            return locate(target)  # which says what is needed
        if not path or "\0" in path or _URL.match(path):
            location = locate(target)
        elif os.path.isdir(path) or os.path.isdir(_with_zeros(path)):
            location = Location(FileStore(path if os.path.isdir(path) else _with_zeros(path)))
        else:
            folder, name = os.path.split(path.rstrip("/"))
            location = Location(FileStore(folder or ".", named=name), name)
    else:
        location = locate(target)
    if not isinstance(location.store, FileStore | ObjectStore):
        raise ArgumentError(
            "files are copied between disks and object stores, and this is neither",
            where=location.where,
            cure="Save or convert to it instead.",
        )
    return location


def _with_zeros(path: str) -> str:
    """Give the folder of a checkpoint whose step lacks the leading zeros."""
    folder, name = os.path.split(path.rstrip("/"))
    match = _SHORT.fullmatch(name)
    return os.path.join(folder, f"step-{int(match[1]):08}") if match else path


def below(folder: Location, name: str) -> Location:
    """Give a folder in a folder, as a store of its own."""
    if isinstance(folder.store, ObjectStore):
        return Location(folder.store.below(name))
    return Location(FileStore(os.path.join(path_of(folder), name)))


def find(source: Target) -> Found:
    """Find out what a source is.

    Raises:
        MissingError: there is nothing there.
    """
    location = place(source)
    on_disk = isinstance(location.store, FileStore)
    where = os.path.abspath(path_of(location)) if on_disk else location.where.rstrip("/")
    name = posixpath.basename(where) or "copy"
    if location.key:
        name = posixpath.basename(location.key)
        location = formats.find(location)
    if location.key:
        return Found(name, "file", location)
    try:
        _manifest(location)
    except MissingError:
        pass
    else:
        return Found(name, "checkpoint", location)
    steps = _steps(location)
    if steps:
        return Found(name, "run", location, tuple(steps))
    if _STEP.fullmatch(name):
        raise MissingError(
            f"there is no {MANIFEST}",
            where=location.where,
            cure="It is no checkpoint, or one whose saving never finished.",
        )
    return Found(name, "folder", location)


def _steps(location: Location) -> list[str]:
    """Name the checkpoints of a run that were committed, oldest first; none where it is no run.

    On an object store those that were not are told by reading, since it takes a request either way.

    Raises:
        MissingError: it is a run, and none was.
    """
    store = location.store
    if isinstance(store, ObjectStore):
        names = store.folders("")
    else:
        names = os.listdir(path_of(location)) if os.path.isdir(path_of(location)) else []
    steps = [name.rstrip("/") for name in names if _STEP.fullmatch(name.rstrip("/"))]
    if steps and not isinstance(store, ObjectStore):
        steps = [s for s in steps if os.path.isfile(os.path.join(path_of(location), s, MANIFEST))]
        if not steps:
            raise MissingError("holds no checkpoint that was finished", where=location.where)
    return sorted(steps, key=lambda name: (int(name[5:]), name))


def path_of(location: Location) -> str:
    """Give the path of what is on a disk."""
    assert isinstance(location.store, FileStore)
    return os.path.join(location.store.where, location.key)


def _manifest(folder: Location) -> bytes:
    location = Location(folder.store, MANIFEST)
    try:
        return bytes(location.source.read(0, location.source.size))
    finally:
        location.close()


def _checkpoint(folder: Location, name: str) -> Unit:
    data = _manifest(folder)
    manifest = parse_manifest(data, posixpath.join(folder.where, MANIFEST))
    contents = listed(manifest)
    files = [
        File(key, Location(folder.store, key), row.size, row.digest, "", contents[file])
        for file, row in manifest.files.items()
        for key in [manifest.key(file)]
    ]
    return Unit(name, folder.where, files, data, parsed=manifest, source=folder)


def _folder(folder: Location) -> Unit:
    """Take the files of a folder that are not hidden; those that name others come last."""
    store = folder.store
    files = (
        [_object(Location(store, e.key), e.key, e.size, e.etag) for e in store.entries()]
        if isinstance(store, ObjectStore)
        else [_file(Location(store, key), key) for key in store.keys() if not _is_hidden(key)]
    )
    files = [file for file in files if not _is_hidden(file.name)]
    if not files:
        raise MissingError("holds no files", where=folder.where)
    files.sort(key=lambda file: (file.name.endswith((".json", ".index", ".onnx")), file.name))
    return Unit("", folder.where, files)


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


def _file(location: Location, name: str) -> File:
    if isinstance(location.store, ObjectStore):
        source = location.source
        return _object(location, name, source.size, getattr(source, "etag", ""))
    info = os.stat(path_of(location))
    version = f"{info.st_size} {info.st_mtime_ns} {info.st_dev} {info.st_ino}"
    return File(name, location, info.st_size, version)


def _object(location: Location, name: str, size: int, etag: str) -> File:
    return File(name, location, size, f"{size} {etag}", etag)


def _model(location: Location) -> Unit:
    """Take a file, and before it the files beside it that it names."""
    home = posixpath.dirname(location.key)
    try:
        beside = [_beside(location, name) for name in _named(location)]
    finally:
        location.close()
    rows = [*dict.fromkeys(each.key for each in beside if each.key != location.key), location.key]
    files = [_file(Location(location.store, key), name_in(home, key)) for key in rows]
    return Unit("", location.where, files, folder=False)


def _beside(location: Location, name: str) -> Location:
    beside = location.sibling(name.removeprefix("./"))
    if not location.name.endswith(".index") and not location.name.endswith(INDEX):
        beside.store.get_own(beside.key).close()  # as it is opened: a model chooses no link
    return beside


def _named(location: Location) -> list[str]:
    """List the files beside a file that its format says belong to it."""
    if location.name.endswith(INDEX):
        weight_map = read_index(location)[1]["weight_map"]
        check_files(weight_map, (".safetensors", ".bin"), "weights", location.where)
        return list(dict.fromkeys(weight_map.values()))
    if location.suffix == ".index":
        stem = location.name.removesuffix(".index")
        home = posixpath.dirname(location.key)
        keys = location.store.keys(f"{home}/{stem}.data-" if home else f"{stem}.data-")
        names = [name_in(home, key) for key in keys]
        return [name for name in names if _TENSORFLOW.fullmatch(name.removeprefix(stem))]
    if location.suffix not in (".onnx", ".pb", ".onnxtxt", ".pbtxt", ".json", ".textproto"):
        return []
    try:
        format = formats.detect(location)
    except (UnknownFormatError, CorruptError):
        return []
    if not format.name.startswith("onnx"):
        return []
    with format.decode(location) as state:
        return files_named(state.graph.model) if state.graph is not None else []
