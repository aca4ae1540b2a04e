"""Which HDF5 datatype, shape and attributes a tensor is stored with.

Everything that HDF5 has a datatype for gets it: bool and complex as h5py writes them, bfloat16 and
float8_e5m2 as floats of that many bits, which every reader converts by their fields. The other
8-bit floats do not follow its rules for infinity and NaN, and would be read as wrong numbers; they
and what is narrower than a byte are bytes with an attribute `dtype` (and `shape`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tensorkeep import dtypes
from tensorkeep.dtypes import DType
from tensorkeep.formats.hdf5.elements import FLOATS, SHAPE, TAG
from tensorkeep.formats.hdf5.file import h5py
from tensorkeep.tensor import Tensor

_MAX_TEXT = 1 << 20
_AS_FLOATS = {dtypes.BFLOAT16, dtypes.FLOAT8_E5M2}


@dataclass(frozen=True, slots=True)
class Stored:
    """How a tensor is kept.

    Args:
        kind: a low-level `h5py.h5t.TypeID`.
        shape: of the dataset.
        attributes: of the dataset.
        texts: whether its strings are written by the library; its bytes are the tensor's otherwise.
    """

    kind: Any
    shape: tuple[int, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    texts: bool = False


def stored_as(tensor: Tensor) -> Stored:
    """Choose how a tensor is kept."""
    h5t = h5py().h5t
    kind = tensor.dtype
    if kind is dtypes.STRING and _is_plain_text(tensor):
        return Stored(h5t.py_create(h5py().string_dtype(), logical=True), tensor.shape, texts=True)
    if kind in _AS_FLOATS:
        return Stored(float_type(kind), tensor.shape)
    if kind.packed or kind is dtypes.STRING:
        axes = np.array(tensor.shape, "<i8")
        return Stored(h5t.STD_U8LE, (tensor.nbytes,), {TAG: kind.name, SHAPE: axes})
    if kind.bits == 8 and kind.kind == "float":
        return Stored(h5t.STD_U8LE, tensor.shape, {TAG: kind.name})
    logical = kind.kind in ("bool", "complex")
    return Stored(h5t.py_create(kind.numpy.newbyteorder("<"), logical=logical), tensor.shape)


def float_type(kind: DType) -> Any:
    """Make the HDF5 datatype with the bit fields of a float that NumPy itself does not have."""
    size, fields, bias = next(key for key, found in FLOATS.items() if found is kind)
    made = h5py().h5t.IEEE_F32LE.copy()
    made.set_fields(*fields)
    made.set_size(size)
    made.set_ebias(bias)
    return made


def _is_plain_text(tensor: Tensor) -> bool:
    """Say whether HDF5's strings hold it: no NUL inside, UTF-8 throughout, not very long."""
    if tensor.nbytes > _MAX_TEXT:
        return False
    text = bytes(tensor.read()[8 * (tensor.size + 1) :])
    try:
        return "\0" not in text.decode()
    except UnicodeDecodeError:
        return False
