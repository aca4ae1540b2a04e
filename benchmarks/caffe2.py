"""Measure Save and Load beside real Caffe2's, on databases of blobs.

Caffe2 runs in an interpreter of its own, `--oracle`: a Python 3.8 with torch 1.10.2, protobuf
3.20.3, numpy below 1.24, future and six. Without one only tensorkeep is measured. Both do each
operation once a round, in turns; the first round is not counted, but what it loads is compared with
what was saved. Each load takes fresh memory.

"load" is the operator alone: for tensorkeep a tensor then lies in the mapped file, or as varints in
it. "load and read" is until all values are arrays in memory, which for Caffe2 is the operator too.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import tensorkeep as tk
from benchmarks.caffe2_oracle import WORKLOADS, build
from benchmarks.measure import Pool, log
from benchmarks.tables import figure, filesystem, replace, table
from benchmarks.workloads import Arrays
from tensorkeep import caffe2
from tensorkeep.store import Location
from tensorkeep.stores.file import FileStore
from tensorkeep.testing import CountingStore

README = Path(__file__).with_name("README.md")
ORACLE = Path(__file__).with_name("caffe2_oracle.py")
CAFFE2, OURS, LMDB = "Caffe2", "tensorkeep", "tensorkeep, LMDB"
SAVE, DURABLE, LOAD, READ = "save", "save, durable", "load", "load, read"

# The least that tensorkeep's speed may be as a multiple of Caffe2's: of saving, and of loading
# together with a first reading.
BARS = {
    "float32": (2.0, 2.0),
    "int64-small": (0.6, 0.6),
    "int64-ids": (0.6, 0.6),
    "int64-large": (0.6, 0.6),
    "uint8": (2.0, 2.0),
    "bool": (2.0, 2.0),
    "int8": (0.6, 0.6),
    "float16": (0.6, 0.6),
    "uint8-bytes": (1.0, 1.0),
    "bool-bytes": (1.0, 1.0),
    "int8-bytes": (1.0, 1.0),
    "float16-bytes": (1.0, 1.0),
    "blobs": (1.0, 1.0),
}
# Plain bytes are held against Caffe2's varints of the same values as well.
VARINTS_OF = {name: name.removesuffix("-bytes") for name in BARS if name.endswith("-bytes")}
VARINTS_BAR = 3.0

_PAGE = 4096

Seconds = dict[tuple[str, str], list[float]]  # by peer and operation


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.caffe2", description=__doc__)
    parser.add_argument("--oracle", help="the Python that has Caffe2")
    parser.add_argument("--only", choices=WORKLOADS, nargs="+", help="some workloads")
    parser.add_argument("--rounds", type=int, default=5, help="the first is not counted")
    parser.add_argument("--scale", type=float, default=1.0, help="of the sizes: 0.01 tries it")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to save (5 GB)")
    parser.add_argument("--write", action="store_true", help="put the tables into the README")
    given = parser.parse_args()
    if given.write and (given.only or given.scale != 1 or not given.oracle):
        parser.error("only a whole run beside Caffe2 is for the README")
    if given.rounds < 2:
        parser.error("at least 2 rounds: the first is not counted")
    if filesystem(given.folder) in ("tmpfs", "ramfs"):
        parser.error("the folder is in memory; give one on a disk with --folder")
    results: dict[str, Result] = {}
    opened = ""
    for name in given.only or WORKLOADS:
        with tempfile.TemporaryDirectory(dir=given.folder, prefix=".benchmarks-") as folder:
            results[name] = measure(name, Path(folder), given)
            if name == "float32":
                opened = count_opening(Path(folder))
    body = (
        f"GB of array data per second; ratios above 1: tensorkeep is faster.\n\n{speeds(results)}"
    )
    if given.oracle:
        body += f"\nThe bar:\n\n{bars(results)}"
    body += f"\n{opened}"
    print(body)
    if given.write:
        text = replace(README.read_text(encoding="utf-8"), "caffe2", body)
        README.write_text(text, encoding="utf-8")


# --- peers: each gives the seconds that an operation took -----------------------------------------


class Caffe2:
    """Real Caffe2, in another interpreter."""

    def __init__(self, python: str, workload: str, scale: float, folder: Path) -> None:
        flags = ["bytes"] if WORKLOADS[workload].as_bytes else []
        self.path = folder / "caffe2.minidb"
        self.child = subprocess.Popen(
            [python, "-I", str(ORACLE), *flags],  # -I: this file is not its module caffe2
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.ask("build", name=workload, scale=scale)

    def ask(self, do: str, **given: Any) -> Any:
        assert self.child.stdin
        assert self.child.stdout
        self.child.stdin.write(json.dumps({"do": do, **given}) + "\n")
        answer = self.child.stdout.readline()
        if not answer:
            raise SystemExit(f"Caffe2 ended at {do!r}; see above")
        return json.loads(answer)

    def save(self, *, durable: bool) -> float:
        remove(self.path)
        return float(self.ask("save", path=str(self.path.absolute()), durable=durable))

    def load(self, *, check: bool) -> dict[str, float]:
        return {READ: self.ask("load", path=str(self.path.absolute()), check=check)}

    def close(self) -> None:
        assert self.child.stdin
        self.child.stdin.close()
        self.child.wait()


class Ours:
    """The operators Save and Load of tensorkeep."""

    def __init__(self, workload: str, arrays: Arrays, path: Path, db_type: str) -> None:
        self.arrays = arrays
        self.path = path
        options = caffe2.SaveOptions(byte_holder=WORKLOADS[workload].as_bytes)
        self.workspace = caffe2.Workspace(save_options=options)
        for name, array in arrays.items():
            self.workspace.feed(name, array, copy=False)
        given: dict[str, Any] = {"db": str(path.absolute()), "db_type": db_type, "absolute_path": 1}
        self.saving = caffe2.create_operator("Save", list(arrays), **given)
        self.loading = caffe2.create_operator("Load", [], list(arrays), **given)

    def save(self, *, durable: bool) -> float:
        remove(self.path)
        begin = time.perf_counter()
        self.workspace.run(self.saving, durable=durable)
        return time.perf_counter() - begin

    def load(self, *, check: bool) -> dict[str, float]:
        begin = time.perf_counter()
        workspace = caffe2.Workspace()
        workspace.run(self.loading)
        loaded = time.perf_counter()
        arrays = {name: workspace.fetch(name) for name in self.arrays}
        for array in arrays.values():
            if array.nbytes > _PAGE:
                array.reshape(-1).view(np.uint8)[::_PAGE].max()  # have every page in memory
        seconds = {LOAD: loaded - begin, READ: time.perf_counter() - begin}
        for name, array in self.arrays.items() if check else ():
            if arrays[name].tobytes() != array.tobytes():
                raise SystemExit(f"{self.path}: tensorkeep loaded another {name}")
        return seconds

    def close(self) -> None:
        remove(self.path)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


# --- rounds ---------------------------------------------------------------------------------------


@dataclass
class Result:
    size: int
    seconds: Seconds = field(default_factory=dict)

    def add(self, peer: str, operation: str, seconds: float) -> None:
        self.seconds.setdefault((peer, operation), []).append(seconds)

    def speed(self, peer: str, operation: str) -> float | None:
        """Give the GB/s of the median round; None where it was not measured."""
        rounds = self.seconds.get((peer, operation))
        return self.size / statistics.median(rounds) / 1e9 if rounds else None

    def ratio(self, peer: str, operation: str, theirs: Result | None = None) -> float:
        """Give how many times as fast as Caffe2 it is, in this or in another workload."""
        other = SAVE if operation == SAVE else READ
        mine = statistics.median(self.seconds[peer, operation])
        return statistics.median((theirs or self).seconds[CAFFE2, other]) / mine


def measure(name: str, folder: Path, given: argparse.Namespace) -> Result:
    arrays = build(name, given.scale)
    result = Result(sum(array.nbytes for array in arrays.values()))
    peers: dict[str, Ours | Caffe2] = {
        OURS: Ours(name, arrays, folder / "ours.minidb", "minidb"),
        LMDB: Ours(name, arrays, folder / "ours.lmdb", "lmdb"),
    }
    if given.oracle:
        peers[CAFFE2] = Caffe2(given.oracle, name, given.scale, folder)
    gc.freeze()
    pool = Pool(int(2.5 * result.size))
    for turn in range(given.rounds):
        log(f"{name}: round {turn + 1} of {given.rounds}")
        for operation in (DURABLE, SAVE, READ):
            for peer in rotated(list(peers), turn):
                works = peers[peer]
                gc.collect()
                os.sync()  # no peer pays for what another left in the page cache
                pool.fill()
                pool.drain()
                if operation == READ:
                    times = works.load(check=turn == 0)
                else:
                    times = {operation: works.save(durable=operation == DURABLE)}
                for what, seconds in times.items() if turn else ():
                    result.add(peer, what, seconds)
    for peer in (CAFFE2, LMDB):
        if peer in peers:
            peers[peer].close()
    return result


def rotated(names: list[str], turn: int) -> list[str]:
    start = turn % len(names)
    return names[start:] + names[:start]


def count_opening(folder: Path) -> str:
    """Tell how much of a file is read to know what is in it."""
    store = CountingStore(FileStore(folder))
    begin = time.perf_counter()
    with tk.open(Location(store, "ours.minidb")) as state:
        names = len(state)
    seconds = time.perf_counter() - begin
    size = os.path.getsize(folder / "ours.minidb")
    return (
        f"Opening a minidb of {size:,} bytes for its {names} names: {store.bytes_read:,} bytes "
        f"in {len(store.ranges):,} reads, {seconds * 1e3:.1f} ms.\n"
    )


# --- tables ---------------------------------------------------------------------------------------

# Title, peer and operation, and the operation of Caffe2 that it is held against.
_COLUMNS = (
    ("save", OURS, SAVE, SAVE),
    ("save, durable", OURS, DURABLE, DURABLE),
    ("load and read", OURS, READ, READ),
    ("load alone", OURS, LOAD, READ),
    ("LMDB: save", LMDB, SAVE, SAVE),
    ("LMDB: load and read", LMDB, READ, READ),
)


def speeds(results: dict[str, Result]) -> str:
    """Give a row for each workload: tensorkeep / Caffe2 (ratio)."""

    def cell(result: Result, peer: str, operation: str, theirs: str) -> str:
        mine, other = result.speed(peer, operation), result.speed(CAFFE2, theirs)
        if mine is None:
            return "-"
        if other is None:
            return figure(mine)
        return f"{figure(mine)} / {figure(other)} ({figure(mine / other)}x)"

    rows = (
        [WORKLOADS[name].title, *(cell(result, *column[1:]) for column in _COLUMNS)]
        for name, result in results.items()
    )
    return table(["", *(column[0] for column in _COLUMNS)], rows)


def bars(results: dict[str, Result]) -> str:
    rows = [
        [what, f"≥ {figure(bar)}x", f"{figure(found)}x", "yes" if found >= bar else "no"]
        for what, bar, found in _bars(results)
    ]
    return table(["", "bar", "measured", "met"], rows)


def _bars(results: dict[str, Result]) -> Iterator[tuple[str, float, float]]:
    for name, result in results.items():
        title = WORKLOADS[name].title
        loading = LOAD if name == "blobs" else READ  # fetching each is not part of Caffe2's Load
        for operation, bar in zip((SAVE, loading), BARS[name], strict=True):
            yield f"{title}: {operation}", bar, result.ratio(OURS, operation)
            if varints := results.get(VARINTS_OF.get(name, "")):
                found = result.ratio(OURS, operation, varints)
                yield f"{title}: {operation}, against its varints", VARINTS_BAR, found


if __name__ == "__main__":
    main()
