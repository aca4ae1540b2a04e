"""From records of tensors to lazy tensors over the storages of a file."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep.dtypes import FLOAT4_E2M1FN, DType
from tensorkeep.errors import CorruptError, UnsafeError
from tensorkeep.formats.pytorch.rebuilding import (
    DTYPE_NAMES,
    Device,
    Layout,
    Parts,
    Rebuilt,
    Size,
    Valueless,
)
from tensorkeep.formats.pytorch.storages import TYPES, UNTYPED, WIDTHS, Storage
from tensorkeep.formats.pytorch.strided import Finish, Strided
from tensorkeep.source import MemorySource
from tensorkeep.tensor import Tensor
from tensorkeep.tree.pickled import Unkept, Verbatim
from tensorkeep.wire.pickle.values import Known, Opaque, OrderedMap

_MAX_AXES = 64
_SPARE, _RATIO = 1 << 30, 16  # how far the tensors together may exceed the file
_MODULE_PARTS = ("_parameters", "_buffers", "_modules")


class Tensors:
    """The tensors of one file: made once for each way of looking at a storage.

    Args:
        where: names the file in messages.
        size: the bytes of the file, which all tensors together may not exceed by far.
    """

    def __init__(self, where: str, size: int) -> None:
        self.where = where
        self.remarks: dict[str, str] = {}
        self.checks: dict[int, Callable[[], None]] = {}  # by the identity of a tensor
        self._room = _SPARE + _RATIO * size
        self._made: dict[tuple[Any, ...], Tensor] = {}

    def look(self, value: Any, place: str) -> Any:
        """Give what a record stands for, as `nest_pickled` asks."""
        kind = type(value)
        if kind is Rebuilt:
            return self._seen(value)
        if kind is Parts:
            for name, part in value.parts.items():
                if isinstance(part, Rebuilt):
                    self.remarks[f"{place}.{name}" if place else name] = f"of a tensor {value.what}"
            return value.parts
        if kind is Storage:
            return self._whole(value)
        if kind is Size:
            return Verbatim({"$torch": ["size", list(value.axes)]})
        if kind is Device:
            return Verbatim({"$torch": ["device", value.text]})
        if kind is Known and value.module == "torch" and value.name in DTYPE_NAMES:
            return Verbatim({"$torch": ["dtype", value.name]})
        if kind is Layout:
            return Unkept("is a torch.layout", value.text)
        if kind is Valueless:
            return Unkept("is a tensor on the meta device, without values")
        if kind is Opaque and isinstance(value.state, dict):
            return _module(value)
        return value

    def _seen(self, record: Rebuilt) -> Any:
        tensor = self._tensor(record)
        if record.state:
            return Unkept("is a tensor with attributes of its own, or of a class", tensor)
        return tensor

    def _whole(self, storage: Storage) -> Any:
        """See a storage as a tensor of one axis."""
        return self._tensor(Rebuilt(storage, 0, (storage.numel,), (1,)))

    def _tensor(self, record: Rebuilt) -> Any:
        storage, offset, shape, strides = self._checked(record)
        name = storage.kind
        if record.kind is not None:
            name = record.kind.name if isinstance(record.kind, Known) else ""
        if name == UNTYPED:
            name = "uint8"
        width = WIDTHS.get(name)
        if width is None:
            raise CorruptError(f"has a tensor of the unknown type {name[:40]!r}", where=self.where)
        key = (storage, offset, shape, strides, name, record.conj, record.neg)
        found = self._made.get(key)
        if found is not None:
            return found
        count = math.prod(shape)
        if count:
            last = offset + sum([(n - 1) * step for n, step in zip(shape, strides, strict=True)])
            if (last + 1) * width > storage.nbytes:
                raise CorruptError(
                    f"a tensor of shape {shape} and strides {strides} from element {offset:,} on "
                    f"needs {(last + 1) * width:,} bytes, but its storage has {storage.nbytes:,}",
                    where=self.where,
                    cure="Its header lies about sizes; do not trust it.",
                )
            self._room -= count * width
            if self._room < 0:
                raise UnsafeError(
                    "its tensors together would be far larger than the file", where=self.where
                )
        kind = TYPES.get(name)
        if kind is None:
            return Unkept(f"is a tensor of torch.{name}, which is not kept")
        made = self._made[key] = self._make(storage, kind, offset, shape, strides, record)
        if storage.check is not None:
            self.checks[id(made)] = storage.check
        return made

    def _checked(self, record: Rebuilt) -> tuple[Storage, int, tuple[int, ...], tuple[int, ...]]:
        """Check that a record is one of numbers; nothing in it is trusted before."""
        storage, offset = record.storage, record.offset
        shape, strides = _axes(record.shape), _axes(record.strides)
        if (
            type(storage) is not Storage
            or type(offset) is not int
            or offset < 0
            or shape is None
            or strides is None
            or len(shape) != len(strides)
            or len(shape) > _MAX_AXES
            or (shape and (min(shape) < 0 or min(strides) < 0))
            or max(shape, default=0) >= 2**59
            or max(strides, default=0) >= 2**63
            or offset >= 2**63
        ):
            raise CorruptError(
                "has a tensor whose storage, offset, shape and strides make none", where=self.where
            )
        return storage, offset, shape, strides

    def _make(
        self,
        storage: Storage,
        kind: DType,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        record: Rebuilt,
    ) -> Tensor:
        seen = shape
        if kind is FLOAT4_E2M1FN:  # the last axis counts pairs
            seen = (*shape[:-1], 2 * shape[-1]) if shape else (2,)
        width = max(1, kind.bits // 8)
        count = math.prod(shape)
        if not count:
            return Tensor(kind, seen, MemorySource(b"", self.where))
        source = storage.source
        if source is None:
            raise CorruptError("has a tensor whose storage is not there", where=self.where)
        start = storage.start + offset * width
        finish = self._finish(kind, record)
        swapped = storage.swapped and width > 1
        if finish is None and not swapped and _is_contiguous(shape, strides):
            return Tensor(kind, seen, source, start, count * width)
        stored = kind.numpy if kind.kind == "complex" else np.dtype(f"u{width}")
        stored = stored.newbyteorder(">" if swapped else "<")
        return Tensor(kind, seen, Strided(source, start, stored, shape, strides, finish))

    def _finish(self, kind: DType, record: Rebuilt) -> Finish | None:
        """Give what makes values that are only seen as conjugated or negated so."""
        if not (record.conj or record.neg):
            return None
        if kind.packed or kind.kind not in ("float", "complex")[record.conj :]:
            raise CorruptError(f"sees {kind} as conjugated or negated", where=self.where)

        def finish(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            found = values.view(kind.numpy)
            if record.conj:
                found = np.conj(found)
            return np.negative(found) if record.neg else found

        return finish


def _axes(given: Any) -> tuple[int, ...] | None:
    axes = given.axes if type(given) is Size else given
    if type(axes) is list:
        axes = tuple(axes)
    if type(axes) is not tuple:
        return None
    for axis in axes:
        if type(axis) is not int:
            return None
    return axes


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    run = 1
    for size, step in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and step != run:
            return False
        run *= size
    return True


def _module(value: Opaque) -> Any:
    """Give the tensors of a module that was pickled whole, as its state_dict names them."""
    parts = [value.state.get(name) for name in _MODULE_PARTS]
    if not any(isinstance(part, dict) for part in parts):
        return value
    data = OrderedMap()
    for part in parts:
        for key, child in (part if isinstance(part, dict) else {}).items():
            if child is not None:
                data[key] = child
    return Unkept(f"would need {value.path[:200]}", data)
