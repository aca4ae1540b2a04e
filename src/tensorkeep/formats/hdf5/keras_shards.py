"""Shards of a Keras 3 model's weights: files of them, and an index of which holds which.

    {"metadata": {"total_size": 620.0},
     "weight_map": {"/layers/dense/vars": "model_00000.weights.h5",
                    "/optimizer/vars": ["model_00000.weights.h5", "model_00001.weights.h5"]}}

The variables of one group may be spread over several shards. Keras looks at no other file than the
index names, and at no group that it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tensorkeep.dtypes import BOOL
from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.formats.hdf5.keras_config import parse_config
from tensorkeep.formats.hdf5.keras_names import path_of
from tensorkeep.formats.hdf5.keras_weights import KEY, LAYERS, decode_source, remarks_on
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.text import show

INDEX = ".weights.json"
_MAX_SHARDS = 10_000


def decode_index(location: Location) -> State:
    """Read an index and the structure of its shards, and check each against the other.

    Raises:
        CorruptError: a shard lacks what the index puts into it, or holds what it does not.
        MissingError: a shard is not there.
        UnsafeError: the index names a file outside of its folder, or far too many.
    """
    where = location.where
    groups, total = _read_index(location)
    shards: dict[str, State] = {}

    def close() -> None:
        for shard in shards.values():
            shard.close()
        location.close()

    try:
        for file in dict.fromkeys(file for files in groups.values() for file in files):
            place = location.sibling(file)
            shards[file] = decode_source(place.source, place.where, place.close)
        tensors = _join(shards, groups, where)
        _check_total(tensors, total, where)
    except BaseException:
        close()
        raise
    layers: dict[str, Any] = {}
    metadata: dict[str, Json] = {}
    for shard in shards.values():
        keras = shard.metadata.get(KEY)
        if isinstance(keras, dict) and isinstance(named := keras.get(LAYERS), dict):
            layers |= named
        metadata |= shard.metadata
    return State(
        tensors,
        metadata=metadata | ({KEY: {LAYERS: layers}} if layers else {}),
        digests={name: d for shard in shards.values() for name, d in shard.digests.items()},
        remarks=remarks_on(tensors, layers),
        format="keras-weights",
        where=where,
        close=close,
    )


def _join(
    shards: Mapping[str, State], groups: Mapping[str, list[str]], where: str
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    held: dict[str, set[str]] = {}
    for file, shard in shards.items():
        for name, tensor in shard.items():
            group = "/" + path_of(name).rpartition("/")[0]
            if name in tensors:
                raise CorruptError(f"{file} holds {name!r}, as another shard does", where=where)
            if file not in groups.get(group, ()):
                raise CorruptError(
                    f"{file} holds {name!r}, which the index does not place there",
                    where=where,
                    cure="It is the shard of another save; use the files of one.",
                )
            held.setdefault(group, set()).add(file)
            tensors[name] = tensor
    for group, files in groups.items():
        for file in files:
            if file not in held.get(group, ()):
                raise CorruptError(
                    f"the index puts variables of {group!r} in {file}, where there are none",
                    where=where,
                    cure="It is the shard of another save; use the files of one.",
                )
    return tensors


def _check_total(tensors: Mapping[str, Tensor], total: Any, where: str) -> None:
    """Compare the size of all variables with the index's, which counts a bool as one bit."""
    if type(total) not in (int, float) or any(t.dtype is BOOL for t in tensors.values()):
        return
    found = sum(tensor.nbytes for tensor in tensors.values())
    if found != total:
        raise CorruptError(
            f"its shards hold {found:,} bytes, where the index says {total:,.0f}",
            where=where,
            cure="They are of different saves; use the files of one.",
        )


def _read_index(location: Location) -> tuple[dict[str, list[str]], Any]:
    """Read which files hold the variables of a group, and the size of all."""
    source, where = location.source, location.where
    document = parse_config(bytes(source.read(0, source.size)), where, "index")
    groups = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(groups, dict):
        raise CorruptError("its index has no weight_map", where=where)
    found = {group: _files(group, files, where) for group, files in groups.items()}
    if len({file for files in found.values() for file in files}) > _MAX_SHARDS:
        raise UnsafeError(f"its index names over {_MAX_SHARDS:,} files", where=where)
    extra = document.get("metadata") if isinstance(document, dict) else None
    return found, extra.get("total_size") if isinstance(extra, dict) else None


def _files(group: str, value: Any, where: str) -> list[str]:
    files = value if isinstance(value, list) else [value]
    if not files or not all(isinstance(file, str) for file in files):
        raise CorruptError(
            f"its index gives {show(value)} as the files of {group[:60]!r}", where=where
        )
    for file in files:
        if not file.endswith(".h5"):
            raise UnsafeError(
                f"its index names {file[:60]!r}, which is no file of Keras weights", where=where
            )
    return files
