"""keras-legacy: `.h5` as Keras 1 and 2 wrote it, and Keras 3 still does: weights, or a whole model.

The attributes `model_config` and `training_config` of a whole model are JSON; `keras_version` and
`backend` say what wrote it. Lists of names longer than 64 KB are split into several attributes with
a number behind their name. See `keras_structure` for the groups.

Facts from files of tf_keras 2.21 and Keras 3.15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any

from tensorkeep.dtypes import BFLOAT16, UINT8
from tensorkeep.errors import CorruptError
from tensorkeep.formats.hdf5.elements import TAG
from tensorkeep.formats.hdf5.keras_config import code_in, parse_config
from tensorkeep.formats.hdf5.keras_detect import (
    ARCHITECTURE,
    LAYERS,
    LEGACY,
    MODEL,
    OPTIMIZER,
    kind,
)
from tensorkeep.formats.hdf5.keras_structure import TOP, Structure
from tensorkeep.formats.hdf5.keras_weights import KEY, read_digests, read_notes
from tensorkeep.formats.hdf5.reading import (
    attributes,
    check_total,
    damage,
    open_file,
    read_tensor,
    walk,
)
from tensorkeep.formats.hdf5.seal import Seal, check_seal
from tensorkeep.source import Source
from tensorkeep.state import Json, State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.text import show

TRAINING = "training_config"
WEIGHTS = "weight_names"
_MAKER = ("keras_version", "backend")
_CONFIGS = (ARCHITECTURE, TRAINING)
_MAX_CHUNKS = 10_000


def accepts(location: Location) -> bool:
    """An HDF5 file that says which layers it holds, or how a model is built."""
    return kind(location) == LEGACY


def decode(location: Location) -> State:
    """Read the architecture, the names, and where the weights lie."""
    source, where = location.source, location.where
    seal = check_seal(source, where)
    file = open_file(source, where)

    def close() -> None:
        file.close()
        location.close()

    try:
        with damage(where):
            return _decoded(file, source, seal, where, close)
    except BaseException:
        close()
        raise


def _decoded(
    file: Any, source: Source, seal: Seal | None, where: str, close: Callable[[], None]
) -> State:
    arrays = dict(walk(file, where))
    groups = _groups(file, where)
    root = groups[""]
    whole = MODEL in groups and LAYERS not in root and f"{LAYERS}0" not in root
    above = f"{MODEL}/" if whole else ""
    structure = _structure(groups, above, where)
    notes = read_notes(file, where)
    digests = read_digests(seal, arrays, where)
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}
    for name, path in structure.places(above).items():
        if path not in arrays:
            raise CorruptError(f"lists the weight {path!r}, which is not there", where=where)
        names[path] = name
        tensors[name] = _tensor(arrays.pop(path), source, f"{where}: {path}")
    for path, dataset in arrays.items():  # which Keras does not look at
        if path in tensors:
            raise CorruptError(f"has two weights called {path!r}", where=where)
        names[path] = path
        tensors[path] = _tensor(dataset, source, f"{where}: {path}")
    check_total(tensors.values(), source, where)
    if digests:
        tensors = {names[path]: tensors[names[path]] for path in digests}
    keras = _metadata(root, groups.get(above.rstrip("/"), {}), structure, where)
    if KEY in notes.metadata:
        noted = notes.metadata[KEY]
        keras = keras | noted if isinstance(noted, dict) else {}
    return State(
        tensors,
        metadata=notes.metadata | ({KEY: keras} if keras else {}),
        skeleton=notes.skeleton,
        digests={names[path]: digest for path, digest in digests.items()},
        format=LEGACY,
        where=where,
        close=close,
    )


def _groups(file: Any, where: str) -> dict[str, dict[str, Json]]:
    """Read the attributes of all groups, by path."""
    found = {"": attributes(file, where)}

    def look(path: str, thing: Any) -> None:
        if not hasattr(thing, "dtype") and len(thing.attrs):
            found[path] = attributes(thing, f"{where}: {path}")

    file.visititems(look)
    return found


def _structure(groups: Mapping[str, dict[str, Json]], above: str, where: str) -> Structure:
    structure = Structure()
    for layer in _names(groups.get(above.rstrip("/"), {}), LAYERS, where):
        if layer in structure.layers:
            raise CorruptError(f"lists the layer {layer!r} twice", where=where)
        structure.layers[layer] = _names(groups.get(above + layer, {}), WEIGHTS, where)
    if above + TOP in groups:
        structure.top = _names(groups[above + TOP], WEIGHTS, where)
    if OPTIMIZER in groups and (above or OPTIMIZER not in structure.layers):
        structure.optimizer = _names(groups[OPTIMIZER], WEIGHTS, where)
    return structure


def _names(attrs: Mapping[str, Json], key: str, where: str) -> list[str]:
    """Join a list of names that may be split into several attributes."""
    parts = [attrs.get(key)] if key in attrs else []
    if not parts:
        numbered = (f"{key}{place}" for place in range(_MAX_CHUNKS))
        parts = [attrs[name] for name in takewhile(attrs.__contains__, numbered)]
    names: list[str] = []
    for part in parts:
        listed = part if part is not None else []
        if not isinstance(listed, list):
            raise CorruptError(f"its {key} is {show(part)}, not a list of names", where=where)
        for name in listed:
            if not isinstance(name, str):
                raise CorruptError(f"its {key} lists {show(name)}, not a name", where=where)
            names.append(name)
    return names


def _tensor(dataset: Any, source: Source, where: str) -> Tensor:
    """Read where a weight lies; two bytes of no type are bfloat16, which Keras does not tag."""
    found = read_tensor(dataset, source, where)
    if found.dtype is UINT8 and dataset.dtype.str == "|V2" and TAG not in dataset.attrs:
        return Tensor(BFLOAT16, found.shape[:-1], found.source, found.offset, found.nbytes)
    return found


def _metadata(
    root: Mapping[str, Json], maker: Mapping[str, Json], structure: Structure, where: str
) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key in _MAKER:
        value = root.get(key, maker.get(key))
        if isinstance(value, str):
            found[key] = value
    code: list[Json] = []
    for key in _CONFIGS:
        text = root.get(key)
        if isinstance(text, str):
            found[key] = parse_config(text, where, key)
            code += code_in(found[key])
    if code:
        found["code"] = code
    return found | structure.as_json()
