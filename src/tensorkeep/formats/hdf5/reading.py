"""A dataset of HDF5 as a lazy Tensor, and attributes as JSON.

Elements that lie in the file as they are in memory are a window on the file's Source. Chunked and
compressed ones are decoded by the library, of the range that is read alone. Strings are read when
the file is opened, since nothing else tells how many bytes they are.
"""

from __future__ import annotations

import math
from typing import Any

from tensorkeep import dtypes
from tensorkeep.dtypes import DTYPES, DType
from tensorkeep.errors import CorruptError
from tensorkeep.formats.hdf5.decoded import Decoded, Unreadable, filters, missing_filter
from tensorkeep.formats.hdf5.elements import SHAPE, TAG, Elements, elements_of
from tensorkeep.formats.hdf5.file import check_open, damage, h5py, open_file
from tensorkeep.formats.hdf5.jsonable import attribute, attributes
from tensorkeep.formats.hdf5.safety import check_expansion, check_total, walk
from tensorkeep.formats.hdf5.texts import read_texts
from tensorkeep.source import MemorySource, Source
from tensorkeep.tensor import Tensor
from tensorkeep.wire.elements import Swapped

__all__ = [
    "attributes",
    "check_open",
    "check_total",
    "damage",
    "open_file",
    "read_tensor",
    "remark",
    "walk",
]


def read_tensor(dataset: Any, source: Source, where: str) -> Tensor:
    """Make a lazy tensor of an `h5py.Dataset`; see `remark` for what its type does not tell.

    Args:
        dataset: one of an open file, which has to stay open while what is not a window on `source`
            is read.
        source: the bytes of that file.
        where: names the dataset in messages.

    Raises:
        CorruptError: its elements are not in the file.
        UnsafeError: it says it holds far more than the file can.
    """
    with damage(where):
        return _read(dataset, source, where)


def _read(dataset: Any, source: Source, where: str) -> Tensor:
    space = dataset.id.get_space()
    kind = dataset.id.get_type()
    elements = elements_of(kind)
    empty = space.get_simple_extent_type() == h5py(where).h5s.NULL
    shape = (0,) if empty else tuple(map(int, space.get_simple_extent_dims()))
    stored = dataset.id.get_storage_size()
    declared = kind.get_size() * math.prod(shape)
    check_expansion(declared, stored, where)
    if elements.dtype is None:
        return _unreadable(elements.remark, declared, where)
    offset = dataset.id.get_offset()
    if offset is None and (lacking := missing_filter(dataset)):
        return _unreadable(lacking, declared, where)
    if elements.text:
        return read_texts(dataset, elements, shape, source, where)
    shape += elements.inner
    found, shape = _tagged(dataset, elements, elements.dtype, shape, where)
    if not declared:
        return Tensor(found, shape, MemorySource(b"", where))
    if offset is None:
        return Tensor(found, shape, Decoded(dataset, elements, declared, where), 0, declared)
    if stored < declared:
        raise CorruptError(f"takes {declared:,} bytes, but has {stored:,}", where=where)
    if elements.swapped:
        return Tensor(found, shape, Swapped(source, offset, declared, elements.width), 0, declared)
    return Tensor(found, shape, source, offset, declared)


def _unreadable(reason: str, declared: int, where: str) -> Tensor:
    return Tensor(dtypes.UINT8, (declared,), Unreadable(declared, reason, where))


def _tagged(
    dataset: Any, elements: Elements, found: DType, shape: tuple[int, ...], where: str
) -> tuple[DType, tuple[int, ...]]:
    """Give the type and shape that the attributes of a dataset of mere bits say it has."""
    if not elements.raw:
        return found, shape
    named = attribute(dataset, TAG)
    tag = DTYPES.get(named) if isinstance(named, str) else None
    if tag is None or tag is found:
        return found, shape
    size = math.prod(shape) * found.bits // 8
    if not tag.packed and tag is not dtypes.STRING:
        width = elements.inner[0] if elements.inner else elements.width
        if tag.bits != 8 * width:
            return found, shape
        return tag, shape[:-1] if elements.inner else shape
    inside = attribute(dataset, SHAPE)
    if not isinstance(inside, list) or found is not dtypes.UINT8:
        return found, shape
    axes = tuple(axis for axis in inside if type(axis) is int and axis >= 0)
    if len(axes) < len(inside):
        return found, shape
    least = tag.nbytes(math.prod(axes))
    if size != least and (tag is not dtypes.STRING or size < least):
        raise CorruptError(f"{tag} of shape {axes} takes {least} bytes, not {size}", where=where)
    return tag, axes


def remark(dataset: Any, where: str = "") -> str:
    """Say how a dataset is kept, where that is not plainly: its chunks, filters, odd type."""
    with damage(where):
        said = [elements_of(dataset.id.get_type()).remark]
        if dataset.id.get_offset() is not None:
            return said[0]
        said.append(filters(dataset))
        if dataset.id.get_space().get_simple_extent_type() == h5py(where).h5s.NULL:
            said.append("empty")
        return "; ".join(filter(None, said))
