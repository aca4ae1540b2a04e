"""Who is measured: one function per operation, one row of PEERS per peer.

A row gives `save(task)`, `open(task)` (names and shapes), `load(task)` (all tensors by name) and
`one(task)` (one tensor by name); also `durable(task)` where it saves durably in its own way, and
not by a sync after the save.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

import tensorkeep as tk

Operation = Callable[["Task"], Any]


@dataclass
class Task:
    """What an operation works on: the file, and the state where it saves."""

    path: Path
    state: dict[str, Any]
    one: str
    header: int = 0  # the bytes before the tensors, and where the one tensor lies (for the limits)
    span: tuple[int, int] = (0, 0)
    digest: int = 0  # what `read_all` has to give for what is loaded, where it is known


@dataclass(frozen=True)
class Peer:
    operations: dict[str, Operation]
    suffix: str = ".safetensors"
    form: str = "numpy"
    reads: str = ""  # the peer whose file it reads, where not its own
    lazy: bool = False  # load gives maps that are read when touched
    needs: str = ""
    role: str = "peer"  # "limit" or "ours"

    @property
    def missing(self) -> bool:
        return bool(self.needs) and find_spec(self.needs) is None


# --- what the machine can do --------------------------------------------------------------------

_PIECE = 8 << 20
_libc = ctypes.CDLL(None)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def _batches(views: list[memoryview]) -> Iterator[tuple[list[memoryview], int]]:
    batch: list[memoryview] = []
    size = 0
    for view in views:
        for start in range(0, view.nbytes, _PIECE):
            batch.append(view[start : start + _PIECE])
            size += batch[-1].nbytes
            if size >= _PIECE or len(batch) == 1024:
                yield batch, size
                batch, size = [], 0
    if batch:
        yield batch, size


def limit_save(task: Task, *, durable: bool = False) -> None:
    views = list(task.state.values())
    fd = os.open(task.path, os.O_RDWR | os.O_CREAT, 0o666)
    os.posix_fallocate(fd, 0, sum(view.nbytes for view in views))
    offset = 0
    for batch, size in _batches(views):
        os.pwritev(fd, batch, offset)
        if durable:
            _libc.sync_file_range(fd, offset, size, 2)  # SYNC_FILE_RANGE_WRITE: start, do not wait
        offset += size
    if durable:
        os.fdatasync(fd)
    os.close(fd)


def limit_open(task: Task) -> None:
    fd = os.open(task.path, os.O_RDONLY)
    os.pread(fd, task.header, 0)
    os.close(fd)


def limit_load(task: Task) -> dict[str, Any]:
    fd = os.open(task.path, os.O_RDONLY)
    size = os.fstat(fd).st_size
    fresh = np.empty(size, np.uint8)  # NumPy asks for huge pages
    _fill(fd, fresh.data, 0)
    os.close(fd)
    return {"all": fresh}


def limit_one(task: Task) -> Any:
    fd = os.open(task.path, os.O_RDONLY)
    fresh = np.empty(task.span[1] - task.span[0], np.uint8)
    _fill(fd, fresh.data, task.span[0])
    os.close(fd)
    return fresh


def _fill(fd: int, buffer: memoryview, offset: int) -> None:
    done = 0
    while done < buffer.nbytes:
        done += os.preadv(fd, [buffer[done : done + (64 << 20)]], offset + done)


def limit_map(task: Task) -> dict[str, Any]:
    fd = os.open(task.path, os.O_RDONLY)
    view = mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    os.close(fd)
    return {"all": np.frombuffer(view, np.uint8)}


def limit_map_one(task: Task) -> Any:
    return limit_map(task)["all"][slice(*task.span)]


# --- tensorkeep ---------------------------------------------------------------------------------


def tensorkeep_save(task: Task, **options: Any) -> None:
    tk.save(task.state, task.path, **options)


def tensorkeep_open(task: Task) -> Any:
    with tk.open(task.path) as state:
        return {name: tensor.shape for name, tensor in state.items()}


def tensorkeep_load(task: Task, **options: Any) -> Any:
    return tk.load(task.path, **options)


def tensorkeep_one(task: Task, **options: Any) -> Any:
    return tk.load(task.path, names=task.one, **options)[task.one]


def _tensorkeep(save: dict[str, Any], load: dict[str, Any], **rest: Any) -> Peer:
    operations: dict[str, Operation] = {
        "load": partial(tensorkeep_load, **load),
        "one": partial(tensorkeep_one, **load),
    }
    if not rest.get("reads"):
        operations["save"] = partial(tensorkeep_save, durable=False, **save)
        operations["durable"] = partial(tensorkeep_save, durable=True, **save)
        operations["open"] = tensorkeep_open
    return Peer(operations, role="ours", lazy="copy" not in load, **rest)


# --- safetensors --------------------------------------------------------------------------------


def safetensors_numpy_save(task: Task) -> None:
    import safetensors.numpy

    safetensors.numpy.save_file(task.state, task.path)


def safetensors_torch_save(task: Task) -> None:
    import safetensors.torch

    safetensors.torch.save_file(task.state, task.path)


def safetensors_open(task: Task, framework: str) -> Any:
    from safetensors import safe_open

    with safe_open(task.path, framework) as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}


def safetensors_numpy_load(task: Task) -> Any:
    import safetensors.numpy

    return safetensors.numpy.load_file(task.path)


def safetensors_torch_load(task: Task) -> Any:
    import safetensors.torch

    return safetensors.torch.load_file(task.path)


def safetensors_one(task: Task, framework: str) -> Any:
    from safetensors import safe_open

    with safe_open(task.path, framework) as file:
        return file.get_tensor(task.one)


# --- NumPy --------------------------------------------------------------------------------------


def npz_save(task: Task) -> None:
    np.savez(task.path, **task.state)


def npz_open(task: Task) -> Any:
    """Read every member's header: the archive's directory has names, but no shapes."""
    shapes = {}
    with zipfile.ZipFile(task.path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                np.lib.format.read_magic(member)
                shapes[name] = np.lib.format.read_array_header_1_0(member)[0]
    return shapes


def npz_load(task: Task) -> Any:
    with np.load(task.path) as archive:
        return dict(archive)


def npz_one(task: Task) -> Any:
    with np.load(task.path) as archive:
        return archive[task.one]


# --- PyTorch ------------------------------------------------------------------------------------


def torch_save(task: Task) -> None:
    import torch

    torch.save(task.state, task.path)


def torch_load(task: Task, *, mmap: bool = False) -> Any:
    import torch

    return torch.load(task.path, mmap=mmap)


def torch_open(task: Task) -> Any:
    return {name: tensor.shape for name, tensor in torch_load(task, mmap=True).items()}


def torch_one(task: Task, *, mmap: bool = False) -> Any:
    return torch_load(task, mmap=mmap)[task.one]


DEFAULT = "tensorkeep"
BARE = "tensorkeep, checksums=False"
COPY = "tensorkeep, copy=True"
VERIFIED = "tensorkeep, copy=True, verify=True"
VERIFIED_MAP = "tensorkeep, verify=True"

PEERS: dict[str, Peer] = {
    "limit": Peer(
        {
            "save": limit_save,
            "durable": partial(limit_save, durable=True),
            "open": limit_open,
            "load": limit_load,
            "one": limit_one,
        },
        form="bytes",
        reads=DEFAULT,
        role="limit",
    ),
    "limit, mapped": Peer(
        {"load": limit_map, "one": limit_map_one}, reads=DEFAULT, lazy=True, role="limit"
    ),
    DEFAULT: _tensorkeep({}, {}),
    BARE: _tensorkeep({"checksums": False}, {}),
    COPY: _tensorkeep({}, {"copy": True}, reads=DEFAULT),
    VERIFIED: _tensorkeep({}, {"copy": True, "verify": True}, reads=DEFAULT),
    VERIFIED_MAP: _tensorkeep({}, {"verify": True}, reads=DEFAULT),
    "safetensors (numpy)": Peer(
        {
            "save": safetensors_numpy_save,
            "open": partial(safetensors_open, framework="np"),
            "load": safetensors_numpy_load,
            "one": partial(safetensors_one, framework="np"),
        },
        needs="safetensors",
    ),
    "safetensors (torch)": Peer(
        {
            "save": safetensors_torch_save,
            "open": partial(safetensors_open, framework="pt"),
            "load": safetensors_torch_load,
            "one": partial(safetensors_one, framework="pt"),
        },
        form="torch",
        reads="safetensors (numpy)",
        lazy=True,
        needs="torch",
    ),
    "numpy npz": Peer(
        {"save": npz_save, "open": npz_open, "load": npz_load, "one": npz_one},
        suffix=".npz",
        form="plain",
    ),
    "torch": Peer(
        {"save": torch_save, "load": torch_load, "one": torch_one},
        suffix=".pt",
        form="torch",
        needs="torch",
    ),
    "torch, mmap": Peer(
        {
            "open": torch_open,
            "load": partial(torch_load, mmap=True),
            "one": partial(torch_one, mmap=True),
        },
        suffix=".pt",
        form="torch",
        reads="torch",
        lazy=True,
        needs="torch",
    ),
}


def present(role: str = "") -> list[str]:
    """List the peers that are installed."""
    return [n for n, peer in PEERS.items() if not peer.missing and role in ("", peer.role)]


def locate_one(path: Path, name: str) -> tuple[int, tuple[int, int]]:
    """Find where a safetensors file's data starts and where one tensor lies."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        start, stop = json.loads(file.read(length))[name]["data_offsets"]
    return 8 + length, (8 + length + start, 8 + length + stop)


# --- what a user does with what was loaded ------------------------------------------------------


def as_bytes(array: Any) -> np.ndarray[Any, Any]:
    """View an array or a torch tensor as bytes."""
    if not isinstance(array, np.ndarray):
        import torch

        array = (array.view(torch.int16) if array.dtype == torch.bfloat16 else array).numpy()
    return np.asarray(array).reshape(-1).view(np.uint8)


def read_all(arrays: dict[str, Any]) -> int:
    """Read every byte; gives a digest that does not depend on the order of the tensors."""
    digest = 0
    for array in arrays.values():
        digest ^= xxhash.xxh3_64_intdigest(as_bytes(array).data)
    return digest


def write_all(arrays: dict[str, Any]) -> None:
    """Write a byte of every page."""
    for array in arrays.values():
        as_bytes(array)[::4096] = 1
