"""Compare NNEF's files and the translation of models: ours against nnef and nnef-tools.

    python -m benchmarks.exchange --size 256MiB --tensors 16 --rounds 5

Each case runs in a process of its own, which has done the same to a tiny model before the clock
starts. Beside its time stands the most resident memory of that process, mapped files included, with
that of a process that it started, if any. In each round every case runs once, the peer's and ours
one after the other; times are medians, and a ratio is the median of the rounds' ratios. Files are
in the page cache, and nobody waits for the disk.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.exchange_cases import CASES, PACKAGES, Case, make

_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SMALL, _LARGE, _MADE = "small", "large", "made"
_INTERVAL = 0.005


class Found(NamedTuple):
    """What a case took: seconds, and megabytes at the most."""

    seconds: float
    memory: float


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="256MiB")
    parser.add_argument("--tensors", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="the cases whose names have this in them")
    given = parser.parse_args()
    size = int(given.size[:-3]) * _UNITS[given.size[-3:]]
    cases = [case for case in CASES if given.only in case.what]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder / _SMALL, 4096, given.tensors, operations=10, width=1)
        make(folder / _LARGE, size, given.tensors, operations=5000, width=64)
        rows: dict[str, list[dict[str, Found]]] = {case.what: [] for case in cases}
        for _ in range(given.rounds):
            for case in cases:
                whose = [peer for peer in case.runs if importlib.util.find_spec(PACKAGES[peer])]
                rows[case.what].append({who: _measured(case, who, folder) for who in whose})
    print("| what | peer | peer (s, MB) | tensorkeep (s, MB) | as fast as |")
    print("|---|---|---:|---:|---:|")
    for case in cases:
        print(_line(case, rows[case.what]))


def _line(case: Case, rounds: list[dict[str, Found]]) -> str:
    ours = _cell([row["tensorkeep"] for row in rounds])
    peers = [who for who in rounds[0] if who != "tensorkeep"]
    if not peers:
        return f"| {case.what} | - | - | {ours} | - |"
    (peer,) = peers
    ratio = statistics.median(row[peer].seconds / row["tensorkeep"].seconds for row in rounds)
    shown = f"{ratio:.2f}" if ratio < 1 else f"{ratio:.1f}" if ratio < 10 else f"{ratio:,.0f}"
    return f"| {case.what} | {peer} | {_cell([row[peer] for row in rounds])} | {ours} | {shown}x |"


def _cell(found: list[Found]) -> str:
    seconds = statistics.median(row.seconds for row in found)
    shown = f"{seconds:.2f}" if seconds >= 1 else f"{seconds:.4f}"
    return f"{shown}, {max(row.memory for row in found):.0f}"


def _measured(case: Case, who: str, folder: Path) -> Found:
    for inputs in (_SMALL, _LARGE):
        (folder / inputs / _MADE).mkdir()
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(case.what, who, folder, sender))
    process.start()
    started = 0.0
    while not receiver.poll(_INTERVAL):
        started = max([started, *map(_peak, _children(process.pid))])
        if not process.is_alive() and not receiver.poll():
            raise SystemExit(f"measuring {who}, {case.what}, failed")
    seconds, memory = receiver.recv()
    process.join()
    for inputs in (_SMALL, _LARGE):
        shutil.rmtree(folder / inputs / _MADE)
    return Found(seconds, memory + started)


def _run(what: str, who: str, folder: Path, sender: Any) -> None:
    prepare = next(case for case in CASES if case.what == what).runs[who]
    prepare(folder / _SMALL, folder / _SMALL / _MADE)()
    run = prepare(folder / _LARGE, folder / _LARGE / _MADE)
    start = time.perf_counter()
    kept = run()
    seconds = time.perf_counter() - start
    sender.send((seconds, _peak()))
    del kept


def _children(pid: int | None) -> list[str]:
    try:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []


def _peak(pid: str = "self") -> float:
    """Give the most resident memory of a process in megabytes.

    Not by getrusage, which also counts what the process was forked from.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    rows = dict(line.split(":", 1) for line in text.splitlines())
    return int(rows["VmHWM"].split()[0]) * 1024 / 1e6 if "VmHWM" in rows else 0.0


if __name__ == "__main__":
    main()
