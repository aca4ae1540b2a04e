"""Results made ahead of time by threads, and taken in order.

The consumer's thread draws the tasks and hands them out through one queue; a lock per task tells it
that the result is there. That costs some 10 us a result, where a pool of futures takes twice as
long. The threads are daemons, so that a task that hangs does not keep the interpreter from ending.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from tensorkeep.errors import ArgumentError, ClosedError

T = TypeVar("T")
R = TypeVar("R")

_PATIENCE = 1.0  # seconds that closing waits for what is being made just then


def ahead(
    make: Callable[[T], R], tasks: Iterable[T], *, prefetch: int, workers: int
) -> Generator[R, None, None]:
    """Give what `make` makes of each task, in order, made ahead by threads.

    An error is raised when its turn comes, be it from `make` or from `tasks`, and ends the stream.
    Closing the stream, dropping it and Ctrl-C cancel what has not begun, wait a second at most for
    what has, and leave no thread behind. A forked process cannot go on with it, since threads are
    not forked along, and is told so.

    Args:
        make: called from several threads at once.
        tasks: drawn in the caller's thread, `prefetch` of them before they are needed.
        prefetch: how many results at most are being made, or wait, beyond the one taken last; 0
            to make each in the caller's thread when it is asked for.
        workers: how many threads make them.

    Raises:
        ArgumentError: `prefetch` is below 0 or `workers` below 1.
        ClosedError: another process goes on with it.

    >>> list(ahead(abs, [3, -1, 2], prefetch=2, workers=2))
    [3, 1, 2]
    """
    if prefetch < 0 or workers < 1:
        raise ArgumentError(
            f"prefetch={prefetch} and workers={workers} were given",
            cure="prefetch is 0 or more, and workers 1 or more.",
        )
    return _ahead(make, iter(tasks), prefetch, workers) if prefetch else _at_once(make, tasks)


def _at_once(make: Callable[[T], R], tasks: Iterable[T]) -> Generator[R, None, None]:
    for task in tasks:
        yield make(task)


def _ahead(
    make: Callable[[T], R], tasks: Iterator[T], prefetch: int, workers: int
) -> Generator[R, None, None]:
    pid = os.getpid()
    helpers = _Helpers(make, min(prefetch, workers))
    waiting: deque[_Result[T, R]] = deque()
    drawing = True
    try:
        while True:
            while drawing and len(waiting) < prefetch:
                drawing = _draw(tasks, waiting, helpers)
            if not waiting:
                return
            waiting[0].ready.acquire()
            result = waiting.popleft()
            if drawing:
                drawing = _draw(tasks, waiting, helpers)
            yield result.take()
            del result
            if os.getpid() != pid:
                raise ClosedError(
                    "a stream of batches was begun in another process, whose threads make them",
                    cure="Begin it anew after the fork.",
                )
    finally:
        helpers.close()


class _Result(Generic[T, R]):
    """What a thread makes of a task, and whoever holds `ready` may take, once."""

    __slots__ = ("error", "ready", "task", "value")

    value: R

    def __init__(self, task: T) -> None:
        self.task = task
        self.error: BaseException | None = None
        self.ready = threading.Lock()
        self.ready.acquire()

    def take(self) -> R:
        if self.error is None:
            value = self.value
            del self.value  # or it would live on beside whoever took it
            return value
        error, self.error = self.error, None  # which refers to this, through its traceback
        try:
            raise error
        finally:
            del error


def _draw(tasks: Iterator[T], waiting: deque[_Result[T, R]], helpers: _Helpers[T, R]) -> bool:
    """Hand out the next task; say whether there may be more."""
    try:
        result: _Result[T, R] = _Result(next(tasks))
    except StopIteration:
        return False
    except Exception as error:  # its turn comes after the tasks before it
        failed: _Result[T, R] = _Result.__new__(_Result)
        failed.error = error
        failed.ready = threading.Lock()
        waiting.append(failed)
        return False
    waiting.append(result)
    helpers.queue.put(result)
    helpers.reinforce()
    return True


class _Helpers(Generic[T, R]):
    """Threads that are started as tasks come, and sent home once, at exit at the latest."""

    def __init__(self, make: Callable[[T], R], most: int) -> None:
        self.queue: SimpleQueue[_Result[T, R] | None] = SimpleQueue()
        self._make = make
        self._most = most
        self._threads: list[threading.Thread] = []
        self.close = weakref.finalize(self, _send_home, self.queue, self._threads)

    def reinforce(self) -> None:
        if len(self._threads) < self._most:
            thread = threading.Thread(
                target=_work, args=(self._make, self.queue), name="tensorkeep data", daemon=True
            )
            thread.start()
            self._threads.append(thread)


def _work(make: Callable[[T], R], queue: SimpleQueue[_Result[T, R] | None]) -> None:
    while (result := queue.get()) is not None:
        try:
            result.value = make(result.task)
        except BaseException as error:
            result.error = error
        result.ready.release()
        del result  # and with it what the consumer may have taken and dropped


def _send_home(queue: SimpleQueue[_Result[T, R] | None], threads: list[threading.Thread]) -> None:
    try:
        while True:
            queue.get_nowait()
    except Empty:
        pass
    for _ in threads:
        queue.put(None)
    until = time.monotonic() + _PATIENCE
    for thread in threads:
        if thread is not threading.current_thread():  # where a collection of garbage closes it
            thread.join(max(0.0, until - time.monotonic()))
