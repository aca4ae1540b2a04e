"""`.h5` files as Keras wrote them before version 3, and as every version loads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.format import Stream
from tensorkeep.formats.hdf5.keras_detect import ARCHITECTURE, LAYERS, MODEL, OPTIMIZER
from tensorkeep.formats.hdf5.keras_legacy import TRAINING, WEIGHTS
from tensorkeep.formats.hdf5.keras_names import ASSETS, blocked, is_path
from tensorkeep.formats.hdf5.keras_structure import TOP, Structure, from_json, from_names
from tensorkeep.formats.hdf5.keras_weights import KEY
from tensorkeep.formats.hdf5.keras_writing import is_attribute, keras_metadata, write
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.wire.text import dump_json

_CONFIGS = (ARCHITECTURE, TRAINING)


def legacy_losses(state: State) -> list[str]:
    """Say which tensors are no weights of a layer, or have no place in such a file."""
    if assets := [name for name in state if name.startswith(ASSETS)]:
        return [f"it has files of a model, such as {assets[0]!r}, which are kept in .keras only"]
    structure, above = _laid_out(state)
    places = structure.places(above)
    if others := [name for name in state if name not in places]:
        problem = (
            f"{len(others)} of its {len(state)} tensors are not called as layers' weights are, "
            f"{others[0]!r} is one; it takes LAYER/WEIGHT, such as dense/kernel:0, and "
            "optimizer.WEIGHT"
        )
        return [problem]
    paths = [places[name] for name in state]
    groups = [above + layer for layer in structure.layers]
    if not all(map(is_path, [*paths, *groups])):
        return ["one of its weights has a name that HDF5 does not keep as it is"]
    if len(set(paths)) < len(paths):
        return ["two of its weights are at the same place in the file"]
    if at := blocked([*paths, *(f"{group}/{WEIGHTS}" for group in groups)]):
        return [f"{at!r} would be both a weight and a group of others"]
    return []


def _laid_out(state: State) -> tuple[Structure, str]:
    """Give the structure that the metadata speaks of, if all tensors have a place in it.

    Returns:
        The structure, and the group that the layers are in, with a slash behind it.
    """
    keras = keras_metadata(state)
    found = from_json(keras)
    above = "" if found is None else _above(keras, found)
    if found is None or not found.places(above).keys() >= set(state):
        found = from_names(state)
        above = _above(keras, found)
    return found, above


def _above(keras: dict[str, Json], structure: Structure) -> str:
    whole = ARCHITECTURE in keras or structure.optimizer is not None
    return f"{MODEL}/" if whole else ""


def encode_legacy(state: State, location: Location, *, checksums: bool = True) -> Iterator[Stream]:
    """Write the weights of layers, and a whole model where the metadata says how it is built.

    Args:
        state: what to write.
        location: where to.
        checksums: keep the digests of the tensors; those of the structure are kept anyway.
    """
    keras = keras_metadata(state)
    structure, above = _laid_out(state)
    places = structure.places(above)
    datasets = {places[name]: tensor for name, tensor in state.items() if name in places}
    structure = structure.only(datasets, above)
    maker: dict[str, Any] = {
        key: value for key in ("keras_version", "backend") if is_attribute(value := keras.get(key))
    }
    configs = {key: _text(keras[key]) for key in _CONFIGS if key in keras}
    lists: dict[str, dict[str, Iterable[str]]] = {above.rstrip("/"): {LAYERS: structure.layers}}
    lists |= {above + layer: {WEIGHTS: names} for layer, names in structure.layers.items()}
    if structure.top is not None:
        lists[above + TOP] = {WEIGHTS: structure.top}
    if structure.optimizer is not None:
        lists[OPTIMIZER] = {WEIGHTS: structure.optimizer}
    attributes: dict[str, dict[str, Any]] = {
        path: {key: _names(names) for key, names in row.items()} for path, row in lists.items()
    }
    attributes[above.rstrip("/")] |= maker
    attributes[""] = attributes.get("", {}) | maker | configs
    noted = dict(state.metadata)
    if keras:
        told = {*maker, *configs, "code", "layers", "top_level", "optimizer"}
        noted[KEY] = {key: value for key, value in keras.items() if key not in told}
        if not noted[KEY]:
            del noted[KEY]
    yield write(location.key, datasets, attributes, noted, state, checksums=checksums)


def _text(config: Json) -> str:
    return config if isinstance(config, str) else dump_json(config)


def _names(names: Iterable[str]) -> npt.NDArray[np.bytes_]:
    listed = [name.encode() for name in names]
    return np.array(listed) if listed else np.zeros(0, "S1")
