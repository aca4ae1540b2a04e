"""hdf5: groups of datasets, as h5py and others write them.

Groups become dots in the names (see `naming`), attributes become metadata: those of the root by
their names, those of groups and datasets under "attributes", by path. Nesting, and what of the
metadata no attribute holds, is one JSON document in the root's attribute `tensorkeep`
(tensorkeep.notes); checksums stand behind the file's end (see `seal`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tensorkeep.checksum import mismatch
from tensorkeep.dtypes import DTYPES
from tensorkeep.errors import CorruptError
from tensorkeep.format import Format, Stream
from tensorkeep.formats.hdf5.elements import SHAPE, TAG
from tensorkeep.formats.hdf5.file import LIBRARY_ERRORS, MARK, h5py, is_hdf5
from tensorkeep.formats.hdf5.jsonable import attributes
from tensorkeep.formats.hdf5.keras_detect import kind
from tensorkeep.formats.hdf5.naming import names_of, paths_of, renamed
from tensorkeep.formats.hdf5.picking import dataset_called
from tensorkeep.formats.hdf5.reading import (
    check_total,
    damage,
    open_file,
    read_tensor,
    remark,
    walk,
)
from tensorkeep.formats.hdf5.seal import Seal, check_seal
from tensorkeep.formats.hdf5.writing import Compression, Contents, write_file
from tensorkeep.notes import Notes, parse_notes
from tensorkeep.source import Source
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.text import dump_json, parse_json

NAMES = f"{MARK}-names"
INNER = "attributes"
_MAX_ATTRIBUTES = 64
_MAX_TEXT = 4096
_MAX_FIXED = 60_000  # an attribute of 64 KiB is no longer held beside its object


def accepts(location: Location) -> bool:
    """An HDF5 file that none of Keras's formats is."""
    return bool(location.key) and is_hdf5(location.head) and not kind(location)


def decode(location: Location) -> State:
    """Read the structure: groups, attributes and where the datasets are."""
    source, where = location.source, location.where
    seal = check_seal(source, where)
    file = open_file(source, where)
    try:
        with damage(where):
            return _decoded(file, location, source, seal)
    except BaseException:
        file.close()
        raise


def pick(location: Location, names: list[str]) -> State | None:
    """Find some tensors by their paths, in a file whose tensors have no other names."""
    source, where = location.source, location.where
    check_seal(source, where)
    file = open_file(source, where)
    try:
        with damage(where):
            tensors = _picked(file, names, source, where)
            notes = _notes(attributes(file, where).get(MARK), where)
    except BaseException:
        file.close()
        raise
    if tensors is None:
        file.close()
        return None

    def close() -> None:
        file.close()
        location.close()

    usual = {key: value for key, value in (notes.skeleton or {}).items() if key == "framework"}
    return State(tensors, skeleton=usual or None, format="hdf5", where=where, close=close)


def _picked(file: Any, names: list[str], source: Source, where: str) -> dict[str, Tensor] | None:
    if NAMES in file.attrs:
        return None
    tensors = {}
    for name in names:
        found = dataset_called(file, name, where)
        if found is None:
            return None
        path, dataset = found
        tensors[name] = read_tensor(dataset, source, f"{where}: {path}")
    check_total(tensors.values(), source, where)
    return tensors


def _decoded(file: Any, location: Location, source: Source, seal: Seal | None) -> State:
    where = location.where
    groups: dict[str, Any] = {}
    datasets = dict(walk(file, where, groups))
    metadata = attributes(file, where)
    notes = _notes(metadata.pop(MARK, None), where)
    given = _names(metadata.pop(NAMES, None), where)
    names = names_of(datasets) | {path: given[path] for path in given if path in datasets}
    if len(set(names.values())) < len(names):
        raise CorruptError("two of its datasets have the same name", where=where)
    tensors, remarks = {}, {}
    for path, dataset in datasets.items():
        tensors[names[path]] = read_tensor(dataset, source, f"{where}: {path}")
        if said := remark(dataset, f"{where}: {path}"):
            remarks[names[path]] = said
    check_total(tensors.values(), source, where)
    if inner := _inner(groups | datasets, where):
        metadata[INNER] = inner
    digests = None
    if seal is not None and seal.document:
        found = parse_notes(seal.document, where, datasets).digests or {}
        digests = {names[path]: found[path] for path in found}
        tensors = {name: tensors[name] for name in digests}  # in the order they were saved in

    def close() -> None:
        file.close()
        location.close()

    return State(
        tensors,
        metadata=metadata | notes.metadata,
        skeleton=notes.skeleton,
        digests=digests,
        remarks=remarks,
        format="hdf5",
        where=where,
        close=close,
    )


def _notes(text: Json, where: str) -> Notes:
    return parse_notes(text, where) if isinstance(text, str) else Notes()


def _names(text: Json, where: str) -> dict[str, str]:
    found = parse_json(text, where, "list of names") if isinstance(text, str) else {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CorruptError("its list of names is not one", where=where)
    return found


def _inner(objects: Mapping[str, Any], where: str) -> dict[str, Json]:
    """Collect the attributes of groups and datasets, by path."""
    found: dict[str, Json] = {}
    count = h5py().h5a.get_num_attrs
    for path, thing in objects.items():
        if not count(thing.id):
            continue
        values = attributes(thing, f"{where}: {path}")
        if values.get(TAG) in DTYPES:
            values = {key: value for key, value in values.items() if key not in (TAG, SHAPE)}
        if values:
            found[path] = values
    return found


def encode(
    state: State,
    location: Location,
    *,
    checksums: bool = True,
    compression: str = "",
    level: int = 4,
    shuffle: bool = False,
    fletcher32: bool = False,
    chunks: int = 0,
) -> Iterator[Stream]:
    """Write all tensors to one file.

    Args:
        state: what to write.
        location: where to.
        checksums: keep the digests of the tensors; those of the structure are kept anyway.
        compression: "gzip" or "lzf"; datasets then are in chunks, and can no longer be mapped.
        level: of gzip, 0 to 9.
        shuffle: put the bytes of the elements in another order first, which often compresses more.
        fletcher32: let HDF5's own checksums guard each chunk.
        chunks: rows of the first axis in a chunk; of about 1 MiB otherwise.

    Raises:
        ArgumentError: an option that is none.
        MissingDependencyError: h5py is not installed.
    """
    chosen = Compression(compression or "", level, shuffle, fletcher32, chunks)
    paths = paths_of(state)
    plain = _attributes(state.metadata)
    noted = {key: value for key, value in state.metadata.items() if key not in plain}
    root: dict[str, Any] = dict(plain)
    # Always there: it tells our files from Keras's, whatever the tensors are called.
    root[MARK] = _text(Notes(noted, state.skeleton).dump() or dump_json({"version": 1}))
    if names := renamed(state, paths):
        root[NAMES] = _text(dump_json(names))
    name_at = {path: name for name, path in paths.items()}

    def check(path: str, found: str) -> None:
        expected = state.digests.get(name_at[path], found)
        if expected != found:
            raise mismatch(name_at[path], expected, found, state.where)

    contents = Contents({paths[name]: tensor for name, tensor in state.items()}, {"": root})
    yield write_file(
        location.key,
        contents,
        checksums=checksums,
        check=check,
        compression=chosen if (compression or shuffle or fletcher32 or chunks) else None,
    )


def _text(document: str) -> Any:
    """Give a text as a string of fixed length, which saves a heap, where it is not too long."""
    data = document.encode()
    if len(data) > _MAX_FIXED:
        return document
    return np.array(data, h5py().string_dtype("utf-8", len(data)))


def _attributes(metadata: Mapping[str, Json]) -> dict[str, Any]:
    """Choose what other readers can see as attributes of the root; the rest is noted."""
    found: dict[str, Any] = {}
    for key, value in metadata.items():
        if _is_attribute(key, value) and len(found) < _MAX_ATTRIBUTES:
            found[key] = value
    return found


def _is_attribute(key: str, value: Json) -> bool:
    if not _is_plain(key) or not key or key.startswith(MARK) or key == INNER:
        return False
    if isinstance(value, str):
        return _is_plain(value)
    return isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63)


def _is_plain(text: str) -> bool:
    """Say whether HDF5 holds it: no NUL, no half characters, not long."""
    if len(text) > _MAX_TEXT or "\0" in text:
        return False
    return "\\ud" not in json.dumps(text) or text.encode(errors="ignore").decode() == text


FORMAT = Format(
    name="hdf5",
    suffixes=(".h5", ".hdf5", ".he5"),
    accepts=accepts,
    decode=decode,
    encode=encode,
    pick=pick,
    holds=frozenset(DTYPES.values()),
    corruption=(RecursionError, *LIBRARY_ERRORS),
    extra="hdf5",
    checked_by="XXH3-128",
    packed="gzip, lzf, szip, and what h5py finds",
    safe_by="external and virtual storage are refused",
)
