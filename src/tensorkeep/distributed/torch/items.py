"""What a planner's items hold: tensors as parts to write, and other values as JSON."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from typing import Any

from tensorkeep import api, frameworks
from tensorkeep.distributed.saving import Part
from tensorkeep.distributed.torch.nesting import Path, name_of
from tensorkeep.dtypes import DTYPES, DType, count_of
from tensorkeep.errors import ArgumentError, UnsupportedError
from tensorkeep.frameworks import torch as bridge
from tensorkeep.source import Source
from tensorkeep.state import Json
from tensorkeep.store import Location
from tensorkeep.stores.memory import MemoryStore
from tensorkeep.tensor import Tensor
from tensorkeep.tree import flatten

_STEP = 16 << 20  # bytes that leave a GPU at a time
_FRONT = "\0"


def part_of_tensor(item: Any, planner: Any) -> Part | None:
    """Give what an item of a tensor writes; None where it is an empty box of one that is not.

    Raises:
        UnsupportedError: its element type has no equal here.
    """
    told = item.tensor_data
    shape, box = tuple(told.size), tuple(told.chunk.sizes)
    if not count_of(box) and count_of(shape):
        return None
    kind = dtype_of(told.properties.dtype, item.index.fqn)
    tensor = Tensor(kind, box, Resolved(item, planner, kind, box))
    return Part(item.index.fqn, tensor, tuple(told.chunk.offsets), shape)


def dtype_of(kind: Any, name: str) -> DType:
    """Give the element type that is called as one of PyTorch's is.

    Raises:
        UnsupportedError: there is none.
    """
    found = DTYPES.get(str(kind).removeprefix("torch."))
    if found is None or found.packed:
        cure = "Keep its view(torch.uint8)."
        raise UnsupportedError(f"is a tensor of {kind}, which is not kept", where=name, cure=cure)
    return found


class Resolved(Source):
    """The bytes of a planner's tensor, asked for when they are read and let go behind the last."""

    __slots__ = ("_held", "_item", "_kind", "_lock", "_planner", "_shape")

    def __init__(self, item: Any, planner: Any, kind: DType, shape: tuple[int, ...]) -> None:
        super().__init__(kind.nbytes(count_of(shape)), item.index.fqn)
        self._item = item
        self._planner = planner
        self._kind = kind
        self._shape = shape
        self._lock = threading.Lock()
        self._held: Source | None = None

    def _read(self, start: int, stop: int) -> memoryview:
        with self._lock:
            held = self._held or self._resolve()
            self._held = held if stop < self.size else None
        return held.read(start, stop)

    def _resolve(self) -> Source:
        found = self._planner.resolve_data(self._item).detach()
        name = self._item.index.fqn
        if tuple(found.shape) != self._shape or dtype_of(found.dtype, name) is not self._kind:
            raise ArgumentError(
                f"the planner gives {found.dtype} of shape {tuple(found.shape)} for "
                f"{self._kind} of shape {self._shape}",
                where=name,
            )
        bridge.identity(found, name)  # refuses what is more than memory with strides
        if found.device.type != "cpu" and found.numel():
            return OnDevice(found, name)
        return Tensor.of(bridge.to_numpy(found, name), name).source


class OnDevice(Source):
    """The bytes of a tensor on a GPU, of which a bounded part is copied here at a time."""

    __slots__ = ("_bytes",)

    def __init__(self, tensor: Any, where: str) -> None:
        import torch

        plain = tensor.resolve_conj().resolve_neg().contiguous()
        flat = torch.empty(0, dtype=torch.uint8, device=plain.device)
        start = plain.storage_offset() * plain.element_size()
        self._bytes = flat.set_(plain.untyped_storage(), start, (plain.nbytes,))
        super().__init__(plain.nbytes, where)

    def _read(self, start: int, stop: int) -> memoryview:
        array = self._bytes[start:stop].cpu().numpy()
        array.setflags(write=False)
        return memoryview(array)

    def _readinto(self, start: int, buffer: memoryview) -> None:
        for at in range(0, buffer.nbytes, _STEP):
            stop = min(at + _STEP, buffer.nbytes)
            buffer[at:stop] = self._read(start + at, start + stop)


def shardings_of(planner: Any) -> dict[str, Json]:
    """Say how DTensors lie over their meshes, by name, as far as the planner has them."""
    from torch.distributed.tensor import DTensor

    state = getattr(planner, "state_dict", None)
    tensors = state.items() if isinstance(state, dict) else ()
    return {name: _described(tensor) for name, tensor in tensors if isinstance(tensor, DTensor)}


def _described(tensor: Any) -> Json:
    mesh = tensor.device_mesh
    names = mesh.mesh_dim_names or map(str, range(mesh.ndim))
    return {
        "kind": "DTensor",
        "mesh": {"axes": list(names), "shape": list(mesh.shape)},
        "placements": [repr(placement) for placement in tensor.placements],
    }


def value_of(item: Any, planner: Any) -> Any:
    """Give what an item holds that is no tensor: the object itself, where the planner has it.

    A planner that turns objects into bytes of its own is asked for these, which are read without
    running what they name.
    """
    from torch.distributed.checkpoint import DefaultSavePlanner as Usual

    kind = type(planner)
    if (
        isinstance(planner, Usual)
        and kind.resolve_data is Usual.resolve_data
        and kind.transform_object is Usual.transform_object
    ):
        return planner.lookup_object(item.index)
    data = planner.resolve_data(item)
    store = MemoryStore()
    store.put("object.pt", [data.getvalue() if isinstance(data, io.BytesIO) else bytes(data)])
    store.commit()
    return api.load(Location(store, "object.pt"), format="pytorch", framework="torch")


def described(path: Path, value: Any) -> tuple[Json, dict[str, Tensor]]:
    """Turn a value into a node of a skeleton, and the tensors that are in it.

    Raises:
        UnsupportedError: it cannot be kept; the message names it.
    """
    import torch

    inner = value
    for part in reversed(path):
        inner = {str(part): inner}
    # The tensor in front makes PyTorch's the arrays of which nothing else is said.
    tensors, skeleton = flatten({_FRONT: torch.empty(0), **inner}, frameworks.reader())
    node: Any = (skeleton or {}).get("tree")
    for part in path:
        node = _child(node, str(part))
    found = dict(list(tensors.items())[1:])
    own = name_of(path)
    for name in found:
        if name != own and not name.startswith(f"{own}."):
            problem = "holds a tensor under a key that no tensor can be called by"
            raise UnsupportedError(problem, where=own, cure="Use another key.")
    return node, found


def _child(node: Any, key: str) -> Any:
    if "$dict" not in node:
        return node[key]
    written = f"${key}" if key.startswith("$") else key
    return next(child for name, child in node["$dict"] if name == written)


def parts_of_value(tensors: dict[str, Tensor]) -> Iterator[Part]:
    """Give the tensors inside a value as parts, each a whole."""
    for name, tensor in tensors.items():
        yield Part(name, tensor, (0,) * tensor.ndim, tensor.shape)
