"""Threads that work for the server and never keep Python from ending."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Workers:
    """A few threads, started when they are needed first.

    >>> workers = Workers(2, "example")
    >>> workers.start(lambda: 6 * 7).result()
    42
    >>> workers.close()
    True
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]
        self._tasks = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closed = False

    def start(self, task: Callable[[], Any]) -> Future[Any]:
        """Have a task done; one that comes after the end is cancelled at once."""
        future: Future[Any] = Future()
        with self._lock:
            if self._closed:
                future.cancel()
                return future
            self._tasks.put((future, task))
            if len(self._threads) < self._count:
                # A daemon: those of concurrent.futures are waited for when Python ends.
                thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def close(self, patience: float = 5.0) -> bool:
        """Drop what has not begun and wait for the rest; False where some of it goes on."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        until = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(until - time.monotonic(), 0.0))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (taken := self._tasks.get()) is not None:
            future, task = taken
            if self._closed:
                future.cancel()
            elif future.set_running_or_notify_cancel():
                try:
                    future.set_result(task())
                except BaseException as error:
                    future.set_exception(error)
            del taken, future, task  # what they hold is not to live until the next one comes
