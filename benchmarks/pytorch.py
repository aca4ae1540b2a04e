"""Measure PyTorch files beside torch: `python -m benchmarks.pytorch --size 1GiB --tensors 300`.

Each operation is done once a round by each in turn; the first round is not counted. "read" sums a
byte of every page, so that maps are compared with copies. Conversions run in fresh processes; their
peaks of memory are what they took beyond their imports, and pages of a mapped file are resident but
not anonymous.
"""

from __future__ import annotations

import argparse
import gc
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tensorkeep as tk
from benchmarks.measure import Pool, log, rotated, sync
from benchmarks.tables import table
from tensorkeep.wire.sizes import size_of

_PAGE = 4096
TORCH, MAPPED = "torch.load", "torch.load(mmap=True)"
OURS, COPIED = "tk.load", "tk.load(copy=True)"
LEFT, RIGHT = "tensorkeep", "torch"

_CONVERSIONS = {
    LEFT: "import tensorkeep as tk",
    RIGHT: "import torch\nfrom safetensors.torch import save_file",
}
_CONVERT = {
    LEFT: "tk.convert(source, target, durable=False)",
    RIGHT: "save_file(torch.load(source, weights_only=True), target)",
}
_CHILD = """
import sys, time
{imports}
source, target = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
begin = time.perf_counter()
{convert}
print(time.perf_counter() - begin, flush=True)
sys.stdin.readline()
"""
_INTERVAL = 0.001


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="1GiB", help="of all tensors together")
    parser.add_argument("--tensors", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5, help="besides the first, not counted")
    parser.add_argument("--folder", type=Path, help="where the files go; a temporary one otherwise")
    given = parser.parse_args()
    size = size_of(given.size) or 0
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        print(measure(Path(folder), size, given.tensors, given.rounds))


def measure(folder: Path, size: int, count: int, rounds: int) -> str:
    """Run all rounds and give the tables."""
    import torch

    rng = np.random.default_rng(0)
    each = max(1, size // count // 4)
    state = {
        f"layers.{i}.weight": torch.from_numpy(rng.random(each, np.float32)) for i in range(count)
    }
    file, wanted = folder / "torch.pt", f"layers.{count // 2}.weight"
    torch.save(state, file)
    operations: dict[str, dict[str, Callable[[], Any]]] = {
        "open": {
            "tk.open": lambda: tk.open(file).close(),
            MAPPED: lambda: torch.load(file, mmap=True, weights_only=True),
        },
        "load, read all": {
            OURS: lambda: touch(tk.load(file)),
            COPIED: lambda: touch(tk.load(file, copy=True)),
            TORCH: lambda: touch(torch.load(file, weights_only=True)),
            MAPPED: lambda: touch(torch.load(file, mmap=True, weights_only=True)),
        },
        f"load one of {count}, read it": {
            OURS: lambda: touch(tk.load(file, names=wanted)),
            TORCH: lambda: touch([torch.load(file, weights_only=True)[wanted]]),
            MAPPED: lambda: touch([torch.load(file, mmap=True, weights_only=True)[wanted]]),
        },
        "save": {
            "tk.save": lambda: saved(tk.save, state, folder / "a.pt", durable=False),
            "torch.save": lambda: saved(torch.save, state, folder / "b.pt"),
        },
        "save, durable": {
            "tk.save": lambda: saved(tk.save, state, folder / "a.pt"),
            "torch.save": lambda: saved(torch.save, state, folder / "b.pt", then=sync),
        },
    }
    seconds: dict[tuple[str, str], list[float]] = {}
    memory: dict[str, list[tuple[int, int]]] = {LEFT: [], RIGHT: []}
    pool = Pool(int(2.5 * size) + (64 << 20))
    gc.freeze()
    for turn in range(rounds + 1):
        log(f"round {turn} of {rounds}")
        for what, peers in operations.items():
            for peer in rotated(list(peers), turn):
                gc.collect()
                os.sync()
                pool.fill()
                pool.drain()
                begin = time.perf_counter()
                found = peers[peer]()
                took = found if isinstance(found, float) else time.perf_counter() - begin
                if turn:
                    seconds.setdefault((what, peer), []).append(took)
        pool.drain()
        for peer in rotated([LEFT, RIGHT], turn):
            took, peak = converted(peer, file, folder / "converted.safetensors")
            if turn:
                seconds.setdefault((_CONVERSION, peer), []).append(took)
                memory[peer].append(peak)
    torch_version = f"torch {torch.__version__}"
    head = f"{count} float32 tensors, {size / 1e6:,.0f} MB; medians of {rounds}; {torch_version}.\n"
    return "\n".join((head, times(seconds), peaks(memory)))


_CONVERSION = ".pt to .safetensors, in a fresh process"


def touch(values: Any) -> Any:
    """Read a byte of every page of all tensors."""
    for value in values.values() if isinstance(values, dict) else values:
        array = np.asarray(value)
        if array.nbytes:
            array.reshape(-1).view(np.uint8)[::_PAGE].max()
    return values


def saved(
    save: Callable[..., Any],
    state: Any,
    path: Path,
    *,
    then: Callable[[Path], None] | None = None,
    **options: Any,
) -> float:
    """Save to a file that was not there, and give the seconds."""
    path.unlink(missing_ok=True)
    begin = time.perf_counter()
    save(state, path, **options)
    if then is not None:
        then(path)
    return time.perf_counter() - begin


def converted(peer: str, source: Path, target: Path) -> tuple[float, tuple[int, int]]:
    """Convert in a fresh process; give the seconds, and the peaks of anonymous and all memory."""
    target.unlink(missing_ok=True)
    code = _CHILD.format(imports=_CONVERSIONS[peer], convert=_CONVERT[peer])
    command = [sys.executable, "-c", code, str(source), str(target)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()
        before = memory_of(child.pid)
        Path(f"/proc/{child.pid}/clear_refs").write_text("5")  # start the peak of VmRSS anew
        anonymous = before["RssAnon"]
        child.stdin.write("go\n")
        while not select.select([child.stdout], [], [], _INTERVAL)[0]:
            anonymous = max(anonymous, memory_of(child.pid)["RssAnon"])
        seconds = float(child.stdout.readline())
        highest = memory_of(child.pid)["VmHWM"]
        child.stdin.write("end\n")
    return seconds, (anonymous - before["RssAnon"], highest - before["VmRSS"])


def memory_of(pid: int) -> dict[str, int]:
    """Give the bytes of each kind of memory of a process."""
    rows = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {row[0][:-1]: int(row[1]) * 1024 for row in rows if row[-1] == "kB"}


def times(seconds: dict[tuple[str, str], list[float]]) -> str:
    """Give a row for each operation and peer, and its multiple of what the fastest torch takes."""
    rows = []
    for (what, peer), taken in seconds.items():
        theirs = [
            statistics.median(t) for (w, p), t in seconds.items() if w == what and "torch" in p
        ]
        mine = statistics.median(taken)
        rows.append([what, peer, f"{mine * 1e3:,.1f}", f"{mine / min(theirs):.2f}"])
    return table(["", "by", "ms", "multiple of the fastest torch"], rows)


def peaks(memory: dict[str, list[tuple[int, int]]]) -> str:
    """Give the peaks of the conversions; pages of a mapped file count as resident only."""
    rows = [
        [peer, *(f"{statistics.median(kind) / 2**20:,.0f}" for kind in zip(*taken, strict=True))]
        for peer, taken in memory.items()
    ]
    return table(["conversion by", "peak anonymous MiB", "peak resident MiB"], rows)


if __name__ == "__main__":
    main()
