"""Saving to and loading from an object store on this machine, beside what others need for it.

    npm install --no-save s3rver
    python -m benchmarks.objects --write

"limit" is obstore alone, putting and getting the same bytes. Servers of S3 for tests differ: moto's
reads a whole object for each range that is asked for, so s3rver is taken where it is installed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

import tensorkeep as tk
from benchmarks.tables import figure, replace, table

README = Path(__file__).with_name("README.md")
BUCKET = "weights"
LIMIT = "limit (obstore)"
OURS = "tensorkeep"
PLAIN = "tensorkeep, checksums=False"
S3FS = "s3fs + safetensors"
DCP = "torch DCP + fsspec"
ROWS = (LIMIT, OURS, PLAIN, S3FS, DCP)
_BAR = 1.25

Arrays = dict[str, Any]


@dataclass(frozen=True)
class Server:
    """A running one."""

    name: str
    url: str
    folder: str
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Peer:
    """How one of them saves a state of arrays, and loads it."""

    save: Callable[[Arrays], None]
    load: Callable[[], Any]


@dataclass
class Results:
    server: str
    size: int
    tensors: int
    seconds: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def ratio(self, what: str, peer: str, other: str) -> float:
        pairs = zip(self.seconds[peer, what], self.seconds[other, what], strict=True)
        return statistics.median(ours / theirs for ours, theirs in pairs)


def start() -> Server:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    rver = shutil.which("s3rver") or shutil.which("s3rver", path="node_modules/.bin")
    folder = tempfile.mkdtemp()
    if rver:
        os.environ.update(AWS_ACCESS_KEY_ID="S3RVER", AWS_SECRET_ACCESS_KEY="S3RVER")
        command = [rver, "-d", folder, "-a", "127.0.0.1", "-p", port, "--silent"]
        command += ["--configure-bucket", BUCKET]
    else:
        os.environ.update(AWS_ACCESS_KEY_ID="ID", AWS_SECRET_ACCESS_KEY="SECRET")
        moto = Path(sys.executable).parent / "moto_server"
        command = [str(moto), "-H", "127.0.0.1", "-p", port]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", int(port))).close()
            break
        except OSError:
            time.sleep(0.1)
    server = Server("s3rver" if rver else "moto", f"http://127.0.0.1:{port}", folder, process)
    os.environ.update(
        AWS_REGION="us-east-1",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_ENDPOINT_URL=server.url,
        AWS_ALLOW_HTTP="true",
    )
    if not rver:
        make_bucket(server.url)
    return server


def make_bucket(url: str) -> None:
    import boto3

    boto3.client("s3", endpoint_url=url).create_bucket(Bucket=BUCKET)


def arrays_of(count: int, size: int) -> Arrays:
    rng = np.random.default_rng(0)
    shape = (size // count // 4096, 1024)
    return {f"layers.{i}.weight": rng.random(shape, np.float32) for i in range(count)}


def peers(url: str, size: int) -> dict[str, Peer]:
    found = {LIMIT: _obstore(url, size), OURS: _ours(), PLAIN: _ours(checksums=False)}
    for name, make in ((S3FS, _s3fs), (DCP, _dcp)):
        try:
            found[name] = make(url)
        except ImportError as error:
            print(f"left out: {name}, {error}", file=sys.stderr)
    return found


def _obstore(url: str, size: int) -> Peer:
    import obstore
    from obstore.store import S3Store

    options: Any = {
        "endpoint": url,
        "client_options": {"allow_http": True, "timeout": timedelta(minutes=5)},
    }
    store = S3Store(BUCKET, **options)
    data = np.random.default_rng(0).bytes(size)

    def save(_: Arrays) -> None:
        obstore.put(store, "raw", data, chunk_size=16 << 20)

    return Peer(save, lambda: obstore.get(store, "raw").bytes())


def _ours(**options: Any) -> Peer:
    path = f"s3://{BUCKET}/{'plain' if options else 'sealed'}.safetensors"
    verify = not options
    return Peer(
        lambda arrays: tk.save(arrays, path, **options), lambda: tk.load(path, verify=verify)
    )


def _s3fs(url: str) -> Peer:
    import s3fs
    from safetensors.numpy import load, save

    files = s3fs.S3FileSystem(endpoint_url=url)
    path = f"{BUCKET}/s3fs.safetensors"

    def put(arrays: Arrays) -> None:
        with files.open(path, "wb") as file:
            file.write(save(arrays))

    return Peer(put, lambda: load(files.cat_file(path)))


def _dcp(url: str) -> Peer:
    import torch
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

    path = f"s3://{BUCKET}/dcp"
    shapes: dict[str, tuple[int, ...]] = {}

    def put(arrays: Arrays) -> None:
        shapes.update((name, array.shape) for name, array in arrays.items())
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        writer = FsspecWriter(path, sync_files=False, endpoint_url=url)
        dcp.save(state, storage_writer=writer, no_dist=True)

    def load() -> Any:
        state = {name: torch.empty(shape) for name, shape in shapes.items()}
        reader = FsspecReader(path, endpoint_url=url)
        dcp.load(state, storage_reader=reader, no_dist=True)
        return state

    return Peer(put, load)


def measure(results: Results, arrays: Arrays, rows: dict[str, Peer], rounds: int) -> None:
    names = list(rows)
    for turn in range(rounds + 1):
        print(f"{results.tensors} tensors: round {turn} of {rounds}", file=sys.stderr)
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for what in ("save", "load"):
            for name in order:
                begin = time.perf_counter()
                rows[name].save(arrays) if what == "save" else rows[name].load()
                took = time.perf_counter() - begin
                if turn:
                    results.seconds.setdefault((name, what), []).append(took)


def markdown(results: Results) -> str:
    names = sorted({name for name, _ in results.seconds}, key=ROWS.index)
    rows = []
    for name in names:
        cells = [name]
        for what in ("save", "load"):
            took = statistics.median(results.seconds[name, what])
            ratio = results.ratio(what, name, LIMIT)
            cells += [figure(took * 1e3), f"{figure(ratio)}x"]
        rows.append(cells)
    bars = [
        [
            f"{what}, against obstore alone",
            f"≤ {_BAR}x",
            f"{figure(found)}x",
            "yes" if found <= _BAR else "no",
        ]
        for what in ("save", "load")
        for found in [results.ratio(what, OURS, LIMIT)]
    ]
    head = ["", "save, ms", "to the limit", "load, ms", "to the limit"]
    rounds = len(next(iter(results.seconds.values())))
    count = (
        f"{results.size / 1e6:,.0f} MB in {results.tensors} tensors, on {results.server}; "
        f"medians of {rounds} rounds; tensorkeep checks every digest:\n"
    )
    return "\n".join([count, table(head, rows), table(["the bar", "", "measured", "met"], bars)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--write", action="store_true", help="rewrite the tables of README.md")
    asked = parser.parse_args()
    server = start()
    try:
        parts = []
        for count in (16, 300):
            arrays = arrays_of(count, asked.megabytes << 20)
            size = sum(array.nbytes for array in arrays.values())
            results = Results(server.name, size, count)
            measure(results, arrays, peers(server.url, size), asked.rounds)
            parts.append(markdown(results))
        text = "\n".join(parts)
        print(text)
        if asked.write:
            README.write_text(
                replace(README.read_text(encoding="utf-8"), "objects", text), encoding="utf-8"
            )
    finally:
        server.process.terminate()
        server.process.wait()
        shutil.rmtree(server.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
