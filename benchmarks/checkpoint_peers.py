"""Who saves and restores checkpoints: one class or function and one row for each.

Run as a program it is the child whose memory is measured: `PEER FOLDER SIZE`.
"""

from __future__ import annotations

import gc
import logging
import os
import select
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.memory import _memory as memory_of
from benchmarks.workloads import Arrays
from tensorkeep.checkpoint import Checkpointer

COUNT = 64  # tensors
_INTERVAL = 0.001

warnings.filterwarnings("ignore", module="torch")
logging.getLogger("absl").setLevel(logging.ERROR)


def build(size: int) -> Arrays:
    """Fill float32 tensors with random bits; JAX takes memory as it is where it is so aligned."""
    each = size // COUNT // 64 * 64
    block = np.empty(COUNT * each + 64, np.uint8)
    block = block[-block.ctypes.data % 64 :]
    bits = np.random.default_rng(0)
    arrays = {}
    for i in range(COUNT):
        rows = block[i * each : (i + 1) * each]
        rows[:] = np.frombuffer(bits.bytes(each), np.uint8)
        arrays[f"layers.{i}.weight"] = rows.view(np.float32).reshape(16, -1)
    return arrays


def change(arrays: Arrays, count: int = COUNT) -> None:
    """Change a byte of some of the tensors, as a step of training does to all bytes."""
    for array in list(arrays.values())[:count]:
        array.reshape(-1).view(np.uint8)[0] ^= 255


def as_torch(arrays: Arrays) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def as_jax(arrays: Arrays) -> dict[str, Any]:
    import jax

    return {name: jax.device_put(array, may_alias=True) for name, array in arrays.items()}


def files_of(path: Path) -> list[Path]:
    return [p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()]


def sync(path: Path) -> None:
    """Have a file, or a folder with all that is in it, and its entry on the disk."""
    inside = list(path.rglob("*")) if path.is_dir() else []
    for target in (*inside, path, path.parent):
        fd = os.open(target, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


# --- saving -------------------------------------------------------------------------------------


class Saver:
    """Saves a state again and again. `save` may return early; `wait` until it is on the disk."""

    background = False
    fenced = False

    def __init__(self, arrays: Arrays, folder: Path) -> None:
        self.arrays = arrays
        self.folder = folder

    def path_of(self, step: int) -> Path:
        return self.folder / f"step-{step:08}"

    def save(self, step: int) -> None:
        raise NotImplementedError

    def fence(self) -> None:
        """Wait until the state may change."""

    def wait(self, step: int) -> None:
        sync(self.path_of(step))

    def close(self) -> None:
        """Let threads and memory go."""


class Ours(Saver):
    """Its default is durable: nothing is synced for it."""

    def __init__(self, arrays: Arrays, folder: Path, **options: Any) -> None:
        super().__init__(arrays, folder)
        self.background = "background" in options
        self.fenced = "fenced" in options
        self.checkpointer = Checkpointer(folder, **options)

    def save(self, step: int) -> None:
        self.saving = self.checkpointer.save(step, self.arrays)

    def fence(self) -> None:
        self.checkpointer.fence()

    def wait(self, step: int) -> None:
        self.saving.wait()
        if self.saving.note or not self.saving.committed:
            raise SystemExit(f"tensorkeep has not saved as asked: {self.saving.note}")

    def close(self) -> None:
        self.checkpointer.close()


class Dcp(Saver):
    """PyTorch's distributed checkpoints, in one process; its writer syncs its files by default."""

    def __init__(self, arrays: Arrays, folder: Path, how: str) -> None:
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        super().__init__(as_torch(arrays), folder)
        self.background = how != "sync"
        # These options are those of async_save's own stager, which lives for one save.
        options = StagingOptions(False, False, False, False)
        self.stager = DefaultStager(options) if how == "kept" else None
        self.future: Future[Any] | None = None

    def save(self, step: int) -> None:
        import torch.distributed.checkpoint as dcp

        path = str(self.path_of(step))
        if not self.background:
            dcp.save(self.arrays, checkpoint_id=path, no_dist=True)
            return
        found: Any = dcp.async_save(
            self.arrays, checkpoint_id=path, async_stager=self.stager, no_dist=True
        )
        self.future = getattr(found, "upload_completion", found)

    def wait(self, step: int) -> None:
        if self.future is not None:
            self.future.result()
        super().wait(step)

    def close(self) -> None:
        if self.stager is not None:
            self.stager.close()


class Orbax(Saver):
    """Uncompressed; JAX arrays, which cannot change and are not copied: they share our memory."""

    background = True

    def __init__(self, arrays: Arrays, folder: Path) -> None:
        super().__init__(as_jax(arrays), folder)
        self.checkpointer = orbax_checkpointer()

    def save(self, step: int) -> None:
        import orbax.checkpoint as ocp

        path = self.path_of(step).absolute()
        self.checkpointer.save(path, args=ocp.args.PyTreeSave(self.arrays))

    def wait(self, step: int) -> None:
        self.checkpointer.wait_until_finished()
        super().wait(step)

    def close(self) -> None:
        self.checkpointer.close()


def orbax_checkpointer() -> Any:
    import orbax.checkpoint as ocp

    return ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_compression=False))


class TorchSave(Saver):
    def __init__(self, arrays: Arrays, folder: Path) -> None:
        super().__init__(as_torch(arrays), folder)

    def save(self, step: int) -> None:
        import torch

        torch.save(self.arrays, self.path_of(step))


class Safetensors(Saver):
    def __init__(self, arrays: Arrays, folder: Path) -> None:
        super().__init__(as_torch(arrays), folder)

    def save(self, step: int) -> None:
        import safetensors.torch

        safetensors.torch.save_file(self.arrays, self.path_of(step))


OURS, FENCED, WAITED = "tensorkeep, background", "tensorkeep, fenced", "tensorkeep, waiting"
DCP, KEPT, DCP_SYNC = "torch DCP, async", "torch DCP, async, stager kept", "torch DCP"
ORBAX, TORCH, SAFETENSORS = "orbax, async", "torch.save", "safetensors"

_SAVERS: dict[str, tuple[Callable[[Arrays, Path], Saver], str]] = {
    OURS: (partial(Ours, background=True), ""),
    FENCED: (partial(Ours, background=True, fenced=True), ""),
    WAITED: (Ours, ""),
    DCP: (partial(Dcp, how="async"), "torch"),
    KEPT: (partial(Dcp, how="kept"), "torch"),
    ORBAX: (Orbax, "orbax"),
    DCP_SYNC: (partial(Dcp, how="sync"), "torch"),
    TORCH: (TorchSave, "torch"),
    SAFETENSORS: (Safetensors, "safetensors"),
}


def is_ours(name: str) -> bool:
    return name.startswith("tensorkeep")


def savers() -> dict[str, Callable[[Arrays, Path], Saver]]:
    """Give those that are installed."""
    return {n: make for n, (make, needs) in _SAVERS.items() if not needs or find_spec(needs)}


# --- restoring ----------------------------------------------------------------------------------

Restore = Callable[[Path, Arrays], Mapping[str, Any]]  # from a checkpoint's path, and a state


def ours_new(path: Path, target: Arrays) -> Mapping[str, Any]:
    return _ours(path, None)


def ours_in_place(path: Path, target: Arrays) -> Mapping[str, Any]:
    return _ours(path, target)


def _ours(path: Path, like: Arrays | None) -> Mapping[str, Any]:
    found = Checkpointer(path.parent, read_only=True).restore(like)
    assert found is not None
    state: Mapping[str, Any] = found.state
    return state


def torch_load(path: Path, target: Arrays, *, mmap: bool = False) -> Mapping[str, Any]:
    import torch

    state: Mapping[str, Any] = torch.load(path, mmap=mmap)
    return state


def safetensors_load(path: Path, target: Arrays) -> Mapping[str, Any]:
    import safetensors.torch

    state: Mapping[str, Any] = safetensors.torch.load_file(path)
    return state


def in_place(load: Restore, path: Path, target: Arrays) -> Mapping[str, Any]:
    """Copy what was loaded into what is there, as a module's load_state_dict does."""
    held = as_torch(target)
    for name, tensor in load(path, target).items():
        held[name].copy_(tensor)
    return target


def dcp_load(path: Path, target: Arrays) -> Mapping[str, Any]:
    import torch.distributed.checkpoint as dcp

    dcp.load(as_torch(target), checkpoint_id=str(path), no_dist=True)
    return target


def orbax_restore(path: Path, target: Arrays) -> Mapping[str, Any]:
    import jax
    import orbax.checkpoint as ocp

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device)
        for name, array in target.items()
    }
    how = ocp.checkpoint_utils.construct_restore_args(like)
    checkpointer = orbax_checkpointer()
    found = checkpointer.restore(
        path.absolute(), args=ocp.args.PyTreeRestore(item=like, restore_args=how)
    )
    checkpointer.close()
    return {name: np.asarray(array) for name, array in found.items()}


@dataclass(frozen=True)
class Restorer:
    """Args: the function, whose checkpoint it reads, and whether it gives maps of the file."""

    restore: Restore
    reads: str
    lazy: bool = False
    into: str = "new"  # or "in place"


_mapped = partial(torch_load, mmap=True)

RESTORERS: dict[str, Restorer] = {
    "tensorkeep, verified": Restorer(ours_new, WAITED),
    "torch.load": Restorer(torch_load, TORCH),
    "torch.load, mmap": Restorer(_mapped, TORCH, lazy=True),
    "safetensors.torch": Restorer(safetensors_load, SAFETENSORS, lazy=True),
    "orbax": Restorer(orbax_restore, ORBAX),
    "tensorkeep, verified, in place": Restorer(ours_in_place, WAITED, into="in place"),
    "torch.load, mmap, in place": Restorer(partial(in_place, _mapped), TORCH, into="in place"),
    "safetensors.torch, in place": Restorer(
        partial(in_place, safetensors_load), SAFETENSORS, into="in place"
    ),
    "torch DCP, in place": Restorer(dcp_load, DCP_SYNC, into="in place"),
}


# --- memory, measured in a child process --------------------------------------------------------


def measure_memory(name: str, folder: Path, size: int) -> tuple[int, int]:
    """Give the peaks, of two saves, of the memory taken and of all that is resident, in bytes."""
    command = [sys.executable, "-m", "benchmarks.checkpoint_peers", name, str(folder), str(size)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin
    assert child.stdout
    with child:
        if child.stdout.readline() != "ready\n":
            raise SystemExit(f"measuring the memory of {name} failed")
        before = memory_of(child.pid)
        peak = taken = _taken(before)
        print("go", file=child.stdin, flush=True)
        while not select.select([child.stdout], [], [], _INTERVAL)[0]:
            peak = max(peak, _taken(memory_of(child.pid)))
        highest = int(child.stdout.readline())
    return peak - taken, max(0, highest - before["VmRSS"])


def _taken(memory: Mapping[str, int]) -> int:
    return memory["RssAnon"] + memory["RssShmem"]


def _save_twice(name: str, folder: Path, arrays: Arrays) -> None:
    saver = savers()[name](arrays, folder)
    for step in (1, 2):
        change(arrays)
        saver.save(step)
        saver.fence()
        saver.wait(step)
    saver.close()


def _child(name: str, folder: Path, size: int) -> None:
    arrays = build(size)
    with tempfile.TemporaryDirectory(dir=folder) as tiny:
        _save_twice(name, Path(tiny), build(COUNT << 12))  # imports do not count
    gc.collect()
    print("ready", flush=True)
    sys.stdin.readline()
    Path("/proc/self/clear_refs").write_text("5")  # start the peak of VmRSS anew
    with tempfile.TemporaryDirectory(dir=folder) as real:
        _save_twice(name, Path(real), arrays)
        print(memory_of("self")["VmHWM"], flush=True)


if __name__ == "__main__":
    _child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
