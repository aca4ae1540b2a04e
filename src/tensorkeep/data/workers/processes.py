"""Batches made by worker processes, for work that holds Python's lock, such as transforms.

A worker is a new interpreter, so that no thread or lock is copied into it. (A fork server would
save a tenth of its start, and leave a folder behind where its owner is killed.) It takes tasks over
a socket and leaves batches in memory that both share; the arrays handed out look at that memory,
which is used again once the last of them is gone.

Threads of this process wait for the workers, two for each, so that a worker finds the next task
there when it is done with one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import reprlib
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, Self, TypeVar

from tensorkeep.data.dataset import Batch
from tensorkeep.data.workers import threads, transfer
from tensorkeep.data.workers.serving import Failed, Order, serve
from tensorkeep.data.workers.slots import Slots
from tensorkeep.errors import ArgumentError, ClosedError, SampleError
from tensorkeep.spawning import how_ended, start

T = TypeVar("T")

_DEPTH = 2  # tasks that a worker has at once: one in work, one waiting
_PATIENCE = 1.0  # seconds that closing waits for what is being made just then
_CONTEXT = multiprocessing.get_context("spawn")


class Processes(Generic[T]):
    """Worker processes that stay, and make batches of tasks. Threads may share them.

    A worker that dies ends the stream with an error that says so, and is replaced when the next
    stream begins. A script starts it under `if __name__ == "__main__":`, as everything that starts
    processes.

    Args:
        make: makes a batch of a task, in a worker; pickled once, with all that it refers to.
        workers: how many processes.
        describe: says in messages which task it is.

    Raises:
        ArgumentError: `make` cannot be pickled, or there are no workers.
    """

    def __init__(
        self,
        make: Callable[[T], Any],
        workers: int,
        *,
        describe: Callable[[T], str] = reprlib.repr,
    ) -> None:
        if workers < 1:
            raise ArgumentError(f"workers={workers} was given", cure="1 or more can work.")
        self._make = _pickled(make, "what makes the batches")
        self._describe = describe
        self._choosing = threading.Lock()
        self._pid = os.getpid()
        self._workers: list[_Worker] = []
        self._end = weakref.finalize(self, _end, self._workers, self._pid)
        try:
            for _ in range(workers):
                self._workers.append(_Worker(self._make))
        except BaseException:
            self.close()
            raise

    def __call__(self, task: T) -> Batch:
        """Have a worker make one batch, the one that has the least to do.

        Raises:
            ArgumentError: the task cannot be pickled.
            SampleError: the worker died.
            StoreError: the memory that it filled cannot be mapped.
            ClosedError: these were closed, or belong to another process.
            Exception: what `make` raised; a note has the worker's traceback.
        """
        pickled = _pickled(task, "a task")
        worker = self._least_busy()
        try:
            return worker.make(pickled)
        except _DiedError:
            self._check_open()
            raise worker.obituary(self._describe(task)) from None
        finally:
            with self._choosing:
                worker.tasks -= 1

    def ahead(
        self, tasks: Iterable[T], *, prefetch: int, then: Callable[[Batch], Any] | None = None
    ) -> Generator[Any, None, None]:
        """Give the batches of tasks, in order, made ahead; see `threads.ahead`.

        All workers have something to do where `prefetch` is at least their number, and never
        wait for tasks where it is twice that.

        Args:
            tasks: pickled one by one.
            prefetch: how many batches at most are being made, or wait, beyond the one taken last.
            then: called with each batch in the thread that waited for it, such as to place it.
        """
        self._check_open()
        with self._choosing:
            self._check_open()
            for i, worker in enumerate(self._workers):
                if worker.dead:
                    worker.end(time.monotonic())
                    self._workers[i] = _Worker(self._make)

        def make(task: T) -> Any:
            return self(task) if then is None else then(self(task))

        return threads.ahead(make, tasks, prefetch=prefetch, workers=_DEPTH * len(self._workers))

    def _least_busy(self) -> _Worker:
        self._check_open()
        with self._choosing:
            self._check_open()
            living = [worker for worker in self._workers if not worker.dead]
            if not living:
                self._workers[0].end(time.monotonic())
                self._workers[0] = _Worker(self._make)
                living = self._workers[:1]
            chosen = min(living, key=lambda worker: worker.tasks)
            chosen.tasks += 1
            return chosen

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise ClosedError(
                "worker processes belong to the process that started them, not to its forks",
                cure="Start others after the fork.",
            )
        if not self._end.alive:
            raise ClosedError("worker processes were closed before this batch was made")

    def close(self) -> None:
        """End the workers: what is being made has a second to be done. Batches stay good."""
        if os.getpid() != self._pid:
            self._end()  # without the lock, which a thread that was not forked may hold
            return
        with self._choosing:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


class _DiedError(Exception):
    """The worker is not there to answer."""


class _Worker:
    """A worker process, from the side of whoever uses it."""

    def __init__(self, make: bytes) -> None:
        self.tasks = 0  # how many it has; kept by whoever shares tasks out
        self.dead = False
        self._greeting: bytes | None = make  # sent by the first task, in a thread: it may be large
        self._answered = False
        self._ended = False
        self._code: int | None = None
        self._sending = threading.Lock()
        self._ending = threading.Lock()
        self._last = threading.Lock()  # free once the answer to the order before has come
        self._slots = Slots()
        self._link, theirs = socket.socketpair()
        try:
            self._process = _CONTEXT.Process(
                target=serve, args=(theirs,), name="tensorkeep data", daemon=True
            )
            start(self._process, "Have threads make the batches, with processes=False.")
        except BaseException:
            self._link.close()
            raise
        finally:
            theirs.close()

    def make(self, task: bytes) -> Batch:
        """Send a task and wait for its batch; answers come in the order of the tasks.

        Raises:
            _DiedError: the worker died, and is marked so.
            Exception: what was raised in the worker.
        """
        with self._sending:
            before, mine = self._last, threading.Lock()
            mine.acquire()
            self._last = mine
            slot = self._slots.reserve()
            try:
                sent = self._send(Order(slot, task))
            except BaseException:  # Ctrl-C in the midst of it
                self._give_up()
                mine.release()
                raise
        try:
            before.acquire()
            if self.dead or not sent:
                raise EOFError
            answer, descriptor = transfer.receive(self._link)
        except BaseException as error:
            self._give_up()
            if isinstance(error, EOFError | OSError):
                raise _DiedError from error
            raise
        finally:
            mine.release()
        self._answered = True
        if isinstance(answer, Failed):
            self._slots.release(slot)
            raise _unpickled(answer)
        return self._slots.take(slot, answer, descriptor)

    def _send(self, order: Order) -> bool:
        """Send an order; say whether somebody is there to take it."""
        try:
            if self._greeting is not None:
                transfer.send(self._link, self._greeting)
                self._greeting = None
            transfer.send(self._link, order)
        except OSError:  # what it answered before may be there yet
            return False
        return True

    def _give_up(self) -> None:
        self.dead = True
        self.hang_up()

    def hang_up(self) -> None:
        """Have the worker end when it is done, and whoever waits for it wait no longer."""
        with contextlib.suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)

    def obituary(self, task: str) -> SampleError:
        """Say how it ended."""
        with self._ending:
            self._wait(_PATIENCE)
        code = self._code
        cure = "Have it made in this process, with processes=False, to see what happens."
        if code == -signal.SIGKILL:
            cure = "Systems do that when memory runs out: have fewer workers or smaller batches."
        elif code is not None and code >= 0 and not self._answered:
            cure = (
                "What it printed says why. A script has to start worker processes under "
                'if __name__ == "__main__":'
            )
        return SampleError(f"a worker process {how_ended(code)} while it made {task}", cure=cure)

    def end(self, until: float) -> None:
        """End the process: by itself up to a moment of time.monotonic(), by force then."""
        self.hang_up()
        with self._ending:
            if self._ended:
                return
            self._wait(max(0.0, until - time.monotonic()))
            if self._code is None:
                self._process.kill()
                self._wait(_PATIENCE)
            with contextlib.suppress(ValueError):  # it outlives even that
                self._process.close()
            self._ended = True
            self._link.close()

    def _wait(self, seconds: float) -> None:
        if not self._ended:
            self._process.join(seconds)
            self._code = self._process.exitcode

    def forget(self) -> None:
        """Let go of it in a fork of the process that owns it."""
        self._link.close()


def _end(workers: list[_Worker], pid: int) -> None:
    if os.getpid() != pid:
        for worker in workers:
            worker.forget()
        return
    for worker in workers:
        worker.hang_up()
    until = time.monotonic() + _PATIENCE
    for worker in workers:
        worker.end(until)


def _pickled(value: object, what: str) -> bytes:
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:  # whatever a __reduce__ raises
        raise ArgumentError(
            f"{what} cannot be sent to a worker process: {error}",
            cure="Functions have to stand at the top of a module, not be lambdas or local ones; "
            "or have threads make the batches, with processes=False.",
        ) from error


def _unpickled(failed: Failed) -> BaseException:
    error: BaseException = pickle.loads(failed.error)
    error.add_note(failed.trace)
    return error
