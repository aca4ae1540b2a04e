"""zarr: a folder of groups and arrays, each array a grid of chunks; versions 2 and 3 of the format.

    model.zarr/zarr.json              the group: attributes, and the metadata of all nodes again
    model.zarr/layer/zarr.json        a group in it
    model.zarr/layer/w/zarr.json      an array: shape, type, chunks, codecs, fill value
    model.zarr/layer/w/c/0/0          its first chunk

Groups are dicts. An array is read by its chunks: a slice reads, and unpacks, those that it
overlaps. One chunk as it is, which is what we write, is a window on its file. Files are opened when
they are read, so that an open state is only good while nobody replaces the folder.

A zip archive of such files (zarr-python's ZipStore) is read as well.

The attributes of the root group are the metadata. What zarr has no place for is noted there under
`tensorkeep`, with the digests, which other readers take for one more attribute. Facts from the Zarr
specifications 2 and 3 and from zarr-python 3.1.
"""

from __future__ import annotations

import itertools
import posixpath

from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import CorruptError, MissingError
from tensorkeep.format import Format
from tensorkeep.formats.zarr.hierarchy import ROOTS
from tensorkeep.formats.zarr.reading import decode_root
from tensorkeep.formats.zarr.writing import encode
from tensorkeep.formats.zarr.zipped import ZipFolder, root_in_zip
from tensorkeep.state import State
from tensorkeep.store import Location

_ENDING = ".zarr"
_LOOK = 1000  # files that are looked at for the one store in a folder


def accepts(location: Location) -> bool:
    """A folder or zip archive with metadata of zarr's in it, or a folder with one .zarr."""
    return (bool(location.key) and root_in_zip(location) != "") or _root(location) is not None


def _root(location: Location) -> Location | None:
    """Find a file in the root folder of a store; None where there is no store."""
    if location.key:
        return location if location.name in ROOTS and location.head.lstrip()[:1] == b"{" else None
    for name in ROOTS:
        if any(key == name for key in location.store.keys(name)):
            return Location(location.store, name)
    found = {
        posixpath.dirname(key): key
        for key in itertools.islice(location.store.keys(), _LOOK)
        if key.count("/") == 1 and posixpath.basename(key) in ROOTS
    }
    if len(found) == 1 and next(iter(found)).endswith(_ENDING):
        return Location(location.store, next(iter(found.values())))
    return None


def decode(location: Location) -> State:
    """Read the metadata of all arrays; their chunks only if they are strings."""
    if location.key and (name := root_in_zip(location)):
        return decode_root(Location(ZipFolder(location), name), location.close)
    root = _root(location)
    if root is None:
        if location.key:
            raise CorruptError("is no metadata of zarr's", where=location.where)
        raise MissingError("holds no zarr store", where=location.where)
    return decode_root(root)


def instead(location: Location) -> Location | None:
    """Give the metadata in the folder that a key stands for."""
    for name in ROOTS:
        key = f"{location.key}/{name}"
        if any(found == key for found in location.store.keys(key)):
            return Location(location.store, key)
    return None


FORMAT = Format(
    name="zarr",
    suffixes=(_ENDING,),
    accepts=accepts,
    decode=decode,
    encode=encode,
    instead=instead,
    compares_digests=True,
    folder=True,
    holds=frozenset(DTYPES.values()),
    extra="zarr",
    checked_by="XXH3-128; CRC-32C",
    packed="gzip, zstd, blosc, lz4, …",
    sharded="chunks, shards",
    safe_by="chunk names are numbers",
)

__all__ = ["FORMAT"]
