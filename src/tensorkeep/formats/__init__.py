"""File formats: one file or folder per format, one row in the table."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterator

from tensorkeep.database import Database
from tensorkeep.errors import (
    ArgumentError,
    CorruptError,
    MissingError,
    UnknownFormatError,
    UnsupportedError,
)
from tensorkeep.format import Format
from tensorkeep.formats.table import FORMATS, WHOLE_STORES, WRITTEN, endings
from tensorkeep.store import Location
from tensorkeep.stores.object import ObjectStore
from tensorkeep.wire.models import name_model

_CHECKPOINT = re.compile(r"(step-[0-9]{8,18})/MANIFEST\.json")


def by_name(name: str) -> Format:
    """Find a format by its name.

    Raises:
        ArgumentError: there is none.
    """
    if str(name) not in FORMATS:
        raise ArgumentError(f"no format is called {name!r}", cure=f"There are {_listed()}.")
    return FORMATS[name]


def for_writing(location: Location) -> Format:
    """Find the format that a file name's ending means, or the one for whole databases.

    Raises:
        ArgumentError: the ending means none.
    """
    if not location.key:
        if isinstance(location.store, Database):
            return FORMATS[WHOLE_STORES]
        folder = _by_suffix(Location(location.store, posixpath.basename(location.store.where)))
        if folder is not None and folder.folder:
            return folder
        raise ArgumentError(
            "is a folder", where=location.where, cure="Give the name of a file in it."
        )
    found = _by_suffix(location)
    if found is None:
        known = ", ".join(format.suffixes[0] for format in WRITTEN.values())
        raise ArgumentError(
            "the name's ending does not tell the format to write",
            where=location.where,
            cure=f"Use one of {known}, or say format=....",
        )
    return found


def detect(location: Location) -> Format:
    """Find the one format that accepts a location, by its bytes first and its name second.

    The one that the name's ending means is asked first, since no two accept the same bytes.

    Raises:
        UnknownFormatError: no format accepts it.
    """
    named = _by_suffix(location)
    if named is not None and named.accepts(location):
        return named
    accepting = [format for format in FORMATS.values() if format.accepts(location)]
    if len(accepting) == 1:
        return accepting[0]
    if accepting:
        names = " and ".join(format.name for format in accepting)
        raise UnknownFormatError(
            f"could be {names}", where=location.where, cure="Say which with format=...."
        )
    if not location.key:
        if found := _checkpoints(location):
            newest = posixpath.join(location.where, found[-1])
            many = f"a folder of {len(found):,} checkpoints; the newest is {found[-1]}"
            raise UnknownFormatError(
                f"is {many if len(found) > 1 else f'a folder of one checkpoint, {found[0]}'}",
                where=location.where,
                cure=f"Open {newest}, or look at all of them with "
                f"`tensorkeep checkpoints {shlex.quote(location.where)}`.",
            )
        if location.store.in_order and not any(True for _ in location.store.keys()):
            raise MissingError("there are no objects below it", where=location.where)
        raise UnknownFormatError(
            "the folder holds no state that can be told from its files",
            where=location.where,
            cure="Give the file itself.",
        )
    if problem := _foreign(location):
        raise problem
    if named is not None:  # its decoder says what is wrong with the bytes
        return named
    if location.suffix == ".pb":
        raise UnknownFormatError(
            "is none of the protobuf messages known here, or is damaged",
            where=location.where,
            cure="Many kinds of files end in .pb; read are tensorkeep's own, in .tensors.pb, "
            "and Caffe2's nets, blobs and tensors.",
        )
    raise UnknownFormatError(
        f"is none of the formats known ({_listed()}); it starts with {location.head[:16]!r}",
        where=location.where,
    )


def _checkpoints(location: Location) -> list[str]:
    """List the folders of checkpoints in a folder, in the order of their steps."""
    keys = map(_CHECKPOINT.fullmatch, _manifests(location))
    return sorted((match[1] for match in keys if match), key=lambda name: (len(name), name))


def _manifests(location: Location) -> Iterator[str]:
    """Give the keys below which there may be checkpoints; of a bucket, by few requests."""
    store = location.store
    if not isinstance(store, ObjectStore):
        return store.keys("step-")
    if not store.lists:
        return iter(())
    return (f"{name}/MANIFEST.json" for name in store.folders() if name.startswith("step-"))


def find(location: Location) -> Location:
    """Give the location itself, or the one that a format keeps instead of it.

    Raises:
        MissingError: there is neither.
    """
    if not location.key:
        if isinstance(location.store, Database) and not location.store.exists:
            raise MissingError(
                "there is no such database", where=location.where, cure="Look at its path again."
            )
        return location
    try:
        _ = location.source
    except (MissingError, UnsupportedError):  # the second where the name is that of a folder
        others = (format.instead(location) for format in FORMATS.values())
        other = next((other for other in others if other is not None), None)
        if other is not None:
            return other
        folder = location.store.inside(location.key)
        if folder is None:
            raise
        return Location(folder)
    return location


def _by_suffix(location: Location) -> Format | None:
    name = location.name.lower()
    fitting = [
        (len(suffix), format)
        for suffix, format in endings()
        if name.endswith(suffix) or _is_whole(name, suffix)
    ]
    return FORMATS[max(fitting)[1]] if fitting else None


def _is_whole(name: str, suffix: str) -> bool:
    """Tell init_net.pb and model_init_net.pb, of which the ending is nearly the whole name.

    >>> _is_whole("a_init_net.pb", ".init_net.pb"), _is_whole("keras.h5", ".keras.h5")
    (True, False)
    """
    if not suffix.endswith((".pb", ".pbtxt")):
        return False
    return name == suffix[1:] or name.endswith(f"_{suffix[1:]}")


def _listed() -> str:
    return ", ".join(FORMATS)


def _foreign(location: Location) -> Exception | None:
    """Recognise what people open by mistake, and say what it is."""
    head, where = location.head, location.where
    if not head:
        return CorruptError("is empty", where=where, cure="The download or save did not finish.")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return CorruptError(
            "is a Git LFS pointer, not the file it stands for",
            where=where,
            cure="Run `git lfs pull` in its repository.",
        )
    if head.lstrip()[:9].lower() in (b"<!doctype", b"<html", b"<html>") or head[:5] == b"<html":
        return CorruptError(
            "is a web page, not a model",
            where=where,
            cure="The download needs another address or a login.",
        )
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            return UnsupportedError(f"is {name}, which is not read here", where=where)
    if name := name_model(head, location.source.size):
        return UnsupportedError(f"is {name}, which is not read here yet", where=where)
    return None


_OTHERS = {
    b"\x1f\x8b": "gzip-compressed; unpack it first",
    b"BZh": "bzip2-compressed; unpack it first",
    b"\xfd7zXZ": "xz-compressed; unpack it first",
    b"\x28\xb5\x2f\xfd": "zstd-compressed; unpack it first",
}

__all__ = ["FORMATS", "WRITTEN", "by_name", "detect", "find", "for_writing"]
