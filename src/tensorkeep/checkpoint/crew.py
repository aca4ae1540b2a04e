"""A few threads that wait for work.

They are started before they are needed: the interpreter starts none while it ends, and a save that
goes on in the background has to finish even then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from queue import SimpleQueue

Task = Callable[[], None]


class Crew:
    """Threads that share tasks with whoever asks them to.

    >>> done = []
    >>> Crew(1).run([lambda: done.append(1), lambda: done.append(2)])
    >>> sorted(done)
    [1, 2]
    """

    def __init__(self, helpers: int) -> None:
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(helpers)]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            task()
            del task  # and with it all that it looks at, which may be the caller's arrays

    def run(self, tasks: Iterable[Task]) -> None:
        """Run tasks, the caller taking part, and return once all are done.

        Raises:
            BaseException: the first that one of them raised; the rest are then left out.
        """
        left = iter(list(tasks))
        change = threading.Condition()
        active = 0
        over = False
        failures: list[BaseException] = []

        def take() -> Task | None:
            nonlocal over
            with change:
                task = None if over else next(left, None)
                over = task is None
                return task

        def drain() -> None:
            nonlocal active, over
            with change:
                if over:
                    return
                active += 1
            try:
                while (task := take()) is not None:
                    task()
            except BaseException as error:
                with change:
                    failures.append(error)
                    over = True
            finally:
                with change:
                    active -= 1
                    change.notify_all()

        for _ in self._threads:
            self._queue.put(drain)
        drain()
        with change:
            while active:
                change.wait()
        for error in failures[:1]:
            raise error

    def start(self, task: Task) -> None:
        """Have one of the threads run a task; whoever asks for it goes on at once."""
        self._queue.put(task)

    def close(self) -> None:
        """Send the threads home."""
        for _ in self._threads:
            self._queue.put(None)
