"""Where each sample lies in its file, kept beside it so that it is found out only once.

    train.lmdb  ->  train.lmdb.index.safetensors

An index is a safetensors file with digests of its own. It is for one state of the data, which its
metadata names: a fingerprint of the bytes, and size and time of the file. One that is damaged, or
of another state, is made anew; and so nothing depends on it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tensorkeep import api
from tensorkeep.errors import TensorKeepError
from tensorkeep.reading import read_arrays
from tensorkeep.state import Json

_KEY = "tensorkeep_data_index"
_VERSION = 1
_WORTH = 4096  # samples from which on it is kept


@dataclass(frozen=True)
class Index:
    """What was found out about the samples of a file.

    Args:
        kind: of the dataset, such as "tar", and with it what the arrays mean.
        arrays: by name, a number or more for each sample.
        notes: whatever else, as JSON values.
    """

    kind: str
    arrays: dict[str, npt.NDArray[np.generic]]
    notes: dict[str, Json] = field(default_factory=dict)


def find(
    path: str,
    kind: str,
    fingerprint: str,
    make: Callable[[], Index],
    sound: Callable[[Index], bool] = lambda index: True,
) -> Index:
    """Load the index of a file or folder, or make it, and keep it where it is large.

    Several processes may do so at once. Where it cannot be kept it is not.

    Args:
        path: of the data.
        kind: of the index.
        fingerprint: of the bytes that the index is about.
        make: finds it out.
        sound: says of one that was loaded whether the data can have it, such as all places being
            inside the file; one that is not is made anew.
    """
    name = f"{path.rstrip('/')}.index.safetensors"
    state = [_VERSION, kind, fingerprint, *_file_state(path)]
    found = _load(name, kind, state)
    if found is not None and sound(found):
        return found
    made = make()
    counts = (len(array) for array in made.arrays.values() if array.dtype != np.uint8)
    if max(counts, default=0) >= _WORTH:
        unchanged = [_VERSION, kind, fingerprint, *_file_state(path)] == state
        if unchanged and _is_free(name):
            _keep(name, made, state)
    return made


def _file_state(path: str) -> list[Json]:
    """Give size and time of a file; nothing of a folder, whose fingerprint alone tells."""
    try:
        info = os.stat(path)
    except (OSError, ValueError):
        return []
    return [info.st_size, info.st_mtime_ns] if stat.S_ISREG(info.st_mode) else []


def _load(name: str, kind: str, state: list[Json]) -> Index | None:
    """Read an index into memory; None where there is none that is sound and of this state."""
    if not os.path.isfile(name):
        return None
    try:
        with api.open(name, format="safetensors") as found:
            about = found.metadata.get(_KEY)
            if not isinstance(about, dict) or about.get("state") != state:
                return None
            notes = about.get("notes")
            if not isinstance(notes, dict) or set(found.digests) != set(found):
                return None
            arrays = read_arrays(dict(found.items()), copy=True, digests=found.digests)
            return Index(kind, arrays, notes)
    except (TensorKeepError, OSError):
        return None


def _is_free(name: str) -> bool:
    """Say whether a name is nobody's, or that of an index; what is damaged counts as one."""
    if not os.path.lexists(name):
        return True
    if not os.path.isfile(name) or os.path.islink(name):
        return False
    try:
        with api.open(name, format="safetensors") as found:
            return _KEY in found.metadata
    except (TensorKeepError, OSError):
        return True


def _keep(name: str, index: Index, state: list[Json]) -> None:
    about: dict[str, Json] = {"state": state, "notes": index.notes}
    try:
        api.save(index.arrays, name, format="safetensors", metadata={_KEY: about}, durable=False)
    except (TensorKeepError, OSError):  # a disk that is full or cannot be written to
        return
