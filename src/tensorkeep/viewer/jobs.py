"""Long work in the background: started by whoever asks first, told to all who ask again."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from tensorkeep.api import ProgressReport
from tensorkeep.errors import StoreError
from tensorkeep.viewer.answers import Job
from tensorkeep.viewer.problems import told
from tensorkeep.viewer.workers import Workers

Work = Callable[[ProgressReport], Any]

_THREADS = 2
_KEPT = 32  # results
_WAITING = 256
_REMEMBERED = 2.0  # seconds that a failure is told before asking again means trying again
_UNASKED = 300.0  # seconds; pages ask every second or so, those in the background every minute


class StoppedError(BaseException):
    """Raised in a job's work to end it; no handler of errors in that work is to catch it."""


class _Running:
    """A job, as its thread and those who ask see it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.asked = clock()
        self.stopped = False
        self.done, self.total = 0, 0
        self.finished = False
        self.told: float | None = None  # when somebody was first told that it is finished
        self.problem = ""
        self.result: Any = None

    def report(self, done: int, total: int) -> None:
        if self.stopped or self._clock() - self.asked > _UNASKED:
            raise StoppedError
        self.done, self.total = done, total

    def end(self, result: Any = None, problem: str = "") -> None:
        self.result, self.problem = result, problem
        self.finished = True


class Jobs:
    """The jobs of a server, each known by its key.

    >>> jobs = Jobs()
    >>> while not (job := jobs.ask("six", lambda report: 6)).finished:
    ...     time.sleep(0.001)
    >>> job.result
    6
    >>> jobs.close()
    True
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._workers = Workers(_THREADS, "tensorkeep-job")
        self._running: OrderedDict[Hashable, _Running] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, key: Hashable, work: Work, *, kept: float = math.inf) -> Job:
        """Tell how far a job is; start it where nobody has asked for it yet.

        Args:
            key: what tells it from others.
            work: does it and gives the result; what it is given is called as it goes on, and
                raises where it is to stop.
            kept: seconds after its result was first told before asking means doing it again.

        Raises:
            StoreError: too many wait already.
        """
        with self._lock:
            running = self._running.get(key)
            if running is not None and self._is_over(running, kept):
                running = None
            if running is None:
                running = self._start(key, work)
            running.asked = self._clock()
            self._running.move_to_end(key)
        if not running.finished:
            return Job(False, running.done, running.total)
        if running.told is None:
            running.told = self._clock()
        return Job(True, running.total, running.total, running.problem, running.result)

    def _is_over(self, running: _Running, kept: float) -> bool:
        """Whether it ended so long ago that it is to be done again."""
        # Since it was told, not since it ended: a page in the background asks once a minute.
        if running.told is None:
            return False
        return self._clock() - running.told > (_REMEMBERED if running.problem else kept)

    def _start(self, key: Hashable, work: Work) -> _Running:
        unfinished = sum(not running.finished for running in self._running.values())
        if unfinished >= _WAITING:
            raise StoreError(f"{unfinished} jobs wait already", cure="Wait until some are done.")
        running = self._running[key] = _Running(self._clock)
        self._workers.start(lambda: self._run(key, running, work))
        return running

    def _run(self, key: Hashable, running: _Running, work: Work) -> None:
        try:
            running.report(0, 0)
            running.end(result=work(running.report))
        except StoppedError:
            running.end(problem="it was stopped")
        except Exception as error:
            running.end(problem=told(error).problem)
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        finished = [key for key, running in self._running.items() if running.finished]
        for key in finished[: max(len(finished) - _KEPT, 0)]:
            del self._running[key]

    def close(self, patience: float = 5.0) -> bool:
        """Stop all jobs; False where one does not end in time, as in a read that hangs."""
        with self._lock:
            for running in self._running.values():
                running.stopped = True
        return self._workers.close(patience)
