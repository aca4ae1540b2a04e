"""Writing PyTorch files: the zip archive that torch.save makes, without torch.

    archive/data.pkl                the nesting; a tensor is a call that names its storage
    archive/byteorder               "little"
    archive/data/0, data/1, ...     the storages, one for each tensor, at multiples of 64
    archive/version                 "3"
    archive/.data/serialization_id  forty digits, here of what data.pkl says
    archive/.data/tensorkeep.json   our notes, where there is something to note

Types that torch lacks are kept as the uint8 tensors of their canonical bytes, and noted. A tensor
that stands in several places of the nesting is one tensor to torch too.

Facts from torch 2.13's torch/serialization.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

import xxhash

from tensorkeep.dtypes import (
    BFLOAT16,
    BOOL,
    COMPLEX64,
    COMPLEX128,
    FLOAT4_E2M1FN,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    INT8,
    INT16,
    INT32,
    INT64,
    UINT8,
    DType,
)
from tensorkeep.format import Stream
from tensorkeep.formats.pytorch.nesting import TORCH_DTYPES, misfits, picklable
from tensorkeep.formats.pytorch.noted import NOTES, note
from tensorkeep.state import State
from tensorkeep.store import Location
from tensorkeep.tensor import Tensor
from tensorkeep.wire.pickle.writing import Call, Global, Persistent, dump
from tensorkeep.wire.zip_writer import Part, write_zip, zip_size

_ARCHIVE = "archive"
_REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
_REBUILD_TYPED = Global("torch._utils", "_rebuild_tensor_v3")  # which is told the element type
_UNTYPED = Global("torch.storage", "UntypedStorage")
_STORAGES = {
    BOOL: "Bool",
    UINT8: "Byte",
    INT8: "Char",
    INT16: "Short",
    INT32: "Int",
    INT64: "Long",
    FLOAT16: "Half",
    BFLOAT16: "BFloat16",
    FLOAT32: "Float",
    FLOAT64: "Double",
    COMPLEX64: "ComplexFloat",
    COMPLEX128: "ComplexDouble",
}


def losses(state: State) -> list[str]:
    """Say what of a state is lost, a sentence each."""
    return misfits(state)


def encode(state: State, location: Location, *, checksums: bool = True) -> Iterator[Stream]:
    """Write all tensors to one archive.

    Args:
        state: what to write.
        location: where to.
        checksums: taken for likeness with other formats; a zip archive always has CRC-32.
    """
    storages = _Storages(state)
    nesting = dump(picklable(state, storages.tensor))
    parts = [
        _whole("data.pkl", nesting),
        _whole("byteorder", b"little"),
        *storages.parts,
        _whole("version", b"3\n"),
        _whole(".data/serialization_id", f"{xxhash.xxh3_128_intdigest(nesting):040}".encode()),
    ]
    if noted := note(state, storages.stored):
        parts.append(_whole(NOTES, noted))
    yield Stream(location.key, write_zip(parts), zip_size(parts))


def _whole(name: str, data: bytes) -> Part:
    return Part(f"{_ARCHIVE}/{name}", len(data), lambda: [data])


class _Storages:
    """The storages that tensors lie in, numbered in the order of the state."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.parts: list[Part] = []
        self.stored: dict[str, tuple[DType, tuple[int, ...]]] = {}
        self._tensors: dict[str, Call] = {}
        for name, tensor in state.items():
            kept = _as_torch_holds(tensor)
            if kept is not tensor:
                self.stored[name] = tensor.dtype, tensor.shape
            key = str(len(self.parts))
            self.parts.append(Part(f"{_ARCHIVE}/data/{key}", kept.nbytes, kept.pieces))
            self._tensors[name] = _rebuilt(kept, key)

    def tensor(self, name: str) -> Call:
        """Give the call that makes a tensor; the same one wherever it stands."""
        return self._tensors[name]


def _as_torch_holds(tensor: Tensor) -> Tensor:
    """Give the tensor itself, or its canonical bytes where torch has no such type."""
    if tensor.dtype is FLOAT4_E2M1FN and tensor.shape and tensor.shape[-1] % 2 == 0:
        return tensor
    if tensor.dtype.name in TORCH_DTYPES:
        return tensor
    return Tensor(UINT8, (tensor.nbytes,), tensor.source, tensor.offset)


def _rebuilt(tensor: Tensor, key: str) -> Call:
    shape, name = tensor.shape, tensor.dtype.name
    if tensor.dtype is FLOAT4_E2M1FN:
        shape, name = (*shape[:-1], shape[-1] // 2), "float4_e2m1fn_x2"
    strides = tuple(_strides(shape))
    if typed := _STORAGES.get(tensor.dtype):
        count = tensor.nbytes // (tensor.dtype.bits // 8)
        storage = Persistent(("storage", Global("torch", f"{typed}Storage"), key, "cpu", count))
        return Call(_REBUILD, (storage, 0, shape, strides, False, OrderedDict()))
    storage = Persistent(("storage", _UNTYPED, key, "cpu", tensor.nbytes))
    kind = Global("torch", name)
    return Call(_REBUILD_TYPED, (storage, 0, shape, strides, False, OrderedDict(), kind))


def _strides(shape: tuple[int, ...]) -> Iterable[int]:
    """Give the strides of C order in elements, as torch counts them for empty axes too."""
    step, strides = 1, []
    for axis in reversed(shape):
        strides.append(step)
        step *= max(axis, 1)
    return reversed(strides)
