"""Which groups and arrays a store has: from its consolidated metadata, or from its files.

v3 keeps a zarr.json for each node, and may repeat all of them in that of the root, as
`consolidated_metadata`. v2 keeps .zgroup, .zarray and .zattrs, and may repeat them in .zmetadata.
zarr-python opens no group whose consolidated metadata has a type that it does not know, so where
there is one we repeat them in an attribute of the root instead.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tensorkeep.errors import (
    CorruptError,
    MissingError,
    StoreError,
    UnsafeError,
    UnsupportedError,
)
from tensorkeep.formats.zarr.metadata import Array, parse_v2, parse_v3
from tensorkeep.notes import KEY
from tensorkeep.state import MAX_TENSORS
from tensorkeep.store import Location
from tensorkeep.wire.seal import SEAL, check_seal
from tensorkeep.wire.text import parse_json

V3 = "zarr.json"
GROUP, ARRAY, ATTRIBUTES, CONSOLIDATED = ".zgroup", ".zarray", ".zattrs", ".zmetadata"
NODES = "tensorkeep.nodes"
ROOTS = (V3, GROUP, ARRAY, CONSOLIDATED)  # what tells that a folder is a store
_MAX_DOCUMENT = 256 << 20
_MAX_DEPTH = 100


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The nodes of a store by their paths, "" for the root, parents before children."""

    arrays: Mapping[str, Array]
    groups: Mapping[str, Mapping[str, Any]]  # and their attributes


def read_hierarchy(root: Location) -> Hierarchy:
    """Read all metadata of the store that a file lies in the root folder of.

    Raises:
        CorruptError: it contradicts itself.
        UnsafeError: a path leads out of the store, or there are too many.
        UnsupportedError: something that is not known here.
    """
    document = _read(root, V3)
    return _v3(root, document) if document is not None else _v2(root)


def _v3(root: Location, document: Mapping[str, Any]) -> Hierarchy:
    kept = document.get("consolidated_metadata")
    attributes = document.get("attributes")
    if isinstance(attributes, dict) and NODES in attributes:
        kept = {"metadata": attributes[NODES]}
    nodes: dict[str, Any] = {"": document}
    if document.get("node_type") != "group":
        pass
    elif isinstance(kept, dict):
        found = kept.get("metadata")
        if not isinstance(found, dict):
            raise CorruptError("its consolidated metadata is not an object", where=root.where)
        nodes |= found
    else:
        nodes |= {path: _read(root, f"{path}/{V3}") for path in _listed(root, (V3,))}
    arrays, groups = {}, {}
    for path, node in nodes.items():
        _check_path(root, path)
        where = _where(root, path)
        if not isinstance(node, dict) or node.get("zarr_format") != 3:
            raise CorruptError("its zarr_format is not 3", where=where)
        if node.get("node_type") == "array":
            arrays[path] = parse_v3(node, where)
        elif node.get("node_type") == "group":
            groups[path] = _object(node.get("attributes"), where)
        else:
            raise CorruptError("it is neither an array nor a group", where=where)
    return Hierarchy(arrays, groups)


def _v2(root: Location) -> Hierarchy:
    documents: dict[str, Any] = {}
    kept = _read(root, CONSOLIDATED)
    attributes = _read(root, ATTRIBUTES) if kept is None else None
    if attributes is not None and NODES in attributes:
        kept = {"metadata": attributes[NODES]}
    if kept is not None:
        found = kept.get("metadata")
        if not isinstance(found, dict):
            raise CorruptError("its consolidated metadata is not an object", where=root.where)
        documents = found
    else:
        for name in (GROUP, ARRAY):
            paths = ["", *_listed(root, (name,))]
            documents |= {posixpath.join(path, name): None for path in paths}
        for key in list(documents):
            beside = posixpath.join(posixpath.dirname(key), ATTRIBUTES)
            documents[key] = _read(root, key)
            documents.setdefault(beside, _read(root, beside))
    arrays, groups = {}, {}
    for key, document in documents.items():
        path, name = posixpath.split(key)
        if document is None or name not in (GROUP, ARRAY):
            continue
        _check_path(root, path)
        where = _where(root, path)
        if not isinstance(document, dict) or document.get("zarr_format") != 2:
            raise CorruptError("its zarr_format is not 2", where=where)
        own = documents.get(posixpath.join(path, ATTRIBUTES))
        if not path and own is None:
            own = attributes
        if name == ARRAY:
            arrays[path] = parse_v2(document, own, where)
        else:
            groups[path] = _object(own, where)
    return Hierarchy(arrays, groups)


def _listed(root: Location, names: tuple[str, ...]) -> Iterator[str]:
    """List the paths below the root that have a file of one of the names.

    Raises:
        StoreError: the store cannot list.
    """
    if not root.store.lists:
        raise StoreError(
            "has no consolidated metadata, and a web server does not list what there is",
            where=root.where,
            cure="Open one array of it, or fetch all of it here first.",
        )
    folder = root.beside("").key
    count = 0
    for key in root.store.keys(folder):
        path, name = posixpath.split(key[len(folder) :])
        if path and name in names:
            count += 1
            if count > MAX_TENSORS:
                raise UnsafeError(f"holds more than {MAX_TENSORS:,} nodes", where=root.where)
            yield path


def _read(root: Location, name: str) -> dict[str, Any] | None:
    """Read a JSON document below the root folder; None where there is none."""
    place = root.sibling(name)
    try:
        source = place.store.get(place.key)
    except MissingError:
        return None
    try:
        if source.size > _MAX_DOCUMENT:
            raise UnsafeError(
                f"{source.size:,} bytes of metadata are over the limit", where=place.where
            )
        data = source.read(0, source.size)
        document = parse_json(data, place.where, "metadata", most=64 * MAX_TENSORS)
        if not isinstance(document, dict):
            raise CorruptError("the metadata is not a JSON object", where=place.where)
        sealed = _sealed(document)
        if sealed is not None or f'"{SEAL}":'.encode() in bytes(data):
            try:
                check_seal(data, str(sealed), place.where, "metadata")
            except CorruptError as error:
                cure = f"If another tool has changed its attributes, remove {SEAL!r} and {KEY!r}."
                raise CorruptError(error.problem, where=place.where, cure=cure) from None
        return document
    finally:
        source.close()


def _sealed(document: Mapping[str, Any]) -> Any:
    """Find the digest of a document in the attributes of its root."""
    kept = document.get("metadata")
    inside = kept.get(ATTRIBUTES) if isinstance(kept, dict) else document.get("attributes")
    return inside.get(SEAL) if isinstance(inside, dict) else document.get(SEAL)


def _object(found: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(found, dict | None):
        raise CorruptError("its attributes are not an object", where=where)
    return found or {}


def _check_path(root: Location, path: str) -> None:
    if path:
        root.sibling(path)  # refuses a path that leads elsewhere
    if path.count("/") > _MAX_DEPTH:
        raise UnsupportedError(f"groups nest deeper than {_MAX_DEPTH} levels", where=root.where)


def _where(root: Location, path: str) -> str:
    folder = posixpath.dirname(root.where)
    return f"{folder or root.where}: {path}" if path else folder or root.where
