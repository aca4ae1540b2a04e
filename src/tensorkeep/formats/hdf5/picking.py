"""Some tensors of an HDF5 file by their names, without listing what else is in it."""

from __future__ import annotations

from typing import Any

from tensorkeep.formats.hdf5.file import h5py
from tensorkeep.formats.hdf5.safety import check_dataset, resolve


def dataset_called(file: Any, name: str, where: str) -> tuple[str, Any] | None:
    """Find the dataset that a tensor's name means; None where only the whole list can tell.

    Args:
        file: an open `h5py.File`, whose tensors have no names but those of their paths.
        name: the tensor's name, in which dots may stand for groups or be part of a link's name.
        where: names the file in messages.

    Returns:
        Its path and the dataset.

    Raises:
        UnsafeError: a link, or the dataset's storage, leads out of the file.
    """
    library = h5py(where)
    at, left, path = file.id, name.split("."), ""
    while True:
        found = [
            count
            for count in range(1, len(left) + 1)
            if at.links.exists(".".join(left[:count]).encode("utf-8", "surrogateescape"))
        ]
        if len(found) != 1 or "/" in left[0]:
            return None
        link = ".".join(left[: found[0]])
        left = left[found[0] :]
        path = f"{path}/{link}" if path else link
        holder, last, _ = resolve(at, link.encode("utf-8", "surrogateescape"), f"{where}: {path}")
        thing = library.h5o.open(holder, last)
        if not left:
            break
        if not isinstance(thing, library.h5g.GroupID):
            return None
        at = thing
    if not isinstance(thing, library.h5d.DatasetID):
        return None
    dataset = library.Dataset(thing)
    check_dataset(dataset, f"{where}: {path}")
    return path, dataset
