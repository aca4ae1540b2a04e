"""Where the index of a checkpoint is: a file, a prefix, a folder of checkpoints, a SavedModel."""

from __future__ import annotations

import posixpath

from tensorkeep.database import Database
from tensorkeep.errors import CorruptError, MissingError, UnsafeError, UnsupportedError
from tensorkeep.formats.tensorflow.protos import PROTOS
from tensorkeep.message import Message
from tensorkeep.store import Location
from tensorkeep.wire.sstable import is_table

INDEX = ".index"
LATEST = "checkpoint"
GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
_VARIABLES = "variables/variables.index"
_POINTER = b"model_checkpoint_path:"
_MAX_POINTER = 16 << 20  # bytes: it may list every checkpoint of a long training
_HEADER = b"\0\0"  # the first entry: an empty key, which shares nothing with one before it


def accepts(location: Location) -> bool:
    """An index, or a folder with a SavedModel or the pointer to the latest checkpoint."""
    if not location.key:
        known = not isinstance(location.store, Database)
        return known and (is_saved_model(location) or _is_pointer(location))
    named = location.name.endswith(INDEX)
    return (named or location.head.startswith(_HEADER)) and is_table(location.source)


def instead(location: Location) -> Location | None:
    """Give the index of the prefix that a name is."""
    index = location.beside(location.name + INDEX)
    try:
        return index if _holds(index, index.key) else None
    except MissingError:  # there is no such folder
        return None


def is_saved_model(location: Location) -> bool:
    """Say whether a location is the folder of a SavedModel."""
    return not location.key and any(_holds(location, name) for name in GRAPHS)


def find_index(location: Location) -> Location:
    """Give the index that a location means.

    Raises:
        UnsupportedError: a SavedModel without variables.
        MissingError: the checkpoint that a folder points to is not in it.
        UnsafeError: it is said to be elsewhere.
    """
    if location.key:
        return location
    if is_saved_model(location):
        if not _holds(location, _VARIABLES):
            raise UnsupportedError(
                "is a SavedModel without variables: what it computes is in its graph",
                where=location.where,
                cure="Only variables are read here; load it with TensorFlow.",
            )
        return Location(location.store, _VARIABLES)
    return _latest(location)


def _latest(location: Location) -> Location:
    pointer = Location(location.store, LATEST)
    try:
        source = pointer.source
        if source.size > _MAX_POINTER:
            raise UnsafeError(
                f"a pointer of {source.size:,} bytes is over the limit", where=pointer.where
            )
        text = bytes(source.read(0, source.size))
    finally:
        pointer.close()
    path = Message.from_text(PROTOS["CheckpointState"], text, pointer.where).model_checkpoint_path
    if not path:
        raise CorruptError("points to no checkpoint", where=pointer.where)
    if path.startswith("/"):  # where it was written; the folder may have been moved since
        moved = Location(location.store, posixpath.basename(path) + INDEX)
        if not _holds(moved, moved.key):
            raise UnsafeError(
                f"points to {path[:200]!r}, outside its own folder",
                where=pointer.where,
                cure="Open that path itself.",
            )
        return moved
    index = pointer.sibling(path + INDEX)
    if not _holds(index, index.key):
        raise MissingError(
            f"points to the checkpoint {path[:200]!r}, which is not there", where=pointer.where
        )
    return index


def _is_pointer(location: Location) -> bool:
    if not _holds(location, LATEST):
        return False
    pointer = Location(location.store, LATEST)
    try:
        return any(line.lstrip().startswith(_POINTER) for line in pointer.head.splitlines()[:20])
    finally:
        pointer.close()


def _holds(location: Location, key: str) -> bool:
    """Say whether a store has a key, without a look at those that do not start with it."""
    return any(found == key for found in location.store.keys(key))
