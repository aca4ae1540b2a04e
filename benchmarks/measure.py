"""How it is measured: interleaved rounds in one process, each operation from the same start."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import PEERS, Peer, Task, locate_one, present, read_all, write_all
from benchmarks.workloads import Workload, form

COLUMNS = {
    "save": "save",
    "durable": "save, durable",
    "open": "open",
    "load": "load",
    "read": "load, read all",
    "write": "load, write all",
    "one": "one tensor",
}

# --- passes: what is done in one go, and the column that each moment of it belongs to -----------

Clock = Callable[[], float]  # seconds since the pass began
Marks = Iterator[tuple[str, float]]


def saving(peer: Peer, task: Task, clock: Clock) -> Marks:
    peer.operations["save"](task)
    yield "save", clock()
    if "durable" not in peer.operations:
        sync(task.path)
        yield "durable", clock()


def saving_durably(peer: Peer, task: Task, clock: Clock) -> Marks:
    peer.operations["durable"](task)
    yield "durable", clock()


def opening(peer: Peer, task: Task, clock: Clock) -> Marks:
    peer.operations["open"](task)
    yield "open", clock()


def loading(peer: Peer, task: Task, clock: Clock) -> Marks:
    arrays = peer.operations["load"](task)
    loaded = clock()
    yield "load", loaded
    digest = read_all(arrays)
    read = clock()
    yield "read", read
    if task.digest and digest != task.digest:
        raise SystemExit(f"{task.path} was not loaded as it was saved")
    if not peer.lazy:  # a map is written to in a pass of its own, before it was read
        begin = clock()
        write_all(arrays)
        yield "write", loaded + clock() - begin


def writing(peer: Peer, task: Task, clock: Clock) -> Marks:
    arrays = peer.operations["load"](task)
    write_all(arrays)
    yield "write", clock()


def loading_one(peer: Peer, task: Task, clock: Clock) -> Marks:
    read_all({"": peer.operations["one"](task)})
    yield "one", clock()


@dataclass(frozen=True)
class Pass:
    run: Callable[[Peer, Task, Clock], Marks]
    needs: str  # the operation that a peer must have
    suits: Callable[[Peer], bool] = lambda peer: True
    takes_memory: Callable[[Peer], bool] = lambda peer: True
    saves: bool = False


PASSES = (
    Pass(saving, "save", saves=True),
    Pass(saving_durably, "durable", saves=True),
    Pass(opening, "open", takes_memory=lambda peer: False),
    Pass(loading, "load", takes_memory=lambda peer: not peer.lazy),
    Pass(writing, "load", suits=lambda peer: peer.lazy),
    Pass(loading_one, "one", takes_memory=lambda peer: False),
)


def sync(path: Path) -> None:
    for target in (path, path.parent):
        fd = os.open(target, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


# --- rounds -------------------------------------------------------------------------------------

Files = dict[str, Path]  # by the peer that wrote it


@dataclass
class Results:
    """Seconds by column and peer, one per counted round."""

    workload: Workload
    size: int
    rounds: int
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    memory: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)

    def add(self, column: str, peer: str, seconds: float) -> None:
        self.seconds.setdefault(column, {}).setdefault(peer, []).append(seconds)

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
    digest = read_all(arrays)
    tasks = {name: Task(Path(), form(arrays, PEERS[name].form), workload.one) for name in present()}
    files = {name: folder / f"{i}{PEERS[name].suffix}" for i, name in enumerate(tasks)}
    results = Results(workload, size, rounds - 1)
    pool = Pool(size * 5 // 2 + (128 << 20))
    gc.freeze()  # the libraries' own objects: collecting them takes longer than what is measured
    for turn in range(rounds):
        log(f"{workload.name}: round {turn + 1} of {rounds}")
        for step in PASSES:
            for name in rotated(list(tasks), turn):
                peer, task = PEERS[name], tasks[name]
                if step.needs not in peer.operations or not step.suits(peer):
                    continue
                task.path = files[name if step.saves else peer.reads or name]
                task.digest = digest if peer.role != "limit" else 0
                if step.saves:
                    task.path.unlink(missing_ok=True)
                elif peer.role == "limit":
                    task.header, task.span = locate_one(task.path, task.one)
                marks = timed(step, peer, task, pool)
                if step.saves and peer.reads:  # the others' files are what the round loads
                    task.path.unlink()
                for column, seconds in marks.items() if turn else ():
                    results.add(column, name, seconds)
    return results, files


def rotated(names: list[str], turn: int) -> list[str]:
    """Start each round with another peer, so that none always follows the same one."""
    start = turn * 3 % len(names)
    return names[start:] + names[:start]


def timed(step: Pass, peer: Peer, task: Task, pool: Pool) -> dict[str, float]:
    gc.collect()
    _libc.malloc_trim(0)
    pool.fill()
    if step.takes_memory(peer):
        pool.drain()
    begin = time.perf_counter()
    return dict(step.run(peer, task, lambda: time.perf_counter() - begin))


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


_libc = ctypes.CDLL(None)
_M_MMAP_THRESHOLD = -3


def forget_freed_memory() -> None:
    """Have malloc map every large block anew, as it does in a process that has freed none yet.

    Otherwise it gives the warm memory of one load to the next load of blocks of that size.
    """
    _libc.mallopt(_M_MMAP_THRESHOLD, 128 << 10)


def log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
