"""From a store to a state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from tensorkeep.dtypes import STRING, UINT8, DType
from tensorkeep.errors import CorruptError
from tensorkeep.formats.zarr.chunks import Gathered, Whole
from tensorkeep.formats.zarr.files import Files
from tensorkeep.formats.zarr.hierarchy import NODES, Hierarchy, read_hierarchy
from tensorkeep.formats.zarr.metadata import Array
from tensorkeep.formats.zarr.texts import read_texts
from tensorkeep.notes import KEY, Notes, parse_notes
from tensorkeep.source import Source
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.tree.leaves import Leaves, mapping, skeleton_of
from tensorkeep.wire.elements import Packed
from tensorkeep.wire.seal import SEAL
from tensorkeep.wire.text import dump_json

NAME = "name"


def decode_root(root: Location, close: Callable[[], None] | None = None) -> State:
    """Read the store that a file lies in the root folder of."""
    hierarchy = read_hierarchy(root)
    attributes = hierarchy.groups.get("") or {}
    if "" in hierarchy.arrays:
        attributes = hierarchy.arrays[""].attributes
    noted = attributes.get(KEY) if isinstance(attributes.get(KEY), dict) else None
    files = Files(root, complete=noted is not None)
    files.declared = sum(
        math.prod(array.shape) * array.width for array in hierarchy.arrays.values()
    )
    tensors, tree, checks, remarks = _arrays(hierarchy, files)
    notes = Notes()
    if noted is not None:
        notes = parse_notes(dump_json(noted), root.where, tensors)
    if notes.digests is not None and SEAL not in attributes:
        raise CorruptError(
            "the metadata's own digest is gone",
            where=root.where,
            cure=f"If another tool has changed its attributes, remove {KEY!r} from them, too.",
        )
    for name, (kind, shape) in notes.stored.items():
        tensors[name] = _restored(tensors, name, kind, shape, root.where)
        remarks.pop(name, None)
    if notes.digests is not None:
        tensors = {name: tensors[name] for name in notes.digests}
    sources = {tensor.source for tensor in tensors.values()}

    def close_all() -> None:
        files.close()
        for source in sources:
            source.close()
        root.close()
        if close is not None:
            close()

    return State(
        tensors,
        metadata={k: v for k, v in attributes.items() if k not in (KEY, SEAL, NODES)}
        | notes.metadata,
        skeleton=notes.skeleton or skeleton_of(tree),
        digests=notes.digests,
        checks=checks,
        remarks={name: remarks[name] for name in tensors if name in remarks},
        format="zarr",
        where=files.where,
        close=close_all,
    )


def _restored(
    tensors: Mapping[str, Tensor], name: str, kind: DType, shape: tuple[int, ...], where: str
) -> Tensor:
    kept = tensors.get(name)
    if kept is None or kept.dtype is not UINT8:
        raise CorruptError(f"its notes speak of {name!r}, which is not kept so", where=where)
    return Tensor(kind, shape, kept.source, kept.offset, kept.nbytes)


def _arrays(
    hierarchy: Hierarchy, files: Files
) -> tuple[dict[str, Tensor], Json, dict[str, Callable[[], None]], dict[str, str]]:
    leaves = Leaves()
    checks: dict[str, Callable[[], None]] = {}
    remarks: dict[str, str] = {}
    nesting: dict[str, Any] = {}
    for path, array in hierarchy.arrays.items():
        tensor, check = _tensor(array, path, files)
        parts = tuple(path.split("/")) if path else ()
        leaf = _keep(leaves, tensor, parts, array, files.where)
        name = next(reversed(leaves.tensors))
        if check is not None:
            checks[name] = check
        if array.shape and array.kind is not STRING and (array.shard or not array.raw):
            remarks[name] = _chunks(array)
        if array.text not in ("", "vlen"):
            leaf = {"$array": leaf, "numpy": array.text.replace(">", "<")}
        if not parts:
            return leaves.tensors, leaf, checks, remarks
        _place(nesting, parts, leaf, files.where)
    for path in hierarchy.groups:
        if path:
            _group(nesting, path.split("/"), files.where)
    return leaves.tensors, _tree(nesting), checks, remarks


def _chunks(array: Array) -> str:
    """Say what is decoded at once, and how."""
    said = [f"chunks of {'x'.join(map(str, array.inner))}", *(step.name for step in array.codecs)]
    if array.shard:
        said.append(f"in shards of {'x'.join(map(str, array.chunks))}")
    return ", ".join(said)


def _keep(leaves: Leaves, tensor: Tensor, parts: tuple[str, ...], array: Array, where: str) -> Json:
    """Keep a tensor under the name that was noted with it, or else under its path."""
    noted = array.attributes.get(KEY)
    name = noted.get(NAME) if isinstance(noted, dict) else None
    if not isinstance(name, str):
        return leaves.keep(tensor, parts)
    if name in leaves.tensors:
        raise CorruptError(f"two arrays are called {name!r}", where=where)
    leaves.tensors[name] = tensor
    return f"$:{name}"


def _tensor(array: Array, path: str, files: Files) -> tuple[Tensor, Callable[[], None] | None]:
    if array.kind is STRING:
        return read_texts(array, path, files), None
    count = math.prod(array.shape)
    one = all(a <= c for a, c in zip(array.shape, array.chunks, strict=True))
    # A chunk may be longer than its array on the slowest axis alone, and still start with it.
    same = array.shape[1:] == array.chunks[1:]
    source: Source
    check = None
    if array.raw and array.shard is None and one and same:
        source = Whole(array, path, files)
    else:
        source = gathered = Gathered(array, path, files)
        if any(step.name == "crc32c" for step in array.codecs):
            check = gathered.check
    if array.kind.packed:
        source = Packed(source, 0, array.kind, count)
    return Tensor(array.kind, array.shape, source), check


class _Branch(dict[str, Any]):
    """A group, to be told from the leaf of an array, which can be a dict as well."""


def _group(nesting: dict[str, Any], parts: list[str], where: str) -> dict[str, Any]:
    for part in parts:
        nesting = nesting.setdefault(part, _Branch())
        if not isinstance(nesting, _Branch):
            raise CorruptError(f"{'/'.join(parts)!r:.80} lies within an array", where=where)
    return nesting


def _place(nesting: dict[str, Any], parts: tuple[str, ...], leaf: Json, where: str) -> None:
    group = _group(nesting, list(parts[:-1]), where)
    if parts[-1] in group:
        raise CorruptError(f"{'/'.join(parts)!r:.80} is both a group and an array", where=where)
    group[parts[-1]] = leaf


def _tree(nesting: dict[str, Any]) -> Json:
    return mapping(
        (key, _tree(child) if isinstance(child, _Branch) else child)
        for key, child in nesting.items()
    )
