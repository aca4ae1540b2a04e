"""Shards: several Flax files, and the index that Hugging Face's tools wrote for them.

`{"metadata": {"total_size": N}, "weight_map": {NAME: FILE}}`, where a name is the path of an array
in its file's nesting, joined by slashes.
"""

from __future__ import annotations

from typing import Any

from tensorkeep.errors import CorruptError
from tensorkeep.formats.flax.reading import CHUNKED, Reading
from tensorkeep.source import Source
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tree.leaves import Leaves, Path, skeleton_of
from tensorkeep.wire.msgpack import Walk
from tensorkeep.wire.shard_index import check_files, read_index

INDEX = ".msgpack.index.json"


def decode_index(location: Location) -> State:
    """Walk the shards that an index names, and join their nestings."""
    where = location.where
    weight_map = _read_index(location)
    files = {file: location.sibling(file) for file in dict.fromkeys(weight_map.values())}

    def close() -> None:
        for file in files.values():
            file.close()
        location.close()

    try:
        leaves = Leaves()
        tree: dict[str, Json] = {}
        for file, shard in files.items():
            value = Walk(shard.source).whole()
            if not isinstance(value, dict):
                raise CorruptError("a shard has to hold a map", where=shard.where)
            _join(tree, value, shard.source, leaves, (), weight_map, file)
        missing = next(iter(weight_map), None)
        if missing is not None:
            file = weight_map[missing]
            raise CorruptError(
                f"the index puts {missing!r} in {file}, where it is not", where=where
            )
        return State(
            leaves.tensors,
            skeleton=skeleton_of(tree),
            format="flax",
            where=where,
            close=close,
        )
    except BaseException:
        close()
        raise


def _join(
    tree: dict[str, Json],
    value: dict[Any, Any],
    source: Source,
    leaves: Leaves,
    path: Path,
    weight_map: dict[str, str],
    file: str,
) -> None:
    """Add the nesting of a shard to a tree; take its arrays from the map."""
    for key, child in value.items():
        here = (*path, str(key))
        if type(key) is not str or key.startswith("$"):
            raise CorruptError(f"a shard has the key {key!r:.60}", where=source.where)
        if isinstance(child, dict) and CHUNKED not in child:
            below = tree.setdefault(key, {})
            if isinstance(below, dict):
                _join(below, child, source, leaves, here, weight_map, file)
                continue
        name = "/".join(here)
        if weight_map.pop(name, "") != file or key in tree:
            raise CorruptError(
                f"holds {name!r}, which the index does not place there", where=source.where
            )
        tree[key] = Reading(source, leaves).node(child, here)


def _read_index(location: Location) -> dict[str, str]:
    weight_map: dict[str, str] = read_index(location)[1]["weight_map"]
    check_files(weight_map, (".msgpack",), "Flax", location.where)
    return weight_map
