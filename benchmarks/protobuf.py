"""Measure the format protobuf beside Google's protobuf library, on files of the same schema.

Google's library (upb, C) parses a State whole, so it is measured below 2 GiB only. Both do each
operation once a round, in turns; the first round is not counted. "load" gives arrays: views of the
mapped file for tensorkeep, views of the parsed message for Google's. "load, read" also reads every
byte of them.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tests.formats.protobuf_reference import MAGIC, STATE

import tensorkeep as tk
from benchmarks.measure import log
from benchmarks.peers import read_all
from benchmarks.tables import table
from tensorkeep.formats.protobuf.fields import CODES, KINDS

TENSORS = 64
OPERATIONS = ("save", "open", "load", "load, read", "one tensor")

Arrays = dict[str, Any]
Seconds = dict[tuple[str, str], list[float]]  # by peer and operation


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.protobuf", description=__doc__)
    parser.add_argument("--size", default="256MiB", help="of all tensors, such as 64MiB or 1GiB")
    parser.add_argument("--rounds", type=int, default=3, help="that are counted")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to save")
    given = parser.parse_args()
    number, unit = given.size[:-3], given.size[-3:]
    if unit not in ("MiB", "GiB") or not number.isdigit() or given.rounds < 1:
        parser.error("the size is a number of MiB or GiB, the rounds one at least")
    size = int(number) << (20 if unit == "MiB" else 30)
    if size >= 2 << 30:
        parser.error("Google's library reads less than 2 GiB at once")
    count = size // TENSORS // 4
    arrays = {f"layer.{i}.weight": np.full(count, i, np.float32) for i in range(TENSORS)}
    with tempfile.TemporaryDirectory(dir=given.folder, prefix=".benchmarks-") as folder:
        seconds = measure(arrays, Path(folder), given.rounds)
    print(f"{given.size} in {TENSORS} float32 tensors; seconds, the median of {given.rounds}.\n")
    rows = [
        [operation, *(f"{statistics.median(seconds[peer, operation]):.4f}" for peer in PEERS)]
        for operation in OPERATIONS
    ]
    print(table(["", *PEERS], rows))


# --- peers: each gives a file of its own ----------------------------------------------------------


class Ours:
    """The library itself."""

    def __init__(self, **options: Any) -> None:
        self.options = options

    def save(self, arrays: Arrays, path: Path) -> None:
        tk.save(arrays, path, durable=False, **self.options)

    def open(self, path: Path) -> None:
        tk.open(path).close()

    def load(self, path: Path) -> Arrays:
        loaded: Arrays = tk.load(path)
        return loaded

    def one(self, path: Path, name: str) -> Any:
        with tk.open(path) as state:
            return state[name].numpy()


class Google:
    """Google's library, used as its documentation does."""

    def save(self, arrays: Arrays, path: Path) -> None:
        state = STATE(magic=MAGIC)
        state.header.version = 1
        for place, (name, array) in enumerate(arrays.items()):
            code = CODES[tk.Tensor.of(array).dtype]
            state.header.tensors.add(name=name, dtype=code, shape=array.shape, nbytes=array.nbytes)
            state.chunks.add(tensor=place, data=array.tobytes())
        path.write_bytes(state.SerializeToString())

    def open(self, path: Path) -> None:
        STATE.FromString(path.read_bytes())

    def load(self, path: Path) -> Arrays:
        state = STATE.FromString(path.read_bytes())
        found = {}
        for chunk in state.chunks:
            row = state.header.tensors[chunk.tensor]
            flat = np.frombuffer(chunk.data, KINDS[row.dtype].numpy)
            found[row.name] = flat.reshape(row.shape)
        return found

    def one(self, path: Path, name: str) -> Any:
        return self.load(path)[name]


PEERS: dict[str, Ours | Google] = {
    "tensorkeep": Ours(),
    "tensorkeep, no checksums": Ours(checksums=False),
    "google.protobuf": Google(),
}


def measure(arrays: Arrays, folder: Path, rounds: int) -> Seconds:
    """Give the seconds by peer and operation, one for each round but the first."""
    seconds: Seconds = {}
    for turn in range(rounds + 1):
        log(f"round {turn} of {rounds}")
        for place, (name, peer) in enumerate(PEERS.items()):
            path = folder / f"{place}.tensors.pb"
            path.unlink(missing_ok=True)
            for operation, taken in passes(peer, arrays, path):
                if turn:
                    seconds.setdefault((name, operation), []).append(taken)
    return seconds


def passes(peer: Ours | Google, arrays: Arrays, path: Path) -> Iterator[tuple[str, float]]:
    """Do each operation once; gives the seconds that it took."""
    expected, name = read_all(arrays), list(arrays)[TENSORS // 2]
    clock = time.perf_counter
    gc.collect()
    begin = clock()
    peer.save(arrays, path)
    yield "save", clock() - begin
    begin = clock()
    peer.open(path)
    yield "open", clock() - begin
    gc.collect()
    begin = clock()
    loaded = peer.load(path)
    yield "load", clock() - begin
    found = read_all(loaded)
    yield "load, read", clock() - begin
    if found != expected:
        raise SystemExit(f"{path} was not loaded as it was saved")
    del loaded
    gc.collect()
    begin = clock()
    read_all({name: peer.one(path, name)})
    yield "one tensor", clock() - begin


if __name__ == "__main__":
    main()
