"""Files of a Keras 3 model's variables, laid out as Keras lays them out, so that it loads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tensorkeep.dtypes import BFLOAT16
from tensorkeep.errors import ArgumentError
from tensorkeep.format import Stream
from tensorkeep.formats.hdf5.elements import TAG
from tensorkeep.formats.hdf5.file import h5py
from tensorkeep.formats.hdf5.keras_detect import NOTES, VARS
from tensorkeep.formats.hdf5.keras_names import ASSETS, blocked, is_path, path_of
from tensorkeep.formats.hdf5.keras_shards import INDEX
from tensorkeep.formats.hdf5.keras_weights import KEY, LAYERS
from tensorkeep.formats.hdf5.writing import Contents, Stored, stored_as, write_file
from tensorkeep.notes import Notes
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.text import dump_json


def keras_metadata(state: State) -> dict[str, Json]:
    """Give what the metadata says of Keras; nothing where it says nothing."""
    found = state.metadata.get(KEY)
    return found if isinstance(found, dict) else {}


def weights_losses(state: State) -> list[str]:
    """Say which tensors are no variables of Keras 3, or have no place in a file of weights."""
    losses = variables_losses(state)
    if assets := [name for name in state if name.startswith(ASSETS)]:
        losses.append(
            f"it has files of a model, such as {assets[0]!r}, which are kept in .keras only"
        )
    return losses


def variables_losses(state: State) -> list[str]:
    """Say which tensors are no variables of Keras 3."""
    names = [name for name in state if not name.startswith(ASSETS)]
    paths = {name: path_of(name) for name in names}
    others = [name for name in names if not paths[name]]
    if others:
        problem = (
            f"{len(others)} of its {len(names)} tensors are not called as Keras 3 calls variables, "
            f"{others[0]!r} is one; it takes the names of model.weights.h5, such as "
            "layers.dense.vars.0, layers.dense_1.vars.1 or optimizer.vars.2"
        )
        return [problem]
    if at := blocked(paths.values()):
        return [f"{at!r} would be both a variable and a group of others"]
    if len(set(paths.values())) < len(paths):
        return ["two of its tensors are the same variable, once with dots and once with slashes"]
    return []


def encode_weights(state: State, location: Location, *, checksums: bool = True) -> Iterator[Stream]:
    """Write the variables of a model, for `model.load_weights` of Keras 3.

    Args:
        state: what to write.
        location: where to.
        checksums: keep the digests of the tensors; those of the structure are kept anyway.

    Raises:
        ArgumentError: the name is that of an index of shards, which are read only.
    """
    if location.name.endswith(INDEX):
        raise ArgumentError(
            "is the name of an index of shards, which are read but not written",
            where=location.where,
            cure="Write one file, .weights.h5.",
        )
    yield write_weights(location.key, state, checksums=checksums)


def write_weights(key: str, state: State, *, checksums: bool) -> Stream:
    """Write a file of the variables in a state; what else it holds has to be gone."""
    datasets = {path_of(name): tensor for name, tensor in state.items() if path_of(name)}
    keras = keras_metadata(state)
    layers = _groups(keras.get(LAYERS), datasets)
    noted = dict(state.metadata)
    if layers:
        noted[KEY] = {name: value for name, value in keras.items() if name != LAYERS}
        if not noted[KEY]:
            del noted[KEY]
    attributes: dict[str, dict[str, Any]] = {path: {"name": name} for path, name in layers.items()}
    if not blocked([*datasets, f"{VARS}/"]):
        attributes.setdefault(VARS, {})  # as in every file of Keras's
    return write(key, datasets, attributes, noted, state, checksums=checksums)


def _groups(layers: Any, datasets: Mapping[str, Tensor]) -> dict[str, str]:
    """Give the groups that have layers' names for attributes; none where HDF5 cannot have them."""
    if not isinstance(layers, dict) or not layers:
        return {}
    groups = {f"{group}/{VARS}" if group else VARS: name for group, name in layers.items()}
    good = all(is_path(path) for path in groups) and all(map(is_attribute, groups.values()))
    return groups if good and not blocked([*datasets, *(f"{path}/" for path in groups)]) else {}


def is_attribute(value: Any) -> bool:
    """Say whether a value is text that an attribute of HDF5 holds."""
    if not isinstance(value, str) or "\0" in value or len(value) > 1024:
        return False
    return value.encode(errors="replace").decode() == value


def write(
    key: str,
    datasets: Mapping[str, Tensor],
    attributes: dict[str, dict[str, Any]],
    noted: Mapping[str, Json],
    state: State,
    *,
    checksums: bool,
) -> Stream:
    """Write a file of datasets and attributes by path, with notes of what they do not tell."""
    groups = [path for path in attributes if path]
    notes = Notes(dict(noted), state.skeleton).dump() or dump_json({"version": 1})
    attributes.setdefault("", {})[NOTES] = notes
    contents = Contents(datasets, attributes, groups, _stored)
    return write_file(key, contents, checksums=checksums)


def _stored(tensor: Tensor) -> Stored:
    """Choose how a variable is kept: bfloat16 as Keras does, all else as everywhere."""
    if tensor.dtype is BFLOAT16:
        opaque = h5py().h5t.py_create(np.dtype("V2"))
        return Stored(opaque, tensor.shape, {TAG: BFLOAT16.name})
    return stored_as(tensor)
