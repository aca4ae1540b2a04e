"""PyTorch's distributed checkpoint: our writer and reader against its own, on a local disk.

    python -m benchmarks.distributed --size 1.0 --rounds 7

Each world size is processes of one gloo group, which save and load the same sharded state in turn
by every peer, in another order in each round. All but the last synchronize their files before a
save ends; ours computes and checks checksums, DCP's have none. A load reads what the page cache
holds. Beside each median ratio stand the quartiles of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.tables import figure, table

OURS = "tensorkeep"
THEIRS = ("DCP", "DCP, thread_count=2", "DCP, sync_files=False")
_TENSORS = 32
Seconds = dict[str, dict[str, list[float]]]  # by what was done, and by whom


class Peer(NamedTuple):
    writer: Callable[[str], Any]
    reader: Callable[[str], Any]


def peers() -> dict[str, Peer]:
    import torch.distributed.checkpoint as dcp

    import tensorkeep.distributed.torch as tkd

    def theirs(**options: Any) -> Peer:
        return Peer(partial(dcp.FileSystemWriter, **options), dcp.FileSystemReader)

    options: list[dict[str, Any]] = [{}, {"thread_count": 2}, {"sync_files": False}]
    known = {name: theirs(**given) for name, given in zip(THEIRS, options, strict=True)}
    return {OURS: Peer(tkd.Writer, tkd.Reader), **known}


def rank(number: int, ranks: int, port: int, folder: str, size: int, rounds: int) -> None:
    """Do as one rank: the first writes down what all took."""
    import torch
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # as torchrun has it: idle threads of other ranks take the cores
    meeting = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=meeting, rank=number, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    rows = size // _TENSORS // ranks // 4096
    torch.manual_seed(number)

    def state(fill: bool) -> dict[str, Any]:
        make = torch.randn if fill else torch.zeros
        parts = {f"layers.{i}.weight": make(rows, 1024) for i in range(_TENSORS)}
        return {
            "model": {k: DTensor.from_local(v, mesh, [Shard(0)]) for k, v in parts.items()},
            "step": 7,
        }

    saved, found = state(True), state(False)
    seconds: Seconds = {"save": {}, "load": {}}
    known = peers()
    for turn in range(rounds + 1):
        for name in random.Random(turn).sample(list(known), len(known)):
            peer, path = known[name], f"{folder}/{turn}-{list(known).index(name)}/step-1"
            if number == 0:
                os.makedirs(os.path.dirname(path))
            for what in seconds:
                for tensor in found["model"].values():
                    tensor.to_local().zero_()
                dist.barrier()
                began = time.perf_counter()
                if what == "save":
                    dcp.save(saved, checkpoint_id=path, storage_writer=peer.writer(path))
                else:
                    dcp.load(found, checkpoint_id=path, storage_reader=peer.reader(path))
                dist.barrier()
                if turn:  # the first is for warming up
                    took = time.perf_counter() - began
                    seconds[what].setdefault(name, []).append(took)
            for key, tensor in saved["model"].items():
                assert torch.equal(tensor.to_local(), found["model"][key].to_local()), key
            if number == 0:
                shutil.rmtree(os.path.dirname(path))
                os.sync()
            dist.barrier()
    if number == 0:
        torch.save(seconds, f"{folder}/seconds.pt")
    dist.barrier()
    os._exit(0)


def run(ranks: int, size: int, rounds: int, folder: Path, port: int) -> Seconds:
    import torch

    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=rank, args=(number, ranks, port, str(folder), size, rounds))
        for number in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    found: Seconds = torch.load(folder / "seconds.pt")
    return found


def markdown(found: Seconds, ranks: int, size: int, rounds: int) -> str:
    """Give one world size's section: medians, and the quartiles of the rounds' ratios."""
    lines = [f"{ranks} rank{'s' * (ranks > 1)}, {size / 1e9:.2f} GB in all; {rounds} rounds.\n"]
    rows = []
    for name in (OURS, *THEIRS):
        cells = [name]
        for seconds in found.values():
            times = [
                theirs / ours for theirs, ours in zip(seconds[name], seconds[OURS], strict=True)
            ]
            low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
            cells.append(figure(statistics.median(seconds[name]) * 1e3))
            spread = f" ({figure(low)}-{figure(high)})" if name != OURS else ""
            cells.append(f"{figure(middle)}x{spread}")
        rows.append(cells)
    lines.append(table(["", "save, ms", "of ours", "load, ms", "of ours"], rows))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=float, default=1.0, help="GiB of all ranks together")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder otherwise")
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2])
    given = parser.parse_args()
    size = int(given.size * (1 << 30))
    for number in given.ranks:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            port = 20_000 + os.getpid() % 20_000 + number
            found = run(number, size, given.rounds, Path(folder), port)
        print(markdown(found, number, size, given.rounds), flush=True)


if __name__ == "__main__":
    main()
