"""Keras's formats as rows: a whole model of Keras 3, its weights, and `.h5` of every version."""

from __future__ import annotations

from tensorkeep.dtypes import DTYPES
from tensorkeep.format import Format
from tensorkeep.formats.hdf5 import (
    keras_archive,
    keras_legacy,
    keras_legacy_writing,
    keras_shards,
    keras_weights,
    keras_writing,
)
from tensorkeep.formats.hdf5.file import LIBRARY_ERRORS
from tensorkeep.formats.hdf5.keras_detect import LEGACY, WEIGHTS, kind
from tensorkeep.state import State
from tensorkeep.store import Location

_HOLDS = frozenset(kind for kind in DTYPES.values() if kind.block == 1)


def _accepts_weights(location: Location) -> bool:
    """An HDF5 file with all its arrays in groups called `vars`, or an index of such."""
    if location.name.endswith(keras_shards.INDEX):
        return location.head.lstrip()[:1] == b"{"
    return kind(location) == WEIGHTS


def _decode_weights(location: Location) -> State:
    if location.name.endswith(keras_shards.INDEX):
        return keras_shards.decode_index(location)
    return keras_weights.decode_source(location.source, location.where, location.close)


ARCHIVED = Format(
    name="keras",
    suffixes=(".keras",),
    accepts=keras_archive.accepts,
    decode=keras_archive.decode,
    encode=keras_archive.encode,
    losses=keras_archive.losses,
    holds=_HOLDS,
    corruption=(RecursionError, *LIBRARY_ERRORS),
    extra="hdf5",
    checked_by="XXH3-128",
    packed="deflate, and as HDF5",
    safe_by="configurations are data; nothing is built",
)
BARE = Format(
    name=WEIGHTS,
    suffixes=(".weights.h5", keras_shards.INDEX),
    accepts=_accepts_weights,
    decode=_decode_weights,
    encode=keras_writing.encode_weights,
    losses=keras_writing.weights_losses,
    holds=_HOLDS,
    corruption=(RecursionError, *LIBRARY_ERRORS),
    extra="hdf5",
    checked_by="XXH3-128",
    packed="as HDF5",
    sharded="an index",
    safe_by="external and virtual storage are refused",
)
OLD = Format(
    name=LEGACY,
    suffixes=(".keras.h5",),
    accepts=keras_legacy.accepts,
    decode=keras_legacy.decode,
    encode=keras_legacy_writing.encode_legacy,
    losses=keras_legacy_writing.legacy_losses,
    holds=_HOLDS,
    corruption=(RecursionError, *LIBRARY_ERRORS),
    extra="hdf5",
    checked_by="XXH3-128",
    packed="as HDF5",
    safe_by="configurations are data; nothing is built",
)
