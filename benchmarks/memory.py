"""How much memory an operation takes beyond what it is given, measured in a child process.

The child does each operation once on a tiny state, so that imports do not count, then on the real
one, while the parent samples it. Anonymous memory is what is really taken; mapped pages of the file
are the page cache's own and can be dropped at any time.
"""

from __future__ import annotations

import gc
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS, Operation, Task, read_all, write_all
from benchmarks.workloads import WORKLOADS, form

# What is done, and the operation of the peer that it needs.
OPERATIONS = {"save": "save", "open": "open", "read": "load", "write": "load"}
_INTERVAL = 0.001


def measure(name: str, workload: str, file: Path, *, quick: bool) -> dict[str, tuple[int, int]]:
    """Give each operation's peaks of anonymous and of all resident memory, in bytes."""
    command = [sys.executable, "-m", "benchmarks.memory", name, workload, str(file)]
    child = subprocess.Popen(
        [*command, "quick"] if quick else command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert child.stdin
    assert child.stdout
    peaks = {}
    with child:
        for wanted, needs in OPERATIONS.items():
            if needs not in PEERS[name].operations:
                continue
            child.stdin.write(f"{wanted}\n")
            if child.stdout.readline() != "ready\n":
                raise SystemExit(f"measuring the memory of {name}, {wanted}, failed")
            before = _memory(child.pid)
            peak = before["RssAnon"]
            child.stdin.write("go\n")
            while not select.select([child.stdout], [], [], _INTERVAL)[0]:
                peak = max(peak, _memory(child.pid)["RssAnon"])
            highest = int(child.stdout.readline())
            peaks[wanted] = (peak - before["RssAnon"], max(0, highest - before["VmRSS"]))
    return peaks


def _work(name: str, wanted: str) -> Operation:
    operation = PEERS[name].operations[OPERATIONS[wanted]]
    if wanted == "save" or wanted == "open":
        return operation

    def load(task: Task) -> Any:
        arrays = operation(task)
        (read_all if wanted == "read" else write_all)(arrays)
        return arrays

    return load


def _memory(pid: int | str) -> dict[str, int]:
    rows = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {row[0][:-1]: int(row[1]) * 1024 for row in rows if row[-1] == "kB"}


def _child(name: str, workload: str, file: Path, quick: bool) -> None:
    chosen = WORKLOADS[workload]

    def task(path: Path, *, quick: bool, peer: str = "") -> Task:
        state = form(chosen.build(quick), PEERS[peer].form) if peer else {}
        return Task(path, state, chosen.one)

    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        tiny = Path(folder) / f"tiny{file.suffix}"
        owner = PEERS[name].reads or name
        PEERS[owner].operations["save"](task(tiny, quick=True, peer=owner))
        for line in sys.stdin:
            wanted = line.strip()
            work = _work(name, wanted)
            saver = name if wanted == "save" else ""
            work(task(tiny, quick=True, peer=saver))
            path = tiny.with_stem("saved") if saver else file
            real = task(path, quick=quick, peer=saver)
            gc.collect()
            print("ready", flush=True)
            sys.stdin.readline()
            Path("/proc/self/clear_refs").write_text("5")  # start the peak of VmRSS anew
            result: Any = work(real)
            print(_memory("self")["VmHWM"], flush=True)
            del result, real


if __name__ == "__main__":
    _child(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4:] == ["quick"])
