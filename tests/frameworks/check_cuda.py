"""Check and time tensors on a GPU, by hand: python tests/frameworks/check_cuda.py [--gib 2]

Needs PyTorch with CUDA and safetensors; `--device cpu` rehearses it without a GPU. Each part stands
alone: where one fails, its line says why and the next part runs. The exit code is 1 if any failed.
"""

from __future__ import annotations

import argparse
import mmap
import shutil
import statistics
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

import tensorkeep as tk

DTYPES = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    "float4_e2m1fn_x2",
]
MIB = 1 << 20
failures: list[str] = []


def say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def part(name: str, check: Callable[[], str]) -> None:
    """Run one check; a failure is told and does not stop the others."""
    try:
        say(f"  ok      {name:<46} {check()}")
    except Exception as error:
        failures.append(name)
        say(f"  FAILED  {name:<46} {type(error).__name__}: {error}")
        say("".join(traceback.format_exc(limit=-4)))


def bits(tensor: Any) -> bytes:
    return bytes(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def expect(true: bool, otherwise: str) -> None:
    if not true:
        raise ValueError(otherwise)


def expect_same(found: Any, wanted: Any) -> None:
    for what in ("dtype", "shape", "device"):
        left, right = getattr(found, what), getattr(wanted, what)
        expect(left == right, f"{what} is {left}, not {right}")
    expect(bits(found) == bits(wanted), "its bits differ")


# --- what has to be right -----------------------------------------------------------------------


def check_values(folder: Path, device: Any) -> None:
    path = folder / "values.safetensors"

    def one(name: str) -> str:
        kind = getattr(torch, name)
        codes = torch.arange(24 * kind.itemsize, dtype=torch.uint8) * 37 + 11
        saved = (codes % 2 if name == "bool" else codes).view(kind).reshape(2, 3, 4).to(device)
        for copy in (False, True):
            tk.save({"w": saved}, path)
            expect_same(tk.load(path, framework="torch", device=str(device), copy=copy)["w"], saved)
            expect(tk.load(path, copy=copy)["w"].device.type == "cpu", "came back off the CPU")
        if name != "complex128":
            expect_same(safetensors.torch.load_file(path, device=str(device))["w"], saved)
        return ""

    for name in DTYPES:
        part(name, lambda name=name: one(name))  # type: ignore[misc]

    def strides() -> str:
        base = torch.randn(4, 6, device=device)
        z = torch.randn(3, 3, device=device, dtype=torch.complex64)
        made = {"t": base.T, "step": base[::2, 1::2], "row": base[:1].expand(5, 6)}
        made |= {"conj": z.conj(), "neg": z.conj().imag, "empty": base[:0]}
        tk.save(made, path)
        for name, tensor in tk.load(path, framework="torch", device=str(device)).items():
            expect_same(tensor, made[name].resolve_conj().resolve_neg())
        return ""

    def ties() -> str:
        weight = torch.nn.Parameter(torch.randn(8, 8, device=device))
        tk.save({"a": weight, "b": [weight.detach(), 1], "t": weight.T}, path)
        with tk.open(path) as state:
            expect(len(state) == 2, f"tied tensors are kept {len(state) - 1} times")
        loaded = tk.load(path, framework="torch", device=str(device))
        expect(loaded["a"] is loaded["b"][0], "tied tensors came back apart")
        expect_same(loaded["t"], weight.detach().T)
        return ""

    def refused() -> str:
        tk.save({"w": torch.ones(2, device=device)}, path)
        try:
            tk.load(path, framework="torch", device="cuda:99")
        except tk.TensorKeepError as error:
            return str(error)[:60]
        raise ValueError("a device that is not there was accepted")

    def optimizer() -> str:
        model = torch.nn.Linear(4, 4).to(device)
        adam = torch.optim.Adam(model.parameters(), capturable=device.type == "cuda")
        model(torch.ones(2, 4, device=device)).sum().backward()
        adam.step()
        state = {"model": model.state_dict(), "adam": adam.state_dict()}
        state["rng"] = torch.cuda.get_rng_state_all() if device.type == "cuda" else []
        tk.save(state, path)
        loaded = tk.load(path)
        for key, value in state["model"].items():
            expect(torch.equal(loaded["model"][key], value.cpu()), f"{key} differs")
        adam.step()
        model.load_state_dict(loaded["model"])
        adam.load_state_dict(loaded["adam"])
        moment = adam.state_dict()["state"][0]["exp_avg"]
        expect(moment.device.type == device.type, "the optimizer is elsewhere")
        expect(torch.equal(moment.cpu(), loaded["adam"]["state"][0]["exp_avg"]), "moments differ")
        return ""

    def pieces_of_all_types() -> str:
        # Several pieces, the last of them short, and one that is just worth them.
        for count in (5 * MIB // 16 + 3, MIB // 16):
            made = {}
            for name in DTYPES:
                kind = getattr(torch, name)
                codes = torch.arange(count * kind.itemsize * (16 // kind.itemsize)) % 251
                codes = codes.to(torch.uint8)
                made[name] = (codes % 2 if name == "bool" else codes).view(kind).to(device)
            tk.save(made, path)
            for name, tensor in tk.load(path, framework="torch", device=str(device)).items():
                expect_same(tensor, made[name])
        return ""

    part("large ones, piece by piece", pieces_of_all_types)
    part("strides, conjugates, views", strides)
    part("tied tensors", ties)
    part("a device that is not there", refused)
    part("a model and its optimizer", optimizer)


# --- how long it takes --------------------------------------------------------------------------


def wait(device: Any) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def pinned(size: int, device: Any) -> Any:
    return torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")


def blank(tensor: tk.Tensor, device: Any) -> tuple[Any, Any]:
    """An empty tensor on the device, and its bytes."""
    made = torch.empty(tensor.shape, dtype=getattr(torch, tensor.dtype.name), device=device)
    return made, made.reshape(-1).view(torch.uint8)


def pieces(nbytes: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, nbytes, size):
        yield start, min(start + size, nbytes)


def from_map_through_pinned(path: Path, device: Any, size: int = 32 * MIB) -> dict[str, Any]:
    """One thread: copy from the map to one of two pinned buffers while the other one travels."""
    out: dict[str, Any] = {}
    slots = [pinned(size, device) for _ in range(2)]
    events = [torch.cuda.Event() if device.type == "cuda" else None for _ in slots]
    turn = 0
    with tk.open(path) as state:
        for name, tensor in state.items():
            out[name], target = blank(tensor, device)
            data = tensor.source.private(tensor.offset, tensor.offset + tensor.nbytes)
            source = torch.from_numpy(np.frombuffer(data, np.uint8))
            for start, stop in pieces(tensor.nbytes, size):
                slot, event = slots[turn % 2], events[turn % 2]
                turn += 1
                if event is not None:
                    event.synchronize()
                slot[: stop - start].copy_(source[start:stop])
                target[start:stop].copy_(slot[: stop - start], non_blocking=True)
                if event is not None:
                    event.record()
    wait(device)
    return out


def by_reads_into_pinned(
    path: Path, device: Any, threads: int = 8, size: int = 8 * MIB
) -> dict[str, Any]:
    """Several threads: each reads the file into its pinned buffer and sends it on its stream."""
    out: dict[str, Any] = {}
    own = threading.local()

    def send(tensor: tk.Tensor, target: Any, start: int, stop: int) -> None:
        if not hasattr(own, "slot"):
            own.slot = pinned(size, device)
            own.view = own.slot.numpy().data
            own.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        tensor.source.readinto(tensor.offset + start, own.view[: stop - start])
        if own.stream is None:
            target[start:stop].copy_(own.slot[: stop - start])
            return
        with torch.cuda.stream(own.stream):
            target[start:stop].copy_(own.slot[: stop - start], non_blocking=True)
        own.stream.synchronize()

    with tk.open(path) as state, ThreadPoolExecutor(threads) as pool:
        work = []
        for name, tensor in state.items():
            out[name], target = blank(tensor, device)
            work += [(tensor, target, *piece) for piece in pieces(tensor.nbytes, size)]
        wait(device)  # the memory may still be in use by what ran before
        for job in [pool.submit(send, *row) for row in work]:
            job.result()
    return out


def through_registered_map(path: Path, device: Any) -> dict[str, Any]:
    """Pin the page cache itself by a read-only map, so that the GPU reads from there."""
    read_only = 8  # cudaHostRegisterReadOnly
    out: dict[str, Any] = {}
    runtime = torch.cuda.cudart()
    with tk.open(path) as state, path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that the array is not writable
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            array = np.frombuffer(view, np.uint8)
            address, whole = array.ctypes.data, torch.from_numpy(array)
            error = int(runtime.cudaHostRegister(address, array.nbytes, read_only))
            expect(error == 0, f"cudaHostRegister gives {error}")
            for name, tensor in state.items():
                out[name], target = blank(tensor, device)
                piece = whole[tensor.offset : tensor.offset + tensor.nbytes]
                target.copy_(piece, non_blocking=True)
            wait(device)
            runtime.cudaHostUnregister(address)
            del array, whole, piece
    return out


def workload(kind: str, gib: float, device: Any) -> dict[str, Any]:
    torch.manual_seed(1)
    if kind == "large":
        count, each = 16, int(gib * 2**30) // 16 // 4
        return {f"w{i:02}": torch.randn(each, device=device) for i in range(count)}
    if kind == "mixed":
        sizes = [int(gib * 2**30) // 300 // 3] * 300
        types = [torch.float32 if i % 2 else torch.bfloat16 for i in range(300)]
        rows = enumerate(zip(sizes, types, strict=True))
        return {f"w{i:03}": torch.randn(n, device=device).to(t) for i, (n, t) in rows}
    return {f"w{i:05}": torch.randn(256, device=device) for i in range(20_000)}


def table(title: str, nbytes: int, ways: dict[str, Callable[[], Any]], runs: int) -> None:
    """Time the ways in turn, and print medians as rates and as ratios to the first."""
    say(f"\n{title}: {nbytes / 1e9:.2f} GB, median of {runs} interleaved runs")
    times: dict[str, list[float]] = {name: [] for name in ways}
    broken: dict[str, str] = {}
    for turn in range(runs + 1):  # the first warms up
        for name, way in ways.items():
            if name in broken:
                continue
            try:
                start = time.perf_counter()
                way()
                if turn:
                    times[name].append(time.perf_counter() - start)
            except Exception as error:
                broken[name] = f"{type(error).__name__}: {error}".partition("\n")[0]
    first = next((statistics.median(t) for t in times.values() if t), 1.0)
    for name in ways:
        if name in broken:
            failures.append(f"{title}: {name}")
            say(f"  {name:<44} FAILED  {broken[name][:160]}")
            continue
        median = statistics.median(times[name])
        rate = nbytes / 1e9 / median
        spread = f"{min(times[name]) * 1e3:.0f} to {max(times[name]) * 1e3:.0f}"
        shown = f"{median * 1e3:9.1f} ms {rate:7.2f} GB/s {median / first:6.2f}x"
        say(f"  {name:<44} {shown}  ({spread})")


def time_kind(kind: str, folder: Path, device: Any, gib: float, runs: int) -> None:
    saved = workload(kind, gib, device)
    wait(device)
    nbytes = sum(t.nbytes for t in saved.values())
    ours, theirs, torchs = (folder / f"{kind}.{end}" for end in ("safetensors", "st", "pt"))
    where = str(device)

    table(
        f"save {kind}",
        nbytes,
        {
            "tk.save": lambda: tk.save(saved, ours, durable=False),
            "tk.save, checksums=False": lambda: tk.save(
                saved, ours, durable=False, checksums=False
            ),
            "safetensors.torch.save_file": lambda: safetensors.torch.save_file(saved, theirs),
            "torch.save": lambda: torch.save(saved, torchs),
        },
        max(2, runs // 2),
    )

    def loaded(load: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            found = load()
            wait(device)
            expect(len(found) == len(saved), "tensors are missing")

        return run

    ways: dict[str, Callable[[], Any]] = {
        "tk.load(device)": lambda: tk.load(ours, framework="torch", device=where),
        "tk.load(device, copy=True)": lambda: tk.load(
            ours, framework="torch", device=where, copy=True
        ),
        "safetensors.torch.load_file(device)": lambda: safetensors.torch.load_file(
            theirs, device=where
        ),
        "torch.load(mmap=True)": lambda: torch.load(
            torchs, map_location=where, mmap=True, weights_only=True
        ),
        "torch.load(mmap=False)": lambda: torch.load(
            torchs, map_location=where, mmap=False, weights_only=True
        ),
    }
    trials: dict[str, Callable[[], Any]] = {
        "trial: map -> 2 pinned 32 MiB -> device": lambda: from_map_through_pinned(ours, device),
        "trial: map -> 2 pinned 8 MiB -> device": lambda: from_map_through_pinned(
            ours, device, 8 * MIB
        ),
        "trial: 4 threads read -> pinned 8 MiB": lambda: by_reads_into_pinned(ours, device, 4),
        "trial: 8 threads read -> pinned 8 MiB": lambda: by_reads_into_pinned(ours, device, 8),
        "trial: 16 threads read -> pinned 4 MiB": lambda: by_reads_into_pinned(
            ours, device, 16, 4 * MIB
        ),
        "trial: registered map": lambda: through_registered_map(ours, device),
    }
    if device.type != "cuda":
        del trials["trial: registered map"]
    if kind != "many":
        ways |= trials

    def equal(load: Callable[[], Any]) -> Callable[[], str]:
        def check() -> str:
            found = load()
            for name, tensor in saved.items():
                expect(torch.equal(found[name], tensor), f"{name} differs")
            return ""

        return check

    say(f"\nload {kind}: every way gives the same values")
    for name, way in ways.items():
        part(name, equal(way))
    table(f"load {kind}", nbytes, {name: loaded(way) for name, way in ways.items()}, runs)

    if kind == "mixed":

        def cast_there() -> Any:
            found = tk.load(ours, framework="torch", device=where)
            return {name: tensor.to(torch.bfloat16) for name, tensor in found.items()}

        casts: dict[str, Callable[[], Any]] = {
            "tk.load(device, dtype=bfloat16)": lambda: tk.load(
                ours, framework="torch", device=where, dtype="bfloat16"
            ),
            "trial: tk.load(device), then cast there": cast_there,
        }
        table("load and cast", nbytes, {n: loaded(w) for n, w in casts.items()}, max(1, runs // 2))
    for file in (ours, theirs, torchs):
        file.unlink(missing_ok=True)


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--device", default="cuda")
    options.add_argument("--gib", type=float, default=2.0, help="the size of the large workloads")
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--kinds", nargs="*", default=["large", "mixed", "many"])
    options.add_argument(
        "--folder", type=Path, help="where to write; a temporary folder if not set"
    )
    chosen = options.parse_args()
    device = torch.device(chosen.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            say("PyTorch sees no GPU; --device cpu rehearses the checks without one")
            return 1
        device = torch.device("cuda", torch.cuda.current_device())
        say(f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    say(f"torch {torch.__version__}, {torch.get_num_threads()} threads, numpy {np.__version__}")
    folder = Path(tempfile.mkdtemp(prefix="check-cuda-", dir=chosen.folder))
    try:
        say("\nvalues")
        check_values(folder, device)
        for kind in chosen.kinds:
            try:
                time_kind(kind, folder, device, chosen.gib, chosen.runs)
            except Exception:
                failures.append(kind)
                say(f"  FAILED  {kind}\n{traceback.format_exc()}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"\n{len(failures)} failed: {', '.join(failures)}" if failures else "\nall well")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
