"""Items in worker processes, each a new interpreter that does one item after the other.

A worker that dies (a segmentation fault in some library, or the system when memory runs out) takes
with it nothing but the item that it was at; the next item gets a fresh process.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import pickle
import signal
import time
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import connection
from multiprocessing.connection import Connection

from tensorkeep.bulk.attempts import Answer, Task, attempt, crashed
from tensorkeep.bulk.engine import Engine
from tensorkeep.bulk.items import Item
from tensorkeep.errors import ArgumentError, StoreError
from tensorkeep.hidden import reason
from tensorkeep.spawning import end_with_parent, how_ended, start

_CONTEXT = multiprocessing.get_context("spawn")
_PATIENCE = 1.0  # seconds until a worker that was told to end is made to
_READY = b""


class Processes(Engine):
    """A worker process for each item that is in work; they stay until `close`.

    Raises:
        ArgumentError: the task is no function that another process can import.
    """

    def __init__(self, task: Task, jobs: int) -> None:
        self.room = jobs
        self._task = _pickled(task)
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, int]] = {}
        self._begun = False  # whether any worker has ever come up

    def start(self, number: int, item: Item) -> None:
        try:
            worker = self._idle.pop() if self._idle else _Worker(self._task)
        except OSError as error:
            problem = f"worker processes cannot be started: {reason(error)}"
            raise StoreError(problem, cure="Have fewer jobs.") from error
        self._busy[worker.link] = worker, number
        worker.send(item)

    def finished(self, patience: float | None) -> list[tuple[int, Answer]]:
        until = None if patience is None else time.monotonic() + patience
        answers: list[tuple[int, Answer]] = []
        while not answers:
            left = None if until is None else max(0.0, until - time.monotonic())
            ready = connection.wait(list(self._busy), left)
            if not ready:
                break
            for link in ready:
                assert isinstance(link, Connection)
                answers += self._take(link)
        return answers

    def _take(self, link: Connection) -> list[tuple[int, Answer]]:
        worker, number = self._busy[link]
        try:
            told = link.recv_bytes()
        except (EOFError, OSError):
            del self._busy[link]
            return [(number, self._lost(worker))]
        if told == _READY:
            self._begun = True
            return []
        del self._busy[link]
        self._idle.append(worker)
        return [(number, json.loads(told))]

    def _lost(self, worker: _Worker) -> Answer:
        how, cure = worker.obituary()
        worker.end()
        if not self._begun:
            raise StoreError(f"worker processes cannot be started: one {how}", cure=_SCRIPT)
        return crashed(f"a worker process {how} while it was at this", cure)

    def close(self) -> None:
        busy = [worker for worker, _ in self._busy.values()]
        for worker in (*busy, *self._idle):
            worker.hang_up()
        for worker in busy:
            worker.stop()
        for worker in (*busy, *self._idle):
            worker.end()
        self._busy.clear()
        self._idle.clear()


_SCRIPT = (
    "What it printed says why. The task has to be importable, and a script has to start the run "
    'under if __name__ == "__main__":'
)
_MEMORY = "Systems do that when memory runs out: have fewer jobs."


class _Worker:
    """A worker process, from the side of whoever uses it."""

    def __init__(self, task: bytes) -> None:
        self.link, theirs = _CONTEXT.Pipe()
        try:
            self._process = _CONTEXT.Process(
                target=_serve, args=(theirs, task), name="tensorkeep bulk", daemon=True
            )
            start(self._process, "Use one job.")
        except BaseException:
            self.link.close()
            raise
        finally:
            theirs.close()

    def send(self, item: Item) -> None:
        """Send an item; that nobody is there to take it shows when its answer is read."""
        with contextlib.suppress(OSError):
            self.link.send_bytes(json.dumps(asdict(item)).encode())

    def obituary(self) -> tuple[str, str]:
        """Say how it ended, and what may help."""
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        return how_ended(code), _MEMORY if code == -signal.SIGKILL else ""

    def hang_up(self) -> None:
        """Have it end when it is done."""
        self.link.close()

    def stop(self) -> None:
        """Have it end at once."""
        with contextlib.suppress(OSError):
            self._process.terminate()

    def end(self) -> None:
        """Wait for its end, and force it where that takes long."""
        self.hang_up()
        self._process.join(_PATIENCE)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()


def _pickled(task: Task) -> bytes:
    try:
        return pickle.dumps(task, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever a __reduce__ raises
        raise ArgumentError(
            f"the task cannot be sent to a worker process: {error}",
            cure="It has to be a function at the top of a module, or a partial of one.",
        ) from error


# --- in the worker ------------------------------------------------------------------------------


def _serve(link: Connection, pickled: bytes) -> None:
    """Do the items that come, until nobody sends any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])
    end_with_parent()
    task: Callable[..., Answer] = pickle.loads(pickled)
    link.send_bytes(_READY)
    with contextlib.suppress(EOFError, OSError):
        while True:
            item = Item(**json.loads(link.recv_bytes()))
            link.send_bytes(json.dumps(attempt(task, item)).encode())
