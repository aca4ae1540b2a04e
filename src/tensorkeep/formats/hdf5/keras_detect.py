"""Which of Keras's formats an HDF5 file is, if any.

Keras 3 keeps every variable in a group called `vars`, and nothing outside of such groups. Before
it, `layer_names` said which groups hold layers: at the root of a file of weights, in the group
`model_weights` of a whole model, whose architecture is an attribute of the root.
"""

from __future__ import annotations

import posixpath
from contextlib import closing
from typing import Any

from tensorkeep.errors import TensorKeepError
from tensorkeep.formats.hdf5.file import MARK, damage, is_hdf5, open_file
from tensorkeep.formats.hdf5.seal import check_seal
from tensorkeep.store import Location

WEIGHTS, LEGACY = "keras-weights", "keras-legacy"
LAYERS, MODEL, OPTIMIZER = "layer_names", "model_weights", "optimizer_weights"
ARCHITECTURE = "model_config"
VARS = "vars"
NOTES = f"{MARK}-keras"  # the root's attribute that every file of Keras's written here has
_ENOUGH = 100  # objects to look at


def kind(location: Location) -> str:
    """Name the format of Keras's that a location is of; empty for none."""
    if not location.key or not is_hdf5(location.head):
        return ""
    source, where = location.source, location.where
    try:
        sealed = check_seal(source, where) is not None  # damage is found before the library sees it
        with closing(open_file(source, where)) as file, damage(where):
            return _kind(file, sealed)
    except TensorKeepError:
        return ""


def _kind(file: Any, sealed: bool) -> str:
    attributes = file.attrs
    # A file of our own is what it was written as, whatever its tensors are called.
    if MARK in attributes or (sealed and NOTES not in attributes):
        return ""
    if any(name in attributes for name in (LAYERS, f"{LAYERS}0", ARCHITECTURE)):
        return LEGACY
    return WEIGHTS if _has_only_vars(file) else ""


def _has_only_vars(file: Any) -> bool:
    """Say whether all that a file holds, as far as it is looked at, is in groups called `vars`."""
    seen = 0
    found = False

    def look(path: str, thing: Any) -> bool | None:
        nonlocal seen, found
        seen += 1
        group, name = posixpath.split(path)
        is_array = hasattr(thing, "dtype")
        if is_array and posixpath.basename(group) != VARS:
            found = False
            return True
        found = found or is_array or name == VARS
        return True if seen > _ENOUGH else None

    file.visititems(look)
    return found
