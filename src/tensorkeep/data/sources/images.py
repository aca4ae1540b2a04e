"""Folders of pictures: one folder for each class, or pictures alone.

    train/cat/1.jpg   train/dog/7.png   ->  {"image": uint8 (height, width, 3), "label": 0 or 1}
    photos/1.jpg      photos/2.jpg      ->  {"image": ..., "name": "1.jpg"}

The classes are the folders directly below, those without pictures too, in the order of their names;
pictures may lie at any depth below them. Pictures come class by class in the order of their names,
those in deeper folders last, and numbers in names count as numbers: 2.jpg before 10.jpg. Hidden
files, and files that are no pictures by their ending, are passed over. `tensorkeep.data.pictures`
says what is decoded.

A link is followed where it leads to a file inside the folder, and refused otherwise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from typing import NoReturn

import numpy as np
import xxhash

from tensorkeep.data import fingerprint
from tensorkeep.data.dataset import Batch, Dataset, Field, Rows, Sample
from tensorkeep.data.pictures import ENDINGS, decode_picture, refuse_large
from tensorkeep.data.sources.chosen import no_field
from tensorkeep.errors import ArgumentError, MissingError, StoreError, UnsafeError, UnsupportedError
from tensorkeep.source import FileSource

_ENDINGS = tuple(f".{ending}" for ending in ENDINGS)
_DEEPEST = 64  # folders inside one another
_SIZED = 1024  # files whose sizes are part of the digest
_LOOKED_AT = 64  # files whose bytes are
_PIECE = 64 << 10  # bytes of each
_DIGITS = re.compile(r"([0-9]+)")
_IMAGE, _LABEL, _NAME = "image", "label", "name"


def recognises(path: str | os.PathLike[str]) -> bool:
    """Say whether a path is a folder with pictures in it, or in the folders directly below.

    >>> recognises("no-such-folder")
    False
    """
    try:
        if not os.path.isdir(path):
            return False
        below = []
        with os.scandir(path) as entries:
            for entry in entries:
                if _is_picture(entry.name):
                    return True
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
        return any(_holds_picture(folder) for folder in below)
    except (OSError, ValueError):
        return False


def open_images(path: str | os.PathLike[str], fields: Sequence[str] | None = None) -> ImagesDataset:
    """Open a folder of pictures; only these of its fields, where they are named.

    Raises:
        MissingError: there is no such folder or field, or no picture in it.
        UnsafeError: a link in it leads out of it.
        UnsupportedError: pictures lie beside class folders.
    """
    return ImagesDataset(path, fields)


class ImagesDataset(Dataset):
    """The pictures of a folder.

    `classes` has the names of the classes in the order of their labels; it is empty where there are
    none.

    Args:
        folder: where they are.
        fields: which to read; all where None.
    """

    def __init__(self, folder: str | os.PathLike[str], fields: Sequence[str] | None = None) -> None:
        self._folder = os.path.abspath(os.fspath(folder))
        self.classes, self._paths, labels = _find_pictures(self._folder)
        self._labels = np.array(labels, np.int64)
        known = {_IMAGE: Field("uint8")}
        if self.classes:
            known[_LABEL] = Field("int64", ())
        else:
            known[_NAME] = Field("string", ())
        chosen = _chosen(known, fields, self._folder)
        self._fields_asked = None if fields is None else tuple(fields)
        super().__init__(len(self._paths), chosen, where=self._folder, kind="images")

    def __reduce__(self) -> tuple[object, ...]:
        return open_images, (self._folder, self._fields_asked)

    def samples(self, rows: Rows) -> list[Sample]:
        return [self._sample(row) for row in rows.tolist()]

    def _sample(self, row: int) -> Sample:
        sample: Sample = {}
        for field in self.fields:
            if field == _IMAGE:
                sample[field] = decode_picture(self._read(row), f"{self.where}: {self.name(row)}")
            elif field == _LABEL:
                sample[field] = self._labels[row]
            else:
                sample[field] = self._paths[row]
        return sample

    def gather(self, rows: Rows) -> Batch:
        if list(self.fields) == [_LABEL]:
            return {_LABEL: self._labels[rows]}
        return super().gather(rows)

    def name(self, row: int) -> str:
        return f"sample {row} ({self._paths[row]!r})"

    def _read(self, row: int) -> memoryview:
        source = FileSource(os.path.join(self._folder, self._paths[row]), mapping=False)
        try:
            refuse_large(source.size, source.where)
            return source.read(0, source.size)
        finally:
            source.close()

    def _digest(self) -> str:
        paths = "\0".join(self._paths).encode("utf-8", "surrogateescape")
        parts: list[str | bytes | int] = ["images", len(self), xxhash.xxh3_128_digest(paths)]
        parts += [*self.fields, *self.classes]
        for row in _spread(len(self), _SIZED):
            parts.append(self._size(row))
        for row in _spread(len(self), _LOOKED_AT):
            source = FileSource(os.path.join(self._folder, self._paths[row]), mapping=False)
            try:
                parts.append(xxhash.xxh3_128_digest(source.read(0, min(source.size, _PIECE))))
            finally:
                source.close()
        return fingerprint.combine(*parts)

    def _size(self, row: int) -> int:
        path = os.path.join(self._folder, self._paths[row])
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            raise MissingError("there is no such file any more", where=path) from None
        except OSError as error:
            raise StoreError(f"cannot be looked at: {error.strerror}", where=path) from error


def _spread(count: int, most: int) -> list[int]:
    """Give up to so many numbers below a count, evenly spaced."""
    return sorted(set(np.linspace(0, count - 1, most).astype(int).tolist())) if count else []


def _chosen(known: dict[str, Field], fields: Sequence[str] | None, where: str) -> dict[str, Field]:
    if fields is None:
        return known
    if isinstance(fields, str) or not len(fields):
        raise ArgumentError(f"fields is a list of names, not {fields!r}", where=where)
    for name in fields:
        if name not in known:
            raise no_field(name, list(known), where)
    return {name: known[name] for name in fields}


# --- listing ----------------------------------------------------------------------------------


def _find_pictures(folder: str) -> tuple[list[str], list[str], list[int]]:
    """List the classes, and of all pictures the path below the folder and the label."""
    real = os.path.realpath(folder)
    if not os.path.isdir(folder):
        if os.path.lexists(folder):
            raise UnsupportedError("is no folder", where=folder)
        raise MissingError("there is no such folder", where=folder)
    flat, classes = _list(folder, "", real)
    below = [list(_below(folder, f"{name}/", real)) for name in sorted(classes)]
    if not any(below):
        if not flat:
            raise MissingError(
                "holds no picture", where=folder, cure=f"Pictures end in {', '.join(_ENDINGS)}."
            )
        return [], flat, []
    if flat:
        raise UnsupportedError(
            f"has pictures, such as {flat[0]!r}, beside folders of pictures, such as "
            f"{next(paths[0] for paths in below if paths)!r}",
            where=folder,
            cure="Move them into a folder of their class, or open a folder without classes.",
        )
    labels = [label for label, paths in enumerate(below) for _ in paths]
    return sorted(classes), [path for paths in below for path in paths], labels


def _below(folder: str, start: str, real: str) -> Iterator[str]:
    """Give the pictures of a folder, then those of each folder in it."""
    waiting = [start]
    while waiting:
        prefix = waiting.pop()
        if prefix.count("/") > _DEEPEST:
            raise UnsupportedError(
                f"has folders nested over {_DEEPEST} deep, such as {prefix[:60]!r}", where=folder
            )
        pictures, folders = _list(folder, prefix, real)
        yield from pictures
        waiting += [f"{prefix}{name}/" for name in sorted(folders, key=_natural, reverse=True)]


def _list(folder: str, prefix: str, real: str) -> tuple[list[str], list[str]]:
    """List the pictures of one folder in their order, with the prefix, and the folders in it."""
    pictures: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(os.path.join(folder, prefix)) as entries:
            for entry in entries:
                name = entry.name
                if name[0] == ".":
                    continue
                pictured = name.lower().endswith(_ENDINGS)
                if pictured and entry.is_file(follow_symlinks=False):
                    pictures.append(name)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(name)
                elif entry.is_symlink() and (pictured or os.path.isdir(entry.path)):
                    _check_link(entry.path, real)
                    pictures.append(name)
    except OSError as error:
        if isinstance(error, UnsafeError):
            raise
        raise StoreError(
            f"cannot be listed: {error.strerror}", where=os.path.join(folder, prefix)
        ) from error
    pictures.sort(key=_natural)
    return [prefix + name for name in pictures], folders


def _check_link(path: str, real: str) -> None:
    """Refuse a link unless it leads to a file inside the folder."""
    target = os.path.realpath(path)
    if os.path.isdir(target):
        _refuse(path, f"is a link to the folder {target}")
    if os.path.commonpath([real, target]) != real:
        _refuse(path, f"is a link to {target}, outside the folder of pictures")
    if not os.path.isfile(target):
        _refuse(path, "is a link, to nothing that can be read")


def _refuse(path: str, problem: str) -> NoReturn:
    raise UnsafeError(problem, where=path, cure="Put the files themselves there.")


def _holds_picture(folder: str) -> bool:
    """Say whether there is a picture below a folder, looking no further than the first folders."""
    for _ in range(_DEEPEST):
        inner = ""
        with os.scandir(folder) as entries:
            for entry in entries:
                if _is_picture(entry.name):
                    return True
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    inner = inner or entry.path
        if not inner:
            return False
        folder = inner
    return False


def _is_picture(name: str) -> bool:
    return name.lower().endswith(_ENDINGS) and not name.startswith(".")


def _natural(name: str) -> tuple[list[str | int], str]:
    """Order numbers in names as numbers, and what is then alike by the letters."""
    parts: list[str | int] = _DIGITS.split(name)  # letters and digits in turn
    for i in range(1, len(parts), 2):
        parts[i] = int(parts[i])
    return parts, name


__all__ = ["ImagesDataset", "open_images", "recognises"]
