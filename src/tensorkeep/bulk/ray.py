"""Items as tasks of a Ray cluster: that of RAY_ADDRESS, or one that is started on this machine."""

from __future__ import annotations

import os
import re
import socket
from typing import Any

from tensorkeep.bulk.attempts import Answer, Task, attempt, crashed, unable
from tensorkeep.bulk.engine import Engine, cores
from tensorkeep.bulk.items import Item
from tensorkeep.errors import StoreError
from tensorkeep.optional import require

_PATIENCE = 10.0  # seconds to wait for the cluster


class Ray(Engine):
    """One Ray task for each attempt, of one CPU.

    Ray does not repeat them by itself: it cannot tell damage from a failure that may pass.

    Args:
        task: importable on all nodes, which have tensorkeep installed.
        jobs: how many at once; 0 for as many as the cluster has CPUs.

    Raises:
        MissingDependencyError: ray is not installed.
        StoreError: the cluster does not answer.
    """

    far = True

    def __init__(self, task: Task, jobs: int) -> None:
        cure = "Install it with pip install 'tensorkeep[ray]'."
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        ray = self._ray = require("ray", "a Ray cluster needs the package ray", cure)
        self._own = not ray.is_initialized()
        if self._own:
            _connect(ray, jobs)
        self.room = jobs or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._attempt = ray.remote(attempt).options(max_retries=0, num_cpus=1)
        self._task = ray.put(task)
        self._numbers: dict[Any, int] = {}

    def start(self, number: int, item: Item) -> None:
        self._numbers[self._attempt.remote(self._task, item)] = number

    def finished(self, patience: float | None) -> list[tuple[int, Answer]]:
        running = list(self._numbers)
        ready, _ = self._ray.wait(running, num_returns=1, timeout=patience)
        if ready:
            ready, _ = self._ray.wait(running, num_returns=len(running), timeout=0)
        return [(self._numbers.pop(ref), self._answer(ref)) for ref in ready]

    def _answer(self, ref: Any) -> Answer:
        errors = self._ray.exceptions
        try:
            answer: Answer = self._ray.get(ref)
        except errors.RayTaskError as error:  # not of the task, which `attempt` answers for
            return unable(error.cause if isinstance(error.cause, Exception) else error)
        except errors.OutOfMemoryError:
            cure = "Have fewer jobs, or nodes of more memory."
            return crashed("a worker process ran out of memory while it was at this", cure)
        except errors.RayError as error:
            kind = type(error).__name__
            return crashed(f"a worker process was lost while it was at this ({kind})")
        return answer

    def close(self) -> None:
        for ref in self._numbers:
            self._ray.cancel(ref, force=True)
        self._numbers.clear()
        if self._own:
            self._ray.shutdown()


def _connect(ray: Any, jobs: int) -> None:
    address = os.environ.get("RAY_ADDRESS", "")
    where: dict[str, Any] = {"address": address}
    if address in ("", "local"):
        where = {"address": "local", "num_cpus": jobs or cores(), "include_dashboard": False}
    try:
        _probe(address)
        ray.init(**where, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        told = str(error).strip().partition("\n")[0]
        raise StoreError(
            f"the Ray cluster does not answer: {told}",
            where=address,
            cure="Look at RAY_ADDRESS." if address else "",
        ) from error


def _probe(address: str) -> None:
    """See whether somebody listens at HOST:PORT, which Ray itself would try for minutes."""
    found = re.fullmatch(r"(?:ray://)?([^/]+):([0-9]{1,5})", address)
    if found:
        socket.create_connection((found[1].strip("[]"), int(found[2])), _PATIENCE).close()
