"""Several processes of one process group, forked from one that has imported PyTorch."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.frameworks.sharded"])


class Ranks:
    """The processes that run one function: what each gave, or how it ended."""

    def __init__(self, function: Callable[..., Any], ranks: int, folder: Path, *args: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._results = [folder / f"result-{uuid.uuid4().hex}.pt" for _ in range(ranks)]
        meeting = folder / f".meeting-{uuid.uuid4().hex}"
        self.processes = [
            _CONTEXT.Process(
                target=_run, args=(function, rank, ranks, str(meeting), str(result), args)
            )
            for rank, result in enumerate(self._results)
        ]
        for process in self.processes:
            process.start()

    def kill(self, rank: int) -> None:
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    def results(self, timeout: float = 60.0) -> list[Any]:
        """Wait for all; the result of a rank that was killed is None, of one that failed text."""
        import torch

        for process in self.processes:
            process.join(timeout)
            if process.is_alive():
                for each in self.processes:
                    each.kill()
                raise AssertionError("a rank did not end")
        return [
            torch.load(result, weights_only=False) if result.exists() else None
            for result in self._results
        ]


def run(function: Callable[..., Any], ranks: int, folder: Path, *args: Any) -> list[Any]:
    """Run a function as all ranks of a group; each has to return."""
    found = Ranks(function, ranks, folder, *args).results()
    for rank, result in enumerate(found):
        assert isinstance(result, dict), f"rank {rank}: {result}"
    return [result["value"] for result in found]


def _run(
    function: Callable[..., Any], rank: int, ranks: int, meeting: str, result: str, args: Any
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            rank=rank,
            world_size=ranks,
            store=dist.FileStore(meeting, ranks),
            timeout=timedelta(seconds=60),
        )
        found: Any = {"value": function(rank, ranks, *args)}
    except BaseException:
        found = traceback.format_exc()
    torch.save(found, result)
    os._exit(0)  # a group of which a process has ended cannot be taken down in order
