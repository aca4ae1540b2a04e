"""Items as futures of a Dask cluster: that of DASK_SCHEDULER_ADDRESS, or one on this machine."""

from __future__ import annotations

import contextlib
import os
import queue
from typing import Any

from tensorkeep.bulk.attempts import Answer, Task, attempt, crashed, unable
from tensorkeep.bulk.engine import Engine, cores
from tensorkeep.bulk.items import Item
from tensorkeep.errors import StoreError
from tensorkeep.optional import require

_PATIENCE = 10.0  # seconds to wait for a worker
_LOOK = 0.5


class Dask(Engine):
    """One future for each attempt.

    Args:
        task: importable on all workers, which have tensorkeep installed.
        jobs: how many at once; 0 for as many as the workers have threads.

    Raises:
        MissingDependencyError: dask.distributed is not installed.
        StoreError: the scheduler does not answer, or has no workers.
    """

    far = True

    def __init__(self, task: Task, jobs: int) -> None:
        cure = "Install it with pip install 'tensorkeep[dask]'."
        need = "a Dask cluster needs the package distributed"
        self._dask = require("distributed", need, cure)
        self._task = task
        self._futures: dict[int, Any] = {}
        self._done: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._open = contextlib.ExitStack()
        try:
            address = os.environ.get("DASK_SCHEDULER_ADDRESS", "") or self._cluster(jobs)
            self._client = self._open.enter_context(_client(self._dask, address))
            self._most = jobs or self._threads()
        except BaseException:
            self._open.close()
            raise
        self._shaken = False  # a worker was lost, and may not be back

    @property
    def room(self) -> int:  # type: ignore[override]
        """As many as have a worker now: what waits at one that dies is lost with it."""
        if not self._shaken:
            return self._most
        threads = self._threads()
        self._shaken = threads < self._most
        return min(threads, self._most)

    def _threads(self) -> int:
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def _cluster(self, jobs: int) -> Any:
        config = require("dask", "a Dask cluster needs the package dask", "")
        # A task that ends its worker would otherwise be given to three others first.
        self._open.enter_context(config.config.set({"distributed.scheduler.allowed-failures": 0}))
        cluster = self._dask.LocalCluster(
            n_workers=jobs or cores(),
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs="CRITICAL",
        )
        return self._open.enter_context(cluster)

    def start(self, number: int, item: Item) -> None:
        future = self._client.submit(attempt, self._task, item, pure=False, retries=0)
        self._futures[number] = future
        future.add_done_callback(lambda _: self._done.put(number))

    def finished(self, patience: float | None) -> list[tuple[int, Answer]]:
        answers = []
        if self._shaken:  # look from time to time whether there is more room
            patience = min(patience or _LOOK, _LOOK)
        with contextlib.suppress(queue.Empty):
            number = self._done.get(timeout=patience)
            while True:
                if (future := self._futures.pop(number, None)) is not None:
                    answers.append((number, self._answer(future)))
                number = self._done.get_nowait()
        return answers

    def _answer(self, future: Any) -> Answer:
        try:
            answer: Answer = future.result()
        except self._dask.KilledWorker:
            self._shaken = True
            return crashed("a worker process was lost while it was at this")
        except (OSError, self._dask.CancelledError) as error:  # the scheduler's own trouble
            return crashed(f"the cluster lost this: {error}")
        except Exception as error:  # it cannot be unpickled there, such as for want of a module
            return unable(error)
        return answer

    def close(self) -> None:
        with contextlib.suppress(Exception):  # whoever has gone away needs no cancelling
            self._client.cancel(list(self._futures.values()), force=True)
        self._futures.clear()
        self._open.close()


def _client(dask: Any, address: Any) -> Any:
    client = None
    try:
        client = dask.Client(address, set_as_default=False, timeout=_PATIENCE)
        client.wait_for_workers(1, timeout=_PATIENCE)
    except (OSError, TimeoutError, ValueError) as error:
        if client is not None:
            client.close()
        told = str(error).strip().partition("\n")[0] or "no answer in time"
        raise StoreError(
            f"the Dask cluster does not answer: {told}",
            where=address if isinstance(address, str) else "",
            cure="Look at DASK_SCHEDULER_ADDRESS, and that the cluster has workers.",
        ) from error
    return client
