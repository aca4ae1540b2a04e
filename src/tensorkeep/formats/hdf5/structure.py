"""The structure of an HDF5 file: its groups, attributes and datasets, without their elements."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorkeep.formats.hdf5.file import h5py
from tensorkeep.formats.hdf5.storing import Stored, stored_as
from tensorkeep.tensor import Tensor

ALIGNMENT = 64
VERSIONS = ("v108", "v108")  # the file format of 2008, which all readers in use know
_NAME = b"tensorkeep"  # what the library calls a file that has no name

_SLOTS = 521


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file is to hold.

    Args:
        datasets: tensors by path; slashes stand between groups, none in front.
        attributes: by path of a dataset or group (empty for the root), values as h5py takes them.
        groups: paths of groups to make before all else, in this order.
        stored: how a tensor is kept.
    """

    datasets: Mapping[str, Tensor]
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    groups: Iterable[str] = ()
    stored: Callable[[Tensor], Stored] = stored_as


def new_file(target: Any, *, cache: int = 1 << 20, block: int = 2048) -> Any:
    """Make an empty file in a file object; gives the `h5py.File`.

    Args:
        target: a file object to read and write.
        cache: bytes of chunks to keep in memory, of each dataset.
        block: bytes of metadata that the library keeps together.
    """
    library = h5py()
    made = library.h5p.create(library.h5p.FILE_CREATE)
    order = library.h5p.CRT_ORDER_TRACKED | library.h5p.CRT_ORDER_INDEXED
    made.set_link_creation_order(order)
    made.set_obj_track_times(False)  # equal states give equal bytes
    access = library.h5p.create(library.h5p.FILE_ACCESS)
    access.set_libver_bounds(library.h5f.LIBVER_V18, library.h5f.LIBVER_V18)
    access.set_cache(0, _SLOTS, cache, 1.0)
    access.set_meta_block_size(block)
    access.set_fileobj_driver(library.h5fd.fileobj_driver, target)
    return library.File(library.h5f.create(_NAME, library.h5f.ACC_TRUNC, made, access))


def build(
    file: Any, contents: Contents, rows: Mapping[str, Stored], plan: Callable[[Stored], Any]
) -> None:
    """Make all objects of an open, empty file. Strings are written; no other elements are."""
    known: dict[str, Any] = {"": file.id}
    for path in contents.groups:
        _group(known, path)
    for path, row in rows.items():
        parent, _, name = path.rpartition("/")
        dataset = _dataset(_group(known, parent), name.encode(), row, plan(row))
        made = h5py().Dataset(dataset)
        for key, value in row.attributes.items():
            made.attrs.create(key, value)
        if row.texts and made.size:
            values = contents.datasets[path].numpy()
            made.write_direct(np.asarray(values, h5py().string_dtype()))
    for path, attributes in contents.attributes.items():
        target = file[path] if path else file
        for key, value in attributes.items():
            target.attrs.create(key, value)


def _group(known: dict[str, Any], path: str) -> Any:
    if path not in known:
        library = h5py()
        parent, _, name = path.rpartition("/")
        plan = library.h5p.create(library.h5p.GROUP_CREATE)
        order = library.h5p.CRT_ORDER_TRACKED | library.h5p.CRT_ORDER_INDEXED
        plan.set_link_creation_order(order)
        plan.set_obj_track_times(False)
        known[path] = library.h5g.create(_group(known, parent), name.encode(), None, plan)
    return known[path]


def _dataset(parent: Any, name: bytes, row: Stored, plan: Any) -> Any:
    h5s = h5py().h5s
    space = h5s.create_simple(row.shape) if row.shape else h5s.create(h5s.SCALAR)
    return h5py().h5d.create(parent, name, row.kind, space, plan)


def contiguous(row: Stored) -> Any:
    """Plan a dataset in one piece, which gets its room when it is first written."""
    library = h5py()
    plan = library.h5p.create(library.h5p.DATASET_CREATE)
    plan.set_layout(library.h5d.CONTIGUOUS)
    plan.set_alloc_time(library.h5d.ALLOC_TIME_LATE)
    if not row.texts:  # strings need something to be filled with
        plan.set_fill_time(library.h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)
    return plan


def laid_out(contents: Contents, rows: Mapping[str, Stored]) -> tuple[bytes, dict[str, int], int]:
    """Make the structure of a file in memory.

    Returns:
        The bytes before the first tensor; where each tensor that takes any room is to be; and where
        the file ends.
    """
    memory = _Sparse()
    with new_file(memory) as file:
        build(file, contents, rows, contiguous)
    memory.kept = memory.size
    places: dict[str, int] = {}
    # Opened again, so that alignment is that of the elements alone, and they come after all else.
    with h5py().File(
        memory, "r+", libver=VERSIONS, alignment_threshold=1, alignment_interval=ALIGNMENT
    ) as file:
        for path, row in rows.items():
            if contents.datasets[path].nbytes and not row.texts:
                places[path] = _room(file, path.encode(), row)
    if min(places.values(), default=memory.kept) < memory.kept:
        raise AssertionError("the library put elements in the midst of the structure")
    return bytes(memory.data), places, memory.size


def _room(file: Any, path: bytes, row: Stored) -> int:
    """Have room made for a dataset, by writing one element of it."""
    h5s = h5py().h5s
    dataset = h5py().h5d.open(file.id, path)
    space = dataset.get_space()
    if row.shape:
        space.select_hyperslab((0,) * len(row.shape), (1,) * len(row.shape))
    one = np.zeros(row.kind.get_size(), np.uint8)
    dataset.write(h5s.create_simple((1,)), space, one, row.kind)
    return int(dataset.get_offset())


class _Sparse(io.RawIOBase):
    """A file in memory that forgets what is written behind its first `kept` bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()
        self.size = 0
        self.kept: int | None = None
        self._at = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def truncate(self, size: int | None = None) -> int:
        self.size = self._at if size is None else size
        if self.kept is None:
            del self.data[self.size :]
            self.data.extend(bytes(self.size - len(self.data)))
        return self.size

    def readinto(self, buffer: Any) -> int:
        room = memoryview(buffer).cast("B")
        found = self.data[self._at : self._at + room.nbytes]
        room[: len(found)] = found
        room[len(found) :] = bytes(room.nbytes - len(found))
        self._at += room.nbytes
        return room.nbytes

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        start, stop = self._at, self._at + view.nbytes
        self._at, self.size = stop, max(self.size, stop)
        if self.kept is not None:
            view = view[: max(0, self.kept - start)]
        if view.nbytes:
            self.data.extend(bytes(max(0, start + view.nbytes - len(self.data))))
            self.data[start : start + view.nbytes] = view
        return stop - start
