"""One library's process, which makes its loaders and runs through them when it is told.

    python -m benchmarks.data_child LIBRARY FOLDER SAMPLES BATCH

Each line of its input is a JSON list: what to do, which case, which kind of file. Each line of its
output is the answer. `warm` takes a few batches of a new loader, so that imports do not count;
`memory` runs through as many epochs of another as it can in a second; `epoch` times an epoch of a
loader that stays, workers and all; `check` does that too, and looks at every sample.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data_peers import CASES, Given, Loader, fields_of, import_all

_SAMPLING = 1.0  # seconds
_WARM = 20  # batches
_INTERVAL = 0.004


class Child:
    """A library's process, seen from the one that measures."""

    def __init__(self, library: str, folder: Path, samples: int, batch: int) -> None:
        command = [sys.executable, "-m", "benchmarks.data_child", library, str(folder)]
        self._process = subprocess.Popen(
            [*command, str(samples), str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._library = library
        self._answer()

    def ask(self, *question: str) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(question) + "\n")
        return self._answer()

    def memory(self, case: str, kind: str) -> float:
        """Give the most that an epoch takes beyond what the process had, in bytes."""
        before = memory_of([self._process.pid])
        assert self._process.stdin
        self._process.stdin.write(json.dumps(("memory", case, kind)) + "\n")
        peak = 0
        while not self._readable():
            peak = max(peak, memory_of(tree(self._process.pid)))
            time.sleep(_INTERVAL)
        self._answer()
        return float(max(0, peak - before))

    def _readable(self) -> bool:
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def _answer(self) -> Any:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the process of {self._library} has ended")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def tree(pid: int) -> list[int]:
    """Give a process and all that it started, and those that they started."""
    found = [pid]
    for one in found:
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                text = Path(f"/proc/{one}/task/{task}/children").read_text()
                found += map(int, text.split())
        except OSError:
            continue
    return found


def memory_of(pids: list[int]) -> int:
    """Give what processes have taken: their own and shared memory, no maps of files; each once."""
    total = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1]) * 1024
    return total


# --- in the process -------------------------------------------------------------------------------


def run(loader: Loader, samples: int, *, check: bool) -> float:
    """Go through an epoch; give its seconds."""
    begin = time.perf_counter()
    total = count = 0
    for batch in loader.epoch():
        images, labels = fields_of(batch)
        total += int(labels.sum())
        count += len(images)
        if check:
            pixels = np.ascontiguousarray(np.asarray(images)).reshape(len(images), -1)
            numbers = pixels[:, :8].copy().view(np.int64)[:, 0]
            if not np.array_equal(numbers, np.asarray(labels).reshape(-1)):
                raise SystemExit("a label is not that of its image")
    seconds = time.perf_counter() - begin
    if (count, total) != (samples, samples * (samples - 1) // 2):
        raise SystemExit(f"{count:,} samples, whose labels add up to {total:,}: not each one once")
    return seconds


@functools.cache
def standing(case: str, given: Given) -> Loader:
    """Make a loader once: the epoch that is not counted starts its workers and maps its files."""
    return CASES[case].make(given)


def answer(what: str, case: str, given: Given, samples: int) -> Any:
    if what in ("check", "epoch"):
        return run(standing(case, given), samples, check=what == "check")
    loader = CASES[case].make(given)
    try:
        if what == "warm":
            for _ in zip(range(_WARM), loader.epoch(), strict=False):
                pass
            return None
        end = time.monotonic() + _SAMPLING
        while time.monotonic() < end:
            for number, _batch in enumerate(loader.epoch()):
                if number % 8 == 0 and time.monotonic() > end:
                    break
        return None
    finally:
        loader.close()


def main() -> None:
    library, folder, samples, batch = sys.argv[1:]
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    import_all(library)
    gc.freeze()
    print(json.dumps("ready"), file=out)
    for line in sys.stdin:
        what, case, kind = json.loads(line)
        reply = answer(what, case, Given(Path(folder), kind, int(batch)), int(samples))
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        print(json.dumps(reply), file=out)
    os._exit(0)  # what stays of a library's threads does not matter any more


if __name__ == "__main__":
    main()
