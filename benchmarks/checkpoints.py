"""Measure checkpoints beside other libraries': stalls, durable saves, restores, frozen states.

All peers run in one process, in rounds; in each every peer does every operation once, in an order
that turns from round to round. The first round is not counted. Times are medians, and ratios the
medians of the rounds' ratios. What memory a save takes is measured in a child process.

malloc may give what one save has freed to the next, as in any training; what was loaded always goes
into memory that is new to the process, as when a training starts.

Each peer begins a round anew (a Checkpointer, a stager, an empty folder) and saves three times, all
tensors changed in between: the first save takes its copy's memory from the system, the second and
third find it. Before each operation the disk is given all that waits for it, and memory is kept
warm, as `measure.Pool` explains; "memcpy" copies the state into warm memory in one thread.

A stall is how long the training thread is held: in the call that saves, and for a fenced save also
in `fence()` after a computation that stands for forward and backward (matrix products in one
thread, a second of them for 2 GiB). Each background peer's third save has that computation beside
it, and tells how much slower that is.

"Durable" is from the call until all is on the disk: tensorkeep's own `wait()`; for the others their
future's result, and an fsync of each file and folder.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import checkpoint_peers as peers
from benchmarks.checkpoint_peers import OURS, RESTORERS, Saver
from benchmarks.checkpoint_tables import (
    ALL_CHANGED,
    CHANGING,
    MEMCPY,
    ORDER,
    SECTIONS,
    Results,
    markdown,
)
from benchmarks.measure import Pool, forget_freed_memory, log
from benchmarks.peers import as_bytes, read_all
from benchmarks.tables import filesystem, replace
from benchmarks.workloads import Arrays
from tensorkeep.formats.safetensors.shards import size_of

README = Path(__file__).with_name("README.md")
_PAGE = 4096
# One thread computes, as the tables say; JAX looks for no accelerator.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}


def main() -> None:
    if any(os.environ.get(name) != value for name, value in _ENVIRONMENT.items()):
        command = [sys.executable, "-m", "benchmarks.checkpoints", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **_ENVIRONMENT})
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoints", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", choices=SECTIONS, help="one section")
    parser.add_argument("--rounds", type=int, default=5, help="the first is not counted")
    parser.add_argument("--size", type=size_of, default="2GiB", help="of the state")
    parser.add_argument("--quick", action="store_true", help="64 MiB, to try the harness")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to save (4 states)")
    parser.add_argument("--write", action="store_true", help="put the tables into the README")
    given = parser.parse_args()
    if given.rounds < 2:
        parser.error("at least 2 rounds: the first is not counted")
    if given.write and (given.quick or given.only):
        parser.error("only a whole run is for the README")
    if filesystem(given.folder) in ("tmpfs", "ramfs"):
        parser.error("the folder is in memory; give one on a disk with --folder")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no gigabytes behind
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(dir=given.folder, prefix=".benchmarks-") as folder:
        size = (64 << 20) if given.quick else given.size
        results = Results()
        sections = (given.only,) if given.only else SECTIONS
        try:
            size = measure(Path(folder), size, given.rounds, sections, results)
        finally:  # what was measured before something failed is not lost
            body = markdown(results, size, given.rounds - 1)
            print(body, flush=True)
    if given.write:
        text = replace(README.read_text(encoding="utf-8"), "checkpoints", body)
        README.write_text(text, encoding="utf-8")
    log(f"{time.monotonic() - begin:.0f} seconds")


# --- rounds ---------------------------------------------------------------------------------------


@dataclass
class Round:
    """What each round needs, and where its figures go."""

    folder: Path
    arrays: Arrays
    work: Work
    results: Results
    turn: int = 0

    @property
    def size(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    def add(self, column: str, peer: str, value: float) -> None:
        if self.turn:
            self.results.add(column, peer, value)

    def rotated(self, names: list[str]) -> list[str]:
        start = self.turn * 3 % max(1, len(names))
        return names[start:] + names[:start]

    def settle(self, states: float) -> None:
        """Begin each operation alike: no garbage, an idle disk, and warm memory that is free.

        Only as much as it needs is made warm: what stays free goes to the host, and is slow to get.
        """
        gc.collect()
        os.sync()
        Pool(int(states * self.size) + (16 << 20)).fill()

    def fresh(self, name: str) -> Path:
        path = self.folder / "".join(c if c.isalnum() else "-" for c in name)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path

    def memcpy(self, section: str) -> None:
        """Copy the state in one thread into memory that is there."""
        os.sync()
        warm = {name: np.empty_like(array) for name, array in self.arrays.items()}
        seconds = []
        for _ in range(4):
            begin = time.perf_counter()
            for name, array in self.arrays.items():
                np.copyto(warm[name], array)
            seconds.append(time.perf_counter() - begin)
        self.add(f"{section}: memcpy", MEMCPY, statistics.median(seconds[1:]))


class Work:
    """A computation of a fixed size in one thread, as forward and backward are."""

    def __init__(self, seconds: float) -> None:
        self.one = np.random.default_rng(0).random((512, 512), np.float32)
        self.out = np.empty_like(self.one)
        self.times = 8
        self.times = max(8, round(8 * seconds / min(self.run() for _ in range(5))))

    def run(self) -> float:
        begin = time.perf_counter()
        for _ in range(self.times):
            np.matmul(self.one, self.one, out=self.out)
        return time.perf_counter() - begin


def measure(
    folder: Path, size: int, rounds: int, sections: tuple[str, ...], results: Results
) -> int:
    """Measure sections into `results`; give the exact size of the state."""
    arrays = peers.build(size)
    size = sum(array.nbytes for array in arrays.values())
    now = Round(folder, arrays, Work(size / (2 << 30)), results)
    for section, run in (("stall", stall), ("frozen", frozen), ("restore", restore)):
        if section not in sections:
            continue
        if section == "restore":
            forget_freed_memory()  # which malloc gives to later saves, as in any training
        gc.collect()
        gc.freeze()  # the libraries' own objects: collecting them takes long
        for now.turn in range(rounds):
            begin = time.monotonic()
            now.memcpy(section)
            run(now)
            seconds = time.monotonic() - begin
            log(f"{section}: round {now.turn + 1} of {rounds}, {seconds:.0f} seconds")
    if "memory" in sections:
        for name in peers.savers():
            log(f"memory: {name}")
            anonymous, resident = peers.measure_memory(name, folder, size)
            now.results.add("memory", name, anonymous)
            now.results.add("resident", name, resident)
    return size


def stall(now: Round) -> None:
    """Save three times, the last time beside a computation; fenced, always beside it."""
    now.settle(0)
    alone = statistics.median(now.work.run() for _ in range(3))
    for name in now.rotated(list(peers.savers())):
        saver = peers.savers()[name](now.arrays, folder := now.fresh(name))
        for step, order in enumerate(ORDER if saver.background else ORDER[:2], 1):
            peers.change(now.arrays)
            beside = saver.fenced or step == 3
            held, computing, total = one_save(now, saver, step, beside)
            now.add(f"stall: {order}", name, held)
            if not beside:
                now.add(f"durable: {order}", name, total)
            elif step == 3:
                now.add("slowdown", name, computing / alone)
        saver.close()
        shutil.rmtree(folder)


def one_save(now: Round, saver: Saver, step: int, beside: bool) -> tuple[float, float, float]:
    """Give how long the thread was held, how long it computed, and how long the save took."""
    now.settle(2 if step == 1 else 1)  # the file's pages, and at first a copy
    begin = time.perf_counter()
    saver.save(step)
    saved = time.perf_counter()
    computing = now.work.run() if beside else 0.0
    computed = time.perf_counter()
    held = saved - begin
    if saver.fenced:
        saver.fence()
        held += time.perf_counter() - computed
    saver.wait(step)
    total = time.perf_counter() - begin
    return held if saver.background else total, computing, total


def restore(now: Round) -> None:
    """Save with each library, and restore that: new, in place, and once more from the disk."""
    digest = read_all(now.arrays)
    target = {name: np.empty_like(array) for name, array in now.arrays.items()}
    for saver_name in now.rotated(list({r.reads: None for r in RESTORERS.values()})):
        if saver_name not in peers.savers():
            continue
        saver = peers.savers()[saver_name](now.arrays, folder := now.fresh(saver_name))
        saver.save(1)
        saver.wait(1)
        saver.close()
        path = saver.path_of(1)
        readers = [name for name, r in RESTORERS.items() if r.reads == saver_name]
        for cold in (False, True):
            for name in now.rotated(readers):
                lazy = RESTORERS[name].lazy  # maps are read and written to apart
                passes = ("written",) if cold else ("read", "written")
                for wanted in passes if lazy else ("both",):
                    one_restore(now, name, path, target, digest, wanted, cold)
        shutil.rmtree(folder)


def one_restore(
    now: Round, name: str, path: Path, target: Arrays, digest: int, wanted: str, cold: bool
) -> None:
    for array in target.values() if RESTORERS[name].into == "in place" else ():
        wipe(array)
    now.settle(1)
    if cold and not dropped(path):
        return
    column = "cold, " if cold else ""
    begin = time.perf_counter()
    state = RESTORERS[name].restore(path, target)
    restored = time.perf_counter() - begin
    if wanted != "read":
        now.add(f"{column}restored", name, restored)
    if wanted != "written":
        begin = time.perf_counter()
        found = read_all(dict(state))
        now.add(f"{column}read", name, restored + time.perf_counter() - begin)
        if found != digest:
            raise SystemExit(f"{name} has not restored what was saved")
    if wanted != "read":
        begin = time.perf_counter()
        for array in state.values():
            wipe(array)
        now.add(f"{column}written", name, restored + time.perf_counter() - begin)


def frozen(now: Round) -> None:
    """Save with most of the state unchanged in between; ours all changed, too."""
    for name in now.rotated([OURS, ALL_CHANGED, *filter(_writes_all, peers.savers())]):
        saver = peers.savers()[OURS if name == ALL_CHANGED else name](
            now.arrays, folder := now.fresh(name)
        )
        steps = 2 if _writes_all(name) else 3
        for step in range(1, steps + 1):
            peers.change(now.arrays, peers.COUNT if name == ALL_CHANGED else CHANGING)
            held, _, total = one_save(now, saver, step, False)
        files = (file.stat() for file in peers.files_of(saver.path_of(steps)))
        now.add("frozen: bytes", name, sum(s.st_size for s in files if s.st_nlink == 1))
        now.add("frozen: stall", name, held)
        now.add("frozen: durable", name, total)
        saver.close()
        shutil.rmtree(folder)


def _writes_all(name: str) -> bool:
    return not peers.is_ours(name)


def wipe(array: Any) -> None:
    """Write a byte of every page; of what cannot be written to, only read it."""
    rows = as_bytes(array)
    if rows.flags.writeable:
        rows[::_PAGE] = 1
    else:
        rows[::_PAGE].max()


def dropped(path: Path) -> bool:
    """Drop files from the page cache; say whether that worked."""
    for file in peers.files_of(path):
        fd = os.open(file, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    largest = max(peers.files_of(path), key=lambda file: file.stat().st_size)
    view = np.memmap(largest, np.uint8, "r")
    there = np.zeros(-(-view.size // _PAGE), np.uint8)  # a byte for each page, 1 where it is there
    begin, length, pages = view.ctypes.data, view.size, there.ctypes.data
    arguments = ctypes.c_void_p(begin), ctypes.c_size_t(length), ctypes.c_void_p(pages)
    return ctypes.CDLL(None).mincore(*arguments) == 0 and bool((there & 1).mean() < 0.02)


if __name__ == "__main__":
    main()
