"""How it is measured: interleaved rounds in one process, each operation from the same start."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import PEERS, Operation, Task, locate_one, present, read_all, write_all
from benchmarks.workloads import Workload, form

_libc = ctypes.CDLL(None)
_M_MMAP_THRESHOLD = -3


def save_durably(save: Operation, task: Task) -> None:
    save(task)
    for path in (task.path, task.path.parent):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


def load_and_read(load: Operation, task: Task) -> Any:
    return read_all(load(task))


def load_and_write(load: Operation, task: Task) -> Any:
    arrays = load(task)
    write_all(arrays)
    return arrays


def one_and_read(one: Operation, task: Task) -> Any:
    return read_all({"": one(task)})


Files = dict[str, Path]  # by the peer that wrote it
Then = Callable[[Operation, Task], Any]

# Column: its title, the operation of the peer that it rests on, and what is done with that.
COLUMNS: dict[str, tuple[str, str, Then | None]] = {
    "save": ("save", "save", None),
    "durable": ("save, durable", "save", save_durably),
    "open": ("open", "open", None),
    "load": ("load", "load", None),
    "read": ("load, read all", "load", load_and_read),
    "write": ("load, write all", "load", load_and_write),
    "one": ("one tensor", "one", one_and_read),
}
SAVING = ("save", "durable")


@dataclass
class Results:
    """Seconds by column and peer, one per counted round."""

    workload: Workload
    size: int
    rounds: int
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    memory: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def median(self, column: str, peer: str) -> float:
        return statistics.median(self.seconds[column][peer])

    def ratio(self, column: str, peer: str, other: str, other_column: str = "") -> float:
        """Give the median of the rounds' ratios."""
        theirs = self.seconds[other_column or column][other]
        mine = self.seconds[column][peer]
        return statistics.median(a / b for a, b in zip(mine, theirs, strict=True))

    def fastest(self, column: str, role: str = "peer", *, lazy: bool = True) -> str:
        """Name the peer of the lowest median; "" where none was measured."""
        found = [
            peer
            for peer in self.seconds.get(column, {})
            if PEERS[peer].role == role and (lazy or not PEERS[peer].lazy)
        ]
        return min(found, key=lambda peer: self.median(column, peer), default="")


def run(
    workload: Workload, folder: Path, *, rounds: int, quick: bool, reuse: bool = False
) -> tuple[Results, Files]:
    if not reuse:
        forget_freed_memory()
    arrays = workload.build(quick)
    size = sum(array.nbytes for array in arrays.values())
    expected = read_all(arrays)
    tasks = {name: Task(Path(), form(arrays, PEERS[name].form), workload.one) for name in present()}
    files = write_files(tasks, folder)
    gc.freeze()  # the libraries' own objects: collecting them takes longer than what is measured
    results = Results(workload, size, rounds - 1, {column: {} for column in COLUMNS})
    pool = Pool(size * 3 // 2 + (128 << 20))
    for turn in range(rounds):
        log(f"{workload.name}: round {turn + 1} of {rounds}")
        for column in COLUMNS:
            works = {name: work for name in tasks if (work := operation(name, column))}
            for name in rotated(list(works), turn):
                task = tasks[name]
                task.path = files[PEERS[name].reads or name]
                if column in SAVING:
                    task.path = folder / f"saved{PEERS[name].suffix}"
                seconds, result = timed(
                    works[name], task, pool, takes_memory=takes_memory(name, column)
                )
                if column in SAVING:
                    task.path.unlink()
                if turn == 0:
                    check(result, column, name, expected)
                else:
                    results.seconds[column].setdefault(name, []).append(seconds)
                del result
    return results, files


def write_files(tasks: dict[str, Task], folder: Path) -> Files:
    """Save a file for every peer that reads its own, on the disk and in the page cache."""
    files: Files = {}
    for i, (name, task) in enumerate(tasks.items()):
        if PEERS[name].reads:
            continue
        task.path = files[name] = folder / f"file-{i}{PEERS[name].suffix}"
        save_durably(PEERS[name].operations["save"], task)
    for name, task in tasks.items():
        if PEERS[name].role == "limit":
            task.header, task.span = locate_one(files[PEERS[name].reads], task.one)
    return files


def operation(name: str, column: str) -> Operation | None:
    """Find what a peer does for a column: its own way, or the usual one."""
    own = PEERS[name].operations
    if PEERS[name].columns and column not in PEERS[name].columns:
        return None
    if column in own and column != "one":
        return own[column]
    _, base, then = COLUMNS[column]
    if base not in own:
        return None
    return own[base] if then is None else lambda task: then(own[base], task)


def rotated(names: list[str], turn: int) -> list[str]:
    """Start each round with another peer, so that none always follows the same one."""
    start = turn * 3 % len(names)
    return names[start:] + names[:start]


def timed(work: Operation, task: Task, pool: Pool, *, takes_memory: bool) -> tuple[float, Any]:
    gc.collect()
    _libc.malloc_trim(0)
    pool.fill()
    if takes_memory:
        pool.drain()
    begin = time.perf_counter()
    result = work(task)
    return time.perf_counter() - begin, result


@dataclass
class Pool:
    """Memory that is kept in use between operations and freed for those that need it.

    A virtual machine hands memory that stays free for seconds back to its host, and the first touch
    of a page that was handed back takes ten times as long.
    """

    size: int
    held: Any = None

    def fill(self) -> None:
        if self.held is None:
            self.held = np.empty(self.size, np.uint8)
            self.held[::4096] = 1

    def drain(self) -> None:
        self.held = None


def forget_freed_memory() -> None:
    """Have malloc map every large block anew, as it does in a process that has freed none yet.

    Otherwise it gives the warm memory of one load to the next load of blocks of that size.
    """
    _libc.mallopt(_M_MMAP_THRESHOLD, 128 << 10)


def takes_memory(name: str, column: str) -> bool:
    return column not in ("open", "one") and not (column in ("load", "read") and PEERS[name].lazy)


def check(result: Any, column: str, name: str, expected: int) -> None:
    """Stop if what was loaded is not what was saved."""
    if column == "read" and PEERS[name].role != "limit" and result != expected:
        raise SystemExit(f"{name} did not load what was saved")


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
