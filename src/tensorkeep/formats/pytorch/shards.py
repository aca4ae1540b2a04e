"""Shards: several PyTorch files, and the index that says which tensor is where.

The index is the one that Hugging Face tools write, `pytorch_model.bin.index.json`:
`{"metadata": {...}, "weight_map": {NAME: FILE}}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.state import MAX_TENSORS, Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.text import parse_json

INDEX = ".bin.index.json"
_MAX_INDEX = 64 << 20


def decode_index(location: Location, decode: Callable[[Location], State]) -> State:
    """Read an index and open its shards, and check each against the other."""
    where = location.where
    weight_map = _read_index(location)
    shards: dict[str, State] = {}

    def close() -> None:
        for shard in shards.values():
            shard.close()
        location.close()

    try:
        for file in dict.fromkeys(weight_map.values()):
            shards[file] = decode(location.sibling(file))
        tensors: dict[str, Tensor] = {}
        for name, file in weight_map.items():
            if name not in shards[file]:
                raise CorruptError(
                    f"the index puts {name!r} in {file}, where it is not", where=where
                )
            tensors[name] = shards[file][name]
        metadata: dict[str, Json] = {}
        refused: list[str] = []
        checks: dict[str, Callable[[], None]] = {}
        for file, shard in shards.items():
            for name in shard:
                if weight_map.get(name) != file:
                    raise CorruptError(
                        f"{file} holds {name!r}, which the index does not place there", where=where
                    )
            metadata.update(shard.metadata)
            checks.update(shard.checks)
            refused += [f"in {file}, {sentence}" for sentence in shard.refused]
        return State(
            tensors,
            metadata=metadata,
            checks=checks,
            refused=tuple(refused),
            format="pytorch",
            where=where,
            close=close,
        )
    except BaseException:
        close()
        raise


def _read_index(location: Location) -> Mapping[str, str]:
    source, where = location.source, location.where
    if source.size > _MAX_INDEX:
        raise UnsafeError(f"an index of {source.size:,} bytes is over the limit", where=where)
    document: Any = parse_json(source.read(0, source.size), where, "index", most=2 * MAX_TENSORS)
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptError("the index has no weight_map", where=where)
    if len(weight_map) > MAX_TENSORS:
        raise UnsafeError(f"it lists more than {MAX_TENSORS:,} tensors", where=where)
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise CorruptError(
                f"the index gives {file!r:.60} for the file of {name!r:.60}", where=where
            )
        if not file.endswith((".bin", ".pt", ".pth")):
            raise UnsafeError(f"the index names {file[:60]!r}, no PyTorch file", where=where)
    return weight_map
