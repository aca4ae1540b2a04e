"""keras-weights: the variables of a Keras 3 model as `.weights.h5`.

    layers/dense/vars/0, 1, ...       the variables of a layer; `vars` has the layer's name
    layers/sequential/layers/...      those of a model in the model
    optimizer/vars/0, 1, ...          those of the optimizer
    vars                              those of the model itself, and its name

Layers are found by what `layer.name` is not: the class, and a count. Nothing says what a variable
is called (kernel, bias). The order in which they lie in the file is that of the model's layers, and
is kept. Types that HDF5 lacks have an attribute `dtype`, as Keras gives it to bfloat16.

Facts from Keras 3.15's files, and its `saving_lib`'s behaviour.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tensorkeep.errors import CorruptError
from tensorkeep.formats.hdf5.jsonable import attribute
from tensorkeep.formats.hdf5.keras_detect import NOTES, VARS, WEIGHTS
from tensorkeep.formats.hdf5.keras_names import layer_of, name_of, natural, path_of
from tensorkeep.formats.hdf5.reading import (
    check_total,
    damage,
    open_file,
    read_tensor,
    walk,
)
from tensorkeep.formats.hdf5.seal import Seal, check_seal
from tensorkeep.notes import Notes, parse_notes
from tensorkeep.source import Source
from tensorkeep.state import State
from tensorkeep.tensor import Tensor

KEY = "keras"
LAYERS = "layers"


def decode_source(source: Source, where: str, close: Callable[[], None]) -> State:
    """Read the structure of one file, of which `source` holds the bytes.

    Raises:
        CorruptError: it is damaged, or holds what is no variable.
        UnsafeError: it reaches for other files, or for more memory than it has bytes.
    """
    seal = check_seal(source, where)
    file = open_file(source, where)

    def close_all() -> None:
        file.close()
        close()

    try:
        with damage(where):
            return _decoded(file, source, seal, where, close_all)
    except BaseException:
        close_all()
        raise


def _decoded(
    file: Any, source: Source, seal: Seal | None, where: str, close: Callable[[], None]
) -> State:
    found = _variables(file, source, where)
    named = _layers(file)
    notes = read_notes(file, where)
    digests = read_digests(seal, found, where)
    tensors = {name_of(path): found[path] for path in digests or found}
    keras: dict[str, Any] = {LAYERS: dict(named)} if named else {}
    if KEY in notes.metadata:
        noted = notes.metadata[KEY]
        keras = keras | noted if isinstance(noted, dict) else {}
    return State(
        tensors,
        metadata=notes.metadata | ({KEY: keras} if keras else {}),
        skeleton=notes.skeleton,
        digests={name_of(path): digest for path, digest in digests.items()},
        remarks=remarks_on(tensors, named),
        format=WEIGHTS,
        where=where,
        close=close,
    )


def read_notes(file: Any, where: str) -> Notes:
    """Read what we noted in a file of Keras's."""
    text = attribute(file, NOTES)
    return parse_notes(text, where) if isinstance(text, str) else Notes()


def read_digests(seal: Seal | None, paths: Iterable[str], where: str) -> dict[str, str]:
    """Read the digests behind a file's end, by path, in the order that tensors were saved in."""
    if seal is None or not seal.document:
        return {}
    return parse_notes(seal.document, where, paths).digests or {}


def remarks_on(names: Iterable[str], named: Mapping[str, str]) -> dict[str, str]:
    """Say which layers the variables of those names belong to, where the file tells."""
    layers = {name: layer_of(path_of(name), named) for name in names}
    return {name: layer for name, layer in layers.items() if layer}


def _variables(file: Any, source: Source, where: str) -> dict[str, Tensor]:
    """Read where all variables are, by path, in the order that they lie in the file."""
    groups: dict[str, dict[str, Tensor]] = {}
    for path, dataset in walk(file, where):
        group, name = posixpath.split(path)
        if posixpath.basename(group) != VARS:
            raise CorruptError(
                f"holds {path!r}, which is not in a group called {VARS!r} as all that Keras 3 "
                "keeps",
                where=where,
                cure="Open it with format='hdf5'.",
            )
        groups.setdefault(group, {})[name] = read_tensor(dataset, source, f"{where}: {path}")
    starts = {
        group: min((t.offset for t in tensors.values() if t.source is source), default=math.inf)
        for group, tensors in groups.items()
    }
    found = {
        f"{group}/{name}": groups[group][name]
        for group in sorted(groups, key=lambda group: (starts[group], natural(group)))
        for name in sorted(groups[group], key=natural)
    }
    check_total(found.values(), source, where)
    return found


def _layers(file: Any) -> dict[str, str]:
    """Read the names of layers, by the path that their variables are under."""
    named: dict[str, str] = {}

    def look(path: str, thing: Any) -> None:
        group, last = posixpath.split(path)
        if last == VARS and not hasattr(thing, "dtype"):
            name = attribute(thing, "name")
            if isinstance(name, str):
                named[group] = name

    file.visititems(look)
    return dict(sorted(named.items(), key=lambda row: natural(row[0])))
