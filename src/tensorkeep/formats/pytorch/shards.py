"""Shards: several PyTorch files, and the index that says which tensor is where.

The index is the one that Hugging Face tools write, `pytorch_model.bin.index.json`:
`{"metadata": {...}, "weight_map": {NAME: FILE}}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tensorkeep.errors import CorruptError
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.shard_index import check_files, read_index

INDEX = ".bin.index.json"


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
    weight_map: dict[str, str] = read_index(location)[1]["weight_map"]
    if not weight_map:
        raise CorruptError("the index has no weight_map", where=location.where)
    check_files(weight_map, (".bin", ".pt", ".pth"), "PyTorch", location.where)
    return weight_map
