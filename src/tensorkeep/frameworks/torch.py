"""PyTorch tensors: shared with NumPy without a copy, whatever their element type.

What is kept of a tensor is its values, shape and element type. An `nn.Parameter` comes back as a
plain tensor and `requires_grad` is not kept, as in what `state_dict()` gives.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import dtypes
from tensorkeep.dtypes import FLOAT4_E2M1FN
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.framework import Framework, library

# Element types that torch has and its NumPy bridge has not, and a type of the same width it knows.
_BRIDGE = {
    "bfloat16": "int16",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
    "float8_e8m0fnu": "uint8",
}
_NATIVE = {
    row.name for row in dtypes.DTYPES.values() if row.bits >= 8 and row is not dtypes.STRING
} - set(_BRIDGE)
_WORTH_PINNING = 1 << 20  # bytes of a tensor that goes to a GPU
_LEAST_PIECE, _MOST_PIECE = 1 << 20, 32 << 20
# Two elements in a byte, the first in its low half; the last axis counts bytes.
_PAIRS = "float4_e2m1fn_x2"

_CURES = {
    "DTensor": "Keep its full_tensor(), or its to_local() under a name for each rank.",
    "FakeTensor": "Save outside FakeTensorMode, where tensors have values.",
    "FunctionalTensor": "Save outside torch.compile, export and functionalization.",
    "NestedTensor": "Keep its values() and offsets(), or a list of its parts from unbind().",
    "MaskedTensor": "Keep its get_data() and get_mask().",
    "UninitializedParameter": "Run the model once on an example, which gives it a shape.",
    "UninitializedBuffer": "Run the model once on an example, which gives it a shape.",
}


def owns(value: Any) -> bool:
    """A tensor, a parameter, or a subclass; `to_numpy` refuses those that it does not know."""
    # Another thread may be importing torch just now.
    return isinstance(value, getattr(sys.modules["torch"], "Tensor", ()))


def identity(value: Any, where: str) -> Hashable:
    """Tell what memory a tensor looks at, and how.

    Raises:
        UnsupportedError: a tensor that is more, or less, than memory with strides.
    """
    if found := _refusal(sys.modules["torch"], value):
        raise UnsupportedError(found[0], where=where, cure=found[1])
    try:
        address = value.data_ptr()
    except RuntimeError as error:
        raise _unreadable(error, where) from None
    if not address and value.numel():  # what NumPy then shows is memory of somebody else's
        raise _unreadable("it has no memory of its own", where)
    how = value.dtype, value.shape, value.stride(), value.is_conj(), value.is_neg()
    return value.device, address, *how


def _refusal(torch: Any, value: Any) -> tuple[str, str] | None:
    """Say what keeps a tensor from being memory with strides, and the cure."""
    kind = type(value)
    if kind not in (torch.Tensor, torch.nn.Parameter):
        cure = "Keep its .as_subclass(torch.Tensor), or the tensors it is made of."
        problem = f"is a {kind.__module__}.{kind.__qualname__}, which is more than a tensor"
        return problem, _CURES.get(kind.__name__, cure)
    if value.is_quantized:
        return "is a quantized tensor", "Keep its int_repr(), its scales and its zero points."
    if value.is_nested:
        return "is a nested tensor", "Keep a list of its parts from unbind()."
    if value.layout is not torch.strided:
        layout = str(value.layout).removeprefix("torch.").lstrip("_")
        return f"is a tensor of layout {layout}", "Keep its to_dense(), or its indices and values."
    if value.device.type == "meta":
        problem = "is on the meta device, where tensors have no values"
        return problem, "Save it once it has been materialized."
    return None


def to_numpy(value: Any, where: str) -> npt.NDArray[Any]:
    """Share a tensor's memory as an array; one on another device is copied once.

    Raises:
        UnsupportedError: a sparse, quantized, nested or storage-less tensor, a subclass with a
            meaning of its own, or an element type without an equal here.
    """
    torch = sys.modules["torch"]
    identity(value, where)
    name = str(value.dtype).removeprefix("torch.")
    try:
        plain = value.detach().cpu().resolve_conj().resolve_neg()
        if name in _NATIVE:
            return np.asarray(plain.numpy())
        if name in _BRIDGE:
            bits = plain.view(getattr(torch, _BRIDGE[name])).numpy()
            return np.asarray(bits.view(dtypes.DTYPES[name].numpy))
        if name == _PAIRS and value.ndim:
            return _unpair(plain.view(torch.uint8).numpy())
    except RuntimeError as error:
        raise _unreadable(error, where) from None
    cure = "Keep torch.view_as_real(it)." if name == "complex32" else "Keep its view(torch.uint8)."
    raise UnsupportedError(
        f"is a tensor of {value.dtype} and shape {tuple(value.shape)}, which is not kept",
        where=where,
        cure=cure,
    )


def from_numpy(array: npt.NDArray[Any], device: Any, where: str) -> Any:
    """Wrap a writable array as a tensor that shares its memory, and place it.

    Raises:
        MissingDependencyError: torch is not installed.
        UnsupportedError: torch has no such element type.
        ArgumentError: torch knows no such device.
    """
    torch = library("torch", where)
    kind = dtypes.dtype(array.dtype)
    tensor: Any
    if kind.name in _NATIVE and hasattr(torch, kind.name):
        tensor = torch.from_numpy(array)
    elif kind.name in _BRIDGE and hasattr(torch, kind.name):
        bits = torch.from_numpy(array.view(_BRIDGE[kind.name]))
        tensor = bits.view(getattr(torch, kind.name))
    elif kind is FLOAT4_E2M1FN and hasattr(torch, _PAIRS) and array.shape[-1:] != ():
        tensor = torch.from_numpy(_pair(array, where)).view(getattr(torch, _PAIRS))
    else:
        raise UnsupportedError(
            f"PyTorch {torch.__version__} cannot hold {kind} of shape {array.shape}",
            where=where,
            cure='Load it with framework="numpy".',
        )
    return tensor if device is None else _place(torch, tensor, device)


def _place(torch: Any, tensor: Any, device: Any) -> Any:
    try:
        target = torch.device(device)
        if target.type == "cuda" and tensor.nbytes >= _WORTH_PINNING and tensor.is_contiguous():
            return _to_cuda(torch, tensor, target)
        return tensor.to(target)
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ArgumentError(f"PyTorch cannot place tensors on {device!r}: {reason}") from error


def _to_cuda(torch: Any, tensor: Any, device: Any) -> Any:
    """Copy to a GPU through two page-locked buffers, one being filled while the other travels.

    PyTorch sends pageable memory through one small buffer of its own; this is six times as fast.
    """
    size = min(max(tensor.nbytes // 4, _LEAST_PIECE), _MOST_PIECE)
    try:
        slots = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
    except RuntimeError:  # the system lets nobody lock so much
        return tensor.to(device)
    made = torch.empty_like(tensor, device=device)
    data, target = (_bytes_of(torch, each) for each in (tensor, made))
    count = target.numel()
    with torch.cuda.device(made.device):
        sent = [torch.cuda.Event() for _ in slots]
        for number, start in enumerate(range(0, count, size)):
            slot, event = slots[number % 2], sent[number % 2]
            stop = min(start + size, count)
            event.synchronize()  # which one that was never recorded does at once
            slot[: stop - start].copy_(data[start:stop])
            target[start:stop].copy_(slot[: stop - start], non_blocking=True)
            event.record()
        for event in sent:  # whatever stream uses it next
            event.synchronize()
    return made


def _bytes_of(torch: Any, tensor: Any) -> Any:
    """Look at the bytes of a contiguous tensor, of whatever type."""
    flat = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    start = tensor.storage_offset() * tensor.element_size()
    return flat.set_(tensor.untyped_storage(), start, (tensor.nbytes,))


def _unpair(codes: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Spread bytes that hold two elements each over a last axis twice as long."""
    *outer, last = codes.shape
    flat = np.ascontiguousarray(codes).reshape(-1)
    values = dtypes.unpack(flat, FLOAT4_E2M1FN, 2 * codes.size)
    return values.reshape(*outer, 2 * last)


def _pair(array: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    *outer, last = array.shape
    if last % 2:
        raise UnsupportedError(
            f"PyTorch keeps {FLOAT4_E2M1FN} in pairs along the last axis, which has {last}",
            where=where,
            cure='Load it with framework="numpy".',
        )
    return dtypes.pack(array, FLOAT4_E2M1FN).reshape(*outer, last // 2)


def _unreadable(reason: Exception | str, where: str) -> UnsupportedError:
    return UnsupportedError(
        f"has values that cannot be read: {str(reason).strip().partition(chr(10))[0]}",
        where=where,
        cure="Save outside vmap, grad and other transformations.",
    )


FRAMEWORK = Framework("torch", "torch", owns, to_numpy, from_numpy, identity)
