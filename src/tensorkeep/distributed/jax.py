"""JAX: arrays over many devices and processes, saved by their shards and loaded to any other mesh.

Each process writes what its own devices hold, of each replicated shard one copy; values that are no
global arrays (NumPy's, numbers, arrays on one process's devices) come from process 0. How an array
was sharded is kept with it: the axes and the shape of its mesh, and its PartitionSpec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tensorkeep import api
from tensorkeep.checkpoint.filling import fill
from tensorkeep.checkpoint.stateful import capture
from tensorkeep.distributed.jax_processes import Channel
from tensorkeep.distributed.saving import Part, SharedSave, Skeleton, new_token
from tensorkeep.errors import ArgumentError, LossError, TensorKeepError
from tensorkeep.formats.safetensors.sharded import PieceChecks
from tensorkeep.framework import library
from tensorkeep.frameworks import jax as arrays
from tensorkeep.frameworks import reader
from tensorkeep.source import Source
from tensorkeep.state import Json, State
from tensorkeep.stores import Target
from tensorkeep.tensor import Tensor
from tensorkeep.tree import flatten, unflatten

Index = tuple[slice, ...]


def save(
    tree: Any,
    path: Target,
    *,
    step: int | None = None,
    metadata: Mapping[str, Json] | None = None,
    metrics: Mapping[str, Any] | None = None,
    reason: str = "",
    durable: bool = True,
    timeout: float = 600.0,
    max_shard_size: int | str | None = "5GB",
    overwrite: bool = False,
) -> None:
    """Save a nesting with global arrays; all processes call it, with the same nesting.

    It returns once the checkpoint is there. Whatever process dies before that, the checkpoint
    before stays the newest.

    Args:
        tree: any nesting of dicts, lists, numbers and arrays, Flax's and Optax's states too.
        path: of the checkpoint, such as "run/step-1200"; also an URL or a Location.
        step: of the training; that of the path where it is not given.
        metadata: JSON values to keep with it.
        metrics: what was measured, by name.
        reason: why it is saved.
        durable: have it on the disk when this returns.
        timeout: seconds that process 0 waits for the next process to be done.
        max_shard_size: how many bytes a file holds at most, or one shard that is larger.
        overwrite: replace a checkpoint of the same step.

    Raises:
        StoreError: a process is missing or failed, which the message names; or the disk did.
        UnsupportedError: something in the nesting cannot be kept.
        ArgumentError: the path does not end in `step-N`, or that step is saved already.
        MissingDependencyError: jax is not installed.
    """
    jax = library("jax", str(path))
    channel = Channel(jax, str(path), timeout)
    make = partial(
        SharedSave,
        path,
        rank=channel.rank,
        ranks=channel.ranks,
        step=step,
        durable=durable,
        timeout=timeout,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
    )
    if channel.rank:
        with make(token=channel.hear("token")) as shared:
            try:
                _put(jax, tree, shared, channel)
            except BaseException as error:
                shared.fail(error)
                raise
            channel.hear("outcome", 4.0)
        return
    token = new_token()
    try:
        shared = make(token=token)
        shared.open()
    except BaseException as error:
        channel.tell("token", "", error)
        raise
    try:
        channel.tell("token", token)
        skeleton, order, sharding = _put(jax, tree, shared, channel)
        shared.commit(
            skeleton=skeleton,
            metadata=metadata,
            metrics=metrics,
            reason=reason,
            sharding=sharding,
            order=order,
        )
    except BaseException as error:
        shared.abandon()
        channel.tell("outcome", "", error)
        raise
    channel.tell("outcome", "saved")


def _put(
    jax: Any, tree: Any, shared: SharedSave, channel: Channel
) -> tuple[Skeleton | None, list[str], dict[str, Json]]:
    nested, _ = capture(tree)
    marks = _Marks(jax)
    tensors, skeleton = flatten(nested, marks.to_array)
    leaves = {name: marks.leaf(tensor) for name, tensor in tensors.items()}

    def parts() -> Iterator[Part]:
        for name, tensor in tensors.items():
            value = leaves[name]
            if value is None or (channel.ranks > 1 and value.is_fully_addressable):
                if channel.rank == 0:
                    whole = tensor if value is None else Tensor.of(arrays.to_numpy(value, name))
                    yield Part(name, whole, (0,) * len(whole.shape), whole.shape)
                continue
            for shard in value.addressable_shards:
                if shard.replica_id == 0:
                    offsets = tuple(place.start or 0 for place in shard.index)
                    yield Part(name, _on_device(shard.data, name), offsets, value.shape)

    shared.put(parts(), skeleton=skeleton)
    sharding = {n: _described(v.sharding) for n, v in leaves.items() if v is not None}
    return skeleton, list(tensors), sharding


class _Marks:
    """Lets a nesting be walked without its arrays: numbers stand for them."""

    def __init__(self, jax: Any) -> None:
        self._jax = jax
        self._read = reader()
        self._marks: dict[int, npt.NDArray[Any]] = {}  # by the address of the value
        self._values: dict[int, Any] = {}  # by the address of the mark's memory

    def to_array(self, value: Any, where: str) -> tuple[str, npt.NDArray[Any]] | None:
        jax = self._jax
        if not isinstance(value, jax.Array) or isinstance(value, jax.core.Tracer):
            return self._read(value, where)
        if id(value) not in self._marks:
            mark = np.array(len(self._marks))
            self._marks[id(value)] = mark
            self._values[mark.ctypes.data] = value
        return "jax", self._marks[id(value)]

    def leaf(self, tensor: Tensor) -> Any:
        """Give the array that a tensor stands for; None for one that stands for itself."""
        if tensor.shape != () or tensor.nbytes != 8:
            return None
        return self._values.get(np.frombuffer(tensor.read(), np.uint8).ctypes.data)


def _on_device(data: Any, where: str) -> Tensor:
    """Give a shard as a tensor, which is copied from its device when it is written."""
    first = next(iter(data.devices()))
    if first.platform == "cpu" or not data.size:
        return Tensor.of(arrays.to_numpy(data, where))
    probe = Tensor.of(np.zeros((), data.dtype))
    source = _Shard(data, probe.dtype.nbytes(data.size), where)
    return Tensor(probe.dtype, data.shape, source)


class _Shard(Source):
    """The bytes of a shard on a device: in the host's memory only while they are read."""

    __slots__ = ("_data", "_host")

    def __init__(self, data: Any, nbytes: int, where: str) -> None:
        super().__init__(nbytes, where)
        self._data = data
        self._host: Tensor | None = None

    def _read(self, start: int, stop: int) -> memoryview:
        if self._host is None:
            self._host = Tensor.of(np.array(arrays.to_numpy(self._data, self.where)))
        found = self._host.source.read(start, stop)
        if stop == self.size:
            self._host = None
        return found


def _described(sharding: Any) -> Json:
    """Say as JSON how an array is sharded."""
    mesh, spec = getattr(sharding, "mesh", None), getattr(sharding, "spec", None)
    if mesh is None or spec is None:
        return {"kind": type(sharding).__name__, "devices": len(sharding.device_set)}
    return {
        "mesh": {"axes": [str(n) for n in mesh.axis_names], "shape": list(mesh.axis_sizes)},
        "spec": [list(map(str, p)) if isinstance(p, tuple) else p and str(p) for p in spec],
    }


# --- loading ------------------------------------------------------------------------------------


def load(path: Target, like: Any = None, *, mesh: Any = None, verify: bool = False) -> Any:
    """Load a state to devices: each process reads what its own devices need, and no more.

    Args:
        path: of the checkpoint, or of any other state.
        like: how it is to lie, a nesting as it was saved: of shardings, of PartitionSpecs (with
            `mesh`), or of arrays or jax.ShapeDtypeStructs that have one. A None takes what was
            saved, whole. Without it arrays lie on `mesh` as they did on that they were saved from,
            or are whole on the default device.
        mesh: the mesh to lie on, of any shape.
        verify: check each piece that something is read of against its digest.

    Raises:
        MismatchError: `like` is of other shapes or types.
        CorruptError: the checkpoint is damaged.
        ArgumentError: an array cannot lie so.
        LossError: JAX would narrow 64-bit values to 32 bits.
        MissingDependencyError: jax is not installed.
    """
    jax = library("jax", str(path))
    with api.open(path) as state:
        targets = _recorded(jax, state, mesh) if like is None else _wanted(jax, like, mesh)

        def leaf(name: str, framework: str, text: str) -> Any:
            target = targets.get(name)
            ours = framework == "jax" or like is not None
            if target is not None and ours and not text:
                return _placed(jax, state, name, target, verify)
            if verify and name in state.checks:
                state.checks[name]()
            array = np.array(state[name].numpy())
            plain = text or array.dtype == object or framework != "jax"
            return array if plain else arrays.from_numpy(array, None, state.where)

        saved = unflatten(state.skeleton, dict(state.items()), leaf, state.where)
        if like is None:
            return saved
        return fill(_expected(jax, like), saved, state.where)[0]


def _placed(jax: Any, state: State, name: str, sharding: Any, verify: bool) -> Any:
    tensor = state[name]
    kept = jax.dtypes.canonicalize_dtype(tensor.dtype.numpy)
    if kept != tensor.dtype.numpy:
        raise LossError(
            f"JAX would narrow {name!r} from {tensor.dtype} to {kept}",
            where=state.where,
            cure='Set jax.config.update("jax_enable_x64", True), or give None for it.',
        )
    read: dict[Any, npt.NDArray[Any]] = {}

    def part(index: Index) -> npt.NDArray[Any]:
        key = tuple((place.start, place.stop) for place in index)
        if key not in read:
            if verify and isinstance(state.checks, PieceChecks) and name in state.checks:
                state.checks.tensors.check(name, [index])
            read[key] = np.ascontiguousarray(tensor[index]).reshape(tensor[index].shape)
        return read[key]

    try:
        return jax.make_array_from_callback(tensor.shape, sharding, part)
    except TensorKeepError:
        raise
    except (ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ArgumentError(
            f"{name!r} of shape {tensor.shape} cannot lie so: {reason}", where=state.where
        ) from error


def _recorded(jax: Any, state: State, mesh: Any) -> dict[str, Any]:
    """Give the shardings that the arrays had, on another mesh; whole where it does not fit."""
    if mesh is None:
        return {}
    known = (
        state.checks.tensors.files.manifest.sharded if isinstance(state.checks, PieceChecks) else {}
    )
    sizes = dict(zip(mesh.axis_names, mesh.axis_sizes, strict=True))
    found = {}
    for name, tensor in state.items():
        told = known[name].sharding if name in known else None
        spec = told.get("spec", []) if isinstance(told, dict) else []
        axes: list[Any] = []
        for size, place in zip(tensor.shape, spec if isinstance(spec, list) else [], strict=False):
            names = [n for n in (place if isinstance(place, list) else [place]) if n in sizes]
            fits = names and size % int(np.prod([sizes[n] for n in names])) == 0
            axes.append(tuple(names) if fits else None)
        found[name] = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
    return found


def _is_target(jax: Any, value: Any) -> bool:
    kinds = (jax.sharding.Sharding, jax.sharding.PartitionSpec, jax.Array, jax.ShapeDtypeStruct)
    return value is None or isinstance(value, kinds)


def _wanted(jax: Any, like: Any, mesh: Any) -> dict[str, Any]:
    """Give the sharding that `like` wants of each tensor, by its name."""
    leaves, tree = jax.tree.flatten(like, is_leaf=partial(_is_target, jax))
    marks = [np.array(place) for place in range(len(leaves))]
    places = {mark.ctypes.data: place for place, mark in enumerate(marks)}
    nested, _ = capture(jax.tree.unflatten(tree, marks))
    found: dict[str, Any] = {}
    for name, tensor in flatten(nested, reader())[0].items():
        value = leaves[places[np.frombuffer(tensor.read(), np.uint8).ctypes.data]]
        if isinstance(value, jax.sharding.PartitionSpec):
            if mesh is None:
                raise ArgumentError(f"{name!r} has a PartitionSpec", cure="Give its mesh too.")
            value = jax.sharding.NamedSharding(mesh, value)
        elif not isinstance(value, jax.sharding.Sharding):
            value = getattr(value, "sharding", None)
        if value is not None:
            found[name] = value
    return found


def _expected(jax: Any, like: Any) -> Any:
    """Give what has to have been saved: arrays by type and shape alone, all else as it is."""

    def expected(value: Any) -> Any:
        if isinstance(value, jax.Array | jax.ShapeDtypeStruct):
            if jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended):
                return value  # a typed random key, which is made anew
            return jax.ShapeDtypeStruct(value.shape, value.dtype)
        return None if _is_target(jax, value) else value

    return jax.tree.map(expected, like, is_leaf=partial(_is_target, jax))
