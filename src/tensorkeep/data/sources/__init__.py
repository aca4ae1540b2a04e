"""What training data is read from: one file per kind, one row here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from tensorkeep import frameworks
from tensorkeep.data.dataset import Dataset
from tensorkeep.data.sources import columns, images, records, tar
from tensorkeep.data.sources.arrays import (
    LONE,
    flat,
    is_folder,
    of_arrays,
    of_state,
    open_arrays,
    open_folder,
)
from tensorkeep.data.sources.chosen import ChosenDataset
from tensorkeep.data.sources.joined import JoinedDataset
from tensorkeep.data.sources.sequence import SequenceDataset
from tensorkeep.data.sources.sharded import (
    is_pattern,
    manifest_of,
    open_manifest,
    open_several,
    paths_of,
)
from tensorkeep.errors import (
    ArgumentError,
    MissingError,
    UnknownFormatError,
    UnsupportedError,
)
from tensorkeep.similar import did_you_mean
from tensorkeep.state import State
from tensorkeep.store import Location, Store
from tensorkeep.stores import is_url
from tensorkeep.tensor import Tensor

_READ = (
    "Training data is read from arrays (safetensors, npz, npy, HDF5, zarr ...), tar shards, "
    "databases and folders of images."
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of source.

    Args:
        name: what `kind` calls it.
        recognises: looks at the first bytes of a file, or into a folder.
        open: opens a path; takes the names of the fields to read, or None.
    """

    name: str
    recognises: Callable[[str], bool]
    open: Callable[[str, Sequence[str] | None], Dataset]


# Those that look at bytes, then into a folder; last whatever `tensorkeep.open` does.
KINDS: tuple[Kind, ...] = (
    Kind("tar", tar.recognises, tar.open_tar),
    Kind("records", records.recognises, records.open_records),
    Kind("columns", columns.recognises, columns.open_columns),
    Kind("images", images.recognises, images.open_images),
    Kind("npy", is_folder, open_folder),
    Kind("arrays", os.path.exists, open_arrays),
)


def open(what: Any, *, fields: Iterable[str] | None = None, kind: str | None = None) -> Dataset:
    """Open training data: samples by number, of which a batch is read at once.

    Args:
        what: a path of arrays (anything that `tensorkeep.open` opens), of tar shards, of a database
            of Caffe2's records or columns, of a folder of images or .npy files; a pattern such as
            "train-*.tar" or "train-{00000..00127}.tar"; what `write` made; a list of any of these,
            joined in its order; a dict of arrays, a State, a Dataset; or whatever has a length and
            gives samples by number, such as a list of dicts or a torch Dataset.
        fields: read only these, in this order.
        kind: what a path holds, where its bytes do not tell: "arrays", "tar", "columns", "records",
            "images" or "npy".

    Raises:
        MissingError: there is nothing there, or no such field.
        UnknownFormatError: it is no training data that is known here.
        UnsupportedError: arrays do not share their first axis, or joined parts differ.
        CorruptError: it is damaged or cut short.
        ArgumentError: nothing that gives samples by number.

    >>> dataset = open({"x": np.arange(6).reshape(3, 2), "y": np.array([0, 1, 0])})
    >>> len(dataset), dataset.gather(np.array([2, 0]))["x"].tolist()
    (3, [[4, 5], [0, 1]])
    """
    names = _names(fields)
    if isinstance(what, Dataset):
        return what if names is None else ChosenDataset(what, names)
    if isinstance(what, str | os.PathLike):
        return open_path(os.fsdecode(os.fspath(what)), names, kind)
    if isinstance(what, list | tuple) and what and all(map(_is_source, what)):
        return _joined(what, names, kind)
    if isinstance(what, State):
        return (
            columns.of_columns(what, names) if columns.are_columns(what) else of_state(what, names)
        )
    if isinstance(what, Location | Store):
        return open_arrays(what, names)
    if isinstance(what, Mapping):
        return _of_mapping(what, names)
    if isinstance(what, np.ndarray) or _is_tensor(what):
        return of_arrays({LONE: what}, names, "the array")
    if isinstance(what, bytes | bytearray | memoryview):
        raise ArgumentError("bytes are no samples", cure="A path is text, such as os.fsdecode's.")
    if hasattr(what, "__len__") and hasattr(what, "__getitem__"):
        return SequenceDataset(what, names)
    raise ArgumentError(
        f"a {type(what).__name__} gives no samples by number",
        cure="Give a path, a dict of arrays, or what has len() and [number]; what is only "
        "iterated over can be written to a file first.",
    )


def open_path(path: str, fields: Sequence[str] | None = None, kind: str | None = None) -> Dataset:
    """Open what a path or a pattern of paths means.

    Raises:
        MissingError: there is nothing there.
        UnknownFormatError: no kind of source recognises it.
        ArgumentError: there is no such kind.
    """
    if "\0" in path:
        raise ArgumentError("no file has a null byte in its name", where=path.replace("\0", "\\0"))
    if is_url(path):
        return _open_remote(path, fields, kind)
    open_one = partial(open_path, kind=kind)
    manifest = manifest_of(path) if kind is None else ""
    if manifest:
        return open_manifest(manifest, fields, open_one)
    if not os.path.lexists(path) and is_pattern(path):
        return open_several(paths_of(path), fields, open_one, path)
    if kind is not None:
        return _called(kind).open(path, fields)
    row = next((row for row in KINDS if row.recognises(path)), KINDS[-1])
    try:
        return row.open(path, fields)
    except MissingError as error:
        if error.cure or os.path.lexists(path):
            raise
        raise MissingError(error.problem, where=error.where, cure=_nearby(path)) from None
    except UnknownFormatError as error:
        if error.cure and os.path.isfile(path):
            raise
        raise UnknownFormatError(error.problem, where=error.where, cure=_READ) from None


def _open_remote(url: str, fields: Sequence[str] | None, kind: str | None) -> Dataset:
    """Open arrays among objects; what else training data is made of is read from a disk alone."""
    if kind in (None, "arrays") and not is_pattern(url):
        try:
            return open_arrays(url, fields)
        except UnknownFormatError:
            pass
    raise UnsupportedError(
        f"{f'training data of the kind {kind!r}' if kind else 'such training data'} "
        "is read from a disk alone",
        where=url,
        cure="Copy it here first, with `tensorkeep copy`; arrays, such as .npz and .safetensors "
        "files, are read from where they are.",
    )


def _called(kind: str) -> Kind:
    for row in KINDS:
        if row.name == kind:
            return row
    raise ArgumentError(
        f"there is no kind {kind!r} of training data",
        cure=f"There are {', '.join(row.name for row in KINDS)}.",
    )


def _joined(parts: Sequence[Any], fields: list[str] | None, kind: str | None) -> Dataset:
    if all(isinstance(part, str | os.PathLike) for part in parts):
        listed = [os.fsdecode(os.fspath(part)) for part in parts]
        return open_several(listed, fields, partial(open_path, kind=kind))
    return JoinedDataset([open(part, fields=fields, kind=kind) for part in parts])


def _of_mapping(given: Mapping[Any, Any], fields: list[str] | None) -> Dataset:
    if any(str(name).endswith(":lengths") for name in given):
        arrays = flat(given, "the columns")
        if columns.are_columns({name: Tensor.of(array) for name, array in arrays.items()}):
            return columns.of_columns(arrays, fields)
    return of_arrays(given, fields)


def _is_source(part: Any) -> bool:
    return isinstance(part, str | os.PathLike | Dataset)


def _is_tensor(what: Any) -> bool:
    try:
        return frameworks.to_array(what, "the array") is not None
    except UnsupportedError:
        return False


def _names(fields: Iterable[str] | None) -> list[str] | None:
    if fields is None:
        return None
    given = [fields] if isinstance(fields, str) or not isinstance(fields, Iterable) else fields
    listed = list(given)
    if not listed or not all(isinstance(name, str) for name in listed):
        raise ArgumentError(
            "fields are named by text, one or more of them", cure='Such as fields=["image"].'
        )
    return list(dict.fromkeys(listed))


def _nearby(path: str) -> str:
    folder, name = os.path.split(path.rstrip("/"))
    try:
        listed = os.listdir(folder or ".")
    except OSError:
        return "Its folder is missing too."
    return did_you_mean(name, listed)


__all__ = ["KINDS", "Kind", "open", "open_path"]
